"""Mistakes are told in one sentence, and change nothing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from model_samples import FAST, TINY, assert_same, content, planted, use_small_blocks

from sccagn_scale import SCCAGN, Config, InputError, cluster, open_atlas, plan, recluster
from sccagn_scale.model import _workspace
from sccagn_scale.model._needs import Need


def test_only_an_atlas_is_planned() -> None:
    with pytest.raises(InputError, match=r"`atlas` must be what `open_atlas` returns; it is of type AnnData\."):
        plan(planted())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 1}, r"`n_clusters` must be a whole number of at least 2, or None; it is 1\."),
        ({"n_clusters": 301}, r"`n_clusters` = 301 needs at least as many cells; there are 300"),
        ({"n_clusters": 2.5}, r"`n_clusters` must be a whole number of at least 2, or None; it is 2\.5\."),
        ({"n_clusters": True}, r"`n_clusters` must be a whole number of at least 2, or None; it is True\."),
        (
            {"config": dataclasses.replace(Config(), n_neighbors=301)},
            r"`n_neighbors` = 301 needs at least as many cells",
        ),
        ({"config": "best"}, r"`config` must be a Config or one of 'default', 'paper'; it is 'best'\."),
        ({"layer": "counts"}, r"`layer` must be one of None \(X\); there is no 'counts'\."),
        ({"layer": "raw"}, r"`layer` must be one of None \(X\); there is no 'raw'\."),
        ({"device": "tpu"}, r"`device` must be 'auto', 'cpu' or 'cuda'; it is 'tpu'\."),
        ({"random_state": -1}, "`random_state` must be a whole number of at least 0 and below 2³²; it is -1"),
        ({"random_state": 2**32}, "`random_state` must be below 2³²; it is 4294967296"),
        ({"random_state": 1.0}, r"`random_state` must be a whole number of at least 0 and below 2³²; it is 1\.0"),
        ({"random_state": None}, "`random_state` must be a whole number of at least 0 and below 2³²; it is None"),
        ({"key_added": ""}, "`key_added` must be a name, not empty and without a slash; it is ''"),
        ({"key_added": "a/b"}, "`key_added` must be a name, not empty and without a slash; it is 'a/b'"),
        ({"key_added": "_index"}, "`key_added` must be a name"),
        ({"key_added": None}, "`key_added` must be a name"),
        ({"key_added": "neighbors"}, "`key_added` must not be 'neighbors', which stands for something else"),
        ({"key_added": "pca"}, "`key_added` must not be 'pca'"),
        ({"key_added": "type"}, r"`key_added` = 'type' would replace obs\['type'\], which is no clustering of ours"),
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


@pytest.mark.parametrize("adata", ["cells.h5ad", np.eye(3), sp.eye(3, format="csr"), None, [planted()]])
def test_what_is_no_anndata(adata: Any, kept: Path) -> None:
    for work in (cluster, recluster, SCCAGN, lambda cells: SCCAGN.load(kept, cells)):
        with pytest.raises(InputError, match="`adata` must be an AnnData"):
            work(adata)


def test_an_atlas_is_for_the_class(tmp_path: Path) -> None:
    planted().write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=r"`adata` must be an AnnData.*of type Atlas.*there is `SCCAGN`"):
        cluster(open_atlas(tmp_path / "cells.h5ad"))  # type: ignore[arg-type]


def test_a_view_of_a_file_would_be_read_whole(tmp_path: Path) -> None:
    planted().write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for view in (backed[::-1], backed[:, :100], backed[:200]):
        with pytest.raises(InputError, match=r"view of an AnnData that is backed by a file.*give `adata\.to_memory"):
            cluster(view)
    cluster(backed[:200].to_memory(), 3, TINY)


def test_what_is_there_after_training_only() -> None:
    model = SCCAGN(planted(), 3, TINY)
    for ask in (lambda: model.labels_, lambda: model.soft_assignments_, lambda: model.write_to(planted())):
        with pytest.raises(AttributeError, match=r"SCCAGN has no `.*_` before `train` has run"):
            ask()
    assert not hasattr(model, "labels")
    with pytest.raises(AttributeError, match=r"SCCAGN has no `labels`\."):
        _ = model.labels  # type: ignore[attr-defined]


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
        with pytest.raises(InputError, match=rf"The input is empty: it has {shape[0]} cells and {shape[1]} genes\."):
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


def test_results_are_for_the_same_cells_in_the_same_order() -> None:
    adata = planted()
    model = SCCAGN(adata, 3, TINY).train()
    for other, message in (
        (adata[::-1].copy(), r"its cell 0 is 'cell299', the model's 'cell0'\."),
        (adata[np.r_[:7, 8, 7, 9:300]].copy(), r"its cell 7 is 'cell8', the model's 'cell7'\."),
        (adata[:299].copy(), r"the 300 cells the model was made with; it has 299\."),
    ):
        before = content(other)
        with pytest.raises(InputError, match=message):
            model.write_to(other)
        assert_same(before, content(other))
    model.write_to(adata.copy())
    text = adata.copy()
    text.obs_names = text.obs_names.astype("string")
    model.write_to(text)
    whole = adata.copy()
    adata.obs_names = [f"renamed{i}" for i in range(300)]
    model.write_to(adata)  # they are still the same
    adata._inplace_subset_obs(np.arange(100))
    with pytest.raises(InputError, match=r"the 300 cells the model was made with; it has 100\."):
        model.write_to(adata)
    model.write_to(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"progress": None}, "`progress` must be True, False, or have a method `stage`; it is None"),
        ({"store": 5}, "`store` must be the path of a file or folder, a str or a Path, but is of type int"),
        ({"scratch": 5}, "`scratch` must be the path of a file or folder, a str or a Path, but is of type int"),
        ({"dask": 5}, "`dask` must be 'local', the address of a scheduler, or None; it is 5"),
        ({"dask": "local"}, "`dask` = 'local' is of use for files, which the workers read; these cells are in memory"),
        ({"memory": "8G"}, "`memory` must be a whole number of at least 1, in bytes, or None; it is '8G'"),
    ],
)
def test_where_and_how_it_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        SCCAGN(planted(), 3, TINY, **options).train()


def test_a_scratch_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "needs", lambda *_, on_disk, **__: {"all": Need(0 if on_disk else 2, 1)})
    with pytest.raises(InputError, match=r"`scratch` must be a folder that takes new files: .*No such file"):
        SCCAGN(planted(), 3, TINY, memory=1, scratch=tmp_path / "none").train()


@pytest.mark.parametrize(
    ("changes", "n_clusters"),
    [
        *(({"init": init}, 3) for init in ("consensus", "leiden", "ward", "mixture", "kmeans")),
        *(({"init": init}, None) for init in ("consensus", "leiden")),
        *(({"batch_size": 64, "pretrain_batch_size": 64, "loader": name}, 3) for name in ("partition", "neighbor")),
        ({"knn_backend": "ivf"}, 3),
    ],
)
def test_the_largest_seed_is_taken_everywhere(changes: dict[str, Any], n_clusters: int | None) -> None:
    adata, seed = planted(), 2**32 - 1
    cluster(adata, n_clusters, dataclasses.replace(TINY, **changes), random_state=seed)
    assert set(adata.obs["sccagn"]) == {"0", "1", "2"}
    assert adata.obs[recluster(adata, 5, random_state=seed)].nunique() == 5


def test_a_search_that_cannot_run_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sccagn_scale.graph.why_unavailable", lambda name: "faiss sees no GPU" if name == "flat_gpu" else None
    )
    with pytest.raises(InputError, match="`knn_backend` must be one that can run here, but 'flat_gpu' cannot: faiss"):
        SCCAGN(planted(), 3, dataclasses.replace(TINY, knn_backend="flat_gpu"))


def test_pretraining_that_diverges_at_its_last_step_is_told() -> None:
    """Nothing looks at a loss after that step."""
    with pytest.raises(InputError, match=r"Training diverged.*`learning_rate`"):
        SCCAGN(planted(), 3, dataclasses.replace(FAST, pretrain_steps=1, learning_rate=1e30)).train()


def test_copies_of_a_few_cells() -> None:
    """Clusters of cells that are all alike have no extent; rounding must not be taken for one."""
    copies = ad.AnnData(sp.csr_matrix(planted((20, 15, 10)).X[np.repeat(np.arange(45), 10)]))
    model = SCCAGN(copies, 45, TINY).train()
    assert np.isfinite(model.embedding_).all()
    assert np.abs(model.embedding_).max() < 1e3


@pytest.mark.filterwarnings("ignore:.* genes have the same value")
def test_more_clusters_than_there_are_distinct_cells() -> None:
    copies = ad.AnnData(sp.csr_matrix(planted((20, 15, 10)).X[np.repeat([0, 1, 2], 12)]))
    with pytest.raises(InputError, match=r"`n_clusters` = 6 is more than the 3 groups of distinct cells"):
        SCCAGN(copies, 6, dataclasses.replace(TINY, init="kmeans")).train()


def test_the_last_block_may_have_no_cell_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)
    adata = planted()
    lil = adata.X.tolil()
    lil[200:] = 0
    adata.X = lil.tocsr()
    assert (SCCAGN(adata, 3, TINY).train().labels_[200:] == -1).all()
