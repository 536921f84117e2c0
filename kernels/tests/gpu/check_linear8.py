"""Linear layers with an epilogue, of 8-bit operands, and quantisation: parts of check.py."""

import math

import torch

import tinykernels as tk
from check import DEV, error, expect, rand, refuses
from tinykernels import _linear

SHAPES = [(1, 64, 64), (3, 1008, 208), (16, 6144, 512), (33, 4096, 1024), (64, 528, 4096), (65, 256, 144), (130, 1008, 80), (300, 4096, 1024), (777, 6144, 4096), (2049, 1040, 272)]


def activated(v, activation):
    if activation == "silu":
        return v * torch.sigmoid(v)
    if activation == "gelu":
        return 0.5 * v * torch.special.erfc(-v * 0.5**0.5)
    return torch.nn.functional.gelu(v, approximate="tanh") if activation == "gelu_tanh" else v


def want(x, w, bias, residual, activation, gated):
    v = x @ w.T
    v = v + bias.double() if bias is not None else v
    if gated:
        blocks = v.view(v.shape[0], -1, 2, 8)
        v = activated(blocks[:, :, 0], activation) * blocks[:, :, 1]
        v = v.reshape(v.shape[0], -1)
    else:
        v = activated(v, activation)
    return v + residual.double() if residual is not None else v


