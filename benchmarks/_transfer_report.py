"""The tables of `transfer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks._results import Row, write_atomically

METRICS = {"nmi": "NMI", "ari": "ARI", "accuracy": "accuracy", "batch_driven": "batch-driven"}
HEAD = ("set", "direction", "method", "cells", "types", "new types", *METRICS.values(), "seconds", "peak RSS (MiB)")


def write(rows: Sequence[Row], *, beside: Path) -> None:
    """Write the tables as `.md`, named as the result file `beside` which they stand."""
    write_atomically(beside.with_suffix(".md"), markdown(rows))


def markdown(rows: Sequence[Row]) -> str:
    """One row for each set, direction and method, then the means of the methods over sets and directions.

    Scores are mean ± sd over seeds, "–" what a method does not have; cells and types are those learned from → those
    labelled. A mean over fewer directions than there are says over how many it is.
    """
    n_cases = len({row["case"] for row in rows})
    head = [f"mean of {n_cases}", *METRICS.values()]
    return "\n".join(
        [
            *_table_head(HEAD),
            *(_line(_cells(row)) for row in rows),
            "",
            *_table_head(head),
            *(_line(_means(rows, method, n_cases)) for method in dict.fromkeys(row["method"] for row in rows)),
            "",
        ]
    )


def _cells(row: Row) -> list[str]:
    metrics = row["metrics"]
    name, _, direction = row["case"].rpartition("/")
    named = [name, direction, row["method"]]
    if "error" in metrics:
        return [*named, "failed", *["–"] * (len(HEAD) - 4)]
    return [
        *named,
        f"{metrics['n_source']:,} → {metrics['n_target']:,}",
        f"{metrics['n_source_types']} → {metrics['n_target_types']}",
        f"{metrics['new_types']:.1%}",
        *(_score(row, metric) for metric in METRICS),
        f"{row['seconds']:.1f}",
        f"{row['peak_rss_mb']:.0f}",
    ]


def _score(row: Row, metric: str) -> str:
    value, deviation = (row["metrics"].get(name) for name in (metric, f"{metric}_sd"))
    if value is None:
        return "–"
    return f"{value:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _means(rows: Sequence[Row], method: str, n_cases: int) -> list[str]:
    cells = [method]
    for metric in METRICS:
        values = [row["metrics"].get(metric) for row in rows if row["method"] == method]
        known = [value for value in values if value is not None]
        fewer = f" (of {len(known)})" if len(known) < n_cases else ""
        cells.append(f"{mean(known):.3f}{fewer}" if known else "–")
    return cells


def _table_head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
