"""What a run leaves behind: the result's shape, nothing half-written, and a checkpoint that can be taken up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_samples import row

from benchmarks import _session
from benchmarks.__main__ import main
from benchmarks._choice import check_whole
from benchmarks._contest import Contest, Method
from benchmarks._machine import machine_facts
from benchmarks._results import Row, as_json, means, print_table, write_atomically
from benchmarks._session import Session
from sccagn_scale._errors import InputError

CONTESTS = [Contest(f"{name}/given", (Method("a", "x:y"), Method("b", "x:y"))) for name in ("one", "two")]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Contests run here and at once; the list says which did. A seed set to 'stop' ends the run as Ctrl-C would."""
    ran: list[tuple[str, str]] = []

    def run_contest(contest: Contest, *, threads: int | None, references: dict[str, Any]) -> Iterator[Row]:
        for method in contest.methods:
            if method.kwargs.get("stop"):
                raise KeyboardInterrupt
            ran.append((contest.case, method.name))
            yield row(contest.case, method.name, nmi=float("nan"), **({"error": "x"} if method.kwargs else {}))

    monkeypatch.setattr(_session, "run_contest", run_contest)
    return ran


def session(path: Path | None, *, resume: bool = False, **arguments: Any) -> Session:
    return Session("fake", path=path, arguments=arguments, resume=resume)


def test_result_file_has_the_one_shape(tmp_path: Path, ran: list[tuple[str, str]]) -> None:
    path = tmp_path / "new" / "fake.json"
    run = session(path, seeds=5, data=Path("/some/where"), cells=None)
    run.finish(run.run(CONTESTS), columns=("nmi",), mean_of=lambda case: None)
    result = json.loads(path.read_text())
    assert result.keys() == {"benchmark", "machine", "arguments", "rows"}
    assert result["benchmark"] == "fake"
    assert result["arguments"] == {"seeds": 5, "data": "where", "cells": None}
    assert [set(one) for one in result["rows"]] == [
        {"case", "method", "seconds", "spread", "peak_rss_mb", "metrics"}
    ] * 4
    assert result["rows"][0]["metrics"]["nmi"] is None  # JSON has no NaN
    assert [one.name for one in path.parent.iterdir()] == ["fake.json"]


def test_without_a_path_nothing_is_written(
    tmp_path: Path, ran: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = session(None)
    run.finish(run.run(CONTESTS), columns=(), mean_of=lambda case: None)
    assert not list(tmp_path.iterdir())
    assert "two/given" in capsys.readouterr().out


def test_an_interrupted_run_loses_nothing(tmp_path: Path, ran: list[tuple[str, str]]) -> None:
    path = tmp_path / "fake.json"
    stopped = [CONTESTS[0], Contest("two/given", (Method("a", "x:y"), Method("b", "x:y", {"stop": True})))]
    with pytest.raises(KeyboardInterrupt):
        session(path, seeds=5).run(stopped)
    assert not path.exists()  # an older complete result would still stand
    ran.clear()
    run = session(path, seeds=5, resume=True)
    rows = run.run(CONTESTS)
    assert ran == [("two/given", "b")]
    assert [(one["case"], one["method"]) for one in rows] == [
        (f"{name}/given", method) for name in ("one", "two") for method in "ab"
    ]
    run.finish(rows, columns=(), mean_of=lambda case: None)
    assert [one.name for one in tmp_path.iterdir()] == ["fake.json"]


def test_what_is_left_must_agree_with_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fakes.py").write_text(
        "from benchmarks._outcome import Outcome\n"
        "def work(n_obs, fail=False):\n"
        "    return 1 / 0 if fail else Outcome({'c': [1.0]}, lambda: {'c': {}}, {'n_obs': n_obs})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def contest(**of_b: Any) -> list[Contest]:
        return [Contest("c", (Method("a", "fakes:work", {"n_obs": 100}), Method("b", "fakes:work", of_b)))]

    assert "ZeroDivisionError" in session(tmp_path / "f.json").run(contest(n_obs=99, fail=True))[1]["metrics"]["error"]
    rows = session(tmp_path / "f.json", resume=True).run(contest(n_obs=99))
    assert rows[1]["metrics"]["error"] == "disagrees with a: n_obs is 99 against 100"


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs_are_told(jobs: int) -> None:
    with pytest.raises(InputError, match=f"`--jobs` must be at least 1, but is {jobs}"):
        session(None).run(CONTESTS, jobs=jobs)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("kernels --cases csr_forward", "with `--cases`, name another file by `--json`"),
        ("store --methods mapped --repeats 1", "with `--repeats`, `--methods`, name"),
        ("pipeline --from x.h5ad", "with `--from`, name"),
        ("scale --peer-up-to 5", "with `--peer-up-to`, name"),
        *((f"{name} --quick --repeats 0", "`--repeats` must be at least 1, but is 0")
          for name in ("epoch", "kernels", "knn", "pipeline", "scale", "sparse", "store")),
        *((f"{name} --quick --cells 0", "`--cells` must be at least 1, but is 0")
          for name in ("epoch", "kernels", "pipeline", "store")),
        *((f"{name} --quick --genes 0", "`--genes` must be at least 1, but is 0")
          for name in ("atlas", "pipeline", "scale")),
    ],
)  # fmt: skip
def test_no_part_is_written_over_the_whole_and_no_empty_run_is_made(
    asked: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path)
    assert main(asked.split()) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_changes_no_figure_needs_no_file_of_its_own() -> None:
    usual = {"data": None, "jobs": 1, "folder": None, "device": "cpu", "seeds": None}
    check_whole(usual | {"data": Path("d"), "jobs": 2, "folder": Path("f"), "device": "cuda"}, usual, Path("r.json"))


