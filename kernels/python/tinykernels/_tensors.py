"""What every operator asks of a tensor, and how it calls the library: on the tensor's GPU, in torch's current stream there."""

import ctypes

import torch

from . import _native
from ._native import TinyKernelsError


def need(name: str, tensor: torch.Tensor | None, *dtypes: torch.dtype, shape: tuple[int, ...] | None = None, dimensions: int | None = None) -> None:
    """Refuses a tensor that is not a contiguous one of these types on a GPU. On which GPU, the library asks the driver."""
    if tensor is None:
        return
    fits = tensor.is_cuda and tensor.dtype in dtypes and tensor.is_contiguous()
    if fits and (shape is None or tuple(tensor.shape) == shape) and dimensions in (None, tensor.dim()):
        return
    wanted = f" of shape {shape}" if shape is not None else f" of {dimensions} dimensions" if dimensions is not None else ""
    kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    raise TinyKernelsError(f"{name} must be a contiguous {kinds} CUDA tensor{wanted}, not {tensor.dtype} {tuple(tensor.shape)} on {tensor.device} of strides {tensor.stride()}")


def address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def at(tensor: torch.Tensor) -> tuple[int, int]:
    """The opened GPU and the stream."""
    ordinal = tensor.device.index
    return _native.handle(ordinal), torch.cuda.current_stream(ordinal).cuda_stream


def run(function, tensor: torch.Tensor, call: ctypes.Structure, *more) -> None:
    """A function of the library that takes its arguments in a structure, on the tensor's GPU."""
    _native.check(function(*at(tensor), ctypes.byref(call), *more))


def rows_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix of its last dimension."""
    columns = tensor.shape[-1]
    return tensor.numel() // max(columns, 1), columns
