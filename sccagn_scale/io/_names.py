"""Names and strings such that AnnData writes them."""

from __future__ import annotations

import os

import pandas as pd
from anndata import AnnData


def plain_strings(adata: AnnData) -> None:
    """Make strings such that AnnData writes them: columns categorical, and nothing of pandas' own string type."""
    plain_names(adata)
    frames = [adata.obs, adata.var] if adata.raw is None else [adata.obs, adata.var, adata.raw.var]
    for frame in frames:
        for column in _string_columns(frame):
            frame[column] = frame[column].astype(object)
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)


def has_pandas_strings(adata: AnnData) -> bool:
    """Whether names or columns of the cells or genes are of pandas' own string type."""
    return any(
        isinstance(frame.index.dtype, pd.StringDtype) or len(_string_columns(frame)) for frame in (adata.obs, adata.var)
    )


def _string_columns(frame: pd.DataFrame) -> pd.Index:
    return frame.columns[[isinstance(dtype, pd.StringDtype) for dtype in frame.dtypes]]


def plain_names(adata: AnnData) -> None:
    """Turn names of pandas' own string type, which AnnData does not write unless told to, into ordinary ones."""
    if isinstance(adata.obs_names.dtype, pd.StringDtype):
        adata.obs_names = adata.obs_names.astype(object)  # and those of frames in obsm with them
    if isinstance(adata.var_names.dtype, pd.StringDtype):
        adata.var_names = adata.var_names.astype(object)
    if adata.raw is not None and isinstance(adata.raw.var_names.dtype, pd.StringDtype):
        adata.raw.var.index = adata.raw.var_names.astype(object)


def drop_ambiguous_names(adata: AnnData) -> None:
    """Drop the name of an index that a column has too: AnnData writes such a frame only while both hold the same."""
    if adata.obs_names.name in adata.obs:
        adata.obs_names = adata.obs_names.rename(None)
    if adata.var_names.name in adata.var:
        adata.var_names = adata.var_names.rename(None)


def decoded(path: str) -> str:
    """A file's name, or a path, as text that can be stored: bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")
