"""Random operations against VectorForge and against the Python client's in-memory mode, compared step by step.

The in-memory mode (`QdrantClient(":memory:")`) is an independent implementation of Qdrant's semantics. Every operation
goes to it and to the server, over REST and gRPC in turns; answers must agree: ids, payloads, vectors, scores within float
tolerance, and whether the request is refused. The seed is printed first and repeats the whole run.

    python differential.py --ops 4000 --seed 7

Known deviations of the in-memory mode, and what is done about each:
- scores tied at the end of a page may be cut differently: points are compared by score there, not by id;
- `order_by` ties are unordered: compared as a multiset of (value, id) for complete listings;
- a facet lists values of every type, a server those of its index: facets are asked on a field of one type only;
- stored cosine vectors come back normalised in float32: compared within tolerance;
- it keeps no versions and sends no operation ids: not compared.

Deliberate deviations of VectorForge from Qdrant:
- a change of payloads or vectors by ids, one of which is absent: Qdrant changes the other points and answers 404, VectorForge
  answers 404 and changes nothing. Such requests go to the server alone, must be refused, and the full comparisons show
  that nothing changed.
- date ranges are not supported yet, and not drawn.
"""

import argparse
import collections
import math
import random
import sys
import time
import uuid
import warnings

import generate
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from server import Server

NAME = "differential"
TOLERANCE = 2e-4


class Mismatch(AssertionError):
    """The two sides disagree."""


def close(a, b) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def same_vector(a, b) -> bool:
    if a is None or b is None:
        return not a and not b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_vector(a[name], b[name]) for name in a)
    if isinstance(a, dict) or isinstance(b, dict):
        return False
    return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b))


def same_payload(a, b) -> bool:
    return (a or {}) == (b or {}) and repr_types(a or {}) == repr_types(b or {})


