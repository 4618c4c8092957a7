"""The tables of `transfer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks._results import Row, write_atomically

METRICS = {
    "nmi": "NMI",
    "ari": "ARI",
    "accuracy": "accuracy",
    "batch_driven": "batch-driven",
    "batch_nmi": "NMI with batches",
}
COST = ("seconds", "peak RSS (MiB)")
PARTS = ("set", "direction", "method", "cells", "types", "new types", *METRICS.values(), *COST)
WHOLES = ("set", "types", "batches", "method", *METRICS.values(), "that of the types", *COST)


def write(rows: Sequence[Row], *, beside: Path, whole: str) -> None:
    """Write the tables as `.md`, named as the result file `beside` which they stand."""
    write_atomically(beside.with_suffix(".md"), markdown(rows, whole))


def markdown(rows: Sequence[Row], whole: str) -> str:
    """A table of parts that were labelled and one of sets as a whole, each followed by the means of the methods.

    Scores are mean ± sd over seeds, "–" what a method does not have; cells and types of a part are those learned from →
    those labelled. A mean over fewer cases than there are says over how many it is.

    Parameters
    ----------
    rows
        What was measured; a case is a set and a direction, with a slash between them.
    whole
        The direction that stands for a set as a whole.
    """
    wholes = [row for row in rows if _split(row)[1] == whole]
    parts = [row for row in rows if _split(row)[1] != whole]
    return "\n".join(
        [
            "## Parts",
            "",
            *_table(PARTS, [_part(row) for row in parts]),
            "",
            *_means(parts),
            "",
            "## All cells",
            "",
            *_table(WHOLES, [_whole(row) for row in wholes]),
            "",
            *_means(wholes),
            "",
        ]
    )


def _split(row: Row) -> tuple[str, str]:
    name, _, direction = row["case"].rpartition("/")
    return name, direction


def _part(row: Row) -> list[str]:
    metrics = row["metrics"]
    named = [*_split(row), row["method"]]
    if "error" in metrics:
        return [*named, "failed", *["–"] * (len(PARTS) - len(named) - 1)]
    return [
        *named,
        f"{metrics['n_source']:,} → {metrics['n_target']:,}",
        f"{metrics['n_source_types']} → {metrics['n_target_types']}",
        f"{metrics['new_types']:.1%}",
        *(_score(row, metric) for metric in METRICS),
        *_cost(row),
    ]


def _whole(row: Row) -> list[str]:
    name, metrics = _split(row)[0], row["metrics"]
    if "error" in metrics:
        return [name, "–", "–", row["method"], "failed", *["–"] * (len(WHOLES) - 5)]
    return [
        name,
        str(metrics["n_target_types"]),
        str(metrics["n_batches"]),
        row["method"],
        *(_score(row, metric) for metric in METRICS),
        f"{metrics['batch_nmi_of_types']:.3f}",
        *_cost(row),
    ]


def _cost(row: Row) -> tuple[str, str]:
    return f"{row['seconds']:.1f}", f"{row['peak_rss_mb']:.0f}"


def _score(row: Row, metric: str) -> str:
    value, deviation = (row["metrics"].get(name) for name in (metric, f"{metric}_sd"))
    if value is None:
        return "–"
    return f"{value:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _means(rows: Sequence[Row]) -> list[str]:
    n_cases = len({row["case"] for row in rows})
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [method]
        for metric in METRICS:
            values = [row["metrics"].get(metric) for row in rows if row["method"] == method]
            known = [value for value in values if value is not None]
            fewer = f" (of {len(known)})" if len(known) < n_cases else ""
            cells.append(f"{mean(known):.3f}{fewer}" if known else "–")
        lines.append(cells)
    return _table((f"mean of {n_cases}", *METRICS.values()), lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [_line(cells) for cells in (head, ["---"] * len(head), *lines)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
