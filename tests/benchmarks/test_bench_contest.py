"""Fresh processes, turns, agreement, failures and memory, shown with methods that do almost nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks._contest import Contest, Method, interquartile_range, run_contest, run_fresh
from benchmarks._outcome import StageClock, memory_mb, peak_rss_mb, reset_peak_rss

FAKES = """
import os
from pathlib import Path
from benchmarks._outcome import Outcome

def work(name, log=None, seconds=1.0, evidence=None, case="c", metrics=None, rehearsing=False):
    if log:
        with open(log, "a") as file:
            file.write(name + ("?" if rehearsing else "") + " ")
    return Outcome({case: [seconds]}, lambda: {case: metrics or {}}, evidence or {})

def slower_each_time(log):
    runs = Path(log).read_text().count("x") if Path(log).exists() else 0
    with open(log, "a") as file:
        file.write("x")
    return Outcome({"c": [float(runs)]}, lambda: {"c": {"score": runs, "name": "n", "values": [runs]}}, {})

def fail():
    raise ValueError("no such luck")

def die():
    os.kill(os.getpid(), 9)

def hold(megabytes):
    block = bytearray(megabytes * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    return Outcome({"c": [1.0]}, judged_with_much_memory, {})

def judged_with_much_memory():
    return {"c": {"size": len(bytearray(b"x") * (300 * 2**20))}}

def threads():
    return Outcome({"c": [1.0]}, lambda: {"c": {"omp": os.environ.get("OMP_NUM_THREADS")}}, {})
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def work(name: str, **kwargs: object) -> Method:
    return Method(name, "fakes:work", {"name": name, **kwargs})


def test_methods_take_turns_after_a_rehearsal(fakes: Path) -> None:
    log = fakes / "log.txt"
    contest = Contest("c", (work("a", log=str(log)), work("b", log=str(log))), 3, {"rehearsing": True})
    rows = list(run_contest(contest))
    assert log.read_text().split() == ["a?", "b?", "a", "b", "a", "b", "a", "b"]
    assert [(row["case"], row["method"]) for row in rows] == [("c", "a"), ("c", "b")]
    assert all(row["metrics"]["seconds_each"] == [1.0, 1.0, 1.0] for row in rows)


def test_median_and_spread_over_repeats(fakes: Path) -> None:
    method = Method("m", "fakes:slower_each_time", {"log": str(fakes / "count")})
    (row,) = run_contest(Contest("c", (method,), repeats=5))
    assert (row["seconds"], row["spread"]) == (2.0, 2.0)  # of 0, 1, 2, 3, 4
    assert row["metrics"] == {"score": 2, "name": "n", "values": [0], "seconds_each": [0.0, 1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0], 0.0), ([1.0, 2.0], 0.5), ([1.0, 2.0, 30.0], 14.5), ([5.0] * 4, 0.0)]
)
def test_interquartile_range(values: list[float], expected: float) -> None:
    assert interquartile_range(values) == expected
    low, high = np.percentile(values, [25, 75])
    assert interquartile_range(values) == pytest.approx(high - low)


@pytest.mark.parametrize(
    ("target", "said"), [("fail", "ValueError: no such luck"), ("die", "status -9"), ("missing", "AttributeError")]
)
def test_a_failing_method_is_recorded_and_the_others_go_on(
    fakes: Path, target: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = list(run_contest(Contest("c", (work("a"), Method("bad", f"fakes:{target}"), work("b")), repeats=2)))
    by_method = {row["method"]: row for row in rows}
    bad = by_method.pop("bad")
    assert said in bad["metrics"]["error"]
    assert bad["seconds"] is bad["spread"] is bad["peak_rss_mb"] is None
    assert all(len(row["metrics"]["seconds_each"]) == 2 for row in by_method.values())
    assert set(by_method) == {"a", "b"}
    if target == "fail":
        assert "in fail" in capfd.readouterr().err  # the traceback, for whoever must mend it


def test_what_disagrees_is_not_timed(fakes: Path) -> None:
    log = fakes / "log.txt"
    methods = (
        work("a", log=str(log), evidence={"n_obs": 100, "total": 1.0}),
        work("b", log=str(log), evidence={"n_obs": 99, "total": 1.0}),
        work("c", log=str(log), evidence={"n_obs": 100, "total": 1.0 + 1e-9}),
    )
    rows = list(run_contest(Contest("c", methods, 2, {"rehearsing": True}, tolerance=1e-6)))
    assert log.read_text().split() == ["a?", "b?", "c?", "a", "c", "a", "c"]
    errors = {row["method"]: row["metrics"].get("error") for row in rows}
    assert errors == {"a": None, "b": "disagrees with a: n_obs is 99 against 100", "c": None}


def test_a_number_that_differs_by_more_than_the_tolerance_disagrees(fakes: Path) -> None:
    methods = (work("a", evidence={"total": 1.0}), work("b", evidence={"total": 1.1}))
    rows = list(run_contest(Contest("c", methods, tolerance=0.01)))
    assert rows[1]["metrics"]["error"] == "disagrees with a: total is 1.1 against 1.0"


def test_memory_is_that_of_the_method_alone(fakes: Path) -> None:
    ballast = np.ones(40 * 2**20)  # 320 MiB here must not be seen there
    small, large = (run_fresh("fakes:hold", {"megabytes": m})["peak_rss_mb"]["c"] for m in (1, 200))
    assert ballast.any()
    assert small < 150
    assert 190 < large - small < 230  # and the 300 MiB used for judging are not counted


def test_the_peak_starts_anew_when_it_is_reset() -> None:
    ballast = np.ones(16 * 2**20)  # 128 MiB
    before = peak_rss_mb()
    assert ballast.all()
    del ballast
    reset_peak_rss()
    assert before - peak_rss_mb() > 100
    assert memory_mb("RssAnon", "RssFile", "RssShmem") == pytest.approx(memory_mb("VmRSS"), abs=1)
    assert memory_mb("NoSuchField") is None


def test_threads_are_handed_on(fakes: Path) -> None:
    assert run_fresh("fakes:threads", {}, threads=3)["metrics"]["c"]["omp"] == "3"


def test_stages_are_timed_without_the_stages_inside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 4.0, 9.0, 20.0, 26.0])
    monkeypatch.setattr("benchmarks._outcome.time.perf_counter", lambda: next(times))
    clock = StageClock()
    with clock.stage("Train", total=3) as outer:
        outer.advance(1, loss=0.5)
        with clock.stage("Cluster") as inner:
            inner.advance()
    with clock.stage("cluster"):
        pass
    assert clock.seconds == {"train": 1.0 + 5.0, "cluster": 3.0 + 6.0}
    assert clock.peak_rss_mb.keys() == clock.seconds.keys()
    assert all(value > 10 for value in clock.peak_rss_mb.values())
