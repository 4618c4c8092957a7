"""Pretraining: the network learns to rebuild cells from z alone, before any cluster exists."""

from __future__ import annotations

from sccagn_scale._progress import Stage
from sccagn_scale.loader import Loader
from sccagn_scale.nn import LossWeights
from sccagn_scale.train._epoch import run_epoch
from sccagn_scale.train._history import History
from sccagn_scale.train._optimizer import Optimizer
from sccagn_scale.train._stopping import Plateau


def pretrain(
    optimizer: Optimizer,
    loader: Loader,
    weights: LossWeights,
    *,
    n_steps: int,
    plateau: Plateau,
    history: History,
    progress: Stage,
) -> None:
    """Train without clusters until the loss is flat or the steps are spent.

    Parameters
    ----------
    optimizer
        Holds the network.
    loader
        Batches; what is left of an epoch when the steps run out is not trained on.
    weights
        That of the reconstruction loss alone has an effect here.
    n_steps
        Most batches to train on: the budget does not grow with the number of cells.
    plateau
        Stops early, once an epoch, by the training loss.
    history, progress
        Told of every epoch and every step.
    """
    weights = LossWeights(0.0, weights.reconstruction, 0.0)
    left = n_steps
    while left > 0:
        losses = run_epoch(optimizer, loader, weights, n_steps=left, progress=progress)
        left -= len(losses)
        if plateau.reached(history.add("pretrain", losses).loss):
            return
