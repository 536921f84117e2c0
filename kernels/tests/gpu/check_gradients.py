"""What training needs: cross-entropy and attention with their gradients, inside torch: parts of check.py."""

import math

import torch
import torch.nn.functional as F

import tinykernels as tk
from check import DEV, error, expect, rand, refuses


def check_cross_entropy():
    for dtype, limit in ((torch.bfloat16, 6e-3), (torch.float32, 2e-5)):
        worst, same = 0.0, True
        for rows, vocabulary in [(1, 8), (17, 1000), (5, 128256), (130, 50264), (3, 32000)]:
            logits, targets = rand(rows, vocabulary, dtype=dtype, scale=3).requires_grad_(), torch.randint(0, vocabulary, (rows,), device=DEV, dtype=torch.int32)
            targets[rows // 2:rows // 2 + (rows > 2)] = -100
            factor = torch.rand(rows, device=DEV)
            loss = tk.cross_entropy(logits, targets, "none")
            (gradient,) = torch.autograd.grad(loss, logits, factor)
            wide = logits.detach().double().requires_grad_()
            want = F.cross_entropy(wide, targets.long(), reduction="none", ignore_index=-100)
            (want_gradient,) = torch.autograd.grad(want, wide, factor.double())
            worst = max(worst, error(loss.detach(), want.detach()), error(gradient, want_gradient))
            same = same and bool((gradient[targets < 0] == 0).all())
            alone, _ = tk._fused.cross_entropy_rows(logits[-1:].detach().contiguous(), targets[-1:].contiguous())
            same = same and torch.equal(alone[0], loss[-1])
            mean = tk.cross_entropy(logits, targets)
            same = same and abs(float(mean.detach()) - float(F.cross_entropy(wide.detach(), targets.long(), ignore_index=-100))) < 1e-4 * max(1.0, float(mean.detach()))
            in_place, loss_, log_sum = logits.detach().clone(), *tk._fused.cross_entropy_rows(logits.detach(), targets)
            call = tk._fused._rows(in_place, None, (log_sum, targets, factor), rows, vocabulary)
            call.wide = int(dtype == torch.float32)
            tk._tensors.run(tk._native.lib.tk_cross_entropy_gradient, in_place, call)
            same = same and torch.equal(in_place, gradient)
        expect(f"cross_entropy {dtype}: 5 shapes, loss and gradient against float64, in place and alone the same bits, left-out rows 0", worst < limit and same, f"worst {worst:.2e} same {same}")
    logits = rand(4, 64)
    logits[2, 7] = math.nan
    targets = torch.tensor([3, 64, 5, 63], device=DEV, dtype=torch.int32)
    loss = tk.cross_entropy(logits, targets, "none").tolist()
    expect("cross_entropy: a target past the vocabulary and a NaN give NaN, alone", math.isfinite(loss[0]) and math.isnan(loss[1]) and math.isnan(loss[2]) and math.isfinite(loss[3]), str(loss))
    refuses("cross_entropy refuses 12 columns", lambda: tk.cross_entropy(rand(2, 12), targets[:2].contiguous()), "multiple of 8")
    refuses("cross_entropy refuses three targets for two rows", lambda: tk.cross_entropy(rand(2, 16), targets[:3].contiguous()), "do not belong together")


def reference(q, k, v, scale, causal, window, cap=0.0):
    """One sequence in float64: (out, log of the sums [heads, n])."""
    (n, heads, _), (m, kv_heads, _) = q.shape, k.shape
    place, key = torch.arange(n, device=DEV).unsqueeze(1) + m - n, torch.arange(m, device=DEV)
    seen = ((key <= place) & (key > place - (window or 2**40))) if causal else torch.ones(n, m, device=DEV, dtype=torch.bool)
    k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    scores = torch.einsum("nhd,mhd->hnm", q, k).mul(scale)
    scores = (cap * torch.tanh(scores / cap) if cap else scores).masked_fill(~seen, -math.inf)
    top = scores.amax(-1, keepdim=True).clamp_min(-1e300)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    out = torch.einsum("hnm,mhd->nhd", weights / total.clamp_min(1e-300), v)
    return out, (total.log() + top).squeeze(-1)


def check_gradient():
    lengths = [(1, 1), (129, 129), (300, 300), (64, 64), (513, 513), (77, 400), (5, 2), (128, 384), (193, 193)]
    for dim in (64, 128):
        for heads, kv_heads, causal, window, cap in [(4, 2, True, 0, 0.0), (3, 3, True, 130, 0.0), (8, 1, False, 0, 0.0), (2, 2, True, 2, 0.0), (4, 2, True, 0, 2.0), (3, 3, True, 130, 20.0), (4, 1, False, 0, 1.0)]:
            queries, keys = map(list, zip(*lengths))
            q, k, v, g = rand(sum(queries), heads, dim), rand(sum(keys), kv_heads, dim), rand(sum(keys), kv_heads, dim), rand(sum(queries), heads, dim)
            scale = dim**-0.5
            tensors = [t.requires_grad_() for t in (q, k, v)]
            out, log_sum = tk.attention(*tensors, queries, keys, scale, causal, window, cap)
            ours = torch.autograd.grad(out, tensors, g)
            wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
            parts, sums, a, b = [], [], 0, 0
            for n, m in lengths:
                o, s = reference(wide[0][a:a + n], wide[1][b:b + m], wide[2][b:b + m], scale, causal, window, cap)
                parts.append(o), sums.append(s)
                a, b = a + n, b + m
            theirs = torch.autograd.grad(torch.cat(parts), wide, g.double())
            worst = [error(x, y) for x, y in zip(ours, theirs)]
            want = torch.cat(sums, 1)
            finite = torch.isfinite(want)
            off = float((log_sum.double() - want)[finite].abs().max())
            same = torch.equal(torch.isfinite(log_sum), finite) and torch.equal(out, tk.prefill(q, k, v, queries, keys, scale, causal, window, cap))
            again = torch.autograd.grad(tk.attention(*tensors, queries, keys, scale, causal, window, cap)[0], tensors, g)
            same = same and all(torch.equal(x, y) for x, y in zip(ours, again))
            # Alone, and with what lies around it not a number.
            start, first, n, m = sum(queries[:5]), sum(keys[:5]), 77, 400
            poisoned = [torch.full_like(t, math.nan) for t in (q, k, v, g)]
            places = [slice(start, start + n), slice(first, first + m), slice(first, first + m), slice(start, start + n)]
            for to, of, place in zip(poisoned, (q, k, v, g), places):
                to.data[place] = of.data[place]
            one = [t.detach()[place].clone().requires_grad_() for t, place in zip((q, k, v), places)]
            alone = torch.autograd.grad(tk.attention(*one, [n], [m], scale, causal, window, cap)[0], one, g[places[3]].contiguous())
            lost = [t.detach().requires_grad_() for t in poisoned[:3]]
            around = torch.autograd.grad(tk.attention(*lost, queries, keys, scale, causal, window, cap)[0], lost, poisoned[3])
            same = same and all(torch.equal(x[place], y) and torch.equal(z[place], y) for x, y, z, place in zip(ours, alone, around, places))
            expect(f"attention d {dim}, heads {heads}/{kv_heads}, causal {causal}, window {window}, cap {cap}: dq, dk, dv and the log of sums against float64; bitwise alone, again, with NaN around",
                   max(worst) < 1e-2 and off < 5e-3 and same, f"worst {[f'{w:.1e}' for w in worst]}, log {off:.1e}, same {same}")
    # The drop-in, beside torch's own, on transposed views.
    for batch, heads, kv_heads, n, dim, causal in [(2, 4, 4, 200, 64, True), (3, 8, 2, 333, 128, True), (1, 4, 2, 150, 128, False)]:
        leaves = [rand(batch, n, h, dim).requires_grad_() for h in (heads, kv_heads, kv_heads)]
        views = [t.transpose(1, 2) for t in leaves]
        g = rand(batch, heads, n, dim)
        ours = torch.autograd.grad(tk.scaled_dot_product_attention(*views, is_causal=causal, enable_gqa=heads != kv_heads), leaves, g)
        wide = [t.detach().double().requires_grad_() for t in leaves]
        theirs = torch.autograd.grad(F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in wide), is_causal=causal, enable_gqa=heads != kv_heads), wide, g.double())
        torchs = torch.autograd.grad(F.scaled_dot_product_attention(*views, is_causal=causal, enable_gqa=heads != kv_heads), leaves, g)
        worst, peer = max(error(x, y) for x, y in zip(ours, theirs)), max(error(x, y) for x, y in zip(torchs, theirs))
        expect(f"scaled_dot_product_attention [{batch}, {heads}/{kv_heads}, {n}, {dim}], causal {causal}: gradients as near to float64 as torch's", worst < 1e-2 and worst < 1.5 * peer + 1e-3, f"{worst:.2e}, torch {peer:.2e}")
    compiled = torch.compile(lambda q, k, v: tk.scaled_dot_product_attention(q * 2, k, v, is_causal=True).sin(), fullgraph=True)
    views = [rand(2, 100, 4, 64).transpose(1, 2) for _ in range(3)]
    expect("torch.compile around scaled_dot_product_attention, whole graph", error(compiled(*views), tk.scaled_dot_product_attention(views[0] * 2, *views[1:], is_causal=True).sin().double()) < 5e-3)
    refuses("scaled_dot_product_attention refuses a mask", lambda: tk.scaled_dot_product_attention(*views, attn_mask=torch.ones(1, device=DEV)), "neither a mask")
    refuses("attention refuses d 96", lambda: tk.attention(rand(4, 4, 96), rand(4, 4, 96), rand(4, 4, 96), [4], [4], 1.0), "64 or 128")


