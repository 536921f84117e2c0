"""Correctness of every kernel on a GPU: fresh random inputs, float64 references, poisoned memory, odd shapes, batch invariance.

Prints one line a check and exits 1 when any failed. Run through hack/gpu/device.sh; arguments name parts (norm, silu, decode, sample, w4, linear, sort).
"""

import math
import os
import sys

import torch

import tinykernels as tk

DEV = "cuda:0"
SEED = int.from_bytes(__import__("os").urandom(4), "little")
torch.manual_seed(SEED)
failures = []


def expect(name, good, detail=""):
    print(("ok   " if good else "FAIL ") + name + (f"  {detail}" if detail else ""), flush=True)
    if not good:
        failures.append(name)


def error(got, want):
    """Relative Frobenius error; infinite where an element was not written or is not finite."""
    got = got.double()
    if not bool(torch.isfinite(got).all()):
        return math.inf
    return float((got - want).norm() / want.norm().clamp_min(1e-30))


def refuses(name, call, *words):
    try:
        call()
    except tk.TinyKernelsError as e:
        expect(name, all(w in str(e) for w in words), str(e)[:160])
    else:
        expect(name, False, "accepted")


def rand(*shape, dtype=torch.bfloat16, scale=1.0):
    return (torch.randn(*shape, device=DEV) * scale).to(dtype)


def check_norm():
    worst = 0.0
    for rows, hidden in [(1, 4096), (7, 4096), (3, 8), (5, 576), (2, 32768), (4, 16384), (33, 2056), (129, 12288), (1, 2048), (0, 64)]:
        x, r, w = rand(rows, hidden), rand(rows, hidden, scale=3), rand(hidden)
        want_r = (x + r)
        want = want_r.double() * torch.rsqrt(want_r.double().pow(2).mean(-1, keepdim=True) + 1e-5) * w.double()
        got_r = r.clone()
        y = tk.add_rms_norm(x, got_r, w, 1e-5)
        if rows == 0:
            continue
        worst = max(worst, error(y, want), math.inf if not torch.equal(got_r, want_r) else 0.0)
        plain = tk.rms_norm(x, w, 1e-5)
        worst = max(worst, error(plain, x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + 1e-5) * w.double()))
        in_place, in_place_r = x.clone(), r.clone()
        tk._native.check(tk._native.lib.tk_add_rms_norm_in_place(*tk._at(x), in_place.data_ptr(), in_place_r.data_ptr(), w.data_ptr(), rows, hidden, 1e-5))
        if not (torch.equal(in_place, y) and torch.equal(in_place_r, got_r)):
            worst = math.inf
        alone_r = r[-1:].clone()
        alone = tk.add_rms_norm(x[-1:].contiguous(), alone_r, w, 1e-5)
        if not torch.equal(alone[0], y[-1]):
            worst = math.inf
    expect("add_rms_norm, rms_norm: 10 shapes against float64, last row bitwise the same alone", worst < 3e-3, f"worst {worst:.2e}")
    x = rand(2, 64)
    x[1, 3] = math.nan
    y = tk.rms_norm(x, torch.ones(64, device=DEV, dtype=torch.bfloat16), 1e-5)
    expect("rms_norm: a NaN stays in its row", bool(torch.isfinite(y[0]).all()) and bool(torch.isnan(y[1]).all()))
    refuses("rms_norm refuses 12 columns", lambda: tk.rms_norm(rand(2, 12), rand(12), 1e-5), "[2, 12]", "multiple of 8")
    buffer = rand(2 * 64 + 8)
    refuses("rms_norm refuses a misaligned row", lambda: tk.rms_norm(buffer[1:129].view(2, 64), rand(64), 1e-5), "16 bytes")
    same, other, ones = rand(4, 64), rand(4, 64), rand(64)
    refuses("add_rms_norm refuses x as its own residual", lambda: tk._native.check(tk._native.lib.tk_add_rms_norm(*tk._at(same), other.data_ptr(), same.data_ptr(), same.data_ptr(), ones.data_ptr(), 4, 64, 1e-5)), "residual overlaps x")


def check_silu():
    worst = 0.0
    for rows, inner in [(1, 8), (3, 1000), (300, 14336), (1025, 2056), (255, 4096), (1, 28672), (4097, 136)]:
        g = rand(rows, 2 * inner, scale=4)
        a, b = g[:, :inner].double(), g[:, inner:].double()
        worst = max(worst, error(tk.silu_mul(g), a * torch.sigmoid(a) * b))
    expect("silu_mul: 7 shapes against float64", worst < 4e-3, f"worst {worst:.2e}")
    g = torch.tensor([[-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30, math.nan] + [1.0] * 8], device=DEV, dtype=torch.bfloat16)
    y = tk.silu_mul(g)[0].float()
    refuses("silu_mul refuses 17 columns", lambda: tk.silu_mul(rand(4, 17)), "(4, 17)", "odd")
    expect("silu_mul: extremes", bool(torch.isfinite(y[:7]).all()) and bool(torch.isnan(y[7])) and float(y[4]) == 90.0, str(y.tolist()))


