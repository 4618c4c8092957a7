"""The one shape of a result file, and how a run is kept, taken up again and shown."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from sccagn_scale._errors import InputError

RESULTS = Path(__file__).resolve().parent / "results"


class Row(TypedDict):
    """One case done by one method. The three measurements are None where `metrics` holds an "error"."""

    case: str
    method: str
    seconds: float | None
    """Median over the timed runs; `metrics["seconds_each"]` has them all."""
    spread: float | None
    """Interquartile range of the same runs."""
    peak_rss_mb: float | None
    """Largest resident memory of the method's own process, the largest over its runs, in MiB."""
    metrics: dict[str, Any]


class Result(TypedDict):
    """What a result file holds, and nothing else."""

    benchmark: str
    machine: dict[str, Any]
    arguments: dict[str, Any]
    """What the run was asked for; None where the benchmark's default holds."""
    rows: list[Row]


def plain(value: Any) -> Any:
    """Turn arrays and array scalars into what JSON has, and numbers that it lacks (NaN, infinity) into None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy, without importing it here
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_atomically(path: Path, text: str) -> None:
    """Write `text` beside `path` and rename it there, so that no reader and no crash sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp's file is its owner's alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def as_json(content: Any) -> str:
    """The text of a result file: indented, strict JSON."""
    return json.dumps(plain(content), indent=1, allow_nan=False) + "\n"


class Checkpoint:
    """Rows of a run that is not finished, kept in a file of their own beside the result they will become.

    Parameters
    ----------
    path
        The checkpoint's file; None keeps nothing.
    stamp
        What must be the same for rows to be taken up again: machine, code and arguments.
    """

    def __init__(self, path: Path | None, stamp: dict[str, Any]) -> None:
        self.path = path
        self.stamp = plain(stamp)
        self.rows: list[Row] = []
        self.references: dict[str, dict[str, Any]] = {}
        """Case → what its methods must agree with."""

    def take_up(self) -> None:
        """Load the rows of an interrupted run, all but failed ones.

        Raises
        ------
        InputError
            When there are none, or they are of another machine, code or request: going on would overwrite them.
        """
        if self.path is None or not self.path.exists():
            where = self.path or "the place of a run without a result file"
            raise InputError(f"`--resume` needs an interrupted run's rows, but {where} has none; leave it out.")
        kept = json.loads(self.path.read_text())
        for part in self.stamp:
            for name in sorted(self.stamp[part].keys() | kept["stamp"][part].keys()):
                was, now = kept["stamp"][part].get(name), self.stamp[part].get(name)
                if was != now:
                    raise InputError(
                        f"`--resume` needs the same machine, code and request as in {self.path}, but {name} was {was} "
                        f"and is now {now}; go back to that, or leave `--resume` out to start anew."
                    )
        self.rows = [row for row in kept["rows"] if "error" not in row["metrics"]]
        self.references = kept["references"]

    def add(self, row: Row, case: str, references: dict[str, Any]) -> None:
        """Keep one more row, and what methods of its contest must agree with."""
        self.rows.append(row)
        self.references[case] = plain(references)
        if self.path is not None:
            kept = {"stamp": self.stamp, "rows": self.rows, "references": self.references}
            write_atomically(self.path, as_json(kept))

    def discard(self) -> None:
        """Remove the file, its rows being safe in the result."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def add_ratios(rows: Sequence[Row], method: str, *, name: str = "ratio") -> None:
    """Give every row its time over that which a method takes for the same case, where that has a time for it."""
    theirs = {row["case"]: row["seconds"] for row in rows if row["method"] == method}
    for row in rows:
        if row["seconds"] is not None and (seconds := theirs.get(row["case"])):
            row["metrics"][name] = row["seconds"] / seconds


def print_table(rows: Sequence[Row], columns: Sequence[str], mean_of: Callable[[str], str | None]) -> None:
    """Print rows, then the mean of each method over the cases that belong together.

    Parameters
    ----------
    rows
        What was measured.
    columns
        Metrics to show beside time and memory.
    mean_of
        Case → name of the mean that it enters, or None when averaging it would say nothing.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("case", "method"):
        table.add_column(name, overflow="fold")
    for name in ("seconds", "spread (IQR)", "peak MiB", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        measured = [_number(row[key], digits) for key, digits in (("seconds", 2), ("spread", 2), ("peak_rss_mb", 0))]  # type: ignore[literal-required]
        shown = [_number(row["metrics"].get(name)) for name in columns]
        error = row["metrics"].get("error")
        table.add_row(row["case"], f"{row['method']}: {error}" if error else row["method"], *measured, *shown)
    table.add_section()
    for group, method, seconds, peak, metrics in means(rows, columns, mean_of):
        table.add_row(group, method, _number(seconds, 2), "", _number(peak, 0), *map(_number, metrics), style="bold")
    Console(width=None if os.isatty(1) else 160).print(table)


def means(
    rows: Sequence[Row], columns: Sequence[str], mean_of: Callable[[str], str | None]
) -> list[tuple[str, str, float, float, list[float | None]]]:
    """Mean of every method over each group of cases: (group, method, seconds, peak MiB, metrics)."""
    members: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        group = mean_of(row["case"])
        if group is not None and "error" not in row["metrics"]:
            members.setdefault((group, row["method"]), []).append(row)
    return [
        (
            f"mean of {len(found)} × {group}",
            method,
            _mean([row["seconds"] for row in found]) or 0.0,
            _mean([row["peak_rss_mb"] for row in found]) or 0.0,
            [_mean([row["metrics"].get(name) for row in found]) for name in columns],
        )
        for (group, method), found in sorted(members.items(), key=lambda item: item[0][0])
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else str(value)
