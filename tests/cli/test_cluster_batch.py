"""`cluster --batch-key` with the real model."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import harmonypy
import numpy as np
import pytest
import scipy.sparse as sp

from sccagn_scale.cli import main


@pytest.fixture
def donors(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rates = rng.gamma(1, 2, (2, 60))[np.arange(120) % 2]
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(rates).astype(np.float32)))
    adata.obs["donor"] = np.where(rng.random(120) < 0.5, "d1", "d2")
    adata.obs["one"] = "d1"
    adata.obs["gaps"] = adata.obs["donor"].where(np.arange(120) > 2)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_the_run_says_that_batches_were_corrected_for(donors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, run = donors.with_name("out.h5ad"), donors.with_name("run.json")
    options = ["-k", "2", "--batch-key", "donor", "--json", str(run)]
    assert main(["cluster", str(donors), "-o", str(out), *options]) == 0
    expected = ("donor", harmonypy.__version__)
    for record in (json.loads(run.read_text()), ad.read_h5ad(out).uns["sccagn"]):
        assert (record["params"]["batch_key"], record["versions"]["harmonypy"]) == expected
    summary, said = capsys.readouterr()
    assert f"Batches   donor, corrected for (harmonypy {expected[1]})" in summary.splitlines()
    assert "corrected for the 2 batches of 'donor'" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--batch-key", "lot"],
            "`--batch-key` must name a column of obs, but there is no 'lot'; the columns are: 'donor'",
        ),
        (["--batch-key", "one"], "`--batch-key` = 'one' must have at least two values among the cells"),
        (["--batch-key", "gaps"], "`--batch-key` = 'gaps' must have a value for every cell; 3 of 120 cells have none"),
        (["--batch-key", "donor", "--preset", "paper"], '`--batch-key` needs `input_rep` = "pca"'),
    ],
)
def test_mistakes_give_one_sentence_and_write_nothing(
    donors: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    folder = donors.parent
    written = ["-o", str(folder / "out.h5ad"), "--json", str(folder / "run.json")]
    assert main(["cluster", str(donors), "--quiet", *written, *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"sccagn-scale: error: {message}")
    assert err.count("\n") == 1
    assert list(folder.iterdir()) == [donors]
