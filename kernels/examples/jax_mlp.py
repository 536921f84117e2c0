#!/usr/bin/env python3
"""An MLP of TinyKernels' operators in one jax.jit, beside the same of jax.numpy and beside float64.

    python3 kernels/examples/jax_mlp.py        # on a machine with a Hopper GPU and a C++ compiler
"""

import os
import sys
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import tinykernels.jax as tkj  # noqa: E402

TOKENS, HIDDEN, INNER = 512, 1024, 4096


@jax.jit
def ours(x, norm, up, down):
    return x + tkj.linear(tkj.silu_mul(tkj.linear(tkj.rms_norm(x, norm, 1e-5), up)), down)


def plain(x, norm, up, down, at=jnp):
    h = x / at.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * norm @ up.T
    gate, other = at.split(h, 2, -1)
    return x + (gate / (1 + at.exp(-gate)) * other) @ down.T


def main():
    random = np.random.default_rng(0)
    draw = lambda *shape, scale=1.0: jnp.asarray(random.standard_normal(shape) * scale, dtype=jnp.bfloat16)
    operands = draw(TOKENS, HIDDEN), draw(HIDDEN), draw(2 * INNER, HIDDEN, scale=0.03), draw(HIDDEN, INNER, scale=0.02)
    want = plain(*(np.asarray(a, dtype=np.float64) for a in operands), at=np)
    errors = []
    for name, call in (("tinykernels", ours), ("jax.numpy", jax.jit(plain))):
        got = np.asarray(jax.block_until_ready(call(*operands)), dtype=np.float64)
        errors.append(float(np.linalg.norm(got - want) / np.linalg.norm(want)))
        begin = time.perf_counter()
        for _ in range(100):
            y = call(*operands)
        jax.block_until_ready(y)
        print(f"{name}: within {errors[-1]:.1e} of float64, {(time.perf_counter() - begin) * 1e4:.0f} us a call")
    return 0 if errors[0] < 1.5 * errors[1] else 1


sys.exit(main())
