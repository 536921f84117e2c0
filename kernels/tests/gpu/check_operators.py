"""What torch asks of an operator: torch.library.opcheck of each (schema, fake tensors, autograd, tracing with dynamic shapes), and torch's gradcheck: parts of
check.py."""

import torch
import torch.nn.functional as F

import tinykernels as tk
from check import DEV, expect, rand
from check_gradients import reference
from tinykernels import _fused, functional

BF16, INT8 = torch.bfloat16, torch.int8


def leaf(*shape):
    return rand(*shape).requires_grad_()


def calls():
    """Every operator of the package with arguments of small shapes."""
    ids, positions = (torch.randint(0, 9, (n,), device=DEV, dtype=torch.int32) for n in (5, 6))
    keys, values, table = rand(4, 2, 16, 64), rand(4, 2, 16, 64), torch.randperm(4, device=DEV).int().view(2, 2)
    lengths = torch.tensor([20, 31], device=DEV, dtype=torch.int32)
    q, k = rand(24, 4, 64), rand(24, 2, 64)
    parts = [10, 14]
    out, log_sum = tk.attention(q, k, k, parts, parts, 0.1)
    bytes_ = lambda *shape: torch.randint(-127, 128, shape, device=DEV, dtype=INT8)
    logits, targets = leaf(3, 64), torch.randint(0, 64, (3,), device=DEV, dtype=torch.int32)
    yield "add_rms_norm", (rand(3, 64), rand(3, 64), rand(64), 1e-5)
    yield "rms_norm", (leaf(3, 64), leaf(64), 1e-5)
    yield "rms_norm_gradient", (rand(3, 64), rand(3, 64), rand(64), 1e-5)
    yield "layer_norm", (leaf(3, 64), leaf(64), leaf(64), 1e-5)
    yield "layer_norm_gradient", (rand(3, 64), rand(3, 64), rand(64), 1e-5, rand(3, 64))
    yield "add_layer_norm", (rand(3, 64), rand(3, 64), rand(64), None, 1e-5)
    yield "silu_mul", (rand(3, 64),)
    yield "gelu", (leaf(3, 64), "tanh")
    yield "gelu_gradient", (rand(3, 64), rand(3, 64), "none")
    yield "softmax", (leaf(3, 64), 0.5, True)
    yield "softmax_gradient", (rand(3, 64), tk.softmax(rand(3, 64)), 1.0, False)
    yield "embedding", (ids, rand(9, 64))
    yield "cross_entropy_rows", (logits, targets)
    yield "cross_entropy_gradient", (rand(3, 64), targets, *(torch.rand(3, device=DEV) for _ in range(2)))
    yield "linear", (leaf(3, 64), leaf(40, 64))
    yield "linear_bias", (leaf(3, 64), leaf(40, 64), leaf(40))
    yield "linear_fused", (rand(3, 64), rand(32, 64), rand(32), None, "silu", True)
    yield "linear_scaled", (bytes_(3, 64), bytes_(40, 64), torch.rand(3, device=DEV), torch.rand(40, device=DEV))
    yield "quantize", (rand(3, 256), INT8, True)
    yield "rms_norm_quantize", (rand(3, 64), rand(64), 1e-5, INT8)
    yield "add_rms_norm_quantize", (rand(3, 64), rand(3, 64), rand(64), 1e-5, INT8)
    yield "silu_mul_quantize", (rand(3, 128), INT8)
    yield "rope_cache", (rand(6, 8 * 64), keys.clone(), values.clone(), torch.randn(9, 64, device=DEV), positions, torch.randperm(64, device=DEV)[:6].int(), 4)
    yield "paged_decode", (rand(2, 4, 64), keys, values, table, lengths, 0.1)
    yield "prefill", (q, k, k.clone(), parts, parts, 0.1)
    yield "paged_prefill", (rand(20, 4, 64), keys, values, table, [8, 12], [20, 31], 0.1)
    yield "attention", (leaf(24, 4, 64), leaf(24, 2, 64), leaf(24, 2, 64), parts, parts, 0.1)
    yield "attention_gradient", (rand(24, 4, 64), q, k, k.clone(), out, log_sum, parts, parts, 0.1)


def calls_of_e4m3():
    """Operators that take 8-bit floats alone: opcheck cannot compare those, so that its check of the schema is made by bytes instead."""
    e4m3 = torch.float8_e4m3fn
    ones = lambda *shape: torch.ones(*shape, device=DEV)
    yield "linear_blocks", (rand(3, 256).to(e4m3), rand(40, 256).to(e4m3), ones(2, 3), ones(1, 2))
    keys, values = (rand(4, 2, 16, 64).to(e4m3) for _ in range(2))
    starts = torch.tensor([0, 20, 51], device=DEV, dtype=torch.int32)
    yield "read_pages", (keys, values, torch.randperm(4, device=DEV).int().view(2, 2), starts, 51, ones(2), ones(2))


