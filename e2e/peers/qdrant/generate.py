"""Random points, payloads, filters and requests, drawn from one seeded generator.

The vocabulary is small on purpose: few ids, few words, few numbers, so that operations meet and filters match.
"""

import random
import uuid

from qdrant_client import models

SIZE = 6
WORDS = ["red", "green", "blue", "Grün", "dark sea", ""]
TEXTS = ["the quick brown fox", "The lazy DOG sleeps", "quick, quick: dog!", "fox-trot at 5 o'clock", "", "Straße über Nacht"]
TOKENS = ["quick", "fox", "dog", "brown fox", "the", "FOX", "5", "sleeps dog", "o'clock", "missing", "", "über"]
DAYS = ["2024-01-01T00:00:00Z", "2024-06-15T12:30:00+02:00", "2024-06-15 12:30:00", "2025-02-28", "not a date"]
UUIDS = [str(uuid.UUID(int=0x1234_5678_9ABC_4DEF_8000_0000_0000_0000 + n)) for n in range(12)]
PATHS = [
    "tag", "num", "real", "flag", "text", "when", "mixed", "missing", "nest", "nest.a", "nest.b.c", "nest.missing",
    "nest.list", "nest.list[].x", "nest.list[0].x", "items", "items[]", "items[].x", "items[].y", "items[].z", "items[].z[]",
    "items[1].z[0]", "items[0]", "tag[]", "tag[0]", '"dotted.key"', "mixed.a", "mixed[]", "mixed[].a", "num[]",
]


