"""Inverted lists for a first graph, then a walk on that graph: for a million cells.

1. The points are filed under ~n/62 centroids, found by k-means in two levels, and laid out in that order.
2. Each point is compared with the points of the lists nearest to it, 1,500 at 100,000 points and 3,000 at a million.
   That finds most neighbours of most points.
3. Best-first search (the lowest level of HNSW; Malkov & Yashunin, TPAMI 2020) on the graph of those neighbours and
   their reverse, each point starting from itself. How wide it searches is settled on a sample of points whose
   neighbours are known from exact search: the smallest width that finds 96 % of them, or the largest allowed.

Every point is searched for on its own, so that threads cannot change what is found. Memory is O(n·(d + k)).
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import scipy.sparse as sp
import torch

from sccagn_scale._memory import Scratch, give_back
from sccagn_scale.graph._algorithms import exact
from sccagn_scale.graph._algorithms._lists import Lists, make_lists
from sccagn_scale.graph._recall import knn_recall

_SMALLEST = 5000  # below it, there is nothing to gain
_LIST_SIZE = 62
_GROUPS_PROBED = 4
_PROBED_POINTS = 1500  # where there are 100,000; see _n_probed
_LINKS = 32  # neighbours and reverse neighbours of a point
_WIDTHS = (16, 24, 32, 40, 48, 64, 80, 96, 128)  # no wider: time grows with it, and at 10 million points 512 is hours
_SAMPLE = 500
_RECALL = 0.96
_BLOCK = 65_536


def search(points: np.ndarray, k: int, *, device: torch.device, scratch: Scratch) -> tuple[np.ndarray, np.ndarray]:
    """Find about the k nearest points of every point; see the package for the contract."""
    n = len(points)
    if n < max(_SMALLEST, 8 * k):
        return exact.search(points, k, device=device, scratch=scratch)
    lists = make_lists(points, _LIST_SIZE, _GROUPS_PROBED)
    order = lists.order
    first = _search_lists(points, lists, _LINKS // 2)
    del lists
    give_back()  # the lists, thousands of small arrays
    found, squared = _walk(points, order, first, k)
    indices, distances = scratch.empty((n, k), np.int64), scratch.empty((n, k))
    for i in range(0, n, _BLOCK):
        rows = slice(i, i + _BLOCK)
        indices[order[rows]] = np.where(found[rows] < 0, -1, order[found[rows]])
        distances[order[rows]] = np.sqrt(squared[rows])
    return indices, distances


def _search_lists(points: np.ndarray, lists: Lists, k: int) -> np.ndarray:
    """Neighbours among the points of the nearest lists, by their place in the order of the lists: int32 [n, k]."""
    n, d = points.shape
    quantizer, order = lists.quantizer, lists.order
    filed = lists.of_point[order]
    index = faiss.IndexIVFFlat(quantizer, d, quantizer.ntotal)
    index.is_trained = True
    for i in range(0, n, _BLOCK):
        block = np.ascontiguousarray(points[order[i : i + _BLOCK]])
        index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(filed[i : i + _BLOCK]))
    index.nprobe = min(quantizer.ntotal, max(1, round(_n_probed(n) * quantizer.ntotal / n)))
    found = np.empty((n, k), np.int32)
    for i in range(0, n, _BLOCK):
        found[i : i + _BLOCK] = index.search(points[order[i : i + _BLOCK]], k)[1]
    return found


def _n_probed(n: int) -> float:
    """Points compared with each: the more there are, the more lie about as near as its neighbours.

    With as many at a million as at 100,000 the lists find 0.67 of the neighbours instead of 0.81, and the walk, which
    has to find the rest, takes longer than this saves.
    """
    return _PROBED_POINTS * (n / 1e5) ** 0.3


def _walk(points: np.ndarray, order: np.ndarray, first: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search the graph of `first` from every point, as wide as the sample asks for; places in `order` throughout."""
    n, d = points.shape
    index: Any = faiss.IndexHNSWFlat(d, _LINKS // 2)  # its types lack much of what is used here
    links = _links(first)
    for i in range(0, n, _BLOCK):
        index.storage.add(points[order[i : i + _BLOCK]])
    index.ntotal = n
    faiss.copy_array_to_vector(np.ones(n, np.int32), index.hnsw.levels)  # the lowest level alone
    index.hnsw.prepare_level_tab(n, True)
    faiss.rev_swig_ptr(index.hnsw.neighbors.data(), n * _LINKS)[:] = links.ravel()
    del links
    rows = np.sort(np.random.default_rng(0).choice(n, min(_SAMPLE, n), replace=False))
    known = index.storage.search(points[order[rows]], k)[1]
    for width in (width for width in _WIDTHS if width >= k or width == _WIDTHS[-1]):
        index.hnsw.efSearch = max(width, k)
        if knn_recall(_search_from(index, points, order, rows, k)[0], known) >= _RECALL:
            break
    found, squared = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    for i in range(0, n, _BLOCK):
        block = np.arange(i, min(n, i + _BLOCK))
        found[block], squared[block] = _search_from(index, points, order, block, k)
    return found, squared


def _links(first: np.ndarray) -> np.ndarray:
    """Neighbours of every point, then as many that list it as there is room for, int32 [n, 32]; −1 fills up.

    Those that list it at an early place come first.
    """
    n, k = first.shape
    # FAISS reads a row until its first −1, so a place that the search left empty names the point itself
    listed = np.where(first < 0, np.arange(n, dtype=np.int32)[:, None], first)
    index = sp.get_index_dtype(maxval=n * k)
    edges = sp.csr_matrix((n * k, n), dtype=np.int8)  # place and point that lists → point listed
    edges.data, edges.indices = np.ones(n * k, np.int8), listed.T.ravel()
    edges.indptr = np.arange(n * k + 1, dtype=index)
    edges = edges.tocsc()
    links = np.full((n, _LINKS), -1, np.int32)
    links[:, :k] = listed
    for i in range(0, n, _BLOCK):
        starts = edges.indptr[i : i + _BLOCK + 1]
        lengths = np.diff(starts)
        of = np.repeat(np.arange(i, i + len(lengths)), lengths)
        place = np.arange(starts[0], starts[-1]) - np.repeat(starts[:-1], lengths)
        kept = place < _LINKS - k
        links[of[kept], k + place[kept]] = edges.indices[starts[0] : starts[-1]][kept] % n
    return links


def _search_from(index: Any, points: np.ndarray, order: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, ...]:
    queries = points[order[rows]]
    start, zero = rows.astype(np.int32), np.zeros(len(rows), np.float32)
    squared, found = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
    arrays = [faiss.swig_ptr(array) for array in (start, zero, squared, found)]
    index.search_level_0(len(rows), faiss.swig_ptr(queries), k, *arrays, 1, 1)
    return found, squared
