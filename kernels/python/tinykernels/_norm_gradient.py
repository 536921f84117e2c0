"""The gradients of RMSNorm and LayerNorm: torch operators."""

import ctypes

import torch

from . import _native
from ._native import TinyKernelsError


def _norm_gradient(gradient, x, weight, further, epsilon, layer):
    for name, tensor in (("gradient", gradient), ("x", x), ("weight", weight), ("further", further)):
        if tensor is not None and (not tensor.is_cuda or tensor.dtype != torch.bfloat16 or not tensor.is_contiguous()):
            raise TinyKernelsError(f"{name} must be a contiguous bfloat16 CUDA tensor, not {tensor.dtype} on {tensor.device} of strides {tensor.stride()}")
    if gradient.shape != x.shape or weight.shape != x.shape[-1:] or (further is not None and further.shape != x.shape):
        raise TinyKernelsError(f"gradient {tuple(gradient.shape)}, x {tuple(x.shape)}, weight {tuple(weight.shape)} do not belong together")
    dx, dweight = torch.empty_like(x), torch.empty_like(weight)
    dbias = torch.empty_like(weight) if layer else None
    hidden = x.shape[-1]
    rows = x.numel() // max(hidden, 1)
    slots = torch.empty(_native.lib.tk_norm_gradient_scratch(rows, hidden, int(layer)), device=x.device)
    addresses = [t.data_ptr() if t is not None else 0 for t in (dx, dweight, dbias, slots, x, weight, gradient, further)]
    call = _native.NormStep(*addresses, rows, hidden, slots.numel(), epsilon, int(layer))
    ordinal = x.device.index
    _native.check(_native.lib.tk_norm_gradient(_native.handle(ordinal), torch.cuda.current_stream(ordinal).cuda_stream, ctypes.byref(call)))
    return dx, dweight, dbias


@torch.library.custom_op("tinykernels::rms_norm_gradient", mutates_args=())
def rms_norm_gradient(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, epsilon: float,
                      further: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(dx, dweight) of rms_norm for the gradient of its output; `further` is added to dx: what reaches x past the norm."""
    return _norm_gradient(gradient, x, weight, further, epsilon, False)[:2]


@rms_norm_gradient.register_fake
def _(gradient, x, weight, epsilon, further=None):
    return torch.empty_like(x), torch.empty_like(weight)


@torch.library.custom_op("tinykernels::layer_norm_gradient", mutates_args=())
def layer_norm_gradient(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, epsilon: float,
                        further: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dx, dweight, dbias) of layer_norm, likewise."""
    return _norm_gradient(gradient, x, weight, further, epsilon, True)


@layer_norm_gradient.register_fake
def _(gradient, x, weight, epsilon, further=None):
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
