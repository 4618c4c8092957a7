"""`sccagn-scale plan`: what clustering will need, before any work."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sccagn_scale._console import Console, duration
from sccagn_scale._memory import in_words
from sccagn_scale.cli._inputs import check_inputs, read_cells, read_config
from sccagn_scale.cli._output import by_option, check_outputs, named, write_json
from sccagn_scale.cli._show import new_table

if TYPE_CHECKING:
    from sccagn_scale.model import Plan


def run(arguments: argparse.Namespace) -> None:
    """Plan, and show the plan."""
    with Console(quiet=arguments.quiet) as console:
        check_inputs(arguments.input)
        inputs = {**by_option(arguments.input), "--config": arguments.config}
        check_outputs(inputs, {"anndata": {"--output": arguments.output}, "file": {"--json": arguments.json}})
        config = read_config(arguments)
        with console.stage("Read"):
            cells = read_cells(arguments.input)
        from sccagn_scale.model import plan

        with named("layer", "batch_key", "memory", "n_clusters", "device", "output", path="INPUT"):
            planned = plan(
                cells,
                arguments.n_clusters,
                config,
                layer=arguments.layer,
                batch_key=arguments.batch_key,
                memory=arguments.memory,
                device=arguments.device,
                output=arguments.output,
                results_only=arguments.results_only,
                progress=console,
            )
        if arguments.json is not None:
            write_json(_facts(arguments, planned), arguments.json)
        _show(arguments, planned, console)


def _facts(arguments: argparse.Namespace, planned: Plan) -> dict[str, Any]:
    return {
        "input": [str(path) for path in arguments.input],
        "n_obs": planned.n_obs,
        "n_vars": planned.n_vars,
        "n_values": planned.nnz,
        "n_clusters": arguments.n_clusters,
        "batch_key": arguments.batch_key,
        "output": None if arguments.output is None else str(arguments.output),
        "results_only": arguments.results_only,
        "memory_allowed": planned.allowed,
        "disk_free": planned.free,
        "large_arrays": "disk" if planned.on_disk else "memory",
        "fits": planned.fits,
        "fits_memory": planned.fits_memory,
        "fits_disk": planned.fits_disk,
        "memory": planned.memory,
        "disk": planned.disk,
        "seconds": planned.seconds,
        "stages": [step._asdict() for step in planned.steps],
    }


def _show(arguments: argparse.Namespace, planned: Plan, console: Console) -> None:
    table = new_table()
    for title in ("stage", "memory", "disk", "time"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for step in planned.steps:
        table.add_row(step.stage, _size(step.memory), _size(step.disk), duration(step.seconds))
    table.add_row("all", _size(planned.memory), _size(planned.disk), duration(planned.seconds), style="bold")

    where = "on disk" if planned.on_disk else "in memory"
    verdict = (
        f"fits, with large arrays {where}" if planned.fits_memory else "does not fit, even with large arrays on disk"
    )
    console.fact("Input", f"{planned.n_obs:,} cells × {planned.n_vars:,} genes, {planned.nnz:,} values stored")
    console.fact("Memory", f"{_size(planned.allowed)} may be taken: the run {verdict}")
    place = arguments.output or arguments.input[0]
    verdict = "fits" if planned.fits_disk else "does not fit"
    console.fact("Disk", f"{in_words(planned.free)} are free beside {place}: the run {verdict}")
    console.print()
    console.print(table)


def _size(n_bytes: int) -> str:
    return "–" if n_bytes < 1e6 else in_words(n_bytes)
