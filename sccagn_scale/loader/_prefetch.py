"""Preparing the next batch while the present one trains."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import Empty, Queue
from typing import NamedTuple

from sccagn_scale.loader._batch import Batch, Loader
from sccagn_scale.ops import Csr


class Prefetch:
    """Runs a loader in one background thread: the same batches in the same order.

    An exception of the loader is raised where its batch would have come. The thread ends with the epoch, also where the
    consumer leaves it early.

    Parameters
    ----------
    loader
        Whose batches to prepare. Its random state must depend on the epoch alone, not on the batches taken from it.
    depth
        Batches that may lie ready, at least 1; one more is in the making.
    """

    waited: float
    """Seconds that consumers spent waiting for batches, over all epochs."""

    def __init__(self, loader: Loader, depth: int = 1) -> None:
        self._loader, self._depth = loader, depth
        self.waited = 0.0

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        queue: Queue[Batch | _End] = Queue(self._depth)
        stop = threading.Event()
        thread = threading.Thread(target=_fill, args=(self._loader, queue, stop), name="prefetch", daemon=True)
        thread.start()
        try:
            while True:
                start = time.perf_counter()
                item = queue.get()
                self.waited += time.perf_counter() - start
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                yield item
        finally:
            stop.set()
            while thread.is_alive():  # it may be about to put one more where there is no room
                try:
                    queue.get(timeout=0.01)
                except Empty:
                    thread.join(0.01)


class _End(NamedTuple):
    error: BaseException | None


def _fill(loader: Loader, queue: Queue[Batch | _End], stop: threading.Event) -> None:
    try:
        for batch in loader:
            if isinstance(batch.x, Csr):
                _ = batch.x.T  # computed on first use: here, not while training
            _ = batch.adjacency.T
            queue.put(batch)
            if stop.is_set():
                return
        queue.put(_End(None))
    except BaseException as error:  # for the consumer to see, whatever it is
        queue.put(_End(error))
