"""Drawing tokens, with temperatures, limits and penalties: parts of check.py."""

import math

import torch

import tinykernels as tk
from check import DEV, SEED, expect, rand, refuses


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


def check_temperatures():
    """Under 1e-5, and where it is no number, greedy; from there on a draw, whose limits are argmax and a draw among all."""
    for dtype in (torch.float32, torch.bfloat16):
        x = rand(12, 50000, dtype=dtype, scale=20)
        x[1, 7] = x[1, 40000] = x[1].max() + 1  # the lower of equals
        temperature = torch.tensor([0.0, -0.0, 1e-45, 1e-38, 1e-36, 1e-30, 9e-6, -1.0, math.nan, -math.inf, 1e-5, 1.1e-5], device=DEV)
        ones, none = torch.ones(12, device=DEV), torch.zeros(12, device=DEV)
        token, logprob = tk.sample(x, temperature, ones, none, none.int(), torch.arange(12, device=DEV))
        best = x.double().argmax(-1)
        log = torch.log_softmax(x.double(), -1).gather(1, best.unsqueeze(1)).squeeze(1)
        greedy = slice(0, 10)
        off = float((logprob[greedy].double() - log[greedy]).abs().max())
        gap = x.double().sort(-1, descending=True).values
        drawn = [int(token[i]) == int(best[i]) for i in (10, 11) if float(gap[i, 0] - gap[i, 1]) > 1e-2]
        expect(f"sample {dtype}: temperatures of 0, below 1e-5, below zero and NaN are greedy, at 1e-5 the winner by far", torch.equal(token[greedy].long(), best[greedy]) and off < 1e-3 and all(drawn), f"{token.tolist()} {best.tolist()} off {off:.1e}")
    flat = torch.randn(4096, 64, device=DEV) * 50
    ones, none = torch.ones(4096, device=DEV), torch.zeros(4096, device=DEV)
    token, _ = tk.sample(flat, ones * math.inf, ones, none, none.int(), torch.arange(4096, device=DEV) + SEED)
    chi = float(((torch.bincount(token.long(), minlength=64).double() - 64).pow(2) / 64).sum())
    expect("sample: at an infinite temperature every token alike, chi-square of 64 under 130", chi < 130, f"{chi:.0f}")


def check_penalties():
    for dtype, vocabulary in ((torch.float32, 128256), (torch.bfloat16, 50256), (torch.float32, 40), (torch.float32, 262144)):
        rows, slots, stride = 17, 23, vocabulary + 8
        logits = rand(rows, vocabulary, dtype=dtype, scale=3)
        counts = torch.full((slots, stride), 77, device=DEV, dtype=torch.int16)
        slot = torch.randperm(slots, device=DEV)[:rows].int()
        slot[3], slot[4] = -1, slots
        prompts = [torch.randint(-3, vocabulary + 3, (n,), device=DEV, dtype=torch.int32) for n in torch.randint(0, 4000, (slots,)).tolist()]
        for s, prompt in enumerate(prompts):
            tk.Penalties.start(counts, s, prompt)
        want = torch.zeros(slots, stride, dtype=torch.long, device=DEV)
        for s, prompt in enumerate(prompts):
            want[s, prompt[(prompt >= 0) & (prompt < stride)].long()] = 32768
        unsigned = lambda: counts.long() & 0xFFFF
        good = torch.equal(unsigned(), want)
        counts[1:, :5] = (torch.randint(0, 9, (slots - 1, 5), device=DEV)).short()
        counts[0, :40] = 32767  # as many as there can be
        want = unsigned()
        repetition, presence, frequency = torch.rand(rows, device=DEV) + 0.6, torch.rand(rows, device=DEV) - 0.3, torch.rand(rows, device=DEV) * 0.5
        repetition[5], presence[5], frequency[5] = 1, 0, 0
        repetition[6] = 0
        temperature = torch.linspace(0, 1.2, rows, device=DEV)
        penalties = tk.Penalties(repetition, presence, frequency, slot, counts)
        ones, none = torch.ones(rows, device=DEV), torch.zeros(rows, device=DEV)
        one = torch.ones(rows, dtype=torch.int32, device=DEV)
        off = 0.0
        for step in range(6):
            token, logprob = tk.sample(logits, temperature, ones, none, one, torch.randint(0, 2**62, (rows,), device=DEV), None, vocabulary, penalties)
            for r in range(rows):
                x, s = logits[r].double(), int(slot[r])
                if 0 <= s < slots:
                    entry = want[s, :vocabulary]
                    factor = float(repetition[r]) if float(repetition[r]) > 0 else 1.0
                    x = torch.where(entry > 0, torch.where(x > 0, x / factor, x * factor), x)
                    drawn = entry & 32767
                    x = x - float(frequency[r]) * drawn - float(presence[r]) * (drawn > 0)
                x = x / float(temperature[r]) if temperature[r] > 0 else x
                t = int(token[r])
                off = max(off, float(x.max() - x[t]), abs(float(torch.log_softmax(x, 0)[t]) - float(logprob[r])))
                if 0 <= s < slots and want[s, t] & 32767 < 32767:
                    want[s, t] += 1
        good = good and torch.equal(unsigned(), want)
        few = [5, 11, 2]
        again = tk.Penalties(*(t[few].contiguous() for t in (repetition, presence, frequency, slot)), counts.clone())
        seed = torch.randint(0, 2**62, (rows,), device=DEV)
        full = tk.sample(logits, temperature, ones * 0.9, none, one * 0, seed, None, vocabulary, tk.Penalties(repetition, presence, frequency, slot, counts.clone()))[0]
        part = tk.sample(logits[few].contiguous(), *(t[few].contiguous() for t in (temperature, ones * 0.9, none, one * 0, seed)), None, vocabulary, again)[0]
        expect(f"sample with penalties: {dtype} vocabulary {vocabulary}: 6 steps of 17 rows against float64, counts as expected, the same in a smaller batch", good and off < 2e-3 and torch.equal(part, full[few]), f"off {off:.1e}, counts {good}")
    refuses("sample refuses counts narrower than the vocabulary", lambda: tk.sample(logits, ones, ones, none, one, seed, None, vocabulary, tk.Penalties(repetition, presence, frequency, slot, counts[:, :100].contiguous())), "hold the vocabulary")
    refuses("start_counts refuses a slot that is not there", lambda: tk.Penalties.start(counts, slots, prompts[0]), "slot 23")


PARTS = (check_sample, check_temperatures, check_penalties)
