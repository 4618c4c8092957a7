"""How many threads there may be, also after a fork, prefetching, and an ordered map over a pool of threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

_MOST_WORKERS = 4  # beyond it, work on blocks waits for memory rather than for a core
_is_forked = False


@cache
def allow_forks() -> None:
    """Let processes that are forked from this one, from now on, compute: on one thread each.

    OpenMP's threads are not copied into them, and GNU's OpenMP waits for them forever. Pools that stand a fork, as
    OpenBLAS's own do, stay as they are.
    """
    import torch
    from threadpoolctl import threadpool_limits

    def in_child() -> None:
        global _is_forked
        _is_forked = True
        torch.set_num_threads(1)  # in threads that are still to come, too
        threadpool_limits(1, user_api="openmp")

    os.register_at_fork(after_in_child=in_child)


def n_threads() -> int:
    """Threads that may run at once: what OpenMP is told, or as many as there are usable cores; one after a fork."""
    if _is_forked:
        return 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_workers(most_workers: int = _MOST_WORKERS) -> int:
    """How many items `mapped` works on at once."""
    return min(n_threads(), most_workers)


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Go through items while a thread makes the next one; without that thread where only one may run.

    The order is that of `items`, and an exception is raised in the place of the item that failed. It pays where making
    an item releases the interpreter, as HDF5, NumPy and torch do. Stopping early leaves no thread behind.
    """
    if n_threads() < 2:
        yield from items
        return
    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1, "sccagn_scale-ahead") as maker:
        try:
            coming = maker.submit(next, source, end)
            while (item := coming.result()) is not end:
                coming = maker.submit(next, source, end)
                yield item  # type: ignore[misc]
        finally:
            coming.cancel()
            maker.shutdown()
            if isinstance(source, Generator):
                source.close()


def mapped(
    function: Callable[[S], T], items: Iterable[S], most_workers: int = _MOST_WORKERS
) -> Generator[T, None, None]:
    """Apply a function to items, several at a time where several threads may run; results in the order of items.

    As many are in the making as threads may run, but at most `most_workers`. An exception comes up where its result
    would have come.
    """
    n_at_once = n_workers(most_workers)
    if n_at_once < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_at_once, "sccagn_scale-map") as pool:
        coming: deque[Future[T]] = deque()
        try:
            for item in items:
                coming.append(pool.submit(function, item))
                if len(coming) == n_at_once:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
