"""Whether a matrix can be clustered, and what kind of values it holds."""

from __future__ import annotations

import logging
import warnings
from bisect import bisect_right
from operator import itemgetter
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.pp._matrix import Expression

log = logging.getLogger("sccagn_scale")

InputKind = Literal["counts", "linear", "log"]

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
    kinds: dict[str, InputKind]  # what each of several files holds, where it holds any value

    @property
    def kind(self) -> InputKind:
        """Whole numbers are counts; other values are logged if none exceeds 50, else linear (TPM, RPM, CPM)."""
        return _kind(self.is_whole, self.highest)


def scan(matrix: Expression) -> Scan:
    """Look at every value once.

    Raises
    ------
    InputError
        If a value is negative, NaN or infinite.
    """
    n_vars = matrix.shape[1]
    n_detected = np.zeros(n_vars, np.int64)
    low, high = np.full(n_vars, np.inf), np.full(n_vars, -np.inf)
    everywhere = np.ones(n_vars, bool)  # genes detected in all cells so far: only these can be constant and not zero
    n_bad, lowest, highest, is_whole = 0, 0.0, 0.0, True
    of_files = [(True, 0.0) for _ in matrix.files]
    for seen in matrix.each(_look):
        if of_files:
            i = bisect_right(matrix.files, seen.start, key=itemgetter(1)) - 1
            of_files[i] = of_files[i][0] and seen.is_whole, max(of_files[i][1], seen.highest)
        n_detected += seen.n_detected
        n_bad += seen.n_bad
        lowest, highest = min(lowest, seen.lowest), max(highest, seen.highest)
        is_whole = is_whole and seen.is_whole
        here = np.zeros(n_vars, bool)
        here[seen.full] = True
        everywhere &= here
        low[seen.full] = np.minimum(low[seen.full], seen.low)
        high[seen.full] = np.maximum(high[seen.full], seen.high)
    if n_bad:
        raise InputError(f"{matrix.where} holds {n_bad:,} NaN or infinite values; remove or replace them first.")
    if lowest < 0:
        raise InputError(
            f"{matrix.where} holds negative values (lowest {lowest:.3g}), as z-scored or corrected data do; `layer` "
            f"must point at counts or log-normalised values. The choices for `layer` are {matrix.choices}."
        )
    constant = (n_detected == 0) | (everywhere & (low == high))
    kinds = {
        str(path): _kind(is_whole, highest)
        for (path, _), (is_whole, highest) in zip(matrix.files, of_files, strict=True)
        if highest > 0  # without values it may be of any kind
    }
    return Scan(n_detected, constant, is_whole, float(highest), kinds)


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


def recognize(found: Scan, kind: InputKind | Literal["auto"] = "auto") -> InputKind:
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

    Raises
    ------
    InputError
        If several files hold values of several kinds, unless `kind` says that they do not.
    """
    if kind == "auto":
        _check_same(found.kinds)
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


def _check_same(kinds: dict[str, InputKind]) -> None:
    """Refuse files some of which are normalised and some not: their cells would part by that."""
    (first, kind), *others = kinds.items() if kinds else [("", "counts")]
    for path, other in others:
        if other != kind:
            raise InputError(
                f"The files must hold one kind of values, but '{first}' holds {KINDS[kind]} and '{path}' "
                f"{KINDS[other]}. Bring them to one kind, name a `layer` that all have, or set `input_kind` if "
                "this is not so."
            )
