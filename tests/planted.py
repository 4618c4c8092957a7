"""Points and graphs whose groups are known."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def blobs(sizes: list[int], seed: int = 0, spread: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Points around well separated centres, shuffled, and the group of each."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = spread * np.eye(len(sizes), max(6, len(sizes)))
    return (centres[truth] + rng.normal(size=(len(truth), centres.shape[1]))).astype(np.float32), truth


def planted_graph(sizes: list[int], between: float = 0.01, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """A graph in which cells of one group are joined far more often than others, and the group of each."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    odds = np.where(truth[:, None] == truth, 0.5, between)
    upper = np.triu(rng.random(odds.shape) < odds, 1)
    return sp.csr_matrix((upper | upper.T).astype(np.float32)), truth


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labellings differ in names only."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def n_groups(labels: np.ndarray) -> int:
    """Number of groups, after checking that they are numbered 0, 1, … by falling size."""
    sizes = np.bincount(labels)
    assert labels.dtype == np.int64
    assert (sizes > 0).all()
    assert (np.diff(sizes) <= 0).all()
    return len(sizes)
