"""The whole job, file to clusters, against scanpy's on the same file, stage by stage."""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._choice import chosen_number
from benchmarks._contest import Contest, Method
from benchmarks._files import in_fresh_process
from benchmarks._outcome import Outcome, StageClock, peak_rss_mb
from benchmarks._results import Row, add_ratios
from benchmarks._session import Session
from sccagn_scale._errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# The clustered cells, their types, and what was read.
Finished = tuple["AnnData", "pd.Series", dict[str, Any]]

PEER = "scanpy"
WHOLE = "whole"
COLUMNS = ("share", f"ratio_to_{PEER}", "nmi", "ari", "n_clusters")
TRUTH = "cell_type"  # what `simulate` calls it
# What is smaller under --quick.
QUICK: dict[str, Any] = {"cells": 2000, "genes": 2000, "repeats": 1, "rehearsal": 500}
FULL: dict[str, Any] = {"cells": 100_000, "genes": 20_000, "repeats": 3, "rehearsal": 9000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `pipeline` can be asked for."""
    parser.add_argument("--cells", type=int, metavar="N", help="cells to simulate (default: 100000; quick: 2000)")
    parser.add_argument("--genes", type=int, metavar="G", help="genes to simulate (default: 20000; quick: 2000)")
    parser.add_argument("--from", dest="source", type=Path, metavar="REAL.h5ad", help="simulate from these real cells")
    parser.add_argument("--label", metavar="COLUMN", help=f"obs column with the types in --from or --file ({TRUTH})")
    parser.add_argument("--file", type=Path, metavar="FILE", help="measure on this .h5ad of counts, simulate nothing")
    parser.add_argument("--repeats", type=int, metavar="N", help="runs of each in turn (default: 3; quick: 1)")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Make the file, run both jobs on it in turn, print and keep the rows."""
    default = QUICK if arguments.quick else FULL
    repeats = chosen_number("repeats", arguments.repeats, default["repeats"])
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        path = arguments.file or Path(folder, "simulated.h5ad")
        truth = (arguments.label if arguments.file else None) or TRUTH
        small = Path(folder, "rehearsal.h5ad")
        if arguments.file is None:
            n_obs = chosen_number("cells", arguments.cells, default["cells"])
            genes = chosen_number("genes", arguments.genes, None if arguments.source else default["genes"])
            source = None if arguments.source is None else str(arguments.source)
            label = (arguments.label or TRUTH) if source else None
            what = {"n_obs": n_obs, "n_vars": genes, "source": source, "label": label}
            in_fresh_process("benchmarks._files:make_file", {"path": str(path), **what})
        cut = {"path": str(path), "small": str(small), "n_obs": default["rehearsal"], "truth": truth}
        in_fresh_process("benchmarks.pipeline:make_rehearsal", cut)
        kwargs = {"path": str(path), "truth": truth}
        methods = (
            Method("sccagn_scale", "benchmarks.pipeline:our_job", kwargs),
            Method(PEER, "benchmarks.pipeline:scanpy_job", kwargs | {"warm_up": str(small)}),
        )
        rows = session.run([Contest(WHOLE, methods, repeats, {"path": str(small)}, tolerance=1e-6)])
    session.finish(_compared(rows), columns=COLUMNS, mean_of=lambda case: None)


def make_rehearsal(path: str, small: str, n_obs: int, truth: str) -> Outcome:
    """Target: cut a few cells out of the file, and see on them that both jobs can use it."""
    import anndata
    import numpy as np

    from benchmarks._preprocess import input_kind

    full = anndata.read_h5ad(path, backed="r")
    if truth not in full.obs:
        raise InputError(f"`--label` must be a column of obs, but {path} has no {truth}.")
    rows = np.sort(np.random.default_rng(0).permutation(full.n_obs)[:n_obs])
    cells = full[rows].to_memory()
    if (kind := input_kind(cells)) != "counts":
        raise InputError(f"`--file` must hold counts in X, but {path} looks like {kind} values.")
    cells.write_h5ad(small)
    return Outcome({}, dict)


def our_job(path: str, truth: str) -> Outcome:
    """Target: sccagn_scale, number of clusters estimated, every other setting at its default."""

    def job(path: str, clock: StageClock) -> Finished:
        from sccagn_scale import cluster
        from sccagn_scale.io import read

        with clock.stage("read"):
            adata, types, evidence = _blind(read(path, backed=True), truth)
        cluster(adata, progress=clock)
        return adata, types, evidence

    return _timed("sccagn_scale.model", "sccagn", job, path)


def scanpy_job(path: str, truth: str, warm_up: str) -> Outcome:
    """Target: scanpy's standard job, its parameters at their defaults unless named here, on all usable cores.

    `warm_up` is a small file on which the job runs first: scanpy compiles much of itself when it first runs.
    """

    def job(path: str, clock: StageClock) -> Finished:
        import scanpy as sc

        sc.settings.n_jobs = -1  # its own default is one thread for neighbours
        with clock.stage("read"):
            adata, types, evidence = _blind(sc.read_h5ad(path), truth)
        with clock.stage("normalise"):
            sc.pp.normalize_total(adata)
            sc.pp.log1p(adata)
        with clock.stage("hvg"):
            sc.pp.highly_variable_genes(adata, n_top_genes=2000)
        with clock.stage("pca"):
            sc.pp.pca(adata, n_comps=50)
        with clock.stage("neighbors"):
            sc.pp.neighbors(adata, n_neighbors=15)
        with clock.stage("cluster"):
            sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
        return adata, types, evidence

    return _timed("scanpy", "leiden", job, path, warm_up)


def _timed(
    module: str, key: str, job: Callable[[str, StageClock], Finished], path: str, warm_up: str | None = None
) -> Outcome:
    """Time the import of a module, the job on a small file where one is given, and the whole job with its stages.

    What no stage claims is the case "other".
    """
    before, clock = StageClock(), StageClock()
    with before.stage("import"):
        importlib.import_module(module)
    if warm_up is not None:
        with before.stage("warm-up"):
            job(warm_up, StageClock())
    start = time.perf_counter()
    adata, types, evidence = job(path, clock)
    whole = time.perf_counter() - start
    stages = {**clock.seconds, "other": max(0.0, whole - sum(clock.seconds.values()))}
    seconds = {WHOLE: whole, **stages, **before.seconds}

    def score() -> dict[str, dict[str, Any]]:
        from sccagn_scale.metrics import evaluate

        labels = adata.obs[key]
        scores = evaluate(types, labels)
        metrics = {stage: {"share": value / whole} for stage, value in stages.items()}
        found = {"n_clusters": int(labels.nunique()), "n_types": int(types.nunique()), "n_obs": adata.n_obs}
        return metrics | {WHOLE: {"nmi": scores["nmi"], "ari": scores["ari"], **found}}

    peak = before.peak_rss_mb | clock.peak_rss_mb | {WHOLE: peak_rss_mb()}
    return Outcome({case: [value] for case, value in seconds.items()}, score, evidence, peak)


def _blind(adata: AnnData, truth: str) -> Finished:
    """Take obs' columns and uns off, and say what was read: the two jobs must have read the same."""
    import h5py

    types = adata.obs[truth].copy()
    adata.obs = adata.obs[[]]
    adata.uns.clear()
    x = adata.file._file["X"] if adata.isbacked else adata.X
    n_stored = int((x["data"] if isinstance(x, h5py.Group) else x).size)  # of a dense matrix, all
    return adata, types, {"n_obs": adata.n_obs, "n_vars": adata.n_vars, "n_stored": n_stored}


def _compared(rows: list[Row]) -> list[Row]:
    """Put the methods of a case side by side and give the ratio of each time to the peer's, where the peer has one."""
    cases = {row["case"]: i for i, row in reversed(list(enumerate(rows)))}
    add_ratios(rows, PEER, name=f"ratio_to_{PEER}")
    return sorted(rows, key=lambda row: cases[row["case"]])