@pytest.mark.parametrize(("more", "said"), [([], "nothing is kept"), (["--json", "r.json"], "--resume goes on")])
def test_an_interruption_says_whether_anything_is_kept(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.sparse.run", stop)
    assert main(["sparse", "--quick", *more]) == 130
    assert said in capsys.readouterr().err


def test_a_run_of_another_kind_is_not_taken_up_and_not_lost(tmp_path: Path, ran: list[tuple[str, str]]) -> None:
    session(tmp_path / "fake.json", seeds=5).run(CONTESTS)
    before = (tmp_path / "fake.partial").read_bytes()
    with pytest.raises(InputError, match="seeds was 5 and is now 3"):
        session(tmp_path / "fake.json", seeds=3, resume=True)
    assert (tmp_path / "fake.partial").read_bytes() == before
    with pytest.raises(InputError, match=r"other\.partial has none"):
        session(tmp_path / "other.json", resume=True)
    ran.clear()
    session(tmp_path / "fake.json", seeds=5).run(CONTESTS)
    assert len(ran) == 4


def test_a_failed_method_is_tried_again(tmp_path: Path, ran: list[tuple[str, str]]) -> None:
    bad = [Contest("one/given", (Method("a", "x:y"), Method("b", "x:y", {"bad": True})))]
    session(tmp_path / "fake.json").run(bad)
    ran.clear()
    session(tmp_path / "fake.json", resume=True).run(bad)
    assert ran == [("one/given", "b")]


def test_several_at_a_time_give_the_same_order_and_say_so(tmp_path: Path, ran: list[tuple[str, str]]) -> None:
    run = session(None)
    rows = run.run(CONTESTS, jobs=2)
    assert [(one["case"], one["method"]) for one in rows] == [(c.case, m.name) for c in CONTESTS for m in c.methods]
    assert run.machine["concurrent_runs"] == 2
    assert run.machine["threads_per_run"] >= 1


def test_writing_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    write_atomically(path, "old")

    def no_rename(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("benchmarks._results.os.replace", no_rename)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]


def test_means_are_taken_over_the_cases_that_belong_together() -> None:
    rows = [
        row("one/given", "a", 1.0, nmi=0.5),
        row("two/given", "a", 3.0, nmi=0.7),
        row("two/auto", "a", 9.0, nmi=0.1),
        row("one/given", "b", error="failed"),
    ]
    found = means(rows, ("nmi", "other"), lambda case: case.partition("/")[2])
    assert found == [
        ("mean of 1 × auto", "a", 9.0, 100.0, [0.1, None]),
        ("mean of 2 × given", "a", 2.0, 100.0, [pytest.approx(0.6), None]),
    ]
    assert means(rows, ("nmi",), lambda case: None) == []


def test_table_shows_rows_means_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("one/given", "a", nmi=0.25), row("one/given", "b", error="no such luck")]
    print_table(rows, ("nmi",), lambda case: "given")
    shown = capsys.readouterr().out
    assert "0.250" in shown
    assert "no such luck" in shown
    assert "mean of 1 × given" in shown


def test_json_is_strict() -> None:
    import numpy as np

    text = as_json({"a": np.float32(0.5), "b": np.arange(2), "c": (float("inf"), None), 1: np.nan})
    assert json.loads(text) == {"a": 0.5, "b": [0, 1], "c": [None, None], "1": None}


def test_machine_facts() -> None:
    facts = machine_facts()
    assert facts.keys() >= {"cpu", "cpu_model", "instructions", "cores", "memory_gib", "os", "python", "packages"}
    assert facts.keys() >= {"extension", "operators", "git_commit"}
    assert facts["cores"] >= 1
    assert facts["packages"]["scanpy"]
    assert facts["operators"]["csr_matmul"]["cpu"] in ("ext", "reference")
    json.dumps(facts)
