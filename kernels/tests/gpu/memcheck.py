"""Every tile, batch and pass of the matrix products, the sort and the norms on shapes small enough for compute-sanitizer: check.py's own take minutes there."""

import sys

import torch

import tinykernels as tk

DEV = "cuda:0"
lib = tk._native.lib
e4m3 = torch.float8_e4m3fn


def rand(*shape):
    return torch.randn(*shape, device=DEV).bfloat16()


def close(got, want, most=4e-3):
    torch.cuda.synchronize()
    assert float((got.double() - want).norm() / want.norm()) < most, tuple(want.shape)


def bf16():
    for rows, features, columns in [(1, 8, 8), (5, 264, 72), (16, 1000, 200), (33, 520, 136), (64, 4096, 328), (90, 520, 136), (130, 264, 72), (300, 1000, 200), (513, 6144, 64)]:
        x, w = rand(rows, columns), rand(features, columns)
        for few, tile in [(0, t) for t in (32, 64, 96, 128, 160, 192, 224, 256)] + [(1, t) for t in (8, 32, 56, 64) if rows <= 64]:
            y = torch.full((rows, features), torch.nan, device=DEV, dtype=torch.bfloat16)
            tk._native.check(lib.tk_linear_bf16_tiled(*tk._at(x), y.data_ptr(), x.data_ptr(), w.data_ptr(), rows, features, columns, few, tile))
            close(y, x.double() @ w.double().T)


