"""`sccagn-scale recluster`: more clusters or fewer, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sccagn_scale._console import Console
from sccagn_scale._errors import InputError
from sccagn_scale._keys import Keys
from sccagn_scale.cli._inputs import check_inputs, ending, read_cells
from sccagn_scale.cli._output import check_distinct, named

if TYPE_CHECKING:
    from anndata import AnnData

    from sccagn_scale.io import Atlas


def run(arguments: argparse.Namespace) -> None:
    """Read all but the counts, recluster, write, and show what became of each cluster."""
    source, target = arguments.input, arguments.input if arguments.inplace else arguments.output
    with Console(quiet=arguments.quiet) as console:
        _check_paths(source, target, arguments.inplace)
        with console.stage("Read"):
            cells = read_cells([source])
            _check_kind(cells, target)
        from sccagn_scale.model import recluster

        options = {
            "n_clusters": "--n-clusters",
            "resolution": "--resolution",
            "key": "--key",
            "key_added": "--key-added",
            "random_state": "--seed",
        }
        adata = cells.adata
        with console.stage("Recluster"), named(**options):
            name = recluster(
                adata,
                arguments.n_clusters,
                resolution=arguments.resolution,
                key=arguments.key,
                key_added=arguments.key_added,
                random_state=arguments.seed,
            )
        with console.stage("Write"):
            _write(cells, source, target)
        _show(adata, arguments.key, name, console)
        console.print()
        console.fact("Written", str(target))


def _check_paths(source: Path, target: Path, inplace: bool) -> None:
    from sccagn_scale.io import check_writable

    check_inputs([source])
    if not inplace:
        check_distinct({"FILE": source}, {"--output": target})
    check_writable(target, "FILE" if inplace else "--output")


def _check_kind(cells: Atlas, target: Path) -> None:
    if not cells.is_one_file or len(cells.files) > 1:
        raise InputError("`FILE` must be one .h5ad or .zarr file that `cluster` has written.")
    if ending(cells) != target.suffix.lower():
        raise InputError(
            f"`--output` must end in {ending(cells)}, as matrices stay as they are stored in `FILE`, but is "
            f"{str(target)!r}."
        )


def _write(cells: Atlas, source: Path, target: Path) -> None:
    from sccagn_scale.io import add_results, write_copy

    if cells.changed_files:
        raise InputError(f"`FILE` must stay as it is meanwhile, but {str(source)!r} was changed or removed; try again.")
    with named(path="FILE" if source == target else "--output", source="FILE"):
        if source == target:
            add_results(cells.adata, source)
        else:
            write_copy(cells.adata, source, target)


def _show(adata: AnnData, key: str, name: str, console: Console) -> None:
    from rich.table import Table

    labels, confidence = adata.obs[name], adata.obs[Keys(name).confidence]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in (name, "cells", "share", "confidence"):
        table.add_column(title, justify="left" if title == name else "right")
    for cluster, n_obs in labels.value_counts(sort=False).items():
        mean = confidence[(labels == cluster).to_numpy()].mean()
        table.add_row(str(cluster), f"{n_obs:,}", f"{n_obs / adata.n_obs:.1%}", f"{mean:.2f}")
    n_before = adata.obs[key].nunique()
    console.fact("Clusters", f"{labels.nunique()}, where {key} has {n_before}")
    console.print()
    console.print(table)
