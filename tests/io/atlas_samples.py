"""Files of cells in every format, and how they are gathered again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import zarr
from anndata.io import write_elem
from scipy import sparse

from sccagn_scale import io

KINDS = ["csr", "csc", "dense"]
STORES = ["h5ad", "h5ad gzip", "zarr 2", "zarr 3", "zarr 3 sharded"]


def store(adata: anndata.AnnData, path: Path, kind: str = "h5ad") -> Path:
    """Write in a format, with names as they are; the path with the format's extension.

    Zarr's metadata are consolidated, unless they are to be "apart".
    """
    layout, _, how = kind.partition(" ")
    path = path.with_name(f"{path.name}.{layout}")
    if layout == "h5ad":
        adata.write_h5ad(path, compression=how or None)
    else:
        version, sharded = int(how[0]), how.endswith("sharded")
        with (
            anndata.settings.override(zarr_write_format=version),
            anndata.settings.override(auto_shard_zarr_v3=sharded),  # on its own, as it is refused with format 2
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)  # AnnData's and zarr's, of what will be the default one day
            if how.endswith("apart"):
                write_elem(zarr.open_group(path, mode="w", zarr_format=version), "/", adata)
            else:
                adata.write_zarr(path)
    return path


def random_atlas(
    seed: int, shape: tuple[int, int], kind: str = "csr", prefix: str = "c", dtype: str = "float32"
) -> anndata.AnnData:
    """A third of the values are not zero; genes are a random choice of twice as many, in random order."""
    rng = np.random.default_rng(seed)
    values = (rng.integers(1, 100, shape) * (rng.random(shape) < 0.3)).astype(dtype)
    adata = anndata.AnnData(values if kind == "dense" else sparse.csr_matrix(values).asformat(kind))
    adata.obs_names = [f"{prefix}{i}" for i in range(shape[0])]
    adata.var_names = [f"g{i}" for i in rng.permutation(2 * shape[1])[: shape[1]]]
    return adata


def gathered(matrix: io.StoredMatrix, block_size: int) -> sparse.csr_matrix:
    """All blocks under one another, after a look at each."""
    starts = [first for _, first in matrix.parts] + [matrix.shape[0]]
    blocks, expected = [], 0
    for start, block in matrix.blocks(block_size):
        assert start == expected
        border = next(first for first in starts if first > start)
        assert block.shape == (min(block_size, border - start), matrix.shape[1])
        block.check_format(full_check=True)
        blocks.append(block)
        expected += block.shape[0]
    return sparse.vstack(blocks, format="csr")


def pair(tmp_path: Path, change: Callable[[anndata.AnnData, anndata.AnnData], None] = lambda a, b: None) -> list[Path]:
    """Two files that share 4 of 5 and 6 genes."""
    a, b = random_atlas(0, (3, 5), prefix="a"), random_atlas(1, (4, 6), prefix="b")
    a.var_names, b.var_names = list("tuvwx"), list("zxwvuy")
    change(a, b)
    return [store(a, tmp_path / "a"), store(b, tmp_path / "b")]
