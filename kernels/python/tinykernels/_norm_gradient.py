"""The gradients of RMSNorm and LayerNorm: torch operators."""

import torch

from . import _native
from ._native import TinyKernelsError
from ._tensors import address, need, rows_of, run


def _norm_gradient(gradient, x, weight, further, epsilon, layer):
    for name, tensor in (("gradient", gradient), ("x", x), ("weight", weight), ("further", further)):
        need(name, tensor, torch.bfloat16)
    if gradient.shape != x.shape or weight.shape != x.shape[-1:] or (further is not None and further.shape != x.shape):
        raise TinyKernelsError(f"gradient {tuple(gradient.shape)}, x {tuple(x.shape)}, weight {tuple(weight.shape)} do not belong together")
    dx, dweight = torch.empty_like(x), torch.empty_like(weight)
    dbias = torch.empty_like(weight) if layer else None
    rows, hidden = rows_of(x)
    slots = torch.empty(_native.lib.tk_norm_gradient_scratch(rows, hidden, int(layer)), device=x.device)
    call = _native.NormStep(*map(address, (dx, dweight, dbias, slots, x, weight, gradient, further)), rows, hidden, slots.numel(), epsilon, int(layer))
    run(_native.lib.tk_norm_gradient, x, call)
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
