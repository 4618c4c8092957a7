"""Clusters learned on some batches of a set and predicted for the others; all of them clustered, corrected or not."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import _transfer_report
from benchmarks._choice import chosen, chosen_seeds, names
from benchmarks._contest import Contest, Method
from benchmarks._labelled import labelled_files, made_cells, read_batches, read_blind
from benchmarks._outcome import Metrics, Outcome, over_seeds, reset_peak_rss
from benchmarks._session import Session
from benchmarks._transfers import PEERS, TRANSFERS, WHOLES, Found, Task
from sccagn_scale._errors import InputError

SCORES = ("nmi", "ari", "accuracy")
DIRECTIONS = {"1->2": 1, "2->1": 0}
"""Name of a direction → the part that is labelled, counted from 0."""
WHOLE = "all"
"""Name of the direction, if it may be called so, in which all cells are labelled."""
HELD = 0.9
"""Share of a cluster's cells, and of a type's, from which on one batch is said to hold it."""
QUICK_SETS, QUICK_SEEDS = 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `transfer` can be asked for."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help='folder of .h5ad with obs["cell_type"] '
                        'and two or more batches in obs["batch"]')  # fmt: skip
    parser.add_argument("--sets", type=names, metavar="A,B", help="file names without .h5ad (default: all)")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"seeds 0 … N-1 (default: 5; quick: {QUICK_SEEDS})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cases at a time; above 1, times are shared")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Run every method on every set both ways, print and keep the rows, and lay a table beside the file."""
    n_seeds = chosen_seeds(arguments.seeds, QUICK_SEEDS if arguments.quick else 5)
    contests = []
    for path in _chosen_files(arguments):
        for direction in (*DIRECTIONS, WHOLE):
            kwargs = {"path": str(path), "direction": direction, "n_seeds": n_seeds}
            tried = WHOLES if direction == WHOLE else TRANSFERS
            methods = (Method(name, "benchmarks.transfer:run_seeds", kwargs | {"method": name}) for name in tried)
            contests.append(Contest(f"{path.stem}/{direction}", tuple(methods)))
    rows = session.run(contests, jobs=arguments.jobs)
    session.finish(
        rows,
        columns=(*SCORES, "batch_driven", "batch_nmi"),
        mean_of=lambda case: "sets" if case.endswith(f"/{WHOLE}") else "directions",
    )
    if session.path is not None:
        _transfer_report.write(rows, beside=session.path, whole=WHOLE)


def run_seeds(path: str, direction: str, method: str, n_seeds: int) -> Outcome:
    """Target: label one part of one set, or all of it, with one method once per seed, from matrices to labels.

    Parameters
    ----------
    path
        A labelled `.h5ad` with batches. Of its labels the method is told numbers of types, and nothing else.
    direction
        A name in :data:`DIRECTIONS`, or :data:`WHOLE`.
    method
        A name in :data:`benchmarks._transfers.TRANSFERS`; in :data:`benchmarks._transfers.WHOLES` for all of it.
    n_seeds
        Seeds 0 … n_seeds − 1 are run.
    """
    label = (WHOLES if direction == WHOLE else TRANSFERS)[method]
    cells, truth = read_blind(Path(path))
    batches = read_batches(Path(path))
    if batches is None:
        raise InputError(f'{path} must have two or more batches in obs["batch"].')
    in_target = np.full(len(truth), True) if direction == WHOLE else divide(batches) == DIRECTIONS[direction]
    n_types = (truth[cells].nunique() for cells in (slice(None), ~in_target, in_target))
    task = Task(cells, in_target, batches.to_numpy(object), *n_types)
    _warm_up(method)
    reset_peak_rss()
    seconds, found = [], []
    for seed in range(n_seeds):
        start = time.perf_counter()
        found.append(label(task, seed))
        seconds.append(time.perf_counter() - start)
    case = f"{Path(path).stem}/{direction}"
    evidence = {
        "n_obs": cells.n_obs,
        "n_vars": cells.n_vars,
        "n_target": int(in_target.sum()),
        "sum": float(cells.X.sum()),
    }
    return Outcome({case: seconds}, lambda: {case: _score(found, task, truth, batches)}, evidence)


