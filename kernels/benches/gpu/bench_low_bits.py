"""Rows of bench.py: linear layers with an epilogue and of 8-bit operands, quantisation, decode over further caches."""

from ctypes import byref

import torch
import torch.nn.functional as F

import tinykernels as tk
import triton_peers
from bench import DEV, PEERS, compare, rand, rotating, same_size_copy, steady
from tinykernels import _linear

E4M3 = torch.float8_e4m3fn
TORCH = f"torch {torch.__version__}"
SHAPES = [(rows, n, k) for rows in (1, 16, 64, 512, 2048, 8192) for n, k in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))]


def eight_bits(rows, columns, dtype):
    return torch.randint(-127, 128, (rows, columns), device=DEV, dtype=torch.int8) if dtype == torch.int8 else torch.randn(rows, columns, device=DEV).to(dtype)


def queued(y, x, weight, x_scale=None, weight_scale=None, bias=None, residual=None, activation="none", gated=False, blocks=False):
    call = _linear._call(y, x, weight, x_scale, weight_scale, bias, residual, activation, gated, 4 if blocks else _linear._KINDS[x.dtype])
    handle, stream = tk._at(x)
    return lambda: tk._native.lib.tk_linear(handle, stream, byref(call))


def fp8():
    for rows, features, columns in [(8192, 8192, 8192), (4096, 4096, 4096), *SHAPES]:
        x, w = eight_bits(rows, columns, E4M3), eight_bits(features, columns, E4M3)
        a, b, one = torch.rand(rows, device=DEV) + 0.5, torch.rand(features, device=DEV) + 0.5, torch.ones((), device=DEV)
        y, flops = torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), 2 * rows * features * columns
        peers = [(f"cuBLASLt, one scale a tensor, fast accumulation ({TORCH})", lambda: torch._scaled_mm(x, w.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)),
                 (f"scale a row and channel, fast accumulation ({TORCH})", lambda: torch._scaled_mm(x, w.t(), a[:, None], b[None], out_dtype=torch.bfloat16, use_fast_accum=True))]
        compare("K1", f"fp8 e4m3 linear, scale a row and channel, M {rows} N {features} K {columns}", queued(y, x, w, a, b), peers, flops=flops)
    for rows, features, columns in [(8192, 8192, 8192), (16, 28672, 4096), (512, 6144, 4096), (2048, 28672, 4096)]:
        x, w = eight_bits(rows, columns, E4M3), eight_bits(features, columns, E4M3)
        sa, sb = torch.rand(columns // 128, rows, device=DEV) + 0.5, torch.rand(features // 128, columns // 128, device=DEV) + 0.5
        y, peers = torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), []
        if "vllm" in PEERS:
            theirs = torch.empty_like(y)
            peers = [("cutlass_scaled_mm of vLLM 0.24.0", lambda: torch.ops._C.cutlass_scaled_mm(theirs, x, w.t(), sa.t(), sb.t(), None))]
        compare("K1", f"fp8 e4m3 linear, scale a block of 128, M {rows} N {features} K {columns}", queued(y, x, w, sa, sb, blocks=True), peers, flops=2 * rows * features * columns)


def int8():
    for rows, features, columns in [(8192, 8192, 8192), (1, 28672, 4096), (64, 28672, 4096), (2048, 28672, 4096)]:
        x, w = eight_bits(rows, columns, torch.int8), eight_bits(features, columns, torch.int8)
        a, b = torch.rand(rows, device=DEV) / 5000, torch.rand(features, device=DEV)
        y, peers = torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), []
        if "vllm" in PEERS:
            theirs = torch.empty_like(y)
            peers = [("cutlass_scaled_mm of vLLM 0.24.0", lambda: torch.ops._C.cutlass_scaled_mm(theirs, x, w.t(), a[:, None], b[None], None))]
        compare("K1", f"int8 linear, scale a row and channel, M {rows} N {features} K {columns}", queued(y, x, w, a, b), peers, flops=2 * rows * features * columns)


