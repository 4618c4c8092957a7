"""What a run is asked for by name: sets, methods, and the like."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks._labelled import labelled_files
from sccagn_scale._errors import InputError

QUICK_SETS = 3


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare where what a benchmark compares can run."""
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to measure (default: cpu)")


def names(text: str) -> list[str]:
    """Split at commas; a type for argparse."""
    return [name.strip() for name in text.split(",") if name.strip()]


def chosen(argument: str, wanted: list[str] | None, known: list[str]) -> list[str]:
    """What is wanted, all that is known if nothing was said; an error for a name that is not known."""
    for name in wanted or []:
        if name not in known:
            raise InputError(f"`--{argument}` knows {', '.join(known)}, but not {name}.")
    return wanted or known


def chosen_seeds(wanted: int | None, default: int) -> int:
    """How many seeds are run, from 0 on; an error for none."""
    n_seeds = default if wanted is None else wanted
    if n_seeds < 1:
        raise InputError(f"`--seeds` must be at least 1, but is {n_seeds}.")
    return n_seeds


def chosen_files(arguments: argparse.Namespace) -> list[Path]:
    """The labelled files of `--data` that `--sets` names; of all, the three smallest with `--quick`."""
    if not arguments.data.is_dir():
        raise InputError(f"`--data` must be a folder of labelled .h5ad files, but {arguments.data} is none.")
    files = {path.stem: path for path in labelled_files(arguments.data)}
    if not files:
        raise InputError(f'`--data` must hold .h5ad files with obs["cell_type"], but {arguments.data} has none.')
    if arguments.quick and arguments.sets is None:
        return sorted(files.values(), key=lambda path: path.stat().st_size)[:QUICK_SETS]
    return [files[name] for name in chosen("sets", arguments.sets, list(files))]
