"""TinyKernels for PyTorch: custom operators over the Rust library, safe under torch.compile (sample, Sorter, the packed layers and the primitives are
plain functions, at which a compiled graph breaks).

    import torch, tinykernels
    y = tinykernels.add_rms_norm(x, residual, weight, 1e-5)   # residual is updated in place

bf16 tensors on one NVIDIA Hopper GPU, contiguous; every refusal is a TinyKernelsError with the shapes and the limit.
"""

from . import _native
from ._native import TinyKernelsError


def open_device(ordinal: int = 0) -> None:
    """Opens a GPU and loads the kernels on it, as the first operator on it else does; a TinyKernelsError says why where that cannot be."""
    _native.handle(ordinal)


try:
    import torch
except ImportError as _missing:  # the library itself needs none; its operators do
    _reason = str(_missing)

    def __getattr__(name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        raise ImportError(f"tinykernels.{name} is an operator of PyTorch, which is not installed ({_reason}): pip install 'tinykernels[torch]'")
else:
    from ._operators import *  # noqa: F403 - what it exports is in its __all__
    from . import _fused, _linear, _operators, _prefill, _primitives, _rope, _sampling, _tensors, functional
    from ._operators import _decode_call
    from ._tensors import at as _at
