"""QK-norm, rotary embedding and cache write in one pass."""

import torch

from . import _native
from ._native import TinyKernelsError
from ._tensors import address, need, run


def _call(q, keys, values, qkv, rotary, positions, slots, query_weight, key_weight, epsilon, key_scales=None, value_scales=None):
    pointers = map(address, (q, keys, values, qkv, rotary, positions, slots, query_weight, key_weight))
    extents = (*q.shape[:2], keys.shape[1], q.shape[2], keys.shape[0], keys.shape[2], rotary.shape[0])
    return _native.Rope(*pointers, *extents, epsilon, address(key_scales), address(value_scales))


@torch.library.custom_op("tinykernels::rope_cache", mutates_args=("keys", "values"))
def rope_cache(qkv: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rotary: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor,
               query_heads: int, query_weight: torch.Tensor | None = None, key_weight: torch.Tensor | None = None, epsilon: float = 1e-6,
               key_scales: torch.Tensor | None = None, value_scales: torch.Tensor | None = None) -> torch.Tensor:
    """Queries [tokens, heads, d] of qkv [tokens, (heads + 2 kv_heads) d], normed and rotated; keys and values into their pages.

    rotary [positions, d] f32: cosines of d / 2 frequencies, then sines. positions, slots [tokens] int32; slot = page * page_tokens + place, -1 for none.
    Caches of float8_e4m3fn hold keys and values over f32 scales [kv_heads].
    """
    bf16, f32, i32 = torch.bfloat16, torch.float32, torch.int32
    kind = bf16 if key_scales is None else torch.float8_e4m3fn
    for name, tensor, dtype in (("qkv", qkv, bf16), ("keys", keys, kind), ("values", values, kind), ("key_scales", key_scales, f32), ("value_scales", value_scales, f32), ("rotary", rotary, f32), ("positions", positions, i32),
                                ("slots", slots, i32), ("query_weight", query_weight, bf16), ("key_weight", key_weight, bf16)):
        need(name, tensor, dtype)
    tokens, dim = qkv.shape[0], keys.shape[3]
    fits = qkv.shape[1] == (query_heads + 2 * keys.shape[1]) * dim and rotary.shape[1:] == (dim,) and positions.shape == slots.shape == (tokens,)
    fits = fits and values.shape == keys.shape and (query_weight is None) == (key_weight is None) and (query_weight is None or query_weight.shape == key_weight.shape == (dim,))
    fits = fits and (key_scales is None) == (value_scales is None) and (key_scales is None or key_scales.shape == value_scales.shape == keys.shape[1:2])
    if not fits:
        raise TinyKernelsError(f"qkv {tuple(qkv.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}, rotary {tuple(rotary.shape)}, positions {tuple(positions.shape)}, slots {tuple(slots.shape)} and the weights do not belong together")
    q = qkv.new_empty(tokens, query_heads, dim)
    call = _call(q, keys, values, qkv, rotary, positions, slots, query_weight, key_weight, epsilon, key_scales, value_scales)
    run(_native.lib.tk_rope_cache, qkv, call)
    return q


@rope_cache.register_fake
def _(qkv, keys, values, rotary, positions, slots, query_heads, query_weight=None, key_weight=None, epsilon=1e-6, key_scales=None, value_scales=None):
    return qkv.new_empty(qkv.shape[0], query_heads, keys.shape[3])
