"""How much room an output takes, against what one has taken."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from sccagn_scale import io

N_OBS, N_VARS = 400, 2_000


@pytest.fixture
def adata() -> ad.AnnData:
    """Counts as sparse, and as even, as those of real cells."""
    rng = np.random.default_rng(0)
    means = rng.gamma(0.1, 2.0, N_VARS)
    return ad.AnnData(sparse.csr_matrix(rng.poisson(means, (N_OBS, N_VARS)).astype(np.float32)))


def _taken(path: Path) -> int:
    """Bytes of X."""
    return io.open_atlas(path).matrix().n_bytes


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_a_copy_is_as_large_as_the_file_and_results_alone_take_nothing(
    adata: ad.AnnData, tmp_path: Path, name: str
) -> None:
    path, copy = tmp_path / name, tmp_path / f"copy{Path(name).suffix}"
    io.write(adata, path)
    atlas = io.open_atlas(path)
    io.write_copy(atlas.adata, path, copy)
    size = io.output_size(atlas, "copy")
    assert size == io.file_facts(path)["size"]
    assert size == pytest.approx(io.file_facts(copy)["size"], rel=0.15)  # of so small a file, room is left unused
    assert io.output_size(atlas, "in place") == (0 if path.is_dir() else size)
    assert io.output_size(atlas, "results") == 0


@pytest.mark.parametrize("kind", ["plain", "gzip", "dense"])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_x_that_is_written_anew_takes_no_less_than_estimated(
    adata: ad.AnnData, tmp_path: Path, kind: str, suffix: str
) -> None:
    path, out = tmp_path / "cells.h5ad", tmp_path / f"out{suffix}"
    if kind == "dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(path, compression="gzip" if kind == "gzip" else None)
    atlas = io.open_atlas(path)
    size = io.output_size(atlas, "anew")
    io.write_atlas(atlas.adata, atlas.matrix().blocks(128), out)
    assert _taken(out) / 10 < size <= _taken(out)
