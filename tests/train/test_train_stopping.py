"""Stopping rules and the record, in closed cases."""

from __future__ import annotations

import math

import pytest
import torch

from sccagn_scale.nn import Losses
from sccagn_scale.train import History, Plateau, Settled


def reached(rule: Plateau | Settled, values: list[float]) -> int | None:
    """At which epoch, counted from one, a rule says stop."""
    return next((epoch for epoch, value in enumerate(values, 1) if rule.reached(value)), None)


@pytest.mark.parametrize(
    ("losses", "patience", "epoch"),
    [
        ([5, 4, 3, 2, 1], 1, None),
        ([5, 5], 1, 2),
        ([5, 5, 5, 5], 3, 4),
        ([5, 6, 4, 6, 6], 2, 5),  # the better 4 starts the count anew
        ([5, 4.999, 4.998, 4.997], 3, 4),  # too little each time: 0.1 % of 5 is 0.005
        ([5, 4.99, 4.98, 4.97], 3, None),
        ([1.0, 0.9996, 0.9992, 0.9988], 2, 3),  # small falls are not added up unless the best is passed by enough
        ([0, 0, 0], 2, 3),
        ([-1, -2, -3], 1, None),
        ([-1, -1, -1], 2, 3),
    ],
)
def test_a_plateau_is_a_lack_of_relative_improvement(losses: list[float], patience: int, epoch: int | None) -> None:
    assert reached(Plateau(patience), losses) == epoch


def test_slow_falls_count_once_they_add_up() -> None:
    falling = [1 - 0.0004 * step for step in range(100)]  # 0.1 % every third epoch
    assert reached(Plateau(3), falling) is None
    assert reached(Plateau(2), falling) == 3


def test_the_smallest_improvement_is_a_choice() -> None:
    assert reached(Plateau(1, 0.5), [4, 2.1]) == 2
    assert reached(Plateau(1, 0.5), [4, 1.9]) is None


@pytest.mark.parametrize(
    ("changed", "tolerance", "patience", "epoch"),
    [
        ([0.1, 0.0, 0.0], 0.0, 2, 3),
        ([0.0, 0.1, 0.0], 0.0, 2, None),
        ([0.1, 0.1], 0.1, 1, 1),
        ([0.11, 0.1, 0.09, 0.1], 0.1, 3, 4),
        ([1.0], 1.0, 1, 1),
    ],
)
def test_cells_have_settled_after_quiet_epochs_in_a_row(
    changed: list[float], tolerance: float, patience: int, epoch: int | None
) -> None:
    assert reached(Settled(tolerance, patience), changed) == epoch


def test_the_history_is_the_mean_of_an_epochs_batches() -> None:
    history = History()
    batches = [Losses(*torch.tensor([10.0, 1, 2, 3])), Losses(*torch.tensor([20.0, 3, 4, 5]))]
    first = history.add("pretrain", batches[:1])
    assert (first.epoch, first.loss) == (1, 10)
    assert math.isnan(first.changed)
    history.add("pretrain", batches)
    history.add("joint", batches, changed=0.25)
    frame = history.frame()
    assert list(frame.columns) == ["stage", "epoch", "loss", "reconstruction", "adversarial", "clustering", "changed"]
    assert frame["stage"].tolist() == ["pretrain", "pretrain", "joint"]
    assert frame["epoch"].tolist() == [1, 2, 1]
    assert frame.iloc[2, 2:].tolist() == [15, 2, 3, 4, 0.25]


def test_an_empty_history_has_its_columns() -> None:
    assert History().frame().shape == (0, 7)
