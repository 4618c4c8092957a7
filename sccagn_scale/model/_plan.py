"""What a run will take in memory, disk and time, told before it starts."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from sccagn_scale import graph
from sccagn_scale._console import Console, checked_listener, shown
from sccagn_scale._errors import InputError
from sccagn_scale._progress import Progress
from sccagn_scale.config import Config, Device, Preset
from sccagn_scale.io import Atlas, Making, check_writable, ending, free_room, output_size
from sccagn_scale.model._initial import choose_init
from sccagn_scale.model._model import SCCAGN
from sccagn_scale.model._needs import Size, needs
from sccagn_scale.model._prepare import input_size
from sccagn_scale.model._setup import checked_batch_key, checked_config, checked_n_clusters, pick_device
from sccagn_scale.model._workspace import allowed_memory

_SAMPLE = 25_000  # cells that time is measured on: more than `FEW_CELLS`, where fewer clusterings vote
_SAMPLE_OF_PAIRS = 4_000  # the same where the time of a step grows with the square of its cells
_SET_UP_ON = 5_000  # points that a GPU finds neighbours of before time counts
_BLOCKS = 20  # stretches of cells that they are taken from, evenly over the input

_GROWTH = {"Neighbors": 1.2}
"""Power of the number of cells that a stage grows with, if not 1 (`python -m benchmarks scale`)."""

_GROWS_FROM = {"Pretrain": 1_000_000, "Initial clusters": 50_000, "Joint training": 230_000}
"""Cells at which what grows with them takes as long as what does not, from the same measurement; of training, where the
cells are more than a batch. All of a consensus grows with them."""

_ATTENTION_FROM = 5_000
"""Cells of a batch at which attention of all to all takes as long as the rest of a step."""

_DISK_SPEED = 200e6  # bytes a second that are written
_PACKING_SPEED = 30e6  # the same where X is written anew, and so compressed


class Step(NamedTuple):
    """One stage."""

    stage: str
    memory: int  # bytes
    disk: int  # bytes
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will take."""

    n_obs: int
    n_vars: int
    nnz: int  # stored values
    allowed: int  # bytes of memory
    free: int  # bytes on the disk of the output
    on_disk: bool  # whether large arrays have to be on disk
    steps: list[Step]

    @property
    def memory(self) -> int:
        """Bytes of the stage that takes most."""
        return max(step.memory for step in self.steps)

    @property
    def disk(self) -> int:
        """Bytes of the stage that takes most."""
        return max(step.disk for step in self.steps)

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(step.seconds for step in self.steps)

    @property
    def fits_memory(self) -> bool:
        """Whether the run needs no more memory than it may take."""
        return self.memory <= self.allowed

    @property
    def fits_disk(self) -> bool:
        """Whether the run needs no more disk than is free where the output goes."""
        return self.disk <= self.free

    @property
    def fits(self) -> bool:
        """Whether it fits both."""
        return self.fits_memory and self.fits_disk


def plan(
    atlas: Atlas,
    n_clusters: int | None = None,
    config: Config | Preset | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    memory: int | None = None,
    device: Device = "auto",
    output: str | Path | None = None,
    results_only: bool = False,
    progress: Progress | bool = False,
) -> Plan:
    """Predict what clustering will need, in memory if that fits, else with large arrays on disk.

    Memory and disk follow from the sizes of the arrays. Disk counts the output, and large arrays as being beside it.
    Time is measured on 25,000 of the cells (4,000 if all cells of larger batches attend to all) and extrapolated.

    Parameters
    ----------
    atlas
        Cells × genes on disk, as returned by `open_atlas`.
    n_clusters, config, layer, batch_key, memory, device, progress
        See `SCCAGN`.
    output
        Where the output will be, a `.h5ad` file or a `.zarr` folder; None: beside the first file of the input.
    results_only
        Whether the output leaves matrices out. Else it is a copy of the input, or has the X of several files or of
        10x's.

    Raises
    ------
    InputError
        If `atlas` is something else, and as `SCCAGN` does.
    """
    if not isinstance(atlas, Atlas):
        raise InputError(f"`atlas` must be what `open_atlas` returns; it is of type {type(atlas).__name__}.")
    if output is None:
        place = atlas.files[0].absolute().parent / f"output{ending(atlas)}"
    else:
        check_writable(output, "output")
        place = Path(output)
    config = checked_config(config)
    size, allowed = input_size(atlas, layer), allowed_memory(memory)
    n_clusters = checked_n_clusters(n_clusters, size.n_obs)
    batch_key = checked_batch_key(batch_key, atlas, config)
    device_type = pick_device(device).type
    config = dataclasses.replace(config, init=choose_init(config, n_clusters, size.n_obs))
    making = _making(atlas, place, results_only)
    results, matrices = _results_size(size, config), output_size(atlas, making)
    with shown(checked_listener(progress)) as listener, listener.stage("Calibrate"):
        seconds = _seconds(atlas, n_clusters, config, layer, batch_key, size.n_obs, device)
    needed = partial(needs, size, config, device_type=device_type, corrects=batch_key is not None)
    in_memory = needed(on_disk=False)
    on_disk = max(need.memory for need in in_memory.values()) > allowed
    chosen = needed(on_disk=True) if on_disk else in_memory
    seconds["Write"] = results / _DISK_SPEED + matrices / (_PACKING_SPEED if making == "anew" else _DISK_SPEED)
    chosen["Write"] = chosen["Write"]._replace(disk=chosen["Write"].disk + results + matrices)
    assert chosen.keys() == seconds.keys(), "every stage is in the plan"
    steps = [Step(stage, need.memory, need.disk, seconds[stage]) for stage, need in chosen.items()]
    return Plan(size.n_obs, size.n_vars, size.nnz, allowed, free_room(place), on_disk, steps)


