"""Bad input: each row is refused with the right status and a sentence that names what is wrong, and nothing is changed."""

import json
import math

import grpc
import httpx
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as wire

NAME = "bad-input"


@pytest.fixture(scope="module")
def http(server):
    client = QdrantClient(url=server.url, timeout=300)
    if client.collection_exists(NAME):
        client.delete_collection(NAME)
    client.create_collection(NAME, models.VectorParams(size=3, distance=models.Distance.DOT))
    client.upsert(NAME, [models.PointStruct(id=1, vector=[1, 2, 3], payload={"a": 1})], wait=True)
    with httpx.Client(base_url=server.url, timeout=300) as session:
        yield session
        record = client.retrieve(NAME, [1], with_vectors=True)[0]
        assert (record.payload, record.vector) == ({"a": 1}, [1, 2, 3])
        assert client.count(NAME).count == 1
    client.delete_collection(NAME)


def nest(depth: int) -> dict:
    inner: dict = {"must": [{"key": "a", "match": {"value": 1}}]}
    for _ in range(depth):
        inner = {"must": [inner]}
    return inner


C = f"/collections/{NAME}"
P = f"{C}/points"
POINT = {"id": 2, "vector": [1, 2, 3]}
QUERY = {"query": [1, 2, 3]}

TABLE = [
    # what, method, path, body, status, text in the message
    ("wrong size", "PUT", P, {"points": [{"id": 2, "vector": [1, 2]}]}, 400, "expected dim: 3, got 2"),
    ("wrong size in a query", "POST", f"{P}/query", {"query": [1, 2]}, 400, "expected dim: 3, got 2"),
    ("one bad point of many", "PUT", P, {"points": [POINT, {"id": 3, "vector": []}]}, 400, "expected dim: 3, got 0"),
    ("too large for a float", "PUT", P, {"points": [{"id": 2, "vector": [1, 2, 1e39]}]}, 400, "points[0].vector"),
    ("text in a vector", "PUT", P, {"points": [{"id": 2, "vector": [1, "x", 3]}]}, 400, "points[0].vector"),
    ("sparse vector", "PUT", P, {"points": [{"id": 2, "vector": {"indices": [1], "values": [2.0]}}]}, 400, "vector"),
    ("no such vector", "PUT", P, {"points": [{"id": 2, "vector": {"other": [1, 2, 3]}}]}, 400, "other"),
    ("negative id", "PUT", P, {"points": [{"id": -1, "vector": [1, 2, 3]}]}, 400, "points[0].id"),
    ("id is no UUID", "PUT", P, {"points": [{"id": "x", "vector": [1, 2, 3]}]}, 400, "`x` is no point id"),
    ("id is a float", "PUT", P, {"points": [{"id": 1.5, "vector": [1, 2, 3]}]}, 400, "points[0].id"),
    ("id over 64 bits", "PUT", P, '{"points":[{"id":18446744073709551616,"vector":[1,2,3]}]}', 400, "points[0].id"),
    ("payload is a list", "PUT", P, {"points": [{**POINT, "payload": [1]}]}, 400, "points[0].payload"),
    ("no points", "PUT", P, {"points": []}, 400, "Empty update request"),
    ("neither points nor batch", "PUT", P, {}, 400, "points"),
    ("columns of different length", "PUT", P, {"batch": {"ids": [2, 3], "vectors": [[1, 2, 3]]}}, 400, "for 2 ids"),
    ("unknown field of a point", "PUT", P, {"points": [{**POINT, "vectr": 1}]}, 400, "unknown field `vectr`"),
    ("unknown field of a request", "POST", f"{P}/scroll", {"limt": 1}, 400, "unknown field `limt`"),
    ("unknown field of a query", "POST", f"{P}/query", {**QUERY, "whith_payload": True}, 400, "unknown field `whith_payload`"),
    ("unknown field of params", "POST", f"{P}/query", {**QUERY, "params": {"ef": 1}}, 400, "unknown field `ef`"),
    ("unknown query parameter", "PUT", f"{P}?wiat=true", {"points": [POINT]}, 400, "unknown field `wiat`"),
    ("unknown ordering", "PUT", f"{P}?ordering=fast", {"points": [POINT]}, 400, "unknown variant `fast`"),
    ("bad consistency", "POST", f"{P}/scroll?consistency=some", {}, 400, "consistency `some`"),
    ("bad wait", "PUT", f"{P}?wait=maybe", {"points": [POINT]}, 400, "query parameters"),
    ("no such collection", "POST", "/collections/none/points/query", QUERY, 404, "Collection `none` doesn't exist"),
    ("no such point", "GET", f"{P}/77", None, 404, "77"),
    ("query by a missing id", "POST", f"{P}/query", {"query": 77}, 404, "77"),
    ("id in the path", "GET", f"{P}/x", None, 400, "`x` is no point id"),
    ("limit of zero", "POST", f"{P}/scroll", {"limit": 0}, 400, "limit is 0"),
    ("negative limit", "POST", f"{P}/query", {**QUERY, "limit": -1}, 400, "limit"),
    ("limit out of reach", "POST", f"{P}/query", {**QUERY, "limit": 10**9}, 400, "max_limit"),
    ("offset overflows", "POST", f"{P}/query", {**QUERY, "offset": 2**64 - 1}, 400, "max_limit"),
    ("beam out of reach", "POST", f"{P}/query", {**QUERY, "params": {"hnsw_ef": 10**9}}, 400, "hnsw_ef"),
    ("filter too deep", "POST", f"{P}/count", {"filter": nest(40)}, 400, "depth of the filter"),
    ("filter far too deep", "POST", f"{P}/count", {"filter": nest(120)}, 400, "recursion limit"),
    ("filter too wide", "POST", f"{P}/count", {"filter": {"must": [{"has_id": list(range(70_000))}]}}, 400, "max_filter_size"),
    ("misspelt condition", "POST", f"{P}/count", {"filter": {"must": [{"key": "a", "mtch": {}}]}}, 400, "filter: must.[0]: unknown field `mtch`"),
    ("misspelt clause", "POST", f"{P}/count", {"filter": {"mustnot": []}}, 400, "unknown field `mustnot`"),
    ("empty condition", "POST", f"{P}/count", {"filter": {"must": [{"key": "a"}]}}, 400, "needs one of match"),
    ("match of a float", "POST", f"{P}/count", {"filter": {"must": {"key": "a", "match": {"value": 1.5}}}}, 400, "64-bit integer"),
    ("bad key", "POST", f"{P}/count", {"filter": {"must": {"key": "a[b", "is_null": True}}}, 400, "a[b"),
    ("ids and filter", "POST", f"{P}/delete", {"points": [1], "filter": {}}, 400, "exclude each other"),
    ("neither ids nor filter", "POST", f"{P}/delete", {}, 400, "which points"),
    ("order without an index", "POST", f"{P}/scroll", {"order_by": "a"}, 400, "index"),
    ("unknown index type", "PUT", f"{C}/index", {"field_name": "a", "field_schema": "int"}, 400, "unknown index type `int`"),
    ("index without type", "PUT", f"{C}/index", {"field_name": "a"}, 400, "field_schema"),
    ("size of zero", "PUT", "/collections/new", {"vectors": {"size": 0, "distance": "Dot"}}, 400, "size is 0"),
    ("size over the limit", "PUT", "/collections/new", {"vectors": {"size": 70_000, "distance": "Dot"}}, 400, "65536"),
    ("unknown distance", "PUT", "/collections/new", {"vectors": {"size": 2, "distance": "L2"}}, 400, "unknown variant `L2`"),
    ("unknown setting", "PUT", "/collections/new", {"vectors": {"size": 2, "distance": "Dot"}, "shards": 2}, 400, "unknown field `shards`"),
    ("m out of range", "PUT", "/collections/new", {"vectors": {"size": 2, "distance": "Dot"}, "hnsw_config": {"m": 1000}}, 400, "hnsw m is 1000"),
    ("name that is a path", "PUT", "/collections/..%2Fetc", {"vectors": {"size": 2, "distance": "Dot"}}, 400, "name"),
    ("taken name", "PUT", C, {"vectors": {"size": 3, "distance": "Dot"}}, 409, "already exists"),
    ("alias to nowhere", "POST", "/collections/aliases",
     {"actions": [{"create_alias": {"collection_name": "none", "alias_name": "x"}}]}, 404, "none"),
    ("unknown alias action", "POST", "/collections/aliases", {"actions": [{"make_alias": {}}]}, 400, "make_alias"),
    ("unknown operation", "POST", f"{P}/batch", {"operations": [{"upset": {}}]}, 400, "unknown variant `upset`"),
    ("unknown path", "GET", "/collection", None, 404, "/collection"),
    ("unknown method", "DELETE", P, None, 405, "DELETE"),
    ("not JSON", "PUT", P, "points", 400, "Format error"),
    ("cut short", "PUT", P, '{"points": [{"id": 2, "vector": [1, 2', 400, "Format error"),
    ("two documents", "POST", f"{P}/count", "{} {}", 400, "trailing characters"),
    ("NaN in JSON", "PUT", P, '{"points": [{"id": 2, "vector": [NaN, 2, 3]}]}', 400, "Format error"),
    ("invalid UTF-8", "PUT", P, b'{"points": [{"id": 2, "vector": [1, 2, 3], "payload": {"a": "\xff\xfe"}}]}', 400, "Format error"),
    ("invalid UTF-8 in the path", "GET", "/collections/%ff%fe", None, 400, "path"),
    ("absent feature", "POST", f"{P}/recommend", {}, 501, "recommendation"),
    ("absent query", "POST", f"{P}/query", {"query": {"discover": {}}}, 501, "discover"),
    ("absent condition", "POST", f"{P}/count", {"filter": {"must": {"key": "a", "geo_radius": {}}}}, 400, "geo_radius"),
]


