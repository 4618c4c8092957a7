"""A disk that is too small for the output is told before the work."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pytest

from sccagn_scale.cli import main
from sccagn_scale.io import file_facts, open_atlas, output_size, write

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture
def clustered(cells: Path) -> Path:
    """Cells that can be clustered, and have been."""
    adata = ad.read_h5ad(cells)
    adata.obs["first"] = (np.arange(40) % 2).astype(str)
    adata.obsm["X_first"] = np.random.default_rng(0).random((40, 2), np.float32)
    adata.uns["first"] = {"params": {"nu": "none"}}
    adata.write_h5ad(cells)
    return cells


@pytest.fixture
def leave_free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the disk say that so many bytes are free."""
    free = []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[-1]))
    return free.append


@pytest.mark.parametrize("verb", ["cluster", "assign", "recluster"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_copy_that_the_disk_has_no_room_for_is_refused_before_the_work(
    clustered: Path,
    verb: str,
    in_place: bool,
    leave_free: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
    model: Any,
) -> None:
    out, kept = clustered.with_name("out.h5ad"), clustered.with_name("model")
    kept.mkdir()
    further = {"cluster": [], "assign": ["--model", str(kept)], "recluster": ["-k", "3", "--key", "first"]}[verb]
    command = [verb, str(clustered), *(["--inplace"] if in_place else ["-o", str(out)]), *further]
    before, size = clustered.read_bytes(), clustered.stat().st_size
    leave_free(size - 1)
    assert main(command) == 2
    error = capsys.readouterr().err
    name, what = ("FILE" if verb == "recluster" else "INPUT", "changed copy") if in_place else ("--output", "matrices")
    assert f"`{name}` needs {size:,} bytes for its {what}, but the disk of " in error
    assert f"has {size - 1:,} bytes free: make room, " in error
    assert ("--results-only" in error) == (verb != "recluster")
    assert "Recluster" not in error
    assert (model.calls, clustered.read_bytes(), out.exists()) == ([], before, False)
    if verb != "assign":  # for which there is no model here
        leave_free(size)
        assert main(command) == 0


def test_what_takes_no_room_is_not_refused(cells: Path, leave_free: Callable[[int], None]) -> None:
    write(ad.read_h5ad(cells), cells.with_suffix(".zarr"))
    leave_free(0)
    assert main(["cluster", str(cells), "-o", str(cells.with_name("out.h5ad")), "--results-only"]) == 0
    assert main(["cluster", str(cells.with_suffix(".zarr")), "--inplace"]) == 0  # whose matrices are linked


def test_nor_is_a_copy_where_the_file_system_shares_blocks(
    cells: Path, leave_free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(fcntl, "ioctl", lambda new, request, old: asked.append(request) or 0)
    leave_free(0)
    assert main(["cluster", str(cells), "--inplace"]) == 0
    assert asked == [0x40049409]
    assert [path.name for path in cells.parent.iterdir()] == ["cells.h5ad"]


def test_several_files_need_room_for_x(
    cells: Path, leave_free: Callable[[int], None], capsys: pytest.CaptureFixture[str], model: Any
) -> None:
    other, out = cells.with_name("other.h5ad"), cells.with_name("out.h5ad")
    adata = ad.read_h5ad(cells)
    adata.obs_names = "other " + adata.obs_names
    adata.write_h5ad(other)
    size = output_size(open_atlas([cells, other]), "anew")
    assert 0 < size < sum(file_facts(path)["size"] for path in (cells, other))
    leave_free(size - 1)
    assert main(["cluster", str(cells), str(other), "-o", str(out)]) == 2
    assert f"`--output` needs {size:,} bytes for its matrices" in capsys.readouterr().err
    assert not model.calls
    leave_free(size)
    assert main(["cluster", str(cells), str(other), "-o", str(out)]) == 0
