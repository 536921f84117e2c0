"""Drawing tokens."""

from dataclasses import dataclass

import torch

from . import _native
from ._native import TinyKernelsError
from ._tensors import address, at, need, run


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
        need("counts", counts, torch.int16)
        need("prompt", prompt, torch.int32)
        _native.check(_native.lib.tk_start_counts(*at(counts), counts.data_ptr(), *counts.shape, slot, prompt.data_ptr(), prompt.numel()))

    def addresses(self, rows: int) -> tuple[int, ...]:
        for name, dtype in (("repetition", torch.float32), ("presence", torch.float32), ("frequency", torch.float32), ("slot", torch.int32)):
            need(name, getattr(self, name), dtype, shape=(rows,))
        need("counts", self.counts, torch.int16)
        return tuple(t.data_ptr() for t in (self.repetition, self.presence, self.frequency, self.slot, self.counts))


def _call(token, log_probability, logits, named, bitmask, vocabulary, penalties):
    rows, stride = logits.shape
    extra = penalties.addresses(rows) if penalties is not None else (0,) * 5
    return _native.Sample(
        *map(address, (token, log_probability, logits, bitmask, *named)), *extra, rows, stride, vocabulary or stride, bitmask.shape[1] if bitmask is not None else 0,
        *(penalties.counts.shape if penalties is not None else (0, 0)), int(logits.dtype == torch.bfloat16),
    )


def sample(logits, temperature, top_p, min_p, top_k, seed, bitmask=None, vocabulary=None, penalties=None):
    """One token a row: (token int32 [rows], log-probability f32 [rows]). Parameters are [rows]: f32, f32, f32, int32, int64. A temperature under 1e-5 is greedy."""
    need("logits", logits, torch.float32, torch.bfloat16, dimensions=2)
    rows = logits.shape[0]
    named = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "top_k": top_k, "seed": seed}
    for (name, tensor), dtype in zip(named.items(), (torch.float32,) * 3 + (torch.int32, torch.int64)):
        need(name, tensor, dtype, shape=(rows,))
    if bitmask is not None:
        need("bitmask", bitmask, torch.int32)
        if bitmask.dim() != 2 or bitmask.shape[0] != rows:
            raise TinyKernelsError(f"bitmask must be [{rows}, words], one row for each of the logits, not {tuple(bitmask.shape)}")
    token = torch.empty(rows, dtype=torch.int32, device=logits.device)
    log_probability = torch.empty(rows, dtype=torch.float32, device=logits.device)
    call = _call(token, log_probability, logits, named.values(), bitmask, vocabulary, penalties)
    run(_native.lib.tk_sample, logits, call)
    return token, log_probability
