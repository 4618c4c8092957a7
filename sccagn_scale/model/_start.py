"""Which principal components the network starts from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from sccagn_scale import pp
from sccagn_scale.config import Config
from sccagn_scale.loader import Cells

_BLOCK = 65_536


class Start(NamedTuple):
    """What `sccagn_scale.nn.initialize` takes."""

    axes: np.ndarray  # float32 [n_comps, n_input]
    mean: np.ndarray  # float32 [n_input]
    scale: np.ndarray  # float32 [n_comps]


def find_start(x: Cells, normalized: sp.csr_matrix, config: Config, *, random_state: int) -> Start:
    """Find the components of the network's input x [n, n_input], in the order that the embedding takes them.

    Components are themselves already. Genes have theirs found, made blind to the mean cell (see `_blind_to`), and
    turned so that the first few hold most of what is left after smoothing over the cell graph Â [n, n]: where only
    eight dimensions are kept, noise that neighbours do not share should have none of them.
    """
    if isinstance(x, np.ndarray):
        start = pp.Projection(x.mean(axis=0), np.eye(x.shape[1], dtype=np.float32))
    else:
        blocks = (x[i : i + pp.BLOCK_SIZE] for i in range(0, x.shape[0], pp.BLOCK_SIZE))
        found = pp.fit_pca(blocks, config.n_comps, random_state=random_state)
        axes = _blind_to(found.mean, found.components)
        start = pp.Projection(found.mean, _turned(axes, _scores(x, axes), normalized, config.phi))
    scale = floored(_deviations(start, x))
    if not config.whiten:
        scale = np.full_like(scale, scale[: config.n_latent].mean())
    return Start(start.components, start.mean, scale)


def smoothed(scores: np.ndarray, normalized: sp.csr_matrix, phi: float) -> np.ndarray:
    """Mix scores [n, d] with their averages over the cell graph Â [n, n] as the encoder does before training."""
    once = normalized @ scores
    twice = normalized @ once
    mixed = (1 - phi) * scores + phi * once
    for _ in range(2):  # the other two hidden layers, both with g2
        mixed = (1 - phi) * mixed + phi * twice
    return mixed


def floored(deviations: np.ndarray) -> np.ndarray:
    """Standard deviations to divide by, none far below the largest, so that directions without variance stay quiet."""
    return np.maximum(deviations, max(1e-3 * deviations.max(), np.finfo(np.float32).tiny))


def _scores(x: Cells, axes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(x[i : i + _BLOCK] @ axes.T) for i in range(0, x.shape[0], _BLOCK)])


def _deviations(start: pp.Projection, x: Cells) -> np.ndarray:
    """Standard deviation of every score, float32 [n_comps]."""
    total, squares = 0.0, 0.0
    for i in range(0, x.shape[0], _BLOCK):
        scores = start.scores(x[i : i + _BLOCK]).astype(np.float64)
        total, squares = total + scores.sum(axis=0), squares + np.square(scores).sum(axis=0)
    mean = total / x.shape[0]
    return np.sqrt(np.maximum(squares / x.shape[0] - mean**2, 0)).astype(np.float32)


def _blind_to(mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Take the direction of the mean cell [n_input] out of axes [n_comps, n_input].

    A bias centres the scores of the encoder, but those of the graph network only where the rows of Â sum to one. They
    do not, and genes are far from centred: the rest, a multiple of the mean cell that depends on a cell's degree, would
    outweigh the differences between types.
    """
    direction = mean / np.linalg.norm(mean)
    return axes - np.outer(axes @ direction, direction)


def _turned(axes: np.ndarray, scores: np.ndarray, normalized: sp.csr_matrix, phi: float) -> np.ndarray:
    """Rotate axes [n_comps, n_input] to the principal components of their scores as the encoder mixes them."""
    mixed = smoothed(scores, normalized, phi)
    mixed -= mixed.mean(axis=0)
    _, turn = np.linalg.eigh(mixed.T.astype(np.float64) @ mixed)
    turn = turn[:, ::-1]
    turn = turn * np.sign(turn[np.abs(turn).argmax(axis=0), np.arange(turn.shape[1])])  # eigh leaves the signs open
    return np.ascontiguousarray(turn.T @ axes, dtype=np.float32)
