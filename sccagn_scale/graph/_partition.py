"""Parts of equal size whose cells are close to one another."""

from __future__ import annotations

import numpy as np

from sccagn_scale._errors import InputError

_SAMPLE = 2048
_ROUNDS = 5


def partition(points: np.ndarray, part_size: int, *, random_state: int = 0) -> np.ndarray:
    """Divide cells into parts of about `part_size` near cells, by halving again and again.

    Each group is cut across the line between the two centroids of a 2-means, where the halves come out even (or as
    uneven as the number of parts asks for), until every group is one part. Time is
    O(n_obs · log(n_obs / part_size) · d), and the parts do not depend on the number of threads.

    Parameters
    ----------
    points
        Cells × dimensions [n_obs, d].
    part_size
        Cells in a part. All parts have n_obs / round(n_obs / part_size) cells, rounded up or down.
    random_state
        Draws the cells on which each 2-means is run, where a group has more than 2,048.

    Returns
    -------
    Part of every cell, int64 [n_obs]. Parts with near numbers are near one another.

    Raises
    ------
    InputError
        If `part_size` is below 1.
    """
    if part_size < 1:
        raise InputError(f"`part_size` must be at least 1; it is {part_size}.")
    n_obs = len(points)
    n_parts = max(1, round(n_obs / part_size))
    generator = np.random.default_rng(random_state)
    order = np.arange(n_obs)
    sorted_points = np.array(points, np.float32, order="C")  # moves along with `order`, so that a group is contiguous
    bounds = np.linspace(0, n_obs, n_parts + 1).round().astype(np.int64)
    groups = [(0, n_parts)]
    while groups:
        first, last = groups.pop()
        if last - first < 2:
            continue
        middle = (first + last) // 2
        start, end = bounds[first], bounds[last]
        members = sorted_points[start:end]
        # Not a BLAS product: its rounding may depend on the number of threads.
        height = np.einsum("ij,j->i", members, _direction(members, generator))
        moved = np.argsort(height, kind="stable")
        sorted_points[start:end] = members[moved]
        order[start:end] = order[start:end][moved]
        groups += [(middle, last), (first, middle)]
    parts = np.empty(n_obs, np.int64)
    parts[order] = np.repeat(np.arange(n_parts), np.diff(bounds))
    return parts


def _direction(members: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """From one centroid of a 2-means to the other, float32 [d]."""
    if len(members) > _SAMPLE:
        members = members[np.sort(generator.choice(len(members), _SAMPLE, replace=False))]
    centred = members - members.mean(axis=0)
    # first cut: along the coordinate of largest variance
    direction = np.zeros(members.shape[1], np.float32)
    direction[np.argmax(np.einsum("ij,ij->j", centred, centred))] = 1.0
    offset = np.float32(0)
    for _ in range(_ROUNDS):
        upper = np.einsum("ij,j->i", centred, direction) > offset
        n_upper = np.count_nonzero(upper)
        if n_upper in (0, len(upper)):
            break
        total = centred.sum(axis=0, where=upper[:, None])
        high, low = total / n_upper, -total / (len(upper) - n_upper)  # the sum of all is zero
        direction, offset = high - low, (high @ high - low @ low) / 2
    return direction
