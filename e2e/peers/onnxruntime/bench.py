"""A3: TinyInfer's MiniLM beside onnxruntime on the exported model, interleaved, medians.

    python bench.py MODEL.onnx MODEL_FOLDER SPEED_BINARY [--rounds N] [--jsonl docs/benchmarks/inference.jsonl] [--commit ID]

One thread each, CPU time of the computing thread. onnxruntime runs with all graph optimisations and returns token vectors;
TinyInfer returns the pooled, normalised vector.
"""
import argparse
import datetime
import json
import pathlib
import platform
import statistics
import subprocess
import time

import numpy as np
import onnxruntime

TOKENS, CALLS = 128, 20


def session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def peer(s: onnxruntime.InferenceSession) -> float:
    ids = np.array([[1000 + ((i * 2654435761) & 0xFFFFFFFF) // 4096 % 20000 for i in range(TOKENS)]], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    s.run(None, feeds)
    seconds = []
    for _ in range(CALLS):
        began = time.thread_time()
        s.run(None, feeds)
        seconds.append(time.thread_time() - began)
    return 1e3 * statistics.median(seconds)


def ours(binary: str, folder: str) -> float:
    out = subprocess.run([binary, "embed", folder, "1", str(TOKENS), str(CALLS)], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)["embed_ms"]


def cpu_name() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("onnx")
    args.add_argument("folder")
    args.add_argument("binary")
    args.add_argument("--rounds", type=int, default=7)
    args.add_argument("--jsonl", type=pathlib.Path)
    args.add_argument("--commit", default="")
    args = args.parse_args()
    s = session(args.onnx)
    rounds = [(ours(args.binary, args.folder), peer(s)) for _ in range(args.rounds)]
    mine, theirs = statistics.median(r[0] for r in rounds), statistics.median(r[1] for r in rounds)
    line = {
        "id": "A3", "what": f"all-MiniLM-L6-v2, one text of {TOKENS} tokens, 1 thread, CPU time, float32", "ours": round(mine, 2),
        "peer": round(theirs, 2), "unit": "ms", "ratio": round(mine / theirs, 3),
        "peer_version": f"onnxruntime {onnxruntime.__version__}", "machine": f"{cpu_name()}, 2 vCPU",
        "commit": args.commit, "date": datetime.date.today().isoformat(), "runs": args.rounds,
    }
    print(json.dumps(line))
    if args.jsonl:
        with args.jsonl.open("a") as f:
            f.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
