"""How many threads there may be, and one way to use a second one."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def n_threads() -> int:
    """Threads that may run at once: what OpenMP is told, or as many as there are usable cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Go through items while a thread makes the next one; without that thread where only one may run.

    The order is that of `items`, and an exception comes up where its item would have come. Worth it where making an
    item frees the interpreter, as HDF5, NumPy and torch do. Whoever stops early leaves no thread behind.
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
