"""Clusters against known types: real labelled sets × methods × seeds, number of clusters given and estimated."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _accuracy_ranks, _accuracy_report
from benchmarks._choice import chosen, chosen_files, chosen_seeds, names
from benchmarks._contest import Contest, Method
from benchmarks._labelled import made_cells, read_blind
from benchmarks._methods import CLUSTERINGS, MODES, SCRATCH, Clustering, Confident, Mode, Shared
from benchmarks._outcome import Metrics, Outcome, over_seeds, peak_rss_mb, reset_peak_rss
from benchmarks._session import Session
from benchmarks._stability import stability
from sccagn_scale._errors import InputError

SCORES = ("nmi", "ari", "ami", "completeness", "accuracy")
COLUMNS = (*SCORES, "cross_seed_ari", "n_clusters")
QUICK_SEEDS = 2
APPROXIMATE_FROM = 8192
"""Number of cells from which on scanpy searches neighbours in another way, and compiles more for it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `accuracy` can be asked for."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help='folder of .h5ad with obs["cell_type"]')
    parser.add_argument("--sets", type=names, metavar="A,B", help="file names without .h5ad (default: all)")
    parser.add_argument("--methods", type=names, metavar="A,B", help=f"of {', '.join(CLUSTERINGS)} (default: all)")
    parser.add_argument("--modes", type=names, metavar="A,B", help="given (number of clusters), auto (default: both)")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"seeds 0 … N-1 (default: 5; quick: {QUICK_SEEDS})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="sets at a time; above 1, times are shared")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Run every method on every set, print and keep the rows, and lay a table and a plot beside the result file."""
    methods = chosen("methods", arguments.methods, list(CLUSTERINGS))
    modes = [mode for mode in MODES if mode in chosen("modes", arguments.modes, list(MODES))]
    n_seeds = chosen_seeds(arguments.seeds, QUICK_SEEDS if arguments.quick else 5)
    contests = [
        _contest(path, mode, methods, n_seeds)
        for mode in modes
        for path in chosen_files(arguments)
        if any(mode in CLUSTERINGS[name].modes for name in methods)
    ]
    if not contests:
        raise InputError(f"`--methods` must name one that is run in the mode {modes[0]}, but are {', '.join(methods)}.")
    with _scratch():
        rows = session.run(contests, jobs=arguments.jobs)
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: case.rpartition("/")[2])
    if session.path is not None:
        _accuracy_report.write(rows, beside=session.path)
        _accuracy_ranks.plot_ranks(rows, session.path.with_name(f"{session.path.stem}_ranks.png"))


def run_seeds(path: str, method: str, mode: Mode, n_seeds: int) -> Outcome:
    """Target: cluster one set with one method once per seed, preprocessing included in each time.

    Parameters
    ----------
    path
        A labelled `.h5ad`. Of its labels the method is told their number in the mode "given", and nothing else.
    method
        A name in :data:`benchmarks._methods.CLUSTERINGS`.
    mode
        Whether the number of clusters is given.
    n_seeds
        Seeds 0 … n_seeds − 1 are run.
    """
    return cluster_set(Path(path), CLUSTERINGS[method], mode, n_seeds)


def cluster_set(path: Path, clustering: Clustering, mode: Mode, n_seeds: int) -> Outcome:
    """What `run_seeds` does, for any clustering."""
    cells, truth = read_blind(path)
    n_types = truth.nunique()
    _warm_up(clustering, mode, cells.n_obs)
    reset_peak_rss()
    seconds, labels, confidences, peaks = [], [], [], []
    for seed in range(n_seeds):
        copy = cells.copy()
        start = time.perf_counter()
        found = clustering.run(copy, n_types if mode == "given" else None, seed)
        seconds.append(time.perf_counter() - start)
        if isinstance(found, Shared):
            seconds[-1] += found.seconds
            peaks.append(found.peak_rss_mb)
            found = found.labels
        elif isinstance(found, Confident):
            confidences.append(found.confidence)
            found = found.labels
        found = np.asarray(found)
        if found.shape != (cells.n_obs,):
            raise ValueError(f"it returned labels of shape {found.shape} for {cells.n_obs} cells")
        labels.append(found)
    case = f"{path.stem}/{mode}"
    evidence = {"n_obs": cells.n_obs, "n_vars": cells.n_vars, "n_types": n_types, "sum": float(cells.X.sum())}
    peak = max([peak_rss_mb(), *peaks])
    return Outcome({case: seconds}, lambda: {case: _score(truth, labels, confidences)}, evidence, {case: peak})


def _warm_up(clustering: Clustering, mode: Mode, n_obs: int) -> None:
    """Import, and compile what is compiled just in time for as many cells, so that neither is in the times."""
    if clustering.is_ours:
        # Nothing of ours is compiled when it first runs, and training takes its steps however few the cells.
        importlib.import_module("sccagn_scale.model")
        return
    cells, types = made_cells(150 if n_obs < APPROXIMATE_FROM else 9000)
    # Should a method fail on made cells, then the runs that count will show whether it fails on a real one.
    with contextlib.suppress(Exception):
        clustering.run(cells, types.nunique() if mode == "given" else None, 0)


def _score(truth: Any, labels: list[np.ndarray], confidences: list[np.ndarray]) -> Metrics:
    """Mean, deviation and single values over seeds of every score, and how far the seeds agree with each other.

    `confidences` is empty for a method that has none.
    """
    import pandas as pd
    from sklearn.metrics import adjusted_rand_score

    from sccagn_scale.metrics import evaluate

    each = [evaluate(truth, found) for found in labels]
    metrics: Metrics = {}
    for name in SCORES:
        metrics |= over_seeds(name, [one[name] for one in each])
    codes = [pd.factorize(found, use_na_sentinel=False)[0] for found in labels]
    pairs = [adjusted_rand_score(a, b) for a, b in itertools.combinations(codes, 2)]
    n_clusters = [int(pd.Series(found).nunique()) for found in labels]  # cells without a cluster are none
    if len(confidences) > 1:
        metrics |= stability(labels, confidences)
    return metrics | {
        "cross_seed_ari": float(np.mean(pairs)) if pairs else None,
        "n_clusters": float(np.median(n_clusters)),
        "n_clusters_each": n_clusters,
        "n_types": int(truth.nunique()),
        "n_obs": len(truth),
        "unassigned": float(np.mean([pd.isna(found).mean() for found in labels])),
        "seeds": list(range(len(labels))),
    }


@contextlib.contextmanager
def _scratch() -> Iterator[None]:
    """Name a folder in the environment, for the methods' processes, that goes when the block ends."""
    before = os.environ.get(SCRATCH)
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        os.environ[SCRATCH] = folder
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(SCRATCH, None)
            else:
                os.environ[SCRATCH] = before


def _contest(path: Path, mode: Mode, methods: list[str], n_seeds: int) -> Contest:
    kwargs = {"path": str(path), "mode": mode, "n_seeds": n_seeds}
    able = [name for name in methods if mode in CLUSTERINGS[name].modes]
    entries = (Method(name, "benchmarks.accuracy:run_seeds", kwargs | {"method": name}) for name in able)
    return Contest(f"{path.stem}/{mode}", tuple(entries))
