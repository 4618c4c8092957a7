"""Cells that change between seeds are counted, and low confidence is judged by how well it finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_samples import scored, write_set

from benchmarks import accuracy
from benchmarks._accuracy_report import markdown
from benchmarks._methods import CLUSTERINGS, Clustering, Confident
from benchmarks._stability import stability, unstable_cells

FIRST = list("aaabbbcc")


@pytest.mark.parametrize(
    ("others", "unstable"),
    [
        (["xxxyyyzz"], []),  # the same clusters under other names
        (["bbbccaaa"], [5]),  # names that stand for another cluster here
        (["xxyyyyzz"], [2]),
        (["xxyyyyzz", "xxxyyyzy"], [2, 7]),  # once is enough
        (["xxxyyyyy"], [6, 7]),  # merged: the smaller loses its cells
        (["xxwyyyzz"], [2]),  # split: the smaller half
        (["xx-yyy--"], [2]),  # cells without a cluster are together, and here pair with c
    ],
)
def test_a_cell_is_unstable_when_it_leaves_the_partner_of_its_cluster(others: list[str], unstable: list[int]) -> None:
    labels = [np.array([None if name == "-" else name for name in one], dtype=object) for one in (FIRST, *others)]
    assert np.flatnonzero(unstable_cells(labels)).tolist() == unstable


def test_one_seed_has_no_unstable_cell() -> None:
    assert not unstable_cells([np.array(FIRST)]).any()


@pytest.mark.parametrize(
    ("confidence", "auc"),
    [
        ([0.9, 0.9, 0.1, 0.8, 0.7, 0.6, 0.9, 0.2], 1.0),  # both below all of the others
        ([0.2, 0.3, 0.9, 0.2, 0.3, 0.4, 0.5, 0.9], 0.0),
        ([0.5] * 8, 0.5),
        ([0.9, 0.9, 0.5, 0.4, 0.3, 0.9, 0.9, 0.1], 10 / 12),  # 4 of 6 stable cells above the one, 6 above the other
    ],
)
def test_the_area_is_the_share_of_pairs_in_the_right_order(confidence: list[float], auc: float) -> None:
    labels = [np.array(list(one)) for one in ("aaabbbcc", "aabbbbca")]  # cells 2 and 7 change
    found = stability(labels, [np.array(confidence) + shift for shift in (-0.1, 0.1)])
    assert found["unstable"] == 2 / 8
    assert found["confidence_auc"] == pytest.approx(auc)


def test_confidence_is_the_mean_over_seeds_and_cells_without_one_are_left_out() -> None:
    labels = [np.array(list(one)) for one in ("aabb", "aabb", "aaba")]  # the last cell changes
    confidences = [np.array(one) for one in ([np.nan, 0.4, 0.9, 0.8], [np.nan, 0.9, 0.9, 0.1], [0.1, 0.9, 0.9, 0.1])]
    assert stability(labels, confidences) == {"unstable": pytest.approx(1 / 3), "confidence_auc": 1.0}


@pytest.mark.parametrize(
    ("others", "share"),
    [(["xxxyyy"], 0.0), (["baaabb", "ababab", "aabbba"], 1.0)],  # the latter swap a pair of cells each
)
def test_there_is_no_area_where_no_cell_or_every_cell_is_unstable(others: list[str], share: float) -> None:
    labels = [np.array(list(one)) for one in ("aaabbb", *others)]
    assert stability(labels, [np.arange(6.0)] * len(labels)) == {"unstable": share, "confidence_auc": None}


@pytest.mark.parametrize(("n_seeds", "there"), [(1, False), (2, True)])
def test_what_a_method_says_of_its_confidence_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_seeds: int, there: bool
) -> None:
    write_set(tmp_path / "s.h5ad", 20, 200)

    def cluster(adata: Any, n_clusters: int | None, seed: int) -> Confident:
        labels = np.arange(20) // 10
        labels[3] = seed  # in cluster 0, then in 1
        return Confident(labels, np.where(np.arange(20) == 3, 0.2, 0.9))

    monkeypatch.setitem(CLUSTERINGS, "sure", Clustering(cluster, ("auto",)))
    monkeypatch.setattr(accuracy, "_warm_up", lambda *_: None)
    metrics = accuracy.run_seeds(str(tmp_path / "s.h5ad"), "sure", "auto", n_seeds).score()["s/auto"]
    assert metrics["n_clusters"] == 2
    assert ("unstable" in metrics) == ("confidence_auc" in metrics) == there
    if there:
        assert (metrics["unstable"], metrics["confidence_auc"]) == (1 / 20, 1.0)


@pytest.mark.parametrize(("name", "there"), [("default", True), ("pca_kmeans", False)])
@pytest.mark.filterwarnings("ignore::sccagn_scale.InputWarning")
def test_our_methods_hand_over_a_confidence(tmp_path: Path, name: str, there: bool) -> None:
    write_set(tmp_path / "s.h5ad", 150, 200)
    metrics = accuracy.run_seeds(str(tmp_path / "s.h5ad"), name, "given", 2).score()["s/given"]
    assert metrics["ari"] == pytest.approx(1.0)
    assert metrics.get("unstable") == (0.0 if there else None)
    assert metrics.get("confidence_auc") is None


def test_the_table_has_both_where_a_method_has_them() -> None:
    peers = [scored(f"{name}/given", "gmm") for name in "abc"]
    assert "unstable" not in markdown(peers)
    areas = {"a": 0.75, "b": 0.25, "c": None}
    mine = [scored(f"{name}/given", "default", unstable=0.3, confidence_auc=area) for name, area in areas.items()]
    lines = markdown(peers + mine).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| mean over sets"))
    assert "| cross_seed_ari | unstable | confidence_auc |" in lines[start]
    assert "| 0.300 | 0.500 (2 sets) |" in next(line for line in lines[start:] if line.startswith("| default"))
    assert len({line.count("|") for line in lines[start : start + 4]}) == 1
