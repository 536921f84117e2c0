"""The unchanged Python client against VectorForge, over REST and gRPC: every call here is what an application would do."""

import hashlib
import re
import threading
import warnings

import httpx
import numpy as np
import pytest
from grpc import RpcError, StatusCode
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from server import Server

COSINE = models.VectorParams(size=4, distance=models.Distance.COSINE)
UUID = "936da01f-9abd-4d9d-80c7-02af85c822a8"


def refused(call, code: int, status: StatusCode, text: str):
    """The call must be refused with this status and a message that contains `text`, over either transport."""
    with pytest.raises((UnexpectedResponse, RpcError)) as caught:
        call()
    error = caught.value
    if isinstance(error, UnexpectedResponse):
        assert error.status_code == code, error
        assert text in error.content.decode(), error
    else:
        assert error.code() == status, error
        assert text in error.details(), error


@pytest.fixture
def books(client, name):
    client.create_collection(name, vectors_config=COSINE)
    client.upsert(name, wait=True, points=[
        models.PointStruct(id=1, vector=[1, 0, 0, 0], payload={"title": "Dune", "year": 1965, "tags": ["sand", "spice"]}),
        models.PointStruct(id=2, vector=[0.9, 0.1, 0, 0], payload={"title": "Emma", "year": 1815, "tags": []}),
        models.PointStruct(id=UUID, vector=[0, 1, 0, 0], payload={"title": "Kim", "year": 1901, "author": {"name": "K"}}),
        models.PointStruct(id=4, vector=[0, 0, 2, 0]),
    ])
    return name


def test_the_client_recognises_the_server(server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the client warns when the versions do not fit
        client = QdrantClient(url=server.url, grpc_port=server.grpc_port, prefer_grpc=True)
    info = client.info()
    assert info.title == "qdrant - vector search engine"
    assert re.fullmatch("[0-9a-f]{40}", info.commit)
    root = httpx.get(server.url).json()
    assert set(root) == {"title", "version", "commit"}


def test_collections_come_and_go(client, name):
    assert not client.collection_exists(name)
    assert client.create_collection(name, vectors_config=COSINE)
    assert client.collection_exists(name)
    assert name in [collection.name for collection in client.get_collections().collections]
    refused(lambda: client.create_collection(name, vectors_config=COSINE), 409, StatusCode.ALREADY_EXISTS, name)
    assert client.delete_collection(name)
    assert not client.collection_exists(name)
    refused(lambda: client.get_collection(name), 404, StatusCode.NOT_FOUND, name)


def test_info_has_every_field_that_the_client_reads(client, books):
    client.create_payload_index(books, "year", models.PayloadSchemaType.INTEGER, wait=True)
    client.create_payload_index(books, "title", models.TextIndexParams(type="text", tokenizer="word", lowercase=True), wait=True)
    info = client.get_collection(books)
    assert info.status == models.CollectionStatus.GREEN
    assert info.points_count == 4
    assert info.segments_count >= 1
    assert info.config.params.vectors == COSINE
    assert info.config.params.shard_number == 1
    assert info.config.hnsw_config.m == 16
    assert info.config.optimizer_config.default_segment_number >= 1
    assert info.config.wal_config.wal_capacity_mb > 0
    assert info.payload_schema["year"].data_type == models.PayloadSchemaType.INTEGER
    assert info.payload_schema["year"].points == 3
    assert info.payload_schema["title"].params.tokenizer == models.TokenizerType.WORD
    assert info.created_at is not None


def test_settings_of_a_collection_are_kept_and_shown(client, name):
    client.create_collection(
        name,
        vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT, on_disk=True),
        hnsw_config=models.HnswConfigDiff(m=24, ef_construct=64, full_scan_threshold=200),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=4096, deleted_threshold=0.3),
        wal_config=models.WalConfigDiff(wal_capacity_mb=8),
        on_disk_payload=True,
        metadata={"owner": "library", "n": 1},
    )
    config = client.get_collection(name).config
    assert (config.hnsw_config.m, config.hnsw_config.ef_construct, config.hnsw_config.full_scan_threshold) == (24, 64, 200)
    assert config.optimizer_config.indexing_threshold == 4096
    assert config.optimizer_config.deleted_threshold == pytest.approx(0.3)
    assert config.wal_config.wal_capacity_mb == 8
    assert config.params.on_disk_payload is True
    assert config.params.vectors.on_disk is True
    assert config.metadata == {"owner": "library", "n": 1}
    client.update_collection(name, hnsw_config=models.HnswConfigDiff(ef_construct=128), metadata={"n": 2})
    config = client.get_collection(name).config
    assert (config.hnsw_config.m, config.hnsw_config.ef_construct) == (24, 128)
    assert config.metadata == {"owner": "library", "n": 2}


