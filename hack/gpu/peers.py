#!/usr/bin/env python3
"""Packs the peers' kernels into .gpu/: FlashAttention-3 and Marlin out of the vLLM 0.24.0 wheel, Hopper code only, about 31 MB.

The wheel's libraries hold code for every GPU generation; the other generations are blanked so that they compress to nothing.
"""

import lzma
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else ".gpu")
WHEEL = "vllm-0.24.0-cp38-abi3-manylinux_2_28_x86_64.whl"
CACHE = Path.home() / ".cache/aistack/peers"
MAGIC = struct.pack("<I", 0xBA55ED50)


def entries(code: bytearray, start: int):
    """(kind, architecture, offset, size) of each image of a fat binary; kind 1 is PTX, 2 machine code."""
    header, size = struct.unpack_from("<HQ", code, start + 6)
    at, end = start + header, start + header + size
    while at < end:
        kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", code, at)
        if kind not in (1, 2, 8) or not 32 <= entry_header <= 4096 or at + entry_header + entry_size > end:
            return
        yield kind, struct.unpack_from("<I", code, at + 28)[0], at + entry_header, entry_size
        at += entry_header + entry_size


def hopper_only(code: bytearray) -> None:
    start = code.find(MAGIC)
    while start >= 0:
        images = list(entries(code, start)) if struct.unpack_from("<H", code, start + 6)[0] == 16 else []
        native = any(kind == 2 and arch == 90 for kind, arch, _, _ in images)
        for kind, arch, offset, size in images:
            if not (kind == 2 and arch == 90 or kind == 1 and arch <= 90 and not native):
                code[offset:offset + size] = bytes(size)
        start = code.find(MAGIC, start + 4)


CACHE.mkdir(parents=True, exist_ok=True)
OUT.mkdir(parents=True, exist_ok=True)
if not (CACHE / WHEEL).exists():
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--abi", "abi3"]
    subprocess.run([*pip, "--platform", "manylinux_2_28_x86_64", "-d", str(CACHE), "vllm==0.24.0"], check=True)
with zipfile.ZipFile(CACHE / WHEEL) as wheel:
    (OUT / "scalar_type.py").write_bytes(wheel.read("vllm/scalar_type.py"))
    for inside, name in (("vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so", "fa3"), ("vllm/_C_stable_libtorch.abi3.so", "vllm_c")):
        code = bytearray(wheel.read(inside))
        hopper_only(code)
        (OUT / f"{name}.so.xz").write_bytes(lzma.compress(bytes(code), preset=2))
        print(name, (OUT / f"{name}.so.xz").stat().st_size)
