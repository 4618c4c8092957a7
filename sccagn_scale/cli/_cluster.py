"""`sccagn-scale cluster`: a file in, a clustered file out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sccagn_scale._console import Console
from sccagn_scale._errors import InputError
from sccagn_scale.cli._inputs import read_config
from sccagn_scale.cli._job import OPTIONS, check_paths, conclude, model_options, read_input, write_cells
from sccagn_scale.cli._output import named

if TYPE_CHECKING:
    from sccagn_scale.config import Config
    from sccagn_scale.io import Atlas
    from sccagn_scale.model import SCCAGN


def run(arguments: argparse.Namespace) -> None:
    """Cluster, write, and say what came of it."""
    start = time.perf_counter()
    with Console(quiet=arguments.quiet) as console:
        if arguments.model is not None and arguments.batch_key is not None:
            raise InputError(
                "`--model` must not be given with `--batch-key`: such a model has no rule to correct other cells by, "
                "so it cannot be kept. Leave one of them out."
            )
        check_paths(arguments, reads={"--config": arguments.config}, writes={"--model": arguments.model})
        config = read_config(arguments)
        cells, making = read_input(arguments, console)
        model = _train(arguments, cells, config, console)
        with console.stage("Write"), ExitStack() as last:
            if arguments.model is not None:  # whatever becomes of the cells
                last.callback(_save, model, arguments.model)
            write_cells(arguments, cells, making)
        models = [] if arguments.model is None else [arguments.model]
        estimated = arguments.n_clusters is None
        how = _how(cells.adata.uns.get(arguments.key_added, {}), estimated)
        conclude(arguments, cells.adata, console, start=start, estimated=estimated, how=how, written=models)


def _train(arguments: argparse.Namespace, cells: Atlas, config: Config, console: Console) -> SCCAGN:
    # after reading, so that a mistaken name is told before torch is loaded
    from sccagn_scale.model import SCCAGN, checked_folder

    if arguments.model is not None:
        with named(folder="--model"):
            checked_folder(arguments.model)
    with named(*OPTIONS, "n_clusters", "batch_key", scratch="--output", path="INPUT", random_state="--seed"):
        model = SCCAGN(
            cells,
            arguments.n_clusters,
            config,
            batch_key=arguments.batch_key,
            random_state=arguments.seed,
            **model_options(arguments, console),
        ).train()
        model.write_to(cells.adata, key_added=arguments.key_added)
    return model


def _save(model: SCCAGN, folder: Path) -> None:
    with named(folder="--model", path="--model"):
        model.save(folder)


def _how(record: Mapping[str, Any], estimated: bool) -> str:
    """How the number of clusters came about."""
    if not estimated:
        initial = record.get("initial", {})
        n_supported, method = initial.get("n_supported"), initial.get("method")
        if n_supported is None:
            return "as asked for"
        if method in ("divided", "joined"):
            return f"as asked for: the {n_supported} that the data support best, {method}"
        return f"as asked for; the data support {n_supported} best"
    evidence = record.get("n_clusters_evidence") or {}
    text = f"estimated ({evidence['method']})" if evidence.get("method") else "estimated"
    low, high = evidence.get("plausible", (0, 0))
    return text + (f", {low} to {high} fit about as well" if low != high else "")
