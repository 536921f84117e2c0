"""Drop-ins for functions of torch.nn.functional, with gradients.

    import tinykernels.functional as F
    y = F.linear(x, weight, bias)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

bf16 tensors on one NVIDIA Hopper GPU; what torch would take and these do not is a TinyKernelsError that says so.
"""

import torch

from ._fused import cross_entropy as _cross_entropy
from ._fused import gelu
from ._fused import layer_norm as _layer_norm
from ._fused import softmax as _softmax
from ._linear import linear_fused
from ._native import TinyKernelsError
from ._operators import linear as _linear
from ._operators import rms_norm as _rms_norm
from ._prefill import scaled_dot_product_attention

__all__ = ["cross_entropy", "gelu", "layer_norm", "linear", "rms_norm", "scaled_dot_product_attention", "softmax"]


@torch.library.custom_op("tinykernels::linear_bias", mutates_args=())
def _linear_bias(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return linear_fused(input, weight, bias)


@_linear_bias.register_fake
def _(input, weight, bias):
    return input.new_empty(input.shape[:-1] + (weight.shape[0],))


def _saves(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx, gradient):
    """The two products are torch's own: neither has its operands as the forward kernel reads them."""
    x, weight = ctx.saved_tensors
    flat = gradient.flatten(0, -2)
    of_x = gradient @ weight if ctx.needs_input_grad[0] else None
    of_weight = flat.t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
    return of_x, of_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


_linear_bias.register_autograd(_backward, setup_context=_saves)


def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """input · weightᵀ + bias, as torch.nn.functional.linear."""
    x = input.contiguous()
    return _linear(x, weight.contiguous()) if bias is None else _linear_bias(x, weight.contiguous(), bias.contiguous())


def _last(name, input, normalized_shape, weight):
    if list(normalized_shape) != list(input.shape[-1:]):
        raise TinyKernelsError(f"{name}: normalized_shape {tuple(normalized_shape)} of {tuple(input.shape)}: the last dimension alone")
    return torch.ones_like(input[(0,) * (input.dim() - 1)]) if weight is None else weight


def rms_norm(input: torch.Tensor, normalized_shape, weight: torch.Tensor | None = None, eps: float | None = None) -> torch.Tensor:
    """As torch.nn.functional.rms_norm over the last dimension, with gradients."""
    weight = _last("rms_norm", input, normalized_shape, weight)
    return _rms_norm(input.contiguous(), weight, torch.finfo(input.dtype).eps if eps is None else eps)


def layer_norm(input: torch.Tensor, normalized_shape, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, eps: float = 1e-5) -> torch.Tensor:
    """As torch.nn.functional.layer_norm over the last dimension, with gradients."""
    return _layer_norm(input.contiguous(), _last("layer_norm", input, normalized_shape, weight), bias, eps)


def softmax(input: torch.Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> torch.Tensor:
    """As torch.nn.functional.softmax over the last dimension, bf16 or f32, with gradients."""
    if dim not in (-1, input.dim() - 1) or dtype not in (None, input.dtype):
        raise TinyKernelsError(f"softmax: dim {dim} and dtype {dtype} of {tuple(input.shape)} {input.dtype}: the last dimension, in the input's own type")
    return _softmax(input.contiguous())


def cross_entropy(input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, size_average=None, ignore_index: int = -100, reduce=None,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> torch.Tensor:
    """As torch.nn.functional.cross_entropy of input [rows, classes] and classes, int32 or int64, with gradients; every negative target is left out."""
    if weight is not None or size_average is not None or reduce is not None or label_smoothing or ignore_index >= 0:
        raise TinyKernelsError("cross_entropy: no weights, label smoothing, size_average or reduce, and what is ignored is negative")
    if target.dtype == torch.int64:
        target = target.clamp(-1, 2**31 - 1).int()
    return _cross_entropy(input.contiguous(), target.contiguous(), reduction)
