"""Which cells change cluster between seeds, and whether a method's confidence tells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._outcome import Metrics
from sccagn_scale._crosstab import crosstab


def stability(labels: Sequence[NDArray[Any]], confidences: Sequence[NDArray[np.floating]]) -> Metrics:
    """Measure how many cells are unstable, and how well low confidence finds them.

    Parameters
    ----------
    labels
        Cluster of each cell, for every seed.
    confidences
        Confidence of each cell, for every seed; a cell where one is NaN is left out.

    Returns
    -------
    `unstable`, the share of unstable cells (see :func:`unstable_cells`), and `confidence_auc`, the area under the ROC
    curve with which low confidence (mean over seeds) finds them: 0.5 is chance, 1 perfect, None where no cell or every
    cell is unstable.
    """
    from sklearn.metrics import roc_auc_score

    confidence = np.mean(confidences, axis=0)
    known = ~np.isnan(confidence)
    unstable = unstable_cells([found[known] for found in labels])
    auc = None if unstable.all() or not unstable.any() else float(roc_auc_score(unstable, -confidence[known]))
    return {"unstable": float(unstable.mean()), "confidence_auc": auc}


def unstable_cells(labels: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Tell which cells are, for at least one seed, in another cluster than for the first: [n_obs].

    The clusters of the first seed and of each other one are paired so that as many cells as possible stay (Hungarian
    algorithm). A cluster without a partner is another one for all of its cells.
    """
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    codes = [pd.factorize(found, use_na_sentinel=False)[0] for found in labels]
    first = codes[0]
    unstable = np.zeros(len(first), dtype=bool)
    for other in codes[1:]:
        table = crosstab(first, other, (first.max() + 1, other.max() + 1))
        own, its = linear_sum_assignment(table, maximize=True)
        partner = np.full(table.shape[1], -1)
        partner[its] = own
        unstable |= partner[other] != first
    return unstable
