"""Preparing the next batch while the present one trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, nullcontext

import torch

from sccagn_scale._threads import ahead
from sccagn_scale.loader._batch import Batch, Loader
from sccagn_scale.ops import Csr


class Prefetch:
    """Runs a loader one batch ahead in a thread, where there may be two: the same batches in the same order.

    Parameters
    ----------
    loader
        Whose batches to prepare. Its random state must depend on the epoch alone, not on the batches taken from it.
    """

    waited: float
    """Seconds that consumers spent waiting for batches, over all epochs."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.waited = 0.0

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
        with closing(ahead(_on_stream(self._loader, stream))) as batches:
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                self.waited += time.perf_counter() - start
                if batch is None:
                    return
                yield batch


def _on_stream(loader: Loader, stream: torch.cuda.Stream | None) -> Iterator[Batch]:
    """Make batches on the stream of the thread that uses them: a thread of its own would have another."""
    batches = iter(loader)
    while True:
        with nullcontext() if stream is None else torch.cuda.stream(stream):  # which starts CUDA even for None
            batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch.x, Csr):
                batch.x.prepare()  # here, not while training
            batch.adjacency.prepare()
        yield batch
