"""Presets with one thing changed: that each variant is one, what is run, and how differences are summed up."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bench_samples import asked, scored, write_set
from scipy import stats

from benchmarks import _ablation_report, ablation
from benchmarks.__main__ import main
from benchmarks._variants import AS_IS, VARIANTS
from sccagn_scale.config import Config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One labelled set of easily told types."""
    write_set(tmp_path / "a.h5ad", 120, 200)
    return tmp_path


def test_no_seeds_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quick in ([], ["--quick"]):
        assert main(["ablation", "--data", str(folder), "--seeds", "0", "--json", str(folder / "r.json"), *quick]) == 2
        assert "`--seeds` must be at least 1, but is 0" in capsys.readouterr().err
    assert not (folder / "r.json").exists()


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != AS_IS])
def test_a_variant_changes_some_preset(variant: str) -> None:
    assert any(ablation.changed(preset, variant) != Config.preset(preset) for preset in ablation.PRESETS)


def test_what_a_preset_has_already_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contests = asked(["ablation", "--data", str(folder), "--json", str(folder / "r.json")], monkeypatch)
    run = {contest.case: [method.name for method in contest.methods] for contest in contests}
    assert set(run) == {"a/default", "a/paper"}
    assert run["a/default"] == list(VARIANTS)
    missing = {"one mixture", "no anchor", "no whitening", "no rounding", "ν = 1", "50 steps of pretraining"}
    assert set(run["a/paper"]) == set(VARIANTS) - missing


def test_a_variant_is_measured_and_reported(folder: Path) -> None:
    arguments = ["--data", str(folder), "--presets", "default", "--quick", "--json", str(folder / "r.json")]
    assert main(["ablation", *arguments]) == 0
    table = (folder / "r.md").read_text()
    assert "| as it is | 1 | 1.000 | 1.000 | – | – |" in table
    assert "| Ward | 1 | 1.000 | 1.000 | +0.000" in table
    assert (folder / "r.png").stat().st_size > 10_000


def test_an_unknown_preset_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablation", "--data", str(folder), "--presets", "best", "--quick"]) == 2
    assert "`--presets` knows default, paper, but not best." in capsys.readouterr().err


def test_differences_are_taken_set_by_set() -> None:
    rows = [scored("a/paper", AS_IS, 0.5, 0.4), scored("b/paper", AS_IS, 0.7, 0.6), scored("c/paper", AS_IS, 0.9, 0.9)]
    rows += [scored("a/paper", "GAT", 0.6, 0.4), scored("b/paper", "GAT", 0.9, 0.5)]  # and none on c
    rows += [scored("a/default", AS_IS, 0.1, 0.1)]
    found = _ablation_report.Differences(rows, "paper")
    assert found.variants == [AS_IS, "GAT"]
    np.testing.assert_allclose(found.differences("GAT", "nmi"), [0.1, 0.2])
    np.testing.assert_allclose(found.scores("GAT", "ari"), [0.4, 0.5])
    assert _ablation_report.presets(rows) == ["paper", "default"]


def test_a_variant_of_kept_results_that_is_no_longer_run_comes_last() -> None:
    rows = [scored("a/paper", name, 0.5, 0.4) for name in (AS_IS, "of old", "Ward", "GAT")]
    assert _ablation_report.Differences(rows, "paper").variants == [AS_IS, "GAT", "Ward", "of old"]


def test_the_figure_has_a_row_for_every_variant_that_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "close", lambda figure: None)
    rows = [scored(f"{case}/paper", name, 0.5, 0.4) for case in "ab" for name in (AS_IS, "GAT", "Ward")]
    rows += [scored("a/default", AS_IS, 0.5, 0.4), scored("a/default", "no rounding", 0.5, 0.4)]
    _ablation_report.plot(rows, tmp_path / "r.png")
    figure = plt.gcf()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    monkeypatch.undo()
    plt.close(figure)
    assert names == ["GAT", "no rounding", "Ward"]


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=12)
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert _ablation_report.half_width(values) == pytest.approx((high - low) / 2)
    assert np.isnan(_ablation_report.half_width(values[:1]))
