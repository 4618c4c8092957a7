"""From an AnnData to what the network and the graph are made of; remembers how, for cells that come later."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sccagn_scale import pp
from sccagn_scale._compat import package_version
from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale._threads import mapped
from sccagn_scale.config import Config

if TYPE_CHECKING:
    from anndata import AnnData

T = TypeVar("T")

log = logging.getLogger("sccagn_scale")


@dataclass(frozen=True)
class Recipe:
    """What preprocessing learned from the training cells."""

    input_kind: pp.InputKind
    genes: pd.Index  # that passed quality control; totals are taken over them
    target_sum: float
    chosen: np.ndarray  # int64, positions in `genes` of those that the network sees
    maxima: np.ndarray  # float32, of the chosen genes; 1 where components alone are used
    pca: pp.Projection
    pc_scale: float  # root mean square length of the training cells' `pcs`

    @property
    def gene_names(self) -> pd.Index:
        """The genes that the network sees."""
        return self.genes[self.chosen]


@dataclass(frozen=True)
class Prepared:
    """The cells that passed quality control."""

    keep_obs: np.ndarray  # bool [n_obs]
    x: sp.csr_matrix | np.ndarray  # the network's input [n, n_input]
    points: np.ndarray  # float32 [n, d], where neighbours are searched
    pcs: np.ndarray  # float32 [n, n_comps], corrected for batches where that was asked for


def prepare(
    adata: AnnData, config: Config, *, layer: str | None, random_state: int, batch_key: str | None = None
) -> tuple[Recipe, Prepared]:
    """Run quality control, normalisation, gene selection, scaling, PCA and, where asked for, correction for batches.

    Raises
    ------
    InputError
        For every input that cannot be clustered; see `sccagn_scale.pp`.
    """
    matrix = pp.select_matrix(adata, layer)
    found = pp.scan(matrix)
    kind = pp.recognize(found, config.input_kind, stored_as=matrix.dtype)
    kept = pp.quality_control(
        matrix, found.n_detected, min_cells_frac=config.min_cells_frac, min_genes_frac=config.min_genes_frac
    )
    _announce_constant(int(found.constant.sum()), matrix.shape[1])
    log.info(
        "Quality control keeps %s of %s cells and %s of %s genes.",
        *(f"{n:,}" for n in (kept.obs.sum(), len(kept.obs), kept.var.sum(), len(kept.var))),
    )
    batches = None if batch_key is None else pp.select_batches(adata, batch_key, kept.obs)
    target_sum = 0.0 if kind == "log" else config.target_sum or pp.median_total(kept.totals[kept.obs])
    logged = pp.LogExpression(matrix, kept.obs, kept.totals, kind, target_sum)
    genes = np.flatnonzero(kept.var)
    chosen = pp.highest_std_genes(logged.blocks(), config.n_top_genes, genes)
    if len(chosen) < 2:
        raise InputError(
            f"The input has {len(chosen)} gene(s) that vary between cells; at least 2 are needed. Check the input, or "
            "lower `min_cells_frac`."
        )
    blocks = _Blocks(logged, genes[chosen], held=_uses_genes(config))
    pca = pp.fit_pca(blocks.each(_unit), config.n_comps, random_state=random_state)
    pcs = _scores(pca, blocks)
    if batches is not None:
        log.info(
            "Components are corrected for the %s batches of '%s' (harmonypy %s).",
            f"{batches.max() + 1:,}",
            batch_key,
            package_version("harmonypy"),
        )
        pcs = pp.correct_batches(pcs, batches, random_state=random_state)
    length = float(np.sqrt(np.square(pcs).sum(axis=1).mean()))
    recipe = Recipe(
        kind,
        matrix.names[genes],
        target_sum,
        chosen,
        pp.gene_maxima(blocks) if _uses_genes(config) else np.ones(len(chosen), np.float32),
        pca,
        max(length, float(np.finfo(np.float32).tiny)),
    )
    return recipe, _represent(recipe, config, blocks, pcs=pcs, keep_obs=kept.obs)


def prepare_like(recipe: Recipe, adata: AnnData, config: Config, *, layer: str | None) -> Prepared:
    """Treat new cells as the training cells were treated; no cell is left out.

    Raises
    ------
    InputError
        If genes that the network sees are missing.
    """
    matrix = pp.select_matrix(adata, layer)
    names = matrix.names
    where = pd.Index(names).get_indexer(recipe.genes) if names.is_unique else _unique_needed(names)
    missing = recipe.gene_names[where[recipe.chosen] < 0]
    if len(missing):
        raise InputError(
            f"`adata` lacks {len(missing):,} of the {len(recipe.chosen):,} genes that the model was trained on, such "
            f"as {', '.join(missing[:3])}; give it the same genes."
        )
    pp.recognize(pp.scan(matrix), recipe.input_kind)
    counted = np.zeros(matrix.shape[1], bool)
    counted[where[where >= 0]] = True
    totals, _ = pp.cell_sums(matrix, counted)
    keep_obs = np.ones(matrix.shape[0], bool)
    logged = pp.LogExpression(matrix, keep_obs, totals, recipe.input_kind, recipe.target_sum)
    blocks = _Blocks(logged, where[recipe.chosen], held=_uses_genes(config))
    return _represent(recipe, config, blocks, pcs=_scores(recipe.pca, blocks), keep_obs=keep_obs)


def _unique_needed(names: pd.Index) -> np.ndarray:
    raise InputError(
        f"`adata` has gene names that stand twice, such as '{names[names.duplicated()][0]}'; make them unique."
    )


def _announce_constant(n_constant: int, n_vars: int) -> None:
    if n_constant:
        warnings.warn(
            f"{n_constant:,} of {n_vars:,} genes have the same value in every cell and play no part.",
            InputWarning,
            stacklevel=3,
        )


class _Blocks:
    """Log expression of the genes that the network sees; held in memory, or made anew each time it is gone through.

    Held it can take more memory than the counts of all genes. Components need it twice, in which case making it again
    costs less than that is worth.
    """

    def __init__(self, logged: pp.LogExpression, genes: np.ndarray, *, held: bool) -> None:
        self._logged, self._genes = logged, genes
        self._held = list(logged.blocks(genes)) if held else None

    def __iter__(self) -> Iterator[sp.csr_matrix]:
        return self.each(lambda block: block)

    def each(self, work: Callable[[sp.csr_matrix], T]) -> Iterator[T]:
        return mapped(work, self._held) if self._held is not None else self._logged.each(work, self._genes)


def _uses_genes(config: Config) -> bool:
    return "genes" in (config.input_rep, config.graph_rep)


def _unit(block: sp.csr_matrix) -> sp.csr_matrix:
    unit = block.copy()
    pp.unit_length(unit)
    return unit


def _scores(pca: pp.Projection, blocks: _Blocks) -> np.ndarray:
    return np.concatenate([*blocks.each(lambda block: pca.scores(_unit(block)))])


def _represent(recipe: Recipe, config: Config, blocks: _Blocks, *, pcs: np.ndarray, keep_obs: np.ndarray) -> Prepared:
    """Make the representations that the configuration asks for, from the logged values of the chosen genes."""
    matrix = None
    if _uses_genes(config):
        for block in blocks:  # held, so that scaling them stays
            pp.scale_to_unit(block, recipe.maxima)
        matrix = sp.vstack(list(blocks), format="csr")
    # components get a mean squared length of 1, as the scaled genes have it: loss weights mean the same for both
    x = matrix if config.input_rep == "genes" else pcs / np.float32(recipe.pc_scale)
    points = matrix.toarray() if matrix is not None and config.graph_rep == "genes" else pcs
    return Prepared(keep_obs, x, points, pcs)
