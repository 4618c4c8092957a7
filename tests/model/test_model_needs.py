"""What a run is planned to need, against what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from model_samples import GENES, planted

from sccagn_scale import Config, pp
from sccagn_scale.io import Copies, open_atlas
from sccagn_scale.model._needs import Need, Size, needs
from sccagn_scale.model._prepare import input_size


def needs_in_memory(size: Size, config: Config) -> dict[str, Need]:
    return needs(size, config, on_disk=False, device_type="cpu")


def test_needs_grow_with_the_cells_and_are_less_on_disk() -> None:
    for config in (Config(pretrain_steps=1), Config(init="consensus"), Config.preset("paper"), GENES):
        held = 8 * 650 if config.input_rep == "genes" else 0  # bytes a cell of blocks that are not on disk
        read = held if config.batch_size is None else 0  # and of what is read back for the one batch
        most = {}
        for n_obs in (10**5, 10**6, 10**7):
            size = Size(n_obs, 20_000, 1000 * n_obs, True)
            memory, disk = (needs(size, config, on_disk=on_disk, device_type="cpu") for on_disk in (False, True))
            assert list(memory) == list(disk)
            assert all(need.disk == 0 for need in memory.values())
            assert all(memory[stage].memory > disk[stage].memory > 0 for stage in memory)
            # what is not in memory is on disk, and so are the counts, to the end, which memory lets go of
            counts = 3 * size.nnz + 8 * n_obs
            for stage, need in memory.items():
                more = need.memory - disk[stage].memory - disk[stage].disk
                if stage == "Preprocess":
                    assert -held * n_obs / 2 - 8 <= more <= held * n_obs / 2 + 8  # laid out twice, at 6 bytes a value
                else:
                    read_back = read * n_obs if stage == "Joint training" else 0
                    assert more == pytest.approx(-read_back - counts, rel=1e-6, abs=8)
            most[n_obs] = max(need.memory for need in disk.values())
        assert most[10**5] < most[10**6] < most[10**7]


def test_a_consensus_takes_scaled_components_and_further_graphs() -> None:
    size = Size(10**6, 20_000, 10**9, True)
    one, many = (needs_in_memory(size, Config(init=init)) for init in ("mixture", "consensus"))
    more = {stage: many[stage].memory - one[stage].memory for stage in one}
    scaled = 4 * 50 * 10**6
    assert more.pop("Initial clusters") > 4 * scaled  # and a graph of both sets
    assert more == {"Preprocess": scaled, "Neighbors": scaled, "Joint training": 0, "Read out": 0, "Write": 0}


def test_the_whole_graph_as_one_batch_takes_what_was_measured() -> None:
    n_obs = 100_000
    size = Size(n_obs, 1000, 170 * n_obs, True)
    full = Config(batch_size=None, init="leiden", pretrain_steps=1, pretrain_batch_size=None)
    need = needs_in_memory(size, full)
    assert need["Joint training"].memory == pytest.approx(2450e6, rel=0.15)
    assert need["Pretrain"].memory == pytest.approx(1900e6, rel=0.15)
    in_batches = dataclasses.replace(full, batch_size=1024, pretrain_batch_size=256)
    assert all(need.memory < 900e6 for need in needs_in_memory(size, in_batches).values())
    alone = dataclasses.replace(in_batches, batch_size=None)
    assert needs_in_memory(size, alone)["Joint training"] == need["Joint training"]
    attention = dataclasses.replace(full, conv="gat")
    assert needs_in_memory(size, attention)["Joint training"].memory > 4 * need["Joint training"].memory
    on_gpu = needs(size, full, on_disk=False, device_type="cuda")
    assert on_gpu["Joint training"].memory < 900e6  # which has its own


def test_genes_as_one_batch_take_what_was_measured() -> None:
    need = needs_in_memory(Size(25_000, 20_000, 19_971_242, True), Config.preset("paper"))
    assert need["Joint training"].memory == pytest.approx(1556e6, rel=0.2)
    assert need["Preprocess"].memory == pytest.approx(1032e6, rel=0.2)


def test_blocks_are_planned_for_as_many_threads_as_work_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(n_threads: int) -> int:
        monkeypatch.setenv("OMP_NUM_THREADS", str(n_threads))
        return needs_in_memory(Size(50_000, 20_000, 10**8, True), Config())["Preprocess"].memory

    assert planned(2) < planned(4) == planned(64)


def test_cosine_takes_the_points_at_unit_length() -> None:
    size = Size(10**6, 20_000, 10**9, True)
    euclidean, cosine = (
        needs(size, Config(metric=metric, init="leiden"), on_disk=True, device_type="cpu")
        for metric in ("euclidean", "cosine")
    )
    more = {stage: cosine[stage].disk - euclidean[stage].disk for stage in cosine}
    assert more.pop("Neighbors") == 4 * 50 * 10**6
    assert set(more.values()) == {0}


def test_a_gpu_searches_with_memory_of_its_own() -> None:
    size = Size(100_000, 20_000, 10**8, True)
    on_cpu, on_gpu = (
        needs(size, Config(), on_disk=False, device_type=device)["Neighbors"].memory for device in ("cpu", "cuda")
    )
    assert on_gpu < on_cpu - 100 * size.n_obs


def test_batches_take_what_harmony_takes() -> None:
    size = Size(200_000, 1000, 10**7, True)
    plain, corrected = (
        needs(size, Config(), on_disk=True, device_type="cpu", corrects=corrects) for corrects in (False, True)
    )
    assert 300e6 < corrected["Preprocess"].memory - plain["Preprocess"].memory < 420e6
    assert corrected.items() - plain.items() == {("Preprocess", corrected["Preprocess"])}


def test_an_anndata_in_memory_takes_no_more_for_its_counts() -> None:
    stored, held = (Size(10**5, 20_000, 10**8, on_disk) for on_disk in (True, False))
    difference = [needs_in_memory(size, Config())["Preprocess"].memory for size in (stored, held)]
    # 3 bytes a count; an offset, and a name, of each cell
    assert difference[0] - difference[1] == pytest.approx(3e8 + (8 + 140) * 1e5)


def test_values_on_a_cluster_take_no_memory_here_but_the_names_of_the_cells_do() -> None:
    size = Size(10**5, 20_000, 10**8, True)
    here, there = (needs_in_memory(size._replace(on_cluster=on), Config())["Preprocess"].memory for on in (False, True))
    held = needs_in_memory(size._replace(is_on_disk=False), Config())["Preprocess"].memory
    assert here - there == pytest.approx(3e8 + 8e5)
    assert there - held == pytest.approx(140 * 1e5)


@pytest.mark.parametrize(
    ("change", "size"),
    [
        (lambda counts: counts, 1.0),
        (lambda counts: np.log1p(counts), 4.0),
        (lambda counts: counts * 300.0, 4.0),
        # one value in twenty is kept apart, with its place
        (lambda counts: np.where(np.arange(counts.size).reshape(counts.shape) % 20, counts, 999), 1 + 12 / 20),
    ],
    ids=["counts", "logged", "deep", "some deep"],
)
@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_a_value_is_planned_for_as_it_is_packed(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], size: float, layout: Callable[[np.ndarray], Any]
) -> None:
    adata = planted()
    adata.X = layout(change(1 + adata.X.toarray()).astype(np.float32))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    atlas = open_atlas([tmp_path / "cells.h5ad"], scratch=tmp_path)
    found = input_size(atlas, None)
    assert found.value_size == pytest.approx(size, rel=0.01)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cells.h5ad"]  # nothing was copied
    matrix = pp.select_matrix(atlas, None, tmp_path / "store")
    list(matrix.each(lambda start, block: block))
    taken = sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    assert taken == pytest.approx(found.packed, rel=0.02, abs=1000)
    plain = found._replace(value_size=1.0)
    for on_disk, part in ((False, "memory"), (True, "disk")):
        stage = "Preprocess" if part == "memory" else "Neighbors"
        one, other = (
            getattr(needs(s, Config(), on_disk=on_disk, device_type="cpu")[stage], part) for s in (found, plain)
        )
        assert one - other == pytest.approx((size - 1) * found.nnz, rel=0.02, abs=2)


def test_copies_of_what_is_stored_by_columns_are_planned_for() -> None:
    size, copies = Size(10**5, 20_000, 10**8, True), Copies(8 * 10**8, 12 * 10**8, 10**10)
    for on_disk in (False, True):
        plain, copied = (
            needs(s, Config(), on_disk=on_disk, device_type="cpu") for s in (size, size._replace(copies=copies))
        )
        more = {stage: copied[stage].disk - plain[stage].disk for stage in plain}
        assert more.pop("Preprocess") == 20 * 10**8
        assert set(more.values()) == {8 * 10**8}
        assert copied["Preprocess"].memory > 10**10
