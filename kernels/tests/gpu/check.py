"""Correctness of every kernel on a GPU: fresh random inputs, float64 references, poisoned memory, odd shapes, batch invariance.

Prints one line a check and exits 1 when any failed. Run through hack/gpu/device.sh.
"""

import math
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
    same = rand(4, 64)
    refuses("add_rms_norm refuses x as its own residual", lambda: tk._native.check(tk._native.lib.tk_add_rms_norm(*tk._at(same), rand(4, 64).data_ptr(), same.data_ptr(), same.data_ptr(), rand(64).data_ptr(), 4, 64, 1e-5)), "overlaps")


def check_silu():
    worst = 0.0
    for rows, inner in [(1, 8), (3, 1000), (300, 14336), (1025, 2056), (255, 4096), (1, 28672), (4097, 136)]:
        g = rand(rows, 2 * inner, scale=4)
        a, b = g[:, :inner].double(), g[:, inner:].double()
        worst = max(worst, error(tk.silu_mul(g), a * torch.sigmoid(a) * b))
    expect("silu_mul: 7 shapes against float64", worst < 3e-3, f"worst {worst:.2e}")
    g = torch.tensor([[-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30, math.nan] + [1.0] * 8], device=DEV, dtype=torch.bfloat16)
    y = tk.silu_mul(g)[0].float()
    expect("silu_mul: extremes", bool(torch.isfinite(y[:7]).all()) and bool(torch.isnan(y[7])) and float(y[4]) == 90.0, str(y.tolist()))


