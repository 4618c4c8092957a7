"""The two jobs on one file: what is compared, how stages add up, and what cannot be measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bench_samples import row
from scipy.sparse import csc_matrix, csr_matrix

from benchmarks import pipeline
from benchmarks.__main__ import main
from benchmarks._labelled import made_cells

FAKE = """
from benchmarks._outcome import Outcome
import h5py

def job(path, truth, whole, stages, warm_up=None):
    n_obs = len(h5py.File(path)["X/indptr"]) - 1
    seconds = {"whole": [whole], **{name: [value] for name, value in stages.items()}}
    return Outcome(seconds, lambda: {"whole": {"n_obs": n_obs}}, {"n_obs": n_obs})
"""


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    adata, types = made_cells(120, 200, n_types=4)
    adata.obs["kind"] = pd.Categorical(types)
    adata.uns["secret"] = types.to_numpy()
    adata.write_h5ad(tmp_path / "counts.h5ad")
    return tmp_path / "counts.h5ad"


@pytest.fixture
def scanpy_on_one_thread() -> Iterator[Any]:
    """Its settings, put back afterwards."""
    import scanpy as sc

    before, sc.settings.n_jobs = sc.settings.n_jobs, 1
    yield sc.settings
    sc.settings.n_jobs = before


@pytest.mark.filterwarnings("ignore:.n_top_genes. > number:UserWarning")  # scanpy's, there being only 200 genes
def test_scanpy_job(counts: Path, scanpy_on_one_thread: Any) -> None:
    outcome = pipeline.scanpy_job(str(counts), "kind", warm_up=str(counts))
    seconds = {case: value for case, (value,) in outcome.seconds.items()}
    stages = ["read", "normalise", "hvg", "pca", "neighbors", "cluster", "other"]
    assert list(seconds) == ["whole", *stages, "import", "warm-up"]
    assert sum(seconds[stage] for stage in stages) == pytest.approx(seconds["whole"])
    assert outcome.evidence["n_obs"] == 120
    assert scanpy_on_one_thread.n_jobs == -1  # neighbours on all usable cores, as ours
    metrics = outcome.score()
    assert metrics["whole"] | {"nmi": 0, "ari": 0} == {"nmi": 0, "ari": 0, "n_clusters": 4, "n_types": 4, "n_obs": 120}
    assert metrics["whole"]["ari"] == pytest.approx(1.0)
    assert sum(metrics[stage]["share"] for stage in stages) == pytest.approx(1.0)


def test_neither_job_sees_a_label(counts: Path) -> None:
    import anndata

    adata, types, evidence = pipeline._blind(anndata.read_h5ad(counts), "kind")
    assert not len(adata.obs.columns)
    assert not adata.uns
    assert types.nunique() == 4
    assert evidence == {"n_obs": 120, "n_vars": 200, "n_stored": adata.X.nnz}


@pytest.mark.parametrize("made", [np.asarray, csr_matrix, csc_matrix])
def test_both_jobs_say_what_they_read_of_any_matrix(counts: Path, made: Callable[[Any], Any]) -> None:
    import anndata

    adata = anndata.read_h5ad(counts)
    adata.X = made(adata.X.toarray())
    adata.write_h5ad(counts)
    said = []
    for backed in ("r", None):
        read = anndata.read_h5ad(counts, backed=backed)
        said.append(pipeline._blind(read, "kind")[2])
        read.file.close()
    assert said[0] == said[1]
    assert said[0]["n_stored"] == adata.X.size
    pipeline.make_rehearsal(str(counts), str(counts.parent / "small.h5ad"), 50, "kind")


def test_ratio_to_the_peer_where_it_has_the_stage() -> None:
    rows = pipeline._compared(
        [
            row("whole", "sccagn_scale", 3.0),
            row("train", "sccagn_scale", 2.0),
            row("whole", "scanpy", 6.0),
            row("hvg", "scanpy", 4.0),
        ]
    )
    assert [(one["case"], one["method"]) for one in rows] == [
        ("whole", "sccagn_scale"),
        ("whole", "scanpy"),
        ("train", "sccagn_scale"),
        ("hvg", "scanpy"),
    ]
    assert [one["metrics"].get("ratio_to_scanpy") for one in rows] == [0.5, 1.0, None, 1.0]
    failed = pipeline._compared([row("whole", "sccagn_scale", 3.0), row("whole", "scanpy", None, error="x")])
    assert "ratio_to_scanpy" not in failed[0]["metrics"]


def test_both_run_in_turn_on_one_file(counts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (counts.parent / "fake_jobs.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(counts.parent))
    real = pipeline.Method

    def method(name: str, target: str, kwargs: dict[str, Any]) -> pipeline.Method:
        whole, stages = (2.0, {"read": 0.5, "train": 1.5}) if name == "sccagn_scale" else (4.0, {"read": 1.0})
        return real(name, "fake_jobs:job", kwargs | {"whole": whole, "stages": stages})

    monkeypatch.setattr(pipeline, "Method", method)
    out = counts.parent / "p.json"
    assert main(["pipeline", "--quick", "--file", str(counts), "--label", "kind", "--json", str(out)]) == 0
    found = {(one["case"], one["method"]): one["metrics"] for one in json.loads(out.read_text())["rows"]}
    assert found["whole", "sccagn_scale"]["ratio_to_scanpy"] == 0.5
    assert found["read", "sccagn_scale"]["ratio_to_scanpy"] == 0.5
    assert "ratio_to_scanpy" not in found["train", "sccagn_scale"]
    assert found["whole", "scanpy"]["n_obs"] == 120


def test_rehearsal_is_a_part_of_the_file(counts: Path) -> None:
    import anndata

    small = counts.parent / "small.h5ad"
    pipeline.make_rehearsal(str(counts), str(small), 50, "kind")
    assert anndata.read_h5ad(small).shape == (50, 200)
    pipeline.make_rehearsal(str(counts), str(small), 5000, "kind")
    assert anndata.read_h5ad(small).shape == (120, 200)


def test_files_that_cannot_be_measured_are_refused(counts: Path) -> None:
    import anndata

    with pytest.raises(ValueError, match="has no cell_type"):
        pipeline.make_rehearsal(str(counts), str(counts.parent / "s.h5ad"), 10, "cell_type")
    logged = anndata.read_h5ad(counts)
    logged.X = np.log1p(logged.X)
    logged.write_h5ad(counts)
    with pytest.raises(ValueError, match="looks like log values"):
        pipeline.make_rehearsal(str(counts), str(counts.parent / "s.h5ad"), 10, "kind")
