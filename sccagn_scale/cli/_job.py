"""What `cluster` and `assign` share: the paths that they take, what they write, and what they say of it."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sccagn_scale._console import Console, duration
from sccagn_scale._errors import InputError
from sccagn_scale._keys import Keys
from sccagn_scale.cli._clusters import described, tabulated
from sccagn_scale.cli._inputs import check_inputs, read_cells
from sccagn_scale.cli._machine import peak_rss_mb
from sccagn_scale.cli._output import (
    by_option,
    check_distinct,
    check_outputs,
    check_room,
    named,
    write_figure,
    write_json,
)
from sccagn_scale.cli._show import show_written

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from sccagn_scale.io import Atlas, Making

OPTIONS = ("layer", "device", "memory", "store", "dask", "key_added")
"""Parameters of `model_options` and of what writes the results that are options of the same name."""


def check_paths(
    arguments: argparse.Namespace, *, reads: Mapping[str, Path | None], writes: Mapping[str, Path | None]
) -> None:
    """Refuse paths that cannot be read or written, before any work.

    Parameters
    ----------
    arguments
        Of the verb.
    reads, writes
        Its further files and folders, by option: those read, and folders that are replaced whole.
    """
    from sccagn_scale.io import check_writable

    check_inputs(arguments.input)
    if arguments.inplace and (len(arguments.input) > 1 or arguments.results_only):
        raise InputError(
            "`--inplace` adds the results to one input file as it is, so there must be one INPUT and no "
            "`--results-only`; give `--output` instead."
        )
    folders = {"--plots": arguments.plots, **writes, "--store": arguments.store}
    check_outputs(
        {**by_option(arguments.input), **reads},
        {"anndata": {"--output": arguments.output}, "file": {"--json": arguments.json}, "folder": folders},
        whole=writes,
    )
    if arguments.inplace:
        check_writable(arguments.input[0], "INPUT")


def read_input(arguments: argparse.Namespace, console: Console) -> tuple[Atlas, Making]:
    """Open the input and decide how the output comes about.

    Raises
    ------
    InputError
        If the output would lack what the input has, or its disk has no room for it.
    """
    with console.stage("Read"):
        cells = read_cells(arguments.input, scratch=target(arguments).parent)
        # files in a folder are known only now, and may be links
        outputs = {"--output": arguments.output, "--json": arguments.json}
        check_distinct({f"INPUT {path}": path for path in cells.files}, outputs)
        making = _making(arguments, cells)
        from sccagn_scale.io import free_keys

        with named("key_added"):
            free_keys(arguments.key_added, cells.adata)
        if making == "anew":
            with _named_as_input():  # rather than after the work, of which it may be no part
                cells.matrix()
        check_room(cells, making, target(arguments), also=["leave the matrices out (`--results-only`)"])
    return cells, making


def model_options(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What both verbs hand on to the model."""
    return {
        "layer": arguments.layer,
        "device": arguments.device,
        "memory": arguments.memory,
        "store": arguments.store,
        "scratch": target(arguments).parent,
        "dask": arguments.dask,
        "progress": console,
    }


def target(arguments: argparse.Namespace) -> Path:
    """The file that the results go to."""
    output: Path = arguments.input[0] if arguments.inplace else arguments.output
    return output


def _making(arguments: argparse.Namespace, cells: Atlas) -> Making:
    from sccagn_scale.io import ending

    if arguments.inplace:
        if not cells.is_one_file:
            raise InputError("`--inplace` adds the results to a .h5ad or .zarr file; INPUT is 10x's: give `--output`.")
        return "in place"
    if arguments.results_only:
        return "results"
    if cells.is_one_file and ending(cells) == arguments.output.suffix.lower():
        return "copy"
    if len(cells.files) == 1 and set(cells.layers) - {None}:
        raise InputError(
            f"`--output` must end in {ending(cells)}, as INPUT's layers and raw stay as they are stored there, but is "
            f"{str(arguments.output)!r}; give it that ending, or add `--results-only`."
        )
    return "anew" if None in cells.layers else "results"  # some files may lack X


def _named_as_input() -> AbstractContextManager[None]:
    """Name X of the input in errors of reading it."""
    return named(path="INPUT", layer="X of INPUT", scratch="--output")


def _blocks(arguments: argparse.Namespace, cells: Atlas) -> Iterator[tuple[int, csr_matrix]]:
    """Go through X; if it turns out damaged, the results are kept without it."""
    from sccagn_scale.pp import BLOCK_SIZE

    try:
        with _named_as_input():
            yield from cells.matrix().blocks(BLOCK_SIZE)
    except InputError as error:
        kept = _write_alone(arguments, cells)
        raise InputError(f"{error} The results are in {str(kept)!r}, without a matrix.") from error


def write_cells(arguments: argparse.Namespace, cells: Atlas, making: Making) -> None:
    """Write the results, with what else the output has of the input."""
    from sccagn_scale.io import add_results, write, write_atlas, write_copy
    from sccagn_scale.model import CELLS
    from sccagn_scale.pp import same_matrices

    with named(path="INPUT" if arguments.inplace else "--output", source="INPUT"):
        if changed := cells.changed_files:
            raise InputError(
                f"`INPUT` must stay as it is during the run, but {str(changed[0])!r} was changed or removed. The "
                f"results of the cells that it had are in {str(_write_alone(arguments, cells))!r}, without a matrix."
            )
        if making == "in place":
            with same_matrices(arguments.input[0], arguments.store and arguments.store / CELLS):
                add_results(cells.adata, arguments.input[0])
        elif making == "copy":
            write_copy(cells.adata, cells.files[0], arguments.output)
        elif making == "anew":
            write_atlas(cells.adata, _blocks(arguments, cells), arguments.output, nnz=cells.matrix().nnz)
        else:
            write(cells.adata, arguments.output)


