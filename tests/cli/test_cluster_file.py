"""`cluster` with the real model on a file whose X stays there."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from sccagn_scale.cli import main


def test_damage_found_while_preprocessing_is_the_inputs(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(cells, "r+") as file:
        file["X/indices"][3] = 99
    assert main(["cluster", str(cells), "-o", str(cells.parent / "out.h5ad"), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sccagn-scale: error: `INPUT`")
    assert "index 99 is not below 9" in err
    assert list(cells.parent.iterdir()) == [cells]