def test_aliases_name_collections(client, books):
    alias, other = f"{books}-a", f"{books}-b"
    create = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=books, alias_name=alias))
    assert client.update_collection_aliases([create])
    assert client.count(alias).count == 4
    assert [a.alias_name for a in client.get_collection_aliases(books).aliases] == [alias]
    rename = models.RenameAliasOperation(rename_alias=models.RenameAlias(old_alias_name=alias, new_alias_name=other))
    assert client.update_collection_aliases([rename])
    assert (other, books) in [(a.alias_name, a.collection_name) for a in client.get_aliases().aliases]
    refused(lambda: client.count(alias), 404, StatusCode.NOT_FOUND, alias)
    assert client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=other))])
    assert client.get_collection_aliases(books).aliases == []


def test_points_are_read_back_as_written(client, books):
    records = client.retrieve(books, [UUID, 1, 777], with_vectors=True)
    assert {str(r.id) for r in records} == {UUID, "1"}
    dune = next(r for r in records if r.id == 1)
    assert dune.payload == {"title": "Dune", "year": 1965, "tags": ["sand", "spice"]}
    assert dune.vector == pytest.approx([1, 0, 0, 0])
    bare = client.retrieve(books, [4], with_vectors=True)[0]
    assert not bare.payload
    assert bare.vector == pytest.approx([0, 0, 1, 0])  # Cosine keeps the direction
    assert client.retrieve(books, [1], with_payload=["title", "tags[]"])[0].payload == {"title": "Dune", "tags": ["sand", "spice"]}
    assert client.retrieve(books, [1], with_payload=models.PayloadSelectorExclude(exclude=["tags"]))[0].payload == {
        "title": "Dune", "year": 1965}


def test_a_batch_may_come_in_columns(client, name):
    client.create_collection(name, vectors_config=COSINE)
    vectors = np.eye(4, dtype=np.float32)
    client.upsert(name, models.Batch(ids=[1, 2, 3, 4], vectors=vectors.tolist(), payloads=[{"n": n} for n in range(4)]), wait=True)
    assert client.count(name).count == 4
    client.upload_collection(name, vectors=vectors, payload=[{"n": n} for n in range(4)], ids=[5, 6, 7, 8], batch_size=2, wait=True)
    assert client.count(name).count == 8


def test_queries_rank_by_score(client, books):
    hits = client.query_points(books, query=[1, 0, 0, 0], limit=3, with_payload=True).points
    assert [h.id for h in hits][:2] == [1, 2]
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert hits[0].payload["title"] == "Dune"
    assert client.query_points(books, query=1, limit=1).points[0].id == 2  # the point itself is left out
    assert [h.id for h in client.query_points(books, query=[1, 0, 0, 0], limit=2, offset=1).points][0] == 2
    above = client.query_points(books, query=[1, 0, 0, 0], score_threshold=0.5).points
    assert {h.id for h in above} == {1, 2}
    hits = client.query_points(books, query=[1, 0, 0, 0], limit=1, with_vectors=True).points
    assert hits[0].vector == pytest.approx([1, 0, 0, 0])
    exact = client.query_points(books, query=[1, 0, 0, 0], limit=4, search_params=models.SearchParams(exact=True, hnsw_ef=64))
    assert len(exact.points) == 4


@pytest.mark.parametrize("distance, points, scores", [
    (models.Distance.COSINE, [[1, 0], [3, 1], [0, 2]], [1.0, 3 / np.sqrt(10), 0.0]),
    (models.Distance.DOT, [[6, 2], [3, 1], [1, 0]], [6.0, 3.0, 1.0]),
    (models.Distance.EUCLID, [[1, 0], [3, 1], [5, 3]], [0.0, np.sqrt(5), 5.0]),
    (models.Distance.MANHATTAN, [[1, 0], [3, 1], [5, 3]], [0.0, 3.0, 7.0]),
])
def test_each_distance_scores_as_defined(client, name, distance, points, scores):
    client.create_collection(name, vectors_config=models.VectorParams(size=2, distance=distance))
    client.upsert(name, [models.PointStruct(id=i, vector=v) for i, v in enumerate(points)], wait=True)
    hits = client.query_points(name, query=[1, 0], limit=3).points
    assert [h.id for h in hits] == [0, 1, 2]
    assert [h.score for h in hits] == pytest.approx(scores, abs=1e-5)


def test_several_queries_in_one_request(client, books):
    requests = [models.QueryRequest(query=[1, 0, 0, 0], limit=1), models.QueryRequest(query=[0, 0, 1, 0], limit=1, with_payload=True)]
    answers = client.query_batch_points(books, requests)
    assert [a.points[0].id for a in answers] == [1, 4]


