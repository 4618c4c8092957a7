"""`sccagn-scale cluster`, with a stand-in for the model."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata as ad
import pytest
from cli_samples import cluster

from sccagn_scale import SCCAGN, Config, pl
from sccagn_scale._console import Console
from sccagn_scale._errors import InputError

pytestmark = pytest.mark.usefixtures("model")


def test_writes_everything_that_was_asked_for(cells: Path, capsys: pytest.CaptureFixture[str], model: Any) -> None:
    out, folder = cells.with_name("out.h5ad"), cells.parent
    run, plots, kept = folder / "run.json", folder / "new" / "plots", folder / "model"
    start = time.perf_counter()
    assert cluster(cells, "-o", out, "--json", run, "--plots", plots, "--model", kept, "--seed", 3) == 0

    assert "sccagn" in ad.read_h5ad(out).obs
    assert {path.name for path in plots.iterdir()} == {"cells.png", "training.png", "n_clusters.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())
    assert (kept / "model").exists()
    assert {path.name for path in folder.iterdir()} == {"cells.h5ad", "out.h5ad", "run.json", "new", "model"}
    (call,) = model.calls
    assert call == {
        "n_clusters": None,
        "config": Config(),
        "layer": None,
        "batch_key": None,
        "random_state": 3,
        "device": "auto",
        "memory": None,
        "store": None,
        "scratch": cells.parent,
        "dask": None,
    }

    facts = json.loads(run.read_text())
    assert (facts["n_obs"], facts["n_vars"], facts["n_clusters"]) == (40, 9, 3)
    assert facts["n_clusters_estimated"] is True
    assert facts["n_clusters_evidence"] == {"method": "stability", "n_clusters": [2, 3], "score": [0.5, None]}
    assert [c["n_obs"] for c in facts["clusters"]] == [13, 12, 13]
    assert all(0 < c["mean_confidence"] < 1 for c in facts["clusters"])
    assert facts["n_obs_without_cluster"] == 2
    assert facts["graph_recall"] == 1
    assert facts["params"] == {"random_state": 0, "n_hidden": [100, 200]}
    assert facts["versions"] == {"torch": "2.x"}
    assert facts["warnings"] == ["two genes are constant; left out"]
    assert list(facts["seconds"]) == ["Read", "Training", "Write", "Draw", "total"]
    assert facts["seconds"]["total"] >= sum(facts["seconds"].values()) / 2
    assert facts["seconds"]["total"] < time.perf_counter() - start
    assert facts["peak_rss_mb"] > 20

    summary = capsys.readouterr().out
    for words in ("40 cells × 9 genes", "38 cells, 7 genes", "3, estimated (stability)", "exact, recall 1.000"):
        assert words in summary
    for path in (out, run, plots / "cells.png", kept):
        assert str(path) in summary
    assert "(none)" in summary
    assert "peak memory" in summary


@pytest.mark.parametrize("name", ["train", "write_to", "save"])
def test_the_stand_in_takes_what_the_model_takes(model: Any, name: str) -> None:
    def taken(kind: type) -> list[tuple[object, ...]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(getattr(kind, name)).parameters.values()]

    assert taken(model) == taken(SCCAGN)


def test_pictures_are_drawn_with_the_seed_of_the_run(cells: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, embedding, write_to = [], pl.embedding, model.write_to

    def with_seed(self: Any, adata: ad.AnnData, key_added: str) -> None:
        write_to(self, adata, key_added)
        adata.uns[key_added]["params"]["random_state"] = 7

    def drawn(adata: ad.AnnData, **options: Any) -> Any:
        seen.append(options.get("random_state"))
        return embedding(adata, **options)

    monkeypatch.setattr(model, "write_to", with_seed)
    monkeypatch.setattr(pl, "embedding", drawn)
    assert cluster(cells, "-o", cells.with_name("out.h5ad"), "--plots", cells.with_name("plots")) == 0
    assert seen == [7]


def test_stderr_has_a_line_for_each_stage_and_note(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster(cells, "-o", cells.with_name("out.h5ad")) == 0
    lines = capsys.readouterr().err.splitlines()
    names = [line.split(":")[0] for line in lines]
    assert names == ["Read", "note", "the values are counts", "Training", "Write"]
    assert lines[1] == "note: two genes are constant; left out"  # once, on one line
    assert "loss 0.3333  epoch 2" in lines[3]


def test_quiet_prints_only_notes(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster(cells, "-o", cells.with_name("out.h5ad"), "--quiet") == 0
    assert capsys.readouterr() == ("", "note: two genes are constant; left out\n")


def test_options_reach_the_model(cells: Path, model: Any) -> None:
    config = cells.with_name("my.toml")
    config.write_text('n_latent = 4\nn_neighbors = 12\nnu = "none"')
    out, store = cells.with_name("out.h5ad"), cells.with_name("store")
    options = ["--n-clusters", 5, "--layer", "raw", "--preset", "paper", "--config", config, "--device", "cpu"]
    options += ["--batch-key", "donor", "--set", "n_latent=16", "--set", "conv=gat"]
    options += ["--memory", "4G", "--store", store, "--dask", "tcp://h:1"]
    assert cluster(cells, "-o", out, *options, "--key-added", "mine", "--quiet") == 0
    (call,) = model.calls
    assert call == {
        "n_clusters": 5,
        "config": dataclasses.replace(Config.preset("paper"), n_neighbors=12, nu=None, n_latent=16, conv="gat"),
        "layer": "raw",
        "batch_key": "donor",
        "random_state": 0,
        "device": "cpu",
        "memory": 4 * 10**9,
        "store": store,
        "scratch": cells.parent,
        "dask": "tcp://h:1",
    }
    assert {"mine", "mine_confidence"} <= set(ad.read_h5ad(out).obs)


def test_auto_is_no_number(cells: Path, model: Any) -> None:
    assert cluster(cells, "-o", cells.with_name("out.h5ad"), "-k", "auto", "-q") == 0
    assert model.calls[0]["n_clusters"] is None


def test_given_number_has_no_evidence(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plots = cells.parent / "plots"
    assert cluster(cells, "-o", cells.with_name("out.h5ad"), "-k", 4, "--plots", plots) == 0
    assert {path.name for path in plots.iterdir()} == {"cells.png", "training.png"}
    assert "4, as asked for\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("divided", "4, as asked for: the 3 that the data support best, divided"),
        ("joined", "4, as asked for: the 3 that the data support best, joined"),
        ("consensus", "4, as asked for; the data support 3 best"),
    ],
)
def test_another_number_that_the_data_support_is_told(
    method: str, told: str, cells: Path, capsys: pytest.CaptureFixture[str], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_to = model.write_to
    initial = {"method": method, "n_supported": 3}

    def with_initial(self: object, adata: ad.AnnData, key_added: str) -> None:
        write_to(self, adata, key_added)
        adata.uns[key_added]["initial"] = initial

    monkeypatch.setattr(model, "write_to", with_initial)
    run = cells.with_name("run.json")
    assert cluster(cells, "-o", cells.with_name("out.h5ad"), "-k", 4, "--json", run) == 0
    assert f"{told}\n" in capsys.readouterr().out
    assert json.loads(run.read_text())["initial"] == initial


def test_pictures_are_of_the_results_that_were_named(cells: Path) -> None:
    plots = cells.parent / "plots"
    assert cluster(cells, "-o", cells.with_name("out.h5ad"), "--plots", plots, "--key-added", "mine") == 0
    assert {path.name for path in plots.iterdir()} == {"cells.png", "training.png", "n_clusters.png"}


def test_result_without_any_facts_is_shown_all_the_same(
    cells: Path, capsys: pytest.CaptureFixture[str], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_to(self: object, adata: ad.AnnData, key_added: str) -> None:
        adata.obs[key_added] = ["a"] * 30 + ["b"] * 10

    monkeypatch.setattr(model, "write_to", write_to)
    run = cells.with_name("run.json")
    assert cluster(cells, "-o", cells.with_name("out.h5ad"), "--json", run) == 0
    assert json.loads(run.read_text())["clusters"][1] == {"name": "b", "n_obs": 10, "mean_confidence": None}
    assert "2, estimated" in capsys.readouterr().out


def test_empty_clusters_and_other_plausible_numbers_are_told(
    cells: Path, capsys: pytest.CaptureFixture[str], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_to(self: object, adata: ad.AnnData, key_added: str) -> None:
        adata.obs[key_added] = ["a"] * 30 + ["b"] * 10
        adata.uns[key_added] = {
            "n_clusters": 4,
            "n_clusters_evidence": {"plausible": [3, 5], "score": [0.5], "n_clusters": [4]},
            "versions": {"torch": "2.y"},
        }

    monkeypatch.setattr(model, "write_to", write_to)
    run = cells.with_name("run.json")
    assert cluster(cells, "-o", cells.with_name("out.h5ad"), "--json", run) == 0
    assert "4, estimated, 3 to 5 fit about as well; 2 of them hold no cell" in capsys.readouterr().out
    assert json.loads(run.read_text())["versions"] == {"torch": "2.y"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "cells.h5ad"], "`--output` must not be the same as `INPUT`"),
        (["-o", "./sub/../cells.h5ad"], "`--output` must not be the same as `INPUT`"),
        (["-o", "hard_link.h5ad"], "`--output` must not be the same as `INPUT`"),
        (["-o", "soft_link.h5ad"], "`--output` must not be the same as `INPUT`"),
        (["-o", "out.h5ad", "--json", "cells.h5ad"], "`--json` must not be the same as `INPUT`"),
        (["-o", "out.h5ad", "--json", "out.h5ad"], "`--json` must not be the same as `--output`"),
        (["-o", "out.h5ad", "--plots", "x", "--model", "x"], "`--model` must not be the same as `--plots`"),
        (["-o", "out.h5ad", "--config", "my.toml", "--json", "my.toml"], "`--json` must not be the same as `--config`"),
        (["-o", "out.csv"], "`--output` must end in .h5ad or .zarr"),
        (["-o", "no/such/out.h5ad"], "`--output` must lie in an existing folder"),
        (["-o", "out.h5ad", "--json", "no/such.json"], "`--json` must lie in an existing folder"),
        (["-o", "out.h5ad", "--json", "sub"], "`--json`"),
        (["-o", "out.h5ad", "--plots", "cells.h5ad/x"], "`--plots`"),
        (["-o", "out.h5ad", "--model", "my.toml"], "`--model`"),
        (["-o", "out.h5ad", "--config", "no.toml"], "`--config` 'no.toml' cannot be read: No such file or directory."),
        (["-o", "out.h5ad", "--config", "bad.toml"], "`--config` 'bad.toml' is not a TOML file: "),
        (["-o", "out.h5ad", "--config", "my.toml"], "`--config` 'my.toml' has an unknown name 'a'; the names are "),
        (
            ["-o", "out.h5ad", "--set", "n_latent"],
            "`--set` must have the form NAME=VALUE, as in n_neighbors=30; one is",
        ),
        (
            ["-o", "out.h5ad", "--set", "n_latents=8"],
            "`--set` has an unknown name 'n_latents'; did you mean 'n_latent'?",
        ),
        (["-o", "out.h5ad", "--set", "n_latent=0"], "`n_latent` must be at least 1; it is 0."),
        (["-o", "out.h5ad", "--model", "x", "--batch-key", "a"], "`--model` must not be given with `--batch-key`"),
    ],
)
def test_options_are_checked_before_the_work(
    cells: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(cells.parent)
    Path("my.toml").write_text("a = 1")
    Path("bad.toml").write_text("nonsense")
    Path("sub").mkdir()
    os.link("cells.h5ad", "hard_link.h5ad")
    os.symlink("cells.h5ad", "soft_link.h5ad")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert cluster("cells.h5ad", *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sccagn-scale: error: {message}")
    assert err.count("\n") == 1
    assert not model.calls
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()} == before


def test_output_inside_the_input_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "10x").mkdir()
    assert cluster(tmp_path / "10x", "-o", tmp_path / "10x" / "out.h5ad") == 2
    assert "nor inside it" in capsys.readouterr().err


def test_missing_and_damaged_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Any) -> None:
    assert cluster(tmp_path / "none.h5ad", "-o", tmp_path / "out.h5ad") == 2
    assert "error: `INPUT` must name an existing file" in capsys.readouterr().err
    (tmp_path / "cut.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert cluster(tmp_path / "cut.h5ad", "-o", tmp_path / "out.h5ad") == 2
    assert "error: `INPUT`" in capsys.readouterr().err
    assert not model.calls
    assert {path.name for path in tmp_path.iterdir()} == {"cut.h5ad"}


def test_mistake_found_while_training(cells: Path, capsys: pytest.CaptureFixture[str], model: Any) -> None:
    model.failure = InputError("`n_clusters` must be below the number of cells, 40, got 99; choose fewer.")
    folder = cells.parent
    arguments = ["-o", folder / "o.h5ad", "--json", folder / "r.json", "--plots", folder / "p", "--model", folder / "m"]
    assert cluster(cells, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last == ("sccagn-scale: error: `--n-clusters` must be below the number of cells, 40, got 99; choose fewer.")
    assert "Traceback" not in err
    assert list(folder.iterdir()) == [cells]


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "sccagn-scale: interrupted"),
        (MemoryError("Unable to allocate 9 TiB\nfor an array"), 1, "not enough memory: Unable to allocate 9 TiB; use"),
        (MemoryError(), 1, "not enough memory: an allocation failed; use fewer cells"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "not enough memory"),
        (
            RuntimeError("StandardGpuResources: alloc fail type FlatData dev 0"),
            1,
            "not enough memory",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 1, "--device cpu"),
        (RuntimeError("new_empty API call failed: CUDA out of memory. Tried to"), 1, "not enough memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), 1, "CUDA out of memory; use"),
    ],
)
def test_other_ends(
    cells: Path, capsys: pytest.CaptureFixture[str], model: Any, failure: BaseException, code: int, message: str
) -> None:
    model.failure = failure
    assert cluster(cells, "-o", cells.with_name("out.h5ad")) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(cells.parent.iterdir()) == [cells]


def test_defects_keep_their_traceback(cells: Path, model: Any) -> None:
    model.failure = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        cluster(cells, "-o", cells.with_name("out.h5ad"))


@pytest.mark.parametrize(
    ("option", "name", "written", "writes"),
    [
        ("--json", "run.json", "run.json", "pathlib.Path.write_text"),
        ("--plots", "plots", "plots/cells.png", "matplotlib.figure.Figure.savefig"),
    ],
)
def test_a_full_disk_names_the_option_and_costs_no_results(
    cells: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    name: str,
    written: str,
    writes: str,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writes, full)
    out, folder = cells.with_name("out.h5ad"), cells.parent
    assert cluster(cells, "-o", out, option, folder / name) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    told = f"`{option}` '{folder / written}' could not be written: No space left on device."
    assert last == f"sccagn-scale: error: {told}"
    assert "sccagn" in ad.read_h5ad(out).obs
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == [cells, out]


def test_threads(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss
    import numba
    import torch

    for name in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMBA"):
        monkeypatch.setenv(f"{name}_NUM_THREADS", str(numba.config.NUMBA_NUM_THREADS))  # to be restored
    before = torch.get_num_threads(), faiss.omp_get_max_threads(), numba.get_num_threads()
    try:
        assert cluster(cells, "-o", cells.with_name("out.h5ad"), "--threads", 1, "-q") == 0
        assert (torch.get_num_threads(), faiss.omp_get_max_threads(), numba.get_num_threads()) == (1, 1, 1)
        assert os.environ["OMP_NUM_THREADS"] == "1"
    finally:
        numba.set_num_threads(before[2])
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def test_threads_of_blas_that_is_loaded() -> None:
    code = (
        "import os; os.environ.update(OPENBLAS_NUM_THREADS='2', OMP_NUM_THREADS='2')\n"
        "import numpy, scipy.linalg; from threadpoolctl import threadpool_info\n"
        "from sccagn_scale.cli._machine import limit_threads; limit_threads(1)\n"
        "print(*{library['num_threads'] for library in threadpool_info() if library['user_api'] == 'blas'})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1"]


def test_threads_of_a_new_process() -> None:
    code = (
        "from sccagn_scale.cli._machine import limit_threads; limit_threads(1)\n"
        "import torch, faiss; print(torch.get_num_threads(), faiss.omp_get_max_threads())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1", "1"]


def test_a_path_that_cannot_be_is_told(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster(cells, "-o", cells.with_name("x" * 300 + ".h5ad")) == 2
    assert "`--output`" in (said := capsys.readouterr().err)
    assert "cannot be used: File name too long; give another." in said


def test_names_that_are_no_utf8_are_written_as_far_as_they_can_be(cells: Path) -> None:
    odd, run = cells.with_name(os.fsdecode(b"cells\xe9.h5ad")), cells.with_name("run.json")
    try:
        odd.write_bytes(cells.read_bytes())
    except OSError:
        pytest.skip("the file system takes no such names")
    assert cluster(odd, "-o", cells.with_name("out.h5ad"), "--json", run) == 0
    assert json.loads(run.read_text())["input"] == [str(odd)]


def test_work_is_not_lost_for_what_cannot_be_shown(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sccagn_scale._console.RichConsole.print", full)
    with Console() as console:
        console.note("said")
        with console.stage("Read"):
            pass
