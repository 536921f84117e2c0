"""Layer norm, GELU, softmax, embedding and cross-entropy: torch operators."""

import ctypes

import torch

from . import _native
from ._native import TinyKernelsError
from ._norm_gradient import layer_norm_gradient
from ._tensors import address, need, run


def _rows(out, x, more=(), rows=None, columns=None, number=0.0, flag=0):
    more = (ctypes.c_uint64 * 3)(*(address(t) for t in more))
    columns = out.shape[-1] if columns is None else columns
    rows = out.numel() // max(columns, 1) if rows is None else rows
    return _native.Rows(address(out), address(x), more, rows, columns, number, flag, int(x is not None and x.dtype == torch.float32))


def _layer_norm(x, residual, weight, bias, epsilon):
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias), ("residual", residual)):
        need(name, tensor, torch.bfloat16)
    if weight.shape != x.shape[-1:] or (bias is not None and bias.shape != weight.shape) or (residual is not None and residual.shape != x.shape):
        raise TinyKernelsError(f"x {tuple(x.shape)}, weight {tuple(weight.shape)}, bias and residual do not belong together")
    y = torch.empty_like(x)
    run(_native.lib.tk_layer_norm, x, _rows(y, x, (residual, weight, bias), number=epsilon))
    return y


@torch.library.custom_op("tinykernels::layer_norm", mutates_args=())
def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """(x - mean) / sqrt(var + epsilon) * weight + bias over the last dimension."""
    return _layer_norm(x, None, weight, bias, epsilon)


@layer_norm.register_fake
def _(x, weight, bias, epsilon):
    return torch.empty_like(x)


def _norm_saves(ctx, inputs, output):
    x, weight, bias, ctx.epsilon = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _norm_backward(ctx, gradient):
    dx, dweight, dbias = layer_norm_gradient(gradient.contiguous(), *ctx.saved_tensors, ctx.epsilon)
    return dx, dweight, dbias if ctx.has_bias else None, None


layer_norm.register_autograd(_norm_backward, setup_context=_norm_saves)


@torch.library.custom_op("tinykernels::add_layer_norm", mutates_args=("residual",))
def add_layer_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """residual += x; returns layer_norm(residual)."""
    return _layer_norm(x, residual, weight, bias, epsilon)


@add_layer_norm.register_fake
def _(x, residual, weight, bias, epsilon):
    return torch.empty_like(x)


@torch.library.custom_op("tinykernels::gelu", mutates_args=())
def gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    """x · Φ(x), or with approximate "tanh" its tanh form; as F.gelu."""
    need("x", x, torch.bfloat16)
    if approximate not in ("none", "tanh"):
        raise TinyKernelsError(f'approximate {approximate!r} is neither "none" nor "tanh"')
    y = torch.empty_like(x)
    run(_native.lib.tk_gelu, x, _rows(y, x, rows=1, columns=x.numel(), flag=int(approximate == "tanh")))
    return y


@gelu.register_fake
def _(x, approximate="none"):
    return torch.empty_like(x)


@torch.library.custom_op("tinykernels::gelu_gradient", mutates_args=())
def gelu_gradient(gradient: torch.Tensor, x: torch.Tensor, approximate: str) -> torch.Tensor:
    """gradient · gelu′(x)."""
    need("gradient", gradient, torch.bfloat16)
    if gradient.shape != x.shape:
        raise TinyKernelsError(f"gradient {tuple(gradient.shape)} of {tuple(x.shape)}")
    dx = torch.empty_like(x)
    run(_native.lib.tk_gelu_gradient, x, _rows(dx, x, (gradient,), rows=1, columns=x.numel(), flag=int(approximate == "tanh")))
    return dx


@gelu_gradient.register_fake
def _(gradient, x, approximate):
    return torch.empty_like(x)


def _gelu_saves(ctx, inputs, output):
    x, ctx.approximate = inputs
    ctx.save_for_backward(x)


gelu.register_autograd(lambda ctx, gradient: (gelu_gradient(gradient.contiguous(), *ctx.saved_tensors, ctx.approximate), None), setup_context=_gelu_saves)


@torch.library.custom_op("tinykernels::softmax", mutates_args=())
def softmax(x: torch.Tensor, scale: float = 1.0, logarithm: bool = False) -> torch.Tensor:
    """softmax(scale · x) over the last dimension, or its logarithm; bf16 or f32."""
    need("x", x, torch.bfloat16, torch.float32)
    y = torch.empty_like(x)
    run(_native.lib.tk_softmax, x, _rows(y, x, number=scale, flag=int(logarithm)))
    return y


@softmax.register_fake
def _(x, scale=1.0, logarithm=False):
    return torch.empty_like(x)


