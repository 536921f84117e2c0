"""Layer norm, GELU, softmax, embedding: parts of check.py."""

import math

import torch
import torch.nn.functional as F

import tinykernels as tk
from check import DEV, error, expect, rand, refuses


def check_layer_norm():
    worst, same = 0.0, True
    for rows, hidden in [(1, 4096), (7, 768), (3, 8), (5, 576), (2, 32768), (33, 2056), (129, 12288), (300, 1024), (0, 64)]:
        x, r, w, b = rand(rows, hidden) + 3, rand(rows, hidden, scale=3), rand(hidden), rand(hidden)
        of = lambda v, bias: F.layer_norm(v.double(), (hidden,), w.double(), bias.double() if bias is not None else None, 1e-5)
        got_r = r.clone()
        y = tk.add_layer_norm(x, got_r, w, b, 1e-5)
        if rows == 0:
            continue
        worst = max(worst, error(y, of(x + r, b)), error(tk.layer_norm(x, w, None, 1e-5), of(x, None)))
        same = same and torch.equal(got_r, x + r)
        alone_r = r[-1:].clone()
        same = same and torch.equal(tk.add_layer_norm(x[-1:].contiguous(), alone_r, w, b, 1e-5)[0], y[-1])
    expect("layer_norm: 8 shapes, alone and behind an addition, against float64; last row bitwise the same alone", worst < 4e-3 and same, f"worst {worst:.2e} same {same}")
    x = rand(2, 512) * 0.01 + 1000
    wide = error(tk.layer_norm(x, torch.ones_like(x[0]), None, 1e-5), F.layer_norm(x.double(), (512,), eps=1e-5))
    x[1, 3] = math.nan
    y = tk.layer_norm(x, torch.ones_like(x[0]), None, 1e-5)
    expect("layer_norm: rows far from zero; a NaN stays in its row", wide < 4e-3 and bool(torch.isfinite(y[0]).all()) and bool(y[1].isnan().all()), f"{wide:.2e}")
    refuses("layer_norm refuses 12 columns", lambda: tk.layer_norm(rand(2, 12), rand(12), None, 1e-5), "[2, 12]", "multiple of 8")


def check_gelu():
    worst = 0.0
    for shape in [(8,), (3, 1000), (77, 14336), (1, 8192 * 3 + 8)]:
        x = rand(*shape, scale=3)
        for form in ("none", "tanh"):
            worst = max(worst, error(tk.gelu(x, form), F.gelu(x.double(), approximate=form)))
    x = torch.linspace(-12, 12, 4096, device=DEV).bfloat16()
    exact = 0.5 * x.double() * torch.special.erfc(-x.double() * 0.5**0.5)  # F.gelu's own float64 cancels
    tail = float(((tk.gelu(x).double() - exact).abs() / exact.abs().clamp_min(1e-37)).max())
    expect("gelu: 4 shapes, erf and tanh, against float64; every value from -12 to 12 to its last bit", worst < 3e-3 and tail < 0.0045, f"worst {worst:.2e}, of a value {tail:.2e}")
    y = tk.gelu(torch.tensor([-math.inf, -3e38, 0.0, 3e38, math.inf, math.nan, -1.0, 1.0], device=DEV).bfloat16()).tolist()
    expect("gelu: -inf, -3e38, 0, 3e38, inf, NaN", y[:3] == [0, 0, 0] and y[3] > 2.9e38 and y[4] == math.inf and math.isnan(y[5]), str(y))
    worst = 0.0
    for n in (8, 808, 100_000):
        for form in ("none", "tanh"):
            x, dy = (rand(n) * 3).requires_grad_(), rand(n)
            exact = x.detach().double().requires_grad_()
            (want,) = torch.autograd.grad(F.gelu(exact, approximate=form), exact, dy.double())
            worst = max(worst, error(torch.autograd.grad(tk.gelu(x, form), x, dy)[0], want))
    ends = torch.tensor([math.inf, -math.inf, 3e38, -3e38, math.nan, 0.0, 1.0, -1.0], device=DEV).bfloat16().requires_grad_()
    slopes = torch.autograd.grad(tk.gelu(ends), ends, torch.ones_like(ends))[0].tolist()
    expect("gelu: gradients of 3 shapes against float64; at inf, -inf, NaN", worst < 4e-3 and slopes[:4] == [1, 0, 1, 0] and math.isnan(slopes[4]) and slopes[5] == 0.5, f"{worst:.2e} {slopes}")
    refuses("gelu refuses 12 elements", lambda: tk.gelu(rand(12)), "multiple of 8")
    refuses("gelu refuses another form", lambda: tk.gelu(rand(8), "erf"), "approximate 'erf'")