def test_filters_narrow_search_scroll_count_and_delete(client, books):
    old = models.Filter(must=[models.FieldCondition(key="year", range=models.Range(lt=1950))])
    assert client.count(books, old).count == 2
    assert {str(h.id) for h in client.query_points(books, query=[1, 0, 0, 0], query_filter=old).points} == {"2", UUID}
    sand = models.Filter(must=[models.FieldCondition(key="tags", match=models.MatchAny(any=["sand", "snow"]))])
    assert [r.id for r in client.scroll(books, sand)[0]] == [1]
    nested = models.Filter(must=[models.FieldCondition(key="author.name", match=models.MatchValue(value="K"))])
    assert client.count(books, nested).count == 1
    empty = models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="tags"))])
    assert client.count(books, empty).count == 3
    either = models.Filter(should=[old, models.HasIdCondition(has_id=[4])], must_not=[models.HasIdCondition(has_id=[UUID])])
    assert {r.id for r in client.scroll(books, either)[0]} == {2, 4}
    client.delete(books, models.FilterSelector(filter=old), wait=True)
    assert client.count(books).count == 2


def test_scrolling_visits_every_point_once(client, name):
    client.create_collection(name, vectors_config=COSINE)
    points = [models.PointStruct(id=i, vector=[1, i, 0, 0], payload={"i": i % 7}) for i in range(250)]
    client.upsert(name, points, wait=True)
    seen, offset = [], None
    while True:
        page, offset = client.scroll(name, limit=33, offset=offset)
        seen += [r.id for r in page]
        if offset is None:
            break
    assert seen == list(range(250))
    client.create_payload_index(name, "i", models.PayloadSchemaType.INTEGER, wait=True)
    ordered, _ = client.scroll(name, limit=40, order_by=models.OrderBy(key="i", direction=models.Direction.DESC, start_from=5))
    assert [r.payload["i"] for r in ordered] == [5] * 35 + [4] * 5
    best = client.query_points(name, query=models.OrderByQuery(order_by="i"), limit=3, with_payload=True).points
    assert [p.payload["i"] for p in best] == [0, 0, 0]
    sample = client.query_points(name, query=models.SampleQuery(sample=models.Sample.RANDOM), limit=20).points
    assert len({p.id for p in sample}) == 20


def test_payloads_are_set_replaced_and_cleared(client, books):
    client.set_payload(books, {"read": True}, [1], wait=True)
    client.set_payload(books, {"born": 1865}, [UUID], key="author", wait=True)
    payload = {str(r.id): r.payload for r in client.scroll(books)[0]}
    assert payload["1"]["read"] is True and payload["1"]["title"] == "Dune"
    assert payload[UUID]["author"] == {"name": "K", "born": 1865}
    client.overwrite_payload(books, {"only": 1}, [2], wait=True)
    client.delete_payload(books, ["tags", "read"], [1], wait=True)
    client.clear_payload(books, models.FilterSelector(filter=models.Filter(must=[models.HasIdCondition(has_id=[UUID])])), wait=True)
    payload = {str(r.id): r.payload for r in client.scroll(books)[0]}
    assert payload["1"] == {"title": "Dune", "year": 1965}
    assert payload["2"] == {"only": 1}
    assert not payload[UUID]
    refused(lambda: client.set_payload(books, {"a": 1}, [99], wait=True), 404, StatusCode.NOT_FOUND, "99")


def test_a_batch_of_updates_is_applied_in_order(client, books):
    results = client.batch_update_points(books, wait=True, update_operations=[
        models.UpsertOperation(upsert=models.PointsList(points=[models.PointStruct(id=9, vector=[0, 0, 0, 1], payload={"a": 1})])),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"b": 2}, points=[9])),
        models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["a"], points=[9])),
        models.DeleteOperation(delete=models.PointIdsList(points=[1])),
    ])
    assert [r.status for r in results] == [models.UpdateStatus.COMPLETED] * 4
    assert client.retrieve(books, [9])[0].payload == {"b": 2}
    assert client.retrieve(books, [1]) == []


def test_facets_count_values(client, books):
    client.create_payload_index(books, "tags", models.PayloadSchemaType.KEYWORD, wait=True)
    hits = client.facet(books, "tags").hits
    assert [(h.value, h.count) for h in hits] == [("sand", 1), ("spice", 1)]


