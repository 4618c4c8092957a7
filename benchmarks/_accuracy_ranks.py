"""How the methods of `accuracy` rank over sets, and which of the differences are beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._accuracy_report import HEADINGS, Scores
from benchmarks._methods import CLUSTERINGS, MODES
from benchmarks._results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVEL = 0.05


def plot_ranks(rows: Sequence[Row], path: Path) -> None:
    """Draw a critical-difference diagram (Demšar 2006) for each way of choosing the number of clusters.

    Methods stand at their mean rank over sets, 1 the best, by NMI + ARI. Those joined by a bar do not differ by more
    than the critical difference of Nemenyi's test at 5 %. Only sets on which every method has a score count, and a
    method without one on any set is left out, which the title says. Where nothing can be ranked, an earlier picture
    goes.
    """
    from matplotlib.figure import Figure

    tables = [(mode, scores) for mode in MODES if len(ranked(scores := Scores(rows, mode))) > 1 and common_sets(scores)]
    if not tables:
        path.unlink(missing_ok=True)
        return
    most = max(len(ranked(scores)) for _, scores in tables)
    figure = Figure(figsize=(8, len(tables) * (1.5 + 0.16 * most)), layout="constrained")
    for panel, (mode, scores) in zip(figure.subplots(len(tables), squeeze=False)[:, 0], tables, strict=True):
        _diagram(panel, scores)
        title = f"{HEADINGS[mode]}, {len(common_sets(scores))} sets"
        if failed := [method for method in scores.methods if method not in ranked(scores)]:
            title += f", without {', '.join(failed)} (failed on all)"
        panel.set_title(title, loc="left", fontsize=10)
    figure.savefig(path, dpi=150)


def ranked(scores: Scores) -> list[str]:
    """The methods that have a score on some set."""
    return [method for method in scores.methods if any((name, method) in scores.rows for name in scores.sets)]


def common_sets(scores: Scores) -> list[str]:
    """The sets on which every ranked method has a score."""
    return [name for name in scores.sets if all((name, method) in scores.rows for method in ranked(scores))]


def mean_ranks(scores: Scores) -> np.ndarray:
    """Mean rank of each ranked method over the common sets, ties shared: float64 [n_methods]."""
    from scipy.stats import rankdata

    values = [
        [scores.get(name, method, "nmi") + scores.get(name, method, "ari") for method in ranked(scores)]
        for name in common_sets(scores)
    ]
    return rankdata(-np.array(values), axis=1).mean(axis=0)


def critical_difference(n_methods: int, n_sets: int) -> float:
    """Least difference of two mean ranks that Nemenyi's test calls significant."""
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - LEVEL, n_methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_sets)))


def cliques(ranks: np.ndarray, difference: float) -> list[tuple[float, float]]:
    """The longest ranges of ranks within which no two methods differ by more than `difference`."""
    ordered = np.sort(ranks)
    ends = [ordered[ordered <= start + difference][-1] for start in ordered]
    found = [(float(start), float(end)) for start, end in zip(ordered, ends, strict=True) if end > start]
    return [one for i, one in enumerate(found) if i == 0 or one[1] > found[i - 1][1]]


def _diagram(panel: Axes, scores: Scores) -> None:
    ranks = mean_ranks(scores)
    n_methods = len(ranks)
    difference = critical_difference(n_methods, len(common_sets(scores)))
    order = np.argsort(ranks, kind="stable")
    half = (n_methods + 1) // 2
    for place, index in enumerate(order):
        left = place < half
        level = 1 + (place if left else n_methods - 1 - place)
        method, rank = ranked(scores)[index], ranks[index]
        ours = CLUSTERINGS[method].is_ours
        edge = 0.8 if left else n_methods + 0.2
        colour = "#D55E00" if ours else "black"
        panel.plot([rank, rank, edge], [0, -level, -level], color=colour, linewidth=0.9)
        text = f"{method}  {rank:.1f}" if left else f"{rank:.1f}  {method}"
        weight = "bold" if ours else "normal"
        side = "right" if left else "left"
        panel.text(edge, -level, f" {text} ", ha=side, va="center", fontsize=8, color=colour, fontweight=weight)
    for i, (start, end) in enumerate(cliques(ranks, difference)):
        height = -0.28 - 0.22 * i
        panel.plot([start - 0.04, end + 0.04], [height, height], color="black", linewidth=3, solid_capstyle="butt")
    panel.plot([1, 1 + difference], [1.1, 1.1], color="black", marker="|", linewidth=1)
    panel.text(1 + difference / 2, 1.25, f"critical difference {difference:.1f}", ha="center", va="bottom", fontsize=8)
    panel.plot([1, n_methods], [0, 0], color="black", linewidth=1)
    for rank in range(1, n_methods + 1):
        panel.plot([rank, rank], [0, 0.15], color="black", linewidth=1)
        panel.text(rank, 0.2, str(rank), ha="center", va="bottom", fontsize=8)
    panel.set_xlim(-1.2, n_methods + 2.2)
    panel.set_ylim(-half - 0.8, 2.2)
    panel.set_axis_off()
