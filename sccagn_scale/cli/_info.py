"""`sccagn-scale info`: what a bug report needs."""

from __future__ import annotations

import argparse
import json
import platform
from typing import Any

from sccagn_scale import __version__
from sccagn_scale._compat import cuda_devices, optional_parts, package_versions
from sccagn_scale.cli._machine import cpu, memory
from sccagn_scale.cli._parser import PROGRAM


def run(arguments: argparse.Namespace) -> None:
    """Collect and print."""
    facts = _facts()
    print(json.dumps(facts, indent=2, ensure_ascii=False) if arguments.json else _text(facts))


def _facts() -> dict[str, Any]:
    import faiss
    import torch

    from sccagn_scale import ops

    operators = ops.implementations()  # before anything tries an extension that is left out
    return {
        "versions": {PROGRAM: __version__, **package_versions("scanpy")},
        "machine": {
            "system": platform.platform(),
            "cpu": cpu(),
            "memory": memory(),
            "threads": {"torch": torch.get_num_threads(), "faiss": faiss.omp_get_max_threads()},
            "gpus": cuda_devices(),
        },
        "optional": {
            part.name: {"present": part.present, "detail": part.detail, "purpose": part.purpose}
            for part in optional_parts()
        },
        "operators": operators,
        "instruction_set": ops.instruction_set(),
    }


def _text(facts: dict[str, Any]) -> str:
    machine, operators = facts["machine"], facts["operators"]
    compiled = facts["instruction_set"]
    devices = sorted({device for choice in operators.values() for device in choice})
    threads = ", ".join(f"{name} {count}" for name, count in machine["threads"].items())
    blocks = [
        _block("Versions", [[name, version or "not installed"] for name, version in facts["versions"].items()]),
        _block(
            "Machine",
            [
                ["system", machine["system"]],
                ["processor", machine["cpu"]],
                ["memory", machine["memory"]],
                ["threads", threads],
                *([f"GPU {i}", gpu] for i, gpu in enumerate(machine["gpus"])),
            ],
        ),
        _block(
            "Optional parts",
            [
                [name, "yes" if part["present"] else "no", part["purpose"], part["detail"]]
                for name, part in facts["optional"].items()
            ],
        ),
        _block(
            "Operators" + (f" (ext: compiled, {compiled})" if compiled else ""),
            [["", *devices], *([name, *(choice.get(d, "-") for d in devices)] for name, choice in operators.items())],
        ),
    ]
    return "\n\n".join(blocks)


def _block(title: str, rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title, *(f"  {line}" for line in lines)])
