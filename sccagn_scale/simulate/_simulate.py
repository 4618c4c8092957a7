"""The public verb: parameters checked, cells drawn by threads, blocks written in order."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from anndata import AnnData

from sccagn_scale._checks import checked_random_state, whole
from sccagn_scale._console import checked_listener, shown
from sccagn_scale._errors import InputError
from sccagn_scale._progress import Progress
from sccagn_scale._threads import mapped
from sccagn_scale.io import RowWriter, check_writable, read, replacing_hdf5
from sccagn_scale.simulate._h5ad import write_annotation
from sccagn_scale.simulate._mixture import make_mixture_model
from sccagn_scale.simulate._sampler import Sampler
from sccagn_scale.simulate._tree import make_tree_model

_DEFAULT_N_VARS = 20_000
_DEFAULT_N_TYPES = 10
_DEFAULT_MEDIAN_COUNTS = 3000.0
_CHUNK = 64  # cells that share one random stream: another number would change every cell
_MAX_THREADS = 8  # one thread writes, and it keeps up with about so many


def simulate(
    path: str | os.PathLike[str],
    n_obs: int,
    n_vars: int | None = None,
    *,
    n_types: int | None = None,
    source: AnnData | str | os.PathLike[str] | None = None,
    label: str | None = None,
    median_counts: float | None = None,
    random_state: int = 0,
    progress: Progress | bool = False,
) -> None:
    """Write a labelled synthetic single-cell atlas to an .h5ad file, block by block.

    Without `source`, counts come from a generative model: cell types on a tree, so that some are close and some far;
    unequal type sizes; log-normal library sizes; two continuous programmes within each type;
    negative-binomial counts. With 3,000 UMIs, about 6 % of 20,000 genes are
    detected in a cell.

    With `source`, counts are Poisson draws around mixtures of two real cells of one type, scaled to the total count of
    a third: library sizes, type sizes and the distance between types are the real ones. As a drawn count of an observed
    one carries the noise of both, about a fifth fewer genes are detected in a cell than in the real data.

    Memory does not grow with the atlas, except for its labels (one or two bytes per cell) and a row pointer.

    Parameters
    ----------
    path
        The .h5ad file to write. It appears when it is complete; a file already there is replaced.
    n_obs
        Number of cells.
    n_vars
        Number of genes. None: 20,000, or the source's.
    n_types
        Number of cell types, at least 2. None: 10, or all of the source's; fewer than those means the most abundant.
    source
        Real cells, with counts in X: an AnnData or a file that `sccagn_scale.io.read` takes.
    label
        Column of the source's `obs` with the types. Cells without a value are left out, with a warning.
    median_counts
        Median UMIs of a cell, above 0. None: 3,000, or the source's.
    random_state
        Seed, from 0 up. The same seed and parameters give the same cells.
    progress
        True shows a bar; or an object with a method `stage` that is told of the stage.

    Raises
    ------
    InputError
        A parameter is out of range, `path` cannot be written, or the source cannot be used.

    Notes
    -----
    The file holds `X` (float32, CSR, int64 `indptr`), `obs["cell_type"]` (categorical, the truth) and
    `uns["simulation"]` (the parameters; the tree of types in Newick notation).
    """
    path, listener = Path(path), checked_listener(progress)
    random_state = checked_random_state(random_state)
    whole(n_obs, "n_obs", 1)
    if n_vars is not None:
        whole(n_vars, "n_vars", 1, further=", or None")
    if n_types is not None:
        whole(n_types, "n_types", 2, further=", or None")
        if n_types > n_obs:
            raise InputError(
                f"`n_types` must be at most `n_obs`, so that each type has a cell, got {n_types} > {n_obs}."
            )
    is_number = isinstance(median_counts, int | float | np.number)
    if median_counts is not None and not (is_number and 0 < median_counts < np.inf):
        raise InputError(f"`median_counts` must be a number above 0, got {median_counts!r}.")
    if path.suffix.lower() != ".h5ad":
        raise InputError(f"`path` must end in .h5ad, got {str(path)!r}; no other format is written.")
    check_writable(path, "path")

    seed = np.random.SeedSequence(random_state)
    model_seed, label_seed, cell_seed = seed.spawn(3)
    model = _make_sampler(
        path, n_vars, n_types, source=source, label=label, median_counts=median_counts, seed=model_seed
    )
    if len(model.type_names) > n_obs:
        raise InputError(
            f"`n_obs` must be at least the number of cell types, {len(model.type_names)}, got {n_obs}; "
            "ask for more cells or lower `n_types`."
        )
    types = _spread_types(n_obs, model.proportions, np.random.default_rng(label_seed))
    uns = {"simulation": {**model.params, "n_types": len(model.type_names), "random_state": random_state}}
    try:
        with (
            shown(listener) as told,
            told.stage("Simulate", total=n_obs) as stage,
            replacing_hdf5(path) as file,
        ):
            write_annotation(file, types, model.type_names, var_names=model.var_names, uns=uns)
            rows = RowWriter(file, (n_obs, len(model.var_names)), np.float32)
            # closed at once when something fails, rather than when the traceback is forgotten
            with closing(_draw_in_order(model, types, cell_seed)) as chunks:
                for chunk in chunks:
                    rows.append(chunk)
                    stage.advance(chunk.shape[0])
            rows.close()
    except OSError as error:
        raise InputError(f"`path` {str(path)!r} could not be written: {error.strerror or error}.") from error


def _make_sampler(
    path: Path,
    n_vars: int | None,
    n_types: int | None,
    *,
    source: AnnData | str | os.PathLike[str] | None,
    label: str | None,
    median_counts: float | None,
    seed: np.random.SeedSequence,
) -> Sampler:
    if source is None:
        if label is not None:
            raise InputError(f"`label` needs a `source` whose column it names, got {label!r} alone; give both or none.")
        return make_tree_model(
            n_vars or _DEFAULT_N_VARS,
            n_types or _DEFAULT_N_TYPES,
            np.random.default_rng(seed),
            median_library_size=median_counts or _DEFAULT_MEDIAN_COUNTS,
        )
    if median_counts is not None:
        raise InputError(
            f"`median_counts` must be left out with a `source`, whose cells have their own, got {median_counts:g}."
        )
    if label is None:
        raise InputError("`label` must name the column of the source's obs that holds the cell types, got none.")
    origin = source.filename if isinstance(source, AnnData) else source  # None unless the AnnData is backed
    if origin is not None and path.exists() and Path(origin).exists() and path.samefile(origin):
        raise InputError(f"`path` must differ from `source`, got {str(path)!r} for both; choose another file.")
    cells = _in_memory(source)
    if n_vars is not None and n_vars != cells.n_vars:
        raise InputError(
            f"`n_vars` must be the source's {cells.n_vars} genes or left out when `source` is given, got {n_vars}."
        )
    return make_mixture_model(cells, label, n_types)


def _in_memory(source: AnnData | str | os.PathLike[str]) -> AnnData:
    if isinstance(source, AnnData):
        return source.to_memory() if source.isbacked else source
    try:
        return read(source)
    except InputError as error:  # there the parameter is called `path`, which is the output here
        raise InputError(str(error).replace("`path`", "`source`")) from error


def _spread_types(
    n_obs: int, proportions: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.signedinteger]:
    """Give each cell a type: shares as near `proportions` as whole cells allow, none empty, in random order."""
    exact = n_obs * proportions
    sizes = np.maximum(1, np.floor(exact)).astype(np.int64)
    while sizes.sum() < n_obs:
        sizes[np.argmax(exact - sizes)] += 1
    while sizes.sum() > n_obs:
        sizes[np.argmax(np.where(sizes > 1, sizes - exact, -np.inf))] -= 1
    types = np.repeat(np.arange(len(sizes), dtype=np.min_scalar_type(-len(sizes))), sizes)
    rng.shuffle(types)
    return types


def _draw_in_order(
    model: Sampler, types: npt.NDArray[np.signedinteger], seed: np.random.SeedSequence
) -> Generator[sp.csr_matrix]:
    """Draw chunks of cells on several threads (numpy frees the interpreter)."""

    def draw(start: int) -> sp.csr_matrix:
        stream = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, start // _CHUNK))
        return model.draw(types[start : start + _CHUNK], np.random.default_rng(stream))

    return mapped(draw, range(0, len(types), _CHUNK), _MAX_THREADS)