def paged_cache(lengths, kv_heads, page, spare=3, dim=128, dtype=torch.bfloat16):
    """Random pages in random order; every token that no sequence owns is NaN."""
    width = max(1, -(-max(lengths) // page)) + 1
    pages = sum(-(-n // page) for n in lengths) + spare
    keys = torch.full((pages, kv_heads, page, dim), math.nan, device=DEV).to(dtype)
    values = keys.clone()
    order = torch.randperm(pages)
    table = torch.full((len(lengths), width), 2**30, dtype=torch.int32)
    at, dense = 0, []
    for s, n in enumerate(lengths):
        count = -(-n // page)
        mine = order[at:at + count]
        at += count
        table[s, :count] = mine.to(torch.int32)
        k, v = rand(kv_heads, count * page, dim), rand(kv_heads, count * page, dim)
        k[:, n:], v[:, n:] = math.nan, math.nan
        k, v = k.to(dtype), v.to(dtype)
        for pool, tokens in ((keys, k), (values, v)) if n else ():  # as bytes: torch does not index 8-bit floats
            pool.view(torch.uint8)[mine.to(DEV)] = tokens.view(torch.uint8).view(kv_heads, count, page, -1).transpose(0, 1)
        dense.append((k[:, :n], v[:, :n]))
    return keys, values, table.to(DEV), torch.tensor(lengths, dtype=torch.int32, device=DEV), dense


def check_decode():
    lengths = [1, 15, 16, 17, 0, 255, 256, 257, 511, 4096, 5000, 33, 8191, 12345]
    f8 = torch.float8_e4m3fn
    for group, kv_heads, page, dim, dtype, window, cap in [
        (4, 8, 16, 128, torch.bfloat16, 0, 0.0), (1, 3, 64, 128, torch.bfloat16, 0, 0.0), (2, 2, 32, 128, torch.bfloat16, 0, 0.0), (8, 8, 16, 128, torch.bfloat16, 0, 0.0),
        (3, 3, 16, 64, torch.bfloat16, 0, 0.0), (1, 2, 32, 64, torch.bfloat16, 100, 0.0), (8, 1, 16, 64, torch.bfloat16, 0, 20.0), (7, 2, 48, 128, torch.bfloat16, 1000, 30.0),
        (5, 2, 16, 128, torch.bfloat16, 1, 0.0), (4, 8, 16, 128, f8, 0, 0.0), (3, 2, 32, 128, f8, 513, 0.0), (8, 2, 16, 128, f8, 0, 20.0), (1, 5, 64, 128, f8, 4000, 50.0),
        (2, 4, 16, 64, torch.bfloat16, 16, 0.0), (4, 8, 16, 64, f8, 0, 0.0), (3, 3, 32, 64, f8, 700, 0.0), (8, 2, 16, 64, f8, 0, 20.0), (1, 5, 64, 64, f8, 0, 0.0), (2, 3, 48, 64, f8, 5, 30.0),
    ]:
        keys, values, table, lens, dense = paged_cache(lengths, kv_heads, page, dim=dim, dtype=dtype)
        q = rand(len(lengths), kv_heads * group, dim, scale=2)
        scale = dim**-0.5
        scales = [torch.rand(kv_heads, device=DEV) + 0.5 for _ in range(2)] if dtype == f8 else [None, None]
        of_keys, of_values = (s.double().view(-1, 1, 1) if s is not None else 1.0 for s in scales)
        run = lambda q, table, lens: tk.paged_decode(q, keys, values, table, lens, scale, *scales, window, cap)
        out = run(q, table, lens)
        worst = 0.0
        for s, (k, v) in enumerate(dense):
            if lengths[s] == 0:
                worst = max(worst, float(out[s].float().abs().max()))
                continue
            first = max(0, lengths[s] - window) if window else 0
            k, v = ((t[:, first:].double() * of).repeat_interleave(group, 0) for t, of in ((k, of_keys), (v, of_values)))
            scores = (k @ q[s].double().unsqueeze(-1)).squeeze(-1) * scale
            weights = torch.softmax(cap * torch.tanh(scores / cap) if cap else scores, -1)
            worst = max(worst, error(out[s], (weights.unsqueeze(1) @ v).squeeze(1)))
        again = run(q, table, lens)
        some = [9, 2, 12]
        few = run(q[some].contiguous(), table[some].contiguous(), lens[some].contiguous())
        what = f"paged_decode: group {group}, {kv_heads} kv heads, page {page}, d {dim}, {dtype}, window {window}, cap {cap}"
        expect(f"{what}, 14 lengths, NaN around", worst < 8e-3, f"worst {worst:.2e}")
        expect(f"{what}: bitwise the same again and in a smaller batch", torch.equal(out, again) and torch.equal(few, out[some]))
    one, zeros = torch.ones(1, dtype=torch.int32, device=DEV), torch.zeros(1, 2, dtype=torch.int32, device=DEV)
    refuses("paged_decode refuses 9 query heads a key head", lambda: tk.paged_decode(rand(1, 9, 128), rand(2, 1, 16, 128), rand(2, 1, 16, 128), zeros, one, 1.0), "1 to 8")
    refuses("paged_decode refuses d 96", lambda: tk.paged_decode(rand(1, 2, 96), rand(2, 1, 16, 96), rand(2, 1, 16, 96), zeros, one, 1.0), "64 or 128")


def check_sample():
    for dtype, vocabulary, stride in [(torch.float32, 128256, 128256), (torch.bfloat16, 50257, 50260), (torch.float32, 7, 8), (torch.bfloat16, 32000, 32000), (torch.float32, 262144, 262144)]:
        rows = 24
        logits = torch.randn(rows, stride, device=DEV) * torch.linspace(0.2, 6, rows, device=DEV).unsqueeze(1)
        logits[:, vocabulary:] = math.nan
        logits = logits.to(dtype)
        logits[0, 1], logits[1, 2] = math.nan, -math.inf
        temperature = torch.linspace(0.3, 1.5, rows, device=DEV)
        temperature[:3] = 0
        top_p = torch.linspace(0.05, 1.0, rows, device=DEV)[torch.randperm(rows, device=DEV)].contiguous()
        top_k = torch.randint(0, 60, (rows,), device=DEV, dtype=torch.int32) * (torch.arange(rows, device=DEV) % 3 == 0).int()
        min_p = torch.rand(rows, device=DEV) * 0.3 * (torch.arange(rows, device=DEV) % 4 == 1)
        words = -(-vocabulary // 32)
        allowed = torch.rand(rows, words * 32, device=DEV) < 0.7
        allowed[:, 3] = True
        bits = (allowed.view(rows, words, 32).long() << torch.arange(32, device=DEV)).sum(-1)
        bitmask = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32)
        drawn, same = [], True
        for _ in range(12):
            seed = torch.randint(0, 2**62, (rows,), device=DEV)
            token, logprob = tk.sample(logits, temperature, top_p, min_p, top_k, seed, bitmask, vocabulary)
            drawn.append((token.tolist(), logprob.tolist()))
            pick = [5, 17, 2]
            few, _ = tk.sample(logits[pick].contiguous(), *(t[pick].contiguous() for t in (temperature, top_p, min_p, top_k, seed)), bitmask[pick].contiguous(), vocabulary)
            same = same and torch.equal(few, token[pick])
        bad = []
        for r in range(rows):
            x = logits[r, :vocabulary].double()
            x = torch.where(allowed[r, :vocabulary] & ~x.isnan(), x, -math.inf)
            t = float(temperature[r])
            x = x / t if t > 0 else x
            order = torch.sort(x, descending=True, stable=True)
            p = torch.softmax(x, 0)[order.indices]
            before = p.cumsum(0) - p
            kept = order.values > -math.inf
            if t == 0:
                kept = order.values == order.values[0]
            else:
                if float(top_p[r]) < 1:
                    kept &= before < float(top_p[r]) + 1e-5
                if int(top_k[r]) > 0:
                    kept &= torch.arange(vocabulary, device=DEV) < int(top_k[r])
                if float(min_p[r]) > 0:
                    kept &= p >= float(min_p[r]) * p[0] * (1 - 1e-5)
                kept[0] = True
            members = set(order.indices[kept].tolist())
            log_softmax = torch.log_softmax(x, 0)
            for tokens, logprobs in drawn:
                if tokens[r] not in members:
                    bad.append((r, "not kept", tokens[r], len(members)))
                elif not abs(logprobs[r] - float(log_softmax[tokens[r]])) < 1e-3:
                    bad.append((r, "log-probability", logprobs[r], float(log_softmax[tokens[r]])))
        expect(f"sample: {dtype} vocabulary {vocabulary}: 12 draws of 24 rows inside the kept set of a float64 reference", not bad, str(bad[:3]))
        expect("sample: the same tokens in a smaller batch", same)
    # Distribution, with a limit and without: 8 tokens, and 40,000 tokens in 16 classes.
    probabilities = torch.tensor([0.3, 0.05, 0.2, 0.04, 0.15, 0.12, 0.08, 0.06], device=DEV)
    for top_p, dropped in [(0.8, [1, 3, 7]), (1.0, [])]:
        n = 65536
        draws, _ = tk.sample(probabilities.log().repeat(n, 1), *(torch.full((n,), v, device=DEV) for v in (1.0, top_p, 0.0)), torch.zeros(n, dtype=torch.int32, device=DEV), torch.arange(n, device=DEV) * 7919 + SEED)
        keep = probabilities.clone()
        keep[dropped] = 0
        keep /= keep.sum()
        count = torch.bincount(draws, minlength=8).double()
        chi = float(((count - n * keep.double())[keep > 0].pow(2) / (n * keep.double())[keep > 0]).sum())
        expect(f"sample: chi-square of 65,536 draws at top-p {top_p} under 30", chi < 30 and float(count[keep == 0].sum()) == 0, f"{chi:.1f}")
    n, vocabulary = 4096, 40000
    logits = torch.randn(1, vocabulary, device=DEV)
    p = torch.softmax(logits[0].double(), 0)
    count = torch.zeros(16, device=DEV, dtype=torch.double)
    for step in range(8):
        draws, _ = tk.sample(logits.repeat(n, 1), *(torch.full((n,), v, device=DEV) for v in (1.0, 1.0, 0.0)), torch.zeros(n, dtype=torch.int32, device=DEV), torch.arange(n, device=DEV) + n * step + SEED)
        count += torch.bincount((draws // 4) % 16, minlength=16)
    want = torch.zeros(16, device=DEV, dtype=torch.double).index_add_(0, (torch.arange(vocabulary, device=DEV) // 4) % 16, p) * n * 8
    chi = float(((count - want).pow(2) / want).sum())
    expect("sample: chi-square of 32,768 draws from 40,000 tokens in 16 classes under 45", chi < 45, f"{chi:.1f}")
    none = torch.full((2, 64), -math.inf, device=DEV)
    ones = torch.ones(2, device=DEV)
    token, logprob = tk.sample(none, ones, ones, ones * 0, ones.int() * 0, ones.long())
    expect("sample: nothing allowed gives -1 and -inf", token.tolist() == [-1, -1] and bool(torch.isinf(logprob).all()))
    wild = torch.zeros(2, 64, device=DEV)
    wild[0, 7], wild[1, 9] = math.inf, 3e38
    token, _ = tk.sample(wild, ones, ones * 0.9, ones * 0, ones.int() * 0, ones.long())
    short = torch.zeros(1, 2, device=DEV, dtype=torch.int32)
    refuses("sample refuses a bitmask of fewer rows", lambda: tk.sample(wild, ones, ones, ones * 0, ones.int() * 0, ones.long(), short), "[2, words]", "(1, 2)")
    expect("sample: an infinite logit wins", token.tolist() == [7, 9], str(token.tolist()))


def check_packed():
    for bits, Linear in ((4, tk.W4Linear), (8, tk.W8Linear)):
        for features, columns in [(16, 128), (48, 384), (2128, 4224), (48000, 256), (16, 8192), (4096, 4096), (14336, 4096), (4096, 14336), (6144, 4096)]:
            numbers = torch.randint(0, 2**bits, (features, columns), dtype=torch.uint8)
            scales = (torch.rand(features, columns // 128) * 0.3 / 2**bits + 0.001).bfloat16()
            zeros = torch.randint(0, 2**bits + 1, scales.shape, dtype=torch.int16)
            linear = Linear(numbers, scales, zeros, DEV)
            group = torch.arange(columns) // 128
            weight = scales.to(DEV).double()[:, group] * (numbers.to(DEV).double() - zeros.to(DEV).double()[:, group])
            worst, same = 0.0, True
            x64 = rand(64, columns)
            full = linear(x64, torch.full((64, features), math.nan, device=DEV, dtype=torch.bfloat16))
            for rows in (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64):
                x = x64[:rows].contiguous()
                y = linear(x, torch.full((rows, features), math.nan, device=DEV, dtype=torch.bfloat16))
                worst = max(worst, error(y, x.double() @ weight.T))
                same = same and torch.equal(y, full[:rows])
            expect(f"w{bits}a16_linear: [{features}, {columns}], 1 to 64 rows, rows bitwise the same in every batch", worst < 3e-3 and same, f"worst {worst:.2e} same {same}")
        lost = rand(3, columns)
        lost[1, 5] = math.nan
        y = linear(lost)
        expect(f"w{bits}a16_linear: a row with a NaN stays alone", bool(y[1].isnan().all()) and bool(torch.isfinite(y[[0, 2]]).all()))
        refuses(f"w{bits}a16_linear refuses an output of another shape", lambda: linear(rand(3, columns), rand(2, features)), f"(3, {features})", f"(2, {features})")
        refuses(f"w{bits}a16_linear refuses 65 rows", lambda: linear(rand(65, columns)), f"w{bits}a16_linear", "at most 64 rows")
        refuses(f"W{bits}Linear refuses a zero past 2^bits", lambda: Linear(numbers, scales, zeros * 0 + 2**bits + 1, DEV), f"PackedW{bits}", "at most that")
    check_checkpoints()


def check_checkpoints():
    """Layers packed as the formats' own packers do: words of eight nibbles, the lowest first."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    words = lambda t: (t.long() << (4 * torch.arange(8))).sum(-1).to(torch.uint32).view(torch.int32)
    for features, columns, group in [(64, 256, 128), (1024, 2048, 128), (128, 512, 512)]:
        w, zeros = torch.randint(0, 16, (columns, features)), torch.randint(1, 16, (columns // group, features))
        scales = (torch.rand(columns // group, features) * 0.02 + 0.001).half()
        dense = (w - zeros.repeat_interleave(group, 0)).double() * scales.bfloat16().double().repeat_interleave(group, 0)
        by_column = words(w.view(columns // 8, 8, features).transpose(1, 2))
        by_feature = lambda t, o: words(t.view(t.shape[0], features // 8, 8)[..., o])
        x, worst = rand(7, columns), 0.0
        for layout, tensors in (("gptq", (by_column, by_feature(zeros - 1, list(range(8))))), ("gptq_v2", (by_column, by_feature(zeros, list(range(8))))), ("awq", (by_feature(w, order), by_feature(zeros, order)))):
            worst = max(worst, error(tk.W4Linear.from_checkpoint(*tensors, scales, layout, DEV)(x), x.double() @ dense.to(DEV)))
        expect(f"W4Linear of gptq, gptq_v2 and awq checkpoints [{features}, {columns}], groups of {group}", worst < 3e-3, f"worst {worst:.2e}")
    for features, columns, group in [(64, 256, 128), (128, 512, 512)]:  # of 8 bits, four a word
        w, zeros = torch.randint(0, 256, (columns, features)), torch.randint(1, 256, (columns // group, features))
        scales = (torch.rand(columns // group, features) * 0.002 + 0.0001).half()
        dense = (w - zeros.repeat_interleave(group, 0)).double() * scales.bfloat16().double().repeat_interleave(group, 0)
        bytes_ = lambda t: (t.long() << (8 * torch.arange(4))).sum(-1).to(torch.uint32).view(torch.int32)
        by_column, x = bytes_(w.view(columns // 4, 4, features).transpose(1, 2)), rand(7, columns)
        worst = max(error(tk.W8Linear.from_checkpoint(by_column, bytes_((zeros - less).view(zeros.shape[0], features // 4, 4)), scales, layout, DEV)(x), x.double() @ dense.to(DEV)) for layout, less in (("gptq", 1), ("gptq_v2", 0)))
        expect(f"W8Linear of gptq and gptq_v2 checkpoints [{features}, {columns}], groups of {group}", worst < 3e-3, f"worst {worst:.2e}")
    refuses("W8Linear refuses AWQ", lambda: tk.W8Linear.from_checkpoint(torch.zeros(256, 16, dtype=torch.int32), torch.zeros(2, 16, dtype=torch.int32), torch.ones(2, 64), "awq", DEV), "AWQ has 4 bits")
    features, columns = 128, 512
    w, zeros, scales = torch.randint(0, 16, (columns, features)), torch.randint(1, 16, (1, features)), torch.ones(1, features)
    by_column = words(w.view(columns // 8, 8, features).transpose(1, 2))
    refuses("W4Linear refuses an activation order", lambda: tk.W4Linear.from_checkpoint(by_column, by_feature(zeros, list(range(8))), scales, "gptq", DEV, torch.randperm(columns)), "desc_act")
    if vllm := os.environ.get("TINYKERNELS_PEERS"):  # and as another reader of such checkpoints has them
        torch.ops.load_library(vllm + "/vllm_c.so")
        rows, depth, groups = 512, 1024, 8
        qweight, by_row = torch.randint(-(2**31), 2**31 - 1, (depth, rows // 8), dtype=torch.int32), torch.randint(-(2**31), 2**31 - 1, (depth // 8, rows), dtype=torch.int32)
        qzeros, scales = torch.randint(-(2**31), 2**31 - 1, (groups, rows // 8), dtype=torch.int32), (torch.rand(groups, rows) * 0.02 + 0.001).bfloat16().half()
        x = rand(7, depth)
        on = [t.to(DEV) for t in (qweight, scales, qzeros)]
        worst = error(tk.W4Linear.from_checkpoint(qweight, qzeros, scales, "awq", DEV)(x), x.double() @ torch.ops._C.awq_dequantize(*on, 0, 0, 0).double())
        for layout in ("gptq", "gptq_v2"):
            g_idx = (torch.arange(depth, device=DEV) // 128).int()
            want = torch.ops._C.gptq_gemm(torch.eye(depth, device=DEV).half(), by_row.to(DEV), on[2], on[1], g_idx, False, layout == "gptq_v2", 4)
            worst = max(worst, error(tk.W4Linear.from_checkpoint(by_row, qzeros, scales, layout, DEV, g_idx)(x), x.double() @ want.double()))
        expect("W4Linear of random awq, gptq and gptq_v2 words beside vLLM's reading of them", worst < 3e-3, f"worst {worst:.2e}")


def check_linear():
    worst, same = 0.0, True
    lib = tk._native.lib
    for rows, features, columns in [(128, 256, 64), (1, 256, 64), (130, 264, 72), (1, 8, 8), (77, 1000, 4096), (1024, 4096, 4096), (513, 768, 200), (2049, 6144, 4096), (300, 4096, 14336),
                                    (5, 264, 136), (9, 6144, 4096), (16, 28672, 1024), (33, 1000, 200), (64, 4096, 14336), (65, 4096, 4096), (100, 28672, 4096)]:
        x, w = rand(rows, columns), rand(features, columns)
        device, stream = tk._at(x)

        def into(y, x, call=lib.tk_linear_bf16, *tile):
            y.fill_(math.nan)
            tk._native.check(call(device, stream, y.data_ptr(), x.data_ptr(), w.data_ptr(), x.shape[0], features, columns, *tile))
            return y

        y = into(torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), x)
        worst = max(worst, error(y, x.double() @ w.double().T))
        for fewer in {1, rows // 9 + 1, rows // 2 + 1}:
            same = same and torch.equal(tk.linear(x[:fewer].contiguous(), w), y[:fewer])
        other = torch.empty_like(y)
        for tile in (32, 64, 96, 128, 160, 192, 224, 256):
            same = same and torch.equal(into(other, x, lib.tk_linear_bf16_tiled, 0, tile), y)
        for few in (8, 16, 32, 64):
            part = x[: min(rows, few)].contiguous()
            for tile in (8, 32, 56, 64):
                same = same and torch.equal(into(torch.empty(part.shape[0], features, device=DEV, dtype=torch.bfloat16), part, lib.tk_linear_bf16_tiled, 1, tile), y[: part.shape[0]])
    expect("linear: 16 shapes against float64; rows bitwise the same in every batch and by every tile", worst < 4e-3 and same, f"worst {worst:.2e}")
    library = tk._native.made(lib.tk_cublaslt_open(tk._at(x)[0]))
    worst = 0.0
    for rows, features, columns in [(1, 4096, 14336), (100, 264, 72), (128, 4096, 4096), (1024, 6144, 4096)]:
        x, w = rand(rows, columns), rand(features, columns)
        for fastest in (0, 1):
            y = torch.full((rows, features), math.nan, device=DEV, dtype=torch.bfloat16)
            tk._native.check(lib.tk_linear_bf16_by(*tk._at(x), y.data_ptr(), x.data_ptr(), w.data_ptr(), rows, features, columns, library, fastest))
            worst = max(worst, error(y, x.double() @ w.double().T))
    expect("linear by cuBLASLt, and by the faster of the two: 4 shapes against float64", worst < 3e-3, f"worst {worst:.2e}")
    rows, features, columns = 130, 28672, 4096
    x, w = rand(rows, columns), rand(features, columns)
    refuses("linear refuses no columns", lambda: tk.linear(rand(2, 0), rand(8, 0)), "columns not zero")
    refuses("linear refuses 12 columns", lambda: tk.linear(rand(2, 12), rand(8, 12)), "multiples of 8")
    refuses("linear refuses a tile that no kernel has", lambda: into(torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), x, lib.tk_linear_bf16_tiled, 0, 48), "Many { features: 48 }")
    refuses("linear refuses 130 rows in the kernel for few", lambda: into(torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), x, lib.tk_linear_bf16_tiled, 1, 64), "at most 64 rows")


def check_sort():
    good = True
    for n in (0, 1, 2, 5, 255, 6144, 8193, 100003, (1 << 22) + 3):
        sorter = tk.Sorter(max(n, 1) + 17, DEV, pairs=True)
        for kind in ("random", "three values", "sorted", "reversed", "one value"):
            keys = torch.randint(-(2**31), 2**31 - 1, (n,), device=DEV, dtype=torch.int32)
            keys = {"random": keys, "three values": keys % 3, "sorted": keys.sort()[0], "reversed": keys.sort(descending=True)[0], "one value": keys * 0 - 1}[kind].contiguous()
            want, order = torch.sort(keys.long() & 0xFFFFFFFF, stable=True)
            alone, paired, values = keys.clone(), keys.clone(), torch.arange(n, device=DEV, dtype=torch.int32)
            sorter(alone.view(torch.uint32))
            sorter(paired.view(torch.uint32), values.view(torch.uint32))
            good = good and torch.equal(alone.long() & 0xFFFFFFFF, want) and torch.equal(alone, paired) and torch.equal(values.long(), order)
    expect("sort: 9 sizes, 5 orders, keys alone and stable pairs", good)
    refuses("sort refuses more keys than the workspace holds", lambda: tk.Sorter(100, DEV)(torch.zeros(101, device=DEV, dtype=torch.int32).view(torch.uint32)), "101 keys", "workspace for 100")


def attention(q, k, v, scale, causal, window, cap):
    """One sequence in float64: q [n, heads, d], k and v [m, kv_heads, d]."""
    (n, heads, _), (m, kv_heads, _) = q.shape, k.shape
    out = torch.zeros(q.shape, device=DEV, dtype=torch.float64)
    place, key = torch.arange(n, device=DEV).unsqueeze(1) + m - n, torch.arange(m, device=DEV)
    seen = ((key <= place) & (key > place - (window or 2**40))) if causal else torch.ones(n, m, device=DEV, dtype=torch.bool)
    for h in range(heads if m else 0):
        scores = q[:, h].double() @ k[:, h * kv_heads // heads].double().T * scale
        scores = cap * torch.tanh(scores / cap) if cap else scores
        weights = torch.softmax(scores.masked_fill(~seen, -math.inf), -1).nan_to_num(0.0)
        out[:, h] = weights @ v[:, h * kv_heads // heads].double()
    return out


def pages_of(k, v, keys, page):
    """Dense keys and values in pages in random order; every token that no sequence owns is NaN, every other entry of the table wild."""
    _, kv_heads, dim = k.shape
    counts = [-(-n // page) for n in keys]
    pools = [torch.full((sum(counts) + 3, kv_heads, page, dim), math.nan, device=DEV, dtype=torch.bfloat16) for _ in range(2)]
    order, table = torch.randperm(sum(counts) + 3), torch.full((len(keys), max(counts) + 1), 2**30, dtype=torch.int32)
    at = row = 0
    for s, (n, count) in enumerate(zip(keys, counts)):
        mine = order[at:at + count]
        table[s, :count] = mine.int()
        for dense, pool in zip((k, v), pools):
            padded = torch.full((count * page, kv_heads, dim), math.nan, device=DEV, dtype=torch.bfloat16)
            padded[:n] = dense[row:row + n]
            pool[mine.to(DEV)] = padded.view(count, page, kv_heads, dim).transpose(1, 2)
        at, row = at + count, row + n
    return *pools, table.to(DEV)


def check_prefill():
    plain = [(1, 1), (129, 129), (300, 300), (64, 64), (0, 40), (513, 513), (1, 3), (5, 2), (77, 1000), (128, 384), (1, 517), (3, 0), (193, 193)]
    for dim in (64, 128):
        for heads, kv_heads, page, causal, window, cap in [
            (4, 2, 0, True, 0, 0.0), (3, 3, 0, True, 130, 0.0), (8, 1, 0, False, 0, 0.0), (4, 2, 0, True, 0, 20.0), (4, 2, 16, True, 0, 0.0),
            (4, 4, 48, True, 77, 0.0), (6, 2, 128, True, 0, 30.0), (4, 2, 64, False, 0, 0.0),
        ]:
            queries, keys = zip(*plain)
            q, k, v = rand(sum(queries), heads, dim, scale=2), rand(sum(keys), kv_heads, dim), rand(sum(keys), kv_heads, dim)
            scale, options = dim**-0.5, (causal, window, cap)
            parts, a, b = [], 0, 0
            for n, m in plain:
                parts.append(attention(q[a:a + n], k[b:b + m], v[b:b + m], scale, *options))
                a, b = a + n, b + m
            dense = tk.prefill(q, k, v, queries, keys, scale, *options)
            out = tk.paged_prefill(q, *pages_of(k, v, keys, page), queries, keys, scale, *options) if page else dense
            worst = error(out, torch.cat(parts))
            same = torch.equal(out, dense) and torch.equal(out, tk.prefill(q, k, v, queries, keys, scale, *options))
            # Alone, at another place, and in chunks.
            start, first, n = sum(queries[:5]), sum(keys[:5]), 513
            q1, k1, v1 = q[start:start + n], k[first:first + n], v[first:first + n]
            alone = tk.prefill(q1, k1, v1, [n], [n], scale, *options)
            cuts = [0, 100, 101, 400, n] if causal else [0, n]
            chunks = torch.cat([tk.prefill(q1[i:j], k1[:j], v1[:j], [j - i], [j], scale, *options) for i, j in zip(cuts, cuts[1:])])
            same = same and torch.equal(alone, out[start:start + n]) and torch.equal(chunks, alone)
            expect(f"prefill d {dim}, heads {heads}/{kv_heads}, page {page or 'none'}, causal {causal}, window {window}, cap {cap}: 13 sequences; bitwise dense as paged, alone, in chunks", worst < 6e-3 and same, f"worst {worst:.2e} same {same}")
        # Scores far above a row's first ones: walked again. The neighbours of such rows keep their bits.
        n = 700
        q, k, v = rand(n, 4, dim), rand(n, 2, dim), rand(n, 2, dim)
        k[:3] *= 6
        hot = torch.arange(n, device=DEV) % 7 == 3
        wild = q.clone()
        wild[hot] *= 100
        calm, out = tk.prefill(q, k, v, [n], [n], 0.1), tk.prefill(wild, k, v, [n], [n], 0.1)
        worst = error(out, attention(wild, k, v, 0.1, True, 0, 0.0))
        rising = (k.float() * torch.linspace(12, 0.1, n, device=DEV).view(-1, 1, 1)).bfloat16()
        worst = max(worst, error(tk.prefill(q * 3, rising, v, [n], [n], 0.1), attention(q * 3, rising, v, 0.1, True, 0, 0.0)))
        expect(f"prefill d {dim}: scores that rise by hundreds; rows beside them bitwise as before", worst < 6e-3 and torch.equal(out[~hot], calm[~hot]), f"worst {worst:.2e}")
        lost = q.clone()
        lost[5] = math.nan
        out = tk.prefill(lost, k, v, [n], [n], 0.1)
        others = torch.arange(n, device=DEV) != 5
        expect(f"prefill d {dim}: a query that is no number stays alone", bool(out[5].isnan().all()) and torch.equal(out[others], calm[others]))
    q = rand(4, 4, 128)
    refuses("prefill refuses 3 key heads for 4", lambda: tk.prefill(q, rand(4, 3, 128), rand(4, 3, 128), [4], [4], 1.0), "multiple of the key heads")
    refuses("prefill refuses d 96", lambda: tk.prefill(rand(4, 4, 96), rand(4, 4, 96), rand(4, 4, 96), [4], [4], 1.0), "64 or 128")
    refuses("prefill refuses a window without causality", lambda: tk.prefill(q, q, q, [4], [4], 1.0, False, 3), "causal")
    refuses("paged_prefill refuses pages of 8", lambda: tk.paged_prefill(q, rand(2, 4, 8, 128), rand(2, 4, 8, 128), torch.zeros(1, 2, dtype=torch.int32, device=DEV), [4], [4], 1.0), "multiple of 16")
    refuses("paged_prefill refuses a table too narrow", lambda: tk.paged_prefill(q, rand(2, 4, 16, 128), rand(2, 4, 16, 128), torch.zeros(1, 1, dtype=torch.int32, device=DEV), [4], [17], 1.0), "room for its keys")


def check_rope():
    for dim, heads, kv_heads, page, tokens, normed in [(128, 32, 8, 16, 333, True), (64, 9, 3, 64, 77, False), (128, 5, 1, 16, 1, False), (64, 14, 2, 32, 1025, True), (128, 1, 1, 16, 0, True)]:
        pages = -(-tokens // page) + 2
        qkv, positions = rand(tokens, (heads + 2 * kv_heads) * dim, scale=3), torch.randint(0, 5000, (tokens,), device=DEV, dtype=torch.int32)
        slots = torch.randperm(pages * page, device=DEV)[:tokens].int().contiguous()
        slots[::5] = -1
        slots[1::50] = pages * page
        angles = torch.arange(5000, device=DEV).unsqueeze(1) * 10000.0 ** (-torch.arange(0, dim, 2, device=DEV) / dim)
        rotary = torch.cat([angles.cos(), angles.sin()], 1).contiguous()
        weights = (rand(dim), rand(dim)) if normed else (None, None)
        keys, values = rand(pages, kv_heads, page, dim), rand(pages, kv_heads, page, dim)
        want_keys, want_values = keys.double(), values.double()
        q = tk.rope_cache(qkv, keys, values, rotary, positions, slots, heads, *weights, 1e-5)
        if tokens == 0:
            continue
        x = qkv.view(tokens, -1, dim).double()
        cos, sin = (t.double().unsqueeze(1) for t in rotary[positions.long()].split(dim // 2, 1))

        def rotated(y, weight):
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5) * weight.double() if normed else y
            a, b = y.split(dim // 2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        kept = (slots >= 0) & (slots < pages * page)
        page_of, place = slots[kept].long() // page, slots[kept].long() % page
        want_keys[page_of, :, place] = rotated(x[:, heads:heads + kv_heads], weights[1])[kept]
        want_values[page_of, :, place] = x[:, heads + kv_heads:][kept]
        worst = max(error(q, rotated(x[:, :heads], weights[0])), error(keys, want_keys), math.inf if not torch.equal(values.double(), want_values) else 0.0)
        some = slice(tokens // 3, tokens // 3 + 5)
        again = tk.rope_cache(qkv[some].contiguous(), keys, values, rotary, positions[some].contiguous(), slots[some].contiguous(), heads, *weights, 1e-5)
        expect(f"rope_cache d {dim}, heads {heads}/{kv_heads}, page {page}, {tokens} tokens, norm {normed}: float64, untouched slots, bits in a smaller batch", worst < 3e-3 and torch.equal(again, q[some]), f"worst {worst:.2e}")
    # Into an e4m3 cache: what bf16 would hold, over the head's scale, to the nearest; with scales that are powers of two and no rotation, bit for bit.
    f8 = torch.float8_e4m3fn
    for dim, heads, kv_heads, page, tokens, normed in [(128, 32, 8, 16, 333, True), (64, 9, 3, 64, 77, False), (64, 14, 2, 32, 1025, True), (128, 5, 1, 16, 50, False)]:
        pages = -(-tokens // page) + 2
        qkv, positions = rand(tokens, (heads + 2 * kv_heads) * dim, scale=3), torch.randint(0, 5000, (tokens,), device=DEV, dtype=torch.int32)
        slots = torch.randperm(pages * page, device=DEV)[:tokens].int().contiguous()
        slots[::5] = -1
        angles = torch.arange(5000, device=DEV).unsqueeze(1) * 10000.0 ** (-torch.arange(0, dim, 2, device=DEV) / dim)
        rotary = torch.cat([angles.cos(), angles.sin()], 1).contiguous()
        weights = (rand(dim), rand(dim)) if normed else (None, None)
        worst, same = 0.0, True
        for scales in ([torch.rand(kv_heads, device=DEV) * 0.05 + 0.01 for _ in range(2)], [2.0 ** torch.randint(-6, 0, (kv_heads,), device=DEV).float() for _ in range(2)]):
            wide = [torch.full((pages, kv_heads, page, dim), math.nan, device=DEV, dtype=torch.bfloat16) for _ in range(2)]
            low = [t.to(f8) for t in wide]
            q = tk.rope_cache(qkv, *wide, rotary, positions, slots, heads, *weights, 1e-5)
            same = same and torch.equal(q, tk.rope_cache(qkv, *low, rotary, positions, slots, heads, *weights, 1e-5, *scales))
            for of, to, scale in zip(wide, low, scales):
                written = torch.isfinite(of)
                same = same and torch.equal(torch.isfinite(to.float()), written)
                scale = scale.double().view(1, -1, 1, 1).expand(of.shape)[written]
                want = (of.double()[written] / scale).clamp(-448, 448)
                got = to.double()[written]
                worst = max(worst, float(((got - want).abs() / want.abs().clamp_min(2.0**-6)).max()))
        power = scales[1].view(1, -1, 1, 1)
        written = torch.isfinite(wide[1])
        want = (wide[1].float() / power).clamp(-448, 448).to(f8)
        same = same and torch.equal(low[1].view(torch.uint8)[written], want.view(torch.uint8)[written])
        expect(f"rope_cache into e4m3 d {dim}, heads {heads}/{kv_heads}, page {page}, {tokens} tokens, norm {normed}: within half a step, values bit for bit, other slots untouched", worst < 0.07 and same, f"worst {worst:.3f} same {same}")
    refuses("rope_cache refuses an e4m3 cache without scales", lambda: tk.rope_cache(qkv, *low, rotary, positions, slots, heads), "bfloat16")
    refuses("rope_cache refuses qkv of another width", lambda: tk.rope_cache(rand(2, 64), rand(2, 1, 16, 64), rand(2, 1, 16, 64), torch.zeros(4, 64, device=DEV), positions[:0], slots[:0], 2), "do not belong together")


if __name__ == "__main__":
    print(torch.cuda.get_device_name(), "seed", SEED, flush=True)
    sys.modules["check"] = sys.modules["__main__"]  # the further parts take their tools, and note their failures, here
    import check_fused
    import check_gradients
    import check_linear8
    import check_norm_gradient
    import check_primitives

    parts = (check_norm, check_silu, check_decode, check_sample, check_packed, check_linear, check_sort, check_prefill, check_rope)
    for part in parts + check_linear8.PARTS + check_fused.PARTS + check_gradients.PARTS + check_norm_gradient.PARTS + check_primitives.PARTS:
        if sys.argv[1:] and part.__name__.removeprefix("check_") not in sys.argv[1:]:
            continue
        try:
            part()
        except Exception as e:  # noqa: BLE001 - the other parts still run
            expect(part.__name__, False, repr(e)[:400])
        torch.cuda.synchronize()
    print("failed:", failures)
    sys.exit(bool(failures))
