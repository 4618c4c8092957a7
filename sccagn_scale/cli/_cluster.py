"""`sccagn-scale cluster`: a file in, a clustered file out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sccagn_scale._errors import InputError
from sccagn_scale._keys import Keys
from sccagn_scale.cli._console import Console, duration
from sccagn_scale.cli._inputs import check_inputs, read_cells, read_config
from sccagn_scale.cli._machine import limit_threads, peak_rss_mb
from sccagn_scale.cli._output import check_distinct, named, write_figure, write_json

if TYPE_CHECKING:
    from anndata import AnnData

    from sccagn_scale.config import Config
    from sccagn_scale.io import Atlas


def run(arguments: argparse.Namespace) -> None:
    """Cluster, write, and say what came of it."""
    start = time.perf_counter()
    if arguments.threads is not None:
        limit_threads(arguments.threads)
    with Console(quiet=arguments.quiet) as console:
        _check(arguments)
        config = read_config(arguments)
        adata = _train(arguments, config, console)
        written = _write_pictures(arguments, adata, console)
        facts = _facts(arguments, adata, console)
        facts["seconds"]["total"] = time.perf_counter() - start
        if arguments.json is not None:
            write_json(facts, arguments.json)
            written.append(arguments.json)
        _show(facts, [_target(arguments), *written, *([arguments.model] if arguments.model else [])], console)


def _check(arguments: argparse.Namespace) -> None:
    from sccagn_scale.io import check_writable

    if arguments.model is not None and arguments.batch_key is not None:
        raise InputError(
            "`--model` must not be given with `--batch-key`: such a model has no rule to correct other cells by, so it "
            "cannot be kept. Leave one of them out."
        )
    check_inputs(arguments.input)
    if arguments.inplace and (len(arguments.input) > 1 or arguments.results_only):
        raise InputError(
            "`--inplace` adds the results to one input file as it is, so there must be one INPUT and no "
            "`--results-only`; give `--output` instead."
        )
    inputs = {f"INPUT {i}" if i else "INPUT": path for i, path in enumerate(arguments.input)}
    check_distinct(
        inputs | {"--config": arguments.config},
        {
            "--output": arguments.output,
            "--json": arguments.json,
            "--plots": arguments.plots,
            "--model": arguments.model,
            "--store": arguments.store,
        },
    )
    if arguments.store is not None:
        check_writable(arguments.store, "--store", kind="folder")
    if arguments.output is not None:
        check_writable(arguments.output, "--output")
    else:
        check_writable(arguments.input[0], "INPUT")
    if arguments.json is not None:
        check_writable(arguments.json, "--json", kind="file")
    if arguments.plots is not None:
        check_writable(arguments.plots, "--plots", kind="folder")
    if arguments.model is not None:
        check_writable(arguments.model, "--model", kind="folder")


def _train(arguments: argparse.Namespace, config: Config, console: Console) -> AnnData:
    with console.stage("Read"):
        cells = read_cells(arguments.input, scratch=_target(arguments).parent)
        _check_output(arguments, cells)
    from sccagn_scale.model import SCCAGN  # after reading, so that a mistaken name is told before torch is loaded

    options = {"n_clusters": "--n-clusters", "layer": "--layer", "random_state": "--seed", "device": "--device"}
    options |= {
        "batch_key": "--batch-key",
        "key_added": "--key-added",
        "memory": "--memory",
        "store": "--store",
        "dask": "--dask",
    }
    with named(**options, path="INPUT"):
        model = SCCAGN(
            cells,
            arguments.n_clusters,
            config,
            layer=arguments.layer,
            batch_key=arguments.batch_key,
            random_state=arguments.seed,
            device=arguments.device,
            memory=arguments.memory,
            store=arguments.store,
            scratch=_target(arguments).parent,
            dask=arguments.dask,
            progress=console,
        ).train()
        adata = cells.adata
        model.write_to(adata, key_added=arguments.key_added)
    with console.stage("Write"):
        _write(arguments, cells)
        if arguments.model is not None:
            with named(folder="--model", path="--model"):
                model.save(arguments.model)
    return adata


def _target(arguments: argparse.Namespace) -> Path:
    """The file that the results go to."""
    output: Path = arguments.input[0] if arguments.inplace else arguments.output
    return output


def _is_copied(arguments: argparse.Namespace, cells: Atlas) -> bool:
    """Whether matrices go to the output as they are stored."""
    return cells.is_one_file and cells.files[0].suffix.lower() == arguments.output.suffix.lower()


def _check_output(arguments: argparse.Namespace, cells: Atlas) -> None:
    """Refuse an output that would lack what the input has."""
    if arguments.inplace and not cells.is_one_file:
        raise InputError("`--inplace` adds the results to a .h5ad or .zarr file; INPUT is 10x's: give `--output`.")
    if arguments.inplace or arguments.results_only or len(cells.files) > 1 or _is_copied(arguments, cells):
        return
    if len(cells.layers) > 1:
        kind = cells.files[0].suffix
        raise InputError(
            f"`--output` must end in {kind} as INPUT does, whose layers and raw stay as they are stored there, but is "
            f"{str(arguments.output)!r}; give it that ending, or add `--results-only`."
        )


def _write(arguments: argparse.Namespace, cells: Atlas) -> None:
    from sccagn_scale.io import add_results, write, write_atlas, write_copy
    from sccagn_scale.pp import BLOCK_SIZE

    with named(path="INPUT" if arguments.inplace else "--output", source="INPUT"):
        if arguments.inplace:
            add_results(cells.adata, arguments.input[0])
        elif arguments.results_only or None not in cells.layers:  # some files may lack X
            write(cells.adata, arguments.output)
        elif _is_copied(arguments, cells):
            write_copy(cells.adata, cells.files[0], arguments.output)
        else:
            write_atlas(cells.adata, cells.matrix().blocks(BLOCK_SIZE), arguments.output)


def _write_pictures(arguments: argparse.Namespace, adata: AnnData, console: Console) -> list[Path]:
    if arguments.plots is None:
        return []
    from sccagn_scale import pl

    key = arguments.key_added
    record = adata.uns.get(Keys(key).uns, {})
    figures = {"cells.png": lambda: pl.embedding(adata, key_added=key, random_state=arguments.seed)}
    if record.get("history"):
        figures["training.png"] = lambda: pl.history(adata, key)
    if "score" in (record.get("n_clusters_evidence") or {}):
        figures["n_clusters.png"] = lambda: pl.n_clusters_curve(adata, key)
    with console.stage("Draw", total=len(figures)) as stage:
        for name, draw in figures.items():
            write_figure(draw(), arguments.plots / name)
            stage.advance()
    return [arguments.plots / name for name in figures]


def _facts(arguments: argparse.Namespace, adata: AnnData, console: Console) -> dict[str, Any]:
    """The run as `--json` has it."""
    keys = Keys(arguments.key_added)
    record: dict[str, Any] = dict(adata.uns.get(keys.uns, {}))
    params = dict(record.get("params", {}))
    graph = dict(record.get("graph", {}))
    labels = adata.obs[keys.labels]
    confidence = adata.obs.get(keys.confidence)
    clusters = []
    for name, n_obs in labels.value_counts(sort=False).items():
        mean = None if confidence is None else float(confidence[(labels == name).to_numpy()].mean())
        clusters.append({"name": str(name), "n_obs": int(n_obs), "mean_confidence": mean})
    return {
        "input": [str(path) for path in arguments.input],
        "output": str(_target(arguments)),
        "n_obs": adata.n_obs,
        "n_vars": adata.n_vars,
        "n_clusters": int(record.get("n_clusters", len(clusters))),
        "n_clusters_estimated": arguments.n_clusters is None,
        "n_clusters_evidence": record.get("n_clusters_evidence") or None,
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


def _show(facts: dict[str, Any], written: list[Path], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    kept = facts["preprocessing"]
    lines = {"Input": f"{', '.join(facts['input'])}: {facts['n_obs']:,} cells × {facts['n_vars']:,} genes"}
    if "n_obs_kept" in kept:
        lines["Kept"] = f"{int(kept['n_obs_kept']):,} cells, {int(kept.get('n_vars_kept', facts['n_vars'])):,} genes"
    if "input_kind" in kept:
        lines["Values"] = str(kept["input_kind"])
    if "harmonypy" in facts["params"]:
        lines["Batches"] = f"{facts['params']['batch_key']}, corrected for (harmonypy {facts['params']['harmonypy']})"
    if facts["graph"].get("backend") is not None:
        recall = facts["graph_recall"]
        lines["Graph"] = str(facts["graph"]["backend"]) + (f", recall {recall:.3f}" if recall is not None else "")
    lines["Clusters"] = f"{facts['n_clusters']}, {_how(facts)}"

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("cluster", "cells", "share", "confidence"):
        table.add_column(title, justify="left" if title == "cluster" else "right")
    for cluster in facts["clusters"]:
        mean = cluster["mean_confidence"]
        table.add_row(*_row(cluster["name"], cluster["n_obs"], facts["n_obs"]), "" if mean is None else f"{mean:.2f}")
    if facts["n_obs_without_cluster"]:
        table.add_row(*_row("(none)", facts["n_obs_without_cluster"], facts["n_obs"]), "", style="dim")

    for title, text in lines.items():
        console.print(f"[bold]{title:<10}[/bold]{escape(text)}")
    console.print()
    console.print(table)
    console.print()
    for i, path in enumerate(written):
        console.print(f"[bold]{'' if i else 'Written':<10}[/bold]{escape(str(path))}")
    took = duration(facts["seconds"]["total"])
    console.print(f"[bold]{'Took':<10}[/bold]{took}, peak memory {facts['peak_rss_mb']:,.0f} MB")


def _how(facts: dict[str, Any]) -> str:
    empty = facts["n_clusters"] - len(facts["clusters"])
    held = f"; {empty} of them hold no cell" if empty > 0 else ""
    if not facts["n_clusters_estimated"]:
        return f"as asked for{held}"
    evidence = facts["n_clusters_evidence"] or {}
    text = f"estimated ({evidence['method']})" if evidence.get("method") else "estimated"
    low, high = evidence.get("plausible", (0, 0))
    return text + (f", {low} to {high} fit about as well" if low != high else "") + held


def _row(name: str, n_obs: int, total: int) -> tuple[str, str, str]:
    return name, f"{n_obs:,}", f"{n_obs / total:.1%}"
