"""The memory-bound kernels once more in Triton, as peers: what a day with a compiler for tiles gives."""

import torch
import triton
import triton.language as tl

VERSION = triton.__version__


@triton.jit
def _rms_norm(y, x, residual, w, hidden, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    v = tl.load(x + row * hidden + at, at < hidden, 0).to(tl.float32)
    if ADD:
        v = (v + tl.load(residual + row * hidden + at, at < hidden, 0).to(tl.float32)).to(tl.bfloat16)
        tl.store(residual + row * hidden + at, v, at < hidden)
        v = v.to(tl.float32)
    scale = tl.rsqrt(tl.sum(v * v) / hidden + eps)
    tl.store(y + row * hidden + at, (v * scale * tl.load(w + at, at < hidden, 0).to(tl.float32)).to(tl.bfloat16), at < hidden)


def add_rms_norm(x, residual, w, y, eps):
    n, hidden = x.shape
    _rms_norm[(n,)](y, x, residual, w, hidden, eps, True, triton.next_power_of_2(hidden), num_warps=8)


@triton.jit
def _layer_norm(y, x, w, b, hidden, eps, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    v = tl.load(x + row * hidden + at, at < hidden, 0).to(tl.float32)
    centred = tl.where(at < hidden, v - tl.sum(v) / hidden, 0)
    scale = tl.rsqrt(tl.sum(centred * centred) / hidden + eps)
    out = centred * scale * tl.load(w + at, at < hidden, 0).to(tl.float32) + tl.load(b + at, at < hidden, 0).to(tl.float32)
    tl.store(y + row * hidden + at, out.to(tl.bfloat16), at < hidden)


def layer_norm(x, w, b, y, eps):
    n, hidden = x.shape
    _layer_norm[(n,)](y, x, w, b, hidden, eps, triton.next_power_of_2(hidden), num_warps=8)


@triton.jit
def _gelu(y, x, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n, 0).to(tl.float32)
    tl.store(y + at, (0.5 * v * (1 + tl.erf(v * 0.7071067811865476))).to(tl.bfloat16), at < n)


def gelu(x, y):
    _gelu[(triton.cdiv(x.numel(), 4096),)](y, x, x.numel(), 4096, num_warps=8)


@triton.jit
def _silu_mul(y, x, inner, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(x + row * 2 * inner + at, at < inner, 0).to(tl.float32)
    up = tl.load(x + row * 2 * inner + inner + at, at < inner, 0).to(tl.float32)
    tl.store(y + row * inner + at, (gate * tl.sigmoid(gate) * up).to(tl.bfloat16), at < inner)


def silu_mul(x, y):
    n, inner = y.shape
    _silu_mul[(n, triton.cdiv(inner, 4096))](y, x, inner, 4096, num_warps=8)


@triton.jit
def _softmax(y, x, columns, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    v = tl.load(x + row * columns + at, at < columns, -float("inf")).to(tl.float32)
    e = tl.exp(v - tl.max(v))
    tl.store(y + row * columns + at, (e / tl.sum(e)).to(tl.bfloat16), at < columns)


def softmax(x, y):
    n, columns = x.shape
    _softmax[(n,)](y, x, columns, triton.next_power_of_2(columns), num_warps=8)


@triton.jit
def _cross_entropy(loss, log_sum, x, target, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    top, total = -float("inf"), 0.0
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.load(x + row * columns + at, at < columns, -float("inf")).to(tl.float32)
        most = tl.maximum(top, tl.max(v))
        total = total * tl.exp(top - most) + tl.sum(tl.exp(v - most))
        top = most
    lse = top + tl.log(total)
    tl.store(log_sum + row, lse)
    tl.store(loss + row, lse - tl.load(x + row * columns + tl.load(target + row)).to(tl.float32))


def cross_entropy(logits, targets, loss, log_sum):
    _cross_entropy[(logits.shape[0],)](loss, log_sum, logits, targets, logits.shape[1], 4096, num_warps=8)


@triton.jit
def _embedding(out, table, ids, hidden, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    tl.store(out + row * hidden + at, tl.load(table + tl.load(ids + row).to(tl.int64) * hidden + at, at < hidden, 0), at < hidden)


def embedding(out, table, ids):
    hidden = table.shape[1]
    _embedding[(ids.numel(),)](out, table, ids, hidden, triton.next_power_of_2(hidden), num_warps=4)


@triton.jit
def _norm_quantize(out, scales, x, residual, w, hidden, eps, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    v = tl.load(x + row * hidden + at, at < hidden, 0).to(tl.float32) + tl.load(residual + row * hidden + at, at < hidden, 0).to(tl.float32)
    v = v.to(tl.bfloat16)
    tl.store(residual + row * hidden + at, v, at < hidden)
    v = v.to(tl.float32)
    y = v * tl.rsqrt(tl.sum(v * v) / hidden + eps) * tl.load(w + at, at < hidden, 0).to(tl.float32)
    scale = tl.max(tl.abs(y)) / 448.0
    tl.store(scales + row, scale)
    tl.store(out + row * hidden + at, (y / scale).to(tl.float8e4nv), at < hidden)


def add_rms_norm_quantize(x, residual, w, out, scales, eps):
    n, hidden = x.shape
    _norm_quantize[(n,)](out, scales, x, residual, w, hidden, eps, triton.next_power_of_2(hidden), num_warps=8)


@triton.jit
def _gate_quantize(out, scales, x, inner, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    gate = tl.load(x + row * 2 * inner + at, at < inner, 0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * tl.load(x + row * 2 * inner + inner + at, at < inner, 0).to(tl.float32)
    scale = tl.max(tl.abs(y)) / 448.0
    tl.store(scales + row, scale)
    tl.store(out + row * inner + at, (y / scale).to(tl.float8e4nv), at < inner)


def silu_mul_quantize(x, out, scales):
    n, inner = out.shape
    _gate_quantize[(n,)](out, scales, x, inner, triton.next_power_of_2(inner), num_warps=16)


@triton.jit
def _softmax_gradient(dx, y, dy, columns, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    v = tl.load(y + row * columns + at, at < columns, 0).to(tl.float32)
    g = tl.load(dy + row * columns + at, at < columns, 0).to(tl.float32)
    tl.store(dx + row * columns + at, (v * (g - tl.sum(v * g))).to(tl.bfloat16), at < columns)


def softmax_gradient(y, dy, dx):
    n, columns = y.shape
    _softmax_gradient[(n,)](dx, y, dy, columns, triton.next_power_of_2(columns), num_warps=8)


@triton.jit
def _gelu_gradient(dx, x, dy, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v, g = tl.load(x + at, at < n, 0).to(tl.float32), tl.load(dy + at, at < n, 0).to(tl.float32)
    slope = 0.5 * (1 + tl.erf(v * 0.7071067811865476)) + v * 0.3989422804014327 * tl.exp(-0.5 * v * v)
    tl.store(dx + at, (g * slope).to(tl.bfloat16), at < n)


def gelu_gradient(x, dy, dx):
    _gelu_gradient[(triton.cdiv(x.numel(), 4096),)](dx, x, dy, x.numel(), 4096, num_warps=8)


@triton.jit
def _rope_cache(q, keys, values, qkv, rotary, positions, slots, q_weight, k_weight, heads, kv_heads, page_tokens, eps, NORM: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    row, at = tl.arange(0, ROWS)[:, None], tl.arange(0, HALF)[None]
    rows, dim = heads + 2 * kv_heads, 2 * HALF
    here = qkv + token * rows * dim + row * dim + at
    low, high = tl.load(here, row < rows, 0), tl.load(here + HALF, row < rows, 0)
    angles = rotary + tl.load(positions + token) * dim
    cosine, sine = tl.load(angles + at), tl.load(angles + HALF + at)
    a, b = low.to(tl.float32), high.to(tl.float32)
    if NORM:
        scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / dim + eps)[:, None]
        a *= scale * tl.where(row < heads, tl.load(q_weight + at), tl.load(k_weight + at)).to(tl.float32)
        b *= scale * tl.where(row < heads, tl.load(q_weight + HALF + at), tl.load(k_weight + HALF + at)).to(tl.float32)
    turned = (a * cosine - b * sine).to(tl.bfloat16), (b * cosine + a * sine).to(tl.bfloat16)
    to = q + token * heads * dim + row * dim + at
    tl.store(to, turned[0], row < heads)
    tl.store(to + HALF, turned[1], row < heads)
    slot = tl.load(slots + token).to(tl.int64)
    head, of_values = (row - heads) % kv_heads, row >= heads + kv_heads
    place = ((slot // page_tokens * kv_heads + head) * page_tokens + slot % page_tokens) * dim + at
    is_key = (row >= heads) & (row < heads + kv_heads)
    tl.store(keys + place, turned[0], is_key)
    tl.store(keys + place + HALF, turned[1], is_key)
    tl.store(values + place, low, of_values & (row < rows))
    tl.store(values + place + HALF, high, of_values & (row < rows))


def rope_cache(q, keys, values, qkv, rotary, positions, slots, query_weight=None, key_weight=None, eps=1e-6):
    tokens, heads, dim = q.shape
    kv_heads, page = keys.shape[1:3]
    normed = query_weight is not None
    weights = (query_weight, key_weight) if normed else (q, q)
    _rope_cache[(tokens,)](q, keys, values, qkv, rotary, positions, slots, *weights, heads, kv_heads, page, eps, normed, triton.next_power_of_2(heads + 2 * kv_heads), dim // 2, num_warps=8)
