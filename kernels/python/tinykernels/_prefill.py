"""Prefill attention: torch operators over a cached plan."""

import ctypes
from collections import OrderedDict
from functools import lru_cache

import torch

from . import _native
from ._native import TinyKernelsError
from ._tensors import address, at, need, run


def _sizes(numbers):
    return (ctypes.c_size_t * len(numbers))(*numbers)


class _Plan:
    make, free = "tk_prefill_plan", "tk_prefill_plan_free"

    def __init__(self, ordinal, query_heads, kv_heads, head_dim, scale, causal, window, soft_cap, queries, keys):
        shape = _native.PrefillShape(query_heads, kv_heads, head_dim, window, scale, soft_cap, int(causal))
        self._ordinal = ordinal
        self.pointer = _native.made(getattr(_native.lib, self.make)(_native.handle(ordinal), ctypes.byref(shape), _sizes(queries), _sizes(keys), len(queries)))

    def refill(self, stream, queries, keys):
        """For other sequences, behind what the stream was given before."""
        _native.check(_native.lib.tk_prefill_refill(_native.handle(self._ordinal), stream, self.pointer, _sizes(queries), _sizes(keys), len(queries)))

    def __del__(self):
        if getattr(self, "pointer", None) and _native is not None:  # None when the interpreter ends
            torch.cuda.synchronize(self._ordinal)
            getattr(_native.lib, self.free)(self.pointer)


class _GradientPlan(_Plan):
    make, free = "tk_gradient_plan", "tk_gradient_plan_free"


_gradient_plan = lru_cache(maxsize=16)(_GradientPlan)
# One plan serves every layer of a step. The last ones of a stream and a shape are kept; the oldest of them takes lengths that none has.
_plans: OrderedDict[tuple, OrderedDict[tuple, _Plan]] = OrderedDict()
_captured: dict[tuple, _Plan] = {}  # what a graph reads is nobody else's, and stays
_PLANS, _SHAPES = 16, 64


def _plan_of_graph(ordinal, shape, lengths):
    """One made before the capture, on whichever stream."""
    key = ordinal, shape, lengths
    if key not in _captured:
        held = [recent for (gpu, _, of), recent in _plans.items() if (gpu, of) == (ordinal, shape) and lengths in recent]
        if not held:
            raise TinyKernelsError(f"prefill of {len(lengths[0])} sequences under capture: a call before it has to plan their lengths")
        _captured[key] = held[0].pop(lengths)
    return _captured[key]


def _plan(tensor, shape, queries, keys):
    ordinal, stream = tensor.device.index, at(tensor)[1]
    lengths = queries, keys
    if torch.cuda.is_current_stream_capturing():
        return _plan_of_graph(ordinal, shape, lengths)
    recent = _plans.setdefault((ordinal, stream, shape), OrderedDict())
    _plans.move_to_end((ordinal, stream, shape))
    if len(_plans) > _SHAPES:
        _plans.popitem(last=False)
    if lengths not in recent and len(recent) < _PLANS:
        recent[lengths] = _Plan(ordinal, *shape, queries, keys)
    elif lengths not in recent:
        _, oldest = recent.popitem(last=False)
        oldest.refill(stream, queries, keys)
        recent[lengths] = oldest
    recent.move_to_end(lengths)
    return recent[lengths]


def _call(out, q, keys, values, block_table, plan, log_sum=None):
    pages = (0, 0, 0, 0, 0)
    if block_table is not None:
        pages = (block_table.data_ptr(), keys.shape[0], keys.shape[2], *block_table.shape)
    call = _native.Prefill(*map(address, (out, log_sum, q, keys, values)), *pages)
    return *at(q), call, plan.pointer


def _run(q, keys, values, block_table, queries, key_lengths, kv_heads, scale, causal, window, soft_cap, log_sum=None):
    for name, tensor, dtype in (("q", q, torch.bfloat16), ("keys", keys, torch.bfloat16), ("values", values, torch.bfloat16), ("block_table", block_table, torch.int32)):
        need(name, tensor, dtype)
    tokens, heads, dim = q.shape
    if len(queries) != len(key_lengths) or sum(queries) != tokens or keys.shape != values.shape or keys.shape[-1] != dim:
        raise TinyKernelsError(f"q {tuple(q.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}, {len(queries)} and {len(key_lengths)} lengths do not belong together")
    if block_table is None and sum(key_lengths) != keys.shape[0]:
        raise TinyKernelsError(f"keys {tuple(keys.shape)} for lengths that sum to {sum(key_lengths)}")
    if block_table is not None and block_table.shape[0] != len(queries):
        raise TinyKernelsError(f"block_table {tuple(block_table.shape)} for {len(queries)} sequences")
    plan = _plan(q, (heads, kv_heads, dim, scale, causal, window or 0, soft_cap or 0.0), tuple(queries), tuple(key_lengths))
    out = torch.empty_like(q)
    handle, stream, call, pointer = _call(out, q, keys, values, block_table, plan, log_sum)
    _native.check(_native.lib.tk_prefill(handle, stream, ctypes.byref(call), pointer))
    return out


@torch.library.custom_op("tinykernels::prefill", mutates_args=())
def prefill(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, queries: list[int], key_lengths: list[int], scale: float,
            causal: bool = True, window: int = 0, soft_cap: float = 0.0) -> torch.Tensor:
    """Attention of sequences laid one behind the other: q [tokens, heads, d], keys and values [key tokens, kv_heads, d], d 64 or 128.

    `queries[i]` and `key_lengths[i]` are the tokens of sequence i; its queries are its last tokens. `window` and `soft_cap` 0 mean none.
    """
    return _run(q, keys, values, None, queries, key_lengths, keys.shape[1], scale, causal, window, soft_cap)