def weight_only():
    for features, columns in [(16, 128), (48, 384), (2128, 1280), (40000, 128)]:
        for bits, Linear in ((4, tk.W4Linear), (8, tk.W8Linear)):
            numbers = torch.randint(0, 2**bits, (features, columns), dtype=torch.uint8)
            scales = (torch.rand(features, columns // 128) * 0.02 + 0.001).bfloat16()
            zeros = torch.randint(0, 2**bits, scales.shape, dtype=torch.int16)
            linear = Linear(numbers, scales, zeros, DEV)
            w = ((numbers.double() - zeros.double().repeat_interleave(128, 1)) * scales.double().repeat_interleave(128, 1)).to(DEV)
            for rows in (1, 8, 9, 17, 32, 33):
                x = rand(rows, columns)
                close(linear(x), x.double() @ w.T)


def sparse():
    for rows, features, columns in [(1, 8, 16), (16, 264, 144), (33, 136, 80), (70, 520, 272), (300, 264, 208)]:
        w, x = rand(features, columns).view(features, -1, 4), rand(rows, columns)
        w[..., 1:3] = 0
        close(tk.SparseLinear(w.reshape(features, columns), DEV)(x), x.double() @ w.reshape(features, columns).double().T)


def sort():
    for n in (2, 5, 8193, 100003):
        sorter = tk.Sorter(n, DEV, pairs=True)
        alone = torch.randint(0, 2**31 - 1, (n,), device=DEV, dtype=torch.int32)
        paired, values = alone.clone(), torch.arange(n, device=DEV, dtype=torch.int32)
        want, order = torch.sort(alone, stable=True)
        sorter(alone.view(torch.uint32))
        sorter(paired.view(torch.uint32), values.view(torch.uint32))
        torch.cuda.synchronize()
        assert torch.equal(alone, want) and torch.equal(paired, want) and torch.equal(values.long(), order), n


def norm():
    for rows, hidden in [(7, 4096), (3, 8), (300, 2056), (2, 32768)]:
        x, residual, w = rand(rows, hidden), rand(rows, hidden), rand(hidden)
        y = tk.add_rms_norm(x, residual.clone(), w, 1e-5)
        tk.rms_norm(x, w, 1e-5)
        tk._native.check(lib.tk_add_rms_norm_in_place(*tk._at(x), x.data_ptr(), residual.data_ptr(), w.data_ptr(), rows, hidden, 1e-5))
        torch.cuda.synchronize()
        assert torch.equal(x, y), (rows, hidden)


def low_bits():
    for rows, features, columns in [(1, 16, 16), (5, 272, 144), (33, 528, 272), (64, 1008, 128), (65, 272, 400), (300, 1040, 656)]:
        x, w = rand(rows, columns).to(e4m3), rand(features, columns).to(e4m3)
        a, b = torch.rand(rows, device=DEV), torch.rand(features, device=DEV)
        close(tk.linear_scaled(x, w, a, b), (x.double() * a.double()[:, None]) @ (w.double() * b.double()[:, None]).T)
        kb, nb = -(-columns // 128), -(-features // 128)
        ones = torch.ones(kb, rows, device=DEV), torch.ones(nb, kb, device=DEV)
        close(tk.linear_blocks(x, w, *ones), x.double() @ w.double().T)
        for dtype in (torch.bfloat16, torch.float16):
            x, w, bias, residual = (t.to(dtype) for t in (rand(rows, columns), rand(features, columns), rand(features), rand(rows, features // 2)))
            v = x.double() @ w.double().T + bias.double()
            pairs = v.view(rows, -1, 2, 8)
            close(tk.linear_fused(x, w, bias, residual, "silu", True), (pairs[:, :, 0] * torch.sigmoid(pairs[:, :, 0]) * pairs[:, :, 1]).reshape(rows, -1) + residual.double())
        small = torch.randint(-9, 9, (features, columns), device=DEV, dtype=torch.int8)
        close(tk.linear_scaled(small[: min(rows, features)].contiguous(), small, a[:1].contiguous(), b), small[: min(rows, features)].double() @ small.double().T * a[:1].double() * b.double())


def quantise():
    for rows, hidden in [(3, 128), (5, 1152), (2, 32768)]:
        for blocks in (False, True):
            for dtype in (e4m3, torch.int8):
                tk.quantize(rand(rows, hidden), dtype, blocks)
                tk.rms_norm_quantize(rand(rows, hidden), rand(hidden), 1e-5, dtype, blocks)
                tk.add_rms_norm_quantize(rand(rows, hidden), rand(rows, hidden), rand(hidden), 1e-5, dtype, blocks)
                tk.silu_mul_quantize(rand(rows, 2 * hidden), dtype, blocks)


def rows():
    for rows, hidden in [(3, 8), (5, 2056), (2, 32768)]:
        x, w = rand(rows, hidden), rand(hidden)
        if hidden <= 8192:
            tk.layer_norm_gradient(x, x, w, 1e-5, x)
        if hidden <= 16384:
            tk.rms_norm_gradient(x, x, w, 1e-5)
        tk.layer_norm(x, w, w, 1e-5), tk.add_layer_norm(x, rand(rows, hidden), w, None, 1e-5)
        for approximate in ("none", "tanh"):
            tk.gelu(x, approximate)
        for dtype in (torch.bfloat16, torch.float32):
            scores = x.to(dtype)
            tk.softmax(scores), tk.softmax(scores, 0.5, True)
            targets = torch.randint(-1, hidden + 1, (rows,), device=DEV, dtype=torch.int32)
            loss, log_sum = tk._fused.cross_entropy_rows(scores, targets)
            tk._fused.cross_entropy_gradient(scores, targets, log_sum, loss)
        tk.embedding(torch.randint(-1, rows + 1, (7,), device=DEV, dtype=torch.int32), x)
    tk.softmax(rand(2, 40000)), tk.softmax(torch.randn(2, 20000, device=DEV))


def sample():
    for dtype, vocabulary in ((torch.float32, 40), (torch.bfloat16, 50260), (torch.float32, 140004)):
        rows = 3
        logits, ones = torch.randn(rows, vocabulary, device=DEV).to(dtype), torch.ones(rows, device=DEV)
        counts = torch.zeros(4, vocabulary, device=DEV, dtype=torch.int16)
        tk.Penalties.start(counts, 1, torch.randint(-2, vocabulary + 2, (99,), device=DEV, dtype=torch.int32))
        penalties = tk.Penalties(ones * 1.1, ones * 0.1, ones * 0.1, torch.tensor([1, -1, 3], device=DEV, dtype=torch.int32), counts)
        bitmask = torch.full((rows, -(-vocabulary // 32)), -1, device=DEV, dtype=torch.int32)
        for top_p in (0.5, 1.0):
            tk.sample(logits, ones, ones * top_p, ones * 0, ones.int() * 5, ones.long(), bitmask, vocabulary - 1, penalties)


def attention():
    for dim in (64, 128):
        for lengths in ([(1, 1), (130, 130)], [(70, 200), (0, 5), (3, 0)]):
            queries, keys = map(list, zip(*lengths))
            q, k, v = (rand(sum(n), h, dim).requires_grad_() for n, h in ((queries, 4), (keys, 2), (keys, 2)))
            for cap in (0.0, 5.0):
                out, _ = tk.attention(q, k, v, queries, keys, 0.1, True, 50, cap)
                torch.autograd.grad(out, (q, k, v), torch.ones_like(out))


def prefill():
    from check_attention import attention as wanted
    from check_attention import paged_cache, pages_of

    for dim in (64, 128):
        for lengths, page, window, cap in [([(1, 1), (130, 130), (0, 5), (3, 200)], 0, 0, 0.0), ([(150, 150), (3, 270)], 16, 77, 0.0), ([(40, 170)], 128, 0, 20.0)]:
            queries, keys = map(list, zip(*lengths))
            q, k, v = rand(sum(queries), 2, dim), rand(sum(keys), 1, dim), rand(sum(keys), 1, dim)
            options = queries, keys, 0.1, True, window, cap
            out = tk.paged_prefill(q, *pages_of(k, v, keys, page), *options) if page else tk.prefill(q, k, v, *options)
            close(out, torch.cat([wanted(*rows, 0.1, True, window, cap) for rows in zip(q.split(queries), k.split(keys), v.split(keys))]), 6e-3)
        # Scores that pass a row's first ones by far: their tiles are walked again.
        q, k, v = rand(300, 2, dim), rand(300, 1, dim), rand(300, 1, dim)
        k[:3] *= 6
        q[3::7] *= 100
        close(tk.prefill(q, k, v, [300], [300], 0.1), wanted(q, k, v, 0.1, True, 0, 0.0), 6e-3)
        keys, values, table, lens, _ = paged_cache([20, 0, 33], 2, 16, dim=dim, dtype=e4m3)
        tk.read_pages(keys, values, table, torch.tensor([0, 20, 20, 53], device=DEV, dtype=torch.int32), 53, *(torch.ones(2, device=DEV) for _ in range(2)))


def primitives():
    for n in (1, 5, 20003):
        x = torch.randn(n, device=DEV)
        tk.reduce(x), tk.reduce(x, "max"), tk.scan(x.int()), tk.scan(x.int(), True), tk.histogram(x.int(), 7), tk.histogram(x.int(), 24575)
    for rows, columns in [(1, 4), (65, 132), (3, 70000)]:
        tk.transpose(rand(rows, columns)), tk.transpose(rand(rows, columns + 1)), tk.transpose(torch.randn(rows, columns, device=DEV))
        tk.topk(torch.randn(rows, columns, device=DEV).round(), min(columns, 100))


for part in sys.argv[1:] or "bf16 weight_only sparse sort norm low_bits quantise rows sample attention prefill primitives".split():
    globals()[part]()
torch.cuda.synchronize()
print("memcheck: all as expected")
