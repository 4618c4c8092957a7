"""Inverted lists, and each point against all points of the lists nearest to it: the fastest where that is compiled.

1. The points are filed under ~n/100 centroids and laid out in that order.
2. For every list, those lists are found whose centroids are nearest to its own; each of its points looks into the
   quarter of them with the centroids nearest to itself. How many that is, is settled on a sample of points whose
   neighbours are known from exact search: the smallest number with which 96 % of them are found, or the largest tried.
3. `ops.list_neighbors` compares the points of a list with those of another as a matrix product.

Every point is searched for on its own, so that threads cannot change what is found. The points in their new order and
the results are in `scratch`; besides, memory holds the lists (16 bytes a point) and those that a block looks into.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import faiss
import numpy as np
import torch

from sccagn_scale import ops
from sccagn_scale._memory import Scratch, give_back
from sccagn_scale.graph._algorithms import exact, torch_exact
from sccagn_scale.graph._algorithms._lists import make_lists, probing

_SMALLEST = 5000  # below it, there is nothing to gain
_LIST_SIZE = 100
_GROUPS_PROBED = 2
_NEAR = 4  # near lists of a list for each that a point looks into
_NEAR_GROUPS = 32  # of centroids, in which near lists are sought
_PROBES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_SAMPLE = 500
_RECALL = 0.96
_BLOCK = 131_072  # points


def search(points: np.ndarray, k: int, *, device: torch.device, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Find about the k nearest points of every point; see the package for the contract."""
    n = len(points)
    if n < max(_SMALLEST, 8 * k):
        return exact.search(points, k, device=device, scratch=scratch)
    lists = make_lists(points, _LIST_SIZE, _GROUPS_PROBED)
    near = _Near(lists.quantizer)
    n_probes = _n_probes(points, k, lists.of_point, near)
    starts = np.concatenate([[0], np.cumsum(np.bincount(lists.of_point, minlength=len(near.centroids)))])
    order = lists.order
    del lists
    mean = near.centroids.mean(axis=0)  # about the origin, products lose least
    laid_out = scratch.empty(points.shape)
    for i in range(0, n, _BLOCK):
        laid_out[i : i + _BLOCK] = points[order[i : i + _BLOCK]] - mean
    given = map(torch.from_numpy, (laid_out, starts, near.centroids - mean))
    compare = partial(ops.list_neighbors, *given, n_probes=n_probes, k=k)
    indices, distances = scratch.empty((n, k), np.int64), scratch.empty((n, k))
    for first, last in _blocks(starts):
        looked_into = torch.from_numpy(near.lists(np.arange(first, last), n_probes))
        found, squared = (part.numpy() for part in compare(near=looked_into, first=first))
        rows = order[starts[first] : starts[last]]
        indices[rows] = np.where(found < 0, -1, order[found])
        distances[rows] = np.sqrt(squared)
    give_back()  # what blocks leave behind
    return indices, distances


class _Near:
    """The lists about a list."""

    def __init__(self, quantizer: faiss.IndexIVFFlat) -> None:
        quantizer.make_direct_map()
        self.centroids: np.ndarray = quantizer.reconstruct_n(0, quantizer.ntotal)
        self._quantizer = quantizer
        self._probes = probing(quantizer, _NEAR_GROUPS)

    def lists(self, of: np.ndarray, n_probes: int) -> np.ndarray:
        """Lists near to the lists `of`, nearest first, int64 [len(of), _NEAR · n_probes]; −1 fills up."""
        wanted = min(len(self.centroids), _NEAR * n_probes)
        near: np.ndarray = self._quantizer.search(self.centroids[of], wanted, params=self._probes)[1]
        return near


def _n_probes(points: np.ndarray, k: int, list_of: np.ndarray, near: _Near) -> int:
    """Into how many lists a point has to look."""
    rows = np.sort(np.random.default_rng(0).choice(len(points), min(_SAMPLE, len(points)), replace=False))
    true = list_of[torch_exact.search_some(points, rows, k)]
    for n_probes in _PROBES:
        lists = near.lists(list_of[rows], n_probes)
        pairs = zip(rows, lists, strict=True)
        away = np.stack([((near.centroids[own] - points[row]) ** 2).sum(axis=1) for row, own in pairs])
        away[lists < 0] = np.inf
        nearest = np.argpartition(away, min(n_probes, away.shape[1]) - 1, axis=1)[:, :n_probes]
        probed = np.take_along_axis(lists, nearest, 1)
        found = np.mean([np.isin(a, b).mean() for a, b in zip(true, probed, strict=True)])
        if found >= _RECALL:
            break
    return n_probes


def _blocks(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of lists, first and behind the last, of about `_BLOCK` points each."""
    n_lists, first = len(starts) - 1, 0
    while first < n_lists:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _BLOCK, side="right")) - 1)
        yield first, min(last, n_lists)
        first = last
