"""Rows of bench.py: reduce, scan, histogram, transposition and top-k beside CUB (through CuPy) and torch."""

import torch

import tinykernels as tk
from bench import DEV, compare, rand, rotating, same_size_copy, steady

TORCH = f"torch {torch.__version__}"


def primitives():
    import cupy

    cub = f"CUB (cupy {cupy.__version__})"
    cupy._core.set_routine_accelerators(["cub"])
    cupy._core.set_reduction_accelerators(["cub"])

    def on_stream(function):
        def call(*arrays):
            with cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
                return function(*arrays)
        return call

    lib, n = tk._native.lib, 1 << 28
    x = torch.randn(n, device=DEV)
    out = torch.empty(1, device=DEV)
    handle, stream = tk._at(x)
    scratch = tk._primitives._scratch_for(x)
    theirs = cupy.asarray(x)
    compare("primitives", f"sum of {n} f32", lambda: lib.tk_reduce(handle, stream, out.data_ptr(), x.data_ptr(), n, 0, scratch),
            [(cub, lambda: on_stream(lambda: theirs.sum())()), (TORCH, lambda: x.sum())], bytes_=4 * n, measure=steady)
    del theirs
    n = 1 << 27
    keys, sums = torch.randint(0, 1 << 20, (n,), device=DEV, dtype=torch.int32), torch.empty(n, device=DEV, dtype=torch.int32)
    theirs = cupy.asarray(keys)
    compare("primitives", f"running sums of {n} u32", lambda: lib.tk_scan(handle, stream, sums.data_ptr(), keys.data_ptr(), n, 0, scratch),
            [(cub, lambda: on_stream(lambda: cupy.cumsum(theirs, dtype=cupy.int32))()), (TORCH, lambda: torch.cumsum(keys, 0, dtype=torch.int32)), ("copy of as many bytes", same_size_copy(8 * n))],
            bytes_=8 * n, measure=steady)
    for bins in (256, 4096):
        few = keys % bins
        theirs = cupy.asarray(few)
        counts = torch.empty(bins, device=DEV, dtype=torch.int32)
        compare("primitives", f"histogram of {n} u32, {bins} bins", lambda: lib.tk_histogram(handle, stream, counts.data_ptr(), bins, few.data_ptr(), n),
                [(TORCH, lambda: torch.histc(few, bins, 0, bins - 1)), (f"cupy {cupy.__version__}", lambda: on_stream(lambda: cupy.bincount(theirs, minlength=bins))())], bytes_=4 * n, measure=steady)
    for dtype, name, side in ((torch.bfloat16, "2", 16384), (torch.float32, "4", 8192)):
        sets = [(rand(side, side, dtype=dtype), rand(side, side, dtype=dtype)) for _ in range(2)]
        bytes_ = 2 * side * side * dtype.itemsize
        ours = rotating(lambda a, b: lib.tk_transpose(handle, stream, b.data_ptr(), a.data_ptr(), side, side, int(dtype == torch.float32)), *sets)
        compare("primitives", f"transposition of {side} x {side}, {name} bytes", ours, [(TORCH, rotating(lambda a, b: b.copy_(a.T), *sets)), ("copy of as many bytes", same_size_copy(bytes_))], bytes_=bytes_, measure=steady)
    for rows, columns, k in [(64, 128256, 50), (256, 32000, 8)]:
        x = torch.randn(rows, columns, device=DEV)
        values, places = torch.empty(rows, k, device=DEV), torch.empty(rows, k, device=DEV, dtype=torch.int32)
        compare("primitives", f"top {k} of {rows} x {columns} f32", lambda: lib.tk_top_k(handle, stream, values.data_ptr(), places.data_ptr(), x.data_ptr(), rows, columns, k), [(TORCH, lambda: torch.topk(x, k))])


PARTS = (primitives,)