def epilogues(rows, features, dtype):
    """(bias, residual, activation, gated), a few that between them use everything."""
    bias = rand(features, dtype=dtype)
    yield None, None, "none", False
    yield bias, rand(rows, features, dtype=dtype), "none", False
    yield bias, None, "gelu_tanh", False
    yield bias, None, "gelu", False
    if features % 16 == 0:
        yield bias, rand(rows, features // 2, dtype=dtype), "silu", True
        yield None, None, "gelu_tanh", True


def check_fused():
    for dtype, limit in ((torch.bfloat16, 3e-3), (torch.float16, 5e-4)):
        worst, same = 0.0, True
        for rows, features, columns in SHAPES:
            x, w = rand(rows, columns, dtype=dtype), rand(features, columns, dtype=dtype, scale=columns**-0.5)
            for bias, residual, activation, gated in epilogues(rows, features, dtype):
                y = tk.linear_fused(x, w, bias, residual, activation, gated)
                worst = max(worst, error(y, want(x.double(), w.double(), bias, residual, activation, gated)))
                for fewer in {1, rows // 9 + 1, rows // 2 + 1}:
                    part = tk.linear_fused(x[:fewer].contiguous(), w, bias, residual if residual is None else residual[:fewer].contiguous(), activation, gated)
                    same = same and torch.equal(part, y[:fewer])
            if dtype == torch.bfloat16:
                same = same and torch.equal(tk.linear_fused(x, w), tk.linear(x, w))
        expect(f"linear_fused {dtype}: 10 shapes, 5 epilogues against float64, rows bitwise the same in every batch", worst < limit and same, f"worst {worst:.2e} same {same}")
    x, w = rand(4, 64), rand(32, 64)
    extreme = torch.tensor([-math.inf, -3e38, math.inf, math.nan] + [0.0] * 28, device=DEV).bfloat16()
    y = tk.linear_fused(x * 0, w, extreme, None, "silu")[0].float().tolist()
    expect("linear_fused: silu of -inf, -3e38, inf, NaN is 0, 0, inf, NaN", y[0] == 0 and y[1] == 0 and y[2] == math.inf and math.isnan(y[3]), str(y[:4]))
    y = tk.linear_fused(x * 0, w, extreme, None, "gelu")[0].float().tolist()
    expect("linear_fused: gelu of -inf, -3e38, inf, NaN is 0, 0, inf, NaN", y[0] == 0 and y[1] == 0 and y[2] == math.inf and math.isnan(y[3]), str(y[:4]))
    line = torch.linspace(-7, 9, 4096, device=DEV).bfloat16()
    y = tk.linear_fused(torch.zeros(1, 64, device=DEV, dtype=torch.bfloat16), torch.zeros(4096, 64, device=DEV, dtype=torch.bfloat16), line, None, "gelu")[0]
    off = float(((y.double() - activated(line.double(), "gelu")).abs() / activated(line.double(), "gelu").abs().clamp_min(1e-30)).max())
    expect("linear_fused: gelu of every bf16 from -7 to 9 within 2^-8 (a rounding) and 2^-10 of its value", off < 5 * 2.0**-10, f"{off:.2e}")
    refuses("linear_fused refuses 24 gated features", lambda: tk.linear_fused(x, rand(24, 64), None, None, "silu", True), "gated: 16")
    refuses("linear_fused refuses a residual of another shape", lambda: tk.linear_fused(x, w, None, rand(4, 16)), "residual (4, 16)")
    refuses("linear_fused refuses an unknown activation", lambda: tk.linear_fused(x, w, None, None, "relu"), "gelu_tanh")
    both = torch.stack((torch.arange(16.0), 100 + torch.arange(16.0)))
    mixed = tk.interleave_gate(both[0], both[1]).tolist()
    expect("interleave_gate: eight and eight", mixed[:8] == list(range(8)) and mixed[8:16] == [100 + i for i in range(8)] and mixed[16] == 8, str(mixed[:20]))


def eight_bits(rows, columns, dtype):
    if dtype == torch.int8:
        return torch.randint(-127, 128, (rows, columns), device=DEV, dtype=torch.int8)
    return torch.randn(rows, columns, device=DEV).to(dtype)


def check_linear8():
    for dtype in (torch.float8_e4m3fn, torch.int8):
        worst, same = 0.0, True
        for rows, features, columns in SHAPES:
            x, w = eight_bits(rows, columns, dtype), eight_bits(features, columns, dtype)
            sx, sw = torch.rand(rows, device=DEV) + 0.01, (torch.rand(features, device=DEV) + 0.01) * columns**-0.5
            sw = sw / 5000 if dtype == torch.int8 else sw
            for one in (False, True):
                a, b = (sx[:1].contiguous(), sw[:1].contiguous()) if one else (sx, sw)
                for bias, residual, activation, gated in epilogues(rows, features, torch.bfloat16):
                    y = tk.linear_scaled(x, w, a, b, bias, residual, activation, gated)
                    worst = max(worst, error(y, want(x.double() * a.double().unsqueeze(1), w.double() * b.double().unsqueeze(1), bias, residual, activation, gated)))
                    for fewer in {1, rows // 9 + 1, rows // 2 + 1}:
                        part = tk.linear_scaled(x[:fewer].contiguous(), w, a if one else a[:fewer].contiguous(), b, bias, residual if residual is None else residual[:fewer].contiguous(), activation, gated)
                        same = same and torch.equal(part, y[:fewer])
        expect(f"linear_scaled {dtype}: 10 shapes, 5 epilogues, scales of rows and of all against float64, rows bitwise the same in every batch", worst < 4e-3 and same, f"worst {worst:.2e} same {same}")
    x = eight_bits(4, 64, torch.float8_e4m3fn)
    refuses("linear_scaled refuses three scales for four rows", lambda: tk.linear_scaled(x, eight_bits(16, 64, x.dtype), torch.ones(3, device=DEV), torch.ones(1, device=DEV)), "one a row")
    wide = [torch.zeros(16, 131072, device=DEV, dtype=torch.int8) for _ in range(2)]
    refuses("linear_scaled refuses 131,072 columns of int8", lambda: tk.linear_scaled(*wide, torch.ones(1, device=DEV), torch.ones(1, device=DEV)), "131,071 columns", "32 bits")
    refuses("linear_scaled refuses 72 columns", lambda: tk.linear_scaled(eight_bits(4, 72, x.dtype), eight_bits(16, 72, x.dtype), torch.ones(4, device=DEV), torch.ones(1, device=DEV)), "multiple of 16 bytes")


def check_backends():
    """cuBLASLt behind the same call, for every kind that it takes."""
    from ctypes import byref

    lib, library = tk._native.lib, tk._native.made(tk._native.lib.tk_cublaslt_open(tk._native.handle(0)))
    one = torch.tensor([0.37], device=DEV)

    def by(y, x, w, scales, fastest=0):
        call = _linear._call(y, x, w, *scales, None, None, "none", False, _linear._KINDS[x.dtype])
        tk._native.check(lib.tk_linear_by(*tk._at(x), byref(call), library, fastest))
        return y

    for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn):
        worst, eight = 0.0, dtype == torch.float8_e4m3fn
        for rows, features, columns in [(1, 4096, 4096), (16, 6144, 4096), (128, 4096, 14336), (1000, 272, 96)]:
            x, w = (eight_bits(n, columns, dtype) if eight else rand(n, columns, dtype=dtype) for n in (rows, features))
            for fastest in (0, 1):
                y = torch.full((rows, features), math.nan, device=DEV, dtype=torch.bfloat16 if eight else dtype)
                by(y, x, w, (one, one) if eight else (None, None), fastest)
                worst = max(worst, error(y, x.double() @ w.double().T * (float(one) ** 2 if eight else 1)))
        expect(f"linear {dtype} by cuBLASLt, and by the faster of the two: 4 shapes against float64", worst < 4e-3, f"worst {worst:.2e}")
    x, w = eight_bits(16, 128, torch.int8), eight_bits(32, 128, torch.int8)
    y = torch.empty(16, 32, device=DEV, dtype=torch.bfloat16)
    refuses("linear by cuBLASLt refuses int8", lambda: by(y, x, w, (one, one)), "CublasLt::linear", "e4m3")
    x, w = eight_bits(16, 128, torch.float8_e4m3fn), eight_bits(32, 128, torch.float8_e4m3fn)
    refuses("linear by cuBLASLt refuses a scale a row", lambda: by(y, x, w, (torch.ones(16, device=DEV), one)), "one of x")


def check_blocks():
    worst, same = 0.0, True
    for rows, features, columns in SHAPES:
        x, w = eight_bits(rows, columns, torch.float8_e4m3fn), eight_bits(features, columns, torch.float8_e4m3fn)
        kb, nb = -(-columns // 128), -(-features // 128)
        sx, sw = torch.rand(kb, rows, device=DEV) + 0.01, (torch.rand(nb, kb, device=DEV) + 0.01) * columns**-0.5
        dx = x.double() * sx.double().repeat_interleave(128, 0)[:columns].T
        dw = w.double() * sw.double().repeat_interleave(128, 0)[:features].repeat_interleave(128, 1)[:, :columns]
        for bias, residual, activation, gated in epilogues(rows, features, torch.bfloat16):
            y = tk.linear_blocks(x, w, sx, sw, bias, residual, activation, gated)
            worst = max(worst, error(y, want(dx, dw, bias, residual, activation, gated)))
            for fewer in {1, rows // 9 + 1, rows // 2 + 1}:
                part = tk.linear_blocks(x[:fewer].contiguous(), w, sx[:, :fewer].contiguous(), sw, bias, residual if residual is None else residual[:fewer].contiguous(), activation, gated)
                same = same and torch.equal(part, y[:fewer])
    expect("linear_blocks: 10 shapes, 5 epilogues, a scale a block of 128 against float64, rows bitwise the same in every batch", worst < 4e-3 and same, f"worst {worst:.2e} same {same}")
    refuses("linear_blocks refuses scales of another shape", lambda: tk.linear_blocks(x, w, sx[:1], sw), "scales")


def check_quantize():
    def off(codes, scales, values, dtype, blocks):
        """The greatest distance in steps from what float64 rounds to, and the share of values that are a step off; scales' own error."""
        rows, hidden = values.shape
        top = 127.0 if dtype == torch.int8 else 448.0
        grouped = values.view(rows, -1, 128) if blocks else values.unsqueeze(1)
        scale = grouped.abs().amax(-1) / top
        got = scales.T if blocks else scales.unsqueeze(1)
        wrong = float(((got.double() - scale).abs() / scale.clamp_min(1e-30)).max())
        exact = (grouped / scale.unsqueeze(-1).clamp_min(1e-300)).view(rows, hidden)
        if dtype == torch.int8:
            steps = (codes.double() - exact.round().clamp(-127, 127)).abs()
        else:
            order = lambda t: torch.where(t.view(torch.uint8) > 127, 128 - t.view(torch.uint8).int(), t.view(torch.uint8).int())
            steps = (order(codes.contiguous()) - order(exact.float().to(dtype).contiguous())).abs()
        return float(steps.max()), float((steps > 0).double().mean()), wrong

    for dtype in (torch.float8_e4m3fn, torch.int8):
        for blocks in (False, True):
            far, share, scale_error, same = 0.0, 0.0, 0.0, True
            for rows, hidden in [(1, 4096), (7, 128), (5, 640 if blocks else 328), (33, 2048), (3, 14336), (2, 32768), (129, 8192)]:
                x, r, w, gate = rand(rows, hidden), rand(rows, hidden, scale=3), rand(hidden), rand(rows, 2 * hidden)
                norm = lambda v: v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 1e-5) * w.double()
                added, a, b = r.clone(), gate[:, :hidden].double(), gate[:, hidden:].double()
                calls = [
                    (lambda s: tk.quantize(x[s].contiguous(), dtype, blocks), x.double()),
                    (lambda s: tk.rms_norm_quantize(x[s].contiguous(), w, 1e-5, dtype, blocks), norm(x.double())),
                    (lambda s: tk.add_rms_norm_quantize(x[s].contiguous(), added[s], w, 1e-5, dtype, blocks), norm((x + r).double())),
                    (lambda s: tk.silu_mul_quantize(gate[s].contiguous(), dtype, blocks), a * torch.sigmoid(a) * b),
                ]
                for call, values in calls:
                    added.copy_(r)
                    codes, scales = call(slice(0, rows))
                    one = off(codes, scales, values, dtype, blocks)
                    far, share, scale_error = max(far, one[0]), max(share, one[1]), max(scale_error, one[2])
                    last = slice(rows - 1, rows)
                    if call is calls[2][0]:
                        same = same and torch.equal(added, x + r)
                        added.copy_(r)
                    alone, alone_scales = call(last)
                    same = same and torch.equal(alone.view(torch.uint8), codes[last].view(torch.uint8)) and torch.equal(alone_scales, scales[..., last])
            good = far <= 1 and share < 0.01 and scale_error < 1e-5 and same
            expect(f"quantize, norms and gate to {dtype}, blocks {blocks}: 7 shapes within a step of float64, rows bitwise the same alone", good, f"steps {far}, share off {share:.1e}, scales {scale_error:.1e}, same {same}")
    x = rand(3, 256)
    x[1] = 0
    x[2, 5] = math.nan
    codes, scales = tk.quantize(x, torch.float8_e4m3fn)
    expect("quantize: a row of zeros has scale 0, a NaN stays one", float(scales[1]) == 0 and bool((codes[1].float() == 0).all()) and bool(codes[2, 5].float().isnan()))
    refuses("silu_mul_quantize refuses 17 columns", lambda: tk.silu_mul_quantize(rand(4, 17), torch.int8), "(4, 17)", "odd")
    refuses("quantize refuses blocks of 200 columns", lambda: tk.quantize(rand(2, 200), torch.int8, True), "multiple of 128")
    refuses("quantize refuses float16", lambda: tk.quantize(x, torch.float16), "float8_e4m3fn or int8")


def check_sparse():
    worst, same = 0.0, True
    for rows, features, columns in [(1, 8, 16), (5, 264, 144), (16, 1000, 4096), (17, 136, 80), (64, 4096, 1040), (65, 520, 256), (130, 256, 64), (300, 1000, 208), (1030, 6144, 4096), (513, 28672, 512)]:
        x, w = rand(rows, columns), rand(features, columns)
        layer = tk.SparseLinear(w, DEV, prune=True)
        fours = w.view(features, -1, 4)
        kept = torch.zeros_like(fours).scatter_(-1, fours.abs().float().sort(dim=-1, descending=True, stable=True).indices[..., :2], 1)
        dense = (fours * kept).reshape(features, columns)
        y = layer(x, torch.full((rows, features), math.nan, device=DEV, dtype=torch.bfloat16))
        worst = max(worst, error(y, x.double() @ dense.double().T))
        same = same and torch.equal(y, tk.SparseLinear(dense, DEV)(x))
        for fewer in {1, rows // 9 + 1, rows // 2 + 1}:
            same = same and torch.equal(layer(x[:fewer].contiguous()), y[:fewer])
    expect("linear_sparse: 10 shapes against float64, rows bitwise the same in every batch", worst < 4e-3 and same, f"worst {worst:.2e} same {same}")
    few = torch.zeros(64, 256)
    few[torch.arange(64), torch.randint(0, 256, (64,))] = torch.randn(64)
    x = rand(40, 256)
    lone = error(tk.SparseLinear(few, DEV)(x), x.double() @ few.bfloat16().double().to(DEV).T)
    x[3, 7] = math.nan
    y = tk.SparseLinear(rand(64, 256), DEV, prune=True)(x)
    others = torch.arange(40, device=DEV) != 3
    expect("linear_sparse: one number a row; a NaN stays in its row", lone < 3e-3 and bool(torch.isfinite(y[others]).all()), f"{lone:.2e}")
    refuses("linear_sparse refuses a dense weight", lambda: tk.SparseLinear(rand(64, 256), DEV), "SparseWeights", "at most two")
    refuses("linear_sparse refuses 24 columns", lambda: tk.SparseLinear(rand(64, 24), DEV, prune=True), "columns of 16")


def check_torch():
    """The operators inside torch: gradients of linear, and a graph of several under torch.compile with no break."""
    x, w = rand(5, 7, 512).requires_grad_(), rand(1024, 512, scale=0.05).requires_grad_()
    out = rand(5, 7, 1024)
    ours = torch.autograd.grad(tk.linear(x, w), (x, w), out)
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    theirs = torch.autograd.grad(torch.nn.functional.linear(x64, w64), (x64, w64), out.double())
    worst = max(error(a, b) for a, b in zip(ours, theirs))
    expect("linear: gradients against float64", worst < 4e-3, f"worst {worst:.2e}")
    residual, norm, gate_up, down = rand(33, 512), rand(512), rand(2048, 512, scale=0.05), rand(512, 1024, scale=0.05)

    def block(x, residual):
        codes, scales = tk.add_rms_norm_quantize(x, residual, norm, 1e-5, torch.float8_e4m3fn)
        inner = tk.linear_scaled(codes, gate_up.to(torch.float8_e4m3fn), scales, torch.ones(1, device=DEV), None, None, "silu", True)
        return tk.linear_fused(inner, down, None, residual) * 2

    x = rand(33, 512)
    first, second = residual.clone(), residual.clone()
    eager = block(x, first)
    compiled = torch.compile(block, fullgraph=True)(x, second)
    expect("torch.compile of a quantised MLP, whole graph: bits and the residual as without", torch.equal(eager, compiled) and torch.equal(first, second))


PARTS = (check_fused, check_linear8, check_backends, check_blocks, check_quantize, check_sparse, check_torch)
