"""Times every tile of the bf16 linear layer, and cuBLAS, for each shape and number of rows; prints what src/cuda/tuning.rs may take over.

    PYTHONPATH=kernels/python TINYKERNELS_NATIVE=… python3 kernels/benches/gpu/tune.py [FEATURESxCOLUMNS]...

Caches are flushed by reading before every call, tiles take turns, medians of 15. A row is worth a line in the table where the rule of waves
(`linear_tile`) picks a tile more than 3% slower than the best.
"""

import sys

import torch
import torch.nn.functional as F

import tinykernels as tk

ROWS = (1, 8, 16, 32, 64, 128, 256, 512)
FEW, MANY = (32, 40, 48, 56, 64), (32, 64, 96, 128, 160, 192, 224, 256)
SHAPES = [tuple(map(int, s.split("x"))) for s in sys.argv[1:]] or [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]
flush = torch.randn(64 << 20, device="cuda")


def medians(calls, rounds=15):
    events = [[] for _ in calls]
    for turn in range(rounds + 2):
        for call, log in zip(calls, events):
            flush.sum(), flush.sum()
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            call()
            b.record()
            if turn > 1:
                log.append((a, b))
    torch.cuda.synchronize()
    return [sorted(a.elapsed_time(b) * 1000 for a, b in log)[rounds // 2] for log in events]


for features, columns in SHAPES:
    w = torch.randn(features, columns, device="cuda").bfloat16()
    for rows in ROWS:
        x = torch.randn(rows, columns, device="cuda").bfloat16()
        y = torch.empty(rows, features, device="cuda", dtype=torch.bfloat16)
        device, stream = tk._at(x)
        native = tk._native.lib
        common = (device, stream, y.data_ptr(), x.data_ptr(), w.data_ptr(), rows, features, columns)
        calls = {"chosen": lambda: native.tk_linear_bf16(*common), "cuBLAS": lambda: F.linear(x, w)}
        calls |= {f"Few {t}": lambda t=t: native.tk_linear_bf16_tiled(*common, 1, t) for t in FEW if rows <= 64}
        calls |= {f"Many {t}": lambda t=t: native.tk_linear_bf16_tiled(*common, 0, t) for t in MANY if rows > 32}
        times = dict(zip(calls, medians(list(calls.values()))))
        best = sorted((us, name) for name, us in times.items() if name not in ("chosen", "cuBLAS"))
        print(f"{features}x{columns} rows {rows}: chosen {times['chosen']:.1f} µs, cuBLAS {times['cuBLAS']:.1f};", ", ".join(f"{n} {us:.1f}" for us, n in best[:4]), flush=True)
