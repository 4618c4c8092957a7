"""Clusters, one by one: how many cells, how sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sccagn_scale.cli._show import new_table

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def described(labels: pd.Series, confidence: pd.Series | None) -> list[dict[str, Any]]:
    """Describe every cluster that holds a cell, as `--json` has it.

    Parameters
    ----------
    labels
        Categories, NaN for cells without a cluster.
    confidence
        Of the same cells, if it is known.
    """
    clusters = []
    for name, n_obs in labels.value_counts(sort=False).items():
        if not n_obs:  # of a loaded model's clusters some may have none of these cells
            continue
        mean = None if confidence is None else float(confidence[(labels == name).to_numpy()].mean())
        clusters.append({"name": str(name), "n_obs": int(n_obs), "mean_confidence": mean})
    return clusters


def tabulated(clusters: Sequence[dict[str, Any]], n_obs: int, n_without: int, *, title: str = "cluster") -> Table:
    """Lay clusters out for the terminal.

    Parameters
    ----------
    clusters
        Of `described`.
    n_obs
        Cells, of which the shares are.
    n_without
        Cells without a cluster.
    title
        Of the column of names.
    """
    table = new_table()
    table.add_column(title)
    for heading in ("cells", "share", "confidence"):
        table.add_column(heading, justify="right")
    for cluster in clusters:
        mean = cluster["mean_confidence"]
        table.add_row(*_row(cluster["name"], cluster["n_obs"], n_obs), "" if mean is None else f"{mean:.2f}")
    if n_without:
        table.add_row(*_row("(none)", n_without, n_obs), "", style="dim")
    return table


def _row(name: str, n_obs: int, total: int) -> tuple[str, str, str]:
    return name, f"{n_obs:,}", f"{n_obs / total:.1%}"
