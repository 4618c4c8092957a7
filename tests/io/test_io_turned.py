"""Matrices stored by columns, read by rows: the same rows, in memory that does not grow with the matrix."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError
from sccagn_scale.io import _turned


def written(matrix: sparse.csc_matrix, path: Path) -> Path:
    anndata.AnnData(matrix).write_h5ad(path)
    return path


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 15)),
    density=st.sampled_from([0, 0.1, 0.6, 1]),
    dtype=st.sampled_from(["int8", "uint16", "int64", "float32", "float64"]),
    held=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_any_rows_in_any_order(
    shape: tuple[int, int], density: float, dtype: str, held: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    dense = (rng.integers(1, 100, shape) * (rng.random(shape) < density)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(_turned, "_HELD", held)
        path = written(sparse.csc_matrix(dense), Path(folder) / "a.h5ad")
        matrix = io.open_atlas([path], scratch=Path(folder)).matrix()
        assert (matrix.shape, matrix.dtype, matrix.nnz) == (shape, np.dtype(dtype), np.count_nonzero(dense))
        blocks = list(matrix.blocks(data.draw(st.integers(1, 50))))
        np.testing.assert_array_equal(np.vstack([block.toarray() for _, block in blocks]), dense)
        start = data.draw(st.integers(0, shape[0] - 1))
        stop = data.draw(st.integers(start + 1, shape[0]))
        rows = matrix.read(start, stop)
        rows.check_format(full_check=True)
        assert rows.has_sorted_indices
        assert rows.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(rows.toarray(), dense[start:stop])
        assert [entry.name for entry in Path(folder).iterdir()] == ["a.h5ad"]


def test_memory_is_that_of_a_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of 24 MB, with 0.5 MB of it at a time."""
    monkeypatch.setattr(_turned, "_HELD", 20_000)
    matrix = sparse.random(20_000, 200, 0.5, format="csc", dtype=np.float64, random_state=0)
    stored = io.open_atlas([written(matrix, tmp_path / "a.h5ad")], scratch=tmp_path).matrix()
    tracemalloc.start()
    for start, block in stored.blocks(500):
        assert (block != matrix[start : start + 500]).nnz == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_a_row_out_of_bounds_is_damage(tmp_path: Path) -> None:
    path = written(sparse.csc_matrix(np.eye(4)), tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indices"][2] = 4
    with pytest.raises(InputError, match=r"a\.h5ad' is damaged.*index 4 is not below 4"):
        list(io.open_atlas([path]).matrix().blocks(2))
