"""Which matrices an AnnData has, by what `layer` calls them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd
from anndata import AnnData

from sccagn_scale._errors import InputError

RAW_NAMES = ("raw/X", "raw.X")
"""Where `.raw.X` is in a file; the second before AnnData 0.7."""


class HeldMatrix(NamedTuple):
    """A matrix of an AnnData."""

    values: Any
    names: pd.Index  # of the genes
    where: str  # in the AnnData, for messages
    choices: str  # what else `layer` could be


def find_matrix(adata: AnnData, layer: str | None) -> HeldMatrix:
    """Take a matrix out of an AnnData, as it is.

    Parameters
    ----------
    adata
        Annotated cells × genes.
    layer
        None for `X`, `"raw"` for `.raw.X`, or a name in `layers`. A layer that is itself called `"raw"` goes first.

    Raises
    ------
    InputError
        If there is no such matrix.
    """
    there = layers_of(adata)
    if layer not in there:
        raise no_layer(layer, there)
    is_raw = layer == "raw" and layer not in adata.layers
    names = (adata.raw if is_raw else adata).var_names
    return HeldMatrix(there[layer], names, place(layer, is_raw=is_raw), choices(there))


def layers_of(adata: AnnData) -> dict[str | None, Any]:
    """What `layer` can be for an AnnData, each with its matrix."""
    matrices: dict[str | None, Any] = {} if adata.X is None else {None: adata.X}
    matrices.update(adata.layers)
    if adata.raw is not None:
        matrices.setdefault("raw", adata.raw.X)
    return matrices


def layers_in(root: Any) -> dict[str | None, str]:
    """What `layer` can be for an AnnData on disk, each with the matrix's name in the file."""
    names: dict[str | None, str] = {}
    # AnnData writes an X that there is not as a null
    if "X" in root and root["X"].attrs.get("encoding-type") != "null":
        names[None] = "X"
    if "layers" in root:
        names.update({layer: f"layers/{layer}" for layer in root["layers"]})
    for name in RAW_NAMES:
        if name in root:
            names.setdefault("raw", name)
    return names


def place(layer: str | None, *, is_raw: bool) -> str:
    """Where a matrix stands in an AnnData, to be quoted in a message."""
    return "X" if layer is None else "raw.X" if is_raw else f"layers['{layer}']"


def choices(layers: Iterable[str | None]) -> str:
    """What `layer` can be, to be quoted in a message."""
    return ", ".join("None (X)" if layer is None else f"'{layer}'" for layer in layers) or "none, as there is no matrix"


def no_layer(layer: str | None, there: Iterable[str | None], where: str = "") -> InputError:
    """The error for a `layer` that is not among those there; `where`, such as ` in a file`, says which lack it."""
    if layer is None:
        return InputError(f"`layer` points at X, which holds no matrix{where}; choose one of {choices(there)}.")
    return InputError(f"`layer` must be one of {choices(there)}; there is no '{layer}'{where}.")
