"""Nearest neighbours: time, memory and recall of each backend and of its peers, at several numbers of cells."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._choice import add_device, chosen, chosen_number, names
from benchmarks._contest import Contest, Method
from benchmarks._files import in_fresh_process
from benchmarks._outcome import Outcome, peak_rss_mb
from benchmarks._results import Row, write_atomically
from benchmarks._session import Session, say
from sccagn_scale._errors import InputError

if TYPE_CHECKING:
    import numpy as np

N_NEIGHBORS = 15
N_SAMPLE = 1000
D = 50
PEERS = ("scanpy", "hnswlib")
COLUMNS = ("recall", "points_per_second")
# Backend → largest number of cells at which it is run: beyond it, others are far quicker on a CPU of a few cores.
LARGEST = {"exact": 300_000, "torch_exact": 100_000, "hnsw": 300_000}
QUICK: dict[str, Any] = {"sizes": "2000,6000", "repeats": 1, "base": 1000, "genes": 2000}
FULL: dict[str, Any] = {"sizes": "10000,100000,1000000", "repeats": 3, "base": 20_000, "genes": 20_000}
N_TYPES = 30
MIXED = 3  # cells of one type that make one drawn cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `knn` can be asked for."""
    parser.add_argument("--sizes", metavar="N,N", help="numbers of cells (default: 10000,100000,1000000)")
    parser.add_argument(
        "--methods", type=names, metavar="A,B", help="backends, auto, scanpy, hnswlib (default: all fit)"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="runs of each in turn (default: 3; quick: 1)")
    add_device(parser)


def run(arguments: argparse.Namespace, session: Session) -> None:
    """Make the cells that others are drawn from, run every method on each size, print and keep the rows."""
    default = QUICK if arguments.quick else FULL
    sizes = [_size(text) for text in (arguments.sizes or default["sizes"]).split(",")]
    repeats = chosen_number("repeats", arguments.repeats, default["repeats"])
    with tempfile.TemporaryDirectory(prefix="knn-") as folder:
        base = str(Path(folder, "base.npz"))
        what = {"path": base, "n_obs": default["base"], "n_vars": default["genes"]}
        in_fresh_process("benchmarks.knn:make_base", what)
        contests = []
        for n_obs in sizes:
            kwargs = {"base": base, "n_obs": n_obs}
            methods = tuple(
                Method(
                    name,
                    f"benchmarks.knn:{name if name in PEERS else 'ours'}_job",
                    _asked(name, arguments.device) | kwargs,
                )
                for name in method_names(n_obs, arguments.methods)
            )
            contests.append(Contest(f"{n_obs:,} x {D}", methods, repeats, tolerance=1e-6))
        rows = session.run(contests)
    session.finish(rows, columns=COLUMNS, mean_of=lambda case: None)
    if session.path is not None:
        write_atomically(session.path.with_suffix(".md"), markdown(rows))


def method_names(n_obs: int, named: list[str] | None = None) -> list[str]:
    """Methods that are run at a size: those named or all, less what cannot run here or would take too long."""
    from sccagn_scale.graph import ALGORITHMS, why_unavailable

    known = ["auto", *ALGORITHMS, *PEERS]
    able = []
    for name in chosen("methods", named, known):
        reason = None
        if name in ALGORITHMS:
            reason = why_unavailable(name)  # type: ignore[arg-type]
            if reason is None and n_obs > LARGEST.get(name, n_obs):
                reason = f"takes too long beyond {LARGEST[name]:,}"
        elif name == "hnswlib":
            reason = _not_installed("hnswlib")
        if reason is None:
            able.append(name)
        else:
            say(f"{n_obs:,} cells: {name} is left out ({reason})")
    return able


