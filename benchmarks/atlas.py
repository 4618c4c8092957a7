"""Atlases that do not fit in memory: time and memory of a job on disk, what was planned, and the same job in memory."""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import _atlas_report
from benchmarks._atlas_report import H5PY, IN_MEMORY, ON_DISK, PASS, PLAN
from benchmarks._choice import chosen_number
from benchmarks._contest import Contest, Method
from benchmarks._files import forget
from benchmarks._outcome import Outcome, StageClock, memory_mb
from benchmarks._session import Session
from benchmarks.pipeline import TRUTH, WHOLE
from benchmarks.scale import case_of, parse_sizes, simulated_file

COLUMNS = ("own_mb", "disk_mb", "ari", "ari_with_memory", "planned_memory", "planned_seconds", "of_h5py")
QUICK: dict[str, Any] = {"sizes": "2000", "genes": 1000, "memory": 800_000_000, "in_memory_up_to": 2000}
FULL: dict[str, Any] = {"sizes": "100000,1000000", "genes": 20_000, "memory": 4 * 10**9, "in_memory_up_to": 100_000}
AGREEMENT_UP_TO = 100_000  # cells whose clusters are kept, to be compared
_EVERY = 0.02  # seconds between looks at memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `atlas` can be asked for."""
    parser.add_argument("--sizes", metavar="N,N,…", help=f"numbers of cells (default: {FULL['sizes']})")
    parser.add_argument("--genes", type=int, metavar="G", help="genes to simulate (default: 20000; quick: 1000)")
    parser.add_argument("--counts", type=float, metavar="UMIS", help="median counts of a simulated cell (3000)")
    parser.add_argument("--memory", type=float, metavar="GB", help="memory that a job may take (default: 4)")
    parser.add_argument("--in-memory-up-to", type=int, metavar="N", help="most cells of a job in memory (100000)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep simulated files here, and use those there")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Simulate a file of every size; plan, run and compare."""
    default = QUICK if arguments.quick else FULL
    genes = chosen_number("genes", arguments.genes, default["genes"])
    memory = default["memory"] if arguments.memory is None else int(arguments.memory * 1e9)
    up_to = default["in_memory_up_to"] if arguments.in_memory_up_to is None else arguments.in_memory_up_to
    rows = session.run([])
    with tempfile.TemporaryDirectory(prefix="atlas-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for n_obs in parse_sizes(arguments.sizes or default["sizes"]):
            path = simulated_file(folder, n_obs, genes, median_counts=arguments.counts)
            common = {"path": str(path), "n_obs": n_obs, "folder": str(folder)}
            passes = (
                Method(H5PY, "benchmarks.atlas:read_alone", common),
                Method(PASS, "benchmarks.atlas:first_pass", common),
            )
            jobs = [Method(ON_DISK, "benchmarks.atlas:job", common | {"memory": memory, "on_disk": True})]
            if n_obs <= up_to:
                jobs.append(Method(IN_MEMORY, "benchmarks.atlas:job", common | {"memory": memory, "on_disk": False}))
            plan = Method(PLAN, "benchmarks.atlas:planned", common | {"memory": memory})
            rows = session.run([Contest(case_of("pass", n_obs), passes), Contest(case_of(WHOLE, n_obs), (plan, *jobs))])
    rows.sort(key=lambda row: int(row["case"].partition("/")[2]))
    _atlas_report.add_ratios(rows)
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: None)
    if session.path is not None:
        _atlas_report.write(rows, beside=session.path)


def read_alone(path: str, n_obs: int, folder: str) -> Outcome:
    """Target: h5py reads and decompresses the same bytes, in blocks of as many cells."""
    import h5py

    from sccagn_scale.pp import BLOCK_SIZE

    forget(Path(path))
    start = time.perf_counter()
    with h5py.File(path) as file:
        indptr, data, indices = file["X/indptr"][:], file["X/data"], file["X/indices"]
        for first in range(0, n_obs, BLOCK_SIZE):
            low, high = indptr[first], indptr[min(first + BLOCK_SIZE, n_obs)]
            data[low:high], indices[low:high]
    return Outcome({case_of("pass", n_obs): [time.perf_counter() - start]}, dict)


def first_pass(path: str, n_obs: int, folder: str) -> Outcome:
    """Target: our pass over the file, which checks and counts every value and writes the cell store."""
    from sccagn_scale import pp
    from sccagn_scale.io import open_atlas

    forget(Path(path))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        start = time.perf_counter()
        pp.scan(pp.select_matrix(open_atlas([path]), None, Path(scratch) / "cells"))
        seconds = time.perf_counter() - start
    return Outcome({case_of("pass", n_obs): [seconds]}, dict)


def planned(path: str, n_obs: int, folder: str, memory: int) -> Outcome:
    """Target: what `sccagn-scale plan` says of a job whose output has no X, as those here."""
    from sccagn_scale.io import open_atlas
    from sccagn_scale.model import plan

    start = time.perf_counter()
    told = plan(open_atlas([path]), memory=memory, results_only=True)
    seconds = time.perf_counter() - start
    metrics = {
        case_of(WHOLE, n_obs): {
            "memory_mb": told.memory / 2**20,
            "disk_mb": told.disk / 2**20,
            "on_disk": told.on_disk,
            "run_seconds": told.seconds,
            "stages": {step.stage.lower(): [step.memory / 2**20, step.seconds] for step in told.steps},
        }
    }
    return Outcome({case_of(WHOLE, n_obs): [seconds]}, lambda: metrics)


def job(path: str, n_obs: int, folder: str, memory: int, on_disk: bool) -> Outcome:
    """Target: file to file, number of clusters estimated; with large arrays on disk, or all in memory.

    Results go to a file of their own without X. What no stage claims is the case "other".
    """
    import sccagn_scale.model  # what importing takes is no stage
    from sccagn_scale.io import open_atlas, write

    clock = MemoryClock()
    with tempfile.TemporaryDirectory(dir=folder) as scratch, clock.watched():
        out = Path(scratch) / "out.h5ad"
        start = time.perf_counter()
        with clock.stage("read"):
            atlas = open_atlas([path])
            types = atlas.adata.obs.pop(TRUTH)
        model = sccagn_scale.model.SCCAGN(
            atlas,
            memory=min(memory, _on_disk(atlas)) if on_disk else None,
            scratch=scratch,
            progress=clock,
        ).train()
        with clock.stage("write"):
            model.write_to(atlas.adata)
            write(atlas.adata, out)
        whole = time.perf_counter() - start
    labels = model.labels_

    def score() -> dict[str, dict[str, Any]]:
        from sccagn_scale.metrics import evaluate

        found = {case_of(stage, n_obs): {"own_mb": own} for stage, own in clock.own_mb.items()}
        kept = labels >= 0
        truth = types.cat.codes.to_numpy()[kept]
        scores = evaluate(truth, labels[kept])
        found[case_of(WHOLE, n_obs)] = {
            "own_mb": max(clock.own_mb.values()),
            "nmi": scores["nmi"],
            "ari": scores["ari"],
            "n_clusters": model.n_clusters_,
            "recall": model.graph_facts_["recall"],
            "per_cell": atlas.matrix().nnz / n_obs,
            "genes": sorted(model.recipe_.gene_names),
            "labels": labels.tolist() if n_obs <= AGREEMENT_UP_TO else None,
        }
        return found

    seconds = {WHOLE: whole, **clock.seconds, "other": max(0.0, whole - sum(clock.seconds.values()))}
    peaks = {case_of(stage, n_obs): peak for stage, peak in clock.peak_rss_mb.items()}
    return Outcome({case_of(stage, n_obs): [taken] for stage, taken in seconds.items()}, score, peak_rss_mb=peaks)


def _on_disk(atlas: Any) -> int:
    """Memory with which large arrays have to be on disk."""
    from sccagn_scale.config import Config
    from sccagn_scale.model._initial import choose_init
    from sccagn_scale.model._needs import needs
    from sccagn_scale.model._prepare import input_size
    from sccagn_scale.model._setup import pick_device

    size = input_size(atlas, None)
    config = Config(init=choose_init(Config(), None, size.n_obs))
    return max(need.memory for need in needs(size, config, on_disk=True, device_type=pick_device("auto").type).values())


class MemoryClock(StageClock):
    """Also looks, all the time, how much memory the process holds that is no file's: that is its own.

    Pages of mapped files are in the resident size too, but the system drops them when it needs the room.
    """

    def __init__(self) -> None:
        super().__init__()
        self.own_mb: dict[str, float] = {}
        self._stop = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look while the block runs."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY):
            for stage in self._open[-1:]:
                self.own_mb[stage] = max(self.own_mb.get(stage, 0.0), memory_mb("RssAnon", "RssShmem") or 0.0)
