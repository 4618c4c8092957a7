"""Compiled operators for sccagn_scale. Importing this registers them with torch; there is nothing else to do.

`sccagn_scale` does that itself when it finds this package, and works without it.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path

import torch

__all__ = ["instruction_set"]

_HERE = Path(__file__).parent
_INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


def _load() -> ctypes.CDLL:
    wanted = os.environ.get("SCCAGN_ISA", "")
    if wanted not in ("", *_INSTRUCTION_SETS):
        raise ValueError(f"SCCAGN_ISA must be one of {', '.join(_INSTRUCTION_SETS)}, but is {wanted}")
    torch.ops.load_library(_HERE / "cpu.so")
    if torch.version.cuda and (_HERE / "cuda.so").exists():
        # whose symbols the library does not name as its own dependency, so that it can be built without it
        try:
            _check_runtime(_HERE / "cuda.so", torch.version.cuda)
            ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"), mode=ctypes.RTLD_GLOBAL)
            torch.ops.load_library(_HERE / "cuda.so")
        except OSError as error:
            warnings.warn(f"The compiled operators for CUDA are left out: {error}", stacklevel=2)
    return ctypes.CDLL(str(_HERE / "cpu.so"))


def _check_runtime(library: Path, version: str) -> None:
    """Refuse a library of another CUDA than torch's: its runtime may be found on the machine, and fail when called."""
    runtime = f"libcudart.so.{version.partition('.')[0]}"
    if runtime.encode() not in library.read_bytes():
        raise OSError(f"they were built for another CUDA than torch's {version}, whose {runtime} they do not use")


_cpu = _load()
_cpu.sccagn_instruction_set.restype = ctypes.c_char_p


def instruction_set() -> str:
    """What the CPU's kernels were compiled for: `"baseline"`, `"avx2"` or `"avx512"`.

    It is the widest that the processor has, unless the environment variable `SCCAGN_ISA` names a narrower one.
    """
    return _cpu.sccagn_instruction_set().decode()
