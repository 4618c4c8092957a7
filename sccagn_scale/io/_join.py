"""The cells and genes of several files as those of one."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique

from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale._keys import ORIGIN
from sccagn_scale.io._layout import HDF5_SUFFIXES
from sccagn_scale.io._names import decoded, drop_ambiguous_names

_LARGEST_IN_FLOATS = 2**53  # up to which every whole number is one

log = logging.getLogger("sccagn_scale")

Columns = npt.NDArray[np.intp] | None
"""Where in a file the joined genes stand; None where they are the file's own, in its order."""


def join_genes(files: Sequence[Path], genes: Sequence[pd.Index]) -> tuple[pd.Index, list[Columns]]:
    """Find the genes that are in all files, in the first one's order; a log line tells what each loses.

    Raises
    ------
    InputError
        If there is none.
    """
    genes = [names if names.is_unique else make_index_unique(names) for names in genes]
    common = genes[0]
    for i, names in enumerate(genes):
        common = common[common.isin(names)]
        if i > 0 and len(common) == 0:
            other = next((j for j in range(i) if not genes[j].isin(names).any()), 0)
            raise InputError(
                f"`paths` must have genes in common, but none is left with {str(files[i])!r} (genes such as "
                f"{_example(names)}) beside {str(files[other])!r} (such as {_example(genes[other])}); "
                "give all of them the same kind of gene names."
            )
    columns = [None if names.equals(common) else names.get_indexer(common) for names in genes]
    lost = [
        f"{len(names) - len(common):,} of {len(names):,} in {file.name}"
        for file, names in zip(files, genes, strict=True)
        if len(names) > len(common)
    ]
    if lost:
        log.info("%s genes are in all files; left out: %s.", f"{len(common):,}", ", ".join(lost))
    return common, columns


def join_frames(files: Sequence[Path], frames: Sequence[AnnData], genes: pd.Index) -> AnnData:
    """Put the cells of several files under one another, and keep what they agree on of the genes.

    Returns
    -------
    AnnData without X: of `obs` every column that some file has, and `obs["file"]`; of `var` the columns that are the
    same in all.

    Raises
    ------
    InputError
        If a cell's name comes in two files, or a file has a column `obs["file"]` of its own.
    """
    for file, frame in zip(files, frames, strict=True):
        if ORIGIN in frame.obs:
            raise InputError(
                f"`paths` must have no column obs[{ORIGIN!r}], which tells the cells of several files apart, but "
                f"{str(file)!r} has one; rename it."
            )
    cells = frames[0].obs_names.append([frame.obs_names for frame in frames[1:]])
    repeats = cells.duplicated()
    if repeats.any():
        example = cells[repeats.argmax()]
        holders = [str(file) for file, frame in zip(files, frames, strict=True) if example in frame.obs_names]
        raise InputError(
            f"`paths` must name every cell differently, but {example!r} is in {holders[0]!r} and in {holders[1]!r} "
            f"({repeats.sum():,} names repeat in all); put a prefix before the names in each, as in "
            f"adata.obs_names = {Path(holders[1]).stem + ':'!r} + adata.obs_names, and write it anew."
        )
    as_text = _keep_integers([frame.obs for frame in frames])
    obs = _writable(anndata.concat([AnnData(obs=frame.obs) for frame in frames], join="outer").obs, as_text)
    codes = np.repeat(np.arange(len(files)), [frame.n_obs for frame in frames])
    obs[ORIGIN] = pd.Categorical.from_codes(codes, _origins(files))
    vars_only = [AnnData(var=frame.var.loc[genes]) for frame in frames]
    joined = AnnData(obs=obs, var=anndata.concat(vars_only, merge="same").var.loc[genes])
    drop_ambiguous_names(joined)
    return joined


def _keep_integers(frames: Sequence[pd.DataFrame]) -> set[Any]:
    """Give columns of whole numbers, in place, a type in which they are joined as they are, not rounded to floats.

    Returns
    -------
    The columns that no type of numbers holds, which are text now.
    """
    as_text = set()
    for name in dict.fromkeys(name for frame in frames for name in frame):
        holders = [frame for frame in frames if name in frame]
        kinds = {frame[name].dtype.kind for frame in holders}
        is_lacking = len(holders) < len(frames)
        if not kinds & {"i", "u"} or not kinds <= {"i", "u", "f"} or (len(kinds) == 1 and not is_lacking):
            continue
        integers = [values for frame in holders if (values := frame[name].dropna()).dtype.kind in "iu" and len(values)]
        lowest = min((int(values.min()) for values in integers), default=0)
        highest = max((int(values.max()) for values in integers), default=0)
        if "f" in kinds and max(-lowest, highest) <= _LARGEST_IN_FLOATS:
            continue
        for frame in holders:
            if "f" in kinds or (lowest < 0 and highest >= 2**63):
                as_text.add(name)
                frame[name] = _text(frame[name])
            else:
                frame[name] = frame[name].astype("Int64" if highest < 2**63 else "UInt64")
                if not is_lacking and not frame[name].hasnans:
                    frame[name] = frame[name].astype(frame[name].dtype.numpy_dtype)
    return as_text


def _text(column: pd.Series) -> pd.Series:
    return column.astype(object).map(str, na_action="ignore")


def _writable(obs: pd.DataFrame, as_text: set[Any]) -> pd.DataFrame:
    """Give columns that have another type in each file, and so none that AnnData writes, one that it does.

    Those of `as_text` are it already, which is told.
    """
    obs = obs.infer_objects()  # numbers of several types come as objects
    for name in obs:
        if isinstance(obs[name].dtype, pd.Float32Dtype | pd.Float64Dtype):
            obs[name] = obs[name].astype(np.float64)
        if name in as_text or _is_mixed(obs[name]):
            warnings.warn(
                f"Column {name!r} of `obs` holds values of several types, from file to file: taken as text.",
                InputWarning,
                stacklevel=5,
            )
            obs[name] = _text(obs[name]).astype("category")
    return obs


def _is_mixed(column: pd.Series) -> bool:
    """Whether a column holds values of several types, which cannot be written."""
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return values.dtype == object and values.dropna().map(type).nunique() > 1


def _example(names: pd.Index) -> str:
    return repr(names[0]) if len(names) else "none"


def _origins(files: Sequence[Path]) -> list[str]:
    """Name files by their stems, or where two are the same by their paths below the folder that all are in."""
    stems = [decoded(file.stem if file.suffix.lower() in (*HDF5_SUFFIXES, ".zarr") else file.name) for file in files]
    if len(set(stems)) == len(stems):
        return stems
    absolute = [os.path.abspath(file) for file in files]
    below = [decoded(os.path.relpath(file, os.path.commonpath(absolute))) for file in absolute]
    return list(make_index_unique(pd.Index(below, dtype=object)))  # two may differ in what is no UTF-8 only
