"""What has to be right before a run starts: device, number of clusters, batches."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from sccagn_scale import graph, pp
from sccagn_scale._checks import whole
from sccagn_scale._compat import require
from sccagn_scale._errors import InputError
from sccagn_scale._threads import allow_forks
from sccagn_scale.config import Config, Device, Preset
from sccagn_scale.io import Atlas
from sccagn_scale.loader import check_sampler

log = logging.getLogger("sccagn_scale")

_OLDEST_HARMONYPY = (2, 1)
"""The first to take a number of threads without changing the environment; before 2.0 it seeded global generators."""


@contextmanager
def usual_numerics() -> Iterator[None]:
    """Compute with gradients, in float32 and on the CPU unless said otherwise, whatever the session has set.

    Processes that the session forks later can compute too.
    """
    allow_forks()
    dtype = torch.get_default_dtype()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        torch.device("cpu"),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def checked_config(config: Config | Preset | None) -> Config:
    """Return the settings, or refuse a search or sampling of neighbours that this machine cannot do."""
    config = config if isinstance(config, Config) else Config.preset(config or "default")
    if config.knn_backend != "auto" and (reason := graph.why_unavailable(config.knn_backend)):
        raise InputError(f"`knn_backend` must be one that can run here, but {config.knn_backend!r} cannot: {reason}.")
    if config.loader == "neighbor":
        check_sampler(config.neighbor_sampler)
    return config


def usable_config(config: Config) -> Config:
    """Return the settings of a saved model as this machine can use them: how neighbours are found is not learned."""
    if config.loader == "neighbor":
        try:
            check_sampler(config.neighbor_sampler)
        except InputError:  # a loaded model samples nothing
            config = dataclasses.replace(config, neighbor_sampler="torch")
    if config.knn_backend != "auto" and (reason := graph.why_unavailable(config.knn_backend)):
        log.info(
            "The model's `knn_backend`, %s, cannot run here (%s): auto takes its place.", config.knn_backend, reason
        )
        config = dataclasses.replace(config, knn_backend="auto")
    return config


def checked_input(adata: AnnData | Atlas) -> AnnData | Atlas:
    """Return the cells, or refuse what is none."""
    if not isinstance(adata, (AnnData, Atlas)):
        raise InputError(
            "`adata` must be an AnnData, as `sccagn_scale.read` gives it, or what `sccagn_scale.open_atlas` returns; "
            f"it is of type {type(adata).__name__}."
        )
    if isinstance(adata, AnnData) and adata.isbacked and adata.is_view:
        raise InputError(
            "`adata` must not be a view of an AnnData that is backed by a file, whose matrix would be read whole; "
            "give `adata.to_memory()`."
        )
    if 0 in adata.shape:
        raise InputError(f"The input is empty: it has {adata.n_obs} cells and {adata.n_vars} genes.")
    return adata


def check_enough(n_obs: int, config: Config, which: str = "in the input") -> None:
    """Refuse to train on fewer cells than each is to have neighbours."""
    if config.n_neighbors > n_obs:
        raise InputError(
            f"`n_neighbors` = {config.n_neighbors} needs at least as many cells (it counts the cell itself); "
            f"there are {n_obs:,} {which}."
        )


def check_same_cells(adata: AnnData, names: pd.Index, *, may_be_renamed: bool) -> None:
    """Refuse to write results to other cells than they are of, or in another order.

    Parameters
    ----------
    adata
        To be written to.
    names
        Of the cells when the run began.
    may_be_renamed
        Whether it is the AnnData of the run, whose names may have been changed since.
    """
    if adata.n_obs != len(names):
        raise InputError(f"`adata` must hold the {len(names):,} cells the model was made with; it has {adata.n_obs:,}.")
    differ = adata.obs_names.to_numpy(object) != names.to_numpy(object)
    if differ.any() and not (may_be_renamed and not adata.obs_names.isin(names).all()):
        i = int(np.argmax(differ))
        raise InputError(
            f"`adata` must hold the cells the model was made with, in that order; its cell {i} is "
            f"'{adata.obs_names[i]}', the model's '{names[i]}'."
        )


def pick_device(device: Device) -> torch.device:
    """Resolve `"auto"`, and refuse a GPU that is not there."""
    if device not in get_args(Device):
        raise InputError(f"`device` must be 'auto', 'cpu' or 'cuda'; it is {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("`device` = 'cuda' needs a GPU and a CUDA build of torch; none was found. Use 'auto'.")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())  # by number: in another thread "cuda" is the first


def checked_n_clusters(n_clusters: int | None, n_obs: int, which: str = "in the input") -> int | None:
    """Return the number of clusters as an int, or refuse one that `n_obs` cells cannot have."""
    if n_clusters is None:
        return None
    n_clusters = whole(n_clusters, "n_clusters", 2, further=", or None")
    if n_clusters > n_obs:
        raise InputError(f"`n_clusters` = {n_clusters} needs at least as many cells; there are {n_obs:,} {which}.")
    return n_clusters


def checked_batch_key(batch_key: str | None, adata: AnnData | Atlas, config: Config) -> str | None:
    """Return the column of batches, or refuse one that cannot be corrected for."""
    if batch_key is None:
        return None
    for name in ("input_rep", "graph_rep"):
        if getattr(config, name) == "genes":
            raise InputError(
                f'`batch_key` needs `{name}` = "pca", since Harmony corrects components and not genes; it is "genes". '
                "Leave `batch_key` out, or take the default preset."
            )
    pp.select_batches(adata, batch_key)
    part = require("harmonypy", "`batch_key`", "leave `batch_key` out")
    release = re.match(r"(\d+)\.(\d+)", part.detail)
    if release is not None and tuple(map(int, release.groups())) < _OLDEST_HARMONYPY:
        raise InputError(
            f"`batch_key` needs harmonypy {'.'.join(map(str, _OLDEST_HARMONYPY))} or newer; {part.detail} is "
            "installed. Bring it up to date (pip install 'sccagn-scale[batch]'), or leave `batch_key` out."
        )
    return batch_key
