"""The operators of the package: what `tinykernels` gives where torch is installed."""

import ctypes

import torch

from . import _native
from ._native import TinyKernelsError
from ._linear import (
    add_rms_norm_quantize, interleave_gate, linear_blocks, linear_fused, linear_scaled, quantize, rms_norm_quantize, silu_mul_quantize,
)
from ._prefill import attention, attention_gradient, paged_prefill, prefill, read_pages, scaled_dot_product_attention
from ._norm_gradient import layer_norm_gradient, rms_norm_gradient
from ._fused import add_layer_norm, cross_entropy, embedding, gelu, layer_norm, softmax
from ._primitives import histogram, reduce, scan, topk, transpose
from ._rope import rope_cache
from ._packed import SparseLinear, W4Linear, W8Linear
from ._sampling import Penalties, sample
from ._tensors import address, at, need, rows_of

__all__ = [
    "Penalties", "Sorter", "SparseLinear", "W4Linear", "W8Linear", "add_layer_norm", "add_rms_norm", "add_rms_norm_quantize", "attention", "attention_gradient", "cross_entropy", "embedding", "gelu", "histogram", "interleave_gate", "layer_norm", "layer_norm_gradient", "linear", "linear_blocks", "linear_fused", "linear_scaled",
    "paged_decode", "paged_prefill", "prefill", "quantize", "read_pages", "reduce", "rms_norm", "rms_norm_gradient", "rms_norm_quantize", "rope_cache", "sample", "scan", "scaled_dot_product_attention", "silu_mul", "silu_mul_quantize", "softmax", "topk", "transpose",
]


@torch.library.custom_op("tinykernels::add_rms_norm", mutates_args=("residual",))
def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """residual += x; returns residual / rms(residual) * weight."""
    for name, tensor in (("x", x), ("residual", residual), ("weight", weight)):
        need(name, tensor, torch.bfloat16)
    if residual.shape != x.shape or weight.shape != x.shape[-1:]:
        raise TinyKernelsError(f"x {tuple(x.shape)}, residual {tuple(residual.shape)}, weight {tuple(weight.shape)} do not belong together")
    y = torch.empty_like(x)
    _native.check(_native.lib.tk_add_rms_norm(*at(x), y.data_ptr(), x.data_ptr(), residual.data_ptr(), weight.data_ptr(), *rows_of(x), epsilon))
    return y


@add_rms_norm.register_fake
def _(x, residual, weight, epsilon):
    return torch.empty_like(x)


@torch.library.custom_op("tinykernels::rms_norm", mutates_args=())
def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / rms(x) * weight."""
    need("x", x, torch.bfloat16)
    need("weight", weight, torch.bfloat16)
    if weight.shape != x.shape[-1:]:
        raise TinyKernelsError(f"x {tuple(x.shape)}, weight {tuple(weight.shape)} do not belong together")
    y = torch.empty_like(x)
    _native.check(_native.lib.tk_rms_norm(*at(x), y.data_ptr(), x.data_ptr(), weight.data_ptr(), *rows_of(x), epsilon))
    return y


@rms_norm.register_fake
def _(x, weight, epsilon):
    return torch.empty_like(x)


def _norm_saves(ctx, inputs, output):
    x, weight, ctx.epsilon = inputs
    ctx.save_for_backward(x, weight)


def _norm_backward(ctx, gradient):
    return *rms_norm_gradient(gradient.contiguous(), *ctx.saved_tensors, ctx.epsilon), None


rms_norm.register_autograd(_norm_backward, setup_context=_norm_saves)


@torch.library.custom_op("tinykernels::silu_mul", mutates_args=())
def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(first half of the columns) * second half."""
    need("gate_up", gate_up, torch.bfloat16)
    if gate_up.shape[-1] % 2:
        raise TinyKernelsError(f"silu_mul: gate_up {tuple(gate_up.shape)} has an odd number of columns, of which half are the gate's")
    inner = gate_up.shape[-1] // 2
    out = gate_up.new_empty(gate_up.shape[:-1] + (inner,))
    _native.check(_native.lib.tk_silu_mul(*at(gate_up), out.data_ptr(), gate_up.data_ptr(), *rows_of(out)))
    return out