class Generator:
    """Draws everything from `random`; is told which points there are."""

    def __init__(self, rng: random.Random):
        self.random = rng
        self.existing = []

    def distance(self):
        return self.random.choice(list(models.Distance))

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    # Points -----------------------------------------------------------------------------------------------------------

    def id(self):
        if self.chance(0.25):
            return self.random.choice(UUIDS)
        if self.chance(0.02):
            return self.random.choice([0, 2**53 + 1, 2**63, 2**64 - 1])
        return self.random.randint(0, 60)

    def ids(self):
        return [self.id() for _ in range(self.random.randint(1, 6))]

    def existing_ids(self):
        """Points that are there, mostly."""
        if not self.existing or self.chance(0.1):
            return self.ids()
        return self.random.sample(self.existing, min(len(self.existing), self.random.randint(1, 6)))

    def vector(self):
        if self.chance(0.01):
            return [0.0] * SIZE
        return [round(self.random.uniform(-2, 2), 3) for _ in range(SIZE)]

    def points(self):
        ids = list(dict.fromkeys(self.id() for _ in range(self.random.randint(1, 12))))
        return [models.PointStruct(id=point, vector=self.vector(), payload=self.payload()) for point in ids]

    def point_vectors(self):
        ids = list(dict.fromkeys(self.existing_ids()))
        return [models.PointVectors(id=point, vector=self.vector()) for point in ids]

    # Payloads ---------------------------------------------------------------------------------------------------------

    def one_or_many(self, draw, most: int = 3):
        if self.chance(0.25):
            return [draw() for _ in range(self.random.randint(0, most))]
        return draw()

    def item(self):
        fields = {}
        if self.chance(0.8):
            fields["x"] = self.random.choice([0, 1, 2, 3, None])
        if self.chance(0.6):
            fields["y"] = self.random.choice(WORDS + [None])
        if self.chance(0.4):
            fields["z"] = [self.random.randint(0, 3) for _ in range(self.random.randint(0, 3))]
        return fields

    def anything(self, depth: int = 2):
        kind = self.random.randint(0, 7 if depth else 5)
        if kind == 6:
            return [self.anything(depth - 1) for _ in range(self.random.randint(0, 3))]
        if kind == 7:
            return {key: self.anything(depth - 1) for key in ("a", "b") if self.chance(0.6)}
        return [None, self.chance(0.5), self.random.randint(-3, 5), self.random.choice([0.0, 1.0, 2.5, -1.25]),
                self.random.choice(WORDS), self.random.choice([2**53 + 1, -(2**62), 1e300, 1e-9])][kind]

    def field(self, key: str):
        draw = {
            "tag": lambda: self.one_or_many(lambda: self.random.choice(WORDS)),
            "num": lambda: self.one_or_many(lambda: self.random.randint(-2, 6)),
            "real": lambda: self.random.choice([-1.5, 0.0, 0.5, 1.0, 2.25, 3.0]),
            "flag": lambda: self.one_or_many(lambda: self.chance(0.5), 2),
            "text": lambda: self.one_or_many(lambda: self.random.choice(TEXTS), 2),
            "when": lambda: self.random.choice(DAYS),
            "nest": lambda: {"a": self.one_or_many(lambda: self.random.choice([0, 1, 2, None])),
                             "b": {"c": self.random.choice(WORDS)},
                             "list": [self.item() for _ in range(self.random.randint(0, 2))]},
            "items": lambda: [self.item() if self.chance(0.9) else self.anything(1) for _ in range(self.random.randint(0, 3))],
            "dotted.key": lambda: self.random.choice([1, "red", None]),
            "mixed": self.anything,
        }
        return draw[key]()

    def payload(self):
        if self.chance(0.05):
            return None if self.chance(0.5) else {}
        keys = ["tag", "num", "real", "flag", "text", "when", "nest", "items", "dotted.key", "mixed"]
        return {key: None if self.chance(0.05) and key not in ("num", "real") else self.field(key)
                for key in keys if self.chance(0.55)}

    def partial_payload(self):
        keys = self.random.sample(["tag", "num", "flag", "text", "nest", "items", "mixed"], self.random.randint(1, 2))
        return {key: None if self.chance(0.15) else self.field(key) for key in keys}

    def path(self):
        return self.random.choice(PATHS)

    def paths(self):
        return [self.path() for _ in range(self.random.randint(1, 3))]

    def write_path(self):
        return self.path() if self.chance(0.35) else None

    def index(self):
        types = models.PayloadSchemaType
        return self.random.choice([
            ("tag", types.KEYWORD), ("num", types.INTEGER), ("real", types.FLOAT), ("flag", types.BOOL), ("text", types.TEXT),
            ("nest.a", types.INTEGER), ("nest.b.c", types.KEYWORD), ("items[].x", types.INTEGER), ("items[].y", types.KEYWORD),
            ("mixed", types.KEYWORD), ("mixed", types.INTEGER), ("mixed", types.FLOAT), ("mixed", types.BOOL),
            ("missing", types.KEYWORD),
        ])

    # Filters ----------------------------------------------------------------------------------------------------------

    def match_value(self):
        return self.random.choice(WORDS + [0, 1, 2, 3, True, False, -1, 2**53 + 1])

    def match(self):
        kind = self.random.randint(0, 9)
        if kind <= 3:
            return models.MatchValue(value=self.match_value())
        if kind in (4, 5):
            return models.MatchAny(any=self.values())
        if kind in (6, 7):
            return models.MatchExcept(**{"except": self.values()})
        return models.MatchText(text=self.random.choice(TOKENS))

    def values(self):
        pool = WORDS if self.chance(0.5) else [-1, 0, 1, 2, 3, 4]
        return self.random.sample(pool, self.random.randint(0 if self.chance(0.05) else 1, 3))

    def bounds(self, draw):
        names = self.random.sample(["lt", "lte", "gt", "gte"], self.random.randint(1, 2))
        return {name: draw() for name in names}

    def condition(self, depth: int):
        kind = self.random.randint(0, 15)
        key = self.path()
        if kind <= 5:
            return models.FieldCondition(key=key, match=self.match())
        if kind in (6, 7):
            return models.FieldCondition(
                key=key, range=models.Range(**self.bounds(lambda: self.random.choice([-1, 0, 0.5, 1, 2, 2.25, 5]))))
        if kind == 8:
            return models.FieldCondition(key="text", match=models.MatchTextAny(text_any=self.random.choice(TOKENS)))
        if kind == 9:
            return models.FieldCondition(key=key, values_count=models.ValuesCount(**self.bounds(lambda: self.random.randint(0, 3))))
        if kind == 10:
            if self.chance(0.5):
                return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
            return models.FieldCondition(key=key, is_empty=self.chance(0.5))
        if kind == 11:
            if self.chance(0.5):
                return models.IsNullCondition(is_null=models.PayloadField(key=key))
            return models.FieldCondition(key=key, is_null=self.chance(0.5))
        if kind == 12:
            return models.HasIdCondition(has_id=self.ids())
        if kind == 13 and depth:
            key = self.random.choice(["items", "items[]", "nest.list", "nest", "mixed", "missing"])
            inner = self.nested_filter(depth - 1)
            return models.NestedCondition(nested=models.Nested(key=key, filter=inner))
        if kind >= 14 and depth:
            return self.filter_of(depth - 1)
        return models.FieldCondition(key=key, match=self.match())

    def nested_filter(self, depth: int):
        draw = lambda: models.FieldCondition(  # noqa: E731
            key=self.random.choice(["x", "y", "z", "z[]", "a"]),
            **self.random.choice([{"match": self.match()}, {"range": models.Range(gte=1)}, {"is_empty": True}, {"is_null": True},
                                  {"values_count": models.ValuesCount(gte=1)}]))
        return models.Filter(must=[draw() for _ in range(self.random.randint(1, 2))],
                             must_not=[draw()] if self.chance(0.3) else None)

    def filter_of(self, depth: int):
        clauses = {}
        for clause in ("must", "should", "must_not"):
            if self.chance(0.45):
                clauses[clause] = [self.condition(depth) for _ in range(self.random.randint(0 if self.chance(0.1) else 1, 3))]
        if self.chance(0.1):
            conditions = [self.condition(depth) for _ in range(self.random.randint(1, 4))]
            clauses["min_should"] = models.MinShould(conditions=conditions, min_count=self.random.randint(1, 3))
        return models.Filter(**clauses)

    def filter(self):
        return None if self.chance(0.1) else self.filter_of(2)

    def selector(self):
        if self.chance(0.35):
            # Filters that select for a write are kept narrow, or everything would be gone soon.
            return models.FilterSelector(filter=models.Filter(must=[self.condition(1), self.condition(0)]))
        return models.PointIdsList(points=self.existing_ids())

    # Requests ---------------------------------------------------------------------------------------------------------

    def with_payload(self):
        kind = self.random.randint(0, 5)
        paths = [path for path in self.paths() if "[0]" not in path and "[1]" not in path]
        return [True, True, False, paths, models.PayloadSelectorInclude(include=paths),
                models.PayloadSelectorExclude(exclude=paths)][kind]

    def with_vectors(self):
        return self.chance(0.4)

    def query(self):
        target = self.id() if self.chance(0.2) else self.vector()
        if isinstance(target, list) and self.chance(0.05):
            target = target[:-1]
        return {
            "query": target, "query_filter": self.filter(), "limit": self.random.choice([1, 5, 10, 100]),
            "offset": self.random.choice([None, None, 0, 2, 7]), "with_payload": self.with_payload(),
            "with_vectors": self.with_vectors(),
            "score_threshold": round(self.random.uniform(-1, 4), 4) if self.chance(0.15) else None,
        }

    def query_request(self):
        drawn = self.query()
        return models.QueryRequest(
            query=drawn["query"] if isinstance(drawn["query"], list) else models.NearestQuery(nearest=drawn["query"]),
            filter=drawn["query_filter"], limit=drawn["limit"], offset=drawn["offset"], with_payload=drawn["with_payload"],
            with_vector=drawn["with_vectors"], score_threshold=drawn["score_threshold"])

    def operations(self):
        """Upserts first and deletes last, so that what lies between finds its points."""
        ids = [point for point in self.existing if self.chance(0.2)] or self.existing[:1]
        middle = [self.operation(ids) for _ in range(self.random.randint(0, 3))] if ids else []
        first = [models.UpsertOperation(upsert=models.PointsList(points=self.points()))] if self.chance(0.5) else []
        last = [models.DeleteOperation(delete=models.PointIdsList(points=self.ids()))] if self.chance(0.3) else []
        return first + middle + last or [models.UpsertOperation(upsert=models.PointsList(points=self.points()))]

    def operation(self, ids):
        kind = self.random.randint(0, 3)
        if kind == 0:
            return models.SetPayloadOperation(set_payload=models.SetPayload(
                payload=self.partial_payload(), points=ids, key=self.write_path()))
        if kind == 1:
            return models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=self.paths(), points=ids))
        if kind == 2:
            return models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=ids))
        return models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload=self.payload() or {}, points=ids))
