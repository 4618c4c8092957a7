"""The table and the plot of `accuracy`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from benchmarks._methods import CLUSTERINGS, MODES
from benchmarks._results import Row, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADINGS = {"given": "Number of clusters given", "auto": "Number of clusters estimated"}
SUMMARY = ("nmi", "ari", "ami", "completeness", "accuracy", "cross_seed_ari")
CONFIDENCE = ("unstable", "confidence_auc")  # of methods that hand over a confidence
# Okabe and Ito's colours, told apart by everyone, and again in darker shades; black is the default preset's alone.
COLOURS = (
    *("#000000", "#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#7F7F7F"),
    *("#8F3F00", "#004B77", "#00694C", "#9A6A00", "#8A4F6F", "#2E7DA8", "#4D4D4D", "#A39A00"),
)
MARKERS = "osD^v<>PX"


class Scores:
    """The rows of one mode, by set and method."""

    def __init__(self, rows: Sequence[Row], mode: str) -> None:
        cells = [(row["case"].rpartition("/"), row) for row in rows]
        mine = [(name, row) for (name, _, its_mode), row in cells if its_mode == mode]
        self.rows = {(name, row["method"]): row for name, row in mine if "error" not in row["metrics"]}
        self.sets = sorted({name for name, _ in mine})
        present = {row["method"] for _, row in mine}
        self.methods = [name for name in CLUSTERINGS if name in present]

    def get(self, name: str, method: str, metric: str) -> Any:
        """The metric, or None where the method has none on this set."""
        row = self.rows.get((name, method))
        return None if row is None else row["metrics"].get(metric)

    def over_sets(self, method: str, metric: str) -> list[float]:
        """The metric on every set where the method has it."""
        found = [self.get(name, method, metric) for name in self.sets]
        return [value for value in found if value is not None]

    def best_peer(self, name: str) -> str | None:
        """The method that is not ours with the largest NMI + ARI on this set."""
        peers = [m for m in self.methods if not CLUSTERINGS[m].is_ours and (name, m) in self.rows]
        return max(peers, key=lambda m: self.get(name, m, "nmi") + self.get(name, m, "ari"), default=None)


def write(rows: Sequence[Row], *, beside: Path) -> None:
    """Write the table as `.md` and the plot as `.png`, named as the result file `beside` which they stand."""
    write_atomically(beside.with_suffix(".md"), markdown(rows))
    plot(rows, beside.with_suffix(".png"))


def markdown(rows: Sequence[Row]) -> str:
    """The scores of every set and method, the best peer and our distance to it, and the means over sets.

    Parameters
    ----------
    rows
        What `accuracy` measured.

    Returns
    -------
    Two tables for each way of choosing the number of clusters. A mean over fewer sets than there are, because a
    method failed on the others, says over how many it is.
    """
    parts = []
    for mode in MODES:
        scores = Scores(rows, mode)
        if scores.methods:
            parts += [f"## {HEADINGS[mode]}", "", *_by_set(scores, mode), "", *_by_method(scores), ""]
    return "\n".join(parts)


def _by_set(scores: Scores, mode: str) -> list[str]:
    has_ours = "default" in scores.methods
    head = ["set", "types", *scores.methods, "best peer", *(["default − best peer"] if has_ours else [])]
    lines = ["NMI / ARI, mean ± sd over seeds" + (", (median number of clusters)" if mode == "auto" else "") + "."]
    lines += ["", *_table_head(head)]
    for name in scores.sets:
        n_types = next((s for m in scores.methods if (s := scores.get(name, m, "n_types"))), "–")
        cells = [name, str(n_types), *(_cell(scores, name, method, mode) for method in scores.methods)]
        best = scores.best_peer(name)
        cells.append(best or "–")
        if has_ours:
            cells.append(_difference(scores, name, best))
        lines.append(_line(cells))
    means = [f"**mean of {len(scores.sets)}**", ""]
    for method in scores.methods:
        found = [scores.over_sets(method, metric) for metric in ("nmi", "ari")]
        fewer = f" ({len(found[0])} sets)" if len(found[0]) < len(scores.sets) else ""
        means.append(" / ".join(f"**{mean(v):.3f}**" for v in found) + fewer if found[0] else "–")
    return [*lines, _line([*means, "", *([""] if has_ours else [])])]


def _by_method(scores: Scores) -> list[str]:
    summary = SUMMARY
    if any(scores.over_sets(method, metric) for method in scores.methods for metric in CONFIDENCE):
        summary += CONFIDENCE
    head = ["mean over sets", *summary, "median of abs(clusters − types) / types", "seconds", "peak RSS (MiB)"]
    lines = _table_head(head)
    for method in scores.methods:
        rows = [scores.rows[name, method] for name in scores.sets if (name, method) in scores.rows]
        if not rows:
            lines.append(_line([method, *["–"] * (len(head) - 1)]))
            continue
        cells = [_mean_over_sets(scores.over_sets(method, metric), n_sets=len(scores.sets)) for metric in summary]
        pairs = [(row["metrics"]["n_clusters"], row["metrics"]["n_types"]) for row in rows]
        cells.append(f"{median(abs(found - true) / true for found, true in pairs):.2f}")
        cells += [f"{mean(row['seconds'] for row in rows):.1f}", f"{mean(row['peak_rss_mb'] for row in rows):.0f}"]
        lines.append(_line([method, *cells]))
    return lines


def _mean_over_sets(values: Sequence[float], *, n_sets: int) -> str:
    if not values:
        return "–"
    return f"{mean(values):.3f}" + (f" ({len(values)} sets)" if len(values) < n_sets else "")


def _cell(scores: Scores, name: str, method: str, mode: str) -> str:
    if (name, method) not in scores.rows:
        return "failed"
    texts = []
    for metric in ("nmi", "ari"):
        deviation = scores.get(name, method, f"{metric}_sd")
        texts.append(f"{scores.get(name, method, metric):.3f}" + ("" if deviation is None else f" ± {deviation:.3f}"))
    found = f" ({scores.get(name, method, 'n_clusters'):.0f})" if mode == "auto" else ""
    return " / ".join(texts) + found


def _difference(scores: Scores, name: str, best: str | None) -> str:
    if best is None or (name, "default") not in scores.rows:
        return "–"
    return " / ".join(
        f"{scores.get(name, 'default', metric) - scores.get(name, best, metric):+.3f}" for metric in ("nmi", "ari")
    )


def _table_head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw NMI and ARI of every set and method, with deviations over seeds, and the means, as a picture at `path`.

    Sets are ordered by how well the methods do on them.
    """
    from matplotlib.figure import Figure

    tables = [(mode, scores) for mode in MODES if (scores := Scores(rows, mode)).rows]
    if not tables:
        return
    height = max(len(scores.sets) for _, scores in tables)
    figure = Figure(figsize=(6.5 * len(tables), 2.5 + 0.62 * height), layout="constrained")
    axes = figure.subplots(2, len(tables), squeeze=False)
    for column, (mode, scores) in enumerate(tables):
        for row, metric in enumerate(("nmi", "ari")):
            _panel(axes[row, column], scores, metric)
        axes[0, column].set_title(
            HEADINGS[mode], loc="left", fontweight="bold", pad=10 + 12 * -(-len(scores.methods) // 3)
        )
        axes[0, column].legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, scores: Scores, metric: str) -> None:
    def difficulty(name: str) -> float:
        found = [scores.get(name, method, "nmi") for method in scores.methods]
        return mean(value for value in found if value is not None) if any(v is not None for v in found) else 0.0

    names = sorted(scores.sets, key=difficulty)
    for i, method in enumerate(scores.methods):
        style = list(CLUSTERINGS).index(method)
        colour, marker = COLOURS[style % len(COLOURS)], MARKERS[style % len(MARKERS)]
        shift = min(0.09, 0.8 / len(scores.methods)) * (i - (len(scores.methods) - 1) / 2)
        known = [(y, name) for y, name in enumerate(names, start=1) if scores.get(name, method, metric) is not None]
        axes.errorbar(
            [scores.get(name, method, metric) for _, name in known],
            [y - shift for y, _ in known],
            xerr=[scores.get(name, method, f"{metric}_sd") or 0.0 for _, name in known],
            fmt=marker,
            color=colour,
            markersize=5 if CLUSTERINGS[method].is_ours else 4,
            linewidth=0.8,
            label=method,
        )
        if overall := scores.over_sets(method, metric):
            axes.plot(mean(overall), -shift, marker, color=colour, markersize=7)
    axes.axhline(0.5, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(names) + 1), [f"mean of {len(names)}", *names], fontsize=8)
    axes.set_ylim(-0.6, len(names) + 0.6)
    axes.set_xlim(None, 1.02)
    axes.set_xlabel(f"{metric.upper()}, mean ± sd over seeds")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
