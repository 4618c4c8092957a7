"""Cells × genes on disk: the cell store's files against zarr, Arrow, .h5ad and the loaders of the field."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from benchmarks._choice import chosen, chosen_number, names
from benchmarks._contest import Contest, Method
from benchmarks._files import flush, forget, in_fresh_process
from benchmarks._outcome import Outcome, memory_mb
from benchmarks._session import Session
from sccagn_scale._errors import InputError

if TYPE_CHECKING:
    import scipy.sparse as sp

    from benchmarks._containers import Container, Reader

T = TypeVar("T")

CASES = ("kept", "all")
METHODS = (
    "mapped",
    "pread",
    "arrow",
    "zarr_raw",
    "zarr_lz4",
    "zarr_zstd",
    "h5ad_lzf",
    "h5ad_gzip",
    "scdataset",
    "annbatch",
)
COLUMNS = ("write_s", "cold_pass_s", "runs_ms", "cold_runs_ms", "random_ms", "cold_random_ms", "anon_mb", "disk_mb")
QUICK: dict[str, Any] = {"cells": 5000, "genes": 2000, "kept": 300, "repeats": 1, "seconds": 0.05}
FULL: dict[str, Any] = {"cells": 100_000, "genes": 20_000, "kept": 2000, "repeats": 3, "seconds": 2.0}
N_RUNS = 8  # of consecutive cells in a batch, as in the order of the graph's partition
N_COLD = 16  # batches that are timed from the disk, if there is time for so many


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `store` can be asked for."""
    parser.add_argument("--cells", type=int, metavar="N", help="cells to simulate (default: 100000; quick: 5000)")
    parser.add_argument("--repeats", type=int, metavar="R", help="processes of each in turn (default: 3; quick: 1)")
    parser.add_argument("--methods", type=names, metavar="A,B", help=f"of {', '.join(METHODS)} (default: all)")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Simulate the counts, time every method on them, print and keep the rows."""
    default = QUICK if arguments.quick else FULL
    tried = chosen("methods", arguments.methods, list(METHODS))
    n_obs = chosen_number("cells", arguments.cells, default["cells"])
    repeats = chosen_number("repeats", arguments.repeats, default["repeats"])
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        what = {"n_obs": n_obs, "n_vars": default["genes"], "n_kept": default["kept"]}
        in_fresh_process("benchmarks.store:make", {"folder": folder, **what})
        contests = []
        for case in CASES:
            kwargs = {"case": case, "source": str(Path(folder, case)), "seconds": default["seconds"]}
            methods = tuple(Method(name, "benchmarks.store:measure", kwargs | {"method": name}) for name in tried)
            contests.append(Contest(case, methods, repeats, tolerance=1e-9))
        rows = session.run(contests)
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: None)


def make(folder: str, n_obs: int, n_vars: int, n_kept: int) -> Outcome:
    """Target: simulate counts, and write those of all genes and those of the genes that preprocessing keeps."""
    import anndata

    from sccagn_scale import pp
    from sccagn_scale.simulate import simulate

    path = Path(folder, "simulated.h5ad")
    simulate(path, n_obs, n_vars)
    matrix = pp.select_matrix(anndata.read_h5ad(path, backed="r"))
    kept = pp.quality_control(matrix, pp.scan(matrix).n_detected)
    logged = pp.LogExpression(matrix, kept.obs, kept.totals, "counts", pp.median_total(kept.totals[kept.obs]))
    among = np.flatnonzero(kept.var)
    genes = np.sort(among[pp.highest_std_genes(logged.each(pp.moments), n_kept, among)])
    _save(Path(folder, "all"), matrix.each(lambda start, block: block))
    _save(Path(folder, "kept"), matrix.each(lambda start, block: block[:, genes]))
    path.unlink()
    return Outcome({}, dict)


def _save(folder: Path, blocks: Iterator[sp.csr_matrix]) -> None:
    import scipy.sparse as sp

    folder.mkdir()
    matrix = sp.vstack(list(blocks), format="csr")
    arrays = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr.astype(np.int64)}
    for name, values in (arrays | {"shape": np.array(matrix.shape)}).items():
        np.save(folder / f"{name}.npy", values)


def measure(case: str, method: str, source: str, seconds: float) -> Outcome:
    """Target: write the counts into one container, and read them from it, from the disk and from the page cache.

    `seconds` of the row are those of one pass over the whole, in blocks of 4,096 cells, with the files in the page
    cache. `write_s` includes flushing to the disk; `runs_ms` is a batch of 2,048 cells in 8 runs, `random_ms` one of
    2,048 single cells; `cold_…` the same after the files were dropped from the page cache. `anon_mb` is how far the
    process's own memory, the page cache not included, rose from before writing to its peak.

    Parameters
    ----------
    case
        Name of the row.
    method
        One of `METHODS`.
    source
        Folder that `make` wrote.
    seconds
        How long each kind of reading is timed, but one pass and one fetch at least.
    """
    from benchmarks._containers import BATCH, CONTAINERS, Source

    container = CONTAINERS[method]
    if importlib.util.find_spec(container.package) is None:
        raise InputError(f"needs the package {container.package}, which is not installed")
    whole = Source.open(Path(source))
    with tempfile.TemporaryDirectory(prefix="cells-", dir=Path(source).parent) as scratch:
        few, folder = Path(scratch, "few"), Path(scratch, "cells")
        container.write(whole.head(2 * BATCH), few)  # so that everything is imported and has run
        for work in (_checksums, partial(_batches, N_RUNS, 0.0)):
            _opened(container, few, work)
        with _anonymous_memory() as memory:
            start = time.perf_counter()
            container.write(whole, folder)
            flush(folder)
            metrics = {"write_s": time.perf_counter() - start}
            metrics["cold_pass_s"] = _opened(container, folder, _pass, cold=True)
            passes = [_opened(container, folder, _pass)]
            while sum(passes) < seconds:
                passes.append(_opened(container, folder, _pass))
            for name, n_runs in (("runs", N_RUNS), ("random", BATCH)):
                from_disk = partial(_batches, n_runs, seconds, at_most=N_COLD)
                metrics[f"cold_{name}_ms"] = 1e3 * _opened(container, folder, from_disk, cold=True)
                metrics[f"{name}_ms"] = 1e3 * _opened(container, folder, partial(_batches, n_runs, seconds))
        evidence = _opened(container, folder, _checksums)
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    metrics |= {"anon_mb": memory[0], "disk_mb": n_bytes / 2**20, "bytes_per_value": n_bytes / whole.nnz}
    return Outcome({case: passes}, lambda: {case: metrics}, evidence)


def _opened(container: Container, folder: Path, work: Callable[[Reader], T], *, cold: bool = False) -> T:
    """Open the container, do something and close it, as what is mapped cannot be dropped from the page cache."""
    if cold:
        forget(folder)
    with ExitStack() as stack:
        return work(container.open(folder, stack))


def _pass(reader: Reader) -> float:
    """Seconds of going through all cells."""
    start = time.perf_counter()
    for _ in reader.sequential():
        pass
    return time.perf_counter() - start


def _batches(n_runs: int, seconds: float, reader: Reader, *, at_most: int | None = None) -> float:
    """Seconds of a batch, over whole fetches."""
    batches = reader.shuffled(n_runs, np.random.default_rng(0))
    start, n_made = time.perf_counter(), 0
    while True:
        for _ in range(reader.n_fetched):
            next(batches)
        n_made += reader.n_fetched
        elapsed = time.perf_counter() - start
        if elapsed > seconds or n_made == at_most:
            return elapsed / n_made


def _checksums(reader: Reader) -> dict[str, float]:
    """Sums of all values, and of all weighted by row and column, that tell whether everything is in its place."""
    n_rows, total, weighted = 0, 0.0, 0.0
    for block in reader.sequential():
        columns = block @ np.arange(block.shape[1], dtype=np.float64)
        weighted += float(columns @ np.arange(n_rows, n_rows + block.shape[0]))
        total += float(block.data.sum(dtype=np.float64))
        n_rows += block.shape[0]
    return {"n_obs": n_rows, "sum": total, "weighted": weighted}


@contextmanager
def _anonymous_memory() -> Iterator[list[float]]:
    """How far this process's own memory rises, in MiB, looked at 200 times a second; the list's one number."""
    done, rise = threading.Event(), [0.0]
    before = memory_mb("RssAnon") or 0.0

    def watch() -> None:
        while not done.wait(0.005):
            rise[0] = max(rise[0], (memory_mb("RssAnon") or 0.0) - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield rise
    finally:
        done.set()
        watcher.join()
