"""Steps over the batches of an epoch, which both stages of training take."""

from __future__ import annotations

from itertools import islice

from sccagn_scale._progress import Stage
from sccagn_scale.loader import Loader
from sccagn_scale.nn import Losses, LossWeights, Target
from sccagn_scale.train._optimizer import Optimizer


def run_epoch(
    optimizer: Optimizer,
    loader: Loader,
    weights: LossWeights,
    *,
    target: Target | None = None,
    n_steps: int,
    progress: Stage,
) -> list[Losses]:
    """Train on the batches of an epoch, on `n_steps` at most, and return the losses of each.

    `target` is that of all cells, of which each batch is given its own.
    """
    losses: list[Losses] = []
    for batch in islice(loader, n_steps):
        own = target and target._replace(anchor=target.anchor[batch.n_id[: batch.n_seeds]])
        losses.append(optimizer.step(batch, weights, own))
        progress.advance(1, loss=losses[-1].total.item())
    return losses
