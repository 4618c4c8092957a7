"""Compiled operators: that all methods compute one thing, and what happens to one that cannot run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import _products, kernels
from benchmarks.__main__ import main
from benchmarks._machine import available_memory
from sccagn_scale import ops
from sccagn_scale._errors import InputError

EAGER = ("reference", "eager_broadcast", "eager_matmul")  # compilers take half a minute


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators are what they are here; a benchmark's process chooses."""
    monkeypatch.setattr(kernels, "choose_extension", lambda wanted, device: None)


@pytest.mark.parametrize("case", list(kernels.STUDENT_T))
def test_every_form_of_the_loss_gives_the_same_loss_and_gradients(case: str) -> None:
    outcomes = [kernels.measure_student_t(case, method, 3000, 0.0, "cpu") for method in EAGER]
    assert set(outcomes[0].evidence) == {"loss", "by_z", "by_centroids"}
    for outcome in outcomes:
        assert outcome.evidence == pytest.approx(outcomes[0].evidence, rel=kernels.TOLERANCE)
        metrics = outcome.score()[case]
        assert metrics["of_bandwidth"] == pytest.approx(metrics["floor_ms"] / 1e3 / outcome.seconds[case][0])


@pytest.mark.parametrize("case", kernels.CSR)
def test_every_product_is_the_same(case: str) -> None:
    outcomes = [kernels.measure_csr(case, method, 0.0, "cpu") for method in kernels.CSR_METHODS if method != "ext"]
    for outcome in outcomes:
        assert outcome.evidence == pytest.approx(outcomes[0].evidence, rel=1e-5)


def test_broadcasting_that_memory_cannot_hold_says_so() -> None:
    with pytest.raises(InputError, match=r"This takes \d+ GiB, where \d+ GiB are available"):
        kernels.measure_student_t("student_t_k100", "eager_broadcast", 10**9, 0.0, "cpu")


def test_a_run_has_a_row_for_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "STUDENT_T_METHODS", ("ext", "reference"))
    assert main(["kernels", "--quick", "--cells", "2000", "--json", str(tmp_path / "k.json")]) == 0
    rows = json.loads((tmp_path / "k.json").read_text())["rows"]
    assert {(row["case"], row["method"]) for row in rows} == {
        *((case, method) for case in kernels.STUDENT_T for method in ("ext", "reference")),
        *((case, method) for case in kernels.CSR for method in kernels.CSR_METHODS),
    }
    for row in rows:
        error = row["metrics"].get("error", "")
        assert (row["seconds"] or 0) > 0 or (row["method"] == "ext" and "`make ext` builds it" in error)


def test_plain_torch_is_what_others_must_agree_with() -> None:
    assert next(iter(kernels.STUDENT_T_METHODS)) == next(iter(kernels.CSR_METHODS)) == "reference"


def test_memory_that_holds_pages_of_files_is_available() -> None:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free / 2 < (available_memory() or 0) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_what_is_compiled_is_looked_up_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], ops.implementations
    monkeypatch.setattr(ops, "implementations", lambda: asked.append(True) or real())
    _, backward = _products.by_operator(*_products.factors(30, 20, 0.5, 4))
    backward()
    backward()
    assert asked == [True]


def test_no_cells_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--quick", "--cells", "-3"]) == 2
    assert "`--cells` must be at least 1, but is -3." in capsys.readouterr().err


def test_only_the_cases_asked_for_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(kernels.CSR_METHODS, "torch_csr")
    monkeypatch.delitem(kernels.CSR_METHODS, "dense")
    assert main(["kernels", "--quick", "--cases", "csr_backward", "--json", str(tmp_path / "k.json")]) == 0
    rows = json.loads((tmp_path / "k.json").read_text())["rows"]
    assert {row["case"] for row in rows} == {"csr_backward"}
    assert main(["kernels", "--quick", "--cases", "csr_sideways"]) == 2
    assert "`--cases` knows student_t_k32, student_t_k100, csr_forward, csr_backward" in capsys.readouterr().err
