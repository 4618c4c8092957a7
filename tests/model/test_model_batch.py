"""Clusters of cells from several batches, with and without correction."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harmonypy
import numpy as np
import pandas as pd
import pytest
from model_samples import FAST, TINY, assert_same, content, planted, two_batches
from sklearn.metrics import adjusted_rand_score

from sccagn_scale import SCCAGN, Config, InputError, cluster, graph


def batch_pure(labels: pd.Series, batches: pd.Series) -> float:
    """Share of the clusters nine tenths of which come from one batch."""
    sizes = pd.crosstab(labels, batches)
    return float((sizes.max(axis=1) > 0.9 * sizes.sum(axis=1)).mean())


def test_clusters_are_of_types_and_no_longer_of_batches() -> None:
    adata = two_batches()
    cluster(adata, None, FAST, key_added="plain")
    plain_pcs = adata.obsm["X_pca"]
    cluster(adata, None, FAST, batch_key="batch")
    agreement = {key: adjusted_rand_score(adata.obs["type"], adata.obs[key]) for key in ("plain", "sccagn")}
    pure = {key: batch_pure(adata.obs[key], adata.obs["batch"]) for key in ("plain", "sccagn")}
    assert agreement["plain"] < 0.8 < 0.95 < agreement["sccagn"]
    assert pure["sccagn"] == 0 < 0.4 < pure["plain"]
    late = (adata.obs["batch"] == "late").to_numpy()
    gaps = [
        np.linalg.norm(pcs[late].mean(axis=0) - pcs[~late].mean(axis=0)) for pcs in (plain_pcs, adata.obsm["X_pca"])
    ]
    assert gaps[1] < 0.8 * gaps[0]  # what is written is corrected


def test_the_network_and_the_graph_are_made_of_corrected_components(monkeypatch: pytest.MonkeyPatch) -> None:
    corrected = np.random.default_rng(0).normal(size=(300, 50)).astype(np.float32)
    monkeypatch.setattr("sccagn_scale.pp.correct_batches", lambda *_, **__: corrected)
    adata = two_batches()
    model, other = (SCCAGN(cells, 3, TINY, batch_key="batch").train() for cells in (adata, adata[::-1].copy()))
    np.testing.assert_array_equal(model.pcs_, corrected)
    expected = graph.neighbors(corrected, TINY.n_neighbors, "exact")
    np.testing.assert_array_equal(model.neighbors_.indices, expected.indices)
    assert model.recipe_.pc_scale == pytest.approx(np.sqrt(np.square(corrected).sum(axis=1).mean()))
    # other cells that are corrected to the same components are the same to the network
    np.testing.assert_array_equal(other.embedding_, model.embedding_)
    np.testing.assert_array_equal(other.soft_assignments_, model.soft_assignments_)


def test_seed_decides_everything() -> None:
    first, again = (SCCAGN(two_batches(), 3, TINY, batch_key="batch", random_state=1).train() for _ in range(2))
    np.testing.assert_array_equal(first.labels_, again.labels_)
    np.testing.assert_array_equal(first.embedding_, again.embedding_)
    np.testing.assert_array_equal(first.pcs_, again.pcs_)


def test_without_it_a_column_of_batches_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = two_batches()
    with_column = SCCAGN(adata, 3, TINY).train()
    del adata.obs["batch"]
    monkeypatch.setitem(sys.modules, "harmonypy", None)  # nor is the package touched
    without = SCCAGN(adata, 3, TINY).train()
    np.testing.assert_array_equal(with_column.embedding_, without.embedding_)
    np.testing.assert_array_equal(with_column.pcs_, without.pcs_)


def test_record_and_announcement(caplog: pytest.LogCaptureFixture) -> None:
    adata = two_batches()
    with caplog.at_level(logging.INFO, "sccagn_scale"):
        cluster(adata, 3, TINY, batch_key="batch")
    record = adata.uns["sccagn"]
    assert (record["params"]["batch_key"], record["versions"]["harmonypy"]) == ("batch", harmonypy.__version__)
    version = harmonypy.__version__
    assert f"Components are corrected for the 2 batches of 'batch' (harmonypy {version})." in caplog.messages
    cluster(adata, 3, TINY)
    assert adata.uns["sccagn"]["params"]["batch_key"] == "none"
    assert "harmonypy" not in adata.uns["sccagn"]["versions"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_key": "donor"},
            "`batch_key` must name a column of obs, but there is no 'donor'; the columns are: 'type'",
        ),
        ({"batch_key": "one"}, "`batch_key` = 'one' must have at least two values among the cells; all 300 have 'x'"),
        ({"batch_key": "gaps"}, "`batch_key` = 'gaps' must have a value for every cell; 1 of 300 cells have none"),
        ({"config": "paper"}, '`batch_key` needs `input_rep` = "pca", since Harmony corrects components and not genes'),
        ({"config": dataclasses.replace(Config(), graph_rep="genes")}, '`batch_key` needs `graph_rep` = "pca"'),
    ],
)
def test_mistakes_are_told_before_the_work_and_change_nothing(options: dict[str, Any], message: str) -> None:
    adata = two_batches()
    adata.obs["one"] = "x"
    adata.obs["gaps"] = adata.obs["batch"].where(np.arange(300) != 7)
    before = content(adata)
    with pytest.raises(InputError, match=message) as error:
        SCCAGN(adata, 3, **({"batch_key": "batch"} | options))
    assert "\n" not in str(error.value)
    assert_same(before, content(adata))


def test_one_batch_left_by_quality_control() -> None:
    adata = planted()
    adata.obs["batch"] = np.where(np.arange(300) < 3, "poor", "good")
    lil = adata.X.tolil()
    lil[:3] = 0
    adata.X = lil.tocsr()
    before = content(adata)
    with pytest.raises(InputError, match="among the cells that pass quality control; all 297 have 'good'"):
        cluster(adata, 3, TINY, batch_key="batch")
    assert_same(before, content(adata))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, r"`batch_key` needs the package harmonypy, which cannot be used: not installed \(pip install "),
        (SimpleNamespace(), r"`batch_key` needs harmonypy 2\.1 or newer; 0\.0\.10 is installed\. Bring it up to date"),
    ],
)
def test_harmonypy_absent_or_too_old(module: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "harmonypy", module)
    monkeypatch.setattr("sccagn_scale._compat.package_version", lambda _: "0.0.10")
    with pytest.raises(InputError, match=message):
        SCCAGN(two_batches(), 3, batch_key="batch")


def test_a_corrected_model_is_not_saved(tmp_path: Path) -> None:
    model = SCCAGN(two_batches(), 3, TINY, batch_key="batch").train()
    with pytest.raises(InputError, match=r"A model with `batch_key` = 'batch' cannot be saved: .* Keep the results"):
        model.save(tmp_path / "kept")
    assert not list(tmp_path.iterdir())
