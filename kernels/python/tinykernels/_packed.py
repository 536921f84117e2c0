"""Linear layers of packed weights, 4 or 8 bits or 2:4 sparse, with bf16 activations."""

import ctypes

import torch

from . import _native
from ._native import TinyKernelsError
from ._tensors import at, need


class _Layer:
    """What a packed layer does with x; `_run` and `_free` are its C functions."""

    _run, _free = "tk_packed_linear", "tk_packed_free"

    def _place(self, device):
        self.device = torch.device(device)
        self._handle = _native.handle(self.device.index or 0)

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        need("x", x, torch.bfloat16)
        if x.dim() != 2 or x.shape[1] != self.columns:
            raise TinyKernelsError(f"x {tuple(x.shape)} for weights [{self.features}, {self.columns}]")
        shape = (x.shape[0], self.features)
        need("out", out, torch.bfloat16, shape=shape)
        out = x.new_empty(shape) if out is None else out
        _native.check(getattr(_native.lib, self._run)(*at(x), out.data_ptr(), x.data_ptr(), self._weights, x.shape[0]))
        return out

    def __del__(self):
        if getattr(self, "_weights", None) and _native is not None:  # None when the interpreter ends
            torch.cuda.synchronize(self.device)
            getattr(_native.lib, self._free)(self._weights)


class SparseLinear(_Layer):
    """x [rows, columns] · Wᵀ of a weight of which every four neighbours of a row have at most two that are not zero; with `prune` the two greatest of four
    are kept."""

    _run, _free = "tk_linear_sparse", "tk_sparse_free"

    def __init__(self, weight: torch.Tensor, device: torch.device, prune: bool = False):
        self._place(device)
        self.features, self.columns = weight.shape
        weight = weight.to("cpu", torch.bfloat16).contiguous()
        self._weights = _native.made(_native.lib.tk_sparse_pack(self._handle, weight.data_ptr(), self.features, self.columns, int(prune)))


class _Packed(_Layer):
    _bits: int

    def __init__(self, numbers: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, device: torch.device):
        self._place(device)
        self.features, self.columns = numbers.shape
        numbers, zeros = numbers.to("cpu", torch.uint8).contiguous(), zeros.to("cpu", torch.int16).contiguous()
        scales = scales.to("cpu", torch.bfloat16).contiguous()
        if scales.shape != (self.features, self.columns // 128) or zeros.shape != scales.shape:
            raise TinyKernelsError(f"numbers {tuple(numbers.shape)}, scales {tuple(scales.shape)}, zeros {tuple(zeros.shape)} do not belong together")
        self._weights = _native.made(_native.lib.tk_pack(self._handle, numbers.data_ptr(), scales.data_ptr(), zeros.data_ptr(), self.features, self.columns, self._bits))

    @classmethod
    def from_checkpoint(cls, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, layout: str, device: torch.device, g_idx: torch.Tensor | None = None):
        """A layer of a GPTQ ("gptq", "gptq_v2") or, of 4 bits, AWQ ("awq") checkpoint, its tensors as they lie in the file."""
        if layout not in ("gptq", "gptq_v2", "awq"):
            raise TinyKernelsError(f'layout {layout!r} is none of "gptq", "gptq_v2", "awq"')
        self = cls.__new__(cls)
        qweight, qzeros, scales = (t.to("cpu", kind).contiguous() for t, kind in ((qweight, torch.int32), (qzeros, torch.int32), (scales, torch.float16)))
        each = 32 // self._bits
        groups, self.features = scales.shape
        self.columns = qweight.shape[0] * (1 if layout == "awq" else each)
        group = self.columns // max(groups, 1)
        if qweight.numel() * each != self.features * self.columns or qzeros.shape != (groups, self.features // each):
            raise TinyKernelsError(f"qweight {tuple(qweight.shape)}, qzeros {tuple(qzeros.shape)}, scales {tuple(scales.shape)} do not belong together as {layout} of {self._bits} bits")
        if g_idx is not None and not torch.equal(g_idx.cpu().long(), torch.arange(self.columns) // group):
            raise TinyKernelsError("g_idx has columns out of order (desc_act): such a checkpoint is not supported")
        self._place(device)
        shape = (ctypes.c_size_t * 4)(self.features, self.columns, group, self._bits)
        self._weights = _native.made(_native.lib.tk_pack_checkpoint(self._handle, qweight.data_ptr(), qzeros.data_ptr(), scales.data_ptr(), shape, ("gptq", "gptq_v2", "awq").index(layout)))
        return self


class W4Linear(_Packed):
    """x [rows <= 64, columns] · Wᵀ with weight = scale · (nibble − zero), groups of 128 columns, packed once from host tensors."""

    _bits = 4


class W8Linear(_Packed):
    """As W4Linear with a byte a weight: scale · (byte − zero), zero 0 … 256."""

    _bits = 8
