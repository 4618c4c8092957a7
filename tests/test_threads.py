"""One thread ahead: same items, same order, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sccagn_scale._threads import ahead, mapped, n_threads


@pytest.fixture(params=["1", "2"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("OMP_NUM_THREADS", request.param)
    return int(request.param)


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sccagn_scale")]


def test_the_number_of_threads_is_what_openmp_is_told(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert n_threads() == threads
    for unset in ("", "many", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", unset)
        assert n_threads() >= 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.none() | st.integers()))
def test_items_come_as_they_are(threads: int, items: list[int | None]) -> None:
    assert list(ahead(items)) == items
    assert ours() == []


def test_the_next_item_is_made_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    made = []

    def slow() -> Iterator[int]:
        for i in range(3):
            made.append(threading.current_thread().name)
            yield i

    items = ahead(slow())
    assert next(items) == 0
    until = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < until:
        time.sleep(0.001)
    assert len(made) == 2  # one ahead, not more
    assert all(name.startswith("sccagn_scale-ahead") for name in made)
    assert list(items) == [1, 2]


def test_one_thread_means_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set(ahead(threading.current_thread().name for _ in range(3))) == {threading.current_thread().name}


def test_an_exception_comes_up_where_its_item_would(threads: int) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="disk"):
        next(items)
    assert ours() == []


def test_who_stops_early_closes_the_source_and_leaves_no_thread(threads: int) -> None:
    closed = []

    def source() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    items = ahead(source())
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert ours() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers()))
def test_results_come_in_the_order_of_items(threads: int, items: list[int]) -> None:
    def slowly(i: int) -> int:
        time.sleep(0.0002 * (i % 3))
        return 2 * i

    assert list(mapped(slowly, items)) == [2 * i for i in items]
    assert ours() == []


def test_as_many_are_worked_on_at_once_as_threads_may_run(threads: int) -> None:
    together, taken = threading.Barrier(threads), []

    def items() -> Iterator[int]:
        for i in range(12):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        together.wait(30)  # breaks where fewer are worked on
        return i

    results = mapped(work, items())
    assert next(results) == 0
    assert len(taken) == threads
    assert list(results) == list(range(1, 12))


def test_a_failed_result_comes_up_in_its_place(threads: int) -> None:
    results = mapped(lambda i: 1 // i, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert ours() == []


@pytest.mark.parametrize(
    ("told", "found"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_spin_briefly_unless_told_otherwise(told: dict[str, str], found: str | None) -> None:
    code = "import os, sccagn_scale; print(os.environ.get('GOMP_SPINCOUNT'))"
    rest = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=rest | told, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(found)