def _making(atlas: Atlas, output: Path, results_only: bool) -> Making:
    if results_only:
        return "results"
    if atlas.is_one_file and output.suffix.lower() == ending(atlas):
        return "copy"
    return "anew" if None in atlas.layers else "results"  # some files may lack X


def _results_size(size: Size, config: Config) -> int:
    """Bytes of the results: components, embedding, neighbours and edges."""
    per_cell = 4 * (config.n_comps + config.n_latent) + 20 * config.n_neighbors
    return size.n_obs * per_cell


def _seconds(
    atlas: Atlas,
    n_clusters: int | None,
    config: Config,
    layer: str | None,
    batch_key: str | None,
    n_obs: int,
    device: Device,
) -> dict[str, float]:
    """Time every stage on a sample of the cells, and stretch it to all of them."""
    place = pick_device(device)
    clock = Console(quiet=True)
    with clock.stage("Preprocess"):
        sample = _sample(atlas, layer, batch_key, _sample_size(config, n_obs))
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        # the search that many cells are given, whose time grows otherwise than that of few
        backend = graph.resolved_backend(config.knn_backend, n_obs, place.type)
        if place.type == "cuda":  # which sets itself up once, however many cells there are
            points = np.random.default_rng(0).standard_normal((_SET_UP_ON, 50), np.float32)
            graph.neighbors(points, backend=backend, device=place)
        as_many = dataclasses.replace(config, knn_backend=backend)
        SCCAGN(sample, n_clusters, as_many, batch_key=batch_key, device=device, progress=clock).train()
    return {stage: stretched(stage, seconds, sample.n_obs, n_obs, as_many) for stage, seconds in clock.seconds.items()}


def stretched(stage: str, seconds: float, measured: int, n_obs: int, config: Config) -> float:
    """Seconds that a stage takes for n_obs cells, from those that it took for as many as were `measured`.

    Of `config`, `init` is as `choose_init` settled it, and `knn_backend` as `choose_backend` did or "auto" for many.
    """
    batch_sizes = {"Pretrain": config.pretrain_batch_size, "Joint training": config.batch_size}
    if stage in batch_sizes:
        largest = batch_sizes[stage] or n_obs
        if measured <= largest:  # a step had all of them
            n_batch = min(n_obs, largest)
            attends = stage == "Joint training" and _attends_to_all(config)  # pretraining does not attend
            quadratic = (_ATTENTION_FROM + n_batch) / (_ATTENTION_FROM + measured) if attends else 1
            return seconds * quadratic * n_batch / measured
    if stage in _GROWS_FROM and not (stage == "Initial clusters" and config.init == "consensus"):
        return seconds * (_GROWS_FROM[stage] + n_obs) / (_GROWS_FROM[stage] + measured)
    compares_all = stage == "Neighbors" and config.knn_backend == "exact"
    return seconds * (n_obs / measured) ** (2 if compares_all else _GROWTH.get(stage, 1.0))


def _attends_to_all(config: Config) -> bool:
    return config.fusion == "attention" and config.n_attended is None


def _sample_size(config: Config, n_obs: int) -> int:
    """Cells that time is measured on, if there are as many."""
    n_batch = min(n_obs, config.batch_size or n_obs) if config.joint_steps else 0
    return _SAMPLE_OF_PAIRS if _attends_to_all(config) and n_batch > _SAMPLE_OF_PAIRS else _SAMPLE


def _sample(atlas: Atlas, layer: str | None, batch_key: str | None, most: int) -> AnnData:
    """Take up to so many cells in stretches from all over the input, with all genes and batches, into memory."""
    matrix = atlas.matrix(layer)
    n_obs = matrix.shape[0]
    length = n_obs if n_obs <= most else most // _BLOCKS
    starts = np.unique(np.linspace(0, n_obs - length, _BLOCKS).astype(int))
    sample = AnnData(matrix.sample(starts.tolist(), length), var=pd.DataFrame(index=matrix.names))
    if batch_key is not None:
        batches = atlas.obs[batch_key].to_numpy()[(starts[:, None] + np.arange(length)).ravel()]
        # where others are rare and were missed, halves take as long
        sample.obs[batch_key] = batches if len(pd.unique(batches)) > 1 else np.arange(len(batches)) % 2
    return sample


@contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing of the sample."""
    log = logging.getLogger("sccagn_scale")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
