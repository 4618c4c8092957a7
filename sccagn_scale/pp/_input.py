"""Which matrix of the AnnData is clustered, and what kind of values it holds."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from sccagn_scale._errors import InputError, InputWarning

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

log = logging.getLogger("sccagn_scale")

InputKind = Literal["counts", "linear", "log"]

_LOG_MAX = 50.0
"""No log-transformed expression reaches this: log2 of 10^15 is 50, while TPM and RPM pass it in any real data set."""

_DESCRIPTION = {
    "counts": "raw counts: totals are normalised to their median and log1p is taken",
    "linear": "normalised but not logged (such as TPM or RPM): totals are brought to their median and log1p is taken",
    "log": "already normalised and logged: taken as they are",
}


def select_matrix(adata: AnnData, layer: str | None = None) -> tuple[sp.csr_matrix, pd.Index]:
    """Take the expression matrix out of an AnnData.

    Parameters
    ----------
    adata
        Annotated cells × genes.
    layer
        None for `X`, `"raw"` for `.raw.X`, or a name in `layers`. A layer that is itself called `"raw"` goes first.

    Returns
    -------
    The matrix as CSR float32 [n_obs, n_vars], a copy wherever it has to be converted, and the names of its genes.

    Raises
    ------
    InputError
        If there is no such layer, the matrix is empty, or a value is negative, NaN or infinite.
    """
    matrix, names, where = _locate(adata, layer)
    if 0 in matrix.shape:
        raise InputError(f"The input is empty: {where} has {matrix.shape[0]} cells and {matrix.shape[1]} genes.")
    if not (np.issubdtype(matrix.dtype, np.number) or matrix.dtype == bool):
        raise InputError(f"{where} must hold numbers; its values are of type {matrix.dtype}.")
    # float32 holds whole numbers up to 2^24 exactly: more than any UMI count
    csr = sp.csr_matrix(matrix, dtype=np.float32)
    _check_values(csr, where, adata, layer)
    if csr is matrix or not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    elif (csr.data == 0).any():
        csr = csr.copy()
        csr.eliminate_zeros()
    return csr, names


def stored_dtype(adata: AnnData, layer: str | None = None) -> np.dtype:
    """Type of the values as they came, before `select_matrix` converts them; parameters and errors as there."""
    return np.dtype(_locate(adata, layer)[0].dtype)


def _locate(adata: AnnData, layer: str | None) -> tuple[Any, pd.Index, str]:
    """Matrix, gene names, and where they stand."""
    if layer is None:
        matrix, names, where = adata.X, adata.var_names, "X"
    elif layer in adata.layers:
        matrix, names, where = adata.layers[layer], adata.var_names, f"layers['{layer}']"
    elif layer == "raw" and adata.raw is not None:
        matrix, names, where = adata.raw.X, adata.raw.var_names, "raw.X"
    else:
        raise InputError(f"`layer` must be one of {_choices(adata)}; there is no '{layer}'.")
    if matrix is None:
        raise InputError(f"`layer` points at {where}, which holds no matrix; choose one of {_choices(adata)}.")
    return matrix, names, where


def _choices(adata: AnnData) -> str:
    names = ["None (X)"] if adata.X is not None else []
    names += [f"'{name}'" for name in adata.layers]
    if adata.raw is not None and "raw" not in adata.layers:
        names.append("'raw'")
    return ", ".join(names)


def _check_values(matrix: sp.csr_matrix, where: str, adata: AnnData, layer: str | None) -> None:
    data = matrix.data
    if data.size == 0:
        return
    n_bad = int(data.size - np.isfinite(data).sum())
    if n_bad:
        raise InputError(f"{where} holds {n_bad:,} NaN or infinite values; remove or replace them first.")
    lowest = float(data.min())
    if lowest < 0:
        hint = f"The choices for `layer` are {_choices(adata)}." if len(adata.layers) or adata.raw is not None else ""
        raise InputError(
            f"{where} holds negative values (lowest {lowest:.3g}), so it is z-scored or corrected data; "
            f"`layer` must point at counts or log-normalised values. {hint}".strip()
        )


def recognize(
    matrix: sp.csr_matrix, kind: InputKind | Literal["auto"] = "auto", *, stored_as: np.dtype | None = None
) -> InputKind:
    """Tell what kind of values a matrix holds, and say so.

    Whole numbers are counts; other values are logged if none exceeds 50, and linear (TPM, RPM, CPM) if one does.
    What was recognised is announced in the log; float counts and linear values also raise an `InputWarning`.

    Parameters
    ----------
    matrix
        Cells × genes, no negative values.
    kind
        `"auto"`, or the answer, where the user knows it.
    stored_as
        Type of the values before they were converted: whole numbers stored as floats are taken for counts with a
        warning.

    Returns
    -------
    `"counts"`, `"linear"` or `"log"`.
    """
    if kind == "auto":
        data = matrix.data
        whole = bool(np.all(data == np.rint(data)))
        kind = "counts" if whole else "log" if data.size == 0 or data.max() <= _LOG_MAX else "linear"
        log.info("The values were recognised as %s. Set `input_kind` if that is wrong.", _DESCRIPTION[kind])
        if kind == "counts" and stored_as is not None and np.issubdtype(stored_as, np.floating):
            warnings.warn(
                f"The values are stored as {stored_as} but all are whole numbers: they were taken for counts.",
                InputWarning,
                stacklevel=3,
            )
        if kind == "linear":
            warnings.warn(
                f"The values are neither counts nor logged (largest {data.max():,.4g}, not whole numbers): taken as "
                "TPM/RPM-like, cell totals brought to their median and log1p applied.",
                InputWarning,
                stacklevel=3,
            )
    else:
        log.info("The values are taken as %s, as `input_kind` says.", _DESCRIPTION[kind])
    return kind
