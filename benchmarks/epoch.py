"""One epoch of joint training over a million cells: genes and components as input, with the extension and without."""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks._choice import add_device, chosen_number
from benchmarks._contest import Contest, Method
from benchmarks._extension import choose_extension, is_installed
from benchmarks._outcome import Outcome, waiting_for
from benchmarks._session import Session

COLUMNS = ("n_steps", "ms_per_step", "waiting_share", "gpu_mb")
QUICK = {"cells": 5000}
FULL = {"cells": 1_000_000}
N_GENES, DENSITY, N_COMPS, N_CLUSTERS, N_NEIGHBORS = 2000, 0.08, 50, 32, 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `epoch` can be asked for."""
    parser.add_argument("--cells", type=int, metavar="N", help="cells (default: 1000000; quick: 5000)")
    parser.add_argument("--repeats", type=int, metavar="R", help="epochs of each, in turn (default: 1)")
    add_device(parser)


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Time an epoch for both inputs, with the extension where it is installed and without."""
    n_obs = chosen_number("cells", arguments.cells, (QUICK if arguments.quick else FULL)["cells"])
    repeats = chosen_number("repeats", arguments.repeats, 1)
    methods = tuple(
        Method(
            f"{rep}, ext" if compiled else rep,
            "benchmarks.epoch:measure",
            {"n_obs": n_obs, "input_rep": rep, "compiled": compiled, "device": arguments.device},
        )
        for rep in ("genes", "pca")
        for compiled in (False, True)[: 1 + is_installed()]
    )
    rows = session.run([Contest(f"epoch/{n_obs}", methods, repeats)])
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: None)


def measure(n_obs: int, input_rep: str, compiled: bool, device: str) -> Outcome:
    """Target: one epoch of joint training, batches of the default size, network and losses of the default preset.

    One step is taken before the clock starts. `gpu_mb` is the most memory that torch's tensors had on a GPU, in MiB.

    Cells are drawn at random: a step costs the same whatever the values. The graph joins each cell to those that stand
    next to it in an order that has nothing to do with their numbers, and the parts are stretches of that order, so
    that batches keep most of their edges and gather their rows from all over, as with real cells.
    """
    choose_extension(compiled, device=device)
    import numpy as np
    import torch

    from sccagn_scale.config import Config
    from sccagn_scale.loader import Batch, PartitionLoader, Prefetch
    from sccagn_scale.nn import LossWeights, SCCAGNModule, Target
    from sccagn_scale.train import Optimizer

    config, rng = Config(), np.random.default_rng(0)
    x = _cells(n_obs, rng) if input_rep == "genes" else rng.standard_normal((n_obs, N_COMPS), dtype=np.float32) / 7
    adjacency, order = _graph(n_obs, rng)
    assert config.batch_size is not None
    parts = np.empty(n_obs, np.int64)
    parts[order] = np.arange(n_obs) // (config.batch_size // 8)
    loader = Prefetch(
        PartitionLoader(
            x, adjacency, parts, batch_size=config.batch_size, device=torch.device(device),
            generator=np.random.default_rng(0),
        )
    )  # fmt: skip
    torch.manual_seed(0)
    module = SCCAGNModule(x.shape[1], config.n_hidden, config.n_latent, n_attended=config.n_attended)
    module.set_centroids(torch.randn(N_CLUSTERS, config.n_latent))
    module.to(device)
    generator = torch.Generator(device).manual_seed(0)
    optimizer = Optimizer(module, config.learning_rate, config.discriminator_learning_rate, generator=generator)
    weights = LossWeights(config.weight_clustering, config.weight_reconstruction, config.weight_adversarial)
    sums = torch.ones(N_CLUSTERS, dtype=torch.float64, device=device)
    anchor = torch.zeros(config.batch_size * 4, dtype=torch.int64, device=device)
    target = Target(config.degrees_of_freedom, config.tau, config.anchor_share, anchor, sums)

    def take_step(batch: Batch) -> None:
        optimizer.step(batch, weights, target._replace(anchor=anchor[: batch.n_seeds]))

    take_step(next(iter(loader)))  # libraries set themselves up when they are first used
    wait, waited_before = waiting_for(device), loader.waited
    wait()
    start = time.perf_counter()
    n_steps = 0
    for batch in loader:
        take_step(batch)
        n_steps += 1
    wait()
    took = time.perf_counter() - start
    waited = loader.waited - waited_before
    metrics = {"n_steps": n_steps, "ms_per_step": 1e3 * took / n_steps, "waiting_share": waited / took}
    if device == "cuda":
        metrics["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return Outcome({f"epoch/{n_obs}": [took]}, lambda: {f"epoch/{n_obs}": metrics}, {"n_obs": n_obs})


def _cells(n_obs: int, rng: Any) -> Any:
    """Cells × genes of unit length, CSR float32 [n_obs, 2,000], 8 % stored."""
    import numpy as np
    import scipy.sparse as sp

    per_cell = round(N_GENES * DENSITY)
    step = N_GENES // per_cell  # one gene out of every stretch of this many: sorted and without repeats
    indices = np.arange(per_cell, dtype=np.int32) * step + rng.integers(0, step, (n_obs, per_cell), dtype=np.int32)
    values = rng.random(indices.size, dtype=np.float32) / np.float32(per_cell**0.5 * 3**-0.5)
    indptr = np.arange(n_obs + 1, dtype=np.int64) * per_cell
    return sp.csr_matrix((values, indices.ravel(), indptr), shape=(n_obs, N_GENES))


def _graph(n_obs: int, rng: Any) -> Any:
    import numpy as np

    from sccagn_scale.graph import Neighbors, adjacency, normalized

    order = rng.permutation(n_obs)
    place = np.argsort(order)
    near = rng.integers(1, 60, (n_obs, N_NEIGHBORS - 1)) * rng.choice([-1, 1], (n_obs, N_NEIGHBORS - 1))
    indices = np.concatenate([np.arange(n_obs)[:, None], order[(place[:, None] + near) % n_obs]], axis=1)
    found = Neighbors(indices, np.ones(indices.shape, np.float32))
    return normalized(adjacency(found, prune=False)), order
