"""Pictures of the number of clusters and of the training: what they show, what they refuse."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from pl_samples import clustered, png

import sccagn_scale.pl as pl
from sccagn_scale._errors import InputError


def test_n_clusters_curve_marks_the_choice() -> None:
    figure = pl.n_clusters_curve(clustered())
    (panel,) = figure.axes
    assert figure.get_supxlabel() == "stability"
    assert [text.get_text() for text in panel.texts] == ["3 clusters"]
    marked = panel.lines[-1].get_xydata()
    assert np.asarray(marked).tolist() == [[3, 0.9]]
    assert png(figure).startswith(b"\x89PNG")


def test_n_clusters_curve_runs_from_the_smallest_number_to_the_largest() -> None:
    adata = clustered()
    evidence = adata.uns["sccagn"]["n_clusters_evidence"]
    rising = pl.n_clusters_curve(adata).axes[0].lines[0].get_xydata()
    for part in ("n_clusters", "score"):
        evidence[part] = np.asarray(evidence[part])[::-1]
    falling = pl.n_clusters_curve(adata).axes[0].lines[0].get_xydata()
    np.testing.assert_array_equal(falling, rising)
    assert (np.diff(np.asarray(rising)[:, 0]) > 0).all()


def test_n_clusters_curve_shades_what_is_plausible() -> None:
    adata = clustered()
    assert not pl.n_clusters_curve(adata).axes[0].patches
    adata.uns["sccagn"]["n_clusters_evidence"]["plausible"] = [3, 4]
    figure = pl.n_clusters_curve(adata)
    assert figure.get_supxlabel() == "stability; grey: scores within 1 % of the best"
    (span,) = figure.axes[0].patches
    assert span.get_extents().width > 0
    assert 2 < span.get_x() < 3 < span.get_x() + span.get_width() - 1 < 4


@pytest.mark.parametrize("evidence", [None, {}, {"method": "given"}])
def test_n_clusters_curve_needs_an_estimate(evidence: dict[str, object] | None) -> None:
    adata = clustered()
    adata.uns["sccagn"]["n_clusters_evidence"] = evidence
    with pytest.raises(InputError, match=r"`n_clusters=None`"):
        pl.n_clusters_curve(adata)
    with pytest.raises(InputError, match=r"uns has no 'other'"):
        pl.n_clusters_curve(adata, "other")


def test_history_draws_what_was_measured() -> None:
    figure = pl.history(clustered())
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["loss", "reconstruction", "clustering", "cells that changed cluster"]  # adversarial is all NaN
    assert [panel.get_yscale() for panel in figure.axes] == ["linear", "log", "linear", "linear"]
    assert np.asarray(figure.axes[2].lines[0].get_xdata()).tolist() == [5, 6, 7, 8, 9, 10]
    assert png(figure).startswith(b"\x89PNG")


def test_history_shades_pretraining_and_says_so_once() -> None:
    panels = pl.history(clustered()).axes
    for panel in panels:
        (span,) = panel.patches
        assert (span.get_x(), span.get_width()) == pytest.approx((0.5, 4))  # the first four epochs
    assert [[text.get_text() for text in panel.texts] for panel in panels] == [["pretraining"], [], [], []]
    adata = clustered()
    adata.uns["sccagn"]["history"]["stage"] = np.array(["joint"] * 10)
    assert not any([*panel.patches, *panel.texts] for panel in pl.history(adata).axes)


def test_history_survives_a_file(tmp_path: object) -> None:
    adata = clustered()
    path = f"{tmp_path}/a.h5ad"
    adata.write_h5ad(path)
    again = ad.read_h5ad(path)
    assert png(pl.history(again)) == png(pl.history(adata))
    assert png(pl.n_clusters_curve(again)) == png(pl.n_clusters_curve(adata))


def test_history_needs_one() -> None:
    adata = clustered()
    del adata.uns["sccagn"]["history"]
    with pytest.raises(InputError, match="has none"):
        pl.history(adata)


def test_a_loss_that_hardly_changes_looks_so() -> None:
    adata = clustered()
    for n_epochs in (1, 2, 40):
        losses = 0.623 + 0.001 * np.linspace(0, 1, n_epochs)
        adata.uns["sccagn"]["history"] = {"stage": np.array(["joint"] * n_epochs), "loss": losses}
        (panel,) = pl.history(adata).axes
        low, high = panel.get_ylim()
        assert low < losses.min() <= losses.max() < high
        assert high - low >= 0.0999 * 0.623
        assert all(tick == round(tick) for tick in panel.get_xticks())
