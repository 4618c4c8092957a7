"""Table and picture of `scale`: stages against the number of cells, and their last slopes on log axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks._results import Row, write_atomically

OURS = "sccagn_scale"
LEFT_OUT = ("import", "warm-up", "other")
SLOPE = "Slope: of log values over log cells, between the two largest sizes of a line."
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#17becf", "#7f7f7f")


def add_slopes(rows: Sequence[Row]) -> None:
    """Give every row of ours its stage's slopes of log seconds and log peak memory over log cells; see `_slope`."""
    for stage, line in _lines(rows, "seconds").items():
        memory = _lines(rows, "peak_rss_mb")[stage]
        for row in rows:
            if row["method"] == OURS and _stage(row) == stage and len(line) > 1:
                row["metrics"] |= {"slope_seconds": _slope(line), "slope_memory": _slope(memory)}


def write(rows: Sequence[Row], *, beside: Path) -> None:
    """Write the table (.md) and the picture (.png) beside the result file."""
    write_atomically(beside.with_suffix(".md"), markdown(rows))
    _plot(rows, beside.with_suffix(".png"))


def markdown(rows: Sequence[Row]) -> str:
    """Seconds of every stage at every size, and the last slope."""
    lines = _lines(rows, "seconds")
    sizes = sorted({n for line in lines.values() for n in line})
    head = ["stage", *(f"{n:,}" for n in sizes), "slope"]
    table = [head, ["---"] * len(head)]
    for stage, line in lines.items():
        cells = [f"{line[n]:.1f}" if n in line else "–" for n in sizes]
        table.append([stage, *cells, f"{_slope(line):.2f}" if len(line) > 1 else "–"])
    memory = _lines(rows, "peak_rss_mb").get("whole", {})
    table.append(["peak RSS (MiB)", *(f"{memory[n]:.0f}" if n in memory else "–" for n in sizes)])
    table[-1].append(f"{_slope(memory):.2f}" if len(memory) > 1 else "–")
    for label, key in (("scanpy, whole", "seconds"), ("scanpy, peak RSS (MiB)", "peak_rss_mb")):
        peer = _lines(rows, key, "scanpy").get("whole", {})
        digits = 1 if key == "seconds" else 0
        cells = [f"{peer[n]:.{digits}f}" if n in peer else "–" for n in sizes]
        table.append([label, *cells, f"{_slope(peer):.2f}" if len(peer) > 1 else "–"])
    body = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"Seconds of each stage by number of cells. {SLOPE}\n\n{body}\n"


def _stage(row: Row) -> str:
    return row["case"].partition("/")[0]


def _lines(rows: Sequence[Row], key: str, method: str = OURS) -> dict[str, dict[int, float]]:
    """Stage → cells → value."""
    lines: dict[str, dict[int, float]] = {}
    for row in rows:
        stage, _, n_obs = row["case"].partition("/")
        value = row[key]  # type: ignore[literal-required]
        if row["method"] == method and stage not in LEFT_OUT and value:
            lines.setdefault(stage, {})[int(n_obs)] = float(value)
    return lines


def _slope(line: dict[int, float]) -> float:
    """Slope between the two largest sizes: smaller ones may be done by other algorithms, and say nothing of growth."""
    (n, value), (larger_n, larger) = sorted(line.items())[-2:]
    return math.log(larger / value) / math.log(larger_n / n)


def _plot(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.8), layout="constrained")
    panels = (("seconds", "seconds"), ("peak_rss_mb", "largest RSS of the process so far (MiB)"))
    for axes, (key, unit) in zip(figure.subplots(1, 2), panels, strict=True):
        for i, (stage, line) in enumerate(_lines(rows, key).items()):
            style = {"color": "black", "linewidth": 2} if stage == "whole" else {"color": COLOURS[i % len(COLOURS)]}
            axes.plot(list(line), list(line.values()), "o-", markersize=4, label=_labelled(stage, line), **style)
        peer = _lines(rows, key, "scanpy").get("whole", {})
        axes.plot(list(peer), list(peer.values()), "s--", color="0.6", label=_labelled("scanpy, whole", peer))
        axes.set(xscale="log", yscale="log", xlabel="cells", ylabel=unit)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(SLOPE, fontsize=8, color="0.3")
    figure.savefig(path, dpi=150)


def _labelled(stage: str, line: dict[int, float]) -> str:
    return stage + (f", slope {_slope(line):.2f}" if len(line) > 1 else "")
