"""Inverted lists: points filed under the nearest of many centroids, list after list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

_TRAIN_PER_CENTROID = 32
_TRAIN_ROUNDS = 5
_BLOCK = 65_536


@dataclass(frozen=True)
class Lists:
    """Which list every point is in; centroids are divided into ~√n_lists groups, so that they need not all be seen."""

    quantizer: faiss.IndexIVFFlat  # over the centroids
    of_point: np.ndarray  # int64 [n], list of every point
    order: np.ndarray  # int64 [n], points list after list


def make_lists(points: np.ndarray, size: int, n_groups_probed: int) -> Lists:
    """Find centroids for lists of about `size` points by k-means in two levels, and file the points.

    A point's centroid is the nearest of those in the `n_groups_probed` groups nearest to it.
    """
    quantizer = _quantizer(points, len(points) // size)
    quantizer.nprobe = min(quantizer.nlist, n_groups_probed)
    of_point = np.empty(len(points), np.int64)
    for i in range(0, len(points), _BLOCK):
        of_point[i : i + _BLOCK] = quantizer.search(points[i : i + _BLOCK], 1)[1][:, 0]
    lost = np.flatnonzero(of_point < 0)  # whose nearest groups hold no centroid: seldom more than none
    if len(lost):
        of_point[lost] = quantizer.search(points[lost], 1, params=probing(quantizer, quantizer.nlist))[1][:, 0]
    return Lists(quantizer, of_point, np.argsort(of_point, kind="stable"))


def probing(quantizer: faiss.IndexIVFFlat, n_groups: int) -> faiss.SearchParametersIVF:
    """Parameters of a search of so many groups, or all."""
    parameters = faiss.SearchParametersIVF()
    parameters.nprobe = min(quantizer.nlist, n_groups)
    return parameters


def _quantizer(points: np.ndarray, n_lists: int) -> faiss.IndexIVFFlat:
    n, d = points.shape
    n_groups = round(np.sqrt(n_lists))
    sample = points[:: max(1, n // (n_lists * _TRAIN_PER_CENTROID))]
    coarse = _kmeans(sample, n_groups, 8 * _TRAIN_PER_CENTROID)
    group = coarse.assign(sample)[1]
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group, minlength=n_groups))[:-1])
    shares = [max(1, round(n_lists * len(rows) / len(sample))) for rows in members]
    fine = [
        _kmeans(sample[rows], share, _TRAIN_PER_CENTROID).centroids
        for rows, share in zip(members, shares, strict=True)
        if len(rows)
    ]
    top = faiss.IndexFlatL2(d)
    top.add(coarse.centroids)
    quantizer = faiss.IndexIVFFlat(top, d, n_groups)
    quantizer.add(np.concatenate(fine))
    return quantizer


def _kmeans(points: np.ndarray, n_centroids: int, points_per_centroid: int) -> Any:
    kmeans = faiss.Kmeans(
        points.shape[1],
        n_centroids,
        niter=_TRAIN_ROUNDS,
        min_points_per_centroid=1,
        max_points_per_centroid=points_per_centroid,
    )
    kmeans.train(points)
    return kmeans
