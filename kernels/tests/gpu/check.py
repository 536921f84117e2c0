"""Correctness of every kernel on a GPU: fresh random inputs, float64 references, poisoned memory, odd shapes, batch invariance.

Prints one line a check and exits 1 when any failed. Run through hack/gpu/device.sh; arguments name parts (norm, silu, decode, sample, w4, linear, sort).
"""

import math
import sys

import torch

import tinykernels as tk

DEV = "cuda:0"
SEED = int.from_bytes(__import__("os").urandom(4), "little")
torch.manual_seed(SEED)
failures = []


def expect(name, good, detail=""):
    print(("ok   " if good else "FAIL ") + name + (f"  {detail}" if detail else ""), flush=True)
    if not good:
        failures.append(name)


def error(got, want):
    """Relative Frobenius error; infinite where an element was not written or is not finite."""
    got = got.double()
    if not bool(torch.isfinite(got).all()):
        return math.inf
    return float((got - want).norm() / want.norm().clamp_min(1e-30))


def refuses(name, call, *words):
    try:
        call()
    except tk.TinyKernelsError as e:
        expect(name, all(w in str(e) for w in words), str(e)[:160])
    else:
        expect(name, False, "accepted")


def rand(*shape, dtype=torch.bfloat16, scale=1.0):
    return (torch.randn(*shape, device=DEV) * scale).to(dtype)


def check_norm():
    worst = 0.0
    for rows, hidden in [(1, 4096), (7, 4096), (3, 8), (5, 576), (2, 32768), (4, 16384), (33, 2056), (129, 12288), (1, 2048), (0, 64)]:
        x, r, w = rand(rows, hidden), rand(rows, hidden, scale=3), rand(hidden)
        want_r = (x + r)
        want = want_r.double() * torch.rsqrt(want_r.double().pow(2).mean(-1, keepdim=True) + 1e-5) * w.double()
        got_r = r.clone()
        y = tk.add_rms_norm(x, got_r, w, 1e-5)
        if rows == 0:
            continue
        worst = max(worst, error(y, want), math.inf if not torch.equal(got_r, want_r) else 0.0)
        plain = tk.rms_norm(x, w, 1e-5)
        worst = max(worst, error(plain, x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + 1e-5) * w.double()))
        in_place, in_place_r = x.clone(), r.clone()
        tk._native.check(tk._native.lib.tk_add_rms_norm_in_place(*tk._at(x), in_place.data_ptr(), in_place_r.data_ptr(), w.data_ptr(), rows, hidden, 1e-5))
        if not (torch.equal(in_place, y) and torch.equal(in_place_r, got_r)):
            worst = math.inf
        alone_r = r[-1:].clone()
        alone = tk.add_rms_norm(x[-1:].contiguous(), alone_r, w, 1e-5)
        if not torch.equal(alone[0], y[-1]):
            worst = math.inf
    expect("add_rms_norm, rms_norm: 10 shapes against float64, last row bitwise the same alone", worst < 3e-3, f"worst {worst:.2e}")
    x = rand(2, 64)
    x[1, 3] = math.nan
    y = tk.rms_norm(x, torch.ones(64, device=DEV, dtype=torch.bfloat16), 1e-5)
    expect("rms_norm: a NaN stays in its row", bool(torch.isfinite(y[0]).all()) and bool(torch.isnan(y[1]).all()))
    refuses("rms_norm refuses 12 columns", lambda: tk.rms_norm(rand(2, 12), rand(12), 1e-5), "[2, 12]", "multiple of 8")
    buffer = rand(2 * 64 + 8)
    refuses("rms_norm refuses a misaligned row", lambda: tk.rms_norm(buffer[1:129].view(2, 64), rand(64), 1e-5), "16 bytes")
    same, other, ones = rand(4, 64), rand(4, 64), rand(64)
    refuses("add_rms_norm refuses x as its own residual", lambda: tk._native.check(tk._native.lib.tk_add_rms_norm(*tk._at(same), other.data_ptr(), same.data_ptr(), same.data_ptr(), ones.data_ptr(), 4, 64, 1e-5)), "residual overlaps x")


def check_silu():
    worst = 0.0
    for rows, inner in [(1, 8), (3, 1000), (300, 14336), (1025, 2056), (255, 4096), (1, 28672), (4097, 136)]:
        g = rand(rows, 2 * inner, scale=4)
        a, b = g[:, :inner].double(), g[:, inner:].double()
        worst = max(worst, error(tk.silu_mul(g), a * torch.sigmoid(a) * b))
    expect("silu_mul: 7 shapes against float64", worst < 4e-3, f"worst {worst:.2e}")
    g = torch.tensor([[-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30, math.nan] + [1.0] * 8], device=DEV, dtype=torch.bfloat16)
    y = tk.silu_mul(g)[0].float()
    refuses("silu_mul refuses 17 columns", lambda: tk.silu_mul(rand(4, 17)), "(4, 17)", "odd")
    expect("silu_mul: extremes", bool(torch.isfinite(y[:7]).all()) and bool(torch.isnan(y[7])) and float(y[4]) == 90.0, str(y.tolist()))


