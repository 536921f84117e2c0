"""Sums over all, running sums, counts, transposition, the greatest of a row."""

import torch

from . import _native
from ._native import TinyKernelsError
from ._tensors import at, need

_scratch: dict[tuple[int, int], tuple[int, int]] = {}


def _scratch_for(tensor):
    """One a stream, made anew where it is too small (the old one stays: work that is queued may use it)."""
    handle, stream = at(tensor)
    have, pointer = _scratch.get((handle, stream), (-1, 0))
    if have < tensor.numel():
        have = max(tensor.numel(), 1 << 24)
        pointer = _native.made(_native.lib.tk_scratch(handle, have))
        _scratch[handle, stream] = have, pointer
    return pointer


def reduce(x: torch.Tensor, operation: str = "sum") -> torch.Tensor:
    """All of x, f32 of one dimension, joined: "sum", "max" or "min"; the same bits in every run."""
    if operation not in ("sum", "max", "min"):
        raise TinyKernelsError(f'operation {operation!r} is none of "sum", "max", "min"')
    need("x", x, torch.float32, dimensions=1)
    out = x.new_empty(1)
    _native.check(_native.lib.tk_reduce(*at(x), out.data_ptr(), x.data_ptr(), x.numel(), ("sum", "max", "min").index(operation), _scratch_for(x)))
    return out


def scan(x: torch.Tensor, exclusive: bool = False) -> torch.Tensor:
    """Running sums of x, uint32 or int32 of one dimension, modulo 2^32."""
    need("x", x, torch.uint32, torch.int32, dimensions=1)
    out = torch.empty_like(x)
    _native.check(_native.lib.tk_scan(*at(x), out.data_ptr(), x.data_ptr(), x.numel(), int(exclusive), _scratch_for(x)))
    return out


def histogram(x: torch.Tensor, bins: int) -> torch.Tensor:
    """How often 0 … bins - 1 occur in x, uint32 or int32; int32 [bins]. Other numbers are passed over."""
    need("x", x, torch.uint32, torch.int32, dimensions=1)
    counts = torch.empty(bins, dtype=torch.int32, device=x.device)
    _native.check(_native.lib.tk_histogram(*at(x), counts.data_ptr(), bins, x.data_ptr(), x.numel()))
    return counts


def transpose(x: torch.Tensor) -> torch.Tensor:
    """x of two dimensions with the rows as columns, contiguous; elements of 2 or 4 bytes."""
    need("x", x, torch.bfloat16, torch.float16, torch.int16, torch.float32, torch.int32, dimensions=2)
    out = x.new_empty(x.shape[1], x.shape[0])
    _native.check(_native.lib.tk_transpose(*at(x), out.data_ptr(), x.data_ptr(), *x.shape, int(x.element_size() == 4)))
    return out


def topk(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(values f32, places int32) [rows, k] of the greatest of each row of x, falling; ties go to the lower place."""
    need("x", x, torch.float32, dimensions=2)
    values, places = x.new_empty(x.shape[0], k), torch.empty(x.shape[0], k, dtype=torch.int32, device=x.device)
    _native.check(_native.lib.tk_top_k(*at(x), values.data_ptr(), places.data_ptr(), x.data_ptr(), *x.shape, k))
    return values, places
