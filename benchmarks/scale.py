"""How time and memory of every stage grow with the number of cells, from thousands to a million."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import _scale_report
from benchmarks._choice import chosen_number
from benchmarks._contest import Contest, Method
from benchmarks._files import in_fresh_process
from benchmarks._outcome import Outcome
from benchmarks._session import Session, say
from benchmarks.pipeline import PEER, TRUTH, WHOLE, our_job, scanpy_job
from sccagn_scale._errors import InputError

OURS = "sccagn_scale"
COLUMNS = ("share", "nmi", "ari", "n_clusters")
QUICK: dict[str, Any] = {"sizes": "1000,2000", "genes": 1000, "peer_up_to": 2000}
FULL: dict[str, Any] = {"sizes": "10000,30000,100000,300000,1000000", "genes": 20_000, "peer_up_to": 100_000}
WARM_UP = 9000  # cells; below 8,192 scanpy searches neighbours by another way, and would compile its own while timed
ONCE_BEYOND = 100_000  # cells; smaller jobs are repeated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `scale` can be asked for."""
    parser.add_argument("--sizes", metavar="N,N,…", help=f"numbers of cells (default: {FULL['sizes']})")
    parser.add_argument("--genes", type=int, metavar="G", help="genes to simulate (default: 20000; quick: 1000)")
    parser.add_argument("--peer-up-to", type=int, metavar="N", help="most cells on which scanpy runs (default: 100000)")
    parser.add_argument("--repeats", type=int, metavar="R", help="runs up to 100,000 cells; one beyond (3; quick: 1)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep simulated files here, and use those there")


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Simulate a file of every size, run the whole job on it, and see how its stages grow."""
    default = QUICK if arguments.quick else FULL
    sizes = parse_sizes(arguments.sizes or default["sizes"])
    genes = chosen_number("genes", arguments.genes, default["genes"])
    repeats = chosen_number("repeats", arguments.repeats, 1 if arguments.quick else 3)
    peer_up_to = default["peer_up_to"] if arguments.peer_up_to is None else arguments.peer_up_to
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = session.run([])
        for n_obs in sizes:
            path = simulated_file(folder, n_obs, genes)
            small = folder / f"rehearsal_{n_obs}x{genes}.h5ad"
            cut = {"path": str(path), "small": str(small), "n_obs": min(n_obs, WARM_UP), "truth": TRUTH}
            in_fresh_process("benchmarks.pipeline:make_rehearsal", cut)
            kwargs = {"path": str(path), "n_obs": n_obs}
            methods = [Method(OURS, "benchmarks.scale:ours", kwargs)]
            if n_obs <= peer_up_to:
                methods.append(Method(PEER, "benchmarks.scale:peer", kwargs | {"warm_up": str(small)}))
            times = repeats if n_obs <= ONCE_BEYOND else 1
            rehearsal = {"path": str(small)}
            rows = session.run([Contest(case_of(WHOLE, n_obs), tuple(methods), times, rehearsal, tolerance=1e-6)])
            small.unlink()
    rows.sort(key=lambda row: (int(row["case"].partition("/")[2]), row["method"] != OURS))
    _scale_report.add_slopes(rows)
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: None)
    if session.path is not None:
        _scale_report.write(rows, beside=session.path)


def parse_sizes(text: str) -> list[int]:
    """Read "1000,2000": rising numbers of cells."""
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 100:
        raise InputError(f"`--sizes` must be whole numbers of at least 100, separated by commas; it is {text!r}.")
    return sizes


def simulated_file(folder: Path, n_obs: int, n_vars: int, *, median_counts: float | None = None) -> Path:
    """The simulated file of this size in a folder, made if it is not there."""
    counts = "" if median_counts is None else f"_{median_counts:g}"
    path = folder / f"simulated_{n_obs}x{n_vars}{counts}.h5ad"
    if not path.exists():
        say(f"simulating {n_obs:,} cells × {n_vars:,} genes")
        made = {"path": str(path), "n_obs": n_obs, "n_vars": n_vars, "median_counts": median_counts}
        in_fresh_process("benchmarks._files:make_file", made)
    return path


def case_of(stage: str, n_obs: int) -> str:
    """Name of the row of one stage at one size."""
    return f"{stage}/{n_obs}"


def ours(path: str, n_obs: int) -> Outcome:
    """Target: our whole job at one size."""
    return _at(our_job(path, TRUTH), n_obs)


def peer(path: str, n_obs: int, warm_up: str) -> Outcome:
    """Target: scanpy's whole job at one size."""
    return _at(scanpy_job(path, TRUTH, warm_up), n_obs)


def _at(outcome: Outcome, n_obs: int) -> Outcome:
    def score() -> dict[str, dict[str, Any]]:
        return {case_of(stage, n_obs): metrics for stage, metrics in outcome.score().items()}

    return Outcome(
        {case_of(stage, n_obs): seconds for stage, seconds in outcome.seconds.items()},
        score,
        outcome.evidence,
        {case_of(stage, n_obs): peak for stage, peak in outcome.peak_rss_mb.items()},
    )
