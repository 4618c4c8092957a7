"""From an AnnData to what the network and the graph are made of; remembers how, for cells that come later."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sccagn_scale import graph, pp
from sccagn_scale._compat import package_version
from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale._memory import IN_MEMORY, Scratch
from sccagn_scale._progress import SILENT_STAGE, Stage
from sccagn_scale._threads import mapped
from sccagn_scale.config import Config, InputKind
from sccagn_scale.io import CellStore, CellStoreWriter
from sccagn_scale.loader import Cells, CellsOnDisk
from sccagn_scale.model._needs import Size

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client

    from sccagn_scale.io import Atlas

T = TypeVar("T")

log = logging.getLogger("sccagn_scale")

_ENOUGH_FOR_AXES = 250_000
"""Cells from which principal axes are found: of twice as many every second cell, and so on; all are projected."""


@dataclass(frozen=True)
class Recipe:
    """What preprocessing learned from the training cells."""

    input_kind: InputKind
    genes: pd.Index  # that passed quality control; totals are taken over them
    target_sum: float
    chosen: np.ndarray  # int64, positions in `genes` of those that the network sees
    maxima: np.ndarray  # float32, of the chosen genes; 1 where components alone are used
    pca: pp.Projection
    pc_scale: float  # root mean square length of the training cells' `pcs`
    n_obs: int  # training cells

    @property
    def gene_names(self) -> pd.Index:
        """The genes that the network sees."""
        return self.genes[self.chosen]


@dataclass(frozen=True)
class Prepared:
    """The cells that passed quality control."""

    keep_obs: np.ndarray  # bool [n_obs]
    x: Cells  # the network's input [n, n_input]
    points: np.ndarray  # float32 [n, d], where neighbours are searched
    pcs: np.ndarray  # float32 [n, n_comps], corrected for batches where that was asked for
    scaled_pcs: np.ndarray | None = None  # the same of genes scaled to variance one, where that was asked for


def part_size(batch_size: int) -> int:
    """Cells in a part of the graph, of which eight make a batch: enough for variety, few enough to keep most edges."""
    return max(1, batch_size // 8)


def input_size(adata: AnnData | Atlas, layer: str | None) -> Size:
    """Look up how large the input is; of files, some values are read."""
    matrix = pp.select_matrix(adata, layer)
    return Size(*matrix.shape, matrix.nnz, matrix.is_on_disk, matrix.value_size(), matrix.copies)


def n_passes(config: Config, scratch: Scratch) -> int:
    """How often `prepare` goes through the cells."""
    if _uses_genes(config) and scratch.folder is None:
        return 4  # and the others through what is held
    return 7 if _uses_genes(config) else 5


def n_passes_like(config: Config, scratch: Scratch) -> int:
    """How often `prepare_like` goes through the cells."""
    return 4 if _uses_genes(config) and scratch.folder is not None else 3


def prepare(
    adata: AnnData | Atlas,
    config: Config,
    *,
    layer: str | None,
    random_state: int,
    batch_key: str | None = None,
    scaled: bool = False,
    scratch: Scratch = IN_MEMORY,
    store: Path | None = None,
    client: Client | None = None,
    stage: Stage = SILENT_STAGE,
) -> tuple[Recipe, Prepared]:
    """Run quality control, normalisation, gene selection, scaling, PCA and, where asked for, correction for batches.

    Arrays of all cells are in `scratch`. What is read from a file is kept by the cluster of `client`, in `store`, or in
    memory. With `scaled`, components of genes scaled to variance one are found as well.

    Raises
    ------
    InputError
        For every input that cannot be clustered; see `sccagn_scale.pp`.
    """
    matrix = pp.select_matrix(adata, layer, store, client=client, stage=stage)
    found = pp.scan(matrix, one_kind=config.input_kind == "auto")
    kind = pp.recognize(found, config.input_kind)
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
    chosen = pp.highest_std_genes(logged.each(pp.moments), config.n_top_genes, genes)
    if len(chosen) < 2:
        raise InputError(
            f"The input has {len(chosen)} gene(s) that vary between cells; at least 2 are needed. Check the input, or "
            "lower `min_cells_frac`."
        )
    blocks = _Blocks(logged, genes[chosen], held=_uses_genes(config) and scratch.folder is None)
    if batches is not None:
        log.info(
            "Components are corrected for the %s batches of '%s' (harmonypy %s).",
            f"{batches.max() + 1:,}",
            batch_key,
            package_version("harmonypy"),
        )

    units = blocks.each(_unit, step=max(1, int(kept.obs.sum()) // _ENOUGH_FOR_AXES))
    pcas: tuple[pp.Projection, ...]
    if scaled:
        pcas = pp.fit_pca_twice(units, config.n_comps, random_state=random_state)
    else:
        pcas = (pp.fit_pca(units, config.n_comps, random_state=random_state),)
    components = _scores(pcas, blocks, int(kept.obs.sum()), scratch)
    if batches is not None:
        for own in components:
            own[:] = pp.correct_batches(own, batches, random_state=random_state)
    pcs = components[0]
    recipe = Recipe(
        kind,
        matrix.names[genes],
        target_sum,
        chosen,
        pp.gene_maxima(blocks.each(pp.maxima)) if _uses_genes(config) else np.ones(len(chosen), np.float32),
        pcas[0],
        pp.rms_length(pcs),
        len(pcs),
    )
    prepared = _represent(
        recipe, config, blocks, pcs=pcs, keep_obs=kept.obs, scratch=scratch, random_state=random_state
    )
    return recipe, replace(prepared, scaled_pcs=components[1]) if scaled else prepared


def prepare_like(
    recipe: Recipe,
    adata: AnnData | Atlas,
    config: Config,
    *,
    layer: str | None,
    random_state: int = 0,
    scratch: Scratch = IN_MEMORY,
    store: Path | None = None,
    client: Client | None = None,
    stage: Stage = SILENT_STAGE,
) -> Prepared:
    """Treat new cells as the training cells were treated; no cell is left out. Arrays of all cells are in `scratch`.

    Raises
    ------
    InputError
        If genes that the network sees are missing.
    """
    matrix = pp.select_matrix(adata, layer, store, client=client, stage=stage)
    names = matrix.names
    if not names.is_unique:
        raise InputError(
            f"`adata` has gene names that stand twice, such as '{names[names.duplicated()][0]}'; make them unique."
        )
    where = names.get_indexer(recipe.genes)
    missing = recipe.gene_names[where[recipe.chosen] < 0]
    if len(missing):
        raise InputError(
            f"`adata` lacks {len(missing):,} of the {len(recipe.chosen):,} genes that the model was trained on, such "
            f"as {', '.join(missing[:3])}; give it the same genes."
        )
    n_missing = int((where < 0).sum())
    if n_missing and recipe.input_kind != "log":
        warnings.warn(
            f"`adata` lacks {n_missing:,} of the {len(where):,} genes over which the model takes a cell's total: what "
            "they would have held is missing from it, and the other values are taken for larger ones.",
            InputWarning,
            stacklevel=3,
        )
    found = pp.scan(matrix)
    if found.kind != recipe.input_kind:
        warnings.warn(
            f"The model was trained on {pp.KINDS[recipe.input_kind]}, but these values look like "
            f"{pp.KINDS[found.kind]}. If they are, clusters will be wrong: give it values of the same kind.",
            InputWarning,
            stacklevel=3,
        )
    log.info("The values are taken as %s, as those of the model were.", pp.KINDS[recipe.input_kind])
    counted = np.zeros(matrix.shape[1], bool)
    counted[where[where >= 0]] = True
    totals, _ = pp.cell_sums(matrix, counted)
    keep_obs = np.ones(matrix.shape[0], bool)
    logged = pp.LogExpression(matrix, keep_obs, totals, recipe.input_kind, recipe.target_sum)
    blocks = _Blocks(logged, where[recipe.chosen], held=_uses_genes(config) and scratch.folder is None)
    [pcs] = _scores([recipe.pca], blocks, len(keep_obs), scratch)
    return _represent(recipe, config, blocks, pcs=pcs, keep_obs=keep_obs, scratch=scratch, random_state=random_state)


def _announce_constant(n_constant: int, n_vars: int) -> None:
    if n_constant:
        warnings.warn(
            f"{n_constant:,} of {n_vars:,} genes have the same value in every cell and are not used.",
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

    def each(self, work: Callable[[sp.csr_matrix], T], *, step: int = 1) -> Iterator[T]:
        """Work on each block of all cells, or of every `step`-th, wherever blocks begin."""
        if self._held is None:
            return self._logged.every(step).each(work, self._genes)
        if step == 1:
            return mapped(work, self._held)
        ends = np.cumsum([block.shape[0] for block in self._held])
        return mapped(work, [block[-end % step :: step] for block, end in zip(self._held, [0, *ends], strict=False)])


def _uses_genes(config: Config) -> bool:
    return "genes" in (config.input_rep, config.graph_rep)


def _unit(block: sp.csr_matrix) -> sp.csr_matrix:
    """The cells, brought to unit length."""
    unit = block.copy()
    pp.unit_length(unit)
    return unit


def _scores(pcas: Sequence[pp.Projection], blocks: _Blocks, n_obs: int, scratch: Scratch) -> list[np.ndarray]:
    """Project every cell by each of the projections, float32 [n_obs, n_comps] each."""

    def project(block: sp.csr_matrix) -> list[np.ndarray]:
        unit = _unit(block)
        return [pca.scores(unit) for pca in pcas]

    found = [scratch.empty((n_obs, len(pca.components))) for pca in pcas]
    done = 0
    for parts in blocks.each(project):
        for pcs, part in zip(found, parts, strict=True):
            pcs[done : done + len(part)] = part
        done += len(parts[0])
    return found


def _represent(
    recipe: Recipe,
    config: Config,
    blocks: _Blocks,
    *,
    pcs: np.ndarray,
    keep_obs: np.ndarray,
    scratch: Scratch,
    random_state: int,
) -> Prepared:
    """Make the representations that the configuration asks for, from the logged values of the chosen genes."""
    genes = _genes(recipe, config, blocks, pcs, scratch, random_state) if _uses_genes(config) else None
    points = pcs
    if genes is not None and config.graph_rep == "genes":
        points = scratch.empty(genes.shape)
        for i in range(0, len(points), pp.BLOCK_SIZE):
            points[i : i + pp.BLOCK_SIZE] = genes[i : i + pp.BLOCK_SIZE].toarray()
    if genes is not None and config.input_rep == "genes":
        return Prepared(keep_obs, genes, points, pcs)
    # components get a mean squared length of 1, as the scaled genes have it: loss weights mean the same for both
    x = np.divide(pcs, np.float32(recipe.pc_scale), out=scratch.empty(pcs.shape))
    return Prepared(keep_obs, x, points, pcs)


def _genes(
    recipe: Recipe, config: Config, blocks: _Blocks, pcs: np.ndarray, scratch: Scratch, random_state: int
) -> sp.csr_matrix | CellsOnDisk:
    """Scale the chosen genes; on disk, cells are laid out part by part, as batches of training want them."""

    def scaled(block: sp.csr_matrix) -> sp.csr_matrix:
        pp.scale_to_unit(block, recipe.maxima)
        return block

    if scratch.folder is None:
        return sp.vstack(list(blocks.each(scaled)), format="csr")
    with tempfile.TemporaryDirectory(dir=scratch.folder) as folder:
        as_they_came, in_parts = Path(folder) / "cells", Path(folder) / "parts"
        with CellStoreWriter(as_they_came, len(recipe.chosen), {}) as writer:
            for block in blocks.each(scaled):
                writer.append(block)
        parts = graph.partition(pcs, part_size(config.batch_size or len(pcs)), random_state=random_state)
        order = np.argsort(parts, kind="stable")
        cells = CellStore.open(as_they_came)
        with CellStoreWriter(in_parts, len(recipe.chosen), {}) as writer:
            for i in range(0, len(order), pp.BLOCK_SIZE):
                writer.append(cells.rows(order[i : i + pp.BLOCK_SIZE]))
        return CellsOnDisk(CellStore.open(in_parts), order)  # whose files stay open, and are gone with it
