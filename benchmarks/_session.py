"""One run of one benchmark: its contests, its checkpoint, its result file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._contest import Contest, run_contest
from benchmarks._machine import machine_facts
from benchmarks._results import Checkpoint, Result, Row, as_json, print_table, write_atomically
from sccagn_scale._errors import InputError


class Session:
    """Runs contests and keeps their rows.

    Parameters
    ----------
    benchmark
        Name of the benchmark.
    path
        Result file; None prints only.
    arguments
        What the run was asked for; an interrupted run is taken up only by one with the same.
    resume
        Take up an interrupted run's rows instead of measuring them again.

    Raises
    ------
    InputError
        When there is nothing to resume, or it was another kind of run.
    """

    def __init__(self, benchmark: str, *, path: Path | None, arguments: dict[str, Any], resume: bool = False) -> None:
        self.benchmark = benchmark
        self.path = path
        self.machine = machine_facts()
        # Of a path, which is another on another machine, the name.
        self.arguments = {name: value.name if isinstance(value, Path) else value for name, value in arguments.items()}
        stamped = {name: str(value) for name, value in arguments.items()}
        checkpoint = None if path is None else path.with_suffix(".partial")
        self._checkpoint = Checkpoint(checkpoint, {"machine": self.machine, "arguments": stamped})
        self._lock = threading.Lock()
        self._stop = threading.Event()
        if resume:
            self._checkpoint.take_up()
            say(f"{len(self._checkpoint.rows)} rows taken up")

    def run(self, contests: Sequence[Contest], *, jobs: int = 1) -> list[Row]:
        """Run all contests, `jobs` at a time, and return the rows in the order of contests and methods.

        Times taken with `jobs` above 1 are those of processes that share the machine, each with its part of the
        cores as threads; the result's `machine` says so.
        """
        threads = None
        if jobs < 1:
            raise InputError(f"`--jobs` must be at least 1, but is {jobs}.")
        if jobs > 1:
            threads = max(1, (self.machine["cores"] or os.cpu_count() or 1) // jobs)
            self.machine |= {"concurrent_runs": jobs, "threads_per_run": threads}
        todo = [left for contest in contests if (left := self._left(contest)).methods]
        with ThreadPoolExecutor(jobs) as pool:
            try:
                list(pool.map(lambda contest: self._run_one(contest, threads), todo))
            except BaseException:
                self._stop.set()  # or leaving the pool would wait for all that its threads still have before them
                raise
        order = {method.name: i for contest in contests for i, method in enumerate(contest.methods)}
        cases = {contest.case: i for i, contest in enumerate(contests)}
        return sorted(
            self._checkpoint.rows,
            key=lambda row: (cases.get(row["case"], len(cases)), order.get(row["method"], len(order))),
        )

    def finish(self, rows: list[Row], *, columns: Sequence[str], mean_of: Callable[[str], str | None]) -> None:
        """Print the table, write the result file and drop the checkpoint; see :func:`print_table`."""
        print_table(rows, columns, mean_of)
        if self.path is not None:
            result = Result(benchmark=self.benchmark, machine=self.machine, arguments=self.arguments, rows=rows)
            write_atomically(self.path, as_json(result))
            self._checkpoint.discard()
            say(f"wrote {self.path}")

    def _left(self, contest: Contest) -> Contest:
        """The contest without the methods that an interrupted run has done."""
        done = {row["method"] for row in self._checkpoint.rows if row["case"] == contest.case}
        left = tuple(method for method in contest.methods if method.name not in done)
        return replace(contest, methods=left)

    def _run_one(self, contest: Contest, threads: int | None) -> None:
        references = dict(self._checkpoint.references.get(contest.case, {}))
        rows: Iterable[Row] = run_contest(contest, threads=threads, references=references)
        if contest.repeats > 1:
            rows = list(rows)  # methods that took turns are kept together or not at all
        for row in rows:
            if self._stop.is_set():
                return
            with self._lock:
                self._checkpoint.add(row, contest.case, references)
            outcome = row["metrics"].get("error") or f"{row['seconds']:.2f} s"
            say(f"{row['case']}  {row['method']}: {outcome}")


def say(text: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(text, flush=True)
