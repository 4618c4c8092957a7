"""Pictures: what they show, what they leave alone, what they refuse."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from matplotlib.colors import to_hex, to_rgb
from pl_samples import clustered, png

import sccagn_scale.pl as pl
from sccagn_scale._errors import InputError
from sccagn_scale.pl._palette import MISSING, matched, palette


def _colors_by_name(panel: object) -> dict[str, str]:
    legend = panel.get_legend()  # type: ignore[attr-defined]
    names = [text.get_text().rsplit(" (", 1)[0] for text in legend.get_texts()]
    return dict(zip(names, [to_hex(handle.get_color()) for handle in legend.legend_handles], strict=True))


def test_no_global_state() -> None:
    import matplotlib.pyplot as plt

    pl.embedding(clustered())
    pl.history(clustered())
    pl.n_clusters_curve(clustered())
    assert plt.get_fignums() == []


def test_clusters_alone_by_default() -> None:
    figure = pl.embedding(clustered())
    (panel,) = figure.axes
    assert panel.get_title() == "sccagn"
    assert {text.get_text() for text in panel.texts} == {"0", "1", "2"}
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [
        "0 (29)",
        "1 (30)",
        "2 (30)",
        "no group (1)",
    ]
    assert png(figure).startswith(b"\x89PNG")


def test_any_coordinates_can_be_drawn() -> None:
    adata = clustered()
    adata.obsm["X_sccagn"] = np.random.default_rng(1).normal(size=(90, 3)).astype(np.float32)
    (panel,) = pl.embedding(adata, basis="X_sccagn").axes
    drawn = [tuple(place) for points in panel.collections for place in points.get_offsets().tolist()]
    assert sorted(drawn) == sorted(map(tuple, adata.obsm["X_sccagn"][:, :2].tolist()))
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("sccagn 1", "sccagn 2")


def test_points_have_the_size_that_was_given_or_are_the_smaller_the_more_there_are() -> None:
    adata = clustered()

    def sizes(**options: Any) -> list[float]:
        panels = pl.embedding(adata, ["sccagn", "sccagn_confidence"], **options).axes[:2]
        return sorted({float(size) for panel in panels for points in panel.collections for size in points.get_sizes()})

    assert sizes(point_size=7) == [7]
    assert sizes() == [28]
    adata = clustered(4500)
    assert sizes() == [pytest.approx(40_000 / 4500)]


def test_results_of_another_name_are_drawn() -> None:
    def lines(*key: str) -> list[object]:
        panels = [panel for draw in (pl.history, pl.n_clusters_curve) for panel in draw(adata, *key).axes]
        return [panel.lines[0].get_xydata().tolist() for panel in panels]

    adata = clustered()
    expected = lines()
    adata.obs["mine"] = adata.obs["sccagn"].cat.rename_categories({"0": "a", "1": "b", "2": "c"})
    adata.uns["mine"] = adata.uns.pop("sccagn")
    assert lines("mine") == expected
    (panel,) = pl.embedding(adata, key="mine").axes
    assert panel.get_title() == "mine"
    assert {text.get_text() for text in panel.texts} == {"a", "b", "c"}


def test_cells_without_a_cluster_are_grey_and_below() -> None:
    (panel,) = pl.embedding(clustered()).axes
    below, above = panel.collections
    assert len(below.get_offsets()) == 1
    assert to_hex(below.get_facecolors()[0]) == MISSING
    assert MISSING not in {to_hex(color) for color in above.get_facecolors()}


@pytest.mark.parametrize("max_cells", [60, 90])
def test_every_cell_lies_in_its_place_in_its_own_colour(max_cells: int) -> None:
    adata = clustered()
    cell_at = {tuple(place): cell for cell, place in enumerate(adata.obsm["X_umap"].tolist())}
    by_cluster, by_confidence = pl.embedding(adata, ["sccagn", "sccagn_confidence"], max_cells=max_cells).axes[:2]
    colors, clusters = _colors_by_name(by_cluster), adata.obs["sccagn"].astype(object).fillna("no group")
    drawn = [
        (cell_at[tuple(place)], to_hex(color))
        for points in by_cluster.collections
        for place, color in zip(points.get_offsets().tolist(), points.get_facecolors(), strict=True)
    ]
    assert len(drawn) == max_cells
    assert all(color == colors[clusters.iloc[cell]] for cell, color in drawn)
    (points,) = by_confidence.collections
    shown = [cell_at[tuple(place)] for place in points.get_offsets().tolist()]
    np.testing.assert_allclose(points.get_array(), adata.obs["sccagn_confidence"].to_numpy()[shown])


def test_side_by_side_the_same_cells_have_the_same_colour() -> None:
    figure = pl.embedding(clustered(), ["sccagn", "type"])
    clusters, types = map(_colors_by_name, figure.axes)
    assert clusters["0"] == types["B"]
    assert clusters["1"] == types["NK"]
    assert clusters["2"] == types["T"]


def test_cells_without_a_group_decide_no_colour() -> None:
    adata = clustered()
    adata.obs["type"] = pd.Categorical([None] * 30 + ["A"] * 50 + ["B"] * 10)
    for columns in (["sccagn", "type"], ["type", "sccagn"]):
        found = dict(zip(columns, map(_colors_by_name, pl.embedding(adata, columns).axes[:2]), strict=True))
        assert found["sccagn"]["1"] == found["type"]["A"]
        assert found["sccagn"]["2"] == found["type"]["B"]
        assert found["sccagn"]["0"] not in (found["type"]["A"], found["type"]["B"])


def test_colours_of_another_number_of_groups_are_left_alone() -> None:
    adata = clustered()
    expected = _colors_by_name(pl.embedding(adata).axes[0])
    for colors in (["#111111"], ["#111111", "#222222", "#333333", "#444444"]):
        adata.uns["sccagn_colors"] = colors
        assert _colors_by_name(pl.embedding(adata).axes[0]) == expected


def test_users_colours_are_kept_and_guide_the_others() -> None:
    adata = clustered()
    adata.uns["type_colors"] = ["#111111", "#222222", "#333333"]  # B, NK, T
    clusters, types = map(_colors_by_name, pl.embedding(adata, ["sccagn", "type"]).axes)
    assert list(types.values()) == ["#111111", "#222222", "#333333"]
    assert clusters["0"] == "#111111"


def test_a_cluster_without_cells_keeps_its_colour_from_the_others() -> None:
    whole = clustered()
    part = whole[whole.obs["sccagn"] != "1"].copy()
    part.obs["sccagn"] = part.obs["sccagn"].cat.set_categories(["0", "1", "2"])
    (before,), (after,) = pl.embedding(whole).axes, pl.embedding(part).axes
    assert _colors_by_name(after) == {name: c for name, c in _colors_by_name(before).items() if name != "1"}
    part.uns["sccagn_colors"] = ["#111111", "#222222", "#333333"]
    clusters, types = map(_colors_by_name, pl.embedding(part, ["sccagn", "type"]).axes)
    assert (clusters["0"], clusters["2"]) == ("#111111", "#333333") == (types["B"], types["T"])


def test_floats_get_a_colour_bar_and_other_columns_a_legend() -> None:
    adata = clustered()
    adata.obs["batch"] = np.arange(adata.n_obs) % 2
    figure = pl.embedding(adata, ["sccagn_confidence", "batch"])
    assert [panel.get_title() for panel in figure.axes[:2]] == ["sccagn_confidence", "batch"]
    assert figure.axes[0].get_legend() is None
    assert set(_colors_by_name(figure.axes[1])) == {"0", "1"}
    assert len(figure.axes) == 3


def test_names_never_cover_each_other() -> None:
    rng = np.random.default_rng(0)
    n_groups = 40
    code = rng.integers(0, n_groups, 2000)
    names = np.array([f"a rather long type name {i}" for i in range(n_groups)])
    adata = ad.AnnData(obs=pd.DataFrame({"type": pd.Categorical(names[code])}, index=np.arange(2000).astype(str)))
    adata.obsm["X_umap"] = rng.normal(0, 4, (n_groups, 2))[code] + rng.normal(0, 0.5, (2000, 2))
    figure = pl.embedding(adata, "type")
    (panel,) = figure.axes
    boxes = [text.get_window_extent() for text in panel.texts]
    assert 5 < len(boxes) < n_groups
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert len(panel.get_legend().get_texts()) == n_groups


def test_large_sets_are_sampled_and_say_so() -> None:
    figure = pl.embedding(clustered(), max_cells=40)
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 40
    assert figure.get_supxlabel() == "50 of 90 cells are not shown"


def test_a_sample_is_drawn_at_random() -> None:
    def drawn(seed: int) -> set[tuple[float, ...]]:
        (panel,) = pl.embedding(clustered(), max_cells=40, random_state=seed).axes
        return {tuple(place) for points in panel.collections for place in points.get_offsets().tolist()}

    assert len(drawn(0) | drawn(1)) > 50


def test_same_seed_same_picture() -> None:
    assert png(pl.embedding(clustered(), max_cells=50)) == png(pl.embedding(clustered(), max_cells=50))


def test_umap_is_computed_on_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = sc.datasets.pbmc68k_reduced()
    del adata.obsm["X_umap"]
    # Two cells outside the graph, as cells that fail quality control are.
    graph = adata.obsp["connectivities"].tolil()
    graph[:2], graph[:, :2] = 0, 0
    adata.obsp["connectivities"] = graph.tocsr()
    seen = []

    def optimise(data: np.ndarray, graph: sp.coo_matrix, **options: object) -> tuple[np.ndarray, dict[str, object]]:
        seen.append((data, graph.tocsr(), options["metric"]))
        return data[:, :2], {}

    # scanpy is the real thing; importing and compiling umap-learn takes longer than all tests here together.
    stand_in = ModuleType("umap.umap_")
    stand_in.simplicial_set_embedding = optimise  # type: ignore[attr-defined]
    stand_in.find_ab_params = lambda spread, min_dist: (1.0, 1.0)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", ModuleType("umap"))
    monkeypatch.setitem(sys.modules, "umap.umap_", stand_in)
    keys = [set(adata.obsm), set(adata.obsp), set(adata.uns), dict(adata.uns["neighbors"]["params"])]
    figure = pl.embedding(adata, "louvain")
    assert [set(adata.obsm), set(adata.obsp), set(adata.uns), dict(adata.uns["neighbors"]["params"])] == keys
    ((data, connectivities, metric),) = seen
    assert metric == "euclidean"
    np.testing.assert_array_equal(data, adata.obsm["X_pca"][2:])
    np.testing.assert_allclose(connectivities.toarray(), adata.obsp["connectivities"][2:, 2:].toarray(), rtol=1e-6)
    (points,) = (c for c in figure.axes[0].collections if len(c.get_offsets()))
    assert len(points.get_offsets()) == 698
    assert figure.get_supxlabel() == "2 of 700 cells are not shown"


@pytest.mark.parametrize("n_obs", [1, 2, 3])
def test_cells_too_few_for_a_umap_lie_in_their_components(n_obs: int) -> None:
    adata = sc.datasets.pbmc68k_reduced()[:n_obs].copy()
    del adata.obsm["X_umap"]
    figure = pl.embedding(adata, "louvain")
    (points,) = (c for c in figure.axes[0].collections if len(c.get_offsets()))
    np.testing.assert_allclose(np.sort(points.get_offsets(), 0), np.sort(adata.obsm["X_pca"][:, :2], 0), rtol=1e-6)
    assert figure.axes[0].get_xlabel() == "pca 1"


def test_names_do_not_hide_small_groups() -> None:
    adata = ad.AnnData(obs=pd.DataFrame({"type": ["large"] * 200 + ["small"] * 3}, index=np.arange(203).astype(str)))
    far = np.random.default_rng(0).normal(size=(200, 2))
    adata.obsm["X_umap"] = np.vstack([far, [[6, 0], [6.01, 0], [6, 0.01]]]).astype(np.float32)
    figure = pl.embedding(adata, "type")
    (panel, *_) = figure.axes
    (small,) = (text for text in panel.texts if text.get_text() == "small")
    box = small.get_window_extent(figure.canvas.get_renderer())
    cells = panel.transData.transform(adata.obsm["X_umap"][200:])
    assert not any(box.contains(*cell) for cell in cells)
    assert np.abs(cells[0] - [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]).max() < 2 * box.width  # and yet are close


@pytest.mark.parametrize("rep", ["X_pca", "X_other", "X_mine"])
def test_umap_of_a_sample_uses_a_graph_of_the_sample(monkeypatch: pytest.MonkeyPatch, rep: str) -> None:
    adata = sc.datasets.pbmc68k_reduced()
    del adata.obsm["X_umap"]
    adata.obsm["X_other"] = adata.obsm["X_pca"][:, ::-1].copy()
    if rep == "X_mine":  # neither the graph's nor components are there
        adata.obsm["X_mine"] = adata.obsm.pop("X_pca")
    adata.uns["neighbors"]["params"]["use_rep"] = "X_gone" if rep == "X_mine" else rep
    seen, drawn = [], []

    def neighbors(small: ad.AnnData, *, use_rep: str, **_: object) -> None:
        seen.append(("neighbors", small.n_obs, use_rep))

    def umap(small: ad.AnnData, **_: object) -> None:
        seen.append(("umap", small.n_obs, next(iter(small.obsm))))
        drawn.append(np.asarray(small.obsm[rep]))
        small.obsm["X_umap"] = drawn[0][:, :2]

    monkeypatch.setattr(sc.pp, "neighbors", neighbors)
    monkeypatch.setattr(sc.tl, "umap", umap)
    pl.embedding(adata, "louvain", key="mine", max_cells=300)
    assert seen == [("neighbors", 300, rep), ("umap", 300, rep)]
    cell_of = {tuple(place): cell for cell, place in enumerate(adata.obsm[rep].tolist())}
    cells = [cell_of[tuple(place)] for place in drawn[0].tolist()]
    assert cells == sorted(set(cells))
    assert 100 < sum(cell < 350 for cell in cells) < 200  # from all over


def test_embedding_says_what_is_missing() -> None:
    adata = clustered()
    with pytest.raises(InputError, match=r"`color`.*'nope'.*sccagn, sccagn_confidence, type"):
        pl.embedding(adata, ["sccagn", "nope"])
    with pytest.raises(InputError, match=r"`color` must name columns of obs, but nothing was given; there is sccagn, "):
        pl.embedding(adata, color=[])
    with pytest.raises(InputError, match=r"`basis`.*'X_tsne'.*X_umap"):
        pl.embedding(adata, basis="X_tsne")
    for bad in (np.ones((adata.n_obs, 1)), sp.csr_matrix(np.ones((adata.n_obs, 3)))):
        adata.obsm["X_bad"] = bad
        with pytest.raises(InputError, match=r"`basis` must be a dense array of two dimensions.*X_bad"):
            pl.embedding(adata, basis="X_bad")
    adata.obs["mixed"] = pd.Series([1, "1"] * (adata.n_obs // 2), dtype=object, index=adata.obs_names)
    with pytest.raises(InputError, match=r"`color`.*two of 'mixed' look the same"):
        pl.embedding(adata, "mixed")
    del adata.obsm["X_umap"], adata.obsm["X_bad"]
    with pytest.raises(InputError, match=r"uns\['neighbors'\]"):
        pl.embedding(adata)
    adata.uns["neighbors"] = {"params": {}}
    with pytest.raises(InputError, match=r"no obsp\['connectivities'\]"):
        pl.embedding(adata)
    adata.obsp["connectivities"] = sp.eye(adata.n_obs, format="csr")
    with pytest.raises(InputError, match="X_pca or X_sccagn"):
        pl.embedding(adata)
    adata.obsm["X_umap"] = np.full((adata.n_obs, 2), np.nan)
    with pytest.raises(InputError, match="at least one cell"):
        pl.embedding(adata)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_cells": 3}, "`max_cells` must be a whole number of at least 4; it is 3"),
        ({"max_cells": -5}, "`max_cells` must be a whole number of at least 4; it is -5"),
        ({"max_cells": 2.5}, "`max_cells` must be a whole number of at least 4; it is 2.5"),
        ({"max_cells": None}, "`max_cells` must be a whole number of at least 4; it is None"),
        ({"random_state": -1}, "`random_state` must be a whole number of at least 0 and below 2³²; it is -1"),
        ({"random_state": 2**32}, "`random_state` must be below 2³²; it is 4294967296"),
        ({"random_state": "a"}, "`random_state` must be a whole number of at least 0 and below 2³²; it is 'a'"),
        ({"point_size": 0}, "`point_size` must be a number above 0; it is 0"),
        ({"point_size": float("nan")}, "`point_size` must be a number above 0; it is nan"),
        ({"point_size": "a"}, "`point_size` must be a number above 0; it is 'a'"),
    ],
)
def test_embedding_refuses_numbers_that_it_cannot_use(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        pl.embedding(clustered(), **options)


def test_embedding_takes_numbers_of_numpy() -> None:
    options: dict[str, Any] = {"max_cells": np.int64(50), "random_state": np.int64(1), "point_size": np.float32(3)}
    assert pl.embedding(clustered(), **options).axes


@pytest.mark.parametrize("draw", [pl.embedding, pl.history, pl.n_clusters_curve])
def test_a_path_is_no_anndata(draw: Callable[[Any], Any]) -> None:
    with pytest.raises(InputError, match=r"`adata` must be an AnnData, as .* gives it; it is of type str"):
        draw("cells.h5ad")


def test_palette_has_distinct_colours() -> None:
    for n in (1, 8, 20, 60, 102):
        assert len(set(palette(n))) == n
    assert len(palette(130)) == 130


def test_unmatched_groups_get_colours_of_their_own() -> None:
    table = np.array([[5, 0, 0, 0, 0], [0, 7, 3, 2, 0]])
    colors = matched(["#ff0000", "#00ff00"], table)
    assert colors[:2] == ["#ff0000", "#00ff00"]
    assert len({to_rgb(color) for color in colors}) == 5
