"""One launch of each kernel at its benchmark shape, for Nsight Compute: ncu --clock-control none --set full -k regex:NAME python3 hack/gpu/launch_once.py PART..."""

import sys

import torch

import tinykernels as tk

DEV = "cuda:0"


def rand(*shape):
    return torch.randn(*shape, device=DEV).bfloat16()


def decode():
    sequences, length, page = 64, 4096, 16
    pages = sequences * length // page
    keys, values = rand(pages, 8, page, 128), rand(pages, 8, page, 128)
    table = torch.randperm(pages, device=DEV, dtype=torch.int32).view(sequences, -1)
    tk.paged_decode(rand(sequences, 32, 128), keys, values, table, torch.full((sequences,), length, dtype=torch.int32, device=DEV), 0.088)


def norm():
    x, r, w = rand(8192, 4096), rand(8192, 4096), rand(4096)
    tk.add_rms_norm(x, r, w, 1e-5)


def w4():
    nibbles = torch.randint(0, 16, (14336, 4096), dtype=torch.uint8)
    linear = tk.W4Linear(nibbles, torch.rand(14336, 32), torch.full((14336, 32), 8, dtype=torch.uint8), DEV)
    for rows in (1, 16, 64):
        linear(rand(rows, 4096))
    wide = tk.W8Linear(nibbles * 16, torch.rand(14336, 32), torch.full((14336, 32), 128, dtype=torch.int16), DEV)
    wide(rand(1, 4096))


def sparse():
    tk.SparseLinear(rand(8192, 8192), DEV, prune=True)(rand(8192, 8192))


def sample():
    rows = 64
    logits = torch.randn(rows, 128256, device=DEV)
    ones = torch.ones(rows, device=DEV)
    tk.sample(logits, ones, ones * 0.9, ones * 0, ones.int() * 0, torch.randint(0, 2**62, (rows,), device=DEV))


def linear():
    tk.linear(rand(8192, 8192), rand(8192, 8192))
    tk.linear(rand(1, 4096), rand(28672, 4096))


def fp8():
    x, w = rand(8192, 8192).to(torch.float8_e4m3fn), rand(8192, 8192).to(torch.float8_e4m3fn)
    tk.linear_scaled(x, w, torch.ones(8192, device=DEV), torch.ones(8192, device=DEV))


def attention():
    q, k, v = rand(8192, 32, 128), rand(8192, 8, 128), rand(8192, 8, 128)
    out, log_sum = tk.attention(q, k, v, [8192], [8192], 0.088)
    tk.attention_gradient(out, q, k, v, out, log_sum, [8192], [8192], 0.088)


def rows():
    x, w = rand(32768, 4096), rand(4096)
    tk.silu_mul(x)
    tk.layer_norm(x, w, w, 1e-5)
    tk.softmax(x)
    tk.gelu(x)
    logits, targets = rand(4096, 128256), torch.zeros(4096, device=DEV, dtype=torch.int32)
    loss, log_sum = tk._fused.cross_entropy_rows(logits, targets)
    tk._fused.cross_entropy_gradient(logits, targets, log_sum, loss)


def norm_gradients():
    x, w = rand(32768, 4096), rand(4096)
    tk.rms_norm_gradient(x, x, w, 1e-5)
    tk.layer_norm_gradient(x, x, w, 1e-5)


def primitives():
    n = 1 << 27
    x = torch.randint(0, 1 << 20, (n,), device=DEV, dtype=torch.int32)
    tk.scan(x)
    tk.histogram(x % 256, 256)
    tk.reduce(x.float())
    tk.transpose(rand(16384, 16384))
    tk.topk(torch.randn(64, 128256, device=DEV), 50)
    tk.Sorter(1 << 24, DEV)(x[: 1 << 24].clone().view(torch.uint32))


for part in sys.argv[1:]:
    globals()[part]()
torch.cuda.synchronize()
