"""The C functions of libtinykernels_native.so, as ctypes sees them."""

import ctypes as c
import os
from pathlib import Path

_u64, _size, _p = c.c_uint64, c.c_size_t, c.c_void_p


class Decode(c.Structure):
    _fields_ = [(n, _u64) for n in ("out", "q", "keys", "values", "block_table", "lengths", "key_scales", "value_scales")] + [
        (n, _size) for n in ("sequences", "query_heads", "kv_heads", "head_dim", "pages", "page_tokens", "table_width", "window")
    ] + [("scale", c.c_float), ("soft_cap", c.c_float)]


class PrefillShape(c.Structure):
    _fields_ = [(n, _size) for n in ("query_heads", "kv_heads", "head_dim", "window")] + [("scale", c.c_float), ("soft_cap", c.c_float), ("causal", c.c_int)]


class Prefill(c.Structure):
    _fields_ = [(n, _u64) for n in ("out", "log_sum", "q", "keys", "values", "block_table")] + [
        (n, _size) for n in ("pages", "page_tokens", "sequences", "table_width")
    ]


class ReadPages(c.Structure):
    _fields_ = [(n, _u64) for n in ("dense_keys", "dense_values", "keys", "values", "key_scales", "value_scales", "block_table", "starts")] + [
        (n, _size) for n in ("tokens", "kv_heads", "head_dim", "pages", "page_tokens", "sequences", "table_width")
    ]


class GradientStep(c.Structure):
    _fields_ = [(n, _u64) for n in ("dq", "dk", "dv", "q", "keys", "values", "out", "log_sum", "gradient")]


class Rope(c.Structure):
    _fields_ = [(n, _u64) for n in ("q", "keys", "values", "qkv", "rotary", "positions", "slots", "query_weight", "key_weight")] + [
        (n, _size) for n in ("tokens", "query_heads", "kv_heads", "head_dim", "pages", "page_tokens", "table_positions")
    ] + [("epsilon", c.c_float)] + [(n, _u64) for n in ("key_scales", "value_scales")]


class Linear(c.Structure):
    _fields_ = [(n, _u64) for n in ("y", "x", "weight", "bias", "residual", "x_scales", "weight_scales")] + [
        (n, _size) for n in ("rows", "features", "columns", "x_scale_count", "weight_scale_count")
    ] + [(n, c.c_int) for n in ("kind", "activation", "gated")]


class Quantize(c.Structure):
    _fields_ = [(n, _u64) for n in ("out", "scales", "x", "residual", "weight")] + [("rows", _size), ("hidden", _size), ("epsilon", c.c_float)] + [
        (n, c.c_int) for n in ("source", "integers", "blocks")
    ]


class Sample(c.Structure):
    _fields_ = [
        (n, _u64)
        for n in ("token", "log_probability", "logits", "bitmask", "temperature", "top_p", "min_p", "top_k", "seed",
                  "repetition", "presence", "frequency", "slot", "counts")
    ] + [(n, _size) for n in ("rows", "stride", "vocabulary", "mask_words", "slots", "counts_stride")] + [("half_precision", c.c_int)]


class Rows(c.Structure):
    _fields_ = [("out", _u64), ("x", _u64), ("more", _u64 * 3), ("rows", _size), ("columns", _size), ("number", c.c_float), ("flag", c.c_int), ("wide", c.c_int)]


class NormStep(c.Structure):
    _fields_ = [(n, _u64) for n in ("dx", "dweight", "dbias", "slots", "x", "weight", "gradient", "further")] + [
        (n, _size) for n in ("rows", "hidden", "slot_count")
    ] + [("epsilon", c.c_float), ("layer", c.c_int)]


