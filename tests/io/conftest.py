"""Small data sets on disk, in every layout that can be read."""

from __future__ import annotations

import gc
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from io_samples import CELLS, COUNTS, GENES, IDS, TYPES
from scipy import io, sparse


@pytest.fixture
def adata() -> anndata.AnnData:
    """Counts in X (CSR), twice the counts in a layer (CSC), minus the counts of two genes more in raw (dense)."""
    made = anndata.AnnData(sparse.csr_matrix(COUNTS))
    made.obs_names, made.var_names = CELLS, GENES
    whole = anndata.AnnData(-np.hstack([COUNTS, COUNTS[:, :2]]).astype(np.float64), obs=made.obs.copy())
    made.raw = whole
    made.layers["double"] = sparse.csc_matrix(2 * COUNTS)
    made.layers["dense"] = COUNTS.astype(np.float32)
    made.obs["cell_type"] = pd.Categorical(["T", "B", "B", "T"])
    return made


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for copies, of which none may be left in the end."""
    (tmp_path / "scratch").mkdir()
    yield tmp_path / "scratch"
    gc.collect()
    assert list((tmp_path / "scratch").iterdir()) == []


def _strings(values: list[str]) -> np.ndarray:
    return np.array([value.encode() for value in values])


@pytest.fixture
def tenx_hdf5(tmp_path: Path) -> Callable[..., Path]:
    """Write a 10x .h5 file of Cell Ranger 3 (the default) or 2."""

    def write(
        version: int = 3, genes: list[str] = GENES, types: list[str] = TYPES, genomes: tuple[str, ...] = ("GRCh38",)
    ) -> Path:
        path = tmp_path / f"tenx_v{version}.h5"
        rows = sparse.csr_matrix(COUNTS)
        with h5py.File(path, "w") as file:
            for genome in genomes if version == 2 else ("matrix",):
                group = file.create_group(genome)
                group["data"] = rows.data
                group["indices"], group["indptr"] = rows.indices.astype(np.int64), rows.indptr.astype(np.int64)
                group["shape"] = np.array(COUNTS.shape[::-1], dtype=np.int32)
                group["barcodes"] = _strings(CELLS)
                if version == 2:
                    group["genes"], group["gene_names"] = _strings(IDS), _strings(genes)
                else:
                    group["features/id"], group["features/name"] = _strings(IDS), _strings(genes)
                    group["features/feature_type"] = _strings(types)
                    group["features/genome"] = _strings(list(genomes) * len(IDS))
        return path

    return write


@pytest.fixture
def tenx_mtx(tmp_path: Path) -> Callable[..., Path]:
    """Write a 10x folder of Cell Ranger 3 (the default) or 2, compressed or not."""

    def write(
        version: int = 3,
        compress: bool = False,
        prefix: str = "",
        counts: np.ndarray = COUNTS,
        types: list[str] = TYPES,
    ) -> Path:
        folder = tmp_path / f"tenx_v{version}_{compress}"
        folder.mkdir(exist_ok=True)
        io.mmwrite(tmp_path / "scratch.mtx", sparse.coo_matrix(counts.T))
        columns = [IDS, GENES] if version == 2 else [IDS, GENES, types]
        texts = {
            "matrix.mtx": (tmp_path / "scratch.mtx").read_text(),
            "barcodes.tsv": "".join(f"{cell}\n" for cell in CELLS),
            "genes.tsv" if version == 2 else "features.tsv": "".join(
                "\t".join(line) + "\n" for line in zip(*columns, strict=True)
            ),
        }
        for name, text in texts.items():
            data = text.encode()
            path = folder / f"{prefix}{name}{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(data) if compress else data)
        return folder

    return write
