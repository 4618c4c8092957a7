"""Blocks of cells on a Dask cluster: its workers read, keep and work, the numbers are those of one machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sccagn_scale.io import PackedRows
from sccagn_scale.pp import _matrix

if TYPE_CHECKING:
    from distributed import Client

    from sccagn_scale.io import StoredMatrix
    from sccagn_scale.pp._matrix import Work

T = TypeVar("T")

_AHEAD = 4  # blocks in the making for each thread of the cluster, so that results wait for nobody


class OnCluster:
    """Blocks of files, each read once by some worker and kept in that worker's memory, 3 bytes a count.

    Parameters
    ----------
    matrix
        In files that all workers see under the same names.
    client
        Of the cluster.
    block_size
        Cells in a block.
    """

    def __init__(self, matrix: StoredMatrix, client: Client, block_size: int) -> None:
        self._client = client
        self._rows = list(_matrix.rows_of_blocks(matrix, block_size))
        self._matrix = matrix
        self._kept: list[Any] = []  # futures

    @property
    def is_reading(self) -> bool:
        """Whether blocks come from the files."""
        return not self._kept

    def each(self, work: Work[T], of_cells: Sequence[np.ndarray]) -> Iterator[T]:
        """Work on every block where it is; results come here, in order."""
        client = self._client
        if not self._kept:
            matrix = client.scatter(self._matrix, broadcast=True)
            self._kept = [client.submit(_packed, matrix, *rows, pure=False) for rows in self._rows]
        work_there = client.scatter(work, broadcast=True)
        n_ahead = _AHEAD * max(1, sum(client.nthreads().values()))
        coming: deque[Any] = deque()
        for (start, stop), kept in zip(self._rows, self._kept, strict=True):
            part = [array[start:stop] for array in of_cells]
            coming.append(client.submit(_worked, work_there, start, kept, part, pure=False))
            if len(coming) == n_ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _packed(matrix: StoredMatrix, start: int, stop: int) -> PackedRows:
    return PackedRows.of(_matrix.tidy(matrix.read(start, stop)))


def _worked(work: Work[T], start: int, kept: PackedRows, part: list[np.ndarray]) -> T:
    return work(start, kept.read(0, kept.shape[0]), part)
