"""What is counted about batches, what is run on which set, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_samples import asked, read_greedily, row, write_set

from benchmarks import _results, loaders
from benchmarks.__main__ import main
from benchmarks._loaders_report import markdown
from benchmarks._outcome import memory_mb, peak_rss_mb
from benchmarks._results import Row
from sccagn_scale import SCCAGN, Config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("a", "b"):
        write_set(folder / f"{name}.h5ad", 300, 200)
    return folder


@pytest.mark.parametrize(
    ("options", "n_batches"),
    [({"loader": "partition"}, 3), ({"loader": "neighbor"}, 3), ({"batch_size": None}, 1)],
)
def test_a_target_measures_scores_and_batches(data: Path, options: dict[str, Any], n_batches: int) -> None:
    config = {"input_kind": "counts", "batch_size": 100, "pretrain_steps": 4, "joint_steps": 4} | options
    outcome = loaders.run_config(str(data / "a.h5ad"), "a/loader", config, 2, 4)
    assert len(outcome.seconds["a/loader"]) == 2
    metrics = outcome.score()["a/loader"]
    assert metrics["n_batches"] == n_batches
    assert len(metrics["nmi_each"]) == 2
    assert metrics["nmi"] == pytest.approx(np.mean(metrics["nmi_each"]))
    assert 0 < metrics["edges_kept"] <= 1
    assert 0 <= metrics["waiting"] < 1
    assert metrics["step_ms"] > 0
    if options.get("loader") == "neighbor":
        assert metrics["cells_per_seed"] > 1
    else:
        assert metrics["cells_per_seed"] == 1
    if n_batches == 1:
        assert (metrics["edges_kept"], metrics["waiting"], metrics["batches_per_s"]) == (1, 0, None)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system resets no peaks")
def test_memory_that_reading_took_is_not_counted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "read_blind", read_greedily)
    config = {"input_kind": "counts", "batch_size": 100, "pretrain_steps": 1, "joint_steps": 1}
    before = memory_mb("VmRSS")
    loaders.run_config(str(data / "a.h5ad"), "a/loader", config, 1, 1)
    assert peak_rss_mb() < before + 200


def test_all_edges_are_kept_where_all_neighbours_are_drawn(data: Path) -> None:
    cells, _ = loaders.read_blind(data / "a.h5ad")
    config = Config(
        input_kind="counts", loader="neighbor", n_fanout=(300,), batch_size=100, pretrain_steps=1, joint_steps=1
    )
    model = SCCAGN(cells, 3, config).train()
    assert loaders._batches(model, cells, 3)["edges_kept"] == 1


def test_every_method_meets_every_set(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "in_fresh_process", lambda target, kwargs: None)  # which simulates the cells
    request = ["loaders", "--data", str(data), "--sets", "a,b", "--cells", "5000", "--json", str(tmp_path / "r.json")]
    contests = {contest.case: [m.name for m in contest.methods] for contest in asked(request, monkeypatch)}
    scopes = ["anchors", "subgraph", "full"]
    assert contests["a/attention"] == contests["b/attention"] == scopes
    assert contests["simulated 5,000/attention"] == ["anchors", "subgraph"]
    for case in ("a/loader", "b/loader", "simulated 5,000/loader"):
        assert {"partition", "neighbor", "full"} <= set(contests[case])


def test_a_quick_run_keeps_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path / "results")
    for sets in (["--sets", "a,b"], []):
        contests = asked(["loaders", "--data", str(data), *sets, "--quick", "--cells", "0"], monkeypatch)
        assert {contest.case for contest in contests} == {"a/loader", "a/attention"}
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sets", "c"], "`--sets` knows a, b, but not c"),
        (["--seeds", "0"], "`--seeds` must be"),
        (["--cells", "-1"], "`--cells` must be at least 0"),
    ],
)
def test_a_request_that_cannot_be_done_is_one_sentence(
    data: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["loaders", "--data", str(data), "--quick", "--sets", "a", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_default_sets_are_run_or_missed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["loaders", "--data", str(data), "--cells", "0", "--json", str(tmp_path / "r.json")]
    assert main(request) == 2
    said = capsys.readouterr().err
    assert "has no cite_cbmc, kang_pbmc, worm_neuron; `--sets` can name others" in said
    assert "knows" not in said
    monkeypatch.setattr(loaders, "SETS", ("b",))
    assert {contest.case for contest in asked(request, monkeypatch)} == {"b/loader", "b/attention"}


def test_the_whole_verb(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "LOADERS", {"neighbor": loaders.LOADERS["neighbor"]})
    monkeypatch.setattr(loaders, "SCOPES", {"full": loaders.SCOPES["full"]})
    out = tmp_path / "r.json"
    request = ["--data", str(data), "--sets", "a", "--seeds", "1", "--cells", "0", "--quick", "--json", str(out)]
    assert main(["loaders", *request]) == 0
    rows: list[Row] = json.loads(out.read_text())["rows"]
    assert {one["case"] for one in rows} == {"a/loader", "a/attention"}
    assert not any("error" in one["metrics"] for one in rows)
    table = out.with_suffix(".md").read_text()
    assert table == markdown(rows)
    assert table.count("| a |") == len(rows)


def test_the_table_says_what_failed() -> None:
    lines = markdown([row("a/loader", "full", None, error="no room")]).splitlines()
    assert lines[0] == "## Loaders"
    assert lines[-1].startswith("| a | full | failed | – |")
    assert len({line.count("|") for line in lines[2:] if line}) == 1