def check_opcheck():
    seen = set()
    for name, arguments in calls():
        seen.add(name)
        try:
            torch.library.opcheck(getattr(torch.ops.tinykernels, name).default, arguments)
            expect(f"opcheck of {name}", True)
        except Exception as e:  # noqa: BLE001 - which operator it was is what matters
            expect(f"opcheck of {name}", False, repr(e)[:600])
    for name, arguments in calls_of_e4m3():
        seen.add(name)
        operator = getattr(torch.ops.tinykernels, name).default
        before = [a.clone() for a in arguments if isinstance(a, torch.Tensor)]
        out = operator(*arguments)
        same = all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip((a for a in arguments if isinstance(a, torch.Tensor)), before))
        own = {o.data_ptr() for o in (out if isinstance(out, tuple) else (out,))}
        try:
            torch.library.opcheck(operator, arguments, test_utils=("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"))
            expect(f"opcheck of {name}, its inputs as they were, its outputs its own", same and not own & {b.data_ptr() for b in before})
        except Exception as e:  # noqa: BLE001 - which operator it was is what matters
            expect(f"opcheck of {name}", False, repr(e)[:600])
    known = {n.removeprefix("tinykernels::").split(".")[0] for n in torch._C._dispatch_get_all_op_names() if n.startswith("tinykernels::")}
    left = sorted(known - seen)
    expect(f"opcheck left out none of {len(known)} operators", bool(known) and not left, str(left))


class Emulated(torch.autograd.Function):
    """A function in float64 with the operator's own gradients: what gradcheck compares with differences of the function."""

    @staticmethod
    def forward(ctx, operator, function, kind, *inputs):
        ctx.operator, ctx.kind = operator, kind
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        leaves = [t.detach().to(ctx.kind).requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            out = ctx.operator(*leaves)
        return None, None, None, *(g.double() for g in torch.autograd.grad(out, leaves, gradient.to(out.dtype)))


def check_gradcheck():
    """Inputs are numbers of bf16, so that the operator sees what float64 sees; one gradient of one output at a time, which is exact in bf16 too."""
    rms = lambda x, w: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w
    targets = torch.tensor([3, -100, 9], device=DEV, dtype=torch.int32)
    attend = lambda causal, cap: (lambda q, k, v: tk.attention(q, k, v, [3, 2], [3, 4], 0.2, causal, 0, cap)[0],
                                  lambda q, k, v: torch.cat([reference(q[:3], k[:3], v[:3], 0.2, causal, 0, cap)[0], reference(q[3:], k[3:], v[3:], 0.2, causal, 0, cap)[0]]))
    table = [
        ("rms_norm", lambda x, w: tk.rms_norm(x, w, 1e-5), rms, BF16, [(3, 16), (16,)]),
        ("layer_norm", lambda x, w, b: tk.layer_norm(x, w, b, 1e-5), lambda x, w, b: F.layer_norm(x, (16,), w, b, 1e-5), BF16, [(3, 16), (16,), (16,)]),
        ("gelu", tk.gelu, F.gelu, BF16, [(5, 8)]),
        ("gelu by tanh", lambda x: tk.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh"), BF16, [(5, 8)]),
        ("softmax", tk.softmax, lambda x: torch.softmax(x, -1), BF16, [(3, 16)]),
        ("softmax f32", tk.softmax, lambda x: torch.softmax(x, -1), torch.float32, [(3, 16)]),
        ("log softmax", lambda x: tk.softmax(x, 0.5, True), lambda x: torch.log_softmax(0.5 * x, -1), BF16, [(3, 16)]),
        ("cross_entropy", lambda x: _fused.cross_entropy_rows(x, targets)[0], lambda x: F.cross_entropy(x, targets.long(), reduction="none"), BF16, [(3, 16)]),
        ("linear", tk.linear, F.linear, BF16, [(3, 16), (8, 16)]),
        ("linear with a bias", functional.linear, F.linear, BF16, [(3, 16), (8, 16), (8,)]),
        ("attention", *attend(True, 0.0), BF16, [(5, 2, 64), (7, 1, 64), (7, 1, 64)]),
        ("attention, not causal, capped", *attend(False, 3.0), BF16, [(5, 2, 64), (7, 1, 64), (7, 1, 64)]),
    ]
    for name, operator, function, kind, shapes in table:
        inputs = [rand(*shape).double().requires_grad_() for shape in shapes]
        try:
            torch.autograd.gradcheck(lambda *leaves: Emulated.apply(operator, function, kind, *leaves), inputs, eps=1e-6, atol=1e-2, rtol=1e-2, check_undefined_grad=False)
            expect(f"gradcheck of {name} against differences in float64", True)
        except Exception as e:  # noqa: BLE001 - which operator it was is what matters
            expect(f"gradcheck of {name} against differences in float64", False, repr(e)[:600])


PARTS = (check_opcheck, check_gradcheck)
