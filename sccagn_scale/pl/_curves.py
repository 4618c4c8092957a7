"""How the number of clusters was found, and how training went."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sccagn_scale._errors import InputError
from sccagn_scale._keys import Keys
from sccagn_scale.io import checked_anndata

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE = "#0072b2", "#d55e00"
_PANELS = {
    "loss": "loss",
    "reconstruction": "reconstruction",
    "adversarial": "adversarial",
    "clustering": "clustering",
    "changed": "cells that changed cluster",
}


def n_clusters_curve(adata: AnnData, key: str = "sccagn") -> Figure:
    """Draw the evidence for the number of clusters: the score of each number tried.

    The chosen number is marked, and where it is known the range of numbers that score nearly as well is shaded.

    Parameters
    ----------
    adata
        Cells clustered without `n_clusters` given.
    key
        Name under which the clusters were written.

    Returns
    -------
    The figure; `figure.savefig(path)` writes it.

    Raises
    ------
    InputError
        When there are no clusters under this name, or their number was given and not estimated.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    record = _record(adata, key)
    evidence = record.get("n_clusters_evidence") or {}
    if "score" not in evidence:
        raise InputError(
            f"`key` must name clusters whose number was estimated, but that of {key!r} was given; "
            "cluster with `n_clusters=None` to have it estimated."
        )
    tried = np.asarray(evidence["n_clusters"], dtype=float)
    score = np.asarray(evidence["score"], dtype=float)
    order = np.argsort(tried, kind="stable")
    chosen = int(record["n_clusters"])

    figure = Figure(figsize=(5.5, 3.6), layout="constrained", dpi=150)
    panel = figure.subplots()
    panel.plot(tried[order], score[order], "o-", color=_BLUE, markersize=4, linewidth=1.5)
    panel.axvline(chosen, color=_ORANGE, linewidth=1, linestyle="--", zorder=0)
    plausible = evidence.get("plausible")
    notes = [str(evidence["method"])] if evidence.get("method") else []
    if plausible is not None and len(plausible) == 2:
        notes.append("grey: scores within 1 % of the best")
        low, high = map(float, plausible)
        panel.axvspan(low - 0.3, high + 0.3, color="0.94", linewidth=0, zorder=0)
    at = np.flatnonzero(tried == chosen)
    if len(at):
        panel.plot(chosen, np.nanmax(score[at]), "o", color=_ORANGE, markersize=9, zorder=3)
    panel.annotate(
        f"{chosen} cluster{'s' if chosen > 1 else ''}",
        (chosen, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=_ORANGE,
        fontweight="bold",
        fontsize=9,
    )
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("number of clusters")
    panel.set_ylabel("score")
    if notes:
        figure.supxlabel(textwrap.fill("; ".join(notes), 80), fontsize=8, color="0.4")
    _open_frame(panel)
    return figure


def history(adata: AnnData, key: str = "sccagn") -> Figure:
    """Draw the losses and the share of cells that changed cluster, epoch by epoch; pretraining is shaded.

    Parameters
    ----------
    adata
        Clustered cells.
    key
        Name under which the clusters were written.

    Returns
    -------
    The figure; `figure.savefig(path)` writes it.

    Raises
    ------
    InputError
        When there are no clusters under this name, or no history was kept with them.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    kept = _record(adata, key).get("history") or {}
    series = {name: np.asarray(kept[name], dtype=float) for name in _PANELS if name in kept}
    series = {name: values for name, values in series.items() if np.isfinite(values).any()}
    if not series:
        raise InputError(f"`key` must name clusters with a training history, but {key!r} has none.")
    n_epochs = len(next(iter(series.values())))
    epoch = np.arange(1, n_epochs + 1)  # counted through all stages
    stage = np.asarray(kept.get("stage", ["joint"] * n_epochs)).astype(str)

    n_columns = min(3, len(series))
    n_rows = -(-len(series) // n_columns)
    figure = Figure(figsize=(3.4 * n_columns, 2.6 * n_rows), layout="constrained", dpi=150)
    panels: list[Axes] = list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
    for panel, (name, values) in zip(panels, series.items(), strict=False):
        _shade(panel, stage == "pretrain", named=panel is panels[0])
        seen = np.isfinite(values)
        panel.plot(epoch[seen], values[seen], color=_BLUE, linewidth=1.5, marker="o" if seen.sum() < 3 else None)
        panel.set_title(_PANELS[name], fontsize=10)
        panel.set_xlim(0.5, n_epochs + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        panel.set_xlabel("epoch", fontsize=9)
        panel.tick_params(labelsize=8)
        if name == "changed":
            panel.yaxis.set_major_formatter(PercentFormatter(1.0))  # as many decimals as the range needs
            panel.set_ylim(bottom=0)
        elif _spans_decades(values[seen]):
            panel.set_yscale("log")
        else:
            _widen(panel, values[seen])
        _open_frame(panel)
    for panel in panels[len(series) :]:
        panel.remove()
    return figure


def _record(adata: AnnData, key: str) -> dict[str, Any]:
    record = checked_anndata(adata).uns.get(Keys(key).uns)
    if record is None:
        raise InputError(
            f"`key` must be a name under which clusters were written, but uns has no {key!r}; "
            "run sccagn_scale.cluster first."
        )
    return dict(record)


def _shade(panel: Axes, pretrain: NDArray[np.bool_], *, named: bool) -> None:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], pretrain, [False])).astype(int)))
    for start, end in edges.reshape(-1, 2):
        panel.axvspan(start + 0.5, end + 0.5, color="0.94", linewidth=0, zorder=0)
        if named:
            panel.text(
                (start + end + 1) / 2,
                0.98,
                "pretraining",
                transform=panel.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=8,
                color="0.5",
            )


def _spans_decades(values: NDArray[np.float64]) -> bool:
    return bool(values.min() > 0 and values.max() > 30 * values.min())


def _widen(panel: Axes, values: NDArray[np.float64]) -> None:
    """Show at least a tenth of the values' size, so that what hardly changes looks so."""
    low, high = panel.get_ylim()
    missing = 0.1 * abs(float(values.mean())) - (high - low)
    if missing > 0:
        panel.set_ylim(low - missing / 2, high + missing / 2)


def _open_frame(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
