"""A matrix whose rows stay in one file or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from sccagn_scale._checks import whole
from sccagn_scale._errors import InputError
from sccagn_scale._threads import ahead
from sccagn_scale.io._blocks import Block, blocks_of
from sccagn_scale.io._copied import CopiedRows
from sccagn_scale.io._join import Columns
from sccagn_scale.io._store import packed_size
from sccagn_scale.io._stored import Rows, supported
from sccagn_scale.io._transpose import Copies, picked, together

_LOOKED_AT = 2**20
"""Values of a file that tell how small its values can be kept."""


@dataclass(frozen=True)
class Part:
    """The rows of a matrix that are in one file."""

    path: Path
    start: int
    rows: Rows
    columns: Columns


class StoredMatrix:
    """Cells × genes whose values stay in their files, each of which is open only while it is read.

    Can be pickled, and then opens the files where it is. What is held of a file are its row offsets, 8 bytes a cell.

    Attributes
    ----------
    shape
        Cells and genes.
    dtype
        Of the values as they are stored; over several files the smallest that holds them all.
    nnz
        Values stored in the files, in genes that are left out too; of a dense matrix, all.
    n_bytes
        What a pass over them reads, compressed as they are.
    names
        Of the genes.
    where
        In the AnnData, for messages.
    choices
        What else `layer` could be.
    parts
        The files and the first cell of each.
    """

    def __init__(self, parts: Sequence[Part], names: pd.Index, *, where: str, choices: str) -> None:
        last = parts[-1]
        self.shape = last.start + last.rows.shape[0], len(names)
        if 0 in self.shape:
            raise InputError(f"The input is empty: {where} has {self.shape[0]} cells and {self.shape[1]} genes.")
        self.dtype = np.result_type(*(part.rows.dtype for part in parts))
        self.nnz = sum(part.rows.nnz for part in parts)
        self.n_bytes = sum(part.rows.n_bytes for part in parts)
        self.names, self.where, self.choices = names, where, choices
        self._parts = tuple(parts)
        self._block_dtype = supported(self.dtype)

    @property
    def parts(self) -> tuple[tuple[Path, int], ...]:
        """The files and the first cell of each."""
        return tuple((part.path, part.start) for part in self._parts)

    def blocks(self, block_size: int) -> Iterator[Block]:
        """Go through the cells in blocks, which end at the files' borders, the next one being read by a thread.

        What is not stored by rows is copied by the call.

        Parameters
        ----------
        block_size
            Cells in a block; a file's last may have fewer.

        Yields
        ------
        The block's first cell, and the block as CSR [≤ block_size, n_vars] of type `dtype`, but float32 for float16.

        Raises
        ------
        InputError
            If the block is damaged in its file; the message names the file and the cells, counted from its first.
        """
        block_size = whole(block_size, "block_size", 1)
        for part in self._parts:
            if isinstance(part.rows, CopiedRows):
                part.rows.copy()  # here and not in the thread, for which an interruption would have to wait
        return ahead(
            (part.start + start, self._joined(part, block))
            for part in self._parts
            for start, block in blocks_of(part.rows, block_size)
        )

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read the cells `start` to `stop` - 1 as CSR [stop - start, n_vars]; for several threads at once, if need be.

        Raises
        ------
        InputError
            If there are no such cells, or they are damaged in their file.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise InputError(
                f"`start` and `stop` must lie in order between 0 and {self.shape[0]}, but are {start} and {stop}."
            )
        pieces = [sparse.csr_matrix((0, self.shape[1]), dtype=self._block_dtype)]
        for part in self._parts:
            first, last = max(start - part.start, 0), min(stop - part.start, part.rows.shape[0])
            if first < last:
                with part.rows.reading() as read:
                    pieces.append(self._joined(part, read(first, last)))
        return pieces[1] if len(pieces) == 2 else sparse.vstack(pieces, format="csr")

    def sample(self, starts: Sequence[int], length: int) -> sparse.csr_matrix:
        """Read stretches of so many cells, of what is not stored by rows in one pass and without a copy of it.

        Parameters
        ----------
        starts
            First cell of each stretch, in rising order; they do not overlap.
        length
            Cells in a stretch.

        Returns
        -------
        CSR [len(starts) · length, n_vars], the stretches under one another.

        Raises
        ------
        InputError
            If there are no such cells, or they are damaged in their file.
        """
        firsts = np.asarray(starts, np.int64)
        if len(firsts) and not (firsts.min() >= 0 and firsts.max() + length <= self.shape[0]):
            raise InputError(
                f"`starts` and `length` must stay within 0 to {self.shape[0]}, but go from {firsts.min()} to "
                f"{firsts.max() + length}."
            )
        pieces = [sparse.csr_matrix((0, self.shape[1]), dtype=self._block_dtype)]
        for part in self._parts:
            low, high = ((ends - part.start).clip(0, part.rows.shape[0]) for ends in (firsts, firsts + length))
            here = low < high
            if not here.any():
                continue
            if isinstance(part.rows, CopiedRows) and not part.rows.is_copied:
                pieces.append(self._joined(part, picked(part.rows.source, low[here], high[here])))
                continue
            with part.rows.reading() as read:
                stretches = zip(low[here].tolist(), high[here].tolist(), strict=True)
                pieces.extend(self._joined(part, read(*stretch)) for stretch in stretches)
        return sparse.vstack(pieces, format="csr")

    def value_size(self) -> float:
        """Find out how many bytes the cell store takes for a value beside its gene, from some values of each file."""
        total, dtype = 0.0, None
        for part in self._parts:
            values = part.rows.some_values(_LOOKED_AT)
            values = values[values != 0].astype(np.float32)
            if len(values):
                size, dtype = packed_size(values, dtype)  # the first file's kind holds for all
                total += size * part.rows.nnz
        return total / self.nnz if total else 1.0

    @property
    def copies(self) -> Copies:
        """What has yet to be copied of what is not stored by rows."""
        return together(part.rows.copies for part in self._parts if isinstance(part.rows, CopiedRows))

    def _joined(self, part: Part, block: sparse.csr_matrix) -> sparse.csr_matrix:
        if part.columns is not None:
            block = block[:, part.columns]
            block.sort_indices()
        return block.astype(self._block_dtype, copy=False)
