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
worst = {}
for rows, columns in [(3, 64), (130, 1000), (7, 4096)]:
    x, w, b = rand(rows, columns), rand(columns), rand(columns)
    v = wide(x) - wide(x).mean(-1, keepdims=True)
    worst["layer_norm"] = max(worst.get("layer_norm", 0), error(jax.jit(tkj.layer_norm)(x, w, b), v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-5) * wide(w) + wide(b)))
    ids = jnp.asarray(random.integers(0, rows, (5, 2)), dtype=jnp.int32)
    worst["embedding"] = max(worst.get("embedding", 0), error(jax.jit(tkj.embedding)(x, ids), wide(x)[np.asarray(ids)]))
expect("jax: layer_norm and embedding under jit against float64", worst["layer_norm"] < 5e-3 and worst["embedding"] == 0, str(worst))

# Values and gradients: of jax.nn's own in float32 on the same numbers.
f32 = lambda *arrays: [a.astype(jnp.float32) for a in arrays]
for name, ours, theirs, shapes in (
    ("gelu", tkj.gelu, lambda x: jax.nn.gelu(x, approximate=False), [(33, 264)]),
    ("gelu in its tanh form", lambda x: tkj.gelu(x, True), jax.nn.gelu, [(33, 264)]),
    ("softmax", tkj.softmax, jax.nn.softmax, [(33, 264)]),
    ("log softmax", lambda x: tkj.softmax(x, 0.5, True), lambda x: jax.nn.log_softmax(0.5 * x), [(33, 264)]),
    ("linear", tkj.linear, lambda x, w: x @ w.T, [(3, 11, 72), (264, 72)]),
    ("attention", tkj.attention, lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True), [(2, 130, 4, 64), (2, 130, 2, 64), (2, 130, 2, 64)]),
    ("attention, not causal, d 128", lambda q, k, v: tkj.attention(q, k, v, 0.1, False), lambda q, k, v: jax.nn.dot_product_attention(q, k, v, scale=0.1), [(1, 65, 4, 128), (1, 200, 4, 128), (1, 200, 4, 128)]),
    ("attention in a window of 40", lambda q, k, v: tkj.attention(q, k, v, window=40), lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(39, 0)), [(2, 150, 4, 64)] * 3),
):
    inputs = [rand(*shape) for shape in shapes]
    with jax.default_matmul_precision("highest"):
        want, back = jax.vjp(theirs, *f32(*inputs))
        passed = rand(*want.shape)
        wanted = back(passed.astype(jnp.float32))
    got = jax.jit(ours)(*inputs)
    gradients = jax.jit(lambda passed, *inputs: jax.vjp(ours, *inputs)[1](passed))(passed, *inputs)
    far = [error(g, wide(w)) for g, w in zip((got, *gradients), (want, *wanted))]
    expect(f"jax: {name} and its gradients under jit beside jax.nn in float32", max(far) < 1.2e-2, " ".join(f"{e:.1e}" for e in far))
for name, call, word in (("17 columns", lambda: tkj.silu_mul(rand(4, 17)), "odd"), ("12 columns", lambda: tkj.rms_norm(rand(2, 12), rand(12)), "multiple of 8"), ("f32", lambda: tkj.silu_mul(x.astype(jnp.float32)), "bfloat16")):
    try:
        jax.block_until_ready(call())
        expect(f"jax refuses {name}", False, "accepted")
    except (TinyKernelsError, jax.errors.JaxRuntimeError, ValueError) as e:
        expect(f"jax refuses {name}", word in str(e), str(e)[:160].replace("\n", " "))
print("failed:", failed)
raise SystemExit(bool(failed))
