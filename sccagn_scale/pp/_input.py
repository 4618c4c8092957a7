"""Whether a matrix can be clustered, and what kind of values it holds."""

from __future__ import annotations

import logging
import warnings
from bisect import bisect_right
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.config import InputKind
from sccagn_scale.pp._matrix import Expression

log = logging.getLogger("sccagn_scale")

_LOG_MAX = 50.0
"""No log-transformed expression reaches this: log2 of 10^15 is 50, while TPM and RPM pass it in any real data set."""

_DESCRIPTION = {
    "counts": "raw counts: totals are normalised to their median and log1p is taken",
    "linear": "normalised but not logged (such as TPM or RPM): totals are brought to their median and log1p is taken",
    "log": "already normalised and logged: taken as they are",
}

KINDS = {"counts": "counts", "linear": "normalised values", "log": "logged values"}
"""Kind of values → how it is called in messages."""


class Scan(NamedTuple):
    """What one look at every value tells."""

    n_detected: np.ndarray  # int64 [n_vars], cells in which each gene is not zero
    constant: np.ndarray  # bool [n_vars], genes of one and the same value in every cell
    is_whole: bool
    highest: float

    @property
    def kind(self) -> InputKind:
        """Whole numbers are counts; other values are logged if none exceeds 50, else linear (TPM, RPM, CPM)."""
        return _kind(self.is_whole, self.highest)


def scan(matrix: Expression, *, one_kind: bool = False) -> Scan:
    """Look at every value once.

    Parameters
    ----------
    matrix
        What to look at.
    one_kind
        Whether several files must hold values of one kind; files without values may be of any.

    Raises
    ------
    InputError
        If a value is negative, NaN or infinite, or a file holds values of another kind; at the end of the first file
        of which this is so.
    """
    n_vars = matrix.shape[1]
    n_detected = np.zeros(n_vars, np.int64)
    low, high = np.full(n_vars, np.inf), np.full(n_vars, -np.inf)
    everywhere = np.ones(n_vars, bool)  # genes detected in all cells so far: only these can be constant and not zero
    highest, is_whole = 0.0, True
    first: tuple[Path, InputKind] | None = None  # of those that hold any value
    for i, blocks in groupby(matrix.each(_look), lambda seen: _file_at(matrix, seen.start)):
        n_bad, lowest, highest_here, is_whole_here = 0, 0.0, 0.0, True
        for seen in blocks:
            n_detected += seen.n_detected
            n_bad += seen.n_bad
            lowest, highest_here = min(lowest, seen.lowest), max(highest_here, seen.highest)
            is_whole_here = is_whole_here and seen.is_whole
            here = np.zeros(n_vars, bool)
            here[seen.full] = True
            everywhere &= here
            low[seen.full] = np.minimum(low[seen.full], seen.low)
            high[seen.full] = np.maximum(high[seen.full], seen.high)
        _check_values(matrix, i, n_bad, lowest)
        highest, is_whole = max(highest, highest_here), is_whole and is_whole_here
        if one_kind and matrix.files and highest_here > 0:
            own = matrix.files[i][0], _kind(is_whole_here, highest_here)
            first = first or own
            _check_same(first, own)
    constant = (n_detected == 0) | (everywhere & (low == high))
    return Scan(n_detected, constant, is_whole, float(highest))


def _file_at(matrix: Expression, start: int) -> int:
    """Which file a block is from, by its first cell; -1: none."""
    return bisect_right(matrix.files, start, key=itemgetter(1)) - 1


def _check_values(matrix: Expression, i: int, n_bad: int, lowest: float) -> None:
    """Refuse a file of which so many values are no numbers, or the lowest is below zero."""
    where = f"{matrix.where} of '{matrix.files[i][0]}'" if len(matrix.files) > 1 else matrix.where
    if n_bad:
        raise InputError(f"{where} holds {n_bad:,} NaN or infinite values; remove or replace them first.")
    if lowest < 0:
        raise InputError(
            f"{where} holds negative values (lowest {lowest:.3g}), as z-scored or corrected data do; `layer` must "
            f"point at counts or log-normalised values. The choices for `layer` are {matrix.choices}."
        )


def _check_same(first: tuple[Path, InputKind], other: tuple[Path, InputKind]) -> None:
    """Refuse files some of which are normalised and some not: their cells would part by that."""
    if first[1] != other[1]:
        raise InputError(
            f"The files must hold one kind of values, but '{first[0]}' holds {KINDS[first[1]]} and '{other[0]}' "
            f"{KINDS[other[1]]}. Bring them to one kind, name a `layer` that all have, or set `input_kind` if this is "
            "not so."
        )


def _kind(is_whole: bool, highest: float) -> InputKind:
    return "counts" if is_whole else "log" if highest <= _LOG_MAX else "linear"


class _Seen(NamedTuple):
    """The same of one block, by its first cell; `low` and `high` are of the genes detected in all its cells, `full`."""

    start: int
    n_detected: np.ndarray
    n_bad: int
    lowest: float
    highest: float
    is_whole: bool
    full: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _look(start: int, block: sp.csr_matrix) -> _Seen:
    values = block.data
    n_detected = np.bincount(block.indices, minlength=block.shape[1])
    full = np.flatnonzero(n_detected == block.shape[0])
    dense = block[:, full].toarray()
    return _Seen(
        start,
        n_detected,
        len(values) - int(np.count_nonzero(np.isfinite(values))),
        float(values.min(initial=0)),
        float(values.max(initial=0)),
        np.array_equal(values, np.rint(values)),
        full,
        dense.min(axis=0),
        dense.max(axis=0),
    )


def recognize(found: Scan, kind: Literal["auto", InputKind] = "auto") -> InputKind:
    """Tell what kind of values a matrix holds, and say so: in the log, and for linear values by an `InputWarning`.

    Parameters
    ----------
    found
        What `scan` saw of the matrix.
    kind
        `"auto"` takes the kind that was found; or the answer, where the user knows it.

    Returns
    -------
    `"counts"`, `"linear"` or `"log"`.
    """
    if kind == "auto":
        kind = found.kind
        log.info("The values were recognised as %s. If that is wrong, set `input_kind`.", _DESCRIPTION[kind])
        if kind == "linear":
            warnings.warn(
                f"The values are neither counts nor logged (largest {found.highest:,.4g}, not whole numbers): taken as "
                "TPM/RPM-like, cell totals brought to their median and log1p applied.",
                InputWarning,
                stacklevel=3,
            )
    else:
        log.info("The values are taken as %s, as `input_kind` says.", _DESCRIPTION[kind])
    return kind
