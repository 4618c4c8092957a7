"""What a caller gave: cells, and places of files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from anndata import AnnData

from sccagn_scale._errors import InputError


def checked_anndata(adata: Any, *, hint: str = "") -> AnnData:
    """The cells that came in the parameter `adata`.

    Raises
    ------
    InputError
        If it is no AnnData, such as the path of one; `hint` is said besides.
    """
    if not isinstance(adata, AnnData):
        raise InputError(
            f"`adata` must be an AnnData, as `sccagn_scale.read` gives it; it is of type {type(adata).__name__}.{hint}"
        )
    return adata


def as_path(value: Any, name: str) -> Path:
    """The path that came in the parameter `name`.

    Raises
    ------
    InputError
        If it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(
            f"`{name}` must be the path of a file or folder, a str or a Path, but is of type {type(value).__name__}."
        )
    return Path(value)