@prefill.register_fake
def _(q, keys, values, queries, key_lengths, scale, causal=True, window=0, soft_cap=0.0):
    return torch.empty_like(q)


@torch.library.custom_op("tinykernels::paged_prefill", mutates_args=())
def paged_prefill(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_table: torch.Tensor, queries: list[int], key_lengths: list[int],
                  scale: float, causal: bool = True, window: int = 0, soft_cap: float = 0.0) -> torch.Tensor:
    """As prefill, with keys and values [pages, kv_heads, page_tokens, d] and a block_table [sequences, width] of page numbers."""
    return _run(q, keys, values, block_table, queries, key_lengths, keys.shape[1], scale, causal, window, soft_cap)


@paged_prefill.register_fake
def _(q, keys, values, block_table, queries, key_lengths, scale, causal=True, window=0, soft_cap=0.0):
    return torch.empty_like(q)


@torch.library.custom_op("tinykernels::attention", mutates_args=())
def attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, queries: list[int], key_lengths: list[int], scale: float,
              causal: bool = True, window: int = 0, soft_cap: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """prefill with gradients: (out, the natural logarithm of each row's sum of exponentials, f32 [heads, tokens], through which no gradient passes)."""
    log_sum = torch.empty(q.shape[1], q.shape[0], device=q.device)
    return _run(q, keys, values, None, queries, key_lengths, keys.shape[1], scale, causal, window, soft_cap, log_sum), log_sum


@attention.register_fake
def _(q, keys, values, queries, key_lengths, scale, causal=True, window=0, soft_cap=0.0):
    return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


@torch.library.custom_op("tinykernels::attention_gradient", mutates_args=())
def attention_gradient(gradient: torch.Tensor, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor, log_sum: torch.Tensor,
                       queries: list[int], key_lengths: list[int], scale: float, causal: bool = True, window: int = 0,
                       soft_cap: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dkeys, dvalues) of attention, for the gradient of its output."""
    bf16 = torch.bfloat16
    for name, tensor, dtype in (("gradient", gradient, bf16), ("q", q, bf16), ("keys", keys, bf16), ("values", values, bf16), ("out", out, bf16), ("log_sum", log_sum, torch.float32)):
        need(name, tensor, dtype)
    fits = gradient.shape == out.shape == q.shape and keys.shape == values.shape and log_sum.shape == (q.shape[1], q.shape[0])
    if not fits or sum(queries) != q.shape[0] or sum(key_lengths) != keys.shape[0]:
        raise TinyKernelsError(f"gradient {tuple(gradient.shape)}, q {tuple(q.shape)}, keys {tuple(keys.shape)}, log_sum {tuple(log_sum.shape)} and the lengths do not belong together")
    plan = _gradient_plan(q.device.index, q.shape[1], keys.shape[1], q.shape[2], scale, causal, window, soft_cap, tuple(queries), tuple(key_lengths))
    result = torch.empty_like(q), torch.empty_like(keys), torch.empty_like(values)
    step = _native.GradientStep(*map(address, (*result, q, keys, values, out, log_sum, gradient)))
    run(_native.lib.tk_prefill_gradient, q, step, plan.pointer)
    return result


@attention_gradient.register_fake
def _(gradient, q, keys, values, out, log_sum, queries, key_lengths, scale, causal=True, window=0, soft_cap=0.0):
    return torch.empty_like(q), torch.empty_like(keys), torch.empty_like(values)


def _saves(ctx, inputs, output):
    q, keys, values, *ctx.options = inputs
    ctx.save_for_backward(q, keys, values, *output)


def _backward(ctx, gradient, _):
    q, keys, values, out, log_sum = ctx.saved_tensors
    return *attention_gradient(gradient.contiguous(), q, keys, values, out, log_sum, *ctx.options), *(None,) * len(ctx.options)


attention.register_autograd(_backward, setup_context=_saves)


def scaled_dot_product_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask=None, dropout_p: float = 0.0, is_causal: bool = False,
                                 scale: float | None = None, enable_gqa: bool = False) -> torch.Tensor:
    """As torch.nn.functional.scaled_dot_product_attention, with gradients: bf16 [batch, heads, tokens, d], d 64 or 128.

    Tensors that are transposed views of [batch, tokens, heads, d] are read as they lie; others are copied into that order. A mask and dropout are refused.
    """
    if attn_mask is not None or dropout_p:
        raise TinyKernelsError("scaled_dot_product_attention: neither a mask nor dropout; is_causal is the mask there is")
    if query.dim() != 4 or key.shape != value.shape or key.shape[0] != query.shape[0] or key.shape[3] != query.shape[3]:
        raise TinyKernelsError(f"scaled_dot_product_attention: query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)} do not belong together")
    batch, heads, tokens, dim = query.shape
    if key.shape[1] != heads and not enable_gqa:
        raise TinyKernelsError(f"scaled_dot_product_attention: {key.shape[1]} key heads for {heads} query heads without enable_gqa")
    if is_causal and key.shape[2] != tokens:
        raise TinyKernelsError(f"scaled_dot_product_attention: causal attention of {tokens} queries over {key.shape[2]} keys; tinykernels.attention has the last queries see all keys")
    rows = [t.transpose(1, 2).contiguous().flatten(0, 1) for t in (query, key, value)]
    out, _ = attention(*rows, [tokens] * batch, [key.shape[2]] * batch, dim**-0.5 if scale is None else scale, is_causal)
    return out.view(batch, tokens, heads, dim).transpose(1, 2)