@silu_mul.register_fake
def _(gate_up):
    return gate_up.new_empty(gate_up.shape[:-1] + (gate_up.shape[-1] // 2,))


@torch.library.custom_op("tinykernels::linear", mutates_args=())
def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x · weightᵀ, as F.linear without bias: x [..., columns], weight [features, columns]."""
    need("x", x, torch.bfloat16)
    need("weight", weight, torch.bfloat16)
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise TinyKernelsError(f"x {tuple(x.shape)}, weight {tuple(weight.shape)} do not belong together")
    rows, columns = rows_of(x)
    y = x.new_empty(x.shape[:-1] + weight.shape[:1])
    _native.check(_native.lib.tk_linear_bf16(*at(x), y.data_ptr(), x.data_ptr(), weight.data_ptr(), rows, weight.shape[0], columns))
    return y


@linear.register_fake
def _(x, weight):
    return x.new_empty(x.shape[:-1] + (weight.shape[0],))


def _linear_saves(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _linear_backward(ctx, grad):
    """The two products of the backward pass, of which neither has its operands as `linear` reads them: torch's own."""
    x, weight = ctx.saved_tensors
    grad_x = grad @ weight if ctx.needs_input_grad[0] else None
    grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
    return grad_x, grad_weight


linear.register_autograd(_linear_backward, setup_context=_linear_saves)


class Sorter:
    """Sorts uint32 tensors of up to `keys` elements in place, ascending; with `pairs`, uint32 values along with them, stable."""

    def __init__(self, keys: int, device: torch.device, pairs: bool = False):
        self.device = torch.device(device)
        self._handle = _native.handle(self.device.index or 0)
        self._workspace = _native.made(_native.lib.tk_sort_workspace(self._handle, keys, int(pairs)))

    def __call__(self, keys: torch.Tensor, values: torch.Tensor | None = None) -> None:
        for name, tensor in (("keys", keys), ("values", values)):
            need(name, tensor, torch.uint32, shape=(keys.numel(),))
        _native.check(_native.lib.tk_sort_u32(*at(keys), keys.data_ptr(), address(values), keys.numel(), self._workspace))

    def __del__(self):
        if getattr(self, "_workspace", None):
            torch.cuda.synchronize(self.device)
            _native.lib.tk_sort_workspace_free(self._workspace)


_workspaces: dict[tuple[int, int], tuple[tuple[int, ...], int]] = {}


def _decode_workspace(handle, stream, *extents):
    """One a stream, made anew where an extent is greater than before (the old one stays: work that is queued may use it), in powers of two: a few in all,
    whatever batches come."""
    have, pointer = _workspaces.get((handle, stream), ((-1,) * len(extents), 0))
    if any(a < b for a, b in zip(have, extents)):
        have = tuple(a if a >= b else 1 << max(b - 1, 0).bit_length() for a, b in zip(have, extents))
        pointer = _native.made(_native.lib.tk_decode_workspace(handle, *have))
        _workspaces[handle, stream] = have, pointer
    return pointer


def _decode_call(out, q, keys, values, block_table, lengths, scale, key_scales=None, value_scales=None, window=0, soft_cap=0.0):
    device, stream = at(q)
    sequences, heads, dim = q.shape
    pages, kv_heads, page_tokens, _ = keys.shape
    width = block_table.shape[1]
    step = _native.Decode(
        *map(address, (out, q, keys, values, block_table, lengths, key_scales, value_scales)),
        sequences, heads, kv_heads, dim, pages, page_tokens, width, window, scale, soft_cap,
    )
    return device, stream, step, _decode_workspace(device, stream, sequences, heads, kv_heads, width * page_tokens)


@torch.library.custom_op("tinykernels::paged_decode", mutates_args=())
def paged_decode(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_table: torch.Tensor, lengths: torch.Tensor, scale: float,
                 key_scales: torch.Tensor | None = None, value_scales: torch.Tensor | None = None, window: int = 0, soft_cap: float = 0.0) -> torch.Tensor:
    """One query token a sequence over a paged cache: q [sequences, heads, d], keys and values [pages, kv_heads, page_tokens, d], d 64 or 128, bf16
    or float8_e4m3fn with f32 scales [kv_heads]. window and soft_cap 0 mean none."""
    kind = torch.bfloat16 if key_scales is None else torch.float8_e4m3fn
    named = (("q", q, torch.bfloat16), ("keys", keys, kind), ("values", values, kind), ("block_table", block_table, torch.int32), ("lengths", lengths, torch.int32),
             ("key_scales", key_scales, torch.float32), ("value_scales", value_scales, torch.float32))
    for name, tensor, dtype in named:
        need(name, tensor, dtype)
    scaled = (key_scales is None) == (value_scales is None) and (key_scales is None or key_scales.shape == value_scales.shape == keys.shape[1:2])
    if keys.shape != values.shape or keys.shape[3] != q.shape[2] or block_table.shape[0] != q.shape[0] or lengths.shape[0] != q.shape[0] or not scaled or window < 0:
        raise TinyKernelsError(f"q {tuple(q.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}, block_table {tuple(block_table.shape)}, lengths {tuple(lengths.shape)}, window {window} and the scales do not belong together")
    out = torch.empty_like(q)
    device, stream, step, workspace = _decode_call(out, q, keys, values, block_table, lengths, scale, key_scales, value_scales, window, soft_cap)
    _native.check(_native.lib.tk_paged_decode(device, stream, ctypes.byref(step), workspace))
    return out


@paged_decode.register_fake
def _(q, keys, values, block_table, lengths, scale, key_scales=None, value_scales=None, window=0, soft_cap=0.0):
    return torch.empty_like(q)
