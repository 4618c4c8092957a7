"""What a run is asked for by name: sets, methods, and the like."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeVar

from benchmarks._labelled import labelled_files
from sccagn_scale._errors import InputError

T = TypeVar("T")

QUICK_SETS = 3
# Arguments that leave a run the whole benchmark.
FREE = ("data", "device", "folder", "jobs")
# Options that are not called what their arguments are.
OPTIONS = {"source": "from"}


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


def chosen_number(argument: str, wanted: int | None, default: T) -> int | T:
    """How many are wanted, the default if nothing was said; an error for fewer than one."""
    if wanted is None:
        return default
    if wanted < 1:
        raise InputError(f"`--{argument}` must be at least 1, but is {wanted}.")
    return wanted


def chosen_seeds(wanted: int | None, default: int) -> int:
    """How many seeds are run, from 0 on; an error for none."""
    return chosen_number("seeds", wanted, default)


def check_whole(asked: dict[str, Any], usual: dict[str, Any], path: Path) -> None:
    """Refuse to write what differs from the whole benchmark, in what is measured, over the file that keeps that.

    Parameters
    ----------
    asked, usual
        Arguments of this run, and what they are if nothing is said.
    path
        The file.
    """
    other = [name for name, value in asked.items() if name not in FREE and value != usual[name]]
    if other:
        options = ", ".join(f"`--{OPTIONS.get(name, name).replace('_', '-')}`" for name in other)
        raise InputError(f"{path} keeps the whole benchmark; with {options}, name another file by `--json`.")


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
