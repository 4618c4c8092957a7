"""Which names results may be written under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sccagn_scale._errors import InputError
from sccagn_scale._keys import NEIGHBORS, ORIGIN, PCA, Keys

if TYPE_CHECKING:
    from anndata import AnnData

_RESERVED = {NEIGHBORS, PCA.removeprefix("X_"), ORIGIN, "umap", "tsne", "diffmap"}


def free_keys(key_added: str, adata: AnnData) -> Keys:
    """The keys of results to come, refused where they would replace anything but earlier results of ours.

    Raises
    ------
    InputError
        If `key_added` is no name that a file can hold, has a meaning of its own, or belongs to something else.
    """
    if not isinstance(key_added, str) or key_added in ("", ".", "..", "_index") or "/" in key_added:
        raise InputError(f"`key_added` must be a name, not empty and without a slash; it is {key_added!r}.")
    if not _is_storable(key_added):
        raise InputError(
            f"`key_added` must be a name that every file can hold, without a backslash or NUL and of valid Unicode; it "
            f"is {key_added!r}."
        )
    keys = Keys(key_added)
    if key_added in _RESERVED:
        raise InputError(f"`key_added` must not be {key_added!r}, which stands for something else; give another name.")
    if adata.obs.index.name in (keys.labels, keys.confidence):
        raise InputError(f"`key_added` = {key_added!r} must not be the name of obs's index; give another name.")
    if _is_ours(keys, adata):
        return keys
    for part, name in (("obs", keys.labels), ("obs", keys.confidence), ("obsm", keys.embedding), ("uns", keys.uns)):
        if name in getattr(adata, part):
            raise InputError(
                f"`key_added` = {key_added!r} would replace {part}[{name!r}], which is no clustering of ours; give "
                "another name, or delete it."
            )
    return keys


def _is_storable(name: str) -> bool:
    """Whether HDF5 and zarr store a name as it is: zarr takes a backslash for a slash."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\\" not in name and "\0" not in name


def _is_ours(keys: Keys, adata: AnnData) -> bool:
    """Whether a clustering or reclustering is there; of several files joined, `uns` may be lost."""
    record = adata.uns.get(keys.uns)
    if isinstance(record, Mapping) and (
        {"params", "versions"} <= record.keys() or {"key", "n_clusters"} <= record.keys()
    ):
        return True
    return record is None and keys.labels in adata.obs and keys.confidence in adata.obs