def check_linear():
    worst, same = 0.0, True
    lib = tk._native.lib
    for rows, features, columns in [(128, 256, 64), (1, 256, 64), (130, 264, 72), (1, 8, 8), (77, 1000, 4096), (1024, 4096, 4096), (513, 768, 200), (2049, 6144, 4096), (300, 4096, 14336),
                                    (5, 264, 136), (9, 6144, 4096), (16, 28672, 1024), (33, 1000, 200), (64, 4096, 14336), (65, 4096, 4096), (100, 28672, 4096)]:
        x, w = rand(rows, columns), rand(features, columns)
        device, stream = tk._at(x)

        def into(y, x, call=lib.tk_linear_bf16, *tile):
            y.fill_(math.nan)
            tk._native.check(call(device, stream, y.data_ptr(), x.data_ptr(), w.data_ptr(), x.shape[0], features, columns, *tile))
            return y

        y = into(torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), x)
        worst = max(worst, error(y, x.double() @ w.double().T))
        for fewer in {1, rows // 9 + 1, rows // 2 + 1}:
            same = same and torch.equal(tk.linear(x[:fewer].contiguous(), w), y[:fewer])
        other = torch.empty_like(y)
        for tile in (32, 64, 96, 128, 160, 192, 224, 256):
            same = same and torch.equal(into(other, x, lib.tk_linear_bf16_tiled, 0, tile), y)
        for few in (8, 16, 32, 64):
            part = x[: min(rows, few)].contiguous()
            for tile in (8, 32, 56, 64):
                same = same and torch.equal(into(torch.empty(part.shape[0], features, device=DEV, dtype=torch.bfloat16), part, lib.tk_linear_bf16_tiled, 1, tile), y[: part.shape[0]])
    expect("linear: 16 shapes against float64; rows bitwise the same in every batch and by every tile", worst < 4e-3 and same, f"worst {worst:.2e}")
    library = tk._native.made(lib.tk_cublaslt_open(tk._at(x)[0]))
    worst = 0.0
    for rows, features, columns in [(1, 4096, 14336), (100, 264, 72), (128, 4096, 4096), (1024, 6144, 4096)]:
        x, w = rand(rows, columns), rand(features, columns)
        for fastest in (0, 1):
            y = torch.full((rows, features), math.nan, device=DEV, dtype=torch.bfloat16)
            tk._native.check(lib.tk_linear_bf16_by(*tk._at(x), y.data_ptr(), x.data_ptr(), w.data_ptr(), rows, features, columns, library, fastest))
            worst = max(worst, error(y, x.double() @ w.double().T))
    expect("linear by cuBLASLt, and by the faster of the two: 4 shapes against float64", worst < 3e-3, f"worst {worst:.2e}")
    rows, features, columns = 130, 28672, 4096
    x, w = rand(rows, columns), rand(features, columns)
    refuses("linear refuses no columns", lambda: tk.linear(rand(2, 0), rand(8, 0)), "columns not zero")
    refuses("linear refuses 12 columns", lambda: tk.linear(rand(2, 12), rand(8, 12)), "multiples of 8")
    refuses("linear refuses a tile that no kernel has", lambda: into(torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), x, lib.tk_linear_bf16_tiled, 0, 48), "Many { features: 48 }")
    refuses("linear refuses 130 rows in the kernel for few", lambda: into(torch.empty(rows, features, device=DEV, dtype=torch.bfloat16), x, lib.tk_linear_bf16_tiled, 1, 64), "at most 64 rows")


def check_sort():
    good = True
    for n in (0, 1, 2, 5, 255, 6144, 8193, 100003, (1 << 22) + 3):
        sorter = tk.Sorter(max(n, 1) + 17, DEV, pairs=True)
        for kind in ("random", "three values", "sorted", "reversed", "one value"):
            keys = torch.randint(-(2**31), 2**31 - 1, (n,), device=DEV, dtype=torch.int32)
            keys = {"random": keys, "three values": keys % 3, "sorted": keys.sort()[0], "reversed": keys.sort(descending=True)[0], "one value": keys * 0 - 1}[kind].contiguous()
            want, order = torch.sort(keys.long() & 0xFFFFFFFF, stable=True)
            alone, paired, values = keys.clone(), keys.clone(), torch.arange(n, device=DEV, dtype=torch.int32)
            sorter(alone.view(torch.uint32))
            sorter(paired.view(torch.uint32), values.view(torch.uint32))
            good = good and torch.equal(alone.long() & 0xFFFFFFFF, want) and torch.equal(alone, paired) and torch.equal(values.long(), order)
    expect("sort: 9 sizes, 5 orders, keys alone and stable pairs", good)
    refuses("sort refuses more keys than the workspace holds", lambda: tk.Sorter(100, DEV)(torch.zeros(101, device=DEV, dtype=torch.int32).view(torch.uint32)), "101 keys", "workspace for 100")


if __name__ == "__main__":
    print(torch.cuda.get_device_name(), "seed", SEED, flush=True)
    sys.modules["check"] = sys.modules["__main__"]  # the further parts take their tools, and note their failures, here
    import check_attention
    import check_fused
    import check_gradients
    import check_linear8
    import check_norm_gradient
    import check_operators
    import check_packed
    import check_primitives
    import check_sampling

    parts = (check_norm, check_silu, check_linear, check_sort)
    for further in (check_attention, check_sampling, check_packed, check_linear8, check_fused, check_gradients, check_norm_gradient, check_primitives, check_operators):
        parts += further.PARTS
    for part in parts:
        if sys.argv[1:] and part.__name__.removeprefix("check_") not in sys.argv[1:]:
            continue
        try:
            part()
        except Exception as e:  # noqa: BLE001 - the other parts still run
            expect(part.__name__, False, repr(e)[:400])
        torch.cuda.synchronize()
    print("failed:", failures)
    sys.exit(bool(failures))
