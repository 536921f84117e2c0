"""The gradients of the norms against torch's autograd in float64: parts of check.py."""

import math

import torch
import torch.nn.functional as F

import tinykernels as tk
from check import DEV, error, expect, rand, refuses

SHAPES = [(1, 4096), (7, 576), (3, 8), (513, 2056), (2, 8192), (4500, 64), (300, 1024), (33, 8184), (1500, 4096)]


def wide(x, weight, bias, layer):
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    of = leaves[0]
    y = F.layer_norm(of, of.shape[-1:], leaves[1], leaves[2], 1e-5) if layer else of * torch.rsqrt(of.pow(2).mean(-1, keepdim=True) + 1e-5) * leaves[1]
    return y, leaves[: 3 if layer else 2]


def check_norm_gradient():
    for layer in (False, True):
        worst, same = [0.0] * 3, True
        for rows, hidden in SHAPES + ([] if layer else [(5, 16384), (700, 12288)]):
            x, weight, bias, gradient, further = rand(rows, hidden) + (1 if layer else 0), rand(hidden), rand(hidden), rand(rows, hidden), rand(rows, hidden)
            y, leaves = wide(x, weight, bias, layer)
            want = torch.autograd.grad(y, leaves, gradient.double())
            call = tk.layer_norm_gradient if layer else tk.rms_norm_gradient
            got = call(gradient, x, weight, 1e-5)
            for i, (a, b) in enumerate(zip(got, want)):
                worst[i] = max(worst[i], error(a, b))
            worst[0] = max(worst[0], error(call(gradient, x, weight, 1e-5, further)[0], want[0] + further.double()))
            again, alone = call(gradient, x, weight, 1e-5), call(gradient[-1:].contiguous(), x[-1:].contiguous(), weight, 1e-5)
            same = same and all(torch.equal(a, b) for a, b in zip(got, again)) and torch.equal(alone[0][0], got[0][-1])
            # By autograd, as a model has it.
            on = [t.detach().requires_grad_() for t in (x, weight, bias)][: 3 if layer else 2]
            out = tk.layer_norm(*on, 1e-5) if layer else tk.rms_norm(*on, 1e-5)
            same = same and all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(out, on, gradient), got))
        name = "layer_norm" if layer else "rms_norm"
        expect(f"{name}_gradient: {len(SHAPES) + (0 if layer else 2)} shapes against float64, a further gradient, bitwise again, alone and by autograd", max(worst) < 5e-3 and same, f"worst {[f'{w:.1e}' for w in worst]} same {same}")
        x, weight, gradient = rand(40, 512), rand(512), rand(40, 512)
        calm = call(gradient, x, weight, 1e-5)
        gradient[7, 3] = math.nan
        lost = call(gradient, x, weight, 1e-5)
        others, columns = torch.arange(40, device=DEV) != 7, torch.arange(512, device=DEV) != 3
        good = torch.equal(lost[0][others], calm[0][others]) and bool(lost[0][7].isnan().all()) and bool(lost[1][3].isnan()) and torch.equal(lost[1][columns], calm[1][columns])
        expect(f"{name}_gradient: a NaN reaches its row, and its column of the weight's", good)
        none = call(gradient[:0], x[:0], weight, 1e-5)
        expect(f"{name}_gradient: no rows leave zeros", none[0].numel() == 0 and all(bool((t == 0).all()) for t in none[1:]))
        refuses(f"{name}_gradient refuses 12 columns", lambda: call(rand(2, 12), rand(2, 12), rand(12), 1e-5), "norm_gradient", "multiple of 8")
        most = 8192 if layer else 16384
        refuses(f"{name}_gradient refuses {most + 8} columns", lambda: call(rand(1, most + 8), rand(1, most + 8), rand(most + 8), 1e-5), "16,384")
    import tinykernels.functional as tkf

    x, weight, bias = rand(6, 10, 256).requires_grad_(), rand(256).requires_grad_(), rand(256).requires_grad_()
    def model(f, x, weight, bias):
        return f.layer_norm(f.rms_norm(x * 2, (256,), weight, 1e-6), (256,), weight, bias, 1e-5).square().mean()
    want = torch.autograd.grad(model(F, *(t.double() for t in (x, weight, bias))), (x, weight, bias))
    worst = 0.0
    for run in (model, torch.compile(model, fullgraph=True)):
        got = torch.autograd.grad(run(tkf, x, weight, bias), (x, weight, bias))
        worst = max(worst, *(error(a, b.double()) for a, b in zip(got, want)))
    expect("functional.rms_norm and layer_norm: gradients of a small model, eager and compiled as a whole graph", worst < 3e-2, f"worst {worst:.2e}")
    refuses("functional.layer_norm refuses two dimensions", lambda: tkf.layer_norm(x, (10, 256)), "the last dimension alone")


PARTS = (check_norm_gradient,)
