"""Mistakes are told in one sentence, and change nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from model_samples import TINY, assert_same, content, planted

from sccagn_scale import Config, InputError, cluster


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 1}, r"`n_clusters` must be at least 2; it is 1\."),
        ({"n_clusters": 301}, r"`n_clusters` = 301 needs at least as many cells; there are 300"),
        ({"n_clusters": 2.5}, r"`n_clusters` must be a whole number or None; it is 2\.5\."),
        ({"n_clusters": True}, r"`n_clusters` must be a whole number or None; it is True\."),
        (
            {"config": dataclasses.replace(Config(), n_neighbors=301)},
            r"`n_neighbors` = 301 needs at least as many cells",
        ),
        ({"config": "best"}, r"`config` must be a Config or one of 'default', 'paper'; it is 'best'\."),
        ({"layer": "counts"}, r"`layer` must be one of None \(X\); there is no 'counts'\."),
        ({"layer": "raw"}, r"`layer` must be one of None \(X\); there is no 'raw'\."),
        ({"device": "tpu"}, r"`device` must be 'auto', 'cpu' or 'cuda'; it is 'tpu'\."),
        (
            {"config": dataclasses.replace(Config(), min_cells_frac=1.0)},
            "`min_cells_frac` = 1 filters out all 200 genes",
        ),
        (
            {"config": dataclasses.replace(Config(), min_genes_frac=1.0)},
            "`min_genes_frac` = 1 filters out all 300 cells",
        ),
    ],
)
def test_wrong_parameters_change_nothing(options: dict[str, Any], message: str) -> None:
    adata = planted()
    before = content(adata)
    with pytest.raises(InputError, match=message) as error:
        cluster(adata, **options)
    assert "\n" not in str(error.value)
    assert_same(before, content(adata))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_to_use() -> None:
    with pytest.raises(InputError, match="`device` = 'cuda' needs a GPU"):
        cluster(planted(), device="cuda")


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "negative values"), (np.nan, "1 NaN or infinite"), (np.inf, "1 NaN or infinite")],
)
def test_values_that_cannot_be_clustered(value: float, message: str) -> None:
    adata = planted()
    adata.X = adata.X.astype(np.float32)
    adata.X.data[5] = value
    before = content(adata)
    with pytest.raises(InputError, match=message):
        cluster(adata)
    assert_same(before, content(adata))


def test_empty_matrices() -> None:
    for shape in ((0, 5), (5, 0)):
        with pytest.raises(InputError):
            cluster(ad.AnnData(sp.csr_matrix(shape, dtype=np.float32)))
    with pytest.raises(InputError, match="filters out all"):
        cluster(ad.AnnData(sp.csr_matrix((30, 20), dtype=np.int32)))


def test_quality_control_can_leave_too_few_cells() -> None:
    adata = planted()
    lil = adata.X.tolil()
    lil[10:] = 0
    adata.X = lil.tocsr()
    before = content(adata)
    with pytest.raises(InputError, match=r"`n_neighbors`"):
        cluster(adata, 3, TINY)
    few = dataclasses.replace(TINY, n_neighbors=4)
    with pytest.raises(InputError, match=r"`n_clusters` = 11 needs at least as many cells; there are 10 that pass"):
        cluster(adata, 11, few)
    assert_same(before, content(adata))


def test_failure_while_training_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = planted()
    before = content(adata)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("sccagn_scale.train.train_jointly", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        cluster(adata, 3, TINY)
    assert_same(before, content(adata))
