"""Which implementation an operator has: plain torch, or the compiled extension's."""

from __future__ import annotations

import os
import sys
import warnings

import torch

from sccagn_scale._compat import package_version, probe
from sccagn_scale._errors import InputWarning

EXTENSION = "sccagn_scale_ext"
VARIABLE = "SCCAGN_EXT"
"""Environment variable: 0 leaves an installed extension out."""


def load_extension() -> None:
    """Let the extension register itself, if it is installed, of this package's version, and not switched off.

    Warns
    -----
    InputWarning
        If it is installed and cannot be used: everything gives the same answers, slower.
    """
    found, wanted = package_version("sccagn-scale-ext"), package_version("sccagn-scale")
    if os.environ.get(VARIABLE) == "0" or found is None:
        return
    problem = f"its version is {found}, where {wanted} is needed" if wanted not in (None, found) else None
    if problem is None:
        part = probe(EXTENSION)
        problem = None if part.present else part.detail
    if problem is not None:
        warnings.warn(
            f"{EXTENSION} is left out: {problem}. Build it anew (`make ext`), or remove it.", InputWarning, stacklevel=2
        )


def is_compiled(operator: str, device_type: str) -> bool:
    """Tell whether an operator has an implementation of its own on a type of device, such as `"cpu"` or `"cuda"`."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"sccagn::{operator}", key)


def instruction_set() -> str | None:
    """What the compiled operators use of this processor, such as `"avx512"`; None where they are not loaded."""
    extension = sys.modules.get(EXTENSION) if is_compiled("csr_matmul", "cpu") else None
    return extension.instruction_set() if extension else None