def check_functional():
    """The drop-ins beside torch's functions in a small model: loss and gradients, eager and compiled as a whole graph."""
    import tinykernels.functional as tkf

    torch.manual_seed(int(torch.randint(0, 2**31, ())))
    batch, n, heads, dim, hidden, vocabulary = 2, 96, 4, 64, 256, 512
    shapes = [(3 * hidden, hidden), (3 * hidden,), (hidden, hidden), (4 * hidden, hidden), (4 * hidden,), (hidden, 4 * hidden), (vocabulary, hidden)]
    weights = [rand(*shape, scale=0.06).requires_grad_() for shape in shapes]
    x, targets = rand(batch, n, hidden), torch.randint(0, vocabulary, (batch * n,), device=DEV)

    def loss(f, x, targets, qkv, qkv_bias, proj, up, up_bias, down, head):
        q, k, v = f.linear(x, qkv, qkv_bias).view(batch, n, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + f.linear(f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2), proj)
        x = x + f.linear(torch.relu(f.linear(x, up, up_bias)), down)
        return f.cross_entropy(f.linear(x, head).flatten(0, 1), targets)

    wide = [w.detach().double().requires_grad_() for w in weights]
    want = loss(F, x.double(), targets, *wide)
    theirs = torch.autograd.grad(want, wide)
    peer = torch.autograd.grad(loss(F, x, targets, *weights), weights)
    peer = max(error(a, b) for a, b in zip(peer, theirs))
    short = targets.int()
    scores = rand(3, 5, 64, dtype=torch.float32)
    same = all(error(tkf.softmax(scores, dim), F.softmax(scores.double(), dim)) < 2e-5 for dim in (-1, 2))
    same = same and float(tkf.cross_entropy(scores[0], targets[:5] % 64)) == float(tk.cross_entropy(scores[0], short[:5] % 64))
    expect("functional.softmax over the last dimension, by either name; functional.cross_entropy of int64 classes", same)
    refuses("functional.softmax refuses another dimension", lambda: tkf.softmax(scores, 1), "dim 1", "(3, 5, 64)")
    refuses("functional.cross_entropy refuses label smoothing", lambda: tkf.cross_entropy(scores[0], short[:5], label_smoothing=0.1), "smoothing")
    for name, run in (("eager", loss), ("compiled", torch.compile(loss, fullgraph=True))):
        got = run(tkf, x, short, *weights)
        ours = torch.autograd.grad(got, weights)
        worst = max(error(a, b) for a, b in zip(ours, theirs))
        off = abs(float(got.detach()) - float(want.detach()))
        expect(f"functional: a layer and a loss with its gradients, {name}, as near to float64 as torch's", worst < 1.5 * peer + 1e-3 and off < 2e-2, f"worst {worst:.2e}, torch {peer:.2e}, loss {off:.1e}")
    refuses("functional.linear refuses f32", lambda: tkf.linear(x.float(), weights[0]), "bfloat16")


PARTS = (check_cross_entropy, check_gradient, check_functional)
