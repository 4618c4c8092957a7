"""Pictures of a result. Each function returns a matplotlib figure and leaves the AnnData as it is."""

from sccagn_scale.pl._curves import history, n_clusters_curve
from sccagn_scale.pl._embedding import embedding

__all__ = ["embedding", "history", "n_clusters_curve"]
