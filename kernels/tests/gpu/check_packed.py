"""Packed weights of 4 and 8 bits, and of checkpoints: parts of check.py."""

import math
import os

import torch

import tinykernels as tk
from check import DEV, error, expect, rand, refuses


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


PARTS = (check_packed,)
