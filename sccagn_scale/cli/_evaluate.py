"""`sccagn-scale evaluate`: clusters beside known types."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from sccagn_scale._console import Console
from sccagn_scale._errors import InputError
from sccagn_scale.cli._output import check_outputs, named, write_figure, write_json
from sccagn_scale.cli._show import new_table, show_written

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure
    from rich.table import Table

_METRICS = {
    "nmi": ("NMI", "normalised mutual information, arithmetic"),
    "ari": ("ARI", "adjusted Rand index"),
    "ami": ("AMI", "adjusted mutual information"),
    "completeness": ("completeness", "are a type's cells in one cluster"),
    "accuracy": ("accuracy", "clusters paired with types as favourably as possible"),
}

_PICTURE = "comparison.png"


def run(arguments: argparse.Namespace) -> None:
    """Compare, show, and write if asked to."""
    from sccagn_scale.io import read_parts
    from sccagn_scale.metrics import contingency, evaluate

    with Console(quiet=arguments.quiet) as console:
        check_outputs(
            {"FILE": arguments.input}, {"file": {"--json": arguments.json}, "folder": {"--plots": arguments.plots}}
        )
        with named(path="FILE"):
            cells = read_parts(arguments.input, ["obs"] if arguments.plots is None else ["obs", "obsm", "obsp", "uns"])
        obs = cells.obs
        truth = _column(obs, arguments.truth, "--truth")
        labels = _column(obs, arguments.key, "--key")
        with named("truth", labels="--key"):
            scores = evaluate(truth, labels)
            table = contingency(truth, labels)
        n_compared = int(truth.notna().sum())
        n_refused = int((truth.notna() & labels.isna()).sum())
        figure = None if arguments.plots is None else _draw(arguments, cells, console)
        written = []
        if arguments.json is not None:
            facts = {
                "input": str(arguments.input),
                "truth": arguments.truth,
                "key": arguments.key,
                "n_obs": len(obs),
                "n_obs_compared": n_compared,
                "n_obs_without_cluster": n_refused,
                "n_clusters": int(labels.nunique()),
                "n_types": int(truth.nunique()),
                "metrics": scores,
                "contingency": {
                    "clusters": list(map(str, table.index)),
                    "types": list(map(str, table.columns)),
                    "n_obs": table.to_numpy(),
                },
            }
            write_json(facts, arguments.json)
            written.append(arguments.json)
        if figure is not None:
            written.append(arguments.plots / _PICTURE)
            write_figure(figure, written[-1])

        compared = f"{n_compared:,} of {len(obs):,} cells have a type in {arguments.truth!r}"
        console.print(compared + (f"; {n_refused:,} of them have no cluster" if n_refused else ""))
        console.print()
        console.print(_metrics_table(scores))
        for part in _contingency_tables(table, console.out.width):
            console.print()
            console.print(part)
        if written:
            console.print()
        show_written(written, console)


def _draw(arguments: argparse.Namespace, cells: AnnData, console: Console) -> Figure:
    """Clusters and types side by side, in colours that agree."""
    from sccagn_scale import pl

    with console.stage("Draw"), named(path="FILE", adata="FILE"):
        return pl.embedding(cells, [arguments.key, arguments.truth], key=arguments.key)


def _column(obs: pd.DataFrame, name: str, option: str) -> pd.Series:
    if name not in obs:
        there = ", ".join(map(str, obs.columns)) or "none"
        raise InputError(f"`{option}` must name a column of obs, but there is no {name!r}; the columns are: {there}.")
    values = obs[name]
    if values.dtype.kind == "f" and (values.dropna() % 1 != 0).any():
        raise InputError(
            f"`{option}` must name a column of groups, but obs[{name!r}] holds numbers that are not whole."
        )
    return values


def _metrics_table(scores: dict[str, float]) -> Table:
    table = new_table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for name, value in scores.items():
        title, meaning = _METRICS[name]
        table.add_row(title, f"{value:.4f}", meaning)
    return table


def _contingency_tables(counts: pd.DataFrame, width: int) -> list[Table]:
    """Clusters × types. Where the types' names are too long for the terminal, letters with a key below.

    Types that have no room beside each other even so are in further tables.
    """
    from rich.text import Text

    values = counts.to_numpy()
    order = np.argsort(values.argmax(axis=0), kind="stable")  # a good clustering looks diagonal
    values = values[:, order]
    names = [str(counts.columns[j]) for j in order]
    cells = [[f"{n:,}" if n else "·" for n in row] for row in values]
    rows = [str(name) for name in counts.index]
    first = max(len("cluster"), *map(len, rows))
    widths = [max(len(name), *(len(row[j]) for row in cells)) for j, name in enumerate(names)]
    short = first + sum(widths) + 2 * len(widths) > width
    heads = [_letters(j) for j in range(len(names))] if short else names

    tables = []
    widest = max(len(text) for row in [heads, *cells] for text in row)
    room = max(1, (width - first) // (widest + 2)) if short else len(names)
    for start in range(0, len(names), room):
        shown = range(start, min(start + room, len(names)))
        table = new_table()
        table.add_column("cluster", no_wrap=True)
        for j in shown:
            table.add_column(heads[j], justify="right", no_wrap=True)
        for name, row, line in zip(rows, values, cells, strict=True):
            most = int(row.argmax())
            table.add_row(name, *(Text(line[j], "bold" if j == most else "") for j in shown))
        tables.append(table)
    if not short:
        return tables
    key = new_table(show_header=False)
    for head, name in zip(heads, names, strict=True):
        key.add_row(head, name)
    return [*tables, key]


def _letters(number: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("A") + rest) + text
    return text