def epilogues():
    for rows in (1, 64, 2048):
        x, gate_up, down = rand(rows, 4096), rand(28672, 4096, scale=0.02), rand(4096, 14336, scale=0.02)
        y, half, residual = torch.empty(rows, 14336, device=DEV, dtype=torch.bfloat16), torch.empty(rows, 28672, device=DEV, dtype=torch.bfloat16), rand(rows, 4096)
        handle, stream = tk._at(x)
        lib, two = tk._native.lib, torch.empty_like(y)
        apart = lambda: (lib.tk_linear_bf16(handle, stream, half.data_ptr(), x.data_ptr(), gate_up.data_ptr(), rows, 28672, 4096), lib.tk_silu_mul(handle, stream, two.data_ptr(), half.data_ptr(), rows, 14336))
        def cublas():
            v = F.linear(x, gate_up)
            return torch.ops._C.silu_and_mul(two, v) if "vllm" in PEERS else F.silu(v[:, :14336]) * v[:, 14336:]
        compare("K1", f"bf16 linear with the SwiGLU gate in its epilogue, M {rows} N 2 x 14336 K 4096", queued(y, x, gate_up, activation="silu", gated=True),
                [("our linear and silu_mul apart", apart), (f"cuBLAS ({TORCH}) and silu_and_mul of vLLM 0.24.0", cublas)])
        inner, z = rand(rows, 14336), torch.empty(rows, 4096, device=DEV, dtype=torch.bfloat16)
        compare("K1", f"bf16 linear with the residual in its epilogue, M {rows} N 4096 K 14336", queued(z, inner, down, residual=residual),
                [(f"cuBLAS with beta 1, addmm ({TORCH})", lambda: torch.addmm(residual, inner, down.t()))])
    for rows in (1, 64, 2048):
        x, w, bias = rand(rows, 4096), rand(16384, 4096, scale=0.02), rand(16384)
        y = torch.empty(rows, 16384, device=DEV, dtype=torch.bfloat16)
        for activation in ("gelu", "gelu_tanh"):
            approximate = "tanh" if activation == "gelu_tanh" else "none"
            compare("K1", f"bf16 linear with bias and {activation} in its epilogue, M {rows} N 16384 K 4096", queued(y, x, w, bias=bias, activation=activation),
                    [(f"cuBLAS and F.gelu ({TORCH})", lambda: F.gelu(F.linear(x, w, bias), approximate=approximate))])
    for rows, features, columns in [(8192, 8192, 8192), (1, 28672, 4096), (2048, 28672, 4096)]:
        x, w = rand(rows, columns, dtype=torch.float16), rand(features, columns, dtype=torch.float16)
        y = torch.empty(rows, features, device=DEV, dtype=torch.float16)
        compare("K1", f"fp16 linear M {rows} N {features} K {columns}", queued(y, x, w), [(f"cuBLAS ({TORCH})", lambda: F.linear(x, w))], flops=2 * rows * features * columns)


def sparse():
    """2:4 sparse weights; rates as if they were dense."""
    from torch.sparse import to_sparse_semi_structured

    for rows, features, columns in [(8192, 8192, 8192), (4096, 4096, 4096), (16, 28672, 4096), (64, 28672, 4096), (512, 6144, 4096), (2048, 28672, 4096)]:
        w = rand(features, columns).view(features, -1, 4)
        w = (w * torch.zeros_like(w).scatter_(-1, w.abs().float().sort(dim=-1, descending=True, stable=True).indices[..., :2], 1)).reshape(features, columns)
        layer, x, y = tk.SparseLinear(w, DEV), rand(rows, columns), torch.empty(rows, features, device=DEV, dtype=torch.bfloat16)
        handle, stream = tk._at(x)
        peers = [(f"cuBLAS, dense ({TORCH})", lambda: F.linear(x, w))]
        try:
            packed = to_sparse_semi_structured(w)
            F.linear(x, packed)
            peers.insert(0, (f"cuSPARSELt ({TORCH})", lambda: F.linear(x, packed)))
        except Exception as e:  # noqa: BLE001 - not every torch has it
            print(f'{{"peer": "cuSPARSELt", "error": "{str(e)[:80]!r}"}}', flush=True)
        compare("K1", f"bf16 linear of 2:4 sparse weights, M {rows} N {features} K {columns}", lambda: tk._native.lib.tk_linear_sparse(handle, stream, y.data_ptr(), x.data_ptr(), layer._weights, rows), peers,
                flops=2 * rows * features * columns)


