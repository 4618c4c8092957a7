"""Operators: the mathematics in plain torch, overridden by the compiled extension on the devices it was built for."""

from __future__ import annotations

from sccagn_scale.ops._implementation import instruction_set, is_compiled, load_extension
from sccagn_scale.ops.csr import Csr, csr_matmul
from sccagn_scale.ops.list_neighbors import list_neighbors
from sccagn_scale.ops.student_t import student_t_assign
from sccagn_scale.ops.student_t_loss import student_t_kl
from sccagn_scale.ops.student_t_stream import Assignment, student_t_column_sums, student_t_label

__all__ = [
    "Assignment",
    "Csr",
    "csr_matmul",
    "implementations",
    "instruction_set",
    "is_compiled",
    "list_neighbors",
    "student_t_assign",
    "student_t_column_sums",
    "student_t_kl",
    "student_t_label",
]

_OPERATORS = (
    "csr_matmul",
    "csr_matmul_transposed",
    "list_neighbors",
    "student_t_assign",
    "student_t_assign_backward",
    "student_t_column_sums",
    "student_t_kl",
    "student_t_label",
)

load_extension()


def implementations() -> dict[str, dict[str, str]]:
    """Say which implementation each operator has on each device: `"reference"` (plain torch) or `"ext"`."""
    return {
        operator: {device: "ext" if is_compiled(operator, device) else "reference" for device in ("cpu", "cuda")}
        for operator in _OPERATORS
    }
