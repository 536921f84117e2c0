"""The other engines on the same rows and queries as `cargo bench -p vectorforge --bench vector`, in turn with it.

    python run.py [--rows 341479] [--rounds 3] [--record] [hnswlib usearch qdrant-edge]

M = 16, ef_construct = 128, cosine, one thread, processor time, medians over the rounds; each round runs our bench once and
then every engine once. A4: queries a second at the smallest ef with recall@10 >= 0.95. A5: filters that pass 50, 10, 1 and
0.1 % at default settings, for engines that filter by a payload (qdrant-edge). --record appends the lines to
docs/benchmarks/vector.jsonl.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

import numpy as np

QUERIES, TOP = 500, 10
EFS = [48, 64, 96, 128, 160, 192, 256, 384, 512]
SHARES = [500, 100, 10, 1]
ROOT = pathlib.Path(__file__).resolve().parents[3]


def load(rows):
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    data = np.fromfile(cache / "aistack" / "data" / "glove-100.f32", dtype="<f4").reshape(-1, 100)[:rows]
    data = data / np.linalg.norm(data, axis=1, keepdims=True)
    stride = rows // QUERIES
    picked = np.arange(len(data)) % stride == stride // 2
    picked[np.flatnonzero(picked)[QUERIES:]] = False
    return data[~picked], data[picked]


def buckets(count):
    """A number below 1000 for each row, without pattern: the same as in the bench."""
    rows = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (rows >> np.uint64(33)) % np.uint64(1000)


def build_hnswlib(base):
    import hnswlib

    index = hnswlib.Index(space="ip", dim=base.shape[1])
    index.init_index(len(base), M=16, ef_construction=128)
    index.set_num_threads(1)
    index.add_items(base)

    def search(query, ef):
        index.set_ef(ef)
        return index.knn_query(query, TOP)[0][0]

    return search, "hnswlib 0.8.0"


def build_usearch(base):
    from usearch.index import Index

    index = Index(ndim=base.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=128)
    index.add(np.arange(len(base)), base, threads=1)

    def search(query, ef):
        index.expansion_search = ef
        return index.search(query, TOP, threads=1).keys

    return search, "usearch 2.26.6"


def build_qdrant(base):
    import qdrant_edge as q

    folder = tempfile.TemporaryDirectory()
    config = q.EdgeConfig(
        vectors=q.EdgeVectorParams(size=base.shape[1], distance=q.Distance.Cosine),
        hnsw_config=q.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=10_000, max_indexing_threads=1),
    )
    shard = q.EdgeShard.create(folder.name, config)
    integers = q.IntegerIndexParams(lookup=False, range=True)
    shard.update(q.UpdateOperation.create_field_index("bucket", integers))
    bucket = buckets(len(base))
    for start in range(0, len(base), 5000):
        rows = enumerate(base[start : start + 5000], start)
        points = [q.Point(at, row.tolist(), {"bucket": int(bucket[at])}) for at, row in rows]
        shard.update(q.UpdateOperation.upsert_points(points))
    shard.optimize()

    def search(query, ef, share=None):
        below = q.FieldCondition("bucket", range=q.RangeFloat(lt=share)) if share else None
        request = q.QueryRequest(
            query=q.Query.Nearest(query.tolist()),
            filter=q.Filter(must=[below]) if share else None,
            limit=TOP,
            params=q.SearchParams(hnsw_ef=ef) if ef else None,
        )
        return [hit.id for hit in shard.query(request)]

    search.folder = folder
    search.filters = True
    return search, "qdrant-edge-py 0.9.0"


BUILDERS = {"hnswlib": build_hnswlib, "usearch": build_usearch, "qdrant-edge": build_qdrant}


def nearest(base, queries, passing):
    """The exact answers among the rows that pass, a set for each query."""
    rows = base[passing]
    found = (np.argpartition(-(rows @ query), TOP)[:TOP] for query in queries)
    return [set(passing[at].tolist()) for at in found]


def measure(ask, queries, truth):
    """Recall@10 and queries a second of processor time; at least 100 ms of it."""
    before, asked = time.process_time(), 0
    while asked == 0 or time.process_time() - before < 0.1:
        answers = [ask(query) for query in queries]
        asked += len(queries)
    spent = time.process_time() - before
    hits = sum(len(right & {int(key) for key in answer}) for right, answer in zip(truth, answers))
    return hits / (len(queries) * TOP), asked / spent


def ours(rows):
    """One run of our bench: {("ef", 48): (recall, QPS), …, ("share", 500): …}."""
    command = ["cargo", "bench", "--bench", "vector", "--", "--no-peer", "--rounds", "1", "--rows", str(rows)]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    figures = {}
    for ef, recall, qps in re.findall(r"^ef +(\d+) +ours +recall ([\d.]+) +([\d.]+) QPS", output, re.M):
        figures["ef", int(ef)] = float(recall), float(qps)
    for percent, recall, qps in re.findall(r"^ *([\d.]+) % +ours recall ([\d.]+) +([\d.]+) QPS", output, re.M):
        figures["share", round(float(percent) * 10)] = float(recall), float(qps)
    return figures


def median(runs, key):
    """Recall and median queries a second over the rounds."""
    return runs[-1][key][0], statistics.median(run[key][1] for run in runs)


def best(runs):
    """The smallest ef with a recall of 0.95 and its queries a second."""
    efs = (ef for ef in EFS if runs[-1].get(("ef", ef), (0, 0))[0] >= 0.95)
    ef = next(efs)
    return ef, median(runs, ("ef", ef))[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=341_479)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("engines", nargs="*", default=list(BUILDERS))
    options = parser.parse_args()
    base, queries = load(options.rows)
    everything = np.arange(len(base))
    truth = {None: nearest(base, queries, everything)}
    for share in SHARES:
        truth[share] = nearest(base, queries, everything[buckets(len(base)) < share])
    engines = {}
    for name in options.engines:
        before = time.process_time()
        search, version = BUILDERS[name](base)
        engines[version] = search
        print(f"{version}: built in {time.process_time() - before:.0f} s of processor time", flush=True)
    runs = {name: [] for name in ["ours", *engines]}
    for _ in range(options.rounds):
        runs["ours"].append(ours(options.rows))
        for version, search in engines.items():
            figures = {}
            for ef in EFS:
                figures["ef", ef] = measure(lambda query: search(query, ef), queries, truth[None])
                if figures["ef", ef][0] >= 0.95:
                    break
            for share in SHARES if hasattr(search, "filters") else []:
                figures["share", share] = measure(lambda query: search(query, None, share), queries, truth[share])
            runs[version].append(figures)
    report(options, len(base), runs, list(engines))


def report(options, rows, runs, versions):
    our_ef, our_qps = best(runs["ours"])
    for version in versions:
        ef, qps = best(runs[version])
        what = f"QPS of one thread at recall@10 >= 0.95, {rows} x 100 (ef {our_ef}; peer ef {ef})"
        line("A4", what, our_qps, qps, version, options)
        for share in SHARES:
            if ("share", share) not in runs[version][-1]:
                continue
            (our_recall, mine), (recall, theirs) = median(runs["ours"], ("share", share)), median(runs[version], ("share", share))
            what = f"filter passing {share / 10:g} % of {rows}: QPS at default settings, recall {our_recall:.3f}, peer recall {recall:.3f}"
            line("A5", what, mine, theirs, version, options)


def line(identifier, what, mine, theirs, version, options):
    print(f"{identifier} {what}: ours {mine:.0f}, {version} {theirs:.0f}, ratio {mine / theirs:.2f}", flush=True)
    if not options.record:
        return
    path = ROOT / "docs" / "benchmarks" / "vector.jsonl"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    with open(path, "a") as out:
        figure = {
            "id": identifier,
            "what": what,
            "ours": mine,
            "peer": theirs,
            "unit": "QPS",
            "ratio": mine / theirs,
            "peer_version": version,
            "machine": json.loads(path.read_text().splitlines()[0])["machine"],
            "commit": commit.stdout.strip(),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "runs": options.rounds,
        }
        out.write(json.dumps(figure) + "\n")


main()
