"""What one fresh process hands back: times, peak memory, and how to judge what it computed."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Result of a target, the function that a :class:`~benchmarks._contest.Method` names.

    A case is a row of the result file: most targets fill one, a job measured stage by stage fills several.
    """

    seconds: dict[str, list[float]]
    """Case → seconds of each timed run."""
    score: Callable[[], dict[str, Metrics]]
    """Gives case → metrics. Called once peak memory has been taken, so that judging costs the method nothing."""
    evidence: Metrics = field(default_factory=dict)
    """Facts in which all compared methods must agree, such as the number of cells read."""
    peak_rss_mb: dict[str, float] = field(default_factory=dict)
    """Case → peak memory, where it is not that of the whole process."""


def over_seeds(name: str, values: list[float]) -> Metrics:
    """Summarise a score: its mean under `name`, with `_sd` (sample deviation, None for one seed) and `_each`."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {name: statistics.fmean(values), f"{name}_sd": deviation, f"{name}_each": values}


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MiB. Memory of its own child processes is not in it."""
    # ru_maxrss survives fork and exec: under a large parent it would report the parent. VmHWM starts anew at exec.
    if (peak := memory_mb("VmHWM")) is not None:
        return peak
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return highest / 2**20 if sys.platform == "darwin" else highest / 1024


def reset_peak_rss() -> None:
    """Let :func:`peak_rss_mb` start anew from what is resident now, where the system lets it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_mb(*names: str) -> float | None:
    """Sum of the fields of /proc/self/status that are named, such as RssAnon, in MiB; None where there is none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    found = [int(fields[name].split()[0]) for name in names if name in fields]
    return sum(found) / 1024 if found else None


def waiting_for(device: str) -> Callable[[], None]:
    """Give what waits until a GPU has done all that it was told; a CPU is never behind."""
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def median_seconds(step: Callable[[], Any], seconds: float, *, device: str = "cpu") -> float:
    """Time a step again and again for as many seconds, three times at least."""
    wait = waiting_for(device)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class StageClock:
    """Times stages. It is a :class:`sccagn_scale._progress.Progress`, so it can be handed to our own job as it is.

    Time is exclusive: while a stage runs inside another, the outer one stands still, so that stages add up to the
    time of all of them. A stage that is opened twice adds up under its name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_rss_mb: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[_Ignored]:
        """Time the block under `name` in lower case; `total` is not used."""
        self._charge()
        self._open.append(name.lower())
        try:
            yield _Ignored()
        finally:
            self._charge()
            closed = self._open.pop()
            self.peak_rss_mb[closed] = peak_rss_mb()

    def _charge(self) -> None:
        """Give the time since the last change to the innermost open stage."""
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


class _Ignored:
    def advance(self, n: float = 1, /, **info: float | int | str) -> None:
        pass