def quantising():
    handle = tk._native.handle(0)
    for rows, hidden in [(8192, 4096), (32768, 4096)]:
        w = rand(hidden)
        for name, source, bytes_, op in [("per-row fp8 quantisation", 0, 3, "dynamic_per_token_scaled_fp8_quant"), ("add+RMSNorm with per-row fp8 quantisation", 2, 7, "rms_norm_dynamic_per_token_quant")]:
            def set_():
                x, r, out, scales = rand(rows, hidden), rand(rows, hidden), torch.empty(rows, hidden, device=DEV, dtype=E4M3), torch.empty(rows, device=DEV)
                return x, r, out, scales, _linear._quantize_call(out, scales, x, r if source else None, w if source else None, 1e-5, source, False)
            sets = [set_() for _ in range(3)]
            stream = tk._at(w)[1]
            ours = rotating(lambda x, r, out, scales, call: tk._native.lib.tk_quantize(handle, stream, byref(call)), *sets)
            peers = [("copy of as many bytes", same_size_copy(bytes_ * rows * hidden))]
            if "vllm" in PEERS:
                def theirs(x, r, out, scales, call):
                    s = scales.view(-1, 1)
                    return torch.ops._C.dynamic_per_token_scaled_fp8_quant(out, x, s, None) if source == 0 else torch.ops._C.rms_norm_dynamic_per_token_quant(out, x, w, s, 1e-5, None, r)
                peers.append((f"{op} of vLLM 0.24.0", rotating(theirs, *sets)))
            if source == 2:
                peers.append((f"Triton {triton_peers.VERSION}", rotating(lambda x, r, out, scales, call: triton_peers.add_rms_norm_quantize(x, r, w, out, scales, 1e-5), *sets)))
            compare("K5", f"{name} bf16 [{rows}, {hidden}]", ours, peers, bytes_=bytes_ * rows * hidden, measure=steady)

    for rows, inner in [(8192, 14336)]:
        sets = [(rand(rows, 2 * inner), torch.empty(rows, inner, device=DEV, dtype=E4M3), torch.empty(rows, device=DEV)) for _ in range(2)]
        queue = lambda call: lambda: tk._native.lib.tk_quantize(handle, stream, byref(call))
        ours = rotating(lambda run: run(), *((queue(_linear._quantize_call(out, scales, x, None, None, 0.0, 3, False)),) for x, out, scales in sets))
        (x, out, scales), bytes_ = sets[0], 5 * rows * inner
        ours(), ours()
        mine = out.float() * scales.unsqueeze(1)
        triton_peers.silu_mul_quantize(x, out, scales)
        gap = float((out.float() * scales.unsqueeze(1) - mine).norm() / mine.norm())
        peers = [("copy of as many bytes", same_size_copy(bytes_)), (f"Triton {triton_peers.VERSION} (rel. difference {gap:.1e})", rotating(triton_peers.silu_mul_quantize, *sets))]
        compare("K5", f"SiLU*mul with per-row fp8 quantisation bf16 [{rows}, {inner}]", ours, peers, bytes_=bytes_, measure=steady)


