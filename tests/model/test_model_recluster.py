"""`recluster` on what `cluster` wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from model_samples import FAST, planted

import sccagn_scale
from sccagn_scale import InputError, recluster
from sccagn_scale.metrics import evaluate
from sccagn_scale.ops.student_t import student_t_assign_reference


@pytest.fixture(scope="module")
def trained() -> ad.AnnData:
    """Six types in six clusters."""
    adata = planted((150, 120, 90, 80, 70, 60))
    sccagn_scale.cluster(adata, 6, FAST)
    assert evaluate(adata.obs["type"], adata.obs["sccagn"])["ari"] > 0.9
    return adata


@pytest.fixture
def clustered(trained: ad.AnnData) -> ad.AnnData:
    return trained.copy()


def at_random(n_clusters: int, seed: int, n_cells: int = 10) -> ad.AnnData:
    """Clusters of so many cells at random places."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(n_clusters), n_cells))
    adata = ad.AnnData(shape=(len(labels), 0))
    adata.obs["sccagn"] = pd.Categorical(labels.astype(str), [str(i) for i in range(n_clusters)])
    places = rng.normal(size=(n_clusters, 3))[labels]
    adata.obsm["X_sccagn"] = (places + 0.1 * rng.normal(size=places.shape)).astype(np.float32)
    adata.uns["sccagn"] = {"params": {"nu": "none"}}
    return adata


def test_clusters_are_parts_or_unions_of_those_there_were(clustered: ad.AnnData) -> None:
    before = clustered.obs["sccagn"].astype(str)
    for wanted in (2, 3, 5, 6, 7, 12, 30):
        assert recluster(clustered, wanted) == f"sccagn_k{wanted}"
        after = clustered.obs[f"sccagn_k{wanted}"]
        assert after.nunique() == wanted == len(after.cat.categories)
        for old, new in zip(before, after, strict=True):
            assert old in new.split("+") or old == new.partition(",")[0]
        pairs = set(zip(before, after.astype(str), strict=True))
        assert len(pairs) == max(6, wanted)
    pd.testing.assert_series_equal(clustered.obs["sccagn_k6"].astype(str), before, check_names=False)


