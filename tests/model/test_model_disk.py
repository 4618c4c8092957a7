"""A run with its large arrays on disk gives what the run in memory gives, and cleans up; limits are kept or refused."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from model_samples import FAST, GENES, TINY, ReachedError, end_here, planted, two_batches, use_small_blocks

from sccagn_scale import SCCAGN, Config
from sccagn_scale._errors import InputError
from sccagn_scale.io import Atlas, StoredMatrix, open_atlas
from sccagn_scale.model import CELLS, _workspace
from sccagn_scale.model._needs import Need, Size
from sccagn_scale.model._prepare import input_size


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def atlas(tmp_path: Path) -> Atlas:
    planted().write_h5ad(tmp_path / "cells.h5ad")
    return open_atlas([tmp_path / "cells.h5ad"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks."""
    use_small_blocks(monkeypatch)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> int:
    """Memory with which every run has its large arrays on disk."""

    def said(size: Size, config: Config, *, on_disk: bool, **_: Any) -> dict[str, Need]:
        return {"Preprocess": Need(500 if on_disk else 2000, 10_000 if on_disk else 0)}

    monkeypatch.setattr(_workspace, "needs", said)
    return 1000


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(FAST, batch_size=64),
        GENES,
        dataclasses.replace(GENES, loader="neighbor", conv="sage"),
        dataclasses.replace(GENES, graph_rep="genes", conv="gat"),
        dataclasses.replace(FAST, input_rep="genes", batch_size=None),
    ],
    ids=["components", "genes", "neighbor, sage", "gene graph, gat", "one batch"],
)
def test_disk_and_memory_agree(atlas: Atlas, tmp_path: Path, small: None, on_disk: int, config: Config) -> None:
    in_memory = SCCAGN(atlas, 3, config, memory=10**9).train()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    stored = SCCAGN(atlas, 3, config, memory=on_disk, scratch=scratch).train()
    np.testing.assert_array_equal(stored.labels_, in_memory.labels_)
    np.testing.assert_allclose(stored.embedding_, in_memory.embedding_, atol=1e-3)
    np.testing.assert_allclose(stored.pcs_, in_memory.pcs_, atol=1e-5)
    assert (stored.adjacency_ != in_memory.adjacency_).nnz == 0
    np.testing.assert_allclose(stored.soft_assignments_, in_memory.soft_assignments_, atol=1e-3)
    assert list(scratch.iterdir()) == []
    stored.write_to(atlas.adata)
    assert atlas.adata.obs["sccagn"].nunique() == 3


class Watcher:
    """Keeps what each stage was told."""

    def __init__(self) -> None:
        self.told: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        self.totals: dict[str, float | None] = {}

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Any]:
        told: list[tuple[float, dict[str, Any]]] = []
        self.told[name], self.totals[name] = told, total

        class Stage:
            def advance(self, n: float = 1, /, **info: Any) -> None:
                told.append((n, info))

        yield Stage()


