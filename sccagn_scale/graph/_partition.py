"""Parts of the cells that are close to one another."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from sccagn_scale._errors import InputError

_ONE_LEVEL_UP_TO = 64  # parts
_ROUNDS = 8
_TRAIN_PER_CENTROID = 64


def partition(points: np.ndarray, part_size: int, *, random_state: int = 0) -> np.ndarray:
    """Divide cells into parts of about `part_size` near cells on average, by k-means in two levels.

    First into √p groups for p parts, then each group into its share of them: O(n_obs · √p · d) time, where one level
    would take O(n_obs · p · d). Parts differ in size, up to four times `part_size`. Equal parts, by halving the cells
    again and again, were tried: they cut through types, and keep two thirds as many edges of the cell graph.

    Parameters
    ----------
    points
        Cells × dimensions [n_obs, d].
    part_size
        Cells in a part, on average.
    random_state
        Seed of every k-means.

    Returns
    -------
    Part of every cell, int64 [n_obs], numbered without gaps. Parts of one group have neighbouring numbers.

    Raises
    ------
    InputError
        If `part_size` is below 1.
    """
    if part_size < 1:
        raise InputError(f"`part_size` must be at least 1; it is {part_size}.")
    points = np.ascontiguousarray(points, np.float32)
    n_obs = len(points)
    n_parts = max(1, round(n_obs / part_size))
    if n_parts <= _ONE_LEVEL_UP_TO:
        return _cut(_kmeans(points, n_parts, random_state), 4 * part_size)
    group = _kmeans(points, round(np.sqrt(n_parts)), random_state)
    parts = np.empty(n_obs, np.int64)
    n_made = 0
    for members in np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1]):
        share = round(n_parts * len(members) / n_obs)
        parts[members] = n_made + _kmeans(points[members], max(1, share), random_state)
        n_made += max(1, share)
    return _cut(parts, 4 * part_size)


def _kmeans(points: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    if n_clusters == 1 or n_clusters >= len(points):
        return np.zeros(len(points), np.int64) if n_clusters == 1 else np.arange(len(points))
    kmeans: Any = faiss.Kmeans(
        points.shape[1],
        n_clusters,
        niter=_ROUNDS,
        seed=seed % 2**31,  # FAISS has no more
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAIN_PER_CENTROID,
    )
    kmeans.train(points)
    return np.asarray(kmeans.assign(points)[1])


def _cut(parts: np.ndarray, largest: int) -> np.ndarray:
    """Number parts [n] anew without gaps, those of more than `largest` cells cut, as identical cells need it."""
    order = np.argsort(parts, kind="stable")
    sizes = np.unique(parts, return_counts=True)[1]
    place = np.arange(len(parts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in its part
    cut = np.empty(len(parts), np.int64)
    cut[order] = np.cumsum(place % largest == 0) - 1
    return cut
