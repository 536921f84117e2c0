#!/usr/bin/env python3
"""A training step of a small Llama layer with its loss, of TinyKernels' drop-ins and of torch's own functions: both beside float64, and their times.

    python3 kernels/examples/pytorch_layer.py        # on a machine with a Hopper GPU
"""

import sys

import torch
import torch.nn.functional

import tinykernels.functional

TOKENS, HIDDEN, HEADS, KV_HEADS, INNER, VOCABULARY = 4096, 2048, 16, 4, 8192, 32000
DIM = HIDDEN // HEADS


def loss(F, x, targets, norm, qkv, out, norm2, up, down, head):
    """F is torch.nn.functional or a drop-in for it."""
    h = F.rms_norm(x, (HIDDEN,), norm, 1e-5)
    q, k, v = F.linear(h, qkv).view(1, TOKENS, -1, DIM).transpose(1, 2).split([HEADS, KV_HEADS, KV_HEADS], 1)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    x = x + F.linear(attended.transpose(1, 2).reshape(TOKENS, HIDDEN), out)
    h = F.rms_norm(x, (HIDDEN,), norm2, 1e-5)
    x = x + F.linear(torch.relu(F.linear(h, up)), down)
    logits = F.linear(x, head)
    return F.cross_entropy(logits, targets)


def main():
    torch.manual_seed(0)
    draw = lambda *shape, scale: (torch.randn(*shape, device="cuda") * scale).bfloat16().requires_grad_()
    x = draw(TOKENS, HIDDEN, scale=1.0)
    weights = [draw(HIDDEN, scale=1.0), draw(HIDDEN + 2 * KV_HEADS * DIM, HIDDEN, scale=0.03), draw(HIDDEN, HIDDEN, scale=0.03), draw(HIDDEN, scale=1.0),
               draw(INNER, HIDDEN, scale=0.03), draw(HIDDEN, INNER, scale=0.02), draw(VOCABULARY, HIDDEN, scale=0.03)]
    targets = torch.randint(0, VOCABULARY, (TOKENS,), device="cuda")
    exact = [t.detach().double().requires_grad_() for t in (x, *weights)]
    want = loss(torch.nn.functional, exact[0], targets, *exact[1:])
    want_gradients = torch.autograd.grad(want, exact)
    worst = {}
    for name, F, labels in (("tinykernels", tinykernels.functional, targets.int()), ("torch", torch.nn.functional, targets)):
        got = loss(F, x, labels, *weights)
        gradients = torch.autograd.grad(got, (x, *weights))
        worst[name] = max(float((g.double() - w).norm() / w.norm()) for g, w in zip(gradients, want_gradients))
        times = []
        for _ in range(20):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            torch.autograd.grad(loss(F, x, labels, *weights), (x, *weights))
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        print(f"{name}: loss {got.item():.4f} (float64 {want.item():.4f}), gradients within {worst[name]:.1e} of float64, {sorted(times)[10]:.2f} ms a step")
    return 0 if worst["tinykernels"] < 1.5 * worst["torch"] else 1


sys.exit(main())
