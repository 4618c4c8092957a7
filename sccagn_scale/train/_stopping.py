"""When to stop, decided without labels."""

from __future__ import annotations

import math


class Plateau:
    """Says when a loss has stopped falling.

    Parameters
    ----------
    patience
        Epochs without improvement that are waited for.
    min_improvement
        Smallest relative fall of the best loss that counts as one.
    """

    def __init__(self, patience: int, min_improvement: float = 1e-3) -> None:
        self._patience, self._min_improvement = patience, min_improvement
        self._best, self._waited = math.inf, 0

    def reached(self, loss: float) -> bool:
        """Take the loss of one more epoch; True once the plateau is there."""
        if loss < self._best - self._min_improvement * abs(self._best) or math.isinf(self._best):
            self._best, self._waited = loss, 0
        else:
            self._waited += 1
        return self._waited >= self._patience


class Settled:
    """Says when cells no longer change cluster.

    Parameters
    ----------
    tolerance
        Fraction of cells that may still change in an epoch.
    patience
        Epochs in a row that must stay at or below it.
    """

    def __init__(self, tolerance: float, patience: int) -> None:
        self._tolerance, self._patience, self._quiet = tolerance, patience, 0

    def reached(self, changed: float) -> bool:
        """Take the fraction of one more epoch; True once the labels have settled."""
        self._quiet = self._quiet + 1 if changed <= self._tolerance else 0
        return self._quiet >= self._patience
