"""Prefill attention: torch operators over a cached plan."""

import ctypes
from collections import OrderedDict
from functools import lru_cache
from itertools import accumulate

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


@torch.library.custom_op("tinykernels::read_pages", mutates_args=())
def read_pages(keys: torch.Tensor, values: torch.Tensor, block_table: torch.Tensor, starts: torch.Tensor, tokens: int,
               key_scales: torch.Tensor, value_scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [tokens, kv_heads, d] in bf16 out of a float8_e4m3fn cache [pages, kv_heads, page_tokens, d], times f32 scales [kv_heads].

    Sequence i has the tokens from starts[i] (int32 [sequences + 1], on the GPU) to starts[i + 1], in the pages of row i of block_table.
    """
    f8, f32, i32 = torch.float8_e4m3fn, torch.float32, torch.int32
    for name, tensor, dtype, dimensions in (("keys", keys, f8, 4), ("values", values, f8, 4), ("block_table", block_table, i32, 2), ("starts", starts, i32, 1),
                                            ("key_scales", key_scales, f32, 1), ("value_scales", value_scales, f32, 1)):
        need(name, tensor, dtype, dimensions=dimensions)
    pages, kv_heads, page_tokens, dim = keys.shape
    if not key_scales.shape == value_scales.shape == (kv_heads,) or values.shape != keys.shape or starts.shape[0] != block_table.shape[0] + 1 or tokens < 0:
        raise TinyKernelsError(f"keys {tuple(keys.shape)}, values {tuple(values.shape)}, block_table {tuple(block_table.shape)}, starts {tuple(starts.shape)}, {tokens} tokens and the scales do not belong together")
    dense = [keys.new_empty(tokens, kv_heads, dim, dtype=torch.bfloat16) for _ in range(2)]
    extents = tokens, kv_heads, dim, pages, page_tokens, *block_table.shape
    run(_native.lib.tk_read_pages, keys, _native.ReadPages(*map(address, (*dense, keys, values, key_scales, value_scales, block_table, starts)), *extents))
    return dense[0], dense[1]


@read_pages.register_fake
def _(keys, values, block_table, starts, tokens, key_scales, value_scales):
    shape = tokens, keys.shape[1], keys.shape[3]
    return keys.new_empty(shape, dtype=torch.bfloat16), keys.new_empty(shape, dtype=torch.bfloat16)


@torch.library.custom_op("tinykernels::paged_prefill", mutates_args=())
def paged_prefill(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_table: torch.Tensor, queries: list[int], key_lengths: list[int],
                  scale: float, causal: bool = True, window: int = 0, soft_cap: float = 0.0, key_scales: torch.Tensor | None = None,
                  value_scales: torch.Tensor | None = None) -> torch.Tensor:
    """As prefill, with keys and values [pages, kv_heads, page_tokens, d] and a block_table [sequences, width] of page numbers.

    A cache of float8_e4m3fn has f32 scales [kv_heads]; it is read into bf16 first (read_pages), and not under capture.
    """
    if key_scales is not None and value_scales is not None:
        if torch.cuda.is_current_stream_capturing():
            raise TinyKernelsError("paged_prefill of an e4m3 cache under capture: read_pages and prefill take what a graph can hold")
        starts = torch.tensor([0, *accumulate(key_lengths)], dtype=torch.int32, pin_memory=True).to(q.device, non_blocking=True)
        keys, values = read_pages(keys, values, block_table, starts, sum(key_lengths), key_scales, value_scales)
        return _run(q, keys, values, None, queries, key_lengths, keys.shape[1], scale, causal, window, soft_cap)
    return _run(q, keys, values, block_table, queries, key_lengths, keys.shape[1], scale, causal, window, soft_cap)


@paged_prefill.register_fake
def _(q, keys, values, block_table, queries, key_lengths, scale, causal=True, window=0, soft_cap=0.0, key_scales=None, value_scales=None):
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
