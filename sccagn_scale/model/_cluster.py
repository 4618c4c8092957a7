"""The one-line way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sccagn_scale._progress import Progress
from sccagn_scale.config import Config, Device, Preset
from sccagn_scale.io import checked_anndata, free_keys
from sccagn_scale.model._model import SCCAGN

if TYPE_CHECKING:
    from anndata import AnnData


def cluster(
    adata: AnnData,
    n_clusters: int | None = None,
    config: Config | Preset | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "sccagn",
    random_state: int = 0,
    device: Device = "auto",
    progress: Progress | bool = False,
) -> None:
    """Cluster cells and write clusters, confidence, embedding and graph into the AnnData.

    Parameters
    ----------
    adata, n_clusters, config, layer, batch_key, random_state, device, progress
        See `SCCAGN`.
    key_added
        Name of the results: first part of the keys that are written.

    Returns
    -------
    Nothing. Sets the keys that `SCCAGN.write_to` lists: `obs["sccagn"]`, `obs["sccagn_confidence"]`,
    `obsm["X_sccagn"]`, `obsm["X_pca"]`, `obsp["distances"]`, `obsp["connectivities"]`, `uns["neighbors"]` and
    `uns["sccagn"]`. If anything fails before that, the AnnData is unchanged.
    """
    free_keys(key_added, checked_anndata(adata, hint=" For what `open_atlas` returns there is `SCCAGN`."))
    model = SCCAGN(
        adata,
        n_clusters,
        config,
        layer=layer,
        batch_key=batch_key,
        random_state=random_state,
        device=device,
        progress=progress,
    )
    model.train().write_to(adata, key_added)
