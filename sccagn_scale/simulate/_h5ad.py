"""What an .h5ad file holds beside X, in anndata's on-disk layout written through h5py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata.io import write_elem

_NAMES_AT_ONCE = 2**16


def write_annotation(
    file: h5py.File,
    types: npt.NDArray[np.integer],
    type_names: Sequence[str],
    *,
    var_names: Sequence[str],
    uns: dict[str, Any],
) -> None:
    """Write everything but X; cells are named as they are counted, a block of names at a time."""
    _tag(file, "anndata", "0.1.0")
    for empty in ("layers", "obsm", "obsp", "varm", "varp"):
        write_elem(file, empty, {})
    write_elem(file, "uns", uns)
    names = pd.Index(list(var_names), dtype=object)  # not of pandas' own string type, which AnnData may not write
    write_elem(file, "var", pd.DataFrame(index=names))

    obs = file.create_group("obs")
    _tag(obs, "dataframe", "0.2.0")
    obs.attrs["_index"] = "_index"
    obs.attrs["column-order"] = np.array(["cell_type"], dtype=h5py.string_dtype())
    column = obs.create_group("cell_type")
    _tag(column, "categorical", "0.2.0")
    column.attrs["ordered"] = False
    write_elem(column, "codes", types)
    write_elem(column, "categories", np.array(type_names, dtype=object))

    n_obs = len(types)
    width = len(str(n_obs - 1))
    cells = obs.create_dataset("_index", shape=(n_obs,), dtype=h5py.string_dtype())
    _tag(cells, "string-array", "0.2.0")
    for start in range(0, n_obs, _NAMES_AT_ONCE):
        stop = min(start + _NAMES_AT_ONCE, n_obs)
        cells[start:stop] = np.array([f"cell_{i:0{width}d}" for i in range(start, stop)], dtype=object)


def _tag(item: h5py.Group | h5py.Dataset, encoding: str, version: str) -> None:
    item.attrs["encoding-type"] = encoding
    item.attrs["encoding-version"] = version