def test_named_vectors_live_side_by_side(client, name):
    client.create_collection(name, vectors_config={
        "image": models.VectorParams(size=2, distance=models.Distance.DOT),
        "text": models.VectorParams(size=3, distance=models.Distance.COSINE)})
    client.upsert(name, wait=True, points=[
        models.PointStruct(id=1, vector={"image": [1, 0], "text": [1, 0, 0]}),
        models.PointStruct(id=2, vector={"image": [0, 1]})])
    assert [h.id for h in client.query_points(name, query=[0, 1], using="image").points] == [2, 1]
    assert [h.id for h in client.query_points(name, query=[0, 1, 0], using="text").points] == [1]
    has = models.Filter(must=[models.HasVectorCondition(has_vector="text")])
    assert [r.id for r in client.scroll(name, has)[0]] == [1]
    client.update_vectors(name, [models.PointVectors(id=2, vector={"text": [0, 1, 0]})], wait=True)
    assert client.query_points(name, query=[0, 1, 0], using="text", limit=1).points[0].id == 2
    client.delete_vectors(name, ["text"], [1], wait=True)
    assert client.count(name, has).count == 1
    assert set(client.retrieve(name, [2], with_vectors=True)[0].vector) == {"image", "text"}
    refused(lambda: client.query_points(name, query=[1, 0], using="audio"), 400, StatusCode.INVALID_ARGUMENT, "audio")


def test_what_is_not_there_says_so(client, books):
    calls = [
        lambda: client.query_points(books, query=models.RecommendQuery(recommend=models.RecommendInput(positive=[1]))),
        lambda: client.query_points(books, query=models.FusionQuery(fusion=models.Fusion.RRF),
                                    prefetch=[models.Prefetch(query=[1, 0, 0, 0])]),
        lambda: client.query_points_groups(books, query=[1, 0, 0, 0], group_by="title"),
        lambda: client.create_snapshot(books),
        lambda: client.search_matrix_pairs(books),
        lambda: client.create_payload_index(books, "where", models.PayloadSchemaType.GEO),
        lambda: client.create_collection(f"{books}-s", vectors_config=COSINE, sparse_vectors_config={"s": models.SparseVectorParams()}),
        lambda: client.create_collection(f"{books}-q", vectors_config=COSINE, quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8))),
        lambda: client.create_collection(f"{books}-m", vectors_config=COSINE, shard_number=3),
    ]
    for call in calls:
        with pytest.raises((UnexpectedResponse, RpcError)) as caught:
            call()
        error = caught.value
        text = error.content.decode() if isinstance(error, UnexpectedResponse) else error.details()
        assert "not supported" in text.lower(), error


def test_many_clients_write_and_read_at_once(connect, client, name):
    client.create_collection(name, vectors_config=COSINE)
    failures = []

    def work(worker: int):
        own = connect()
        try:
            for step in range(20):
                base = worker * 1000 + step * 10
                own.upsert(name, [models.PointStruct(id=base + i, vector=[1, worker, step, i]) for i in range(10)], wait=True)
                assert len(own.retrieve(name, [base, base + 9])) == 2
                assert own.query_points(name, query=[1, worker, step, 0], limit=1).points
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert client.count(name).count == 1600


def test_the_short_paths_of_the_plan(server, books):
    def post(path, body):
        answer = httpx.post(f"{server.url}/collections/{books}/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    assert post("search", {"vector": [1, 0, 0, 0], "limit": 1})[0]["id"] == 1
    assert post("query", {"query": [1, 0, 0, 0], "limit": 1})["points"][0]["id"] == 1
    assert len(post("scroll", {"limit": 2})["points"]) == 2
    assert post("count", {})["count"] == 4
    assert post("upsert?wait=true", {"points": [{"id": 8, "vector": [0, 0, 0, 1]}]})["status"] == "completed"
    assert post("delete?wait=true", {"points": [8]})["status"] == "completed"


def test_probes_metrics_and_telemetry(server, books):
    for path in ("healthz", "livez", "readyz"):
        assert httpx.get(f"{server.url}/{path}").status_code == 200
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "collections_total" in metrics and f'collection_points{{id="{books}"}} 4' in metrics
    telemetry = httpx.get(f"{server.url}/telemetry").json()["result"]
    assert telemetry["collections"]["number_of_collections"] >= 1


def test_an_api_key_opens_both_doors_and_nothing_else_does(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"sha256:{hashlib.sha256(b'secret').hexdigest()}  test\n")
    guarded = Server([f"server.auth.keys_file={keys}"])
    if not guarded.ours:
        pytest.skip("the server under test was started elsewhere")
    try:
        for prefer_grpc in (False, True):
            def client(key):
                return QdrantClient(url=guarded.url, grpc_port=guarded.grpc_port, prefer_grpc=prefer_grpc, api_key=key,
                                    check_compatibility=False)
            for key in (None, "wrong"):
                refused(lambda: client(key).get_collections(), 401, StatusCode.UNAUTHENTICATED, "API key")
            assert client("secret").get_collections().collections == []
        assert httpx.get(f"{guarded.url}/collections", headers={"authorization": "Bearer secret"}).status_code == 200
        assert httpx.get(f"{guarded.url}/collections").json()["status"]["error"]
    finally:
        guarded.stop()
