"""The table of `loaders`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks._results import Row, write_atomically

HEADINGS = {"loader": "Loaders", "attention": "Scopes of attention"}
HEAD = (
    "set",
    "method",
    "NMI",
    "ARI",
    "training (s)",
    "batches",
    "batches/s",
    "step (ms)",
    "waiting",
    "cells per seed",
    "edges kept",
    "peak RSS (MiB)",
)


def write(rows: Sequence[Row], *, beside: Path) -> None:
    """Write the table as `.md`, named as the result file `beside` which it stands."""
    write_atomically(beside.with_suffix(".md"), markdown(rows))


def markdown(rows: Sequence[Row]) -> str:
    """One table of loaders and one of scopes; scores are mean ± sd over seeds, "–" what does not apply."""
    parts = []
    for kind, heading in HEADINGS.items():
        mine = [row for row in rows if row["case"].rpartition("/")[2] == kind]
        if mine:
            lines = [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(_cells(row)) for row in mine)]
            parts += [f"## {heading}", "", *lines, ""]
    return "\n".join(parts)


def _cells(row: Row) -> list[str]:
    metrics = row["metrics"]
    named = [row["case"].rpartition("/")[0], row["method"]]
    if "error" in metrics:
        return [*named, "failed", *["–"] * (len(HEAD) - 3)]
    scores = []
    for name in ("nmi", "ari"):
        deviation = metrics[f"{name}_sd"]
        scores.append(f"{metrics[name]:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}"))
    rate = metrics["batches_per_s"]
    return [
        *named,
        *scores,
        f"{row['seconds']:.1f}",
        str(metrics["n_batches"]),
        "–" if rate is None else f"{rate:.0f}",
        f"{metrics['step_ms']:.0f}",
        f"{metrics['waiting']:.1%}",
        f"{metrics['cells_per_seed']:.1f}",
        f"{metrics['edges_kept']:.1%}",
        f"{row['peak_rss_mb']:.0f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