@pytest.mark.parametrize("method, path, body, status, text", [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_over_rest(http, method, path, body, status, text):
    content = None if body is None else body if isinstance(body, (str, bytes)) else json.dumps(body)
    answer = http.request(method, path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["status"]["error"]
    assert text.lower() in error.lower(), error
    assert "time" in answer.json()


def test_a_body_of_100_mb_is_refused_before_it_is_read(http):
    answer = http.put(P, content=b" " * (100 << 20), headers={"content-type": "application/json"})
    assert answer.status_code == 413, answer.text
    assert "bytes" in answer.json()["status"]["error"]


def test_a_body_of_unknown_length_is_cut_at_the_limit(http):
    def chunks():
        for _ in range(100):
            yield b" " * (1 << 20)

    try:
        answer = http.put(P, content=chunks(), headers={"content-type": "application/json"})
        assert answer.status_code == 413, answer.text
    except (httpx.WriteError, httpx.RemoteProtocolError):
        pass  # the server answered and closed while we were still sending


@pytest.fixture(scope="module")
def points(server, http):
    with grpc.insecure_channel(f"{server.url.split('//')[1].split(':')[0]}:{server.grpc_port}") as channel:
        yield wire.PointsStub(channel)


def unnamed(values):
    return wire.Vectors(vector=wire.Vector(dense=wire.DenseVector(data=values)))


def upsert(vector, payload=None, point=None):
    point = point if point is not None else wire.PointId(num=2)
    return wire.UpsertPoints(collection_name=NAME, wait=True,
                             points=[wire.PointStruct(id=point, vectors=vector, payload=payload or {})])


def query(values, **more):
    return wire.QueryPoints(collection_name=NAME, query=wire.Query(nearest=wire.VectorInput(dense=wire.DenseVector(data=values))), **more)


INVALID, MISSING, ABSENT = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED
GRPC_TABLE = [
    ("NaN", "Upsert", upsert(unnamed([1, math.nan, 3])), INVALID, "not finite"),
    ("infinity", "Upsert", upsert(unnamed([1, 2, math.inf])), INVALID, "not finite"),
    ("NaN in a query", "Query", query([math.nan, 2, 3]), INVALID, "not finite"),
    ("NaN in a payload", "Upsert", upsert(unnamed([1, 2, 3]), {"x": wire.Value(double_value=math.nan)}), INVALID, "NaN"),
    ("NaN as threshold", "Query", query([1, 2, 3], score_threshold=math.nan), INVALID, "score_threshold"),
    ("NaN in a range", "Count", wire.CountPoints(collection_name=NAME, filter=wire.Filter(must=[wire.Condition(
        field=wire.FieldCondition(key="a", range=wire.Range(gt=math.nan)))])), INVALID, "not finite"),
    ("wrong size", "Upsert", upsert(unnamed([1, 2])), INVALID, "expected dim: 3, got 2"),
    ("sparse", "Upsert", upsert(wire.Vectors(vector=wire.Vector(sparse=wire.SparseVector(values=[1], indices=[1])))), ABSENT, "sparse"),
    ("no id", "Upsert", upsert(unnamed([1, 2, 3]), point=wire.PointId()), INVALID, "id is missing"),
    ("bad UUID", "Upsert", upsert(unnamed([1, 2, 3]), point=wire.PointId(uuid="x")), INVALID, "`x` is no point id"),
    ("no points", "Upsert", wire.UpsertPoints(collection_name=NAME), INVALID, "Empty update request"),
    ("no selector", "Delete", wire.DeletePoints(collection_name=NAME), INVALID, "which points"),
    ("empty condition", "Count", wire.CountPoints(collection_name=NAME, filter=wire.Filter(must=[wire.Condition()])), INVALID, "empty"),
    ("no such collection", "Count", wire.CountPoints(collection_name="none"), MISSING, "doesn't exist"),
    ("limit out of reach", "Query", query([1, 2, 3], limit=2**64 - 1), INVALID, "max_limit"),
    ("recommend", "Recommend", wire.RecommendPoints(collection_name=NAME), ABSENT, "recommendation"),
    ("shard key", "Count", wire.CountPoints(collection_name=NAME, shard_key_selector=wire.ShardKeySelector(
        shard_keys=[wire.ShardKey(keyword="x")])), ABSENT, "shard keys"),
]


@pytest.mark.parametrize("method, request_, status, text", [row[1:] for row in GRPC_TABLE], ids=[row[0] for row in GRPC_TABLE])
def test_over_grpc(points, method, request_, status, text):
    with pytest.raises(grpc.RpcError) as caught:
        getattr(points, method)(request_)
    assert caught.value.code() == status, caught.value
    assert text.lower() in caught.value.details().lower(), caught.value


def test_grpc_health(server):
    """grpc.health.v1, asked for with hand-written bytes: SERVING is field 1, value 1."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01"
