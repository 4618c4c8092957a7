"""Ways of dividing the graph into batches, and scopes of attention: accuracy, speed, and what a batch holds."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import _loaders_report
from benchmarks._choice import chosen_files, chosen_seeds, names
from benchmarks._contest import Contest, Method
from benchmarks._files import in_fresh_process
from benchmarks._labelled import read_blind
from benchmarks._outcome import Metrics, Outcome, StageClock, over_seeds, reset_peak_rss
from benchmarks._session import Session
from sccagn_scale._compat import probe
from sccagn_scale._errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

    from sccagn_scale import SCCAGN

SETS = ("cite_cbmc", "kang_pbmc", "worm_neuron")
LOADERS: dict[str, dict[str, Any]] = {
    "partition": {"loader": "partition"},
    "neighbor": {"loader": "neighbor"},
    "neighbor (torch-sparse)": {"loader": "neighbor", "neighbor_sampler": "torch-sparse"},
    "full": {"batch_size": None},
}
SCOPES: dict[str, dict[str, Any]] = {
    "anchors": {"n_attended": 512},
    "subgraph": {"n_attended": None},
    "full": {"n_attended": None, "batch_size": None},
}
COLUMNS = ("nmi", "ari", "batches_per_s", "cells_per_seed", "edges_kept", "waiting", "step_ms")
QUICK: dict[str, Any] = {"cells": 3000, "genes": 1000, "seeds": 2, "steps": 5}
FULL: dict[str, Any] = {"cells": 100_000, "genes": 20_000, "seeds": 5, "steps": 50}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `loaders` can be asked for."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help='folder of .h5ad with obs["cell_type"]')
    parser.add_argument("--sets", type=names, metavar="A,B", help=f"of DIR (default: {','.join(SETS)}; quick: the "
                        "smallest)")  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 … N-1 on real sets (default: 5; quick: 2)")
    parser.add_argument("--cells", type=int, metavar="N", help="cells of the simulated atlas (default: 100000; quick: "
                        "3000; 0: none)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cases at a time; above 1, times are shared")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Run every loader and every scope on every set, print and keep the rows, and lay a table beside the file."""
    default = QUICK if arguments.quick else FULL
    seeds = chosen_seeds(arguments.seeds, default["seeds"])
    cells = default["cells"] if arguments.cells is None else arguments.cells
    if cells < 0:
        raise InputError(f"`--cells` must be at least 0, but is {cells}.")
    files = _chosen_files(arguments)
    loaders = {n: o for n, o in LOADERS.items() if "neighbor_sampler" not in o or probe("torch_sparse").present}
    with tempfile.TemporaryDirectory(prefix="loaders-") as folder:
        cases = [(path.stem, str(path), seeds) for path in files]
        if cells:
            path = str(Path(folder, "simulated.h5ad"))
            what = {"path": path, "n_obs": cells, "n_vars": default["genes"]}
            in_fresh_process("benchmarks._files:make_file", what)
            cases.append((f"simulated {cells:,}", path, 1))
        contests = []
        for case, path, n_seeds in cases:
            for what, options in (("loader", loaders), ("attention", SCOPES)):
                methods = []
                for name, config in options.items():
                    # attention of all to all takes hours on an atlas
                    if not (options is SCOPES and name == "full" and case.startswith("simulated")):
                        kwargs = {"path": path, "config": config, "n_seeds": n_seeds, "n_steps": default["steps"]}
                        methods.append(
                            Method(name, "benchmarks.loaders:run_config", kwargs | {"case": f"{case}/{what}"})
                        )
                contests.append(Contest(f"{case}/{what}", tuple(methods), tolerance=1e-6))
        rows = session.run(contests, jobs=arguments.jobs)
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: case.rpartition("/")[2])
    if session.path is not None:
        _loaders_report.write(rows, beside=session.path)


def _chosen_files(arguments: argparse.Namespace) -> list[Path]:
    files = chosen_files(arguments)
    if arguments.quick:
        return files[:1]
    if arguments.sets is None:
        by_name = {path.stem: path for path in files}
        if missing := [name for name in SETS if name not in by_name]:
            raise InputError(f"{arguments.data} has no {', '.join(missing)}; `--sets` can name others.")
        return [by_name[name] for name in SETS]
    return files