def paged_cache(lengths, kv_heads, page, spare=3):
    """Random pages in random order; every token that no sequence owns is NaN."""
    width = max(1, -(-max(lengths) // page)) + 1
    pages = sum(-(-n // page) for n in lengths) + spare
    keys = torch.full((pages, kv_heads, page, 128), math.nan, device=DEV, dtype=torch.bfloat16)
    values = keys.clone()
    order = torch.randperm(pages)
    table = torch.full((len(lengths), width), 2**30, dtype=torch.int32)
    at, dense = 0, []
    for s, n in enumerate(lengths):
        count = -(-n // page)
        mine = order[at:at + count]
        at += count
        table[s, :count] = mine.to(torch.int32)
        k, v = rand(kv_heads, count * page, 128), rand(kv_heads, count * page, 128)
        k[:, n:], v[:, n:] = math.nan, math.nan
        keys[mine.to(DEV)] = k.view(kv_heads, count, page, 128).transpose(0, 1)
        values[mine.to(DEV)] = v.view(kv_heads, count, page, 128).transpose(0, 1)
        dense.append((k[:, :n], v[:, :n]))
    return keys, values, table.to(DEV), torch.tensor(lengths, dtype=torch.int32, device=DEV), dense


def check_decode():
    lengths = [1, 15, 16, 17, 0, 255, 256, 257, 511, 4096, 5000, 33, 8191, 12345]
    for group, kv_heads, page in [(4, 8, 16), (1, 3, 64), (2, 2, 32), (8, 8, 16)]:
        keys, values, table, lens, dense = paged_cache(lengths, kv_heads, page)
        q = rand(len(lengths), kv_heads * group, 128, scale=2)
        scale = 128**-0.5
        out = tk.paged_decode(q, keys, values, table, lens, scale)
        worst = 0.0
        for s, (k, v) in enumerate(dense):
            if lengths[s] == 0:
                worst = max(worst, float(out[s].float().abs().max()))
                continue
            k, v = k.double().repeat_interleave(group, 0), v.double().repeat_interleave(group, 0)
            weights = torch.softmax((k @ q[s].double().unsqueeze(-1)).squeeze(-1) * scale, -1)
            worst = max(worst, error(out[s], (weights.unsqueeze(1) @ v).squeeze(1)))
        again = tk.paged_decode(q, keys, values, table, lens, scale)
        some = [9, 2, 12]
        few = tk.paged_decode(q[some].contiguous(), keys, values, table[some].contiguous(), lens[some].contiguous(), scale)
        expect(f"paged_decode: group {group}, {kv_heads} kv heads, page {page}, 14 lengths, NaN around", worst < 8e-3, f"worst {worst:.2e}")
        expect(f"paged_decode: group {group}: bitwise the same again and in a smaller batch", torch.equal(out, again) and torch.equal(few, out[some]))
    refuses("paged_decode refuses 3 query heads a key head", lambda: tk.paged_decode(rand(1, 9, 128), rand(2, 3, 16, 128), rand(2, 3, 16, 128), torch.zeros(1, 2, dtype=torch.int32, device=DEV), torch.ones(1, dtype=torch.int32, device=DEV), 1.0), "1, 2, 4 or 8")


def philox(seed, counters):
    """Philox 4x32-7 over int64 tensors: [n] counters to [n, 4] words."""
    m = 0xFFFFFFFF
    k0, k1 = seed & m, (seed >> 32) & m
    c = [counters.clone(), torch.zeros_like(counters), torch.zeros_like(counters), torch.zeros_like(counters)]

    def mul(a, x):  # 32 x 32 -> (high, low), without overflow of int64
        lo = a * (x & 0xFFFF)
        hi = a * (x >> 16)
        low = (lo + ((hi & 0xFFFF) << 16))
        return ((hi >> 16) + (low >> 32)) & m, low & m

    for _ in range(7):
        ah, al = mul(0xD2511F53, c[0])
        bh, bl = mul(0xCD9E8D57, c[2])
        c = [bh ^ c[1] ^ k0, bl, ah ^ c[3] ^ k1, al]
        k0, k1 = (k0 + 0x9E3779B9) & m, (k1 + 0xBB67AE85) & m
    return torch.stack(c, 1)


def check_sample():
    for dtype, vocabulary, stride in [(torch.float32, 128256, 128256), (torch.bfloat16, 50257, 50260), (torch.float32, 7, 8), (torch.bfloat16, 32000, 32000)]:
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
        seed = torch.randint(0, 2**62, (rows,), device=DEV)
        words = -(-vocabulary // 32)
        allowed = torch.rand(rows, words * 32, device=DEV) < 0.7
        allowed[:, 3] = True
        bits = (allowed.view(rows, words, 32).long() << torch.arange(32, device=DEV)).sum(-1)
        bitmask = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32)
        token, logprob = tk.sample(logits, temperature, top_p, min_p, top_k, seed, bitmask, vocabulary)
        bad = []
        for r in range(rows):
            x = logits[r, :vocabulary].double()
            x = torch.where(allowed[r, :vocabulary] & ~x.isnan(), x, -math.inf)
            t = float(temperature[r])
            x = x / t if t > 0 else x
            got = int(token[r])
            want_logprob = float(torch.log_softmax(x, 0)[got]) if got >= 0 else math.nan
            if not abs(float(logprob[r]) - want_logprob) < 1e-3:
                bad.append((r, "logprob", float(logprob[r]), want_logprob))
            if t == 0:
                if got != int(x.argmax()) and float(x[got]) != float(x.max()):
                    bad.append((r, "greedy", got))
                continue
            order = torch.sort(x, descending=True, stable=True)
            p = torch.softmax(x, 0)[order.indices]
            before = p.cumsum(0) - p
            rank = torch.arange(vocabulary, device=DEV)
            def kept(slack):
                k = order.values > -math.inf
                if float(top_p[r]) < 1:
                    k &= before < float(top_p[r]) + slack
                if int(top_k[r]) > 0:
                    k &= rank < int(top_k[r])
                if float(min_p[r]) > 0:
                    k &= p >= float(min_p[r]) * p[0] * (1 - slack)
                k[0] = True
                return k
            counters = torch.arange(-(-vocabulary // 4), device=DEV)
            w = (philox(int(seed[r]), counters).reshape(-1)[:vocabulary].double() + 0.5) / 2**32
            key = (x - torch.log(-torch.log1p(-w.clamp(max=1 - 1e-12))))[order.indices]
            place = int((order.indices == got).nonzero()[0]) if got >= 0 else -1
            if place < 0 or not bool(kept(1e-5)[place]):
                bad.append((r, "not kept", got))
            elif float(key[place]) < float(key[kept(-1e-5)].max()) - 1e-4:
                bad.append((r, "not the arg max", got, float(key[place]), float(key[kept(-1e-5)].max())))
        expect(f"sample: {dtype} vocabulary {vocabulary}: the arg max over the kept set of a float64 reference", not bad, str(bad[:3]))
        pick = [5, 17]
        few, _ = tk.sample(logits[pick].contiguous(), *(t[pick].contiguous() for t in (temperature, top_p, min_p, top_k, seed)), bitmask[pick].contiguous(), vocabulary)
        expect("sample: the same tokens in a smaller batch", torch.equal(few, token[pick]))
    # Distribution: 8 tokens, 65,536 draws, top-p keeps the five most likely.
    probabilities = torch.tensor([0.3, 0.05, 0.2, 0.04, 0.15, 0.12, 0.08, 0.06], device=DEV)
    n = 65536
    draws, _ = tk.sample(probabilities.log().repeat(n, 1), *(torch.full((n,), v, device=DEV) for v in (1.0, 0.8, 0.0)), torch.zeros(n, dtype=torch.int32, device=DEV), torch.arange(n, device=DEV) * 7919 + SEED)
    keep = probabilities.clone()
    keep[[1, 3, 7]] = 0
    keep /= keep.sum()
    count = torch.bincount(draws, minlength=8).double()
    chi = float(((count - n * keep.double())[keep > 0].pow(2) / (n * keep.double())[keep > 0]).sum())
    expect("sample: chi-square of 65,536 draws on 4 degrees of freedom under 23.5 (p = 1e-4)", chi < 23.5 and float(count[keep == 0].sum()) == 0, f"{chi:.1f}")
    none = torch.full((2, 64), -math.inf, device=DEV)
    ones = torch.ones(2, device=DEV)
    token, logprob = tk.sample(none, ones, ones, ones * 0, ones.int() * 0, ones.long())
    expect("sample: nothing allowed gives -1 and -inf", token.tolist() == [-1, -1] and bool(torch.isinf(logprob).all()))


def check_w4():
    for features, columns in [(16, 128), (48, 384), (4096, 4096), (14336, 4096), (4096, 14336), (6144, 4096)]:
        nibbles = torch.randint(0, 16, (features, columns), dtype=torch.uint8)
        scales = (torch.rand(features, columns // 128) * 0.02 + 0.001).bfloat16()
        zeros = torch.randint(0, 16, scales.shape, dtype=torch.uint8)
        linear = tk.W4Linear(nibbles, scales, zeros, DEV)
        group = torch.arange(columns) // 128
        weight = (scales.to(DEV).double()[:, group] * (nibbles.to(DEV).double() - zeros.to(DEV).double()[:, group]))
        worst, same = 0.0, True
        x16 = rand(16, columns)
        full = linear(x16, torch.full((16, features), math.nan, device=DEV, dtype=torch.bfloat16))
        for rows in (1, 2, 7, 8, 9, 15, 16):
            x = x16[:rows].contiguous()
            y = linear(x, torch.full((rows, features), math.nan, device=DEV, dtype=torch.bfloat16))
            worst = max(worst, error(y, x.double() @ weight.T))
            same = same and torch.equal(y, full[:rows])
        expect(f"w4a16_linear: [{features}, {columns}], 1 to 16 rows, rows bitwise the same in every batch", worst < 3e-3 and same, f"worst {worst:.2e}")
    refuses("w4a16_linear refuses 17 rows", lambda: linear(rand(17, columns)), "at most 16 rows")


if __name__ == "__main__":
    print(torch.cuda.get_device_name(), "seed", SEED, flush=True)
    for part in (check_norm, check_silu, check_decode, check_sample, check_w4):
        try:
            part()
        except Exception as e:  # noqa: BLE001 - the other parts still run
            expect(part.__name__, False, repr(e)[:400])
        torch.cuda.synchronize()
    print("failed:", failures)
    sys.exit(bool(failures))
