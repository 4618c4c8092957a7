"""More clusters, or fewer, of cells that are clustered: without training, and without the counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from sccagn_scale import clustering
from sccagn_scale._checks import checked_random_state
from sccagn_scale._errors import InputError
from sccagn_scale._keys import Keys
from sccagn_scale.io import checked_anndata, free_keys
from sccagn_scale.model._setup import checked_n_clusters
from sccagn_scale.ops import student_t_assign

if TYPE_CHECKING:
    from anndata import AnnData

_BLOCK = 65_536  # cells
_FARTHEST = 1e15  # beyond, squared distances leave float32


def recluster(
    adata: AnnData,
    n_clusters: int | None = None,
    *,
    factor: float | None = None,
    key: str = "sccagn",
    key_added: str | None = None,
    random_state: int = 0,
) -> str:
    """Split or merge the clusters that `cluster` found, in seconds: only the embedding is used.

    Clusters are nested. Fewer clusters are unions of the existing ones: the next two to be merged are those that add
    least to the sum of squares within clusters (Ward 1963). More clusters are parts of them: the next to be divided,
    whatever its size, is the one whose two parts, each of at least five cells, have their centres farthest apart.

    Parameters
    ----------
    adata
        Clustered cells, with `obs[key]`, `obsm[f"X_{key}"]` and `uns[key]` as `cluster` writes them.
    n_clusters
        Number of clusters wanted. Give this or `factor`.
    factor
        The number wanted as a multiple of the present one: 2 for twice as many clusters, 0.5 for half as many.
    key
        Name of the results to start from.
    key_added
        Name of the new results; by default `f"{key}_k{n_clusters}"`.
    random_state
        Seed of the k-means that finds the parts of a cluster.

    Returns
    -------
    `key_added`. Sets `obs[key_added]`, categorical of strings: a union is called "1+4", parts of 3 are "3,0", "3,1", …,
    the largest first, and other clusters keep their names. Also sets `obs[f"{key_added}_confidence"]`, the soft
    assignment of a cell to its own cluster, float32, and `uns[key_added]`: `key`, `n_clusters` and `random_state`.
    Cells without a cluster still have none.

    Raises
    ------
    InputError
        If the results of `cluster` are missing or incomplete or would be replaced, or if the cells cannot be divided
        into as many clusters as wanted.
    """
    keys, random_state = Keys(key), checked_random_state(random_state)
    if key_added == key:
        raise InputError(f"`key_added` must be another name than `key`, whose results stay; both are {key!r}.")
    _check_there(checked_anndata(adata), keys)
    given = adata.obs[keys.labels].astype("category").cat.remove_unused_categories()
    names, before = [str(name) for name in given.cat.categories], given.cat.codes.to_numpy()
    z = np.asarray(adata.obsm[keys.embedding], dtype=np.float32)
    here = before >= 0
    z = z[here]
    if not np.isfinite(z).all():
        raise InputError(f"`key` = {key!r}: some cells have a cluster and no embedding; cluster them anew.")
    if np.abs(z).max(initial=0) > _FARTHEST:
        raise InputError(f"`key` = {key!r}: the embedding has values that no run leaves there; cluster the cells anew.")
    wanted = _wanted(n_clusters, factor, len(names), int(here.sum()))
    added = free_keys(f"{key}_k{wanted}" if key_added is None else key_added, adata)
    labels, names = _changed(z, before[here].astype(np.int64), names, wanted, random_state)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"`key` = {key!r}: two of the new clusters would be called {twice!r}, since names in obs[{keys.labels!r}] "
            "have ',' or '+' in them; rename those first."
        )

    codes, confidence = np.full(len(here), -1), np.full(len(here), np.nan, np.float32)
    codes[here] = labels
    nu = adata.uns[keys.uns]["params"]["nu"]
    confidence[here] = _confidence(z, labels, float(z.shape[1] if nu == "none" else nu))
    adata.obs[added.labels] = pd.Categorical.from_codes(codes, pd.Index(names))
    adata.obs[added.confidence] = confidence
    adata.uns[added.uns] = {"key": key, "n_clusters": wanted, "random_state": random_state}
    return added.key_added


def _check_there(adata: AnnData, keys: Keys) -> None:
    for part, name in (("obs", keys.labels), ("obsm", keys.embedding), ("uns", keys.uns)):
        if name not in getattr(adata, part):
            raise InputError(
                f"`key` must name results of `cluster`, but there is no {part}[{name!r}]; cluster the cells first, or "
                "give the name that was given then."
            )
    record = adata.uns[keys.uns]
    params = record.get("params") if isinstance(record, Mapping) else None
    if not isinstance(params, Mapping) or "nu" not in params:
        raise InputError(f"`key` must name results of `cluster`, but uns[{keys.uns!r}] is not what `cluster` writes.")


def _wanted(n_clusters: Any, factor: Any, n_before: int, n_obs: int) -> int:
    if (n_clusters is None) == (factor is None):
        raise InputError("`n_clusters` or `factor` must be given, one of them and not both.")
    if factor is not None:
        if isinstance(factor, bool) or not isinstance(factor, (int, float, np.number)) or not factor > 0:
            raise InputError(f"`factor` must be a number above 0; it is {factor!r}.")
        n_clusters = max(2, int(min(factor * n_before, n_obs + 1) + 0.5))
        if n_clusters > n_obs:
            raise InputError(
                f"`factor` = {factor:g} of {n_before} clusters is more than the {n_obs:,} cells; lower it."
            )
    wanted = checked_n_clusters(n_clusters, n_obs, "with a cluster")
    assert wanted is not None
    return wanted


def _changed(
    z: np.ndarray, labels: np.ndarray, names: list[str], wanted: int, random_state: int
) -> tuple[np.ndarray, list[str]]:
    """Labels of `wanted` clusters, numbered in the order of those that they come from, and the clusters' names."""
    if wanted < len(names):
        union = clustering.merged(z, labels, wanted)
        first = np.array([np.flatnonzero(union == u)[0] for u in range(wanted)])
        order = np.argsort(first)
        rank = np.argsort(order)
        return rank[union][labels], ["+".join(np.array(names)[union == u]) for u in order]
    parts = clustering.divided(z, labels, wanted, random_state=random_state)
    most = int(parts.max()) + 1
    numbers = labels * most + parts
    there = np.bincount(numbers) > 0
    of_clusters, of_parts = np.divmod(np.flatnonzero(there), most)
    n_parts = np.bincount(of_clusters)
    new_names = [
        names[cluster] if n_parts[cluster] == 1 else f"{names[cluster]},{part}"
        for cluster, part in zip(of_clusters.tolist(), of_parts.tolist(), strict=True)
    ]
    return (np.cumsum(there) - 1)[numbers], new_names


def _confidence(z: np.ndarray, labels: np.ndarray, nu: float) -> np.ndarray:
    """Soft assignment of every cell to its own cluster."""
    centers = torch.from_numpy(clustering.centers(z, labels))
    confidence = np.empty(len(z), np.float32)
    for i in range(0, len(z), _BLOCK):
        rows = slice(i, i + _BLOCK)
        q = student_t_assign(torch.from_numpy(z[rows]), centers, nu).numpy()
        confidence[rows] = np.take_along_axis(q, labels[rows, None], 1)[:, 0]
    return confidence