def make_base(path: str, n_obs: int, n_vars: int) -> Outcome:
    """Target: simulate cells and keep their types and 50 PCs of the 2,000 most variable genes, log-normalised."""
    import anndata
    import numpy as np
    import scanpy as sc

    from sccagn_scale.simulate import simulate

    file = Path(path).with_suffix(".h5ad")
    simulate(file, n_obs, n_vars, n_types=min(N_TYPES, n_obs // 50))
    adata = anndata.read_h5ad(file)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=min(2000, n_vars // 2))
    adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.pca(adata, n_comps=D)
    points = adata.obsm["X_pca"].astype(np.float32)
    np.savez(path, points=points, types=adata.obs["cell_type"].astype("category").cat.codes.to_numpy())
    return Outcome({}, dict)


def draw(base: str, n_obs: int, random_state: int = 0) -> np.ndarray:
    """Draw cells like those of `base`, float32 [n_obs, 50].

    A cell is its type's mean plus the deviations of three cells of the type, divided by √3: mean and covariance of
    each type, and with them the spectrum of the noise, are those of the simulated cells.
    """
    import numpy as np

    file = np.load(base)
    points, types = file["points"], file["types"].astype(np.int64)
    order, size = np.argsort(types, kind="stable"), np.bincount(types)
    start = np.cumsum(size) - size
    means = np.stack([points[types == kind].mean(axis=0) for kind in range(len(size))])
    deviations = (points - means[types]) / np.float32(MIXED**0.5)
    generator = np.random.default_rng(random_state)
    kind = types[generator.integers(len(points), size=n_obs)]
    drawn = means[kind]
    for _ in range(MIXED):
        drawn += deviations[order[start[kind] + (generator.random(n_obs) * size[kind]).astype(np.int64)]]
    return drawn


def ours_job(base: str, n_obs: int, backend: str, device: str) -> Outcome:
    """Target: one of our backends, or the one that `auto` chooses for the device."""
    import torch

    from sccagn_scale.graph import neighbors, resolved_backend

    chosen = resolved_backend(backend, n_obs, device)  # type: ignore[arg-type]

    def find(points: np.ndarray) -> np.ndarray:
        return neighbors(points, N_NEIGHBORS, chosen, device=torch.device(device)).indices

    if device == "cuda":
        find(draw(base, 5000))  # CUDA and FAISS set themselves up when they are first used
    return _timed(base, n_obs, find, {"backend": chosen})


def scanpy_job(base: str, n_obs: int) -> Outcome:
    """Target: pynndescent as scanpy's neighbors sets it up, but on all cores; without the making of connectivities."""
    import numpy as np
    from pynndescent import PyNNDescentTransformer

    def find(points: np.ndarray) -> np.ndarray:
        rounds = {
            "n_trees": min(64, 5 + round(len(points) ** 0.5 / 20)),
            "n_iters": max(5, round(np.log2(len(points)))),
        }
        transformer = PyNNDescentTransformer(n_neighbors=N_NEIGHBORS, random_state=0, n_jobs=-1, **rounds)
        graph = transformer.fit_transform(points)
        found = graph.indices.reshape(len(points), -1)
        if found.shape[1] > N_NEIGHBORS:  # it may add the cell itself to those it was asked for
            rank = graph.data.reshape(found.shape).argsort(axis=1, kind="stable")
            found = np.take_along_axis(found, rank[:, :N_NEIGHBORS], axis=1)
        return found

    find(draw(base, 5000))  # it compiles itself when it first runs
    return _timed(base, n_obs, find)


def hnswlib_job(base: str, n_obs: int) -> Outcome:
    """Target: hnswlib with 16 links, 200 candidates in building (its defaults) and 96 in search, as our `hnsw`."""
    import hnswlib

    def find(points: np.ndarray) -> np.ndarray:
        index = hnswlib.Index("l2", D)
        index.init_index(len(points), random_seed=0)
        index.add_items(points)
        index.set_ef(96)
        return index.knn_query(points, N_NEIGHBORS)[0]

    return _timed(base, n_obs, find)


def _timed(
    base: str, n_obs: int, find: Callable[[np.ndarray], np.ndarray], facts: dict[str, Any] | None = None
) -> Outcome:
    import numpy as np

    points = draw(base, n_obs)
    start = time.perf_counter()
    found = find(points)
    seconds = time.perf_counter() - start
    peak = peak_rss_mb()

    def score() -> dict[str, dict[str, Any]]:
        import faiss

        from sccagn_scale.graph import knn_recall

        rows = np.sort(np.random.default_rng(1).choice(n_obs, min(N_SAMPLE, n_obs), replace=False))
        recall = knn_recall(found[rows], faiss.knn(points[rows], points, N_NEIGHBORS)[1])
        return {case: {"recall": recall, "points_per_second": n_obs / seconds, **(facts or {})}}

    case = f"{n_obs:,} x {D}"
    return Outcome({case: [seconds]}, score, {"total": float(points.sum(dtype=np.float64))}, {case: peak})


def markdown(rows: list[Row]) -> str:
    """The rows as a table."""
    lines = ["| cells | method | seconds | spread (IQR) | peak RSS (MiB) | recall@15 |", "|---|---|---|---|---|---|"]
    for row in rows:
        metrics = row["metrics"]
        name = row["method"] + (f" ({metrics['backend']})" if row["method"] == "auto" and "backend" in metrics else "")
        if "error" in metrics:
            cells = [metrics["error"], "–", "–", "–"]
        else:
            cells = [f"{row['seconds']:.2f}", f"{row['spread']:.2f}", f"{row['peak_rss_mb']:.0f}"]
            cells.append(f"{metrics['recall']:.4f}")
        lines.append(f"| {' | '.join([row['case'], name, *cells])} |")
    return "\n".join(lines) + "\n"


def _asked(name: str, device: str) -> dict[str, str]:
    return {} if name in PEERS else {"backend": name, "device": device}


def _not_installed(package: str) -> str | None:
    import importlib.util

    return None if importlib.util.find_spec(package) else f"pip install {package}"


def _size(text: str) -> int:
    if not text.isdigit() or int(text) < N_NEIGHBORS:
        raise InputError(
            f"`--sizes` must be whole numbers of at least {N_NEIGHBORS}, with commas between; {text!r} is not."
        )
    return int(text)
