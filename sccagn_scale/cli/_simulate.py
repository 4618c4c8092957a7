"""`sccagn-scale simulate`: a synthetic atlas with known types."""

from __future__ import annotations

import argparse
import time

from sccagn_scale._console import Console, duration
from sccagn_scale._errors import InputError
from sccagn_scale.cli._machine import peak_rss_mb
from sccagn_scale.cli._output import check_distinct, named

_NAMES = {
    "path": "--output",
    "n_obs": "--cells",
    "n_vars": "--genes",
    "n_types": "--types",
    "source": "--from",
    "label": "--label",
    "median_counts": "--counts",
    "random_state": "--seed",
}


def run(arguments: argparse.Namespace) -> None:
    """Write the atlas and say where."""
    from sccagn_scale.simulate import simulate

    start = time.perf_counter()
    with Console(quiet=arguments.quiet) as console:
        check_distinct({"--from": arguments.source}, {"--output": arguments.output})
        if arguments.source is not None and not arguments.source.exists():
            raise InputError(f"`--from` must name an existing file, but {str(arguments.source)!r} does not exist.")
        with named(**_NAMES):
            simulate(
                arguments.output,
                arguments.cells,
                arguments.genes,
                n_types=arguments.types,
                source=arguments.source,
                label=arguments.label,
                median_counts=arguments.counts,
                random_state=arguments.seed,
                progress=console,
            )
        size, took = arguments.output.stat().st_size / 1e6, duration(time.perf_counter() - start)
        console.print(
            f"Wrote {arguments.output}: {arguments.cells:,} cells, {size:,.0f} MB, types in "
            f"obs 'cell_type'. Took {took}, peak memory {peak_rss_mb():,.0f} MB."
        )
