"""Batches prepared in the background: the same ones, errors in their place, no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sccagn_scale.loader import Batch, Prefetch, _prefetch
from sccagn_scale.ops import Csr, implementations


def numbered(i: int) -> Batch:
    adjacency = Csr.from_scipy(sp.csr_matrix(np.triu(np.ones((2, 2), np.float32))))
    return Batch(Csr.from_scipy(sp.identity(2, np.float32, "csr")), adjacency, torch.full((2,), i), 2)


class Counted:
    """Yields numbered batches and remembers how many; raises at one of them."""

    def __init__(self, n: int, *, fails_at: int | None = None) -> None:
        self.n, self.fails_at = n, fails_at
        self.made = 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Batch]:
        for i in range(self.n):
            if i == self.fails_at:
                raise OSError(f"batch {i}")
            self.made += 1
            yield numbered(i)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sccagn_scale")]


def numbers(batches: Prefetch, n: int | None = None) -> list[int]:
    seen = []
    for batch in batches:
        seen.append(int(batch.n_id[0]))
        if len(seen) == n:
            break
    return seen


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 12), taken=st.integers(1, 13))
def test_batches_are_the_loaders_own_in_order(n: int, taken: int) -> None:
    batches = Prefetch(Counted(n))
    assert len(batches) == n
    assert numbers(batches) == list(range(n))
    assert numbers(batches, taken) == list(range(min(n, taken)))
    assert numbers(batches) == list(range(n))
    assert threads() == []


def test_an_error_comes_where_its_batch_would_have() -> None:
    seen = []
    with pytest.raises(OSError, match="batch 2"):
        seen.extend(int(batch.n_id[0]) for batch in Prefetch(Counted(5, fails_at=2)))
    assert seen == [0, 1]
    assert threads() == []


def test_what_training_needs_is_there_already() -> None:
    transposes = implementations()["csr_matmul_transposed"]["cpu"] == "reference"
    for batch in Prefetch(Counted(2)):
        assert isinstance(batch.x, Csr)
        assert bool(batch.x._transposed) == bool(batch.adjacency._transposed) == transposes


def test_batches_are_made_on_the_stream_of_the_thread_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As there may be no GPU, streams are names here."""
    current = threading.local()
    current.name = "mine"

    @contextmanager
    def stream(name: str | None) -> Iterator[None]:
        before = getattr(current, "name", "default")
        current.name = name
        yield
        current.name = before

    class Named(Counted):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():
                seen.append((getattr(current, "name", "default"), threading.current_thread().name))
                yield batch

    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current.name)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    assert numbers(Prefetch(Named(4)), 3) == [0, 1, 2]
    assert {name for name, _ in seen} == {"mine"}
    assert threading.current_thread().name not in {thread for _, thread in seen}
    assert current.name == "mine"


def test_cuda_is_left_alone_where_nobody_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Initializing it fails where the GPU is taken, and in a process that was forked after it was."""

    def refuse() -> None:
        raise AssertionError("CUDA would be initialized")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)
    assert numbers(Prefetch(Counted(4)), 3) == [0, 1, 2]


@pytest.mark.parametrize(("is_covered", "waited"), [(False, 5), (True, 1)])
def test_waiting_is_what_training_does_not_cover(
    is_covered: bool, waited: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that moves while a batch is made: once it is waited for, or while the one before it trains."""
    now, asks = 0, 0
    may_be_made, made = threading.Semaphore(0), [threading.Event() for _ in range(5)]

    def clock() -> float:
        nonlocal asks
        asks += 1
        if asks == 1 or (asks % 2 and not is_covered):  # before each batch and after it
            may_be_made.release()
        return now

    class Timed(Counted):
        def __iter__(self) -> Iterator[Batch]:
            nonlocal now
            for i, batch in enumerate(super().__iter__()):
                assert may_be_made.acquire(timeout=30)
                now += 1
                made[i].set()
                yield batch

    monkeypatch.setattr(_prefetch, "time", SimpleNamespace(perf_counter=clock))
    batches = Prefetch(Timed(5))
    for i, _ in enumerate(batches):
        if is_covered and i < 4:
            may_be_made.release()
            assert made[i + 1].wait(30)
    assert now == 5
    assert batches.waited == waited  # for the first, which has nothing to hide behind, or for all
