"""A1 and A2: TinyInfer beside llama.cpp on the same GGUF file, interleaved, medians.

    python bench.py MODEL.gguf SPEED_BINARY [--rounds N] [--jsonl docs/benchmarks/inference.jsonl] [--commit ID]

SPEED_BINARY is the example `speed` of crate tinyinfer. With one thread both sides are timed in CPU time of the computing
thread, so that a busy machine disturbs neither. The second peer row is llama.cpp on the same model requantised to Q4_0, the
format it has its fastest kernels for.
"""
import argparse
import ctypes
import datetime
import json
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

import llama_cpp

PROMPT, DECODE = 512, 32


class Peer:
    """llama.cpp through its C interface, so that no Python is timed but one call a step."""

    def __init__(self, path: str, threads: int):
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = 1024, PROMPT, PROMPT
        context.n_threads = context.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        self.clock = time.thread_time if threads == 1 else time.perf_counter

    def step(self, tokens: list[int]) -> float:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        began = self.clock()
        assert llama_cpp.llama_decode(self.context, batch) == 0
        llama_cpp.llama_synchronize(self.context)
        return self.clock() - began

    def run(self) -> tuple[float, float]:
        text = [1000 + ((i * 2654435761) & 0xFFFFFFFF) // 4096 % 20000 for i in range(PROMPT + DECODE)]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        prefill = PROMPT / self.step(text[:PROMPT])
        decode = [self.step([token]) for token in text[PROMPT:]]
        return prefill, 1 / statistics.median(decode)


def requantise(path: str, out: str) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    params.allow_requantize = True
    params.nthread = 1
    assert llama_cpp.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(params)) == 0


def ours(binary: str, path: str, threads: int) -> tuple[float, float]:
    out = subprocess.run([binary, "generate", path, str(threads), str(PROMPT), str(DECODE), "1"],
                         check=True, capture_output=True, text=True).stdout
    figures = json.loads(out)
    return figures["prefill_tok_s"], figures["decode_tok_s"]


def cpu_name() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("binary")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--jsonl", type=pathlib.Path)
    args.add_argument("--commit", default="")
    args = args.parse_args()
    log = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(log, None)
    with tempfile.TemporaryDirectory() as folder:
        q4_0 = f"{folder}/q4_0.gguf"
        requantise(args.model, q4_0)
        same, fast = Peer(args.model, args.threads), Peer(q4_0, args.threads)
        rounds = []
        for _ in range(args.rounds):
            rounds.append((ours(args.binary, args.model, args.threads), same.run(), fast.run(),
                           ours(args.binary, q4_0, args.threads)))
    timed = "1 thread, CPU time" if args.threads == 1 else f"{args.threads} threads, wall time"
    median = lambda who, what: statistics.median(r[who][what] for r in rounds)
    lines = []
    for what, (row, name) in enumerate([("A1", f"SmolLM2-135M prefill of {PROMPT} tokens"),
                                        ("A2", f"SmolLM2-135M decode at {PROMPT} tokens of context")]):
        for us, peer, label in [(0, 1, "Q4_1, peer on the same file"), (0, 2, "Q4_1, peer on Q4_0"),
                                (3, 2, "Q4_0, peer on the same file")]:
            mine, theirs = median(us, what), median(peer, what)
            lines.append({
                "id": row, "what": f"{name}, {timed}, {label}",
                "ours": round(mine, 1), "peer": round(theirs, 1), "unit": "tok/s", "ratio": round(mine / theirs, 3),
                "peer_version": f"llama-cpp-python {llama_cpp.__version__}", "machine": f"{cpu_name()}, 2 vCPU",
                "commit": args.commit, "date": datetime.date.today().isoformat(), "runs": args.rounds,
            })
    for line in lines:
        print(json.dumps(line))
    if args.jsonl:
        with args.jsonl.open("a") as f:
            f.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
