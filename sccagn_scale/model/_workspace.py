"""Where a run has its large arrays: in memory, or on disk where they do not fit."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sccagn_scale._checks import whole
from sccagn_scale._compat import require
from sccagn_scale._errors import InputError
from sccagn_scale._memory import IN_MEMORY, Scratch, available, in_words, is_in_memory
from sccagn_scale._threads import n_threads
from sccagn_scale.config import Config
from sccagn_scale.io import as_path, temporary_folder
from sccagn_scale.model._needs import Need, Size, needs

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("sccagn_scale")

CELLS = "cells"
"""Name of the cell store in the folder that `store` names."""

_SHARE = 0.7  # of the memory that is free
_PATIENCE = 10  # seconds


class Limits(NamedTuple):
    """What a run may take, and where; see `SCCAGN`."""

    memory: int | None
    store: str | Path | None
    scratch: str | Path | None
    dask: str | None


class Workspace(NamedTuple):
    """Where things are."""

    scratch: Scratch  # arrays of all cells
    store: Path | None  # the cell store; None: counts that are read from a file are kept in memory
    client: Client | None  # of the Dask cluster whose workers keep the counts instead


def checked_limits(limits: Limits) -> Limits:
    """Return them, or refuse what is no number of bytes and no path."""
    allowed_memory(limits.memory)
    for name in ("store", "scratch"):
        path = getattr(limits, name)
        if path is not None:
            as_path(path, name)
    if limits.dask is not None and not isinstance(limits.dask, str):
        raise InputError(f"`dask` must be 'local', the address of a scheduler, or None; it is {limits.dask!r}.")
    return limits


def allowed_memory(memory: int | None) -> int:
    """Bytes that a run may take: as given, or 70 % of what is free."""
    if memory is None:
        return int(_SHARE * available())
    return whole(memory, "memory", 1, further=", in bytes, or None")


@contextmanager
def workspace(
    size: Size,
    config: Config,
    limits: Limits,
    *,
    device_type: str,
    corrects: bool = False,
    holds_cells: Callable[[Path], bool] = lambda cells: False,
) -> Iterator[Workspace]:
    """Decide between memory and disk, and make the folder that a run on disk needs.

    Arrays in `scratch` may outlive the block, a temporary folder does not.

    Parameters
    ----------
    size, config, device_type, corrects
        See `needs`.
    limits
        What the run may take.
    holds_cells
        Whether a cell store is one of just this input, which is taken up: its room is not needed again.

    Raises
    ------
    InputError
        If the run does not fit into `memory` even so, or on the disk, or the folder cannot be made.
    """
    memory, store, scratch, dask = limits
    allowed = allowed_memory(memory)
    with ExitStack() as stack:
        client = None
        if dask is not None:
            if not size.is_on_disk:
                raise InputError(
                    f"`dask` = '{dask}' is of use for files, which the workers read; these cells are in memory. Leave "
                    "it out, or give what `open_atlas` returns."
                )
            client = stack.enter_context(_connected(dask))
            size = size._replace(on_cluster=True)
        # the atlas's folder may be on another disk, and is looked at when the copies are made
        size = size._replace(copies=size.copies._replace(kept=0, making=0))
        needed = partial(needs, size, config, device_type=device_type, corrects=corrects)
        most = max(need.memory for need in needed(on_disk=False).values())
        if store is None and most <= allowed:
            yield Workspace(IN_MEMORY, None, client)
            return
        if store is None:
            folder = stack.enter_context(temporary_folder(Path(scratch) if scratch else None))
        else:
            folder = _made(Path(store))
        cells = folder / CELLS
        there = _size(cells) if holds_cells(cells) else 0  # another is kept until the new one is whole
        if is_in_memory(folder):
            log.warning(
                "What is kept in '%s' takes memory, as that is no disk (tmpfs); name another folder (`store`).", folder
            )
        if most <= allowed:
            _check_disk(size.packed - there, folder, "leave `store` out")
            yield Workspace(IN_MEMORY, cells, client)
            return
        on_disk = needed(on_disk=True).values()
        _check_memory(on_disk, allowed, memory)
        _check_disk(max(need.disk for need in on_disk) - there, folder, "allow more `memory`")
        log.info(
            "In memory the run would take about %s, more than the %s that it may: large arrays are kept on disk.",
            in_words(most),
            in_words(allowed),
        )
        yield Workspace(Scratch(folder), cells, client)


@contextmanager
def _connected(dask: str) -> Iterator[Client]:
    """Connect to a Dask cluster, or make one on this machine for as long as the block runs."""
    require("distributed", "`dask`", "leave `dask` out")
    from distributed import Client, LocalCluster

    if dask == "local":
        with (
            LocalCluster(n_workers=n_threads(), threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    client = Client.__new__(Client)
    try:
        client.__init__(dask, timeout=_PATIENCE)  # type: ignore[misc]
    except (OSError, ValueError) as error:
        # What failed may have a thread running, which distributed ends when it is collected as garbage. If that comes
        # while another client starts, which holds the lock for it, both wait for ever.
        client.__del__()
        raise InputError(
            f"`dask` = '{dask}' must be 'local' or the address of a scheduler, such as tcp://host:8786, but no "
            f"scheduler answers there: {error}."
        ) from error
    with client:
        yield client


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"`store` '{folder}' cannot be made: {error.strerror}.") from error
    return folder


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.is_dir() else 0


def _check_memory(on_disk: Collection[Need], allowed: int, memory: int | None) -> None:
    least = max(need.memory for need in on_disk)
    if memory is not None and least > allowed:
        raise InputError(
            f"`memory` = {in_words(allowed)} is too little: with large arrays on disk the run still takes about "
            f"{in_words(least)}. Allow that much, or use fewer cells or a smaller `n_neighbors`."
        )


def _check_disk(disk: int, folder: Path, otherwise: str) -> None:
    free = shutil.disk_usage(folder).free
    if disk > free:
        raise InputError(
            f"`store` needs about {in_words(disk)} on the disk of '{folder}', which has {in_words(free)} free. "
            f"Name a folder on another disk, or {otherwise}."
        )
