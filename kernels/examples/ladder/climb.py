"""Compiles, checks and times the rungs of the ladders beside this file on a GPU, and reads the counter that explains each.

    python3 kernels/examples/ladder/climb.py            # a table; needs nvcc, torch, and ncu for the counters
    python3 kernels/examples/ladder/climb.py --once     # one launch of each rung, for Nsight Compute

The last row of a ladder is the library's own kernel, through the package `tinykernels`.
"""

import csv
import ctypes as c
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import tinykernels as tk

HERE, DEV = Path(__file__).parent, "cuda:0"
COUNTERS = {
    "reduce": ("dram__throughput.avg.pct_of_peak_sustained_elapsed", "smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio"),
    "transpose": ("l1tex__data_bank_conflicts_pipe_lsu.sum", "dram__throughput.avg.pct_of_peak_sustained_elapsed"),
    "histogram": ("dram__throughput.avg.pct_of_peak_sustained_elapsed", "l1tex__data_bank_conflicts_pipe_lsu.sum"),
    "matmul": ("sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed", "smsp__issue_active.avg.pct_of_peak_sustained_active"),
}
cuda = c.CDLL("libcuda.so.1")


def done(status):
    if status:
        raise RuntimeError(f"CUDA status {status}")


def module(name, folder):
    cubin = Path(folder) / f"{name}.cubin"
    subprocess.run(["nvcc", "-cubin", "-gencode=arch=compute_90a,code=sm_90a", "-O3", "-std=c++17", "-o", cubin, HERE / f"{name}.cu"], check=True)
    loaded = c.c_void_p()
    done(cuda.cuModuleLoadData(c.byref(loaded), cubin.read_bytes()))
    return loaded


def rung(loaded, name, grid, block, shared, *arguments):
    function = c.c_void_p()
    done(cuda.cuModuleGetFunction(c.byref(function), loaded, name.encode()))
    if shared > 48 << 10:
        done(cuda.cuFuncSetAttribute(function, 8, shared))
    values = [c.c_uint64(a.data_ptr()) if isinstance(a, torch.Tensor) else c.c_int(a) for a in arguments]
    pointers = (c.c_void_p * len(values))(*(c.cast(c.pointer(v), c.c_void_p) for v in values))
    return lambda: done(cuda.cuLaunchKernel(function, *grid, *block, shared, c.c_void_p(torch.cuda.current_stream().cuda_stream), pointers, None)) or values and None