@torch.library.custom_op("tinykernels::softmax_gradient", mutates_args=())
def softmax_gradient(gradient: torch.Tensor, y: torch.Tensor, scale: float, logarithm: bool) -> torch.Tensor:
    """scale · y ∘ (gradient − Σ gradient ∘ y), of the result y of softmax; of its logarithm scale · (gradient − exp(y) Σ gradient)."""
    need("gradient", gradient, y.dtype)
    if gradient.shape != y.shape:
        raise TinyKernelsError(f"gradient {tuple(gradient.shape)} of {tuple(y.shape)}")
    dx = torch.empty_like(y)
    run(_native.lib.tk_softmax_gradient, y, _rows(dx, y, (gradient,), number=scale, flag=int(logarithm)))
    return dx


@softmax_gradient.register_fake
def _(gradient, y, scale, logarithm):
    return torch.empty_like(y)


def _softmax_saves(ctx, inputs, output):
    _, ctx.scale, ctx.logarithm = inputs
    ctx.save_for_backward(output)


softmax.register_autograd(lambda ctx, gradient: (softmax_gradient(gradient.contiguous(), *ctx.saved_tensors, ctx.scale, ctx.logarithm), None, None), setup_context=_softmax_saves)


@torch.library.custom_op("tinykernels::embedding", mutates_args=())
def embedding(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """table[ids], rows of bf16 by int32 ids; an id that the table does not have gives NaN."""
    need("ids", ids, torch.int32)
    need("table", table, torch.bfloat16)
    if table.dim() != 2:
        raise TinyKernelsError(f"table must be [entries, columns], not {tuple(table.shape)}")
    out = table.new_empty(ids.shape + table.shape[1:])
    run(_native.lib.tk_embedding, table, _rows(out, table, (ids,), ids.numel(), table.shape[1], flag=table.shape[0]))
    return out


@embedding.register_fake
def _(ids, table):
    return table.new_empty(ids.shape + table.shape[1:])


@torch.library.custom_op("tinykernels::cross_entropy_rows", mutates_args=())
def cross_entropy_rows(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, log of the sum) f32 [rows] of logits [rows, vocabulary], bf16 or f32, and int32 targets [rows]."""
    need("logits", logits, torch.bfloat16, torch.float32)
    need("targets", targets, torch.int32)
    if logits.dim() != 2 or targets.shape != logits.shape[:1]:
        raise TinyKernelsError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not belong together")
    loss = torch.empty(logits.shape[0], device=logits.device)
    log_sum = torch.empty_like(loss)
    run(_native.lib.tk_cross_entropy, logits, _rows(loss, logits, (log_sum, targets), *logits.shape))
    return loss, log_sum


@cross_entropy_rows.register_fake
def _(logits, targets):
    return tuple(logits.new_empty(logits.shape[0], dtype=torch.float32) for _ in range(2))


@torch.library.custom_op("tinykernels::cross_entropy_gradient", mutates_args=())
def cross_entropy_gradient(logits: torch.Tensor, targets: torch.Tensor, log_sum: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """factor · (softmax(logits) - one at the target), of each row."""
    need("logits", logits, torch.bfloat16, torch.float32)
    for name, tensor, dtype in (("targets", targets, torch.int32), ("log_sum", log_sum, torch.float32), ("factor", factor, torch.float32)):
        need(name, tensor, dtype)
    if logits.dim() != 2 or not targets.shape == log_sum.shape == factor.shape == logits.shape[:1]:
        raise TinyKernelsError(f"logits {tuple(logits.shape)}, targets {tuple(targets.shape)}, log_sum {tuple(log_sum.shape)}, factor {tuple(factor.shape)} do not belong together")
    gradient = torch.empty_like(logits)
    run(_native.lib.tk_cross_entropy_gradient, logits, _rows(gradient, logits, (log_sum, targets, factor), *logits.shape))
    return gradient


@cross_entropy_gradient.register_fake
def _(logits, targets, log_sum, factor):
    return torch.empty_like(logits)


def _saves(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx, of_loss, of_log_sum):
    logits, targets, log_sum = ctx.saved_tensors
    return cross_entropy_gradient(logits, targets, log_sum, of_loss.contiguous()), None


cross_entropy_rows.register_autograd(_backward, setup_context=_saves)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """As F.cross_entropy of classes: int32 targets, of which negative ones are left out; the log of the sum passes no gradient of its own."""
    if reduction not in ("mean", "sum", "none"):
        raise TinyKernelsError(f'reduction {reduction!r} is none of "mean", "sum", "none"')
    loss, _ = cross_entropy_rows(logits, targets)
    if reduction == "none":
        return loss
    return loss.sum() / (targets >= 0).sum() if reduction == "mean" else loss.sum()
