"""Speed of every kernel beside its peer on one GPU: interleaved, caches cold, medians of CUDA-event timings, random data.

The cache is flushed by reading, not by writing as triton.testing.do_bench does: lines a write leaves dirty are written back during the timed
call, at the cost of as many bytes as it reads.

Prints one JSON line a measurement. Peers out of the vLLM wheel are used where `--peers FOLDER` holds them (hack/gpu/peers.py packs them).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import tinykernels as tk
import triton_peers

DEV = "cuda:0"
ROUNDS = 60
ARGS = argparse.ArgumentParser()
ARGS.add_argument("--peers", type=Path)
ARGS.add_argument("--commit", default="unknown")
ARGS.add_argument("--only", default="")
ARGS = ARGS.parse_args()
torch.manual_seed(time.time_ns())
flush = torch.randn(64 << 20, device=DEV)


def clocks():
    out = subprocess.run(["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu", "--format=csv,noheader,nounits"], capture_output=True, text=True).stdout
    sm, mem, power, heat = (x.strip() for x in out.strip().split(","))
    return {"sm_mhz": int(sm), "mem_mhz": int(mem), "watts": float(power), "celsius": int(heat)}


def steady(calls, rounds=ROUNDS):
    """As times, for calls that each move several times the L2 cache and rotate among buffers: no flush, whose dirty lines they would pay for."""
    for call in calls:
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    events = [[] for _ in calls]
    for _ in range(rounds):
        for call, log in zip(calls, events):
            call()
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            for _ in range(4):
                call()
            b.record()
            log.append((a, b))
    torch.cuda.synchronize()
    result = []
    for log in events:
        t = sorted(a.elapsed_time(b) * 250 for a, b in log)
        result.append((t[len(t) // 2], t[len(t) // 10], t[len(t) * 9 // 10]))
    return result


def times(calls, rounds=ROUNDS, before=None):
    """Median, 10th and 90th percentile in microseconds of each call; one of each in turn, the L2 cache flushed before each."""
    for call in calls:
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    events = [[] for _ in calls]
    for _ in range(rounds):
        for call, log in zip(calls, events):
            if before:
                before()
            flush.sum(), flush.sum()  # twice: the host queues the call meanwhile
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            call()
            b.record()
            log.append((a, b))
    torch.cuda.synchronize()
    result = []
    for log in events:
        t = sorted(a.elapsed_time(b) * 1000 for a, b in log)
        result.append((t[len(t) // 2], t[len(t) // 10], t[len(t) * 9 // 10]))
    return result


def row(id_, what, ours, peer, unit, peer_version, better="higher", **more):
    """ours and peer in `unit`; ratio is ours over peer, and `better` says which way is good."""
    ratio = None if peer is None else ours / peer
    line = {"id": id_, "what": what, "ours": round(ours, 2), "peer": peer and round(peer, 2), "unit": unit, "better": better,
            "ratio": ratio and round(ratio, 4), "peer_version": peer_version, "machine": MACHINE, "commit": ARGS.commit,
            "date": time.strftime("%Y-%m-%d"), "runs": ROUNDS, **more, "clocks": clocks()}
    print(json.dumps(line), flush=True)


def compare(id_, what, ours, peers, bytes_=None, flops=None, measure=None, before=None):
    """One interleaved run of ours and every peer; a row a peer, in GB/s or TFLOP/s where the work is given, else in microseconds."""
    calls = [ours, *(call for _, call in peers)]
    measured = measure(calls) if measure else times(calls, before=before)
    def convert(us):
        return bytes_ / us / 1e3 if bytes_ else flops / us / 1e6 if flops else us
    unit = "GB/s" if bytes_ else "TFLOP/s" if flops else "us"
    better = "lower" if unit == "us" else "higher"
    (us, low, high), rest = measured[0], measured[1:]
    spread = {"us": round(us, 2), "us_p10": round(low, 2), "us_p90": round(high, 2)}
    if bytes_:
        spread["share_of_copy"] = round(bytes_ / us / 1e3 / COPY, 4)
    if not peers:
        row(id_, what, convert(us), None, unit, None, better, **spread)
    for (name, _), (peer_us, *_) in zip(peers, rest):
        row(id_, what, convert(us), convert(peer_us), unit, name, better, **spread, peer_us=round(peer_us, 2))


def rand(*shape, dtype=torch.bfloat16, scale=1.0):
    return (torch.randn(*shape, device=DEV) * scale).to(dtype)


def load_peers():
    """The operators of the vLLM wheel that were packed, by loading their libraries alone."""
    have = {}
    for name, file in (("fa3", "fa3.so"), ("vllm", "vllm_c.so")):
        path = ARGS.peers and ARGS.peers / file
        if path and path.exists():
            try:
                torch.ops.load_library(str(path))
                have[name] = True
            except OSError as e:
                print(json.dumps({"peer": name, "error": str(e)[:300]}), flush=True)
    return have


def rotating(function, *sets):
    """Calls function with one buffer set after the other."""
    turn = [0]
    def call():
        turn[0] = (turn[0] + 1) % len(sets)
        return function(*sets[turn[0]])
    return call


def same_size_copy(bytes_):
    pairs = [(torch.empty(bytes_ // 2, dtype=torch.uint8, device=DEV).random_(), torch.empty(bytes_ // 2, dtype=torch.uint8, device=DEV)) for _ in range(2)]
    return rotating(lambda x, y: y.copy_(x), *pairs)


def fused():
    for rows, hidden in [(8192, 4096), (32768, 4096), (256, 4096), (1, 4096)]:
        bytes_ = 4 * 2 * rows * hidden
        large = bytes_ > 2e8
        w = rand(hidden)
        sets = [(rand(rows, hidden), rand(rows, hidden), rand(rows, hidden)) for _ in range(2 if large else 1)]
        device, stream = tk._at(w)
        native = tk._native.lib.tk_add_rms_norm
        ours = rotating(lambda x, r, y: native(device, stream, y.data_ptr(), x.data_ptr(), r.data_ptr(), w.data_ptr(), rows, hidden, 1e-5), *sets)
        in_place = tk._native.lib.tk_add_rms_norm_in_place
        own = [(x.clone(), r.clone()) for x, r, _ in sets]
        alone = rotating(lambda x, r: in_place(device, stream, x.data_ptr(), r.data_ptr(), w.data_ptr(), rows, hidden, 1e-5), *own)
        peers = []
        if "vllm" in PEERS:
            theirs = [(x.clone(), r.clone()) for x, r, _ in sets]
            peers.append(("vLLM 0.24.0 fused_add_rms_norm", rotating(lambda x, r: torch.ops._C.fused_add_rms_norm(x, r, w, 1e-5), *theirs)))
        if large:
            peers.append(("copy of as many bytes", same_size_copy(bytes_)))
        apart = (f"Triton {triton_peers.VERSION}", rotating(lambda x, r, y: triton_peers.add_rms_norm(x, r, w, y, 1e-5), *sets))
        compare("K5", f"add+RMSNorm bf16 [{rows}, {hidden}]", ours, [*peers, apart], bytes_=bytes_, measure=steady if large else times)
        compare("K5", f"add+RMSNorm in place bf16 [{rows}, {hidden}]", alone, peers, bytes_=bytes_, measure=steady if large else times)
    for rows, inner in [(8192, 14336), (256, 14336), (1, 14336)]:
        bytes_ = 3 * 2 * rows * inner
        large = bytes_ > 2e8
        sets = [(rand(rows, 2 * inner), rand(rows, inner)) for _ in range(2 if large else 1)]
        device, stream = tk._at(sets[0][0])
        native2 = tk._native.lib.tk_silu_mul
        ours = rotating(lambda g, out: native2(device, stream, out.data_ptr(), g.data_ptr(), rows, inner), *sets)
        peers = []
        if "vllm" in PEERS:
            peers.append(("vLLM 0.24.0 silu_and_mul", rotating(lambda g, out: torch.ops._C.silu_and_mul(out, g), *sets)))
        if large:
            peers.append(("copy of as many bytes", same_size_copy(bytes_)))
        peers.append((f"Triton {triton_peers.VERSION}", rotating(lambda g, out: triton_peers.silu_mul(g, out), *sets)))
        compare("K5", f"SiLU*mul bf16 [{rows}, {inner}]", ours, peers, bytes_=bytes_, measure=steady if large else times)


def decode():
    for sequences, length in [(64, 4096), (1, 8192), (32, 4096), (128, 2048), (1, 65536), (16, 1000)]:
        heads, kv_heads, page = 32, 8, 16
        width = -(-length // page)
        pages = sequences * width
        keys, values = rand(pages, kv_heads, page, 128), rand(pages, kv_heads, page, 128)
        table = torch.randperm(pages, device=DEV, dtype=torch.int32).view(sequences, width)
        lens = torch.full((sequences,), length, dtype=torch.int32, device=DEV)
        q = rand(sequences, heads, 128)
        out = torch.empty_like(q)
        device, stream, step, workspace = tk._decode_call(out, q, keys, values, table, lens, 128**-0.5)
        from ctypes import byref
        ours = lambda: tk._native.lib.tk_paged_decode(device, stream, byref(step), workspace)
        peers = []
        if "fa3" in PEERS:
            k3, v3 = keys.transpose(1, 2).contiguous(), values.transpose(1, 2).contiguous()
            cu = torch.arange(sequences + 1, device=DEV, dtype=torch.int32)
            def peer():
                return torch.ops._vllm_fa3_C.fwd(q, k3, v3, None, None, None, None, cu, None, None, None, lens, 1, length, table, None, None, None, None, None,
                                                 None, None, None, 128**-0.5, True, -1, -1, 0.0, True, None, 0, None, 0, None, 1, 0, None)[0]
            ours()
            gap = float((peer().double() - out.double()).norm() / out.double().norm())
            peers.append((f"FlashAttention-3 of vLLM 0.24.0 (rel. difference {gap:.1e})", peer))
        compare("K2", f"paged decode attention {sequences} x {length}, heads 32/8, d 128, page 16", ours, peers, bytes_=2 * 2 * sequences * kv_heads * length * 128)


def gemm():
    shapes = [(8192, 8192, 8192), (4096, 4096, 4096)]
    shapes += [(rows, n, k) for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) for n, k in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))]
    for rows, features, columns in shapes:
        x, w = rand(rows, columns), rand(features, columns)
        y = torch.empty(rows, features, device=DEV, dtype=torch.bfloat16)
        device, stream = tk._at(x)
        ours = lambda: tk._native.lib.tk_linear_bf16(device, stream, y.data_ptr(), x.data_ptr(), w.data_ptr(), rows, features, columns)
        compare("K1", f"bf16 linear M {rows} N {features} K {columns}", ours, [(f"cuBLAS (torch {torch.__version__})", lambda: F.linear(x, w))], flops=2 * rows * features * columns)


def w4():
    for features, columns in [(14336, 4096), (4096, 14336), (6144, 4096), (4096, 4096)]:
        nibbles = torch.randint(0, 16, (features, columns), dtype=torch.uint8)
        scales = torch.rand(features, columns // 128) * 0.02 + 0.001
        linear = tk.W4Linear(nibbles, scales, torch.full(scales.shape, 8, dtype=torch.uint8), DEV)
        bytes_ = torch.randint(0, 256, (features, columns), dtype=torch.uint8)
        wide = tk.W8Linear(bytes_, scales, torch.full(scales.shape, 128, dtype=torch.int16), DEV)
        dense = rand(features, columns)
        marlin, marlin8 = ("vllm" in PEERS and marlin_weights(n, scales, bits) for n, bits in ((nibbles, 4), (bytes_, 8)))
        for rows in (1, 8, 16, 32, 64):
            x = rand(rows, columns)
            y = torch.empty(rows, features, device=DEV, dtype=torch.bfloat16)
            device, stream = tk._at(x)
            ours = lambda: tk._native.lib.tk_packed_linear(device, stream, y.data_ptr(), x.data_ptr(), linear._weights, rows)
            peers = [("cuBLAS bf16 (torch " + torch.__version__ + ")", lambda: F.linear(x, dense))]
            if marlin:
                peer = marlin(x)
                ours()
                gap = float((peer().double() - y.double()).norm() / y.double().norm())
                peers.insert(0, (f"Marlin of vLLM 0.24.0, bf16 (rel. difference {gap:.1e})", peer))
            compare("K4", f"W4A16 group 128, M {rows} N {features} K {columns}", ours, peers)
            peers, ours = peers[-1:], lambda: tk._native.lib.tk_packed_linear(device, stream, y.data_ptr(), x.data_ptr(), wide._weights, rows)
            if marlin8:
                peer = marlin8(x)
                ours()
                gap = float((peer().double() - y.double()).norm() / y.double().norm())
                peers.insert(0, (f"Marlin of vLLM 0.24.0, 8 bits, bf16 (rel. difference {gap:.1e})", peer))
            compare("K4", f"W8A16 group 128, M {rows} N {features} K {columns}", ours, peers)


def marlin_weights(numbers, scales, bits):
    """The peer's own packing of the same weights."""
    import importlib.util
    spec = importlib.util.spec_from_file_location("scalar_type", ARGS.peers / "scalar_type.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["scalar_type"] = module
    spec.loader.exec_module(module)
    kind = (module.scalar_types.uint4b8 if bits == 4 else module.scalar_types.uint8b128).id
    features, columns = numbers.shape
    w, each = numbers.to(DEV).int().t().contiguous(), 32 // bits  # [K, N]
    packed = torch.zeros(columns // each, features, dtype=torch.int32, device=DEV)
    for i in range(each):
        packed |= w[i::each] << (bits * i)
    empty = torch.empty(0, dtype=torch.int32, device=DEV)
    repacked = torch.ops._C.gptq_marlin_repack(packed, empty, columns, features, bits, False)
    order = [i + 8 * j for i in range(8) for j in range(8)]
    s = scales.to(DEV).bfloat16().t().contiguous()
    s = s.reshape(-1, 64)[:, order].reshape(-1, features).contiguous()
    workspace = torch.zeros(torch.cuda.get_device_properties(0).multi_processor_count, dtype=torch.int32, device=DEV)
    def bind(x):
        rows = x.shape[0]
        return lambda: torch.ops._C.marlin_gemm(x, None, repacked, None, s, None, None, None, None, None, workspace, kind, rows, features, columns, True, False, True, False)
    return bind


def sampling():
    for rows, vocabulary, sigma, top_p in [(64, 128256, 1.0, 0.9), (64, 128256, 4.0, 0.9), (64, 128256, 1.0, 1.0), (1, 128256, 4.0, 0.9), (256, 128256, 4.0, 0.9)]:
        logits = rand(rows, vocabulary, dtype=torch.float32, scale=sigma)
        ones = torch.ones(rows, device=DEV)
        arguments = [ones, ones * top_p, ones * 0, ones.int() * 0, torch.randint(0, 2**62, (rows,), device=DEV)]
        token, logprob = torch.empty(rows, dtype=torch.int32, device=DEV), torch.empty(rows, device=DEV)
        device, stream = tk._at(logits)
        from ctypes import byref

        from tinykernels import _sampling
        s = _sampling._call(token, logprob, logits, arguments, None, vocabulary, None)
        if top_p == 0.9 and sigma == 1.0:
            counts = torch.zeros(rows, vocabulary, dtype=torch.int16, device=DEV)
            for r in range(rows):
                tk.Penalties.start(counts, r, torch.randint(0, vocabulary, (2000,), device=DEV, dtype=torch.int32))
            penalised = _sampling._call(token, logprob, logits, arguments, None, vocabulary, tk.Penalties(ones * 1.1, ones * 0.2, ones * 0.1, torch.arange(rows, device=DEV, dtype=torch.int32), counts))
            compare("K6", f"sample {rows} x {vocabulary} f32 with penalties, logits N(0, {sigma}), top-p {top_p}", lambda: tk._native.lib.tk_sample(device, stream, byref(penalised)), [])
        ours = lambda: tk._native.lib.tk_sample(device, stream, byref(s))
        def peer():
            values, index = torch.sort(logits, -1, descending=True)
            p = torch.softmax(values, -1)
            before = p.cumsum(-1) - p
            p = torch.where(before < top_p, p, 0)
            e = torch.empty_like(p).exponential_()
            return index.gather(-1, (p / e).argmax(-1, keepdim=True))
        compare("K6", f"sample {rows} x {vocabulary} f32, logits N(0, {sigma}), top-p {top_p}", ours, [(f"sort, cumsum, draw in torch {torch.__version__}", peer)])


def sorting():
    import cupy

    n = 1 << 24
    keys = torch.randint(0, 2**31 - 1, (n,), device=DEV, dtype=torch.int32)
    mine, values = keys.clone().view(torch.uint32), torch.arange(n, device=DEV, dtype=torch.int32).view(torch.uint32)
    sorter = tk.Sorter(n, DEV, pairs=True)
    unsorted = cupy.asarray(keys).view(cupy.uint32)

    def cub():
        with cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
            cupy.sort(unsorted)

    # Sorting in place needs the keys put back before each call, outside of what is timed.
    restore = lambda: mine.copy_(keys.view(torch.uint32))
    compare("K5", "sort of 16 M u32, keys alone", lambda: sorter(mine), [(f"CUB (cupy {cupy.__version__}), with its copy of the input", cub)], before=restore)
    compare("K5", "sort of 16 M u32 with u32 values", lambda: sorter(mine, values), [(f"torch.sort (torch {torch.__version__}), 64-bit values", lambda: torch.sort(keys))], before=restore)


def prefill():
    """Causal: half of the square counts, as the peer's own figures do."""
    from ctypes import byref

    from tinykernels import _prefill
    for sequences, length, dim, page, chunk in [
        (1, 16384, 128, 0, 0), (1, 16384, 64, 0, 0), (1, 8192, 128, 0, 0), (4, 2048, 128, 0, 0), (16, 512, 128, 0, 0), (1, 16384, 128, 16, 0), (1, 16384, 128, 64, 0), (4, 16384, 128, 16, 2048),
    ]:
        heads, kv_heads, queries = 32, 8, chunk or length
        q, k, v = rand(sequences * queries, heads, dim), rand(sequences * length, kv_heads, dim), rand(sequences * length, kv_heads, dim)
        plan = _prefill._Plan(0, heads, kv_heads, dim, dim**-0.5, True, 0, 0.0, (queries,) * sequences, (length,) * sequences)
        table = paged = None
        if page:
            count = sequences * length // page
            table = torch.randperm(count, device=DEV, dtype=torch.int32)
            paged = [torch.empty_like(x) for x in (k, v)]
            for x, y in zip(paged, (k, v)):
                x[table.long().repeat_interleave(page) * page + torch.arange(page, device=DEV).repeat(count)] = y
            table = table.view(sequences, -1)
            ours_kv = [x.view(count, page, kv_heads, dim).transpose(1, 2).contiguous() for x in paged]
        out = torch.empty_like(q)
        device, stream, call, pointer = _prefill._call(out, q, *(ours_kv if page else (k, v)), table, plan)
        ours = lambda: tk._native.lib.tk_prefill(device, stream, byref(call), pointer)
        peers = []
        if "fa3" in PEERS:
            starts = [torch.arange(sequences + 1, device=DEV, dtype=torch.int32) * n for n in (queries, length)]
            lengths = torch.full((sequences,), length, device=DEV, dtype=torch.int32)
            keys, values = (x.view(-1, page, kv_heads, dim) for x in paged) if page else (k, v)

            def peer():
                return torch.ops._vllm_fa3_C.fwd(q, keys, values, None, None, None, None, starts[0], None if page else starts[1], None, None, lengths if page else None, queries,
                                                 length, table, None, None, None, None, None, None, None, None, dim**-0.5, True, -1, -1, 0.0, True, None, 0, None, 0, None, 1, 0, None)[0]
            ours()
            gap = float((peer().double() - out.double()).norm() / out.double().norm())
            peers.append((f"FlashAttention-3 of vLLM 0.24.0 (rel. difference {gap:.1e})", peer))
        pairs = queries * length - (queries * queries) / 2
        what = f"causal prefill {sequences} x {length}, heads 32/8, d {dim}" + (f", page {page}" if page else "") + (f", the last {chunk} tokens" if chunk else "")
        compare("K3", what, ours, peers, flops=4 * sequences * heads * dim * pairs)
    # Every tile walked twice: the first key outdoes all others by far.
    q, k, v = rand(16384, 32, 128).abs(), rand(16384, 8, 128), rand(16384, 8, 128)
    k[0] = 10
    plan = _prefill._Plan(0, 32, 8, 128, 128**-0.5, True, 0, 0.0, (16384,), (16384,))
    out = torch.empty_like(q)
    device, stream, call, pointer = _prefill._call(out, q, k, v, None, plan)
    compare("K3", "causal prefill 1 x 16384, heads 32/8, d 128, a first key far above all others, so that every tile is walked twice", lambda: tk._native.lib.tk_prefill(device, stream, byref(call), pointer), [],
            flops=2 * 16384**2 * 32 * 128)


def rope():
    from ctypes import byref

    from tinykernels import _rope
    for tokens in (8192, 32768):
        heads, kv_heads, dim, page = 32, 8, 128, 16
        rows = heads + 2 * kv_heads
        qkv, q = rand(tokens, rows * dim), torch.empty(tokens, heads, dim, device=DEV, dtype=torch.bfloat16)
        keys, values = rand(tokens // page, kv_heads, page, dim), rand(tokens // page, kv_heads, page, dim)
        rotary, positions = torch.randn(tokens, dim, device=DEV), torch.arange(tokens, device=DEV, dtype=torch.int32)
        slots = (torch.randperm(tokens // page, device=DEV).repeat_interleave(page) * page + torch.arange(tokens, device=DEV) % page).int()
        weights = rand(dim), rand(dim)
        device, stream = tk._at(qkv)
        ones = torch.ones(kv_heads, device=DEV)
        low = [t.to(torch.float8_e4m3fn) for t in (keys, values)]
        for name, pair, of_e4m3 in (("rotary + paged write", (None, None), False), ("QK-norm + rotary + paged write", weights, False), ("rotary + paged e4m3 write", (None, None), True)):
            call = _rope._call(q, *(low if of_e4m3 else (keys, values)), qkv, rotary, positions, slots, *pair, 1e-6, *((ones, ones) if of_e4m3 else ()))
            ours = lambda: tk._native.lib.tk_rope_cache(device, stream, byref(call))
            peers = []
            if not of_e4m3:
                triton = lambda: triton_peers.rope_cache(q, keys, values, qkv, rotary, positions, slots, *pair)
                ours()
                mine = q.clone(), keys.clone(), values.clone()
                triton()
                gap = max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(mine, (q, keys, values)))
                peers.append((f"Triton {triton_peers.VERSION} (rel. difference {gap:.1e})", triton))
            bytes_ = 4 * tokens * rows * dim - (2 * tokens * kv_heads * dim if of_e4m3 else 0)
            compare("K5", f"{name} bf16 [{tokens}, {rows} x {dim}]", ours, [("copy of as many bytes", same_size_copy(bytes_)), *peers], bytes_=bytes_, measure=steady)


big = torch.randn(1 << 30, device=DEV)
target = torch.empty_like(big)
(copy_us, *_), = times([lambda: target.copy_(big)], 20)
COPY = 2 * big.numel() * 4 / copy_us / 1e3
MACHINE = f"{torch.cuda.get_device_name()}, driver {subprocess.run(['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'], capture_output=True, text=True).stdout.strip()}"
row("copy", "device-to-device copy of 4 GiB, bytes read plus written", COPY, None, "GB/s", None, us=round(copy_us, 1))
del big, target
torch.cuda.empty_cache()  # tensors cut out of one block of 4 GiB lie at distances that are powers of two: a norm over them is 2% slower
PEERS = load_peers()
sys.modules["bench"] = sys.modules["__main__"]  # the further parts measure as these do
import bench_low_bits  # noqa: E402
import bench_primitives  # noqa: E402
import bench_training  # noqa: E402

for part in (fused, decode, gemm, w4, sampling, sorting, prefill, rope, *bench_low_bits.PARTS, *bench_training.PARTS, *bench_primitives.PARTS):
    if not ARGS.only or part.__name__ in ARGS.only.split(","):
        try:
            part()
        except Exception as e:  # noqa: BLE001 - the other parts still run
            print(json.dumps({"part": part.__name__, "error": repr(e)[:600]}), flush=True)
        torch.cuda.empty_cache()