def _write_alone(arguments: argparse.Namespace, cells: Atlas) -> Path:
    """Keep the results of a run without matrices, which cannot be had or may not belong to them; says where."""
    from sccagn_scale.io import write

    kept = target(arguments)
    if arguments.inplace:  # beside it, under a name that is free
        places = (kept.with_stem(f"{kept.stem}_{arguments.key_added}{i or ''}") for i in itertools.count())
        kept = next(place for place in places if not place.exists())
    write(cells.adata, kept)
    return kept


def conclude(
    arguments: argparse.Namespace,
    adata: AnnData,
    console: Console,
    *,
    start: float,
    estimated: bool,
    how: str,
    written: Sequence[Path] = (),
) -> None:
    """Draw and write what was asked for beside the output, and say what came of the run.

    Parameters
    ----------
    arguments
        Of the verb.
    adata
        With results.
    console
        Which has timed the stages.
    start
        When the run began, by `time.perf_counter`.
    estimated
        Whether this run estimated the number of clusters.
    how
        How the number of clusters came about.
    written
        What was written already beside the output.
    """
    pictures = _draw(arguments, adata, console)
    facts = _facts(arguments, adata, console, estimated)
    facts["seconds"]["total"] = time.perf_counter() - start
    reports = [] if arguments.json is None else [arguments.json]
    for path in reports:
        write_json(facts, path)
    _show(facts, how, [target(arguments), *pictures, *reports, *written], console)


def _draw(arguments: argparse.Namespace, adata: AnnData, console: Console) -> list[Path]:
    if arguments.plots is None:
        return []
    from sccagn_scale import pl

    key = arguments.key_added
    record = adata.uns.get(Keys(key).uns, {})
    seed = int(record.get("params", {}).get("random_state", 0))
    figures = {"cells.png": lambda: pl.embedding(adata, key=key, random_state=seed)}
    is_trained = record.get("stopped") != "loaded"
    if is_trained and any(map(len, record.get("history", {}).values())):
        figures["training.png"] = lambda: pl.history(adata, key)
    if is_trained and "score" in (record.get("n_clusters_evidence") or {}):
        figures["n_clusters.png"] = lambda: pl.n_clusters_curve(adata, key)
    for name in {"training.png", "n_clusters.png"} - figures.keys() if is_trained else ():
        if (arguments.plots / name).is_file():  # of an earlier run, which this one's others replace
            (arguments.plots / name).unlink()
    with console.stage("Draw", total=len(figures)) as stage:
        for name, draw in figures.items():
            write_figure(draw(), arguments.plots / name)
            stage.advance()
    return [arguments.plots / name for name in figures]


def _facts(arguments: argparse.Namespace, adata: AnnData, console: Console, estimated: bool) -> dict[str, Any]:
    """The run as `--json` has it."""
    keys = Keys(arguments.key_added)
    record: dict[str, Any] = dict(adata.uns.get(keys.uns, {}))
    params = dict(record.get("params", {}))
    graph = dict(record.get("graph", {}))
    labels = adata.obs[keys.labels]
    clusters = described(labels, adata.obs.get(keys.confidence))
    return {
        "input": [str(path) for path in arguments.input],
        "output": str(target(arguments)),
        "n_obs": adata.n_obs,
        "n_vars": adata.n_vars,
        "n_clusters": int(record.get("n_clusters", len(clusters))),
        "n_clusters_estimated": estimated,
        "n_clusters_evidence": record.get("n_clusters_evidence") or None,
        "initial": record.get("initial", {}),
        "clusters": clusters,
        "n_obs_without_cluster": int(labels.isna().sum()),
        "preprocessing": dict(record.get("preprocessing", {})),
        "graph": graph,
        "graph_recall": graph.get("recall"),
        "seconds": dict(console.seconds),
        "peak_rss_mb": peak_rss_mb(),
        "params": {name: value for name, value in params.items() if name != "versions"},
        "versions": record.get("versions", params.get("versions")),
        "warnings": console.notes,
    }


def _show(facts: dict[str, Any], how: str, written: Sequence[Path], console: Console) -> None:
    kept = facts["preprocessing"]
    lines = {"Input": f"{', '.join(facts['input'])}: {facts['n_obs']:,} cells × {facts['n_vars']:,} genes"}
    if "n_obs_kept" in kept:
        lines["Kept"] = f"{int(kept['n_obs_kept']):,} cells, {int(kept.get('n_vars_kept', facts['n_vars'])):,} genes"
    if "input_kind" in kept:
        lines["Values"] = str(kept["input_kind"])
    if "harmonypy" in (facts["versions"] or {}):
        lines["Batches"] = f"{facts['params']['batch_key']}, corrected for (harmonypy {facts['versions']['harmonypy']})"
    if facts["graph"].get("backend") is not None:
        recall = facts["graph_recall"]
        lines["Graph"] = str(facts["graph"]["backend"]) + (f", recall {recall:.3f}" if recall is not None else "")
    lines["Clusters"] = f"{facts['n_clusters']}, {how}{_empty(facts)}"

    for title, text in lines.items():
        console.fact(title, text)
    console.print()
    console.print(tabulated(facts["clusters"], facts["n_obs"], facts["n_obs_without_cluster"]))
    console.print()
    show_written(written, console)
    console.fact("Took", f"{duration(facts['seconds']['total'])}, peak memory {facts['peak_rss_mb']:,.0f} MB")


def _empty(facts: dict[str, Any]) -> str:
    n_empty = facts["n_clusters"] - len(facts["clusters"])
    return f"; {n_empty} of them hold{'s' if n_empty == 1 else ''} no cell" if n_empty > 0 else ""