@st.composite
def clusterings(draw: st.DrawFn) -> ad.AnnData:
    """Clusters of any sizes, some cells without one, in any order."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = rng.permutation(np.repeat(np.arange(-1, len(sizes)), [draw(st.integers(0, 5)), *sizes]))
    adata = ad.AnnData(shape=(len(labels), 0))
    adata.obs["sccagn"] = pd.Categorical.from_codes(labels, [str(i) for i in range(len(sizes))])
    z = 2 * rng.normal(size=(len(sizes) + 1, 3))[labels] + rng.normal(size=(len(labels), 3))
    z[labels < 0] = np.nan
    adata.obsm["X_sccagn"] = z.astype(np.float32)
    adata.uns["sccagn"] = {"params": {"nu": draw(st.sampled_from(["none", 1.0]))}}
    return adata


@given(clusterings(), st.data())
def test_any_clusters_are_refined_or_joined_and_their_names_tell_from_what(
    adata: ad.AnnData, data: st.DataObject
) -> None:
    before = adata.obs["sccagn"].copy()
    here, names = before.notna().to_numpy(), before.cat.categories.tolist()
    wanted = data.draw(st.integers(2, min(int(here.sum()), 2 * len(names) + 2)))
    try:
        after = adata.obs[recluster(adata, wanted)]
    except InputError as error:  # each part has five cells at least
        [most] = re.findall(r"must be at most (\d+), as far as so few cells can be divided", str(error))
        assert len(names) <= int(most) < wanted
        assert int(most) <= sum(max(1, size // 5) for size in before.value_counts())
        return
    np.testing.assert_array_equal(after.notna(), here)
    confidence = adata.obs[f"sccagn_k{wanted}_confidence"]
    np.testing.assert_array_equal(confidence.notna(), here)
    assert confidence[here].between(0, 1, inclusive="right").all()
    assert after.nunique() == len(after.cat.categories) == wanted
    pairs = set(zip(before[here], after[here], strict=True))
    assert len(pairs) == max(len(names), wanted)  # nested
    if wanted < len(names):
        unions = [new.split("+") for new in after.cat.categories]
        assert sorted(old for union in unions for old in union) == names
        assert all(old in new.split("+") for old, new in pairs)
    else:
        assert all(old == new.partition(",")[0] for old, new in pairs)
    for old in names if wanted > len(names) else ():
        parts = [new for new in after.cat.categories if new.partition(",")[0] == old]
        assert parts == ([old] if len(parts) == 1 else [f"{old},{i}" for i in range(len(parts))])
    if wanted == len(names):
        assert after.astype(object).equals(before.astype(object))


@given(clusterings(), st.data())
def test_how_clusters_are_joined_does_not_hang_on_the_order_of_the_cells(
    adata: ad.AnnData, data: st.DataObject
) -> None:
    n_clusters = len(adata.obs["sccagn"].cat.categories)
    assume(n_clusters > 1)
    wanted = data.draw(st.integers(2, n_clusters))
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(adata.n_obs)
    shuffled = adata[order].copy()
    key = recluster(adata, wanted)
    assert recluster(shuffled, wanted) == key
    assert shuffled.obs[key].astype(object).equals(adata.obs[key].iloc[order].astype(object))


@pytest.mark.parametrize("seed", range(5))
def test_unions_are_named_by_their_clusters_and_come_in_the_order_of_the_first_of_each(seed: int) -> None:
    adata = at_random(12, seed)
    for wanted in (3, 5, 8):
        after = adata.obs[recluster(adata, wanted)]
        assert all(old in new.split("+") for old, new in zip(adata.obs["sccagn"], after, strict=True))
        first = [int(name.split("+")[0]) for name in after.cat.categories]
        assert first == sorted(first)


def test_the_seed_decides_how_clusters_fall_apart_and_is_written_down() -> None:
    adata = at_random(2, 0, 80)
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        recluster(adata, 12, key_added=name, random_state=seed)
        assert adata.uns[name] == {"key": "sccagn", "n_clusters": 12, "random_state": seed}
    assert (adata.obs["one"] == adata.obs["again"]).all()
    assert (adata.obs["one"].astype(str) != adata.obs["two"].astype(str)).any()


def test_parts_are_named_by_falling_size(clustered: ad.AnnData) -> None:
    recluster(clustered, 14)
    counts = clustered.obs["sccagn_k14"].value_counts(sort=False)
    for old in "012345":
        parts = counts[[name for name in counts.index if name.partition(",")[0] == old]]
        assert parts.index.tolist() == ([old] if len(parts) == 1 else [f"{old},{i}" for i in range(len(parts))])
        assert (np.diff(parts) <= 0).all()
    assert counts.index.tolist() == sorted(counts.index, key=lambda name: tuple(map(int, name.split(","))))


def test_names_that_would_stand_twice_are_refused(clustered: ad.AnnData) -> None:
    recluster(clustered, 7)
    split = clustered.obs["sccagn_k7"].cat.categories.str.partition(",").get_level_values(0)
    divided = split[split.duplicated()][0]
    other = next(name for name in clustered.obs["sccagn"].cat.categories if name != divided)
    clustered.obs["sccagn"] = clustered.obs["sccagn"].cat.rename_categories({other: f"{divided},0"})
    before = set(clustered.obs)
    with pytest.raises(InputError, match=f"would be called '{divided},0'.*rename"):
        recluster(clustered, 7, key_added="more")
    assert set(clustered.obs) == before


def test_types_that_were_joined_come_apart_again(clustered: ad.AnnData) -> None:
    """The clusters of three pairs of types, as if too few had been asked for."""
    pairs = np.array(["0", "0", "1", "1", "2", "2"])[clustered.obs["sccagn"].astype(int)]
    clustered.obs["sccagn"] = pd.Categorical(pairs)
    recluster(clustered, 6)
    assert evaluate(clustered.obs["type"], clustered.obs["sccagn_k6"])["ari"] > 0.9


def test_a_factor_is_a_multiple(clustered: ad.AnnData) -> None:
    assert recluster(clustered, factor=2) == "sccagn_k12"
    assert recluster(clustered, factor=0.5) == "sccagn_k3"
    assert recluster(clustered, factor=1.6) == "sccagn_k10"  # 9.6
    assert recluster(clustered, factor=1e-9) == "sccagn_k2"
    assert recluster(clustered, factor=1.5, key_added="fine") == "fine"
    assert clustered.uns["fine"] == {"key": "sccagn", "n_clusters": 9, "random_state": 0}


def test_categories_without_cells_are_no_clusters(clustered: ad.AnnData) -> None:
    clustered.obs["sccagn"] = clustered.obs["sccagn"].cat.add_categories(["6", "7"])
    assert recluster(clustered, factor=2) == "sccagn_k12"
    assert len(clustered.obs["sccagn_k12"].cat.categories) == 12


@pytest.mark.parametrize("nu", ["none", 1.5])
def test_confidence_is_that_of_the_cell_s_own_cluster(
    nu: str | float, clustered: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("sccagn_scale.model._recluster._BLOCK", 100)
    clustered.uns["sccagn"]["params"]["nu"] = nu
    recluster(clustered, 9)
    labels = clustered.obs["sccagn_k9"].cat.codes.to_numpy()
    z = clustered.obsm["X_sccagn"].astype(np.float64)
    centers = np.array([z[labels == c].mean(0) for c in range(9)])
    degrees = float(z.shape[1]) if nu == "none" else float(nu)
    q = student_t_assign_reference(torch.from_numpy(z), torch.from_numpy(centers), degrees).numpy()
    confidence = clustered.obs["sccagn_k9_confidence"]
    assert confidence.dtype == np.float32
    np.testing.assert_allclose(confidence, q[np.arange(len(q)), labels], rtol=1e-4)


def test_cells_without_a_cluster_stay_so(clustered: ad.AnnData) -> None:
    clustered.obs.loc[clustered.obs_names[:7], "sccagn"] = None
    clustered.obsm["X_sccagn"][:7] = np.nan
    recluster(clustered, 9)
    assert clustered.obs["sccagn_k9"].isna().to_numpy().nonzero()[0].tolist() == list(range(7))
    assert clustered.obs["sccagn_k9_confidence"].isna().sum() == 7


def test_nothing_else_changes_and_it_can_be_done_again(clustered: ad.AnnData) -> None:
    before = clustered.copy()
    recluster(clustered, 9)
    first = clustered.obs["sccagn_k9"].copy()
    recluster(clustered, 9)
    pd.testing.assert_series_equal(clustered.obs["sccagn_k9"], first)
    pd.testing.assert_frame_equal(clustered.obs[list(before.obs)], before.obs)
    np.testing.assert_array_equal(clustered.obsm["X_sccagn"], before.obsm["X_sccagn"])
    assert set(clustered.uns) == {*before.uns, "sccagn_k9"}


def test_as_many_clusters_as_are_named_can_be_had_and_no_more(clustered: ad.AnnData) -> None:
    """How many pieces there are hangs on how a processor rounds."""
    with pytest.raises(InputError, match="must be at most") as caught:
        recluster(clustered, 200)
    [most] = re.findall(r"at most (\d+),", str(caught.value))
    assert 6 < int(most) <= 570 // 5  # of five cells at least
    assert clustered.obs[recluster(clustered, int(most))].nunique() == int(most)
    with pytest.raises(InputError, match=f"must be at most {most}, "):
        recluster(clustered, int(most) + 1)


def test_mistakes_are_told(clustered: ad.AnnData) -> None:
    for arguments, message in (
        ({}, "`n_clusters` or `factor` must be given"),
        ({"n_clusters": 3, "factor": 2}, "one of them and not both"),
        ({"n_clusters": 1}, "`n_clusters` must be a whole number of at least 2, or None; it is 1"),
        ({"n_clusters": 2.5}, "`n_clusters` must be a whole number"),
        ({"n_clusters": 571}, "`n_clusters` = 571 needs at least as many cells; there are 570 with a cluster"),
        ({"n_clusters": 200}, r"`n_clusters` must be at most \d+, as far as so few cells can be divided; it is 200"),
        ({"factor": 0}, "`factor` must be a number above 0; it is 0"),
        ({"factor": float("nan")}, "`factor` must be a number above 0; it is nan"),
        ({"factor": 1e300}, r"`factor` = 1e\+300 of 6 clusters is more than the 570 cells; lower it"),
        ({"n_clusters": 3, "key_added": "sccagn"}, "`key_added` must be another name than `key`"),
        ({"n_clusters": 3, "key": "leiden"}, r"there is no obs\['leiden'\]"),
    ):
        before = clustered.copy()
        with pytest.raises(InputError, match=message):
            recluster(clustered, **arguments)  # type: ignore[arg-type]
        pd.testing.assert_frame_equal(clustered.obs, before.obs)
    clustered.obs["other"] = clustered.obs["sccagn"]
    with pytest.raises(InputError, match=r"there is no obsm\['X_other'\]"):
        recluster(clustered, 3, key="other")
    clustered.obsm["X_other"] = clustered.obsm["X_sccagn"]
    clustered.uns["other"] = {}
    with pytest.raises(InputError, match=r"uns\['other'\] is not what `cluster` writes"):
        recluster(clustered, 3, key="other")
    clustered.obsm["X_sccagn"][3] = np.nan
    with pytest.raises(InputError, match="some cells have a cluster and no embedding"):
        recluster(clustered, 3)


@pytest.mark.parametrize("record", ["text", {"params": None}, {"params": {}}])
def test_a_record_of_others_is_told(clustered: ad.AnnData, record: Any) -> None:
    clustered.uns["sccagn"] = record
    with pytest.raises(InputError, match=r"`key` must name results of `cluster`, but uns\['sccagn'\] is not what"):
        recluster(clustered, 9)


def test_names_of_parts_stay_apart_in_a_table(clustered: ad.AnnData, tmp_path: Path) -> None:
    """0.1 and 0.10 would be one number."""
    recluster(clustered, 60, key_added="fine")
    assert any(name.endswith(",10") for name in clustered.obs["fine"].cat.categories)
    clustered.obs[["fine"]].to_csv(tmp_path / "fine.csv")
    assert pd.read_csv(tmp_path / "fine.csv")["fine"].nunique() == 60


def test_an_embedding_out_of_reach_is_told(clustered: ad.AnnData) -> None:
    clustered.obsm["X_sccagn"] = clustered.obsm["X_sccagn"] * np.float32(1e25)
    with pytest.raises(InputError, match="the embedding has values that no run leaves there"):
        recluster(clustered, 9)
