"""Rows of bench.py: layer norm, GELU, softmax, embedding, cross-entropy, and attention's gradients, beside torch's own and Triton's."""

from ctypes import byref

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import tinykernels as tk
from bench import DEV, compare, rand, rotating, same_size_copy, steady, times
from tinykernels import _fused, _prefill

TORCH = f"torch {torch.__version__}"


def queued(function, tensor, call):
    handle, stream = tk._at(tensor)
    return lambda: function(handle, stream, byref(call))


def rows():
    import triton_peers as peers

    lib = tk._native.lib
    for n, hidden in [(8192, 4096), (32768, 4096)]:
        bytes_ = 4 * n * hidden
        sets = [(rand(n, hidden), rand(n, hidden)) for _ in range(2)]
        w, b = rand(hidden), rand(hidden)
        for name, function, call, torchs, triton in [
            ("LayerNorm", lib.tk_layer_norm, lambda x, y: _fused._rows(y, x, (None, w, b), number=1e-5), lambda x, y: F.layer_norm(x, (hidden,), w, b, 1e-5), lambda x, y: peers.layer_norm(x, w, b, y, 1e-5)),
            ("GELU by erf", lib.tk_gelu, lambda x, y: _fused._rows(y, x, rows=1, columns=x.numel()), lambda x, y: F.gelu(x), lambda x, y: peers.gelu(x, y)),
            ("softmax", lib.tk_softmax, lambda x, y: _fused._rows(y, x, number=1.0), lambda x, y: torch.softmax(x, -1), lambda x, y: peers.softmax(x, y)),
        ]:
            ours = rotating(lambda run: run(), *((queued(function, x, call(x, y)),) for x, y in sets))
            others = [(TORCH, rotating(torchs, *sets)), (f"Triton {peers.VERSION}", rotating(triton, *sets)), ("copy of as many bytes", same_size_copy(bytes_))]
            compare("fused", f"{name} bf16 [{n}, {hidden}]", ours, others, bytes_=bytes_, measure=steady if bytes_ > 2e8 else times)
    n, hidden = 32768, 4096
    table, ids, out = rand(128256, hidden), torch.randint(0, 128256, (n,), device=DEV, dtype=torch.int32), rand(n, hidden)
    call, long = _fused._rows(out, table, (ids,), n, hidden, flag=128256), ids.long()
    compare("fused", f"embedding bf16, {n} of 128256 rows of {hidden}", queued(lib.tk_embedding, table, call), [(TORCH, lambda: F.embedding(long, table)), (f"Triton {peers.VERSION}", lambda: peers.embedding(out, table, ids))], bytes_=4 * n * hidden, measure=steady)
    for n, vocabulary in [(4096, 128256), (8192, 32000)]:
        logits, targets = rand(n, vocabulary, scale=2), torch.randint(0, vocabulary, (n,), device=DEV, dtype=torch.int32)
        loss, log_sum = torch.empty(n, device=DEV), torch.empty(n, device=DEV)
        factor, gradient = torch.full((n,), 1 / n, device=DEV), torch.empty_like(logits)
        forward = queued(lib.tk_cross_entropy, logits, _fused._rows(loss, logits, (log_sum, targets), n, vocabulary))
        backward = queued(lib.tk_cross_entropy_gradient, logits, _fused._rows(gradient, logits, (log_sum, targets, factor), n, vocabulary))
        long = targets.long()
        def torchs():
            leaf = logits.detach().requires_grad_()
            F.cross_entropy(leaf, long).backward()
        def both():
            forward(), backward()
        compare("fused", f"cross-entropy forward bf16 [{n}, {vocabulary}]", forward, [(TORCH, lambda: F.cross_entropy(logits, long)), (f"Triton {peers.VERSION}", lambda: peers.cross_entropy(logits, targets, loss, log_sum))], bytes_=2 * n * vocabulary, measure=steady)
        compare("fused", f"cross-entropy forward and backward bf16 [{n}, {vocabulary}]", both, [(TORCH, torchs)], bytes_=6 * n * vocabulary, measure=steady)


