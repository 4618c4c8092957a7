"""What a source of synthetic cells offers to the writer."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp


class Sampler(Protocol):
    """Draws cells of given types. `draw` is called from several threads and changes nothing."""

    @property
    def type_names(self) -> list[str]:
        """Name of each type."""

    @property
    def var_names(self) -> list[str]:
        """Name of each gene."""

    @property
    def proportions(self) -> npt.NDArray[np.float64]:
        """Share of each type among the cells, shape [n_types], sums to 1."""

    @property
    def params(self) -> dict[str, Any]:
        """What is recorded in `uns["simulation"]`."""

    def draw(self, types: npt.NDArray[np.integer], rng: np.random.Generator) -> sp.csr_matrix:
        """Draw counts, float32 [n, n_vars] with sorted indices, of one cell per entry of `types`, shape [n]."""
