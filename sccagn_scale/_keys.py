"""Names of everything written into an AnnData. The one place where they are spelled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """AnnData keys of one run, all derived from `key_added`."""

    key_added: str = "sccagn"

    @property
    def labels(self) -> str:
        """`obs`: cluster of each cell, categorical of strings."""
        return self.key_added

    @property
    def confidence(self) -> str:
        """`obs`: largest soft assignment of each cell, float32 in (0, 1]."""
        return f"{self.key_added}_confidence"

    @property
    def embedding(self) -> str:
        """`obsm`: latent representation, float32 [n_obs, n_latent]."""
        return f"X_{self.key_added}"

    @property
    def uns(self) -> str:
        """`uns`: parameters, versions, seed and what was decided on the way."""
        return self.key_added


PCA = "X_pca"
DISTANCES = "distances"
CONNECTIVITIES = "connectivities"
NEIGHBORS = "neighbors"
ORIGIN = "file"
"""`obs`: which of several files a cell is from, categorical of strings."""
