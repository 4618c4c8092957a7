"""Principal components of a sparse matrix, without ever centring it in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

from sccagn_scale._errors import InputError


@dataclass(frozen=True)
class Projection:
    """Principal axes of the cells they were fitted on."""

    mean: np.ndarray  # float32 [n_vars]
    components: np.ndarray  # float32 [n_comps, n_vars], by falling variance

    def scores(self, matrix: sp.csr_matrix) -> np.ndarray:
        """Project cells [n, n_vars]: float32 [n, n_comps]. Centring is done on the projected side."""
        return np.ascontiguousarray(matrix @ self.components.T - self.components @ self.mean, dtype=np.float32)


def fit_pca(matrix: sp.csr_matrix, n_comps: int = 50, *, random_state: int = 0) -> Projection:
    """Find the principal components of cells × genes.

    Parameters
    ----------
    matrix
        CSR float [n_obs, n_vars], normalised and logged.
    n_comps
        Components wanted; fewer are returned where the matrix has fewer cells or genes.
    random_state
        Seed of the Lanczos start vector, which decides the signs.

    Raises
    ------
    InputError
        If there are fewer than two cells or genes.
    """
    most = min(matrix.shape) - 1
    if most < 1:
        raise InputError(f"PCA needs at least 2 cells and 2 genes; {matrix.shape[0]} × {matrix.shape[1]} are left.")
    solver = PCA(n_components=min(n_comps, most), svd_solver="arpack", random_state=random_state).fit(matrix)
    return Projection(solver.mean_.astype(np.float32), solver.components_.astype(np.float32))
