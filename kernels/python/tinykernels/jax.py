"""Linear layers, attention, norms, activations, softmax and embedding for JAX, through XLA's foreign function interface: inside jax.jit, on its stream.

    import tinykernels.jax as tkj
    y = jax.jit(tkj.linear)(x, weight)      # bf16, on one NVIDIA Hopper GPU

The handlers (jax_ffi.cc beside this file) are compiled once with the headers of the installed jax; that needs a C++ compiler. linear, attention, gelu
and softmax have gradients; the others refuse to be differentiated.
"""

import ctypes
import functools
import hashlib
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from . import _native
from ._native import TinyKernelsError

_HANDLERS = ("TkRmsNorm", "TkSiluMul", "TkLinear", "TkLayerNorm", "TkGelu", "TkGeluGradient", "TkSoftmax", "TkSoftmaxGradient", "TkEmbedding",
             "TkAttention", "TkAttentionGradient")
_SOURCE = Path(__file__).with_name("jax_ffi.cc")


@functools.cache
def _register() -> int:
    """Builds and registers the handlers; the handle of the GPU that JAX has first."""
    library = Path(_native.lib._name).resolve()
    version = hashlib.sha256(_SOURCE.read_bytes() + f"{jax.__version__} {library}".encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tinykernels"
    built = folder / f"jax_ffi-{version}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}")
        command = [os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-fPIC", "-shared", f"-I{jax.ffi.include_dir()}", str(_SOURCE), str(library), "-o", str(part)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise TinyKernelsError(f"the handlers for jax {jax.__version__} do not compile: {done.stderr[-800:]}")
        part.rename(built)
    handlers = ctypes.CDLL(str(built))
    for symbol in _HANDLERS:
        jax.ffi.register_ffi_target(symbol, jax.ffi.pycapsule(getattr(handlers, symbol)), platform="CUDA")
    return _native.handle(0)


def _call(name: str, shapes, *operands: jax.Array, **attributes):
    """Of bf16 operands and results; an array of another type belongs to it where that type is written beside it."""
    typed = [o if isinstance(o, tuple) else (o, jnp.bfloat16) for o in operands]
    for operand, dtype in typed:
        if operand.dtype != dtype:
            raise TinyKernelsError(f"{name}: operands are {jnp.dtype(dtype)}, not {operand.dtype}")
    handle = np.int64(_register())
    return jax.ffi.ffi_call(name, shapes)(*(o for o, _ in typed), handle=handle, **attributes)


def _bf16(shape: tuple[int, ...]):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def rms_norm(x: jax.Array, weight: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """x / rms(x) · weight over the last dimension, a multiple of 8."""
    if weight.shape != x.shape[-1:]:
        raise TinyKernelsError(f"rms_norm: x {x.shape}, weight {weight.shape} do not belong together")
    return _call("TkRmsNorm", _bf16(x.shape), x, weight, epsilon=np.float32(epsilon))


def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """(x − mean) / deviation · weight + bias over the last dimension, a multiple of 8."""
    if not weight.shape == bias.shape == x.shape[-1:]:
        raise TinyKernelsError(f"layer_norm: x {x.shape}, weight {weight.shape}, bias {bias.shape} do not belong together")
    return _call("TkLayerNorm", _bf16(x.shape), x, weight, bias, epsilon=np.float32(epsilon))


def silu_mul(gate_up: jax.Array) -> jax.Array:
    """silu(first half of the columns) · second half."""
    if gate_up.shape[-1] % 2:
        raise TinyKernelsError(f"silu_mul: gate_up {gate_up.shape} has an odd number of columns, of which half are the gate's")
    return _call("TkSiluMul", _bf16((*gate_up.shape[:-1], gate_up.shape[-1] // 2)), gate_up)


def embedding(table: jax.Array, ids: jax.Array) -> jax.Array:
    """table[ids]: rows of bf16 by int32 ids; an id that the table does not have gives NaN."""
    return _call("TkEmbedding", _bf16((*ids.shape, table.shape[-1])), table, (ids, jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: jax.Array, approximate: bool = False) -> jax.Array:
    """x · Φ(x), or its tanh form."""
    return _call("TkGelu", _bf16(x.shape), x, tanh=np.int32(approximate))


gelu.defvjp(lambda x, approximate: (gelu(x, approximate), x),
            lambda approximate, x, dy: (_call("TkGeluGradient", _bf16(x.shape), x, dy, tanh=np.int32(approximate)),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def softmax(x: jax.Array, scale: float = 1.0, logarithm: bool = False) -> jax.Array:
    """softmax(scale · x) over the last dimension, or its logarithm."""
    return _call("TkSoftmax", _bf16(x.shape), x, scale=np.float32(scale), logarithm=np.int32(logarithm))


def _softmax_forward(x, scale, logarithm):
    y = softmax(x, scale, logarithm)
    return y, y


softmax.defvjp(_softmax_forward, lambda scale, logarithm, y, dy: (
    _call("TkSoftmaxGradient", _bf16(y.shape), y, dy, scale=np.float32(scale), logarithm=np.int32(logarithm)),))


@jax.custom_vjp
def linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x · weightᵀ: x [..., columns], weight [features, columns]. The products of its gradients are XLA's."""
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        raise TinyKernelsError(f"linear: x {x.shape}, weight {weight.shape} do not belong together")
    return _call("TkLinear", _bf16((*x.shape[:-1], weight.shape[0])), x, weight)


def _linear_backward(kept, dy):
    x, weight = kept
    rows = lambda a: a.reshape(-1, a.shape[-1])
    return (dy @ weight).astype(x.dtype), (rows(dy).T @ rows(x)).astype(weight.dtype)


linear.defvjp(lambda x, weight: (linear(x, weight), (x, weight)), _linear_backward)


@functools.lru_cache(maxsize=256)
def _plan(make: str, batch: int, tokens: int, keys: int, heads: int, kv_heads: int, dim: int, scale: float, causal: bool, window: int, soft_cap: float):
    """A plan for as long as the process runs: a compiled function holds its address."""
    shape = _native.PrefillShape(heads, kv_heads, dim, window, scale, soft_cap, int(causal))
    lengths = ((ctypes.c_size_t * batch)(*[n] * batch) for n in (tokens, keys))
    return np.int64(_native.made(getattr(_native.lib, make)(_register(), ctypes.byref(shape), *lengths, batch)))


def _attend(q, k, v, how):
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or (k.shape[0], k.shape[3]) != (q.shape[0], q.shape[3]):
        raise TinyKernelsError(f"attention: q {q.shape}, k {k.shape}, v {v.shape} do not belong together")
    batch, tokens, heads, dim = q.shape
    plan = _plan("tk_prefill_plan", batch, tokens, k.shape[1], heads, k.shape[2], dim, *how)
    sums = jax.ShapeDtypeStruct((heads, batch * tokens), jnp.float32)
    return _call("TkAttention", (_bf16(q.shape), sums), q, k, v, plan=plan)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(q, k, v, how):
    return _attend(q, k, v, how)[0]


def _attention_forward(q, k, v, how):
    out, log_sum = _attend(q, k, v, how)
    return out, (q, k, v, out, log_sum)


def _attention_backward(how, kept, gradient):
    q, k, v, out, log_sum = kept
    batch, tokens, heads, dim = q.shape
    plan = _plan("tk_gradient_plan", batch, tokens, k.shape[1], heads, k.shape[2], dim, *how)
    return _call("TkAttentionGradient", tuple(_bf16(t.shape) for t in (q, k, v)), gradient, q, k, v, out, (log_sum, jnp.float32), plan=plan)


_attention.defvjp(_attention_forward, _attention_backward)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, scale: float | None = None, causal: bool = True, window: int = 0, soft_cap: float = 0.0) -> jax.Array:
    """Attention of q [batch, tokens, heads, d] over k and v [batch, keys, kv_heads, d], d 64 or 128, as jax.nn.dot_product_attention lays them.

    Queries are the last tokens of their sequence; `window` and `soft_cap` 0 mean none.
    """
    return _attention(q, k, v, (float(q.shape[-1] ** -0.5 if scale is None else scale), bool(causal), int(window), float(soft_cap)))
