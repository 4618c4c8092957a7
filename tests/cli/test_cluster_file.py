"""`cluster` with the real model on a file whose X stays there."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
from cli_samples import cluster

from sccagn_scale.model import _workspace


def test_damage_found_while_preprocessing_is_the_inputs(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(cells, "r+") as file:
        file["X/indices"][3] = 99
    assert cluster(cells, "-o", cells.parent / "out.h5ad", "--quiet") == 2
    err = capsys.readouterr().err
    assert err.startswith("sccagn-scale: error: `INPUT`")
    assert "index 99 is not below 9" in err
    assert list(cells.parent.iterdir()) == [cells]


@pytest.mark.filterwarnings("ignore")  # what distributed does is not ours
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-k", "41"], "`--n-clusters` = 41 needs at least as many cells; there are 40 in the input."),
        (["--memory", "1M"], "`--memory` = 1 MB is too little: with large arrays on disk the run still takes about "),
        (["--dask", "nonsense"], "`--dask` = 'nonsense' must be 'local' or the address of a scheduler, "),
        (["--layer", "no"], "`--layer` must be one of None (X); there is no 'no'."),
        (["--device", "cuda"], "`--device` = 'cuda' needs a GPU and a CUDA build of torch; none was found."),
        (["--seed", "-1"], "`--seed` must be a whole number of at least 0 and below 2³²; it is -1"),
        (["--key-added", "a/b"], "`--key-added` must be a name, not empty and without a slash; it is 'a/b'."),
    ],
)
def test_what_the_model_refuses_is_told_by_the_options_name(
    cells: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    if "--dask" in options:
        pytest.importorskip("distributed")
        monkeypatch.setattr(_workspace, "_PATIENCE", 0.5)
    assert cluster(cells, "-o", cells.parent / "out.h5ad", "--quiet", *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sccagn-scale: error: {message}")
    assert err.count("\n") == 1
    assert list(cells.parent.iterdir()) == [cells]
