"""How good the clusters are, and how steady: the whole job through the Python interface."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from model_samples import FAST, TINY, planted, use_small_blocks
from sklearn.metrics import adjusted_rand_score

import sccagn_scale
from sccagn_scale import SCCAGN, Config, cluster, clustering


def agreement(adata: ad.AnnData, key: str = "sccagn") -> float:
    return float(adjusted_rand_score(adata.obs["type"], adata.obs[key]))


@pytest.mark.parametrize("n_clusters", [3, None])
def test_planted_types_are_found(n_clusters: int | None) -> None:
    adata = planted()
    cluster(adata, n_clusters, FAST)
    assert adata.obs["sccagn"].nunique() == 3
    assert adata.uns["sccagn"]["n_clusters"] == 3
    assert agreement(adata) > 0.9


def test_seed_decides_everything() -> None:
    first, again, other = (SCCAGN(planted(), 3, FAST, random_state=seed).train() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.labels_, again.labels_)
    np.testing.assert_array_equal(first.embedding_, again.embedding_)
    pd.testing.assert_frame_equal(first.history_, again.history_)
    assert not np.array_equal(first.embedding_, other.embedding_)


def test_global_generators_are_left_alone_and_have_no_say() -> None:
    def state() -> tuple[bytes, bytes, object]:
        return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()).encode(), random.getstate()  # noqa: NPY002

    before = state()
    first = SCCAGN(planted(), None, TINY).train()
    assert state() == before
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    again = SCCAGN(planted(), None, TINY).train()
    np.testing.assert_array_equal(first.embedding_, again.embedding_)


def test_clusters_that_lose_all_cells_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    centers = clustering.centers
    monkeypatch.setattr(clustering, "centers", lambda z, labels: centers(z, labels) + np.float32([[0], [0], [1e4]]))
    model = SCCAGN(planted(), 3, dataclasses.replace(FAST, joint_steps=0)).train()
    assert np.bincount(model.labels_).tolist()[2:] == []
    assert [r.getMessage()[:58] for r in caplog.records if r.levelname == "WARNING"] == [
        "After joint training 1 of the 3 clusters hold no cell; a l"
    ]


def test_batches_of_part_of_the_graph() -> None:
    adata = planted()
    config = dataclasses.replace(FAST, batch_size=100, pretrain_batch_size=50, pretrain_steps=60, joint_steps=30)
    model = SCCAGN(adata, 3, config).train()
    assert model.history_["stage"].eq("joint").sum() <= 10  # three batches to an epoch
    assert adjusted_rand_score(adata.obs["type"], model.labels_) > 0.9


def test_paper_preset() -> None:
    adata = planted()
    paper = dataclasses.replace(Config.preset("paper"), pretrain_steps=30, joint_steps=10, n_init=5)
    model = SCCAGN(adata, 3, paper).train()
    assert adjusted_rand_score(adata.obs["type"], model.labels_) > 0.9
    assert model.neighbors_.indices.shape[1] == 11  # ten and the cell itself
    named = SCCAGN(adata, 3, "paper")
    assert named.config == Config.preset("paper")


def test_types_in_the_anndata_have_no_influence() -> None:
    adata = planted()
    with_types = SCCAGN(adata, None, TINY).train()
    bare = ad.AnnData(copy.copy(adata.X))
    without = SCCAGN(bare, None, TINY).train()
    np.testing.assert_array_equal(with_types.embedding_, without.embedding_)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_blocks_groups_and_a_file_change_nothing_that_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    """As an atlas is treated: X left in its file, many blocks, communities sought on groups of cells."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    adata, config = planted(), dataclasses.replace(FAST, init="leiden")
    cluster(adata, config=config)
    planted().write_h5ad(tmp_path / "cells.h5ad")
    use_small_blocks(monkeypatch)
    monkeypatch.setattr("sccagn_scale.model._initial._SKETCH", 60)
    seen = []
    finder = clustering.CommunityFinder
    monkeypatch.setattr(clustering, "CommunityFinder", lambda *a, **k: seen.append(k.get("groups")) or finder(*a, **k))
    backed = sccagn_scale.read(tmp_path / "cells.h5ad", backed=True)
    cluster(backed, config=config)
    assert backed.isbacked
    scored, divided = seen[:2]
    assert scored is None  # the number is estimated cell by cell
    assert len(set(divided.tolist())) < 100 < len(divided)
    assert backed.obs["sccagn"].nunique() == adata.obs["sccagn"].nunique() == 3
    assert adjusted_rand_score(adata.obs["sccagn"], backed.obs["sccagn"]) > 0.97
    # the two components that are not noise
    np.testing.assert_allclose(backed.obsm["X_pca"][:, :2], adata.obsm["X_pca"][:, :2], atol=1e-4)


@contextmanager
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "session",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu"),
        _in_float64,
        lambda: torch.device("meta"),
        lambda: np.errstate(all="raise"),
    ],
    ids=["no_grad", "inference", "autocast", "float64", "device", "errstate"],
)
def test_what_the_session_has_torch_do_changes_nothing(session: Callable[[], Any], tmp_path: Path) -> None:
    expected = SCCAGN(planted(), 3, TINY).train()
    with session():
        model = SCCAGN(planted(), 3, TINY).train()
        model.save(tmp_path / "model")
        loaded = SCCAGN.load(tmp_path / "model", planted())
    np.testing.assert_array_equal(model.embedding_, expected.embedding_)
    np.testing.assert_array_equal(loaded.labels_, expected.labels_)


def test_threads_do_not_draw_from_each_others_generator() -> None:
    alone = [SCCAGN(planted(), 3, TINY, random_state=seed).train().embedding_ for seed in range(4)]
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda seed: SCCAGN(planted(), 3, TINY, random_state=seed).train(), [0, 1, 2, 3] * 2))
    for model, expected in zip(models, alone * 2, strict=True):
        np.testing.assert_array_equal(model.embedding_, expected)
    assert torch.equal(torch.get_rng_state(), before)
