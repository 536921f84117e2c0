"""Attention over pages and of prompts, their plans, rotary embedding: parts of check.py."""

import math

import torch

import tinykernels as tk
from check import DEV, error, expect, rand, refuses


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


def check_wild_pages():
    """Lengths and page numbers that are none: the sequence becomes NaN, nothing outside of the cache is read, the others keep their bits."""
    for group, kv_heads, page, dim, dtype in [(4, 2, 16, 128, torch.bfloat16), (1, 3, 32, 64, torch.bfloat16), (8, 2, 16, 128, torch.float8_e4m3fn), (3, 1, 48, 64, torch.float8_e4m3fn)]:
        lengths = [33, 700, 5000, 17, 0, 9000, 2048, 64]
        keys, values, table, lens, _ = paged_cache(lengths, kv_heads, page, dim=dim, dtype=dtype)
        q = rand(len(lengths), kv_heads * group, dim)
        scales = [torch.rand(kv_heads, device=DEV) + 0.5 for _ in range(2)] if dtype != torch.bfloat16 else [None, None]
        run = lambda window=0: tk.paged_decode(q, keys, values, table, lens, dim**-0.5, *scales, window)
        calm = run()
        table[0, 0], table[1, 5], table[5, 9000 // page] = keys.shape[0], -1, 2**31 - 1
        lens[3], lens[6], lens[7] = -5, table.shape[1] * page + 1, 2**31 - 1
        lost, well = [0, 1, 5, 3, 6, 7], [2, 4]
        out = run()
        good = bool(out[lost].isnan().all()) and torch.equal(out[well], calm[well])
        # Of a window, what lies before it is not looked up.
        good = good and torch.isfinite(run(100)[1]).all().item() and bool(run(100)[5].isnan().all())
        expect(f"paged_decode, group {group}, page {page}, d {dim}, {dtype}: lengths and entries that are none make NaN of their sequence alone", good, str([bool(o.isnan().all()) for o in out]))
    n, page = 700, 16
    q, k, v = rand(2 * n, 4, 128), rand(2 * n, 2, 128), rand(2 * n, 2, 128)
    keys, values, table = pages_of(k, v, [n, n], page)
    calm = tk.paged_prefill(q, keys, values, table, [n, n], [n, n], 0.1)
    for wild in (keys.shape[0], -1, 2**31 - 1, -(2**31)):
        broken = table.clone()
        broken[1, 600 // page] = wild
        out = tk.paged_prefill(q, keys, values, broken, [n, n], [n, n], 0.1)
        whole = n + 512  # queries of blocks of keys before the broken one's
        expect(f"paged_prefill: entry {wild} makes NaN of the queries that see it, and of no other sequence or block",
               torch.equal(out[:whole], calm[:whole]) and bool(out[n + 600 + page:].isnan().all()))


def captured(q, k, v, lengths):
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        tk.prefill(q, k, v, lengths, lengths, 0.2)


def check_plans():
    """Plans that take new lengths step after step, and graphs that keep theirs."""
    q, k, v = rand(600, 4, 64), rand(600, 2, 64), rand(600, 2, 64)
    cuts = [sorted(torch.randint(0, 600, (5,)).tolist()) for _ in range(40)]
    lengths = [[b - a for a, b in zip([0, *cut], [*cut, 600])] for cut in cuts]
    first = [tk.prefill(q, k, v, n, n, 0.1) for n in lengths]
    want = [torch.cat([tk.prefill(a, b, c, [a.shape[0]], [a.shape[0]], 0.1) for a, b, c in zip(*(t.split(n) for t in (q, k, v))) if a.shape[0]]) for n in lengths]
    again = [tk.prefill(q, k, v, n, n, 0.1) for n in reversed(lengths)][::-1]
    expect("prefill of 40 steps of new lengths, through 16 plans: as each sequence alone", all(torch.equal(a, b) and torch.equal(b, c) for a, b, c in zip(first, want, again)))
    graph, step = torch.cuda.CUDAGraph(), lengths[-1]
    tk.prefill(q, k, v, step, step, 0.1)  # plans what the graph reads
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        one = tk.prefill(q, k, v, step, step, 0.1)
        two = tk.prefill(one, k, v, step, step, 0.1)
    for n in lengths:
        tk.prefill(q, k, v, n, n, 0.1)
    one.fill_(math.nan), two.fill_(math.nan)
    graph.replay()
    refuses("prefill refuses to plan under capture", lambda: captured(q, k, v, [600]), "under capture")
    expect("prefill in a graph, replayed behind 40 steps of other lengths", torch.equal(one, want[-1]) and torch.equal(two, tk.prefill(one, k, v, step, step, 0.1)))


def check_read_pages():
    """An e4m3 cache as prefill takes it: bit for bit what it holds times its scale, and chunks of prompts over it."""
    f8 = torch.float8_e4m3fn
    for lengths, queries, heads, kv_heads, page, dim in [([33, 700, 0, 1, 517], [33, 200, 0, 1, 5], 8, 2, 16, 128), ([129, 1000], [129, 64], 6, 3, 48, 64), ([16], [16], 4, 1, 16, 128)]:
        keys, values, table, lens, dense = paged_cache(lengths, kv_heads, page, dim=dim, dtype=f8)
        scales = [torch.rand(kv_heads, device=DEV) + 0.5 for _ in range(2)]
        starts = torch.nn.functional.pad(lens.cumsum(0), (1, 0)).int()
        got = tk.read_pages(keys, values, table, starts, sum(lengths), *scales)
        want = [torch.cat([(d[i].float() * scales[i].view(-1, 1, 1)).bfloat16().transpose(0, 1) for d in dense]) for i in range(2)]
        same = all(torch.equal(a, b) for a, b in zip(got, want))
        q, scale = rand(sum(queries), heads, dim, scale=2), dim**-0.5
        out = tk.paged_prefill(q, keys, values, table, queries, lengths, scale, True, 0, 0.0, *scales)
        parts = [attention(*rows, scale, True, 0, 0.0) for rows in zip(q.split(queries), *(t.split(lengths) for t in want))]
        worst = error(out, torch.cat(parts))
        same = same and torch.equal(out, tk.prefill(q, *want, queries, lengths, scale))
        expect(f"read_pages of {len(lengths)} sequences, page {page}, d {dim}: bit for bit; paged_prefill of an e4m3 cache against float64", same and worst < 6e-3, f"worst {worst:.2e} same {same}")
        broken = table.clone()
        broken[0, 0], first = 2**31 - 1, min(page, lengths[0])
        lost = tk.read_pages(keys, values, broken, starts, sum(lengths), *scales)
        wild = tk.read_pages(keys, values, table, starts - 1, sum(lengths), *scales)
        good = all(bool(a[:first].isnan().all()) and torch.equal(a[first:], b[first:]) for a, b in zip(lost, want))
        expect(f"read_pages, page {page}, d {dim}: an entry that is no page makes NaN of its tokens alone, tokens that no sequence has are NaN", good and all(bool(w[-1].isnan().all()) for w in wild))
    refuses("read_pages refuses scales of other heads", lambda: tk.read_pages(keys, values, table, starts, 16, scales[0][:0], scales[1]), "do not belong together")
    refuses("paged_prefill refuses an e4m3 cache without scales", lambda: tk.paged_prefill(q, keys, values, table, queries, lengths, scale), "bfloat16")


PARTS = (check_decode, check_prefill, check_read_pages, check_wild_pages, check_plans, check_rope)