def caches():
    for sequences, length, heads, kv_heads, dim, dtype, window in [(64, 4096, 32, 8, 128, E4M3, 0), (16, 8192, 32, 8, 128, E4M3, 0), (64, 4096, 32, 8, 64, torch.bfloat16, 0), (64, 4096, 32, 8, 64, E4M3, 0), (256, 2048, 9, 3, 64, torch.bfloat16, 0),
                                                                   (64, 16384, 32, 8, 128, torch.bfloat16, 4096)]:
        page, width = 16, length // 16
        pages = sequences * width
        keys, values = (rand(pages, kv_heads, page, dim).to(dtype) for _ in range(2))
        table = torch.randperm(pages, device=DEV, dtype=torch.int32).view(sequences, width)
        lens = torch.full((sequences,), length, dtype=torch.int32, device=DEV)
        q = rand(sequences, heads, dim)
        out, scale = torch.empty_like(q), dim**-0.5
        scales = [torch.ones(kv_heads, device=DEV) if dtype == E4M3 else None for _ in range(2)]
        device, stream, step, workspace = tk._decode_call(out, q, keys, values, table, lens, scale, *scales, window)
        ours, peers = lambda: tk._native.lib.tk_paged_decode(device, stream, byref(step), workspace), []
        if "fa3" in PEERS:
            k3, v3 = (t.view(torch.uint8 if dtype == E4M3 else dtype).transpose(1, 2).contiguous().view(dtype) for t in (keys, values))
            cu, q3 = torch.arange(sequences + 1, device=DEV, dtype=torch.int32), q.to(dtype)
            of = [torch.ones(sequences, kv_heads, device=DEV) if dtype == E4M3 else None for _ in range(3)]
            def peer():
                return torch.ops._vllm_fa3_C.fwd(q3, k3, v3, None, None, None, None, cu, None, None, None, lens, 1, length, table, None, None, None, None, None,
                                                 *of, scale, True, window - 1, 0 if window else -1, 0.0, True, None, 0, None, 0, None, 1, 0, None)[0]
            ours()
            gap = float((peer().double() - out.double()).norm() / out.double().norm())
            peers.append((f"FlashAttention-3 of vLLM 0.24.0{', queries fp8 too' if dtype == E4M3 else ''} (rel. difference {gap:.1e})", peer))
        size = 1 if dtype == E4M3 else 2
        what = f"paged decode attention {sequences} x {length}, heads {heads}/{kv_heads}, d {dim}, page 16, {'e4m3' if size == 1 else 'bf16'} cache" + (f", window {window}" if window else "")
        compare("K2", what, ours, peers, bytes_=2 * size * sequences * kv_heads * min(length, window or length) * dim)


def read_pages():
    """An e4m3 cache as prefill takes it, and a chunk of prompts over it."""
    sequences, length, chunk, heads, kv_heads, page, dim = 4, 16384, 2048, 32, 8, 16, 128
    keys, values = (rand(sequences * length // page, kv_heads, page, dim).to(E4M3) for _ in range(2))
    table = torch.randperm(keys.shape[0], device=DEV, dtype=torch.int32).view(sequences, -1)
    starts, ones = torch.arange(sequences + 1, device=DEV, dtype=torch.int32) * length, torch.ones(kv_heads, device=DEV)
    read = lambda: tk.read_pages(keys, values, table, starts, sequences * length, ones, ones)
    bytes_ = 3 * 2 * sequences * length * kv_heads * dim
    compare("fused", f"keys and values of an e4m3 cache to dense bf16 [{sequences * length}, {kv_heads} x {dim}]", read, [("copy of as many bytes", same_size_copy(bytes_))], bytes_=bytes_, measure=steady)
    q, dense, lengths = rand(sequences * chunk, heads, dim), read(), ([chunk] * sequences, [length] * sequences)
    both = lambda: tk.prefill(q, *read(), *lengths, dim**-0.5)
    pages = [t.view(-1, page, kv_heads, dim).transpose(1, 2).contiguous() for t in dense]
    order = torch.arange(keys.shape[0], device=DEV, dtype=torch.int32).view(sequences, -1)
    compare("K3", f"causal prefill {sequences} x {length}, heads {heads}/{kv_heads}, d {dim}, page {page}, the last {chunk} tokens, e4m3 cache", both,
            [("ours over pages of bf16", lambda: tk.paged_prefill(q, *pages, order, *lengths, dim**-0.5))], flops=4 * sequences * heads * dim * (chunk * length - chunk**2 / 2))


PARTS = (fp8, int8, epilogues, sparse, quantising, caches, read_pages)
