"""Reduce, scan, histogram, transposition and top-k: parts of check.py."""

import math

import torch

import tinykernels as tk
from check import DEV, expect, rand, refuses


def check_reduce():
    worst, good = 0.0, True
    for n in (0, 1, 3, 4, 511, 16384, 16385, 100003, (1 << 24) + 5):
        x = torch.randn(n, device=DEV) + 0.1
        total = float(tk.reduce(x))
        want = float(x.double().sum())
        worst = max(worst, abs(total - want) / max(float(x.double().abs().sum()), 1e-30) if n else abs(total))
        good = good and float(tk.reduce(x)) == total
        for name, of in (("max", -math.inf), ("min", math.inf)):
            good = good and float(tk.reduce(x, name)) == (float(getattr(x, name)()) if n else of)
    x[77] = math.nan
    good = good and all(math.isnan(float(tk.reduce(x, o))) for o in ("sum", "max", "min"))
    expect("reduce: 9 lengths, sum against float64 and the same again, greatest and least exact, a NaN wins", worst < 1e-6 and good, f"worst {worst:.1e}")
    refuses("reduce refuses a misaligned start", lambda: tk.reduce(torch.zeros(9, device=DEV)[1:]), "16 bytes")


def check_scan():
    good = True
    for n in (1, 2, 5, 8191, 8192, 8193, 100003, (1 << 24) + 3):
        x = torch.randint(-(2**31), 2**31 - 1, (n,), device=DEV, dtype=torch.int32)
        want = x.long().cumsum(0)
        narrow = lambda t: ((t + 2**31) % 2**32 - 2**31).int()
        for _ in range(3):
            good = good and torch.equal(tk.scan(x), narrow(want)) and torch.equal(tk.scan(x, True), narrow(want - x.long()))
    expect("scan: 8 lengths, inclusive and exclusive, exact modulo 2^32, three times", good and tk.scan(x[:0]).numel() == 0)
    refuses("scan refuses f32", lambda: tk.scan(torch.zeros(8, device=DEV)), "uint32")


def check_histogram():
    good = True
    for n, bins in [(0, 4), (1, 1), (100003, 256), ((1 << 22) + 3, 1000), (1 << 20, 24575), ((1 << 22) + 1, 3)]:
        for kind in ("spread", "one value", "outside"):
            x = torch.randint(0, bins, (n,), device=DEV, dtype=torch.int32)
            x = {"spread": x, "one value": x * 0 + bins - 1, "outside": x * 2 - bins // 2}[kind].contiguous()
            inside = x[(x >= 0) & (x < bins)]
            good = good and torch.equal(tk.histogram(x, bins).long(), torch.bincount(inside.long(), minlength=bins))
    expect("histogram: 6 sizes, spread, one value, numbers outside, exact", good)
    refuses("histogram refuses 24,576 bins", lambda: tk.histogram(x, 24576), "24575 bins")


def check_transpose():
    good = True
    for rows, columns in [(1, 1), (64, 64), (65, 127), (1000, 333), (4096, 2050), (1, 5000), (5000, 1), (130, 64), (3, 2)]:
        for dtype in (torch.bfloat16, torch.float32):
            x = rand(rows, columns, dtype=dtype)
            good = good and torch.equal(tk.transpose(x), x.T)
    expect("transpose: 9 shapes, 2 and 4 bytes, bitwise", good)
    refuses("transpose refuses three dimensions", lambda: tk.transpose(rand(2, 2, 2)), "2 dimensions")


def check_topk():
    good = True
    for rows, columns, k in [(1, 4, 4), (7, 1000, 1), (33, 128256, 50), (3, 32000, 1024), (5, 8192, 100), (2, 1024, 1024), (64, 50256, 7)]:
        for kind in ("random", "ties", "equal", "wild"):
            x = torch.randn(rows, columns, device=DEV)
            if kind == "ties":
                x = (x * 4).round() / 4
            elif kind == "equal":
                x = x * 0 + 3
            elif kind == "wild":
                x[:, ::5], x[:, 1::7], x[0, 2] = -math.inf, math.inf, math.nan
                x[:, 3::11] = -0.0
            values, places = tk.topk(x, k)
            order = torch.sort(torch.where(x == 0, torch.copysign(x.new_tensor(1e-45), x), x), dim=-1, descending=True, stable=True)[1][:, :k]
            good = good and torch.equal(places.long(), order) and torch.equal(values.nan_to_num(7e37), x.gather(1, order).nan_to_num(7e37))
    expect("topk: 7 shapes; random, ties, all equal, infinities and NaN: values and places as a stable sort has them", good)
    refuses("topk refuses k 1,025", lambda: tk.topk(torch.zeros(1, 2048, device=DEV), 1025), "1 to 1024")


PARTS = (check_reduce, check_scan, check_histogram, check_transpose, check_topk)
