"""Table of `atlas`: what was planned, and what came; and what larger atlases would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._results import Row, write_atomically

ON_DISK, IN_MEMORY, PLAN, PASS, H5PY = "on disk", "in memory", "plan", "first pass", "h5py alone"
STAGES = ("read", "preprocess", "neighbors", "initial clusters", "joint training", "read out", "write")
PROJECTED = (10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8)


def add_ratios(rows: Sequence[Row]) -> None:
    """Compare jobs with their plan, the pass with h5py's, and clusters on disk with those in memory.

    Clusters and genes themselves are dropped.
    """
    found = {(row["case"], row["method"]): row for row in rows}
    for (case, method), row in found.items():
        metrics = row["metrics"]
        told = found[case, PLAN]["metrics"] if (case, PLAN) in found else {}
        foreseen = ON_DISK if told.get("on_disk") else IN_MEMORY
        if method == foreseen and "own_mb" in metrics and "memory_mb" in told:
            metrics["planned_memory"] = told["memory_mb"] / metrics["own_mb"]
            metrics["planned_seconds"] = told["run_seconds"] / row["seconds"]  # type: ignore[operator]
        alone = found.get((case, H5PY))
        if method == PASS and alone is not None and row["seconds"] and alone["seconds"]:
            metrics["of_h5py"] = alone["seconds"] / row["seconds"]
        held = found.get((case, IN_MEMORY))
        if method == ON_DISK and held is not None and metrics.get("labels") and held["metrics"].get("labels"):
            from sccagn_scale.metrics import evaluate

            metrics["ari_with_memory"] = evaluate(held["metrics"]["labels"], metrics["labels"])["ari"]
            metrics["same_genes"] = held["metrics"]["genes"] == metrics["genes"]
    for row in rows:
        for name in ("labels", "genes"):
            row["metrics"].pop(name, None)


def write(rows: Sequence[Row], *, beside: Path) -> None:
    """Write the tables (.md) beside the result file."""
    write_atomically(beside.with_suffix(".md"), markdown(rows))


def markdown(rows: Sequence[Row]) -> str:
    """Jobs, stages of the largest job on disk, and projections from it."""
    jobs = [row for row in rows if row["case"].startswith("whole/") and row["method"] in (ON_DISK, IN_MEMORY)]
    text = [
        "Memory is the process's own, in GB: pages of files, which the system drops when it needs room, are left out "
        "(the resident size with them in brackets).",
        "",
        _table(
            ["cells", "arrays", "minutes", "memory", "ARI", "planned memory", "planned time"],
            [_job(row) for row in jobs],
        ),
    ]
    done = [row for row in jobs if row["method"] == ON_DISK and row["seconds"] is not None]
    if done:
        largest = max(done, key=_cells)
        text += ["", f"Stages of {_cells(largest):,} cells on disk, and what more would take:", ""]
        text += [_projections(rows, largest)]
    return "\n".join(text) + "\n"


def _job(row: Row) -> list[str]:
    metrics = row["metrics"]
    if row["seconds"] is None:
        return [f"{_cells(row):,}", row["method"], metrics["error"], "", "", "", ""]
    return [
        f"{_cells(row):,}",
        row["method"],
        f"{row['seconds'] / 60:.1f}",
        f"{metrics['own_mb'] * 2**20 / 1e9:.2f} ({(row['peak_rss_mb'] or 0) * 2**20 / 1e9:.1f})",
        f"{metrics['ari']:.4f}",
        *(f"× {metrics[name]:.2f}" if name in metrics else "–" for name in ("planned_memory", "planned_seconds")),
    ]


def _projections(rows: Sequence[Row], job: Row) -> str:
    """Minutes from the stages of one job on disk, each by its own growth; memory and disk from the sizes of arrays."""
    from sccagn_scale.config import Config
    from sccagn_scale.model._needs import Size, needs
    from sccagn_scale.model._plan import stretched

    n_obs, per_cell = _cells(job), job["metrics"]["per_cell"]
    stages: dict[str, Any] = {
        row["case"].partition("/")[0]: row["seconds"]
        for row in rows
        if row["method"] == ON_DISK and row["case"].endswith(f"/{n_obs}")
    }
    lines = []
    for n in PROJECTED:
        size = Size(n, 20_000, int(n * per_cell), True)
        need = needs(size, Config(), on_disk=True, device_type="cpu").values()
        minutes = [stretched(stage.capitalize(), stages.get(stage, 0), n_obs, n, Config()) / 60 for stage in STAGES]
        memory, disk = (max(part) / 1e9 for part in zip(*need, strict=True))
        lines.append([f"{n:,}", *(f"{m:.1f}" for m in (*minutes, sum(minutes))), f"{memory:.1f}", f"{disk:.0f}"])
    return _table(["cells", *STAGES, "minutes", "memory, GB", "disk, GB"], lines)


def _cells(row: Row) -> int:
    return int(row["case"].partition("/")[2])


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])
