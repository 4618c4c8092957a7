"""Matrix Market text of genes × cells, as 10x writes it, gone through in pieces."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from functools import cached_property
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import mminfo, mmread

from sccagn_scale._errors import InputError, first_line
from sccagn_scale._threads import ahead
from sccagn_scale.io._layout import as_damaged, damaged, file_facts
from sccagn_scale.io._transpose import Entries

_LINE = 6  # bytes of a value at least: "1 1 1\n"
_LONGEST_LINE = 1_000
_LOOKED_AT = 2**16
"""Values that tell whether they come cell after cell."""

_TYPES = {"integer": np.dtype(np.int64), "real": np.dtype(np.float64)}


class MarketText:
    """Cells × genes in a `matrix.mtx` or `matrix.mtx.gz`, which holds genes × cells.

    Attributes
    ----------
    dtype
        int64 or float64: the text says no more.
    nnz
        Values that its head announces.
    n_bytes
        Of the file, compressed as it is.

    Raises
    ------
    InputError
        If its head is damaged, or is not that of a sparse matrix of whole or real numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.described = f"{str(path)!r}, which is text"
        with as_damaged(path, "in its head, "):
            n_vars, n_obs, self.nnz, layout, field, symmetry = mminfo(path)
        self.shape = n_obs, n_vars
        self.n_bytes = file_facts(path)["size"]
        if layout != "coordinate" or field not in _TYPES or symmetry != "general":
            raise InputError(
                f"`path` {str(path)!r} must be 'coordinate integer general' or 'coordinate real general', as Cell "
                f"Ranger writes it, but is {f'{layout} {field} {symmetry}'!r}; save the matrix as .h5ad."
            )
        self.dtype, self._field = _TYPES[field], field

    @cached_property
    def is_by_rows(self) -> bool:
        """Whether its first values come cell after cell; the others then do too, unless it was put together oddly."""
        rows = next(self.rows(_LOOKED_AT), np.zeros(0, np.int64))
        return bool((rows[1:] >= rows[:-1]).all())

    def rows(self, most: int) -> Iterator[npt.NDArray[np.int64]]:
        """Go through the cells of the values, at most so many at a time."""
        return (entries.rows for entries in self.entries(most))

    def entries(self, most: int) -> Iterator[Entries]:
        """Go through the values, at most so many at a time, while a thread reads on.

        Raises
        ------
        InputError
            If they are damaged, or are not as many as announced; the message names the line.
        """
        seen = 0
        for line, text in ahead(self._texts(_LINE * most)):
            entries = self._parsed(text, line)
            seen += len(entries.rows)
            if seen <= self.nnz:
                yield entries
        if seen != self.nnz:
            raise damaged(self.path, f"it announces {self.nnz} values but has {seen}")

    def some_values(self, most: int) -> npt.NDArray[Any]:
        """Up to so many of the first values; none if they are damaged, which is told when they are read."""
        try:
            return next(self.entries(most)).values
        except (InputError, StopIteration):
            return np.zeros(0, self.dtype)

    def _texts(self, n_bytes: int) -> Iterator[tuple[int, bytes]]:
        """The text below the head, cut at ends of lines: the number of a piece's first line, and the piece."""
        with as_damaged(self.path), _opened(self.path) as file:
            line = 2  # number of the next one, were the sizes in the first
            while next(file).lstrip()[:1] in (b"%", b""):  # up to the line of the three sizes
                line += 1
            rest = b""
            while read := file.read(n_bytes):
                rest += read
                end = rest.rfind(b"\n") + 1
                text, rest = rest[:end], rest[end:]
                if text:
                    yield line, text
                line += text.count(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise ValueError(f"line {line} has more than {_LONGEST_LINE} characters")
            if rest:
                yield line, rest + b"\n"

    def _parsed(self, text: bytes, line: int) -> Entries:
        """The values in a piece of the text that begins with the line of that number."""
        text = text.rstrip() + b"\n"  # a file may end in empty lines
        n_values = text.count(b"\n") if len(text) > 1 else 0
        n_obs, n_vars = self.shape
        head = f"%%MatrixMarket matrix coordinate {self._field} general\n{n_vars} {n_obs} {n_values}\n"
        try:
            found = mmread(BytesIO(head.encode() + text))
        except (ValueError, OverflowError) as error:
            # its first line is the third that SciPy sees
            reason = re.sub(r"^Line (\d+)", lambda m: f"line {int(m[1]) - 3 + line}", first_line(error))
            raise damaged(self.path, reason) from error
        values = found.data.astype(self.dtype, copy=False)
        return Entries(found.col.astype(np.int64), found.row, values)


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if path.name.endswith(".gz") else open(path, "rb")
