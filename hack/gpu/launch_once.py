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
    linear(rand(1, 4096))
    linear(rand(16, 4096))


def sample():
    rows = 64
    logits = torch.randn(rows, 128256, device=DEV)
    ones = torch.ones(rows, device=DEV)
    tk.sample(logits, ones, ones * 0.9, ones * 0, ones.int() * 0, torch.randint(0, 2**62, (rows,), device=DEV))


for part in sys.argv[1:]:
    globals()[part]()
torch.cuda.synchronize()
