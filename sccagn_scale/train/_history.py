"""What happened while training, row by row."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pandas as pd
import torch

from sccagn_scale.nn import Losses


class Row(NamedTuple):
    """One epoch. `changed` is the fraction of cells that changed cluster since the epoch before; NaN in pretraining."""

    stage: Literal["pretrain", "joint"]
    epoch: int
    loss: float
    reconstruction: float
    adversarial: float
    clustering: float
    changed: float


class History:
    """Collects the epochs of both stages."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(
        self,
        stage: Literal["pretrain", "joint"],
        losses: list[Losses],
        *,
        changed: float = float("nan"),
    ) -> Row:
        """Add an epoch from the losses of its batches."""
        loss, rec, adv, kl = torch.stack([torch.stack(list(batch)) for batch in losses]).mean(0).tolist()
        epoch = sum(row.stage == stage for row in self.rows) + 1
        row = Row(stage, epoch, loss, rec, adv, kl, changed)
        self.rows.append(row)
        return row

    def frame(self) -> pd.DataFrame:
        """All epochs, one row each, columns as in `Row`."""
        frame = pd.DataFrame(self.rows, columns=Row._fields)
        numbers = dict.fromkeys(Row._fields[1:], "float64") | {"epoch": "int64"}
        return frame.astype(numbers)  # which a frame without rows cannot tell
