"""Which backends are run, on what cells, and what is said about each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import knn
from benchmarks._results import Row
from sccagn_scale._errors import InputError


@pytest.fixture
def base(tmp_path: Path) -> str:
    """300 cells of 3 types, each type with a covariance of its own."""
    rng = np.random.default_rng(0)
    types = np.repeat(np.arange(3), [150, 100, 50])
    scale = np.exp(rng.normal(size=(3, knn.D)))
    points = 10 * rng.normal(size=(3, knn.D))[types] + scale[types] * rng.normal(size=(300, knn.D))
    np.savez(tmp_path / "base.npz", points=points.astype(np.float32), types=types)
    return str(tmp_path / "base.npz")


def test_drawn_cells_keep_each_types_moments(base: str) -> None:
    file = np.load(base)
    drawn = knn.draw(base, 20_000)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, knn.draw(base, 20_000))
    assert not np.array_equal(drawn, knn.draw(base, 20_000, random_state=1))
    means = np.stack([file["points"][file["types"] == kind].mean(axis=0) for kind in range(3)])
    nearest = ((drawn[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_allclose(np.bincount(nearest) / 20_000, [1 / 2, 1 / 3, 1 / 6], atol=0.03)
    for kind in range(3):
        real, made = file["points"][file["types"] == kind], drawn[nearest == kind]
        np.testing.assert_allclose(made.std(axis=0), real.std(axis=0), rtol=0.1)


@pytest.mark.parametrize("backend", ["auto", "exact"])
def test_our_job(base: str, backend: str) -> None:
    outcome = knn.ours_job(base, 500, backend, "cpu")
    assert list(outcome.seconds) == ["500 x 50"]
    metrics = outcome.score()["500 x 50"]
    assert metrics["recall"] == 1.0
    assert metrics["backend"] == "exact"
    assert outcome.evidence == {"total": pytest.approx(float(knn.draw(base, 500).sum(dtype=np.float64)))}


def test_hnswlib_job(base: str) -> None:
    pytest.importorskip("hnswlib")
    assert knn.hnswlib_job(base, 500).score()["500 x 50"]["recall"] > 0.95


def test_methods_that_take_too_long_or_cannot_run_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(knn, "_not_installed", lambda name: f"pip install {name}")
    monkeypatch.setattr("sccagn_scale.graph.why_unavailable", lambda name: "no GPU" if name.endswith("_gpu") else None)
    assert knn.method_names(10_000) == ["auto", "exact", "hnsw", "ivf", "ivf_graph", "torch_exact", "scanpy"]
    assert knn.method_names(1_000_000) == ["auto", "ivf", "ivf_graph", "scanpy"]
    said = capsys.readouterr().out
    assert "1,000,000 cells: exact is left out (takes too long beyond 300,000)" in said
    assert "hnswlib is left out (pip install hnswlib)" in said
    assert "flat_gpu is left out (no GPU)" in said
    with pytest.raises(InputError, match=r"`--methods` knows auto, .*, but not nonsense"):
        knn.method_names(100, ["exact", "nonsense"])


@pytest.mark.parametrize("text", ["3", "x", "1e5"])
def test_sizes_are_whole_numbers(text: str) -> None:
    with pytest.raises(InputError, match="`--sizes` must be whole numbers"):
        knn._size(text)


def test_the_table_says_what_auto_chose_and_what_failed() -> None:
    metrics = {"recall": 0.97, "backend": "ivf_graph"}
    rows = [
        Row(case="10 x 50", method="auto", seconds=1.0, spread=0.1, peak_rss_mb=300.4, metrics=metrics),
        Row(case="10 x 50", method="scanpy", seconds=None, spread=None, peak_rss_mb=None, metrics={"error": "no"}),
    ]
    lines = knn.markdown(rows).splitlines()
    assert lines[2] == "| 10 x 50 | auto (ivf_graph) | 1.00 | 0.10 | 300 | 0.9700 |"
    assert lines[3] == "| 10 x 50 | scanpy | no | – | – | – |"
