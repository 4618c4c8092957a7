"""From an AnnData to what the network and the graph are made of; remembers how, for cells that come later."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sccagn_scale import pp
from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.config import Config

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger("sccagn_scale")


@dataclass(frozen=True)
class Recipe:
    """What preprocessing learned from the training cells."""

    input_kind: pp.InputKind
    genes: pd.Index  # that passed quality control; totals are taken over them
    target_sum: float
    chosen: np.ndarray  # int64, positions in `genes` of those that the network sees
    maxima: np.ndarray  # float32, of the chosen genes
    pca: pp.Projection
    pc_scale: float  # root mean square length of the training cells in PCA space

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
    pcs: np.ndarray  # float32 [n, n_comps]


def prepare(adata: AnnData, config: Config, *, layer: str | None, random_state: int) -> tuple[Recipe, Prepared]:
    """Run quality control, normalisation, gene selection, scaling and PCA.

    Raises
    ------
    InputError
        For every input that cannot be clustered; see `sccagn_scale.pp`.
    """
    matrix, names = pp.select_matrix(adata, layer)
    kind = pp.recognize(matrix, config.input_kind, stored_as=pp.stored_dtype(adata, layer))
    kept = pp.quality_control(matrix, config.min_cells_frac, config.min_genes_frac)
    _announce_constant(matrix)
    log.info(
        "Quality control keeps %s of %s cells and %s of %s genes.",
        *(f"{n:,}" for n in (kept.obs.sum(), len(kept.obs), kept.var.sum(), len(kept.var))),
    )
    matrix = matrix[kept.obs][:, kept.var]
    target_sum = _normalize(matrix, kind, config.target_sum)
    chosen = pp.highest_std_genes(matrix, config.n_top_genes)
    if len(chosen) < 2:
        raise InputError(
            f"The input has {len(chosen)} gene(s) that vary between cells; at least 2 are needed. Check the input, or "
            "lower `min_cells_frac`."
        )
    matrix = matrix[:, chosen]
    unit = matrix.copy()
    pp.unit_length(unit)
    pca = pp.fit_pca(unit, config.n_comps, random_state=random_state)
    length = float(np.sqrt(np.square(pca.scores(unit)).sum(axis=1).mean()))
    recipe = Recipe(
        kind,
        names[kept.var],
        target_sum,
        chosen,
        pp.gene_maxima(matrix),
        pca,
        max(length, float(np.finfo(np.float32).tiny)),
    )
    return recipe, _represent(recipe, config, matrix, kept.obs)


def prepare_like(recipe: Recipe, adata: AnnData, config: Config, *, layer: str | None) -> Prepared:
    """Treat new cells as the training cells were treated; no cell is left out.

    Raises
    ------
    InputError
        If genes that the network sees are missing.
    """
    matrix, names = pp.select_matrix(adata, layer)
    where = pd.Index(names).get_indexer(recipe.genes) if names.is_unique else _unique_needed(names)
    missing = recipe.gene_names[where[recipe.chosen] < 0]
    if len(missing):
        raise InputError(
            f"`adata` lacks {len(missing):,} of the {len(recipe.chosen):,} genes that the model was trained on, such "
            f"as {', '.join(missing[:3])}; give it the same genes."
        )
    pp.recognize(matrix, recipe.input_kind)
    matrix = matrix[:, where[where >= 0]]
    _normalize(matrix, recipe.input_kind, recipe.target_sum)
    positions = np.cumsum(where >= 0) - 1
    matrix = matrix[:, positions[recipe.chosen]]
    return _represent(recipe, config, matrix, np.ones(matrix.shape[0], bool))


def _unique_needed(names: pd.Index) -> np.ndarray:
    raise InputError(
        f"`adata` has gene names that stand twice, such as '{names[names.duplicated()][0]}'; make them unique."
    )


def _announce_constant(matrix: sp.csr_matrix) -> None:
    n_constant = int(pp.constant_genes(matrix).sum())
    if n_constant:
        warnings.warn(
            f"{n_constant:,} of {matrix.shape[1]:,} genes have the same value in every cell and play no part.",
            InputWarning,
            stacklevel=3,
        )


def _normalize(matrix: sp.csr_matrix, kind: pp.InputKind, target_sum: float | None) -> float:
    """Normalise and log in place what is not logged yet; returns the common total (0 where there is none)."""
    if kind == "log":
        return 0.0
    target = pp.normalize_total(matrix, target_sum)
    pp.log1p(matrix)
    return target


def _represent(recipe: Recipe, config: Config, matrix: sp.csr_matrix, keep_obs: np.ndarray) -> Prepared:
    """Make the representations that the configuration asks for, from the logged values of the chosen genes."""
    unit = matrix.copy()
    pp.unit_length(unit)
    pcs = recipe.pca.scores(unit)
    if "genes" in (config.input_rep, config.graph_rep):
        pp.scale_to_unit(matrix, recipe.maxima)
    # components get a mean squared length of 1, as the scaled genes have it: loss weights mean the same for both
    x = matrix if config.input_rep == "genes" else pcs / np.float32(recipe.pc_scale)
    points = matrix.toarray() if config.graph_rep == "genes" else pcs
    return Prepared(keep_obs, x, points, pcs)