def ladders(folder):
    """(ladder, rung, call, what readies it, check, work, unit)."""
    n = 1 << 27
    x, out = torch.randn(n, device=DEV), torch.zeros(1, device=DEV)
    near = lambda: abs(float(out) - float(x.double().sum())) < 1e-5 * float(x.double().abs().sum())
    loaded = module("reduce", folder)
    for name, grid in (("rung1_one_atomic_a_number", n // 256), ("rung2_tree_in_shared_memory", n // 256), ("rung3_sixteen_numbers_a_thread", n // 4096), ("rung4_four_wide_loads_in_flight", n // 4096)):
        yield "reduce", name, rung(loaded, name, (grid, 1, 1), (256, 1, 1), 0, out, x, n), out.zero_, near, 4 * n / 1e3, "GB/s"
    handle, stream = tk._at(x)
    scratch = tk._primitives._scratch_for(x)
    yield "reduce", "reduce_sum", lambda: tk._native.lib.tk_reduce(handle, stream, out.data_ptr(), x.data_ptr(), n, 0, scratch), out.zero_, near, 4 * n / 1e3, "GB/s"
    side = 8192
    a = torch.randn(side, side, device=DEV)
    b = torch.empty_like(a)
    loaded = module("transpose", folder)
    tiles = ("rung1_read_rows_write_columns", (side // 32, side // 8, 1), (32, 8, 1)), ("rung2_tile_in_shared_memory", (side // 32, side // 32, 1), (32, 8, 1)), ("rung3_padded_tile", (side // 32, side // 32, 1), (32, 8, 1)), ("rung4_sixteen_loads_in_flight", (side // 64, side // 64, 1), (64, 4, 1))
    for name, grid, block in tiles:
        yield "transpose", name, rung(loaded, name, grid, block, 0, b, a, side), b.zero_, lambda: torch.equal(b, a.T), 8 * side * side / 1e3, "GB/s"
    yield "transpose", "transpose_32", lambda: tk._native.lib.tk_transpose(handle, stream, b.data_ptr(), a.data_ptr(), side, side, 1), b.zero_, lambda: torch.equal(b, a.T), 8 * side * side / 1e3, "GB/s"
    n8 = 1 << 28
    codes, counts = torch.randint(0, 256, (n8,), device=DEV, dtype=torch.uint8), torch.zeros(256, device=DEV, dtype=torch.int32)
    want = torch.bincount(codes.int(), minlength=256)
    loaded = module("histogram", folder)
    for name, each in (("rung1_atomics_in_device_memory", 256), ("rung2_counts_in_shared_memory", 16384), ("rung3_wide_loads", 16384), ("rung4_counts_of_each_warp", 65536)):
        yield "histogram", name, rung(loaded, name, (n8 // each, 1, 1), (256, 1, 1), 0, counts, codes, n8), counts.zero_, lambda: torch.equal(counts.long(), want), n8 / 1e3, "GB/s"
    m = 4096
    x16, w = torch.randn(m, m, device=DEV).bfloat16(), torch.randn(m, m, device=DEV).bfloat16()
    y = torch.empty_like(x16)
    product = x16.double() @ w.double().T
    close = lambda: float((y.double() - product).norm() / product.norm()) < 4e-3
    loaded = module("matmul", folder)
    for name, grid, shared in (("rung1_a_thread_a_sum", m // 16, 0), ("rung2_eight_by_eight_sums_a_thread", m // 128, 0), ("rung3_tensor_cores", m // 128, 20480), ("rung4_tensor_cores_four_stages", m // 128, 81920)):
        yield "matmul", name, rung(loaded, name, (grid, grid, 1), (256, 1, 1), shared, y, x16, w, m, m), y.zero_, close, 2 * m**3 / 1e6, "TFLOP/s"
    yield "matmul", "linear_bf16", lambda: tk._native.lib.tk_linear_bf16(handle, stream, y.data_ptr(), x16.data_ptr(), w.data_ptr(), m, m, m), y.zero_, close, 2 * m**3 / 1e6, "TFLOP/s"


def timed(call, ready, rounds=15):
    took = []
    for turn in range(rounds + 1):
        ready()
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        call()
        b.record()
        torch.cuda.synchronize()
        if turn:
            took.append(a.elapsed_time(b) * 1e3)
    return sorted(took)[rounds // 2]


def counters():
    """{kernel's name as far as its digits: its counters}."""
    wanted = sorted({m for pair in COUNTERS.values() for m in pair})
    command = ["ncu", "--clock-control", "none", "--csv", "--page", "raw", "--metrics", ",".join(wanted), "-k", "regex:^(rung|reduce_sum|transpose_32|linear_bf16)", sys.executable, __file__, "--once"]
    out = subprocess.run(command, capture_output=True, text=True).stdout
    lines = [line for line in out.splitlines() if line.startswith('"')]
    return {re.sub(r"_(64|96|128|160|192|224|256)$", "", r["Kernel Name"]): r for r in csv.DictReader(io.StringIO("\n".join(lines)))} if lines else {}


with tempfile.TemporaryDirectory() as folder:
    torch.zeros(1, device=DEV)
    once = "--once" in sys.argv
    seen = {} if once else counters()
    last = first = None
    for ladder, name, call, ready, good, work, unit in ladders(folder):
        ready()
        call()
        torch.cuda.synchronize()
        if once:
            continue
        right = good()
        us = timed(call, ready)
        first, last = (us, None) if ladder != (last and last[0]) else (first, last)
        read = ", ".join(f"{m.split('.')[0]} {float(seen[name][m].replace(',', '')):.4g}" for m in COUNTERS[ladder]) if name in seen else "no counters"
        gain = f"{last[1] / us:.2f} times the rung below" if last else "–"
        print(f"{ladder} | {name} | {'right' if right else 'WRONG'} | {us:.1f} µs | {work / us:.1f} {unit} | {gain} | {read}", flush=True)
        last = (ladder, us)
