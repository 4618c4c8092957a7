"""Matrix Market text of genes × cells, as 10x writes it, gone through in pieces."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from functools import cached_property
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.io import mminfo, mmread
from threadpoolctl import threadpool_limits

from sccagn_scale._errors import InputError, first_line
from sccagn_scale._threads import ahead, n_threads
from sccagn_scale.io._layout import as_damaged, damaged
from sccagn_scale.io._transpose import Entries

_LINE = 6  # bytes of a value at least: "1 1 1\n"
_LONGEST_LINE = 1_000
_DEFLATED = 1_032  # times that gzip makes something smaller, at most
_LOOKED_AT = 2**16
"""Values, at most, that tell whether they come cell after cell."""
_PIECE = 2**21
"""Values gone through at a time where all are wanted."""


class _Field(NamedTuple):
    """What values are said to be."""

    dtype: np.dtype[Any]  # that holds them
    name: str  # by which SciPy reads them
    described: str
    characters: bytes  # of which a line is made


_INTEGER = _Field(np.dtype(np.int32), "integer", "whole numbers", b"0123456789+- \t\r\n")
_REAL = _Field(np.dtype(np.float64), "real", "numbers", _INTEGER.characters + b".eEinfatyINFATY")
_FIELDS = {"integer": _INTEGER, "unsigned-integer": _INTEGER, "real": _REAL, "double": _REAL}


class MarketText:
    """Cells × genes in a `matrix.mtx` or `matrix.mtx.gz`, which holds genes × cells.

    Attributes
    ----------
    dtype
        int32 of whole numbers, else float64: the text says no more.
    nnz
        Values that its head announces.
    n_bytes
        Of the file, compressed as it is.

    Raises
    ------
    InputError
        If it cannot be opened, its head is damaged, or is not that of a sparse matrix of whole or real numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.described = f"{str(path)!r}, which is text"
        try:
            with open(path, "rb"):
                self.n_bytes = path.stat().st_size
        except OSError as error:
            raise InputError(f"`path` {str(path)!r} cannot be opened: {first_line(error)}.") from error
        with as_damaged(path, "in its head, "):
            n_vars, n_obs, self.nnz, layout, field, symmetry = mminfo(path)
        self.shape = n_obs, n_vars
        if layout != "coordinate" or field not in _FIELDS or symmetry != "general":
            raise InputError(
                f"`path` {str(path)!r} must be 'coordinate integer general' or 'coordinate real general', as Cell "
                f"Ranger writes it, but is {f'{layout} {field} {symmetry}'!r}; save the matrix as .h5ad."
            )
        if _LINE * self.nnz - 1 > self.n_bytes * (_DEFLATED if _is_gzip(path) else 1):
            raise damaged(path, f"it announces {self.nnz} values, for which it is too small")
        self._field = _FIELDS[field]
        self.dtype = self._field.dtype

    @cached_property
    def is_by_rows(self) -> bool:
        """Whether its first values come cell after cell; it may have been put together so that others do not."""
        seen = next(self._pieces(_LOOKED_AT), None)
        if seen is None:
            return True
        are_of_one_gene = self.shape[1] > 1 and bool((seen.columns == seen.columns[0]).all())
        return seen.are_by_rows() and not are_of_one_gene

    def rows(self, most: int) -> Iterator[npt.NDArray[np.int64]]:
        """Go through the cells of the values, at most so many at a time."""
        return (entries.rows for entries in self._pieces(most))

    def entries(self, most: int) -> Iterator[Entries]:
        """Go through the values, at most so many at a time, while a thread reads on.

        Raises
        ------
        InputError
            If they are damaged, no number in `dtype`, or not as many as announced.
        """
        for rows, columns, values in self._pieces(most):
            fitting = self._narrowed(values)
            if fitting is None:
                beyond = max(values, key=abs)
                raise damaged(self.path, f"it has a value of {beyond}, which is no count; save the matrix as .h5ad")
            yield Entries(rows, columns, fitting)

    def some_values(self, most: int) -> npt.NDArray[Any]:
        """Up to so many of the first values; none if they are damaged, which is told when they are read."""
        try:
            return next(self.entries(most)).values
        except (InputError, StopIteration):
            return np.zeros(0, self.dtype)

    def whole(self) -> sparse.csr_matrix:
        """Read all cells × genes into memory; whole numbers that do not fit into `dtype` become int64.

        Raises
        ------
        InputError
            If values are damaged, or not as many as announced.
        """
        pieces = list(self._pieces(_PIECE)) or [Entries.none(self.dtype)]
        rows, columns, values = (np.concatenate(part) for part in zip(*pieces, strict=True))
        fitting = self._narrowed(values)
        return sparse.csr_matrix((values if fitting is None else fitting, (rows, columns)), shape=self.shape)

    def _narrowed(self, values: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """The values in `dtype`, unless that does not hold them."""
        narrow = values.astype(self.dtype, copy=False)
        return narrow if self.dtype.kind == "f" or np.array_equal(narrow, values) else None

    def _pieces(self, most: int) -> Iterator[Entries]:
        """The values as they are read, at most so many at a time."""
        seen = 0
        with threadpool_limits(n_threads(), user_api="scipy"):
            for line, text in ahead(self._texts(_LINE * most)):
                entries = self._parsed(text, line)
                seen += len(entries.rows)
                if seen > self.nnz:
                    break
                if len(entries.rows):
                    yield entries
        if seen != self.nnz:
            raise damaged(self.path, f"it announces {self.nnz} values but has {'more' if seen > self.nnz else seen}")

    def _texts(self, n_bytes: int) -> Iterator[tuple[int, bytes]]:
        """The text below the head, cut at ends of lines: the number of a piece's first line, and the piece."""
        with as_damaged(self.path), _opened(self.path) as file:
            line = 2  # the number of the next one
            for head in file:
                if head.lstrip()[:1] not in (b"%", b""):  # the line of the three sizes
                    break
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
        if text.translate(None, self._field.characters):  # SciPy reads what comes before it
            allowed = re.escape(self._field.characters)
            found = re.search(b"[^%s]" % allowed, text)
            assert found is not None
            at = line + text.count(b"\n", 0, found.start())
            raise damaged(self.path, f"line {at} is not three {self._field.described}")
        try:
            try:
                return self._read(text, text.count(b"\n"))
            except ValueError:  # some may be empty
                return self._read(text, sum(bool(one.strip()) for one in text.splitlines()))
        except (ValueError, OverflowError) as error:
            # its first line is the third that SciPy sees
            reason = re.sub(r"^Line (\d+)", lambda m: f"line {int(m[1]) - 3 + line}", first_line(error))
            raise damaged(self.path, reason) from error

    def _read(self, text: bytes, n_values: int) -> Entries:
        n_obs, n_vars = self.shape
        head = f"%%MatrixMarket matrix coordinate {self._field.name} general\n{n_vars} {n_obs} {n_values}\n"
        found = mmread(BytesIO(head.encode() + text))
        return Entries(found.col.astype(np.int64), found.row, found.data)


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if _is_gzip(path) else open(path, "rb")


def _is_gzip(path: Path) -> bool:
    return path.name.endswith(".gz")