def run_config(path: str, case: str, config: dict[str, Any], n_seeds: int, n_steps: int) -> Outcome:
    """Target: cluster one set once per seed, number of clusters given, then look at its batches.

    `seconds` are those of joint training; all else is the same for all methods.

    Parameters
    ----------
    path
        A labelled `.h5ad`.
    case
        Name of the row.
    config
        What differs from the default preset.
    n_seeds
        Seeds 0 … n_seeds − 1 are run.
    n_steps
        Batches that are looked at, and steps that are timed.
    """
    from sccagn_scale import SCCAGN, Config

    cells, truth = read_blind(Path(path))
    reset_peak_rss()
    chosen = dataclasses.replace(Config(), **config)
    seconds, labels = [], []
    for seed in range(n_seeds):
        clock = StageClock()
        model = SCCAGN(cells, truth.nunique(), chosen, random_state=seed, device="cpu", progress=clock).train()
        seconds.append(clock.seconds["joint training"])
        labels.append(model.labels_)

    def score() -> dict[str, Metrics]:
        from sccagn_scale.metrics import evaluate

        metrics: Metrics = {"n_obs": cells.n_obs, "n_types": int(truth.nunique()), **_batches(model, cells, n_steps)}
        each = [evaluate(truth, found) for found in labels]
        for name in ("nmi", "ari"):
            metrics |= over_seeds(name, [one[name] for one in each])
        return {case: metrics}

    return Outcome({case: seconds}, score, {"n_obs": cells.n_obs, "sum": float(cells.X.sum())})


def _batches(model: SCCAGN, cells: AnnData, n_steps: int) -> Metrics:
    """Look at the batches of joint training, then train on them and see how long each waits for the next.

    An epoch is begun anew as often as it takes, and its first batch has nothing to be prepared behind: on a small set
    that is a larger part of the waiting than on an atlas.
    """
    import torch

    from sccagn_scale import graph
    from sccagn_scale.loader import Prefetch
    from sccagn_scale.model._batches import make_loader
    from sccagn_scale.model._prepare import prepare
    from sccagn_scale.nn import LossWeights, Target
    from sccagn_scale.ops import student_t_column_sums
    from sccagn_scale.train import Optimizer

    config = model.config
    prepared = prepare(cells, config, layer=None, random_state=model.random_state)[1]
    normalized = graph.normalized(model.adjacency_)
    loader = make_loader(
        prepared, normalized, config, config.batch_size, device=model.device, random_state=model.random_state
    )
    plain = loader._loader if isinstance(loader, Prefetch) else loader
    degree = torch.from_numpy(np.diff(normalized.indptr))
    making, n_cells, n_seeds, n_edges, n_whole = 0.0, 0, 0, 0, 0
    start = time.perf_counter()
    for n_made, batch in enumerate(_endless(plain), 1):
        making += time.perf_counter() - start
        n_cells += len(batch.n_id)
        n_seeds += batch.n_seeds
        n_edges += int(batch.adjacency.indptr[batch.n_seeds]) - batch.n_seeds  # self-loops are no edges
        n_whole += int(degree[batch.n_id[: batch.n_seeds]].sum()) - batch.n_seeds
        if n_made == n_steps:
            break
        start = time.perf_counter()
    weights = LossWeights(config.weight_clustering, config.weight_reconstruction, config.weight_adversarial)
    initial, z = (torch.from_numpy(of_all[model.keep_obs_]) for of_all in (model.labels_, model.embedding_))
    sums = student_t_column_sums(z, model.module_.centroids, config.degrees_of_freedom, tau=config.tau)
    target = Target(config.degrees_of_freedom, config.tau, config.anchor_share, initial, sums)
    generator = torch.Generator().manual_seed(0)
    optimizer = Optimizer(model.module_, config.learning_rate, config.discriminator_learning_rate, generator=generator)
    start = time.perf_counter()
    for n_trained, batch in enumerate(_endless(loader), 1):
        optimizer.step(batch, weights, target._replace(anchor=initial[batch.n_id[: batch.n_seeds]]))
        if n_trained == n_steps:
            break
    training = time.perf_counter() - start
    return {
        "n_batches": len(loader),
        "batches_per_s": n_steps / making if len(loader) > 1 else None,  # the whole graph is made once
        "cells_per_seed": n_cells / n_seeds,
        "edges_kept": n_edges / n_whole,
        "waiting": loader.waited / training if isinstance(loader, Prefetch) else 0.0,
        "step_ms": 1e3 * training / n_steps,
    }


def _endless(loader: Any) -> Any:
    while True:
        yield from loader
