"""rms_norm, silu_mul and linear for JAX, through XLA's foreign function interface: inside jax.jit, on the stream XLA gives.

    import tinykernels.jax as tkj
    y = jax.jit(tkj.linear)(x, weight)      # bf16, on one NVIDIA Hopper GPU

The handlers (jax_ffi.cc beside this file) are compiled once with the headers of the installed jax; that needs a C++ compiler. They have no gradients.
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
    for name, symbol in (("tk_rms_norm", "TkRmsNorm"), ("tk_silu_mul", "TkSiluMul"), ("tk_linear", "TkLinear")):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(handlers, symbol)), platform="CUDA")
    return _native.handle(0)


def _call(name: str, shape: tuple[int, ...], *operands: jax.Array, **attributes) -> jax.Array:
    for operand in operands:
        if operand.dtype != jnp.bfloat16:
            raise TinyKernelsError(f"{name}: operands are bfloat16, not {operand.dtype}")
    handle = np.int64(_register())
    return jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(shape, jnp.bfloat16))(*operands, handle=handle, **attributes)


def rms_norm(x: jax.Array, weight: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """x / rms(x) · weight over the last dimension, a multiple of 8."""
    if weight.shape != x.shape[-1:]:
        raise TinyKernelsError(f"rms_norm: x {x.shape}, weight {weight.shape} do not belong together")
    return _call("tk_rms_norm", x.shape, x, weight, epsilon=np.float32(epsilon))


def silu_mul(gate_up: jax.Array) -> jax.Array:
    """silu(first half of the columns) · second half."""
    return _call("tk_silu_mul", (*gate_up.shape[:-1], gate_up.shape[-1] // 2), gate_up)


def linear(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x · weightᵀ: x [..., columns], weight [features, columns]."""
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        raise TinyKernelsError(f"linear: x {x.shape}, weight {weight.shape} do not belong together")
    return _call("tk_linear", (*x.shape[:-1], weight.shape[0]), x, weight)
