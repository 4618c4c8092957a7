"""`sccagn-scale plan`: what it says follows from the input, and it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sccagn_scale
from sccagn_scale import SCCAGN, Config, graph
from sccagn_scale.cli import main
from sccagn_scale.io import _copied, open_atlas
from sccagn_scale.model import _plan
from sccagn_scale.model._needs import Need, Size

_ONE_BATCH: dict[str, Any] = {"joint_steps": 1, "batch_size": None, "n_attended": None}


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(0.5, (300, 80)).astype(np.float32))
    adata = ad.AnnData(counts)
    adata.layers["one"] = sp.csr_matrix(np.eye(300, 80, dtype=np.float32) + counts.toarray())
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_in_memory(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = cells.with_name("plan.json")
    assert main(["plan", str(cells), "--memory", "4G", "--json", str(told)]) == 0
    out = capsys.readouterr().out
    assert "300 cells × 80 genes" in out
    assert "4.00 GB may be taken: the run fits, with large arrays in memory" in out
    assert f" are free beside {cells}: the run fits\n" in out
    plan = json.loads(told.read_text())
    assert (plan["n_obs"], plan["n_vars"]) == (300, 80)
    assert plan["n_values"] == ad.read_h5ad(cells).X.nnz
    assert (plan["fits"], plan["large_arrays"], plan["memory_allowed"]) == (True, "memory", 4 * 10**9)
    stages = {stage["stage"]: stage for stage in plan["stages"]}
    assert list(stages) == ["Preprocess", "Neighbors", "Initial clusters", "Joint training", "Read out", "Write"]
    assert plan["memory"] == max(stage["memory"] for stage in stages.values())
    assert plan["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages.values()))
    assert all(stage["seconds"] > 0 for stage in stages.values())
    assert sorted(path.name for path in cells.parent.iterdir()) == ["cells.h5ad", "plan.json"]


def test_several_files_are_planned_as_one(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, told = cells.with_name("other.h5ad"), cells.with_name("plan.json")
    adata = ad.read_h5ad(cells)[:100].copy()
    adata.obs_names = [f"other{i}" for i in range(100)]
    adata.write_h5ad(other)
    assert main(["plan", str(cells), str(other), "-k", "3", "--json", str(told), "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    plan = json.loads(told.read_text())
    assert (plan["input"], plan["n_clusters"]) == ([str(cells), str(other)], 3)
    assert (plan["n_obs"], plan["n_vars"]) == (400, 80)
    assert plan["n_values"] == ad.read_h5ad(cells).X.nnz + adata.X.nnz


def test_settings_and_threads_are_those_of_the_run_that_is_timed(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, threads = [], []

    class Recorded(SCCAGN):
        def __init__(self, adata: ad.AnnData, n_clusters: int | None, config: Config, **more: Any) -> None:
            made.append((n_clusters, config))
            super().__init__(adata, n_clusters, config, **more)

    monkeypatch.setattr(_plan, "SCCAGN", Recorded)
    monkeypatch.setattr("sccagn_scale.cli.limit_threads", threads.append)
    settings = cells.with_name("my.toml")
    settings.write_text("joint_steps = 2\npretrain_steps = 4\n")
    options = ["--preset", "paper", "--config", str(settings), "--set", "pretrain_steps=3", "--threads", "2"]
    assert main(["plan", str(cells), "-k", "3", "-q", *options]) == 0
    paper = Config.preset("paper")
    assert made == [(3, dataclasses.replace(paper, joint_steps=2, pretrain_steps=3, knn_backend="exact"))]
    assert threads == [2]


def test_what_is_stored_by_columns_is_not_copied_but_the_copy_is_planned(
    cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = ad.read_h5ad(cells)
    adata.X = adata.X.tocsc()
    by_columns, told, scratch = (cells.with_name(name) for name in ("columns.h5ad", "plan.json", "scratch"))
    adata.write_h5ad(by_columns)
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr(_copied, "copied", lambda *_: pytest.fail("a copy was made"))
    disks = {}
    for path in (cells, by_columns):
        assert main(["plan", str(path), "--json", str(told), "-q", "-k", "3"]) == 0
        disks[path] = [stage["disk"] for stage in json.loads(told.read_text())["stages"]]
    kept = 8 * adata.X.nnz + 8 * adata.n_obs
    results = 4 * 300 * (50 + 24) + 20 * 300 * 15
    assert disks[cells] == [*[0] * 5, results + cells.stat().st_size]
    assert disks[by_columns] == [kept + 12 * adata.X.nnz, *[kept] * 4, kept + results + by_columns.stat().st_size]
    assert list(scratch.iterdir()) == []


def test_a_plan_from_python_shows_what_it_does(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = sccagn_scale.plan(sccagn_scale.open_atlas(cells), 3, Config(joint_steps=1), memory=10**9, progress=True)
    assert "Calibrate" in capsys.readouterr().err
    assert (planned.n_obs, planned.n_vars, planned.nnz) == (300, 80, ad.read_h5ad(cells).X.nnz)
    assert (planned.allowed, planned.on_disk, planned.fits) == (10**9, False, True)
    assert 0 < planned.memory < 10**9


def test_pretraining_is_planned_where_there_is_any(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = cells.with_name("plan.json")
    assert main(["plan", str(cells), "--set", "pretrain_steps=3", "--json", str(told), "-q"]) == 0
    stages = json.loads(told.read_text())["stages"]
    assert [stage["stage"] for stage in stages][1:4] == ["Neighbors", "Pretrain", "Initial clusters"]
    assert stages[2]["seconds"] > 0


def test_a_stage_that_was_timed_and_has_no_needs_is_a_mistake(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(SCCAGN):
        def train(self) -> SCCAGN:
            with self._listener.stage("Polish"):
                return super().train()

    monkeypatch.setattr(_plan, "SCCAGN", Longer)
    with pytest.raises(AssertionError, match="every stage"):
        _plan.plan(open_atlas(cells), 3, Config(joint_steps=1))


def test_batches_are_planned_for(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = ad.read_h5ad(cells)
    adata.obs["donor"] = np.where(np.arange(300) % 3, "a", "b")
    adata.obs["rare"] = np.where(np.arange(300) == 150, "a", "b")
    adata.write_h5ad(cells)
    seen = []

    class Recorded(SCCAGN):
        def __init__(self, sample: ad.AnnData, *given: Any, batch_key: str | None, **more: Any) -> None:
            seen.append(None if batch_key is None else sample.obs[batch_key].value_counts().to_dict())
            super().__init__(sample, *given, batch_key=batch_key, **more)

    monkeypatch.setattr(_plan, "SCCAGN", Recorded)
    told = tmp_path / "plan.json"
    peaks = {}
    for key in ("donor", None):
        options = [] if key is None else ["--batch-key", key]
        assert main(["plan", str(cells), "--json", str(told), "-q", "-k", "3", *options]) == 0
        plan = json.loads(told.read_text())
        assert plan["batch_key"] == key
        peaks[key] = plan["stages"][0]["memory"]
    assert seen == [{"a": 200, "b": 100}, None]
    assert peaks["donor"] >= peaks[None]
    monkeypatch.setattr(_plan, "_SAMPLE", 100)  # five cells of every sixteen
    _plan.plan(open_atlas(cells), 3, batch_key="donor")
    assert sum(seen[-1].values()) == 100
    assert set(seen[-1]) == {"a", "b"}
    _plan.plan(open_atlas(cells), 3, batch_key="rare")
    assert seen[-1] == {0: 50, 1: 50}  # the sample has one alone


@pytest.mark.parametrize(
    ("n_obs", "n_clusters", "backend", "init"),
    [(20_000, None, "exact", "consensus"), (10**6, None, "ivf", "leiden"), (10**6, 3, "ivf", "consensus")],
)
def test_a_sample_is_treated_as_that_many_cells_would_be(
    cells: Path, n_obs: int, n_clusters: int | None, backend: str, init: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Recorded(SCCAGN):
        def __init__(self, adata: ad.AnnData, n_clusters: int | None, config: Config, **more: Any) -> None:
            made.append((n_clusters, config.knn_backend.removesuffix("_graph"), config.init))
            assert more["device"] == "cpu"
            super().__init__(adata, n_clusters, dataclasses.replace(config, joint_steps=0), **more)

    monkeypatch.setattr(_plan, "SCCAGN", Recorded)
    monkeypatch.setattr(_plan, "input_size", lambda *_: Size(n_obs, 80, 40 * n_obs, True))
    assert _plan.plan(open_atlas(cells), n_clusters, memory=10**12, device="cpu").n_obs == n_obs
    assert made == [(n_clusters, backend, init)]


def test_a_gpu_is_planned_for_where_one_will_be_used(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def choose(backend: str, n_obs: int, device_type: str) -> str:
        if backend == "auto":
            asked.append((n_obs, device_type))
        return "exact"

    class OnCpu(SCCAGN):
        def __init__(self, *given: Any, device: str, **more: Any) -> None:
            asked.append((len(given[0]), device))
            super().__init__(*given, device="cpu", **more)

    monkeypatch.setattr(_plan, "SCCAGN", OnCpu)
    monkeypatch.setattr(_plan, "pick_device", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(graph, "resolved_backend", choose)
    search = graph.neighbors

    def searched(points: np.ndarray, *given: Any, device: torch.device, **more: Any) -> graph.Neighbors:
        if str(device) != "cpu":
            asked.append((len(points), str(device)))
        return search(points, *given, **more)

    monkeypatch.setattr(graph, "neighbors", searched)
    real = _plan.needs
    monkeypatch.setattr(
        _plan, "needs", lambda *given, **more: asked.append(more["device_type"]) or real(*given, **more)
    )
    _plan.plan(open_atlas(cells), 3)
    assert asked == [(300, "cuda"), (5000, "cuda:0"), (300, "auto"), "cuda"]


def test_all_of_a_consensus_grows_with_the_cells() -> None:
    seconds = {
        init: _plan.stretched("Initial clusters", 1.0, 25_000, 10**6, Config(init=init))
        for init in ("consensus", "leiden")
    }
    assert seconds["consensus"] == 40
    assert 1 < seconds["leiden"] < 20


def test_a_run_needs_what_its_largest_stage_needs_and_fits_where_it_may_take_just_that() -> None:
    steps = [_plan.Step("Neighbors", 500, 30, 1.5), _plan.Step("Write", 400, 70, 2.0)]
    plans = [_plan.Plan(10, 20, 50, *given, True, steps) for given in ((499, 70), (500, 69), (500, 70))]
    assert [(plan.memory, plan.disk, plan.seconds) for plan in plans] == [(500, 70, 3.5)] * 3
    assert [(plan.fits_memory, plan.fits_disk, plan.fits) for plan in plans] == [
        (False, True, False),
        (True, False, False),
        (True, True, True),
    ]


def test_a_run_that_memory_cannot_hold_is_planned_on_disk(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _plan.needs

    def said(size: Size, config: Config, *, on_disk: bool, **run: Any) -> dict[str, Need]:
        need = Need(500, 10_000) if on_disk else Need(2000, 0)
        return dict.fromkeys(real(size, config, on_disk=on_disk, **run), need)

    monkeypatch.setattr(_plan, "needs", said)
    config = dataclasses.replace(Config(), joint_steps=1)
    for memory, expected in ((1999, (True, 500, 10_000, True)), (2000, (False, 2000, 0, True))):
        planned = _plan.plan(open_atlas(cells), 3, config, memory=memory, device="cpu")
        assert (planned.on_disk, planned.memory, planned.steps[0].disk, planned.fits) == expected


def test_a_step_grows_with_its_batch() -> None:
    def grown(stage: str = "Joint training", n_obs: int = 100_000, **settings: Any) -> float:
        return _plan.stretched(stage, 1.0, 25_000, n_obs, Config(**settings))

    assert 1 < grown() < 1.5
    assert 1 < grown("Pretrain") < 1.5
    for settings in ({"batch_size": None}, {"batch_size": 100_000}):
        assert grown(**settings) == 4
    assert grown(batch_size=50_000) == 2
    assert grown("Pretrain", pretrain_batch_size=None) == 4
    to_all: dict[str, Any] = {"batch_size": None, "n_attended": None}
    assert 13 < grown(**to_all) < 16
    assert grown(**to_all, fusion="add") == grown(**to_all, fusion="none") == 4
    assert grown("Pretrain", **to_all, pretrain_batch_size=None) == 4  # which does not attend


def test_exact_search_grows_with_the_square() -> None:
    grown = [
        _plan.stretched("Neighbors", 1.0, 5_000, 20_000, Config(knn_backend=backend)) for backend in ("exact", "ivf")
    ]
    assert grown == [16, 4**1.2]


@pytest.mark.parametrize(
    ("settings", "n_cells"),
    [
        (_ONE_BATCH, 60),
        (_ONE_BATCH | {"batch_size": 250}, 60),
        (_ONE_BATCH | {"batch_size": 60}, 200),
        (_ONE_BATCH | {"joint_steps": 0}, 200),
        (_ONE_BATCH | {"n_attended": 10}, 200),
        (_ONE_BATCH | {"fusion": "add"}, 200),
    ],
)
def test_time_is_measured_on_fewer_cells_where_it_grows_with_their_square(
    cells: Path, settings: dict[str, Any], n_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Recorded(SCCAGN):
        def __init__(self, adata: ad.AnnData, *given: Any, **more: Any) -> None:
            seen.append(adata.n_obs)
            super().__init__(adata, *given, **more)

    monkeypatch.setattr(_plan, "SCCAGN", Recorded)
    monkeypatch.setattr(_plan, "_SAMPLE", 200)
    monkeypatch.setattr(_plan, "_SAMPLE_OF_PAIRS", 60)
    _plan.plan(open_atlas(cells), 3, Config(**settings), device="cpu")
    assert seen == [n_cells]


def test_what_does_not_fit(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(cells), "--memory", "10M"]) == 0
    assert "10 MB may be taken: the run does not fit, even with large arrays on disk" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--results-only"], ["-o", "{folder}/out.zarr"]])
def test_the_output_takes_disk_and_time(
    cells: Path, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, told = tmp_path / "other", tmp_path / "plan.json"
    folder.mkdir()
    adata = ad.read_h5ad(cells)
    del adata.layers["one"]
    adata.write_h5ad(cells)
    options = [option.format(folder=folder) for option in options]
    asked, free = [], 10**6
    monkeypatch.setattr(shutil, "disk_usage", lambda place: asked.append(place) or SimpleNamespace(free=free))
    results = 4 * 300 * (50 + 24) + 20 * 300 * 15
    matrices = {0: cells.stat().st_size, 1: 0, 2: 2 * adata.X.nnz}[len(options)]
    for fits in (True, False):
        free = results + matrices - (not fits)
        assert main(["plan", str(cells), "--json", str(told), "-k", "3", *options]) == 0
        plan = json.loads(told.read_text())
        assert (plan["disk"], plan["disk_free"]) == (plan["stages"][-1]["disk"], free) == (results + matrices, free)
        assert (plan["fits"], plan["fits_memory"], plan["fits_disk"]) == (fits, True, fits)
        assert plan["results_only"] == ("--results-only" in options)
        assert plan["stages"][-1]["seconds"] == pytest.approx(
            results / 200e6 + matrices / (30e6 if "-o" in options else 200e6)
        )
        place = options[1] if "-o" in options else cells
        assert f"beside {place}: the run {'fits' if fits else 'does not fit'}\n" in capsys.readouterr().out
    assert {*asked} == {folder if "-o" in options else cells.parent}
    assert list(folder.iterdir()) == []


def test_x_of_several_files_is_written_anew(cells: Path) -> None:
    other = cells.with_name("other.h5ad")
    adata = ad.read_h5ad(cells)
    adata.obs_names = "other " + adata.obs_names
    adata.write_h5ad(other)
    planned = _plan.plan(open_atlas([cells, other]), 3, Config(joint_steps=1))
    assert planned.disk == 2 * planned.nnz + 4 * 600 * (50 + 24) + 20 * 600 * 15


def test_another_layer(cells: Path) -> None:
    told = cells.with_name("plan.json")
    assert main(["plan", str(cells), "--layer", "one", "--json", str(told), "-q"]) == 0
    assert json.loads(told.read_text())["n_values"] == ad.read_h5ad(cells).layers["one"].nnz


@pytest.mark.parametrize("layer", [None, "one"])
def test_time_is_measured_on_cells_of_the_layer_and_nothing_is_said_of_them(
    cells: Path, layer: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sccagn_scale")
    samples = []

    class Recorded(SCCAGN):
        def __init__(self, adata: ad.AnnData, *given: Any, **more: Any) -> None:
            samples.append(adata.X.toarray())
            super().__init__(adata, *given, **more)

    monkeypatch.setattr(_plan, "SCCAGN", Recorded)
    _plan.plan(open_atlas(cells), 3, dataclasses.replace(Config(), joint_steps=1), layer=layer, device="cpu")
    whole = ad.read_h5ad(cells)
    np.testing.assert_array_equal(samples[0], (whole.X if layer is None else whole.layers[layer]).toarray())
    assert caplog.text == ""
    assert logging.getLogger("sccagn_scale").level == logging.INFO


def test_what_cannot_run_here_is_refused_before_anything_is_measured(
    cells: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graph, "why_unavailable", lambda backend: "the part it needs is not installed")
    monkeypatch.setattr(_plan, "_sample", lambda *_: pytest.fail("cells were read"))
    assert main(["plan", str(cells), "--set", "knn_backend=hnsw"]) == 2
    assert "`knn_backend` must be one that can run here, but 'hnsw' cannot: the part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.h5ad"], "`INPUT` must name an existing file"),
        (["{cells}", "--layer", "other"], "`--layer` must be one of None (X), 'one'"),
        (["{cells}", "-k", "301"], "`--n-clusters` = 301 needs at least as many cells"),
        (["{cells}", "--batch-key", "lot"], "`--batch-key` must name a column of obs, but there is no 'lot'"),
        (["{cells}", "--device", "cuda"], "`--device` = 'cuda' needs a GPU"),
        (["{cells}", "--json", "{cells}"], "`--json` must not be the same as `INPUT`"),
        (["{cells}", "-o", "{cells}"], "`--output` must not be the same as `INPUT`"),
        (["{cells}", "-o", "out.csv"], "`--output` must end in .h5ad or .zarr"),
        (["{other}", "{cells}", "--json", "{cells}"], "`--json` must not be the same as `INPUT 1`"),
        (["{cells}", "--config", "{config}", "--json", "{config}"], "`--json` must not be the same as `--config`"),
        (["{cells}", "--set", "n_latents=8"], "`--set` has an unknown name 'n_latents'; did you mean 'n_latent'?"),
    ],
)
def test_mistakes(cells: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    other, config = cells.with_name("other.h5ad"), cells.with_name("my.toml")
    other.write_bytes(cells.read_bytes())
    config.write_text("n_latent = 8")
    assert main(["plan", *(argument.format(cells=cells, other=other, config=config) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
