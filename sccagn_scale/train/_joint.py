"""Joint training: dual self-supervision sharpens the clusters while the network goes on rebuilding cells."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from sccagn_scale._memory import IN_MEMORY, Scratch
from sccagn_scale._progress import Stage
from sccagn_scale.infer import embed
from sccagn_scale.loader import Loader, WholeGraph
from sccagn_scale.nn import LossWeights, Target
from sccagn_scale.ops import student_t_column_sums, student_t_label
from sccagn_scale.train._epoch import run_epoch
from sccagn_scale.train._history import History
from sccagn_scale.train._optimizer import Optimizer, check_finite
from sccagn_scale.train._stopping import Plateau, Settled


class JointResult(NamedTuple):
    """Where joint training ended."""

    z: Tensor  # [n_obs, n_latent]
    stopped: Literal["settled", "plateau", "budget"]


def train_jointly(
    optimizer: Optimizer,
    loader: Loader,
    whole: WholeGraph,
    *,
    z: Tensor,
    weights: LossWeights,
    target: Target,
    n_steps: int,
    settled: Settled,
    plateau: Plateau,
    history: History,
    progress: Stage,
    scratch: Scratch = IN_MEMORY,
) -> JointResult:
    """Train network and centroids together until cells keep their clusters, the loss is flat or the steps are spent.

    After every epoch, and at the end, all cells are embedded anew over the whole graph: that refreshes the target's
    sums over all cells and tells how many of them changed cluster.

    Parameters
    ----------
    optimizer
        Holds the network, its centroids set.
    loader
        Batches to train on.
    whole
        The whole graph.
    z
        Embedding of all cells [n_obs, n_latent] by the network as it is.
    weights
        Of the losses.
    target
        Of all cells; its sums are computed here.
    n_steps
        Most batches to train on: the budget does not grow with the number of cells, and may end within an epoch.
    settled, plateau
        Stop early, once an epoch, by labels and by loss.
    history, progress
        Told of every epoch and every step.
    scratch
        Where z of all cells is.
    """
    module = optimizer.module
    assert module.centroids is not None, "set_centroids comes first"
    labels = student_t_label(z, module.centroids, target.nu).labels
    left = n_steps
    while left > 0:
        sums = student_t_column_sums(z, module.centroids, target.nu, tau=target.tau)
        target = target._replace(column_sums=sums)
        losses = run_epoch(optimizer, loader, weights, target=target, n_steps=left, progress=progress)
        left -= len(losses)
        z = embed(module, whole, scratch=scratch)
        check_finite(z, "embedding")
        before, labels = labels, student_t_label(z, module.centroids, target.nu).labels
        changed = (labels != before).float().mean().item()
        loss = history.add("joint", losses, changed=changed).loss
        if settled.reached(changed):
            return JointResult(z, "settled")
        if plateau.reached(loss):
            return JointResult(z, "plateau")
    return JointResult(z, "budget")
