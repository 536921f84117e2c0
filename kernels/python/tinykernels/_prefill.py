"""Prefill attention: torch operators over a cached plan."""

import ctypes
from functools import lru_cache

import torch

from . import _native
from ._native import TinyKernelsError


class _Plan:
    def __init__(self, ordinal, query_heads, kv_heads, head_dim, scale, causal, window, soft_cap, queries, keys):
        shape = _native.PrefillShape(query_heads, kv_heads, head_dim, window, scale, soft_cap, int(causal))
        count = len(queries)
        lengths = ((ctypes.c_size_t * count)(*numbers) for numbers in (queries, keys))
        self._ordinal = ordinal
        self.pointer = _native.made(_native.lib.tk_prefill_plan(_native.handle(ordinal), ctypes.byref(shape), *lengths, count))

    def __del__(self):
        if getattr(self, "pointer", None) and _native is not None:  # None when the interpreter ends
            torch.cuda.synchronize(self._ordinal)
            _native.lib.tk_prefill_plan_free(self.pointer)


# One plan serves every layer of a step; the last few steps' plans are kept.
_plan = lru_cache(maxsize=64)(_Plan)


def _call(out, q, keys, values, block_table, plan):
    pages = (0, 0, 0, 0, 0)
    if block_table is not None:
        pages = (block_table.data_ptr(), keys.shape[0], keys.shape[2], *block_table.shape)
    call = _native.Prefill(out.data_ptr(), q.data_ptr(), keys.data_ptr(), values.data_ptr(), *pages)
    stream = torch.cuda.current_stream(q.device.index).cuda_stream
    return _native.handle(q.device.index), stream, call, plan.pointer


def _run(q, keys, values, block_table, queries, key_lengths, kv_heads, scale, causal, window, soft_cap):
    for name, tensor, dtype in (("q", q, torch.bfloat16), ("keys", keys, torch.bfloat16), ("values", values, torch.bfloat16), ("block_table", block_table, torch.int32)):
        if tensor is not None and (not tensor.is_cuda or tensor.dtype != dtype or not tensor.is_contiguous()):
            raise TinyKernelsError(f"{name} must be a contiguous {dtype} CUDA tensor, not {tensor.dtype} on {tensor.device} of strides {tensor.stride()}")
    tokens, heads, dim = q.shape
    if len(queries) != len(key_lengths) or sum(queries) != tokens or keys.shape != values.shape or keys.shape[-1] != dim:
        raise TinyKernelsError(f"q {tuple(q.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}, {len(queries)} and {len(key_lengths)} lengths do not belong together")
    if block_table is None and sum(key_lengths) != keys.shape[0]:
        raise TinyKernelsError(f"keys {tuple(keys.shape)} for lengths that sum to {sum(key_lengths)}")
    if block_table is not None and block_table.shape[0] != len(queries):
        raise TinyKernelsError(f"block_table {tuple(block_table.shape)} for {len(queries)} sequences")
    plan = _plan(q.device.index, heads, kv_heads, dim, scale, causal, window or 0, soft_cap or 0.0, tuple(queries), tuple(key_lengths))
    out = torch.empty_like(q)
    handle, stream, call, pointer = _call(out, q, keys, values, block_table, plan)
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