_ROWS = (c.c_int, [_p, _p, c.POINTER(Rows)])
_SIGNATURES = {
    **dict.fromkeys(("tk_layer_norm", "tk_gelu", "tk_gelu_gradient", "tk_embedding", "tk_softmax", "tk_softmax_gradient", "tk_cross_entropy", "tk_cross_entropy_gradient"), _ROWS),
    "tk_error": (c.c_char_p, []),
    "tk_open": (_p, [_size]),
    "tk_add_rms_norm": (c.c_int, [_p, _p, _u64, _u64, _u64, _u64, _size, _size, c.c_float]),
    "tk_rms_norm": (c.c_int, [_p, _p, _u64, _u64, _u64, _size, _size, c.c_float]),
    "tk_silu_mul": (c.c_int, [_p, _p, _u64, _u64, _size, _size]),
    "tk_linear_bf16": (c.c_int, [_p, _p, _u64, _u64, _u64, _size, _size, _size]),
    "tk_linear_bf16_tiled": (c.c_int, [_p, _p, _u64, _u64, _u64, _size, _size, _size, c.c_int, _size]),
    "tk_cublaslt_open": (_p, [_p]),
    "tk_linear_bf16_by": (c.c_int, [_p, _p, _u64, _u64, _u64, _size, _size, _size, _p, c.c_int]),
    "tk_linear_by": (c.c_int, [_p, _p, c.POINTER(Linear), _p, c.c_int]),
    "tk_add_rms_norm_in_place": (c.c_int, [_p, _p, _u64, _u64, _u64, _size, _size, c.c_float]),
    "tk_linear": (c.c_int, [_p, _p, c.POINTER(Linear)]),
    "tk_quantize": (c.c_int, [_p, _p, c.POINTER(Quantize)]),
    "tk_sort_workspace": (_p, [_p, _size, c.c_int]),
    "tk_sort_workspace_free": (None, [_p]),
    "tk_sort_u32": (c.c_int, [_p, _p, _u64, _u64, _size, _p]),
    "tk_decode_workspace": (_p, [_p, _size, _size, _size, _size]),
    "tk_decode_workspace_free": (None, [_p]),
    "tk_paged_decode": (c.c_int, [_p, _p, c.POINTER(Decode), _p]),
    "tk_prefill_plan": (_p, [_p, c.POINTER(PrefillShape), c.POINTER(_size), c.POINTER(_size), _size]),
    "tk_prefill_plan_free": (None, [_p]),
    "tk_prefill_refill": (c.c_int, [_p, _p, _p, c.POINTER(_size), c.POINTER(_size), _size]),
    "tk_gradient_plan": (_p, [_p, c.POINTER(PrefillShape), c.POINTER(_size), c.POINTER(_size), _size]),
    "tk_gradient_plan_free": (None, [_p]),
    "tk_prefill_gradient": (c.c_int, [_p, _p, c.POINTER(GradientStep), _p]),
    "tk_prefill": (c.c_int, [_p, _p, c.POINTER(Prefill), _p]),
    "tk_read_pages": (c.c_int, [_p, _p, c.POINTER(ReadPages)]),
    "tk_rope_cache": (c.c_int, [_p, _p, c.POINTER(Rope)]),
    "tk_sample": (c.c_int, [_p, _p, c.POINTER(Sample)]),
    "tk_start_counts": (c.c_int, [_p, _p, _u64, _size, _size, _size, _u64, _size]),
    "tk_scratch": (_p, [_p, _size]),
    "tk_reduce": (c.c_int, [_p, _p, _u64, _u64, _size, c.c_int, _p]),
    "tk_scan": (c.c_int, [_p, _p, _u64, _u64, _size, c.c_int, _p]),
    "tk_histogram": (c.c_int, [_p, _p, _u64, _size, _u64, _size]),
    "tk_transpose": (c.c_int, [_p, _p, _u64, _u64, _size, _size, c.c_int]),
    "tk_top_k": (c.c_int, [_p, _p, _u64, _u64, _u64, _size, _size, _size]),
    "tk_pack": (_p, [_p, _p, _p, _p, _size, _size, c.c_int]),
    "tk_pack_checkpoint": (_p, [_p, _p, _p, _p, c.POINTER(_size), c.c_int]),
    "tk_packed_free": (None, [_p]),
    "tk_packed_linear": (c.c_int, [_p, _p, _u64, _u64, _p, _size]),
    "tk_sparse_pack": (_p, [_p, _p, _size, _size, c.c_int]),
    "tk_sparse_free": (None, [_p]),
    "tk_linear_sparse": (c.c_int, [_p, _p, _u64, _u64, _p, _size]),
    "tk_norm_gradient": (c.c_int, [_p, _p, c.POINTER(NormStep)]),
    "tk_norm_gradient_scratch": (_size, [_size, _size, c.c_int]),
}


class TinyKernelsError(RuntimeError):
    """A call the library refused, in its own words."""


def _load() -> c.CDLL:
    path = os.environ.get("TINYKERNELS_NATIVE") or str(Path(__file__).with_name("libtinykernels_native.so"))
    try:
        library = c.CDLL(path)
    except OSError as e:
        raise ImportError(f"the library of tinykernels does not load ({e}): install the wheel, which `make wheel` builds, or name a built one in TINYKERNELS_NATIVE") from e
    for name, (result, arguments) in _SIGNATURES.items():
        if not hasattr(library, name):
            raise ImportError(f"{path} has no {name}: it is of another version of tinykernels than this package")
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


lib = _load()
_handles: dict[int, int] = {}


def check(status: int) -> None:
    if status:
        raise TinyKernelsError(lib.tk_error().decode())


def made(pointer: int | None) -> int:
    if not pointer:
        raise TinyKernelsError(lib.tk_error().decode())
    return pointer


def handle(ordinal: int) -> int:
    """The opened GPU; one handle each for the life of the process."""
    if ordinal not in _handles:
        _handles[ordinal] = made(lib.tk_open(ordinal))
    return _handles[ordinal]
