"""Methods against each other on one case: fresh processes, taken in turn, agreement checked before timing."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._machine import ROOT, THREAD_VARIABLES
from benchmarks._results import Row


@dataclass(frozen=True)
class Method:
    """One of the compared things: a function named "module:function" and its arguments, both as JSON can hold them."""

    name: str
    target: str
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contest:
    """Methods compared on one case.

    With `rehearsal`, every method first runs once, uncounted, with its arguments overridden by these (a smaller
    input, say): that warms the system's caches, and those that compilers keep in files, and agreement is checked there.
    Without it, the first round is what agreement is checked on. Warming up a process is the target's own affair.
    """

    case: str
    methods: tuple[Method, ...]
    repeats: int = 1
    rehearsal: dict[str, Any] | None = None
    tolerance: float = 0.0
    """Relative difference allowed between two numbers of the evidence."""


# What the methods of a contest must agree with: "rehearsal" or "run" → the method that ran first, and its evidence.
References = dict[str, tuple[str, dict[str, Any]]]


def run_contest(contest: Contest, *, threads: int | None = None, references: References | None = None) -> Iterator[Row]:
    """Run every method `repeats` times in turn (A B A B …) and yield the rows of each as soon as they are complete.

    A method that fails, or whose evidence differs from that of the first method that ran, gets one row with
    `metrics["error"]` and takes no further turn. The others go on.

    Parameters
    ----------
    contest
        What to run.
    threads
        Threads that each process may use; None leaves it to the libraries.
    references
        Those of the contest's methods that have run before, if any; those that are missing are added.
    """
    references = {} if references is None else references
    running = list(contest.methods)
    runs: dict[str, list[dict[str, Any]]] = {method.name: [] for method in running}
    for turn in range(0 if contest.rehearsal is None else -1, contest.repeats):
        for method in list(running):
            overrides = contest.rehearsal if turn < 0 else None
            outcome = run_fresh(method.target, method.kwargs | (overrides or {}), threads=threads)
            if "error" not in outcome:
                first, expected = references.setdefault(
                    "rehearsal" if turn < 0 else "run", (method.name, outcome["evidence"])
                )
                if difference := _difference(outcome["evidence"], expected, contest.tolerance):
                    outcome = {"error": f"disagrees with {first}: {difference}"}
            if "error" in outcome:
                running.remove(method)
                yield _error_row(contest.case, method.name, outcome["error"])
                continue
            if turn >= 0:
                runs[method.name].append(outcome)
            if turn == contest.repeats - 1:
                yield from _rows(method.name, runs[method.name])


def run_fresh(target: str, kwargs: dict[str, Any], *, threads: int | None = None) -> dict[str, Any]:
    """Call `target` ("module:function") with `kwargs` in a new process; its result, or `{"error": …}`."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if threads is not None:
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        job, answer, complaints = (Path(folder, name) for name in ("job.json", "outcome.json", "stderr.txt"))
        job.write_text(json.dumps({"target": target, "kwargs": kwargs}))
        with complaints.open("wb") as stderr:
            command = [sys.executable, "-m", "benchmarks._child", str(job), str(answer)]
            code = subprocess.run(command, env=environment, stdout=stderr, stderr=stderr, check=False).returncode
        said = complaints.read_text(errors="replace").strip()
        if code != 0 or not answer.exists():
            return {"error": f"the process ended with status {code}: {said.splitlines()[-1] if said else 'no message'}"}
        outcome: dict[str, Any] = json.loads(answer.read_text())
    if "error" in outcome and said:
        print(said, file=sys.stderr)
    return outcome


def _difference(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> str | None:
    for name in sorted(found.keys() | expected.keys()):
        a, b = found.get(name), expected.get(name)
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        if not (math.isclose(a, b, rel_tol=tolerance) if numbers else a == b):  # type: ignore[arg-type]
            return f"{name} is {a} against {b}"
    return None


def _error_row(case: str, method: str, error: str) -> Row:
    return Row(case=case, method=method, seconds=None, spread=None, peak_rss_mb=None, metrics={"error": error})


def _rows(method: str, outcomes: list[dict[str, Any]]) -> Iterator[Row]:
    for case in outcomes[0]["seconds"]:
        with_case = [outcome for outcome in outcomes if case in outcome["seconds"]]
        seconds = [value for outcome in with_case for value in outcome["seconds"][case]]
        metrics = _merged([outcome["metrics"].get(case, {}) for outcome in with_case])
        yield Row(
            case=case,
            method=method,
            seconds=statistics.median(seconds),
            spread=interquartile_range(seconds),
            peak_rss_mb=max(outcome["peak_rss_mb"][case] for outcome in with_case),
            metrics=metrics | {"seconds_each": seconds},
        )


def interquartile_range(values: list[float]) -> float:
    """Distance between the first and the third quartile (linear interpolation); 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def _merged(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over repeats of what is a number in each of them; the first repeat's value of anything else."""
    merged = dict(metrics[0])
    for name in merged:
        values = [one.get(name) for one in metrics]
        if len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            merged[name] = statistics.median(values)  # type: ignore[type-var]
    return merged