def gradients():
    """Backward alone; causal: half of the square counts, and five products, though ours computes seven."""
    for batch, length, heads, kv_heads, dim, cap in [(1, 16384, 32, 32, 128, 0.0), (4, 4096, 32, 32, 128, 0.0), (4, 4096, 32, 8, 128, 0.0), (16, 1024, 32, 32, 128, 0.0), (4, 4096, 32, 32, 64, 0.0), (4, 4096, 32, 32, 128, 30.0)]:
        q, k, v = (rand(batch * length, h, dim) for h in (heads, kv_heads, kv_heads))
        g = rand(batch * length, heads, dim)
        lengths = (length,) * batch
        scale = dim**-0.5
        out, log_sum = tk.attention(q, k, v, list(lengths), list(lengths), scale, True, 0, cap)
        plan = _prefill._GradientPlan(0, heads, kv_heads, dim, scale, True, 0, cap, lengths, lengths)
        into = [torch.empty_like(t) for t in (q, k, v)]
        step = tk._native.GradientStep(*(t.data_ptr() for t in (*into, q, k, v, out, log_sum, g)))
        handle, stream = tk._at(q)
        ours = lambda: tk._native.lib.tk_prefill_gradient(handle, stream, byref(step), plan.pointer)
        peers = []
        for name, backend in () if cap else (("FlashAttention-2 in", SDPBackend.FLASH_ATTENTION), ("cuDNN in", SDPBackend.CUDNN_ATTENTION)):
            try:
                leaves = [t.view(batch, length, -1, dim).transpose(1, 2).detach().requires_grad_() for t in (q, k, v)]
                with sdpa_kernel(backend):
                    theirs = F.scaled_dot_product_attention(*leaves, is_causal=True, scale=scale, enable_gqa=heads != kv_heads)
                wide = g.view(batch, length, heads, dim).transpose(1, 2)
                call = lambda theirs=theirs, leaves=leaves, wide=wide: torch.autograd.grad(theirs, leaves, wide, retain_graph=True)
                ours()
                gap = max(float((a.transpose(1, 2).reshape(b.shape).double() - b.double()).norm() / b.double().norm()) for a, b in zip(call(), into))
                peers.append((f"{name} {TORCH} (rel. difference {gap:.1e})", call))
            except RuntimeError as e:
                print(f'{{"peer": "{name}", "error": "{str(e)[:80]!r}"}}', flush=True)
        compare("K3", f"attention backward, causal {batch} x {length}, heads {heads}/{kv_heads}, d {dim}" + (f", soft cap {cap:g}" if cap else ""), ours, peers, flops=10 * batch * heads * dim * length * length / 2)


def norm_gradients():
    """Backward alone; x and the gradient read, dx written."""
    for layer in (False, True):
        for n, hidden in [(8192, 4096), (32768, 4096), (8192, 8192)]:
            x, weight, gradient, lib = rand(n, hidden), rand(hidden), rand(n, hidden), tk._native.lib
            dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
            slots = torch.empty(lib.tk_norm_gradient_scratch(n, hidden, int(layer)), device=DEV)
            call = tk._native.NormStep(dx.data_ptr(), dweight.data_ptr(), dbias.data_ptr() if layer else 0, slots.data_ptr(), x.data_ptr(), weight.data_ptr(), gradient.data_ptr(), 0, n, hidden, slots.numel(), 1e-5, int(layer))
            leaves = [t.clone().requires_grad_() for t in ((x, weight, weight) if layer else (x, weight))]
            out = F.layer_norm(leaves[0], (hidden,), *leaves[1:]) if layer else F.rms_norm(leaves[0], (hidden,), leaves[1])
            compare("K5", f"{'LayerNorm' if layer else 'RMSNorm'} backward bf16 [{n}, {hidden}]", queued(lib.tk_norm_gradient, x, call),
                    [(f"autograd of {TORCH}", lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True))], bytes_=6 * n * hidden, measure=steady)


def row_gradients():
    """Backward alone of softmax and GELU: two tensors read, one written."""
    import triton_peers as peers

    lib, n, hidden = tk._native.lib, 32768, 4096
    aten, bytes_ = torch.ops.aten, 6 * n * hidden
    sets = [(torch.softmax(rand(n, hidden), -1), rand(n, hidden), torch.empty(n, hidden, device=DEV, dtype=torch.bfloat16)) for _ in range(2)]
    for name, function, call, torchs, triton in [
        ("softmax", lib.tk_softmax_gradient, lambda y, dy, dx: _fused._rows(dx, y, (dy,), number=1.0), lambda y, dy, dx: aten._softmax_backward_data(dy, y, -1, torch.bfloat16), peers.softmax_gradient),
        ("GELU by erf", lib.tk_gelu_gradient, lambda y, dy, dx: _fused._rows(dx, y, (dy,), rows=1, columns=y.numel()), lambda y, dy, dx: aten.gelu_backward(dy, y), peers.gelu_gradient),
        ("GELU by tanh", lib.tk_gelu_gradient, lambda y, dy, dx: _fused._rows(dx, y, (dy,), rows=1, columns=y.numel(), flag=1), lambda y, dy, dx: aten.gelu_backward(dy, y, approximate="tanh"), None),
    ]:
        ours = rotating(lambda run: run(), *((queued(function, y, call(y, dy, dx)),) for y, dy, dx in sets))
        others = [(TORCH, rotating(torchs, *sets)), ("copy of as many bytes", same_size_copy(bytes_))]
        if triton:
            ours(), ours()
            mine = sets[0][2].double()
            triton(*sets[0])
            gap = float((sets[0][2].double() - mine).norm() / mine.norm())
            others.append((f"Triton {peers.VERSION} (rel. difference {gap:.1e})", rotating(triton, *sets)))
        compare("fused", f"{name} backward bf16 [{n}, {hidden}]", ours, others, bytes_=bytes_, measure=steady)


PARTS = (rows, gradients, norm_gradients, row_gradients)
