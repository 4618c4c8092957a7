"""Synthetic cells as noisy copies of mixtures of real ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from sccagn_scale._errors import InputError, InputWarning


@dataclass(frozen=True)
class MixtureModel:
    """Poisson draws around mixtures of two real cells of one type.

    For two cells i ≠ j of the type, a weight u uniform on (0, 1) and the total count l of a third cell of the type,

        X_g ~ Poisson(l · (u x_ig + (1 − u) x_jg) / Σ_g (u x_ig + (1 − u) x_jg)).

    The deeper of the two cells, which knows more of its type's profile, thereby counts for more. A type of one cell
    only is mixed with itself.
    """

    type_names: list[str]
    var_names: list[str]
    label: str
    counts: sp.csr_matrix  # float32 [n_source, n_vars], cells of one type together, indices sorted
    totals: npt.NDArray[np.float64]  # [n_source]
    sizes: npt.NDArray[np.int64]  # [n_types], cells of each type

    @property
    def proportions(self) -> npt.NDArray[np.float64]:
        """As in the source."""
        return self.sizes / self.sizes.sum()

    @property
    def params(self) -> dict[str, Any]:
        """The source's size and label."""
        return {"model": "mixture", "label": self.label, "n_source_cells": int(self.sizes.sum())}

    def draw(self, types: npt.NDArray[np.integer], rng: np.random.Generator) -> sp.csr_matrix:
        """Draw counts, float32 [n, n_vars] with sorted indices, of one cell per entry of `types`, shape [n]."""
        start, size = (np.cumsum(self.sizes) - self.sizes)[types], self.sizes[types]
        first = rng.integers(0, size)
        second = (first + rng.integers(1, np.maximum(size, 2))) % size
        library = self.totals[start + rng.integers(0, size)]
        weight = rng.random(len(types))
        first, second = start + first, start + second
        scale = library / (weight * self.totals[first] + (1.0 - weight) * self.totals[second])
        # the sum of two Poisson variables is Poisson, so each cell's part is drawn on its own nonzeros
        drawn = self._poisson(first, weight * scale, rng) + self._poisson(second, (1.0 - weight) * scale, rng)
        drawn.eliminate_zeros()
        return drawn

    def _poisson(
        self, cells: npt.NDArray[np.int64], factor: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> sp.csr_matrix:
        part = self.counts[cells]
        part.data = rng.poisson(part.data * np.repeat(factor, np.diff(part.indptr))).astype(np.float32)
        return part


def make_mixture_model(source: AnnData, label: str, n_types: int | None) -> MixtureModel:
    """Check the real cells and sort them by type.

    Raises
    ------
    InputError
        `label` is no column of `obs`, X is not counts, or there are fewer types than `n_types`.
    """
    if label not in source.obs:
        columns = ", ".join(map(repr, source.obs.columns)) or "none"
        raise InputError(f"`label` must be a column of the source's obs, got {label!r}; its columns are {columns}.")
    counts = _checked_counts(source.X)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()

    column = pd.Categorical(source.obs[label])
    codes = column.codes.astype(np.int64)
    unlabelled, empty = int((codes < 0).sum()), int(((codes >= 0) & (totals == 0)).sum())
    if unlabelled:
        _warn(f"{unlabelled} of {len(codes)} source cells have no {label!r} and were left out")
    if empty:
        _warn(f"{empty} of {len(codes)} source cells have no counts and were left out")
    codes[totals == 0] = -1

    sizes = np.bincount(codes[codes >= 0], minlength=len(column.categories))
    present = int((sizes > 0).sum())
    if present < 2:
        raise InputError(f"`label` must tell at least 2 types of cells with counts apart, but {label!r} has {present}.")
    wanted = present if n_types is None else n_types
    if wanted > present:
        raise InputError(f"`n_types` must be at most the {present} types that {label!r} has, got {wanted}.")
    kept = np.sort(np.argsort(-sizes, kind="stable")[:wanted])  # the most abundant, in the order of the categories
    rows = np.concatenate([np.flatnonzero(codes == code) for code in kept])
    return MixtureModel(
        type_names=[str(column.categories[code]) for code in kept],
        var_names=source.var_names.astype(str).tolist(),
        label=label,
        counts=counts[rows],
        totals=totals[rows],
        sizes=sizes[kept],
    )


def _checked_counts(x: Any) -> sp.csr_matrix:
    """Take X as float32 CSR with sorted indices, if it is counts."""
    if x is None or 0 in x.shape:
        raise InputError("`source` must hold a count matrix in X, got an empty one; put the counts there.")
    counts = sp.csr_matrix(x.astype(np.float32) if x.dtype == np.float16 else x)  # which SciPy has no sparse form of
    values = counts.data
    for wrong, what in (
        (~np.isfinite(values), "NaN or infinite values"),
        (values < 0, "negative values"),
        (values != np.floor(values), "fractions"),
    ):
        if wrong.any():
            example = values[np.argmax(wrong)]
            raise InputError(
                f"`source` must hold counts (whole numbers from 0) in X, got {what} such as {example:g}; "
                "put the raw counts there."
            )
    counts = counts.astype(np.float32)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=5)  # the line that called `simulate`
