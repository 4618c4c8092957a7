"""The cell store's benchmark: that every container gives back what was written, and that memory is seen."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks import store
from benchmarks._containers import BATCH, CONTAINERS, Source

N_OBS, N_VARS = 5000, 700


@pytest.fixture(scope="module")
def cells() -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    matrix = sp.random(N_OBS, N_VARS, 0.02, format="csr", dtype=np.float32, random_state=rng)
    matrix.data = rng.choice([1.0, 2.0, 255.0, 256.0, 3000.0], matrix.nnz, p=[0.6, 0.3, 0.05, 0.03, 0.02]).astype("f4")
    return matrix


@pytest.fixture(scope="module")
def source(cells: sp.csr_matrix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "cells"
    store._save(folder, iter([cells[:1000], cells[1000:]]))
    return folder


@pytest.mark.filterwarnings("ignore:Consolidated metadata")  # what annbatch writes
@pytest.mark.parametrize("method", store.METHODS)
def test_containers_give_back_what_was_written(
    cells: sp.csr_matrix, source: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = CONTAINERS[method]
    if importlib.util.find_spec(container.package) is None:
        pytest.skip(f"needs {container.package}")
    monkeypatch.setattr("benchmarks._containers.SHARD", 2**16)
    monkeypatch.setattr("benchmarks._containers.CHUNK", 2**12)
    container.write(Source.open(source), tmp_path / "cells")
    dense = cells.toarray()
    with ExitStack() as stack:
        reader = container.open(tmp_path / "cells", stack)
        blocks = list(reader.sequential())
        assert [block.shape[0] for block in blocks] == [4096, N_OBS - 4096]
        np.testing.assert_array_equal(sp.vstack(blocks).toarray(), dense)
        row = {values.tobytes(): i for i, values in enumerate(dense)}
        for n_runs in (8, BATCH):
            batch = next(reader.shuffled(n_runs, np.random.default_rng(0)))
            assert batch.dtype == np.float32
            positions = [row[values.tobytes()] for values in batch.toarray()]
            assert len(set(positions)) == BATCH
            if reader.n_fetched == 1:
                assert np.count_nonzero(np.diff(positions) != 1) + 1 <= n_runs
                assert np.count_nonzero(np.diff(positions) != 1) > n_runs / 4


def test_a_row_has_what_was_measured(source: Path) -> None:
    outcome = store.measure("kept", "mapped", str(source), 0.0)
    metrics = outcome.score()["kept"]
    assert len(outcome.seconds["kept"]) == 1
    assert set(store.COLUMNS) <= set(metrics)
    assert min(metrics[name] for name in store.COLUMNS) >= 0
    assert 3 < metrics["bytes_per_value"] < 5
    assert outcome.evidence == store.measure("kept", "h5ad_lzf", str(source), 0.0).evidence


def test_checksums_see_what_is_out_of_place(cells: sp.csr_matrix) -> None:
    class Held:
        def __init__(self, matrix: sp.csr_matrix) -> None:
            self.blocks = [matrix[:3000], matrix[3000:]]

        def sequential(self) -> list[sp.csr_matrix]:
            return self.blocks

    order = np.arange(N_OBS)
    order[[7, 4000]] = order[[4000, 7]]
    right = store._checksums(Held(cells))  # type: ignore[arg-type]
    assert right["sum"] == cells.sum(dtype=np.float64)
    for other in (cells[order], cells[:, np.r_[1, 0, 2:N_VARS]], cells[:-1]):
        assert store._checksums(Held(other)) != right  # type: ignore[arg-type]


def test_memory_is_that_of_the_process_and_not_of_files(tmp_path: Path) -> None:
    """In a process of its own, as in the benchmark: one that has run other tests may give memory back meanwhile."""
    (tmp_path / "file").write_bytes(bytes(64 * 2**20))
    script = f"""
import time

import numpy as np
from benchmarks import store

with store._anonymous_memory() as seen:
    mapped = np.memmap({str(tmp_path / "file")!r}, np.uint8, "r")
    mapped.sum()
    time.sleep(0.05)
assert seen[0] < 32, seen
with store._anonymous_memory() as seen:
    held = np.ones(64 * 2**20, np.uint8)
    patience = time.monotonic() + 10  # a busy machine may let the watcher wait
    while seen[0] <= 48 and time.monotonic() < patience:
        time.sleep(0.01)
assert seen[0] > 48, seen
assert held.all()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