def divide(batches: pd.Series) -> NDArray[np.int64]:
    """Divide cells into two parts of whole batches, about equally large, without a look at labels or expression.

    Batches are taken from the largest to the smallest (equal ones by name); each goes to the part that has fewer cells
    so far, to the first if they have as many.

    Parameters
    ----------
    batches
        The batch of each cell.

    Returns
    -------
    Part of each cell, 0 or 1.
    """
    sizes = batches.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    part_of, n_cells = {}, [0, 0]
    for batch, size in sizes.items():
        part = int(n_cells[1] < n_cells[0])
        part_of[batch] = part
        n_cells[part] += size
    return batches.map(part_of).to_numpy(np.int64)


def batch_driven(labels: Any, truth: pd.Series, batches: pd.Series) -> float:
    """Share of cells in clusters that follow a batch where the types do not.

    Such a cluster has at least 90 % of its cells from one batch, although that batch has less than 90 % of all cells of
    the cluster's most frequent type.

    Parameters
    ----------
    labels
        Cluster of each cell; None where it has none.
    truth, batches
        Type and batch of each cell.
    """
    cells = pd.DataFrame({"cluster": labels, "type": truth, "batch": batches})
    n_driven = 0
    for _, members in cells.groupby("cluster", observed=True):
        batch = members["batch"].mode()[0]
        commonest = members["type"].mode()
        if commonest.empty or (members["batch"] == batch).mean() < HELD:
            continue
        of_type = cells["batch"][cells["type"] == commonest[0]]
        n_driven += len(members) if (of_type == batch).mean() < HELD else 0
    return n_driven / len(cells)


def _warm_up(method: str) -> None:
    """Import, and compile what is compiled just in time, so that neither is in the times; see `accuracy`."""
    if method not in PEERS:
        importlib.import_module("sccagn_scale.model")
        return
    cells, types = made_cells()
    n_types = types.nunique()
    # Should a method fail on made cells, then the runs that count will show whether it fails on a real one.
    with contextlib.suppress(Exception):
        even = np.arange(len(types)) % 2 == 0
        TRANSFERS[method](Task(cells, even, even.astype(str).astype(object), n_types, n_types, n_types), 0)


def _score(found: list[Found], task: Task, truth: pd.Series, batches: pd.Series) -> Metrics:
    from sccagn_scale.metrics import evaluate

    source, target = truth[~task.in_target], truth[task.in_target]
    each = [evaluate(target, one.target) for one in found]
    metrics: Metrics = {}
    for name in SCORES:
        metrics |= over_seeds(name, [one[name] for one in each])
    if all(one.all is not None for one in found):
        metrics |= over_seeds("batch_driven", [batch_driven(one.all, truth, batches) for one in found])
        metrics |= over_seeds("batch_nmi", [evaluate(batches, one.all)["nmi"] for one in found])
        metrics["batch_nmi_of_types"] = evaluate(batches, truth)["nmi"]
    return metrics | {
        "n_batches": batches.nunique(),
        "n_source": len(source),
        "n_target": len(target),
        "n_source_types": task.n_source_types,
        "n_target_types": task.n_target_types,
        "new_types": float((~target.dropna().isin(source)).mean()),
        "seeds": list(range(len(found))),
    }


def _chosen_files(arguments: argparse.Namespace) -> list[Path]:
    if not arguments.data.is_dir():
        raise InputError(f"`--data` must be a folder of labelled .h5ad files, but {arguments.data} is none.")
    files = {path.stem: path for path in labelled_files(arguments.data) if read_batches(path) is not None}
    if not files:
        raise InputError(
            f'`--data` must hold .h5ad files with obs["cell_type"] and two or more batches in obs["batch"], but '
            f"{arguments.data} has none."
        )
    if arguments.sets is None:
        smallest = sorted(files.values(), key=lambda path: path.stat().st_size)
        return smallest[:QUICK_SETS] if arguments.quick else list(files.values())
    return [files[name] for name in chosen("sets", arguments.sets, list(files))]
