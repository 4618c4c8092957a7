"""Results replace earlier results of ours, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sccagn_scale._errors import InputError
from sccagn_scale._keys import Keys
from sccagn_scale.io import free_keys

CLUSTERED = {"params": {"nu": 1.0}, "versions": {"torch": "2"}, "n_clusters": 2}
RECLUSTERED = {"key": "sccagn", "n_clusters": 3, "random_state": 0}


def cells(obs: tuple[str, ...] = (), obsm: tuple[str, ...] = (), uns: dict[str, Any] | None = None) -> AnnData:
    return AnnData(
        np.zeros((2, 1)),
        obs=pd.DataFrame({name: ["a", "b"] for name in obs}, index=["x", "y"]),
        obsm={name: np.zeros((2, 3)) for name in obsm},
        uns=uns or {},
    )


@pytest.mark.parametrize(
    "there",
    [
        cells(),
        cells(("type", "mine_conf"), ("X_pca", "X_umap"), {"neighbors": {}, "umap": {}}),
        cells(("mine", "mine_confidence"), ("X_mine",), {"mine": CLUSTERED}),
        cells(("mine", "mine_confidence"), uns={"mine": RECLUSTERED}),
        cells(("mine", "mine_confidence"), ("X_mine",)),  # what anndata.concat leaves
    ],
)
def test_what_is_free_or_ours_may_be_written(there: AnnData) -> None:
    assert free_keys("mine", there) == Keys("mine")


@pytest.mark.parametrize(
    ("there", "name"),
    [
        (cells(("mine",)), r"obs\['mine'\]"),
        (cells(("mine_confidence",)), r"obs\['mine_confidence'\]"),
        (cells(obsm=("X_mine",)), r"obsm\['X_mine'\]"),
        (cells(uns={"mine": {"params": {}}}), r"uns\['mine'\]"),  # as scanpy's steps leave
        (cells(("mine", "mine_confidence"), uns={"mine": [1, 2]}), r"obs\['mine'\]"),
    ],
)
def test_what_belongs_to_others_stays(there: AnnData, name: str) -> None:
    with pytest.raises(InputError, match=f"`key_added` = 'mine' would replace {name}, which is no clustering of ours"):
        free_keys("mine", there)


@pytest.mark.parametrize("name", ["", ".", "..", "_index", "a/b", "/", 3, None])
def test_names_that_no_file_can_hold(name: Any) -> None:
    with pytest.raises(InputError, match="`key_added` must be a name, not empty and without a slash; it is "):
        free_keys(name, cells())


@pytest.mark.parametrize("name", ["a\\b", "a\0", "a\udcff", "\ud800"])
def test_names_that_not_every_file_can_hold(name: str) -> None:
    with pytest.raises(InputError, match=r"`key_added` must be a name that every file can hold, .*; it is ") as caught:
        free_keys(name, cells())
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["neighbors", "pca", "file", "umap", "tsne", "diffmap"])
def test_names_that_stand_for_something_else(name: str) -> None:
    with pytest.raises(InputError, match=f"`key_added` must not be '{name}'"):
        free_keys(name, cells())


def test_the_index_of_obs_has_its_name() -> None:
    adata = AnnData(shape=(2, 0))
    for name in ("mine", "mine_confidence"):
        adata.obs.index.name = name
        with pytest.raises(InputError, match=r"`key_added` = 'mine' must not be the name of obs's index"):
            free_keys("mine", adata)
