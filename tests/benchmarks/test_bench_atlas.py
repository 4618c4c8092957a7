"""Jobs on disk: what they report, how it is compared with the plan, and what is made of it for larger atlases."""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_samples import row

from benchmarks import _atlas_report
from benchmarks.__main__ import main
from benchmarks._results import Row
from benchmarks.atlas import MemoryClock


def made() -> list[Row]:
    labels = {"on disk": [0, 0, 1, 1], "in memory": [1, 1, 0, 0]}
    rows = [
        row("pass/1000000", "h5py alone", 30.0),
        row("pass/1000000", "first pass", 40.0),
        row("whole/1000000", "plan", 8.0, memory_mb=1100.0, on_disk=True, run_seconds=300.0),
    ]
    for method in ("on disk", "in memory"):
        found = {"own_mb": 1000.0, "ari": 0.9, "per_cell": 500.0, "labels": labels[method], "genes": ["a", "b"]}
        rows.append(row("whole/1000000", method, 200.0, 2000.0, **found))
    rows += [row(f"{stage}/1000000", "on disk", 60.0, own_mb=1.0) for stage in ("preprocess", "neighbors")]
    return rows


def test_a_plan_is_compared_with_the_job_that_it_foretold() -> None:
    rows = made()
    _atlas_report.add_ratios(rows)
    found = {(r["case"], r["method"]): r["metrics"] for r in rows}
    stored = found["whole/1000000", "on disk"]
    assert stored["planned_memory"] == pytest.approx(1.1)
    assert stored["planned_seconds"] == 1.5
    assert (stored["ari_with_memory"], stored["same_genes"]) == (1.0, True)
    assert found["pass/1000000", "first pass"]["of_h5py"] == 0.75
    assert "planned_memory" not in found["whole/1000000", "in memory"]
    assert not any(name in metrics for metrics in found.values() for name in ("labels", "genes"))

    rows = made()
    rows[2]["metrics"]["on_disk"] = False
    _atlas_report.add_ratios(rows)
    assert "planned_memory" not in rows[3]["metrics"]
    assert rows[4]["metrics"]["planned_seconds"] == 1.5


def test_tables(tmp_path: Path) -> None:
    rows = made()
    _atlas_report.add_ratios(rows)
    _atlas_report.write(rows, beside=tmp_path / "atlas.json")
    lines = (tmp_path / "atlas.md").read_text().splitlines()
    assert "| 1,000,000 | on disk | 3.3 | 1.05 (2.1) | 0.9000 | × 1.10 | × 1.50 |" in lines
    table = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines if line.startswith("| ")}
    million, ten = table["1,000,000"], table["10,000,000"]
    assert million[2:4] == ["1.0", "1.0"]  # minutes of both stages
    assert float(ten[2]) == pytest.approx(10, abs=0.05)
    assert float(ten[3]) == pytest.approx(10**1.2, abs=0.05)
    for one in rows:
        if "per_cell" in one["metrics"]:
            one["metrics"]["per_cell"] = 700.0
    more = _atlas_report.markdown(rows).splitlines()
    disk, of_more = (float(line[-1].strip("| ").split(" | ")[-1]) for line in (lines, more))
    assert of_more - disk == pytest.approx(1e8 * 200 * 3 / 1e9, abs=1)  # values take a byte and columns two
    failed = [row("whole/1000000", "on disk", None, error="broke")]
    assert "| 1,000,000 | on disk | broke |" in _atlas_report.markdown(failed)


def test_pages_of_files_are_not_a_process_own_memory() -> None:
    library = max((Path(torch.__file__).parent / "lib").iterdir(), key=lambda path: path.stat().st_size)
    clock, size = MemoryClock(), 2**26
    with clock.watched(), library.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as pages:
        with clock.stage("idle"):
            _wait(lambda: "idle" in clock.own_mb)
        with clock.stage("mapped"):
            assert len(pages[:: mmap.PAGESIZE]) == size // mmap.PAGESIZE  # touches them all
            _wait(lambda: "mapped" in clock.own_mb)
        with clock.stage("held"):
            held = np.ones(size, np.uint8)
            _wait(lambda: clock.own_mb.get("held", 0) - clock.own_mb["idle"] > 50)
            del held
    assert clock.own_mb["mapped"] - clock.own_mb["idle"] < 10
    assert clock.own_mb["held"] - clock.own_mb["idle"] > 50


def _wait(seen: Callable[[], bool]) -> None:
    """A busy machine may let the thread that looks wait."""
    patience = time.monotonic() + 10
    while not seen() and time.monotonic() < patience:
        time.sleep(0.01)


def test_a_small_run(tmp_path: Path) -> None:
    command = ["atlas", "--quick", "--sizes", "300", "--genes", "200", "--in-memory-up-to", "300"]
    assert main([*command, "--folder", str(tmp_path / "files"), "--json", str(tmp_path / "atlas.json")]) == 0
    rows = {(r["case"], r["method"]): r for r in json.loads((tmp_path / "atlas.json").read_text())["rows"]}
    assert all("error" not in r["metrics"] for r in rows.values())
    stored, held = rows["whole/300", "on disk"], rows["whole/300", "in memory"]
    assert stored["metrics"]["ari_with_memory"] == 1
    assert stored["metrics"]["same_genes"] is True
    assert stored["metrics"]["n_clusters"] == held["metrics"]["n_clusters"]
    stages = [r["seconds"] for (case, method), r in rows.items() if method == "on disk" and case != "whole/300"]
    assert rows["other/300", "on disk"]["seconds"] > 0
    assert sum(stages) == pytest.approx(stored["seconds"])
    assert rows["pass/300", "first pass"]["metrics"]["of_h5py"] > 0
    assert rows["whole/300", "plan"]["metrics"]["memory_mb"] > 300
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["simulated_300x200.h5ad"]
    assert (tmp_path / "atlas.md").exists()