def repr_types(value):
    """JSON types alone, so that 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return {key: repr_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [repr_types(item) for item in value]
    return type(value).__name__


def compare_records(ours, theirs):
    if [str(point.id) for point in ours] != [str(point.id) for point in theirs]:
        raise Mismatch(f"ids\n  server {[p.id for p in ours]}\n  memory {[p.id for p in theirs]}")
    for a, b in zip(ours, theirs):
        compare_contents(a, b)


def compare_contents(a, b):
    if not same_payload(a.payload, b.payload):
        raise Mismatch(f"payload of {a.id}\n  server {a.payload}\n  memory {b.payload}")
    if not same_vector(a.vector, b.vector):
        raise Mismatch(f"vector of {a.id}\n  server {a.vector}\n  memory {b.vector}")


def compare_hits(ours, theirs):
    """Two rankings: equal scores by rank, equal ids except among scores tied with the last one or each other."""
    if len(ours) != len(theirs):
        raise Mismatch(f"{len(ours)} hits from the server, {len(theirs)} in memory: "
                       f"{[(p.id, p.score) for p in ours]} / {[(p.id, p.score) for p in theirs]}")
    for a, b in zip(ours, theirs):
        if not close(a.score, b.score):
            raise Mismatch(f"scores\n  server {[(p.id, p.score) for p in ours]}\n  memory {[(p.id, p.score) for p in theirs]}")
    by_id = {str(point.id): point for point in theirs}
    edges = {ours[0].score, ours[-1].score} if ours else set()
    for a in ours:
        b = by_id.get(str(a.id))
        if b is not None:
            if not close(a.score, b.score):
                raise Mismatch(f"score of {a.id}: server {a.score}, memory {b.score}")
            compare_contents(a, b)
        elif not any(close(a.score, edge) for edge in edges):
            raise Mismatch(f"{a.id} (score {a.score}) is missing in memory, and is no tie at the edge of the page")


class Run:
    """The two sides, the generator, and a count of what was tried."""

    def __init__(self, server: Server, seed: int):
        self.random = random.Random(seed)
        self.make = generate.Generator(self.random)
        self.server = server
        self.memory = QdrantClient(":memory:")
        self.tally = collections.Counter()
        self.refused = collections.Counter()
        self.matched = 0
        self.connect()
        self.recreate()

    def connect(self):
        rest = QdrantClient(url=self.server.url, timeout=300, check_compatibility=False)
        grpc = QdrantClient(url=self.server.url, grpc_port=self.server.grpc_port, prefer_grpc=True, timeout=300,
                            check_compatibility=False)
        self.doors = [("rest", rest), ("grpc", grpc)]

    def both(self, what, call):
        """Runs one call on both sides. An exception is an answer too: both must refuse, or neither."""
        door, client = self.random.choice(self.doors)
        self.last = f"{what} by {door}"
        ours, our_error = attempt(call, client)
        theirs, their_error = attempt(call, self.memory)
        if (our_error is None) != (their_error is None):
            raise Mismatch(f"refused by one side only\n  server: {our_error}\n  memory: {their_error!r}")
        if our_error is not None:
            if isinstance(our_error, UnexpectedResponse) and our_error.status_code >= 500:
                raise Mismatch(f"server error: {our_error}")
            self.refused[what] += 1
            return None
        return ours, theirs

    def change(self, what, call, ids, *request):
        """A write to points that must exist; see the deviations above."""
        present = {str(i) for i in self.make.existing}
        if ids is None or all(str(i) in present for i in ids):
            self.both(what, call)
            self.last += f" {request}"
            return
        door, client = self.random.choice(self.doors)
        self.last = f"{what} of an absent point by {door}, ids {ids}"
        if attempt(call, client)[1] is None:
            raise Mismatch(f"accepted although one of {ids} is absent")
        self.refused[what] += 1

    def look(self):
        """Tells the generator which points there are."""
        self.make.existing = [record.id for record in self.memory.scroll(NAME, limit=10_000, with_payload=False)[0]]

    def recreate(self):
        distance = self.make.distance()
        self.last = f"recreate with {distance}"
        for client in (self.doors[0][1], self.memory):
            if client.collection_exists(NAME):
                client.delete_collection(NAME)
            client.create_collection(NAME, models.VectorParams(size=generate.SIZE, distance=distance))

    # Writes -----------------------------------------------------------------------------------------------------------

    def upsert(self):
        points = self.make.points()
        if self.random.random() < 0.3:
            batch = models.Batch(ids=[p.id for p in points], vectors=[p.vector for p in points],
                                 payloads=[p.payload or {} for p in points])
            self.both("upsert batch", lambda c: c.upsert(NAME, batch, wait=True))
        else:
            self.both("upsert", lambda c: c.upsert(NAME, points, wait=True))

    def delete(self):
        selector = self.make.selector()
        self.both("delete", lambda c: c.delete(NAME, selector, wait=True))

    def set_payload(self):
        payload, selector, key = self.make.partial_payload(), self.make.selector(), self.make.write_path()
        self.change("set payload", lambda c: c.set_payload(NAME, payload, selector, key=key, wait=True), ids_of(selector), selector)

    def overwrite_payload(self):
        payload, selector = self.make.payload() or {}, self.make.selector()
        self.change("overwrite payload", lambda c: c.overwrite_payload(NAME, payload, selector, wait=True), ids_of(selector), selector)

    def delete_payload(self):
        keys, selector = self.make.paths(), self.make.selector()
        self.change("delete payload", lambda c: c.delete_payload(NAME, keys, selector, wait=True), ids_of(selector), selector)

    def clear_payload(self):
        selector = self.make.selector()
        self.change("clear payload", lambda c: c.clear_payload(NAME, selector, wait=True), ids_of(selector), selector)

    def update_batch(self):
        operations = self.make.operations()
        self.both("update batch", lambda c: c.batch_update_points(NAME, operations, wait=True))

    def update_vectors(self):
        points = self.make.point_vectors()
        self.change("update vectors", lambda c: c.update_vectors(NAME, points, wait=True), [point.id for point in points])

    def index(self):
        field, schema = self.make.index()
        if self.random.random() < 0.5:
            self.both("create index", lambda c: c.create_payload_index(NAME, field, schema, wait=True))
        else:
            self.both("delete index", lambda c: c.delete_payload_index(NAME, field, wait=True))

    # Reads ------------------------------------------------------------------------------------------------------------

    def retrieve(self):
        ids, with_payload, with_vectors = self.make.ids(), self.make.with_payload(), self.make.with_vectors()
        ids = list(dict.fromkeys(str(i) if not isinstance(i, int) else i for i in ids))
        answer = self.both("retrieve", lambda c: sorted(
            c.retrieve(NAME, ids, with_payload=with_payload, with_vectors=with_vectors), key=lambda r: str(r.id)))
        if answer:
            compare_records(*answer)

    def count(self):
        where = self.make.filter()
        answer = self.both("count", lambda c: c.count(NAME, where, exact=True).count)
        if answer and answer[0] != answer[1]:
            raise Mismatch(f"server counts {answer[0]}, memory {answer[1]} for {where}")
        if answer and answer[1]:
            self.matched += 1

    def scroll(self):
        where, limit = self.make.filter(), self.random.choice([1, 3, 10, 100])
        with_payload, with_vectors = self.make.with_payload(), self.make.with_vectors()
        offset = self.make.id() if self.random.random() < 0.3 else None
        for _ in range(4):
            answer = self.both("scroll", lambda c: c.scroll(
                NAME, where, limit=limit, offset=offset, with_payload=with_payload, with_vectors=with_vectors))
            if answer is None:
                return
            (ours, our_next), (theirs, their_next) = answer
            compare_records(ours, theirs)
            if str(our_next) != str(their_next):
                raise Mismatch(f"next page: server {our_next}, memory {their_next}")
            if our_next is None:
                return
            offset = our_next

    def scroll_ordered(self):
        field = self.random.choice(["num", "real"])
        schema = models.PayloadSchemaType.INTEGER if field == "num" else models.PayloadSchemaType.FLOAT
        self.both("create index", lambda c: c.create_payload_index(NAME, field, schema, wait=True))
        order = models.OrderBy(key=field, direction=self.random.choice(list(models.Direction)),
                               start_from=self.random.choice([None, 0, 3]))
        where = self.make.filter()
        answer = self.both("scroll ordered", lambda c: c.scroll(NAME, where, limit=10_000, order_by=order))
        if answer:
            ours, theirs = answer[0][0], answer[1][0]
            if [r.order_value for r in ours] != [r.order_value for r in theirs]:
                raise Mismatch(f"{order}: values {[r.order_value for r in ours]} / {[r.order_value for r in theirs]}")
            key = lambda r: (r.order_value, str(r.id))  # noqa: E731
            compare_records(sorted(ours, key=key), sorted(theirs, key=key))

    def query_listed(self):
        """Queries that compare no vector: by id."""
        where, limit = self.make.filter(), self.random.choice([1, 5, 100])
        answer = self.both("query without a vector", lambda c: c.query_points(NAME, query_filter=where, limit=limit).points)
        if answer:
            compare_hits(*answer)

    def facet(self):
        where, limit = self.make.filter(), self.random.choice([1, 3, 100])
        self.both("create index", lambda c: c.create_payload_index(NAME, "tag", models.PayloadSchemaType.KEYWORD, wait=True))
        answer = self.both("facet", lambda c: c.facet(NAME, "tag", facet_filter=where, limit=limit, exact=True))
        if answer:
            ours, theirs = ([(h.value, h.count) for h in side.hits] for side in answer)
            if ours != theirs:
                raise Mismatch(f"facet of tag\n  server {ours}\n  memory {theirs}")

    def query(self):
        arguments = self.make.query()
        answer = self.both("query", lambda c: c.query_points(NAME, **arguments).points)
        if answer:
            self.last += f" {arguments}"
            compare_hits(*answer)
            self.matched += bool(answer[1])

    def query_batch(self):
        requests = [self.make.query_request() for _ in range(self.random.randint(1, 4))]
        answer = self.both("query batch", lambda c: c.query_batch_points(NAME, requests))
        if answer:
            for ours, theirs in zip(*answer, strict=True):
                compare_hits(ours.points, theirs.points)

    # ------------------------------------------------------------------------------------------------------------------

    def compare_all(self):
        self.last += ", then the full comparison"
        sides = [c.scroll(NAME, limit=100_000, with_payload=True, with_vectors=True)[0]
                 for c in (self.doors[0][1], self.doors[1][1], self.memory)]
        compare_records(sides[0], sides[2])
        compare_records(sides[1], sides[2])

    def step(self):
        table = [
            (self.upsert, 18), (self.delete, 3), (self.set_payload, 8), (self.overwrite_payload, 4), (self.delete_payload, 5),
            (self.clear_payload, 1), (self.update_batch, 3), (self.update_vectors, 3), (self.index, 3), (self.retrieve, 6),
            (self.count, 20), (self.scroll, 10), (self.scroll_ordered, 2), (self.query_listed, 2), (self.facet, 2), (self.query, 20), (self.query_batch, 3),
        ]
        action = self.random.choices([row[0] for row in table], [row[1] for row in table])[0]
        self.tally[action.__name__] += 1
        self.look()
        action()


def ids_of(selector):
    return selector.points if isinstance(selector, models.PointIdsList) else None


def attempt(call, client):
    try:
        return call(client), None
    except Exception as error:  # noqa: BLE001  whatever the client raises is its way to refuse
        return None, error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=uuid.uuid4().int % 2**32)
    parser.add_argument("--kill-every", type=int, default=1000, help="kill -9 and restart each N operations (0: never)")
    parser.add_argument("--recreate-every", type=int, default=700)
    parser.add_argument("--compare-every", type=int, default=250, help="compare all points each N operations")
    parser.add_argument("--segments", action=argparse.BooleanOptionalAction, default=True, help="seal after a few points")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Payload indexes have no effect")
    print(f"seed {arguments.seed}, {arguments.ops} operations", flush=True)
    # Segments of a few points, each with its graph: sealing, merging and deletes in sealed segments happen all the time.
    settings = ["engine.seal_points=12", "engine.full_scan_points=4", "engine.max_segments=3"] if arguments.segments else []
    server = Server(settings)
    started = time.monotonic()
    run = None
    done = 0
    try:
        run = Run(server, arguments.seed)
        for done in range(1, arguments.ops + 1):
            if done % arguments.recreate_every == 0:
                run.compare_all()
                run.recreate()
            run.step()
            if done % arguments.compare_every == 0:
                run.compare_all()
            if arguments.kill_every and server.ours and done % arguments.kill_every == 0:
                server.restart()
                run.connect()
                run.compare_all()
        run.compare_all()
    except Mismatch as mismatch:
        print(f"operation {done} ({run.last}): {mismatch}\nrepeat with --seed {arguments.seed}", file=sys.stderr)
        return 1
    finally:
        server.stop()
    print(f"{sum(run.tally.values())} operations agree in {time.monotonic() - started:.0f} s; "
          f"{run.matched} of the counts and queries matched something; refused by both: {sum(run.refused.values())}")
    print("  " + ", ".join(f"{name} {count}" for name, count in run.tally.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
