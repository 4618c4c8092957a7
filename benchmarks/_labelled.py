"""Labelled sets for measuring, with everything taken off that could tell a method the labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

TRUTH = "cell_type"
BATCH = "batch"
SHUFFLE_SEED = 20_250_826


def labelled_files(folder: Path) -> list[Path]:
    """The `.h5ad` files in `folder` whose `obs` has `cell_type`, by name. Only the files' directories are read."""
    import h5py

    found = []
    for path in sorted(folder.glob("*.h5ad")):
        with h5py.File(path) as file:
            if TRUTH in file["obs"]:
                found.append(path)
    return found


def read_blind(path: Path) -> tuple[AnnData, pd.Series]:
    """Read a set as two things: cells without any trace of their type, and the types, in the same order.

    The cells keep `X` and the genes' names and nothing else. They are renamed, because the names of cells in public
    sets often begin with the type, and shuffled (always in the same way), because they are often sorted by it.
    """
    import anndata

    full = anndata.read_h5ad(path)
    order = _order(full.n_obs)
    truth = full.obs[TRUTH].iloc[order].reset_index(drop=True)
    names = pd.Index([f"cell{i}" for i in range(full.n_obs)])
    blind = anndata.AnnData(full.X[order], obs=pd.DataFrame(index=names), var=pd.DataFrame(index=full.var_names))
    return blind, truth


def read_batches(path: Path) -> pd.Series | None:
    """The batch of each cell of a set, as text and in the order of :func:`read_blind`; None where fewer than two."""
    import anndata
    import h5py

    with h5py.File(path) as file:
        obs = anndata.io.read_elem(file["obs"])
    if BATCH not in obs or obs[BATCH].nunique() < 2:
        return None
    return obs[BATCH].astype(str).iloc[_order(len(obs))].reset_index(drop=True)


def _order(n_obs: int) -> NDArray[np.int64]:
    return np.random.default_rng(SHUFFLE_SEED).permutation(n_obs)


def made_cells(n_obs: int = 150, n_vars: int = 300, *, n_types: int = 3, seed: int = 0) -> tuple[AnnData, pd.Series]:
    """Poisson counts of easily told types, and the types: for warming up and for trying things out."""
    import anndata
    from scipy import sparse

    rng = np.random.default_rng(seed)
    profiles = rng.gamma(0.5, 2.0, (n_types, n_vars))
    types = np.arange(n_obs) % n_types
    x = sparse.csr_matrix(rng.poisson(profiles[types]).astype(np.float32))
    names = pd.Index([f"cell{i}" for i in range(n_obs)])
    genes = pd.Index([f"gene{i}" for i in range(n_vars)])
    adata = anndata.AnnData(x, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes))
    return adata, pd.Series([f"type{t}" for t in types])
