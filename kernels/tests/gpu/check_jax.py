"""The operators for JAX against float64, under jit. A process of its own: JAX and torch each want the GPU's memory."""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

import tinykernels.jax as tkj
from tinykernels import TinyKernelsError

seed = int.from_bytes(os.urandom(4), "little")
random = np.random.default_rng(seed)
failed = []


def expect(name, good, detail=""):
    print(("ok   " if good else "FAIL ") + name, detail, flush=True)
    if not good:
        failed.append(name)


def rand(*shape):
    return jnp.asarray(random.standard_normal(shape), dtype=jnp.bfloat16)


def error(got, want):
    got = np.asarray(got, dtype=np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want)) if np.isfinite(got).all() else np.inf


wide = lambda a: np.asarray(a, dtype=np.float64)
print(jax.devices()[0], "seed", seed)
worst = 0.0
for rows, features, columns in [(1, 64, 512), (5, 1000, 200), (130, 264, 72), (300, 4096, 1024)]:
    x, w, norm, gate = rand(rows, columns), rand(features, columns), rand(columns), rand(rows, 2 * columns)
    worst = max(worst, error(jax.jit(tkj.linear)(x, w), wide(x) @ wide(w).T))
    scale = np.sqrt((wide(x) ** 2).mean(-1, keepdims=True) + 1e-6)
    worst = max(worst, error(jax.jit(tkj.rms_norm)(x, norm), wide(x) / scale * wide(norm)))
    a, b = np.split(wide(gate), 2, -1)
    worst = max(worst, error(jax.jit(tkj.silu_mul)(gate), a / (1 + np.exp(-a)) * b))
expect("jax: linear, rms_norm and silu_mul under jit, 4 shapes against float64", worst < 5e-3, f"worst {worst:.2e}")


@jax.jit
def mlp(x, norm, up, down):
    return x + tkj.linear(tkj.silu_mul(tkj.linear(tkj.rms_norm(x, norm), up)), down)


x, norm, up, down = rand(33, 256), rand(256), rand(1024, 256) * 0.06, rand(256, 512) * 0.06
h = wide(x) / np.sqrt((wide(x) ** 2).mean(-1, keepdims=True) + 1e-6) * wide(norm) @ wide(up).T
a, b = np.split(h, 2, -1)
got = error(mlp(x, norm, up, down), wide(x) + (a / (1 + np.exp(-a)) * b) @ wide(down).T)
expect("jax: an MLP of them in one jit", got < 1e-2, f"{got:.2e}")
for name, call, word in (("12 columns", lambda: tkj.rms_norm(rand(2, 12), rand(12)), "multiple of 8"), ("f32", lambda: tkj.silu_mul(x.astype(jnp.float32)), "bfloat16")):
    try:
        jax.block_until_ready(call())
        expect(f"jax refuses {name}", False, "accepted")
    except (TinyKernelsError, jax.errors.JaxRuntimeError, ValueError) as e:
        expect(f"jax refuses {name}", word in str(e), str(e)[:160].replace("\n", " "))
print("failed:", failed)
raise SystemExit(bool(failed))
