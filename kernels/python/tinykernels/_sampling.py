"""Drawing tokens."""

import ctypes
from dataclasses import dataclass

import torch

from . import _native
from ._native import TinyKernelsError


def _need(name, tensor, dtype, shape=None):
    if not tensor.is_cuda or tensor.dtype != dtype or not tensor.is_contiguous() or (shape is not None and tuple(tensor.shape) != shape):
        raise TinyKernelsError(f"{name} must be a contiguous {dtype} CUDA tensor{'' if shape is None else f' of shape {shape}'}, not {tensor.dtype} {tuple(tensor.shape)} on {tensor.device} of strides {tensor.stride()}")


@dataclass
class Penalties:
    """repetition, presence, frequency f32 [rows]; slot int32 [rows], the row of counts of each row's sequence, -1 for none.

    counts int16 [slots, stride], stride a multiple of 4 that holds the vocabulary: the top bit marks a token of the prompt, the others count it in the
    output. `start` begins a sequence; `sample` counts the tokens it draws.
    """

    repetition: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor
    slot: torch.Tensor
    counts: torch.Tensor

    @staticmethod
    def start(counts: torch.Tensor, slot: int, prompt: torch.Tensor) -> None:
        _need("counts", counts, torch.int16)
        _need("prompt", prompt, torch.int32)
        ordinal = counts.device.index
        stream = torch.cuda.current_stream(ordinal).cuda_stream
        _native.check(_native.lib.tk_start_counts(_native.handle(ordinal), stream, counts.data_ptr(), *counts.shape, slot, prompt.data_ptr(), prompt.numel()))

    def addresses(self, rows: int) -> tuple[int, ...]:
        for name, dtype in (("repetition", torch.float32), ("presence", torch.float32), ("frequency", torch.float32), ("slot", torch.int32)):
            _need(name, getattr(self, name), dtype, (rows,))
        _need("counts", self.counts, torch.int16)
        return tuple(t.data_ptr() for t in (self.repetition, self.presence, self.frequency, self.slot, self.counts))


def _call(token, log_probability, logits, named, bitmask, vocabulary, penalties):
    rows, stride = logits.shape
    extra = penalties.addresses(rows) if penalties is not None else (0,) * 5
    return _native.Sample(
        token.data_ptr(), log_probability.data_ptr(), logits.data_ptr(), bitmask.data_ptr() if bitmask is not None else 0,
        *(t.data_ptr() for t in named), *extra, rows, stride, vocabulary or stride, bitmask.shape[1] if bitmask is not None else 0,
        *(penalties.counts.shape if penalties is not None else (0, 0)), int(logits.dtype == torch.bfloat16),
    )


def sample(logits, temperature, top_p, min_p, top_k, seed, bitmask=None, vocabulary=None, penalties=None):
    """One token a row: (token int32 [rows], log-probability f32 [rows]). Parameters are [rows]: f32, f32, f32, int32, int64."""
    if logits.dtype not in (torch.float32, torch.bfloat16):
        raise TinyKernelsError(f"logits must be float32 or bfloat16, not {logits.dtype}")
    _need("logits", logits, logits.dtype)
    if logits.dim() != 2:
        raise TinyKernelsError(f"logits must be [rows, columns], not {tuple(logits.shape)}")
    rows = logits.shape[0]
    named = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "top_k": top_k, "seed": seed}
    for (name, tensor), dtype in zip(named.items(), (torch.float32,) * 3 + (torch.int32, torch.int64)):
        _need(name, tensor, dtype, (rows,))
    if bitmask is not None:
        _need("bitmask", bitmask, torch.int32)
        if bitmask.dim() != 2 or bitmask.shape[0] != rows:
            raise TinyKernelsError(f"bitmask must be [{rows}, words], one row for each of the logits, not {tuple(bitmask.shape)}")
    token = torch.empty(rows, dtype=torch.int32, device=logits.device)
    log_probability = torch.empty(rows, dtype=torch.float32, device=logits.device)
    ordinal = logits.device.index
    call = _call(token, log_probability, logits, named.values(), bitmask, vocabulary, penalties)
    _native.check(_native.lib.tk_sample(_native.handle(ordinal), torch.cuda.current_stream(ordinal).cuda_stream, ctypes.byref(call)))
    return token, log_probability
