"""Colours for clusters and types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MISSING = "#d9d9d9"
"""Grey of cells without a cluster or type."""

# The first six are Okabe and Ito's (2008). Each further one is the colour farthest from all before it and from the
# grey, as seen with normal, red-blind, green-blind and blue-blind eyes (Machado et al. 2009, distances in Oklab).
_TWENTY = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#6d1831", "#49009e", "#9e6dff", "#aa246d"),
    *("#79f36d", "#615500", "#9ec292", "#3d49b6", "#926149", "#61246d", "#ffb6ff", "#7955db", "#ce9eb6", "#7992e7"),
)


def palette(n: int) -> list[str]:
    """`n` colours: up to 20 for every kind of sight, then scanpy's 102, then those again."""
    if n <= len(_TWENTY):
        return list(_TWENTY[:n])
    from scanpy.plotting.palettes import default_102

    return [str(default_102[i % len(default_102)]) for i in range(n)]


def matched(colors: Sequence[str], table: NDArray[np.intp]) -> list[str]:
    """Colours for the columns of `table` that agree with the `colors` of its rows.

    Rows and columns are paired to share as many cells as possible; a pair shares its colour, and columns without
    a row get colours as unlike those of the rows as there are.

    Parameters
    ----------
    colors
        Colour of each row.
    table
        Cells that row and column have in common, [rows, columns].
    """
    from matplotlib.colors import to_rgb
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(table, maximize=True)
    pairs = {int(j): colors[i] for i, j in zip(rows, columns, strict=True) if table[i, j]}
    taken = [to_rgb(color) for color in (*colors, MISSING)]
    free = {to_rgb(color): color for color in (*_TWENTY, *palette(len(_TWENTY) + len(colors) + table.shape[1]))}
    for j in range(table.shape[1]):
        if not table[:, j].any():
            pairs[j] = MISSING  # no cell wears it
        elif j not in pairs:
            far = max(free, key=lambda rgb: min(float(np.linalg.norm(np.subtract(rgb, t))) for t in taken))
            pairs[j] = free[far]
            taken.append(far)
    return [pairs[j] for j in range(table.shape[1])]