def check_softmax():
    for dtype, limit in ((torch.bfloat16, 4e-3), (torch.float32, 1e-5)):
        worst, same = 0.0, True
        for rows, columns in [(1, 8), (7, 1000), (33, 4096), (5, 16384), (3, 32768), (2, 32776), (4, 128256), (300, 72)]:
            x = rand(rows, columns, dtype=dtype, scale=4)
            x[0, columns // 2:] = -math.inf
            for scale, logarithm in ((1.0, False), (0.3, True)):
                y, z = tk.softmax(x, scale, logarithm), x.double() * scale
                want = torch.log_softmax(z, -1) if logarithm else torch.softmax(z, -1)
                seen = torch.isfinite(want)
                same = same and torch.equal(torch.isfinite(y), seen) and torch.equal(tk.softmax(x[-1:].contiguous(), scale, logarithm)[0], y[-1])
                worst = max(worst, error(y[seen], want[seen]))
        expect(f"softmax {dtype}: 8 shapes and their logarithms against float64, -inf in a row, last row bitwise the same alone", worst < limit and same, f"worst {worst:.2e} same {same}")
    x = rand(3, 64)
    x[1], x[2, 5] = -math.inf, math.nan
    y = tk.softmax(x)
    expect("softmax: a row of -inf and a row with a NaN become NaN, alone", bool(torch.isfinite(y[0]).all()) and bool(y[1:].isnan().all()))
    refuses("softmax refuses 12 columns", lambda: tk.softmax(rand(2, 12)), "multiple of 8")
    refuses("softmax refuses a scale of zero", lambda: tk.softmax(rand(2, 16), 0.0), "above zero")
    worst, same = 0.0, True
    for dtype in (torch.bfloat16, torch.float32):
        for rows, columns in [(3, 8), (7, 1000), (5, 4096), (4, 16384), (3, 40000)]:
            for scale, logarithm in ((1.0, False), (0.5, True)):
                x, dy = (torch.randn(rows, columns, device=DEV) * 2).to(dtype), torch.randn(rows, columns, device=DEV).to(dtype)
                exact = x.double().requires_grad_()
                (want,) = torch.autograd.grad((torch.log_softmax if logarithm else torch.softmax)(exact * scale, -1), exact, dy.double())
                def gradient(rows):
                    part = x[:rows].clone().requires_grad_()
                    return torch.autograd.grad(tk.softmax(part, scale, logarithm), part, dy[:rows].clone())[0]
                dx = gradient(rows)
                worst = max(worst, error(dx, want) * (1 if dtype == torch.bfloat16 else 1e3))
                same = same and torch.equal(gradient(1), dx[:1])
    expect("softmax: gradients of 5 shapes, its logarithm's too, bf16 and f32, against float64; rows bitwise alone", worst < 5e-3 and same, f"{worst:.2e} {same}")


def check_embedding():
    good = True
    for entries, hidden, tokens in [(10, 8, 1), (50257, 768, 513), (128256, 4096, 77), (7, 2056, 1000), (3, 16, 0)]:
        table, ids = rand(entries, hidden), torch.randint(0, entries, (tokens,), device=DEV, dtype=torch.int32)
        good = good and torch.equal(tk.embedding(ids, table), table[ids.long()])
    ids = torch.tensor([0, -1, 9, 10, 2**31 - 1], device=DEV, dtype=torch.int32)
    table = rand(10, 24)
    y = tk.embedding(ids, table)
    good = good and torch.equal(y[[0, 2]], table[[0, 9]]) and bool(y[[1, 3, 4]].isnan().all())
    expect("embedding: 5 shapes bitwise; an id that the table does not have gives NaN", good)
    refuses("embedding refuses a table of three dimensions", lambda: tk.embedding(ids, rand(10, 8, 2)), "(10, 8, 2)")
    refuses("embedding refuses 12 columns", lambda: tk.embedding(ids, rand(10, 12)), "multiple of 8")


PARTS = (check_layer_norm, check_gelu, check_softmax, check_embedding)
