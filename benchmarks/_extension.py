"""The compiled extension in a process that measures: wanted, or left out."""

from __future__ import annotations

import os

from sccagn_scale._compat import package_version
from sccagn_scale._errors import InputError


def is_installed() -> bool:
    """Tell whether there is an extension to compare with."""
    return package_version("sccagn-scale-ext") is not None


def choose_extension(wanted: bool, *, device: str = "cpu") -> None:
    """Settle, before the operators are first imported, whether they are compiled; an error where that cannot be."""
    os.environ["SCCAGN_EXT"] = "1" if wanted else "0"
    from sccagn_scale import ops

    if wanted and ops.implementations()["csr_matmul"][device] != "ext":
        raise InputError(
            f"The extension is not there for {device}; `make ext` builds it, `sccagn-scale info` says more."
        )
