"""Principal components of sparse cells × genes, never centred or held dense as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh
from sklearn.decomposition import PCA
from sklearn.utils.sparsefuncs import mean_variance_axis

from sccagn_scale._errors import InputError


@dataclass(frozen=True)
class Projection:
    """Principal axes of the cells they were fitted on."""

    mean: np.ndarray  # float32 [n_vars]
    components: np.ndarray  # float32 [n_comps, n_vars], by falling variance

    def scores(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Project cells [n, n_vars]: float32 [n, n_comps]. Centring is done on the projected side."""
        return np.ascontiguousarray(matrix @ self.components.T - self.components @ self.mean, dtype=np.float32)


def fit_pca(blocks: Iterable[sp.csr_matrix], n_comps: int = 50, *, random_state: int = 0) -> Projection:
    """Find the principal components of cells × genes.

    Where there are more cells than genes, the covariance of the genes is added up block by block and then taken apart;
    else Lanczos runs on the matrix itself, which goes over its values some hundred times.

    Parameters
    ----------
    blocks
        CSR float [n, n_vars] each, normalised and logged: the cells in blocks, gone through once.
    n_comps
        Components wanted; fewer are returned where the matrix has fewer cells or genes.
    random_state
        Seed of the Lanczos start vector.

    Raises
    ------
    InputError
        If there are fewer than two cells or genes.
    """
    return _moments(blocks).projection(n_comps, scale_genes=False, random_state=random_state)


def fit_pca_twice(
    blocks: Iterable[sp.csr_matrix], n_comps: int = 50, *, random_state: int = 0
) -> tuple[Projection, Projection]:
    """Find the principal components of genes as they are, and of genes scaled to variance one.

    Scaled, genes that vary little count as much as others. Both projections are to be applied to unscaled genes.
    Blocks are gone through once: the covariance of scaled genes is that of the others, divided. Otherwise as `fit_pca`.
    """
    moments = _moments(blocks)
    plain, scaled = (moments.projection(n_comps, scale_genes=own, random_state=random_state) for own in (False, True))
    return plain, scaled


def rms_length(points: np.ndarray) -> float:
    """Root mean square length of the points [n, d]; if that is none, the smallest number that can be divided by."""
    length = np.sqrt(np.einsum("ij,ij->", points, points, dtype=np.float64) / len(points))
    return max(float(length), float(np.finfo(np.float32).tiny))


def _moments(blocks: Iterable[sp.csr_matrix]) -> _Covariance | _Matrix:
    """Take the cells in, as what is quicker to take apart."""
    coming = iter(blocks)
    first: list[sp.csr_matrix] = []
    for block in coming:
        first.append(block)
        if sum(block.shape[0] for block in first) > block.shape[1]:
            covariance = _Covariance(block.shape[1])
            while first:
                covariance.add(first.pop(0))
            for more in coming:
                covariance.add(more)
            return covariance
    return _Matrix(sp.vstack(first, format="csr"))


def _divisor(variance: np.ndarray, scale_genes: bool) -> np.ndarray:
    """What each gene is divided by; genes that do not vary stay as they are."""
    return np.sqrt(np.where(variance > 0, variance, 1)) if scale_genes else np.ones_like(variance)


class _Matrix:
    """The cells themselves, in memory."""

    def __init__(self, matrix: sp.csr_matrix) -> None:
        self._matrix = matrix

    def projection(self, n_comps: int, *, scale_genes: bool, random_state: int) -> Projection:
        matrix = self._matrix
        most = min(matrix.shape) - 1
        if most < 1:
            raise InputError(f"PCA needs at least 2 cells and 2 genes; {matrix.shape[0]} × {matrix.shape[1]} are left.")
        mean, variance = mean_variance_axis(matrix, axis=0)
        divisor = _divisor(variance, scale_genes)
        solver = PCA(n_components=min(n_comps, most), svd_solver="arpack", random_state=random_state)
        components = solver.fit(matrix @ sp.diags_array(1 / divisor).tocsr()).components_ / divisor
        return Projection(mean.astype(np.float32), components.astype(np.float32))


class _Covariance:
    """Covariance of genes, added up over blocks of cells: n · n_vars² operations, O(n_vars²) memory and a block's."""

    def __init__(self, n_vars: int) -> None:
        self._n = 0
        self._sum = np.zeros(n_vars)
        self._products = np.zeros((n_vars, n_vars))
        self._dense = np.empty((0, n_vars), np.float32)

    def add(self, block: sp.csr_matrix) -> None:
        if len(self._dense) < block.shape[0]:
            self._dense = np.empty(block.shape, np.float32)
        dense = block.toarray(out=self._dense[: block.shape[0]])
        self._n += block.shape[0]
        self._sum += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        self._products += dense.T @ dense  # numpy computes one half (syrk)

    def projection(self, n_comps: int, *, scale_genes: bool, random_state: int) -> Projection:
        mean = self._sum / self._n
        covariance = self._products / self._n - np.outer(mean, mean)
        divisor = _divisor(np.diag(covariance), scale_genes)
        covariance /= np.outer(divisor, divisor)
        start = np.random.default_rng(random_state).standard_normal(len(mean))
        n_comps = min(n_comps, len(mean) - 1)
        if n_comps < 1:
            raise InputError(f"PCA needs at least 2 cells and 2 genes; {self._n} × {len(mean)} are left.")
        _, vectors = eigsh(covariance, n_comps, v0=start)  # rising eigenvalues
        components = vectors[:, ::-1].T
        # a sign of its own for every axis, so that it does not hang on the library's
        largest = np.abs(components).argmax(axis=1)
        components *= np.sign(components[np.arange(n_comps), largest])[:, None] / divisor
        return Projection(mean.astype(np.float32), np.ascontiguousarray(components, np.float32))
