"""The other engines on the same rows and queries as `cargo bench -p vectorforge --bench vector`.

    python run.py [--rows 100000] [--record] [hnswlib usearch qdrant-edge]

M = 16, ef_construct = 128, cosine, one thread, processor time. Prints recall@10 and QPS by ef; --record appends a line
per engine (QPS at the smallest ef with recall@10 >= 0.95) to docs/benchmarks/vector.jsonl, with our own figure as `ours`
where the file has one for the same number of rows.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np

QUERIES, TOP = 500, 10
EFS = [48, 64, 96, 128, 160, 192, 256, 384, 512]
ROOT = pathlib.Path(__file__).resolve().parents[3]


def load(rows):
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    data = np.fromfile(cache / "aistack" / "data" / "glove-100.f32", dtype="<f4").reshape(-1, 100)[:rows]
    data = data / np.linalg.norm(data, axis=1, keepdims=True)
    stride = rows // QUERIES
    picked = np.arange(len(data)) % stride == stride // 2
    picked[np.flatnonzero(picked)[QUERIES:]] = False
    return data[~picked], data[picked]


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
        hnsw_config=q.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=1, max_indexing_threads=1),
    )
    shard = q.EdgeShard.create(folder.name, config)
    for start in range(0, len(base), 5000):
        points = [q.Point(start + at, row.tolist()) for at, row in enumerate(base[start : start + 5000])]
        shard.update(q.UpdateOperation.upsert_points(points))
    shard.optimize()

    def search(query, ef):
        request = q.QueryRequest(query=q.Query.Nearest(query.tolist()), limit=TOP, params=q.SearchParams(hnsw_ef=ef))
        return [hit.id for hit in shard.query(request)]

    search.folder = folder
    return search, "qdrant-edge-py 0.9.0"


BUILDERS = {"hnswlib": build_hnswlib, "usearch": build_usearch, "qdrant-edge": build_qdrant}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("engines", nargs="*", default=list(BUILDERS))
    options = parser.parse_args()
    base, queries = load(options.rows)
    truth = [set(np.argpartition(-(base @ query), TOP)[:TOP].tolist()) for query in queries]
    for name in options.engines:
        before = time.process_time()
        search, version = BUILDERS[name](base)
        print(f"{version}: built in {time.process_time() - before:.0f} s of processor time", flush=True)
        for ef in EFS:
            runs = []
            for _ in range(3):
                before = time.process_time()
                answers = [search(query, ef) for query in queries]
                runs.append((time.process_time() - before) / QUERIES)
            recall = sum(len(truth[at] & {int(key) for key in answer}) for at, answer in enumerate(answers))
            recall /= QUERIES * TOP
            qps = 1 / sorted(runs)[1]
            print(f"  ef {ef:4} recall {recall:.4f} {qps:8.0f} QPS", flush=True)
            if recall >= 0.95:
                if options.record:
                    record(len(base), ef, qps, version)
                break


def record(rows, ef, qps, version):
    path = ROOT / "docs" / "benchmarks" / "vector.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    same = [line for line in lines if line["id"] == "A4" and line["unit"] == "QPS" and f"{rows} x 100" in line["what"]]
    ours = same[-1]["ours"] if same else None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    line = {
        "id": "A4",
        "what": f"beside it, not interleaved: QPS of one thread at recall@10 >= 0.95, {rows} x 100 (peer ef {ef})",
        "ours": ours,
        "peer": qps,
        "unit": "QPS",
        "ratio": ours / qps if ours else None,
        "peer_version": version,
        "machine": same[-1]["machine"] if same else "",
        "commit": commit.stdout.strip(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "runs": 3,
    }
    with open(path, "a") as out:
        out.write(json.dumps(line) + "\n")


main()
