"""`sccagn-scale recluster`: more clusters or fewer, without training."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sccagn_scale._console import Console
from sccagn_scale._errors import InputError
from sccagn_scale._keys import Keys
from sccagn_scale.cli._clusters import described, tabulated
from sccagn_scale.cli._inputs import check_inputs, read_cells
from sccagn_scale.cli._machine import peak_rss_mb
from sccagn_scale.cli._output import check_outputs, check_room, named, write_json
from sccagn_scale.cli._show import show_written

if TYPE_CHECKING:
    from anndata import AnnData

    from sccagn_scale.io import Atlas


_READ = ("obs", "var", "uns", "obsm")
_CHANGED = ("obs", "uns")


def run(arguments: argparse.Namespace) -> None:
    """Read what clusters are made of, recluster, write, and show what became of the clusters."""
    start = time.perf_counter()
    source, target = arguments.input, arguments.input if arguments.inplace else arguments.output
    with Console(quiet=arguments.quiet) as console:
        _check_paths(source, target, arguments)
        with console.stage("Read"):
            cells = read_cells([source], called="FILE", parts=_READ)
            _check_kind(cells, target)
            check_room(cells, "in place" if arguments.inplace else "copy", target, called="FILE")
        from sccagn_scale.model import recluster

        adata = cells.adata
        with console.stage("Recluster"), named("n_clusters", "factor", "key", "key_added", random_state="--seed"):
            name = recluster(
                adata,
                arguments.n_clusters,
                factor=arguments.factor,
                key=arguments.key,
                key_added=arguments.key_added,
                random_state=arguments.seed,
            )
        with console.stage("Write"):
            _write(cells, source, target)
        facts = {"input": str(source), "output": str(target), **_facts(adata, arguments.key, name)}
        facts["seconds"] = {**console.seconds, "total": time.perf_counter() - start}
        facts |= {"peak_rss_mb": peak_rss_mb(), "warnings": console.notes}
        if arguments.json is not None:
            write_json(facts, arguments.json)
        _show(facts, console)
        show_written(filter(None, (target, arguments.json)), console)


def _check_paths(source: Path, target: Path, arguments: argparse.Namespace) -> None:
    from sccagn_scale.io import check_writable

    check_inputs([source], called="FILE")
    check_outputs({"FILE": source}, {"anndata": {"--output": arguments.output}, "file": {"--json": arguments.json}})
    if arguments.inplace:
        check_writable(target, "FILE")


def _check_kind(cells: Atlas, target: Path) -> None:
    from sccagn_scale.io import ending

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
            add_results(cells.adata, source, parts=_CHANGED)
        else:
            write_copy(cells.adata, source, target, parts=_CHANGED)


def _facts(adata: AnnData, key: str, name: str) -> dict[str, Any]:
    """What became of the clusters, as `--json` has it."""
    labels, before = adata.obs[name], adata.obs[key]
    clusters = described(labels, adata.obs[Keys(name).confidence])
    for cluster in clusters:
        origins = before[(labels == cluster["name"]).to_numpy()].value_counts()
        cluster["from"] = [str(origin) for origin, n_obs in origins.items() if n_obs]
    return {
        "key": key,
        "key_added": name,
        "n_obs": adata.n_obs,
        "n_clusters": len(clusters),
        "n_clusters_before": int(before.nunique()),
        "clusters": clusters,
        "n_obs_without_cluster": int(labels.isna().sum()),
    }


def _show(facts: dict[str, Any], console: Console) -> None:
    key, clusters = facts["key"], facts["clusters"]
    console.fact("Clusters", f"{facts['n_clusters']}, where {key} has {facts['n_clusters_before']}")
    console.print()
    n_without = facts["n_obs_without_cluster"]
    console.print(tabulated(clusters, facts["n_obs"], n_without, title=facts["key_added"]))
    console.print()