@pytest.mark.parametrize("config", [FAST, GENES, dataclasses.replace(GENES, graph_rep="genes")])
@pytest.mark.parametrize("is_small", [True, False])
def test_every_pass_is_told(
    atlas: Atlas,
    tmp_path: Path,
    small: None,
    on_disk: int,
    config: Config,
    is_small: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sccagn_scale.pp._matrix._MEASURABLE", 0.0)
    watcher = Watcher()
    SCCAGN(atlas, 3, config, memory=on_disk if is_small else 10**9, scratch=tmp_path, progress=watcher).train()
    told = watcher.told["Preprocess"]
    assert sum(n for n, _ in told) == watcher.totals["Preprocess"]
    assert all(info["cells/s a pass"] > 0 for _, info in told)
    reading = [n for n, info in told if "MB/s" in info]  # the first pass alone, but for its end
    assert 0 < sum(reading) <= atlas.n_obs


def test_new_cells_may_have_their_genes_in_another_order(atlas: Atlas, tmp_path: Path, on_disk: int) -> None:
    trained = SCCAGN(atlas, 3, GENES).train()
    trained.save(tmp_path / "model")
    shuffled = planted()
    shuffled = shuffled[:, np.random.default_rng(0).permutation(shuffled.n_vars)].copy()
    for memory in (None, on_disk):
        again = SCCAGN.load(tmp_path / "model", shuffled, memory=memory, scratch=tmp_path)
        np.testing.assert_array_equal(again.labels_, trained.labels_)


def test_large_arrays_are_no_memory(atlas: Atlas, tmp_path: Path, on_disk: int) -> None:
    stored = SCCAGN(atlas, 3, FAST, memory=on_disk, scratch=tmp_path).train()
    for array in (stored.pcs_, stored.embedding_, stored.adjacency_.data, stored.neighbors_.indices):
        assert array.base is not None
    assert SCCAGN(atlas, 3, FAST).train().adjacency_.data.base is None


def test_corrected_components_are_no_memory_either(tmp_path: Path, on_disk: int) -> None:
    adata = two_batches()
    stored = SCCAGN(adata, 3, FAST, batch_key="batch", memory=on_disk, scratch=tmp_path).train()
    assert stored.pcs_.base is not None
    np.testing.assert_array_equal(stored.pcs_, SCCAGN(adata, 3, FAST, batch_key="batch").train().pcs_)


def test_cells_that_fail_quality_control_have_no_place(tmp_path: Path, on_disk: int) -> None:
    adata = planted()
    empty = np.isin(np.arange(adata.n_obs), [3, 77])
    adata.X = sp.csr_matrix(adata.X.toarray() * ~empty[:, None])
    stored = SCCAGN(adata, 3, FAST, memory=on_disk, scratch=tmp_path).train()
    assert np.flatnonzero(stored.labels_ < 0).tolist() == [3, 77]
    assert np.isnan(stored.embedding_[[3, 77]]).all()
    assert np.isfinite(stored.pcs_[stored.keep_obs_]).all()


def test_a_store_is_taken_up_again(
    atlas: Atlas, tmp_path: Path, on_disk: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sccagn_scale")
    first = SCCAGN(atlas, 3, TINY, memory=on_disk, store=tmp_path / "store").train()
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["cells"]

    def fail(*_: Any) -> Any:
        raise AssertionError("the input was read")

    monkeypatch.setattr(StoredMatrix, "blocks", fail)
    for memory in (on_disk, 10**9):  # for a run in memory as well
        again = SCCAGN(atlas, 3, TINY, memory=memory, store=tmp_path / "store").train()
        np.testing.assert_array_equal(again.labels_, first.labels_)
    assert any("large arrays are kept on disk" in message for message in caplog.messages)


def test_a_kept_store_holds_the_cells_alone(atlas: Atlas, tmp_path: Path, on_disk: int) -> None:
    stored = SCCAGN(atlas, 3, GENES, memory=on_disk, store=tmp_path / "store").train()
    assert stored.n_clusters_ == 3
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["cells"]


def test_a_saved_model_is_applied_on_disk(atlas: Atlas, tmp_path: Path, on_disk: int) -> None:
    trained = SCCAGN(atlas, 3, GENES).train()
    trained.save(tmp_path / "model")
    loaded = SCCAGN.load(tmp_path / "model", atlas, memory=on_disk, scratch=tmp_path)
    np.testing.assert_array_equal(loaded.labels_, trained.labels_)


def test_a_failure_leaves_no_folder(
    atlas: Atlas, tmp_path: Path, on_disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sccagn_scale.graph.neighbors", end_here)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(ReachedError):
        SCCAGN(atlas, 3, FAST, memory=on_disk, scratch=scratch).train()
    assert list(scratch.iterdir()) == []


def test_too_little_memory_is_refused(atlas: Atlas, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`memory` = 1,000 bytes is too little: .* still takes about \d\d\d MB"):
        SCCAGN(atlas, 3, FAST, memory=1000, scratch=tmp_path).train()
    assert [entry.name for entry in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.parametrize("memory", [0, -1, 1.5, True, "4G", np.float64(8e9), np.bool_(True), np.int64(0)])
def test_memory_is_bytes(atlas: Atlas, memory: Any) -> None:
    with pytest.raises(InputError, match="`memory` must be a whole number of at least 1, in bytes, or None"):
        SCCAGN(atlas, 3, FAST, memory=memory).train()


def test_memory_may_be_a_whole_number_of_numpy(tmp_path: Path) -> None:
    assert SCCAGN(planted(), 3, TINY, memory=np.int64(8 * 10**9), scratch=tmp_path).train().n_clusters_ == 3


def test_the_guard_knows_the_device_and_the_batches(atlas: Atlas, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def said(size: Size, config: Config, **given: Any) -> dict[str, Need]:
        asked.append({"trains": config.joint_steps > 0, **given})
        raise ReachedError

    monkeypatch.setattr(_workspace, "needs", said)
    on_gpu = SCCAGN(two_batches(), 3, TINY, batch_key="batch")
    on_gpu.device = torch.device("cuda", 0)
    for work in (on_gpu.train, lambda: SCCAGN.load(kept, atlas, device="cpu")):
        with pytest.raises(ReachedError):
            work()
    assert asked == [
        {"trains": True, "on_disk": False, "device_type": "cuda", "corrects": True},
        {"trains": False, "on_disk": False, "device_type": "cpu", "corrects": False},
    ]


def test_too_small_a_disk_is_refused(
    atlas: Atlas, tmp_path: Path, on_disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9 - 9_999, 9_999))
    with pytest.raises(InputError, match=r"`store` needs about .* on the disk of .*, which has .* free"):
        SCCAGN(atlas, 3, FAST, memory=on_disk, scratch=tmp_path).train()


@pytest.mark.parametrize("is_same", [True, False])
def test_a_kept_store_that_is_used_again_makes_its_own_room(
    atlas: Atlas, tmp_path: Path, on_disk: int, is_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another input stays until the new one is whole, so that all of that must be free."""
    SCCAGN(atlas, 3, FAST, memory=on_disk, store=tmp_path).train()
    cells = sum(path.stat().st_size for path in (tmp_path / CELLS).iterdir())
    need = Need(500, cells + 5000)
    on_a_disk, in_memory = {"Preprocess": need}, {"Preprocess": Need(2000, 0)}
    monkeypatch.setattr(_workspace, "needs", lambda *_, on_disk, **__: on_a_disk if on_disk else in_memory)
    enough = 5000 if is_same else cells + 5000
    if not is_same:
        planted(seed=1).write_h5ad(tmp_path / "cells.h5ad")
        atlas = open_atlas([tmp_path / "cells.h5ad"])
    for free, is_enough in ((enough - 1, False), (enough, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: Usage(10**9, 10**9 - free, free))
        model = SCCAGN(atlas, 3, FAST, memory=on_disk, store=tmp_path)
        with nullcontext() if is_enough else pytest.raises(InputError, match=r"`store` needs about .* more `memory`"):
            model.train()


def test_the_disk_of_a_store_is_looked_at_where_all_else_is_in_memory(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = input_size(atlas, None).packed
    for free, is_enough in ((packed - 1, False), (packed, True), (0, True)):  # at last it is there
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: Usage(10**9, 10**9 - free, free))
        model = SCCAGN(atlas, 3, TINY, memory=10**9, store=tmp_path)
        with nullcontext() if is_enough else pytest.raises(InputError, match=r"`store` needs about .* leave `store`"):
            model.train()
    assert sum(path.stat().st_size for path in (tmp_path / CELLS).iterdir()) == pytest.approx(packed, abs=2000)


def test_a_store_that_cannot_be(atlas: Atlas, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"`store` .*file/in. cannot be made"):
        SCCAGN(atlas, 3, FAST, store=tmp_path / "file" / "in").train()


def test_the_guard_counts_the_names_where_a_cluster_has_the_values(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def said(size: Size, *_: Any, **__: Any) -> dict[str, Need]:
        asked.append((size.is_on_disk, size.packed))
        raise ReachedError

    monkeypatch.setattr(_workspace, "needs", said)
    monkeypatch.setattr(_workspace, "_connected", lambda dask: nullcontext())
    with pytest.raises(ReachedError):
        SCCAGN(atlas, 3, TINY, dask="local").train()
    assert asked == [(True, 0)]


def test_a_store_spares_the_copy_of_what_is_stored_by_columns(tmp_path: Path) -> None:
    adata = planted()
    adata.X = adata.X.tocsc()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    labels = []
    for is_copied in (True, False):
        atlas = open_atlas([tmp_path / "cells.h5ad"], scratch=scratch)
        labels.append(SCCAGN(atlas, 3, TINY, store=tmp_path / "store").train().labels_)
        assert bool(list(scratch.rglob("*.h5"))) == is_copied
        atlas.close()
    np.testing.assert_array_equal(*labels)


def test_values_of_two_kinds_are_refused(tmp_path: Path) -> None:
    counts, logged = planted(), planted(seed=1)
    logged.X = logged.X.astype(np.float32).log1p()
    logged.obs_names = [f"other{i}" for i in range(logged.n_obs)]
    for name, adata in (("counts", counts), ("logged", logged)):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    atlas = open_atlas([tmp_path / "counts.h5ad", tmp_path / "logged.h5ad"])
    with pytest.raises(
        InputError, match=r"one kind of values, but '.*counts\.h5ad' holds counts and '.*logged\.h5ad' l"
    ):
        SCCAGN(atlas, 3, TINY).train()
    taken = SCCAGN(atlas, 3, dataclasses.replace(TINY, input_kind="log")).train()
    assert len(taken.labels_) == counts.n_obs + logged.n_obs


def test_two_files_are_their_cells_in_one(tmp_path: Path, small: None) -> None:
    adata = planted()
    adata.write_h5ad(tmp_path / "all.h5ad")
    adata[:130].copy().write_h5ad(tmp_path / "a.h5ad")
    adata[130:, ::-1].copy().write_h5ad(tmp_path / "b.h5ad")
    whole = SCCAGN(open_atlas([tmp_path / "all.h5ad"]), 3, FAST).train()
    parts = SCCAGN(open_atlas([tmp_path / "a.h5ad", tmp_path / "b.h5ad"]), 3, FAST).train()
    np.testing.assert_array_equal(parts.labels_, whole.labels_)
    np.testing.assert_allclose(parts.pcs_[:, :2], whole.pcs_[:, :2], atol=1e-4)  # the two that are not noise
    assert isinstance(ad.read_h5ad(tmp_path / "a.h5ad"), ad.AnnData)  # inputs can still be read


@pytest.mark.parametrize("is_memory", [True, False])
def test_a_store_that_is_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_memory: bool
) -> None:
    monkeypatch.setattr(_workspace, "is_in_memory", lambda folder: is_memory)
    planted().write_h5ad(tmp_path / "cells.h5ad")
    SCCAGN(open_atlas(tmp_path / "cells.h5ad"), 3, TINY, store=tmp_path / "store").train()
    assert ("takes memory, as that is no disk (tmpfs)" in caplog.text) is is_memory
