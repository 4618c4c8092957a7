"""Operators: the mathematics in plain torch, which an installed extension may override for each device."""

from __future__ import annotations

import torch

from sccagn_scale.ops.csr import Csr, csr_matmul
from sccagn_scale.ops.student_t import student_t_assign

__all__ = ["Csr", "csr_matmul", "implementations", "student_t_assign"]

_OPERATORS = ("csr_matmul", "student_t_assign")


def implementations() -> dict[str, dict[str, str]]:
    """Say which implementation each operator has on each device: `"reference"` (plain torch) or `"ext"`."""
    devices = {"cpu": "CPU", "cuda": "CUDA"}

    def registered(operator: str, key: str) -> str:
        has = torch._C._dispatch_has_kernel_for_dispatch_key(f"sccagn::{operator}", key)
        return "ext" if has else "reference"

    return {op: {device: registered(op, key) for device, key in devices.items()} for op in _OPERATORS}
