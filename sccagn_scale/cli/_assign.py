"""`sccagn-scale assign`: other cells into the clusters of a model that `cluster` has kept."""

from __future__ import annotations

import argparse
import time

from sccagn_scale._console import Console
from sccagn_scale._errors import InputError
from sccagn_scale.cli._job import OPTIONS, check_paths, conclude, model_options, read_input, write_cells
from sccagn_scale.cli._output import named


def run(arguments: argparse.Namespace) -> None:
    """Assign, write, and say what came of it."""
    start = time.perf_counter()
    with Console(quiet=arguments.quiet) as console:
        if not arguments.model.is_dir():
            raise InputError(
                f"`--model` must be a folder that `cluster --model` has written, but {str(arguments.model)!r} is none."
            )
        check_paths(arguments, reads={"--model": arguments.model}, writes={})
        cells, making = read_input(arguments, console)
        from sccagn_scale.model import SCCAGN

        with named(*OPTIONS, scratch="--output", path="INPUT", folder="--model", adata="INPUT"):
            model = SCCAGN.load(arguments.model, cells, **model_options(arguments, console))
            model.write_to(cells.adata, key_added=arguments.key_added)
        with console.stage("Write"):
            write_cells(arguments, cells, making)
        how = f"those of {arguments.model}"
        conclude(arguments, cells.adata, console, start=start, estimated=False, how=how)
