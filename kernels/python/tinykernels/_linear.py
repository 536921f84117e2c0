"""Linear layers with an epilogue and of 8-bit operands, and quantisation: torch operators."""

import torch

from . import _native
from ._native import TinyKernelsError
from ._tensors import address, need, rows_of, run

_KINDS = {torch.bfloat16: 0, torch.float16: 1, torch.float8_e4m3fn: 2, torch.int8: 3}
_ACTIVATIONS = {"none": 0, "silu": 1, "gelu_tanh": 2, "gelu": 3}


def _call(y, x, weight, x_scale, weight_scale, bias, residual, activation, gated, kind):
    features, columns = weight.shape
    pointers = map(address, (y, x, weight, bias, residual, x_scale, weight_scale))
    counts = [t.numel() if t is not None else 0 for t in (x_scale, weight_scale)]
    return _native.Linear(*pointers, x.numel() // max(columns, 1), features, columns, *counts, kind, _ACTIVATIONS[activation], int(gated))


def _linear(x, weight, x_scale, weight_scale, bias, residual, activation, gated, blocks):
    need("x", x, *_KINDS)
    need("weight", weight, x.dtype)
    kind = _KINDS[x.dtype]
    out = torch.bfloat16 if kind > 1 else x.dtype
    for name, tensor, dtype in (("bias", bias, out), ("residual", residual, out), ("x_scale", x_scale, torch.float32), ("weight_scale", weight_scale, torch.float32)):
        need(name, tensor, dtype)
    if activation not in _ACTIVATIONS:
        raise TinyKernelsError(f"activation {activation!r} is none of {', '.join(_ACTIVATIONS)}")
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise TinyKernelsError(f"x {tuple(x.shape)}, weight {tuple(weight.shape)}, bias {bias is not None and tuple(bias.shape)} do not belong together")
    y = x.new_empty(x.shape[:-1] + (weight.shape[0] // (2 if gated else 1),), dtype=out)
    if residual is not None and residual.shape != y.shape:
        raise TinyKernelsError(f"residual {tuple(residual.shape)} for an output {tuple(y.shape)}")
    if blocks:
        wanted = [(-(-x.shape[-1] // 128), x.numel() // x.shape[-1]), (-(-weight.shape[0] // 128), -(-weight.shape[1] // 128))]
        if [tuple(x_scale.shape), tuple(weight_scale.shape)] != wanted:
            raise TinyKernelsError(f"scales {tuple(x_scale.shape)} and {tuple(weight_scale.shape)}, not {wanted}")
    run(_native.lib.tk_linear, y, _call(y, x, weight, x_scale, weight_scale, bias, residual, activation, gated, 4 if blocks else kind))
    return y


def _like(x, weight, gated):
    dtype = x.dtype if x.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    return x.new_empty(x.shape[:-1] + (weight.shape[0] // (2 if gated else 1),), dtype=dtype)


@torch.library.custom_op("tinykernels::linear_fused", mutates_args=())
def linear_fused(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, residual: torch.Tensor | None = None, activation: str = "none",
                 gated: bool = False) -> torch.Tensor:
    """activation(x · weightᵀ + bias) + residual in bf16 or fp16, rounded once; activation "none", "silu", "gelu" or "gelu_tanh".

    gated: weight is interleave_gate(gate, up), the output activation(gate) * up, half as wide.
    """
    return _linear(x, weight, None, None, bias, residual, activation, gated, False)


@linear_fused.register_fake
def _(x, weight, bias=None, residual=None, activation="none", gated=False):
    return _like(x, weight, gated)


@torch.library.custom_op("tinykernels::linear_scaled", mutates_args=())
def linear_scaled(x: torch.Tensor, weight: torch.Tensor, x_scale: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None = None,
                  residual: torch.Tensor | None = None, activation: str = "none", gated: bool = False) -> torch.Tensor:
    """As linear_fused for float8_e4m3fn or int8 operands: f32 scales [rows] or [1] of x and [features] or [1] of the weight; the output is bf16."""
    return _linear(x, weight, x_scale, weight_scale, bias, residual, activation, gated, False)


@linear_scaled.register_fake
def _(x, weight, x_scale, weight_scale, bias=None, residual=None, activation="none", gated=False):
    return _like(x, weight, gated)


@torch.library.custom_op("tinykernels::linear_blocks", mutates_args=())
def linear_blocks(x: torch.Tensor, weight: torch.Tensor, x_scale: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None = None,
                  residual: torch.Tensor | None = None, activation: str = "none", gated: bool = False) -> torch.Tensor:
    """As linear_scaled for float8_e4m3fn with f32 scales [columns / 128, rows] of x and [features / 128, columns / 128] of the weight, rounded up."""
    need("x", x, torch.float8_e4m3fn)
    return _linear(x, weight, x_scale, weight_scale, bias, residual, activation, gated, True)


@linear_blocks.register_fake
def _(x, weight, x_scale, weight_scale, bias=None, residual=None, activation="none", gated=False):
    return _like(x, weight, gated)


def interleave_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Rows of both, or entries of two biases, as a gated layer reads them: eight of the gate, eight of up, and so on."""
    if gate.shape != up.shape or gate.shape[0] % 8:
        raise TinyKernelsError(f"gate {tuple(gate.shape)}, up {tuple(up.shape)}: one shape, rows a multiple of 8")
    rest = gate.shape[1:]
    return torch.stack((gate.reshape(-1, 8, *rest), up.reshape(-1, 8, *rest)), 1).reshape(-1, *rest).contiguous()


def _quantize_call(out, scales, x, residual, weight, epsilon, source, blocks):
    return _native.Quantize(*map(address, (out, scales, x, residual, weight)), *rows_of(out), epsilon, source, int(out.dtype == torch.int8), int(blocks))


def _quantize(x, residual, weight, epsilon, source, dtype, blocks):
    if dtype not in (torch.float8_e4m3fn, torch.int8):
        raise TinyKernelsError(f"quantised to float8_e4m3fn or int8, not {dtype}")
    for name, tensor in (("x", x), ("residual", residual), ("weight", weight)):
        need(name, tensor, torch.bfloat16)
    if source == 3 and x.shape[-1] % 2:
        raise TinyKernelsError(f"gate_up {tuple(x.shape)} has an odd number of columns, of which half are the gate's")
    hidden = x.shape[-1] // (2 if source == 3 else 1)
    if (residual is not None and residual.shape != x.shape) or (weight is not None and weight.shape != (hidden,)) or (blocks and hidden % 128):
        raise TinyKernelsError(f"x {tuple(x.shape)}, residual {residual is not None and tuple(residual.shape)}, weight {weight is not None and tuple(weight.shape)} do not belong together, or {hidden} columns are no multiple of 128")
    out = x.new_empty(x.shape[:-1] + (hidden,), dtype=dtype)
    rows = out.numel() // max(hidden, 1)
    scales = x.new_empty((hidden // 128, rows) if blocks else (rows,), dtype=torch.float32)
    call = _quantize_call(out, scales, x, residual, weight, epsilon, source, blocks)
    run(_native.lib.tk_quantize, x, call)
    return out, scales


def _fake_quantize(x, dtype, blocks, source=0):
    hidden = x.shape[-1] // (2 if source == 3 else 1)
    rows = x.numel() // x.shape[-1]
    return x.new_empty(x.shape[:-1] + (hidden,), dtype=dtype), x.new_empty((hidden // 128, rows) if blocks else (rows,), dtype=torch.float32)


@torch.library.custom_op("tinykernels::quantize", mutates_args=())
def quantize(x: torch.Tensor, dtype: torch.dtype, blocks: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """x as float8_e4m3fn or int8, and f32 scales [rows], or [columns / 128, rows] with blocks."""
    return _quantize(x, None, None, 0.0, 0, dtype, blocks)


@quantize.register_fake
def _(x, dtype, blocks=False):
    return _fake_quantize(x, dtype, blocks)


@torch.library.custom_op("tinykernels::rms_norm_quantize", mutates_args=())
def rms_norm_quantize(x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype, blocks: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """quantize(rms_norm(x)), not rounded to bf16 in between."""
    return _quantize(x, None, weight, epsilon, 1, dtype, blocks)


@rms_norm_quantize.register_fake
def _(x, weight, epsilon, dtype, blocks=False):
    return _fake_quantize(x, dtype, blocks)


@torch.library.custom_op("tinykernels::add_rms_norm_quantize", mutates_args=("residual",))
def add_rms_norm_quantize(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype,
                          blocks: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """residual += x; then quantize(rms_norm(residual)), not rounded to bf16 in between."""
    return _quantize(x, residual, weight, epsilon, 2, dtype, blocks)


@add_rms_norm_quantize.register_fake
def _(x, residual, weight, epsilon, dtype, blocks=False):
    return _fake_quantize(x, dtype, blocks)


@torch.library.custom_op("tinykernels::silu_mul_quantize", mutates_args=())
def silu_mul_quantize(gate_up: torch.Tensor, dtype: torch.dtype, blocks: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """quantize(silu_mul(gate_up)), not rounded to bf16 in between."""
    return _quantize(gate_up, None, None, 0.0, 3, dtype, blocks)


@silu_mul_quantize.register_fake
def _(gate_up, dtype, blocks=False):
    return _fake_quantize(gate_up, dtype, blocks, 3)
