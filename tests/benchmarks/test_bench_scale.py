"""How stages grow: sizes, slopes, table and picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_samples import row

from benchmarks import _scale_report, scale
from benchmarks.__main__ import main
from benchmarks._results import Row
from sccagn_scale._errors import InputError


def made() -> list[Row]:
    """Ours linear in time and a square root in memory, one stage quadratic; scanpy at the smallest size alone."""
    rows = [row("whole/100", "scanpy", 77.0, 55.0)]
    for n in (100, 1000, 10_000):
        rows.append(row(f"whole/{n}", "sccagn_scale", n / 10, 10 * n**0.5))
        rows.append(row(f"neighbors/{n}", "sccagn_scale", n**2 / 1e4, 10 * n**0.5))
        rows.append(row(f"import/{n}", "sccagn_scale", 3.0, 5.0))
    return rows


def test_sizes_are_read_and_sorted() -> None:
    assert scale.parse_sizes("3000,1000,1000") == [1000, 3000]
    for wrong in ("", "ten", "10", "1000,-5"):
        with pytest.raises(InputError, match="`--sizes` must be whole numbers of at least 100"):
            scale.parse_sizes(wrong)


def test_slopes_are_those_of_logarithms_and_ours_alone() -> None:
    rows = made()
    _scale_report.add_slopes(rows)
    slopes = {r["case"]: r["metrics"] for r in rows if r["method"] == "sccagn_scale"}
    for n in (100, 1000, 10_000):
        assert slopes[f"whole/{n}"] == {"slope_seconds": pytest.approx(1.0), "slope_memory": pytest.approx(0.5)}
        assert slopes[f"neighbors/{n}"]["slope_seconds"] == pytest.approx(2.0)
        assert slopes[f"import/{n}"] == {}
    assert rows[0]["metrics"] == {}


def test_slopes_are_those_between_the_two_largest_sizes() -> None:
    """Small inputs may be done by other algorithms: slow up to 1,000 here, then linear."""
    rows = [row(f"whole/{n}", "sccagn_scale", seconds, 5.0) for n, seconds in ((10_000, 60.0), (100, 5.0), (1000, 6.0))]
    _scale_report.add_slopes(rows)
    assert rows[0]["metrics"] == {"slope_seconds": pytest.approx(1.0), "slope_memory": pytest.approx(0.0)}
    assert "| whole | 5.0 | 6.0 | 60.0 | 1.00 |" in _scale_report.markdown(rows)


def test_the_table_has_every_stage_and_size(tmp_path: Path) -> None:
    _scale_report.write(
        [*made(), row("whole/99000", "sccagn_scale", None, error="broke")], beside=tmp_path / "scale.json"
    )
    lines = (tmp_path / "scale.md").read_text().splitlines()
    assert "| stage | 100 | 1,000 | 10,000 | slope |" in lines
    assert "| whole | 10.0 | 100.0 | 1000.0 | 1.00 |" in lines
    assert "| neighbors | 1.0 | 100.0 | 10000.0 | 2.00 |" in lines
    assert "| scanpy, whole | 77.0 | – | – | – |" in lines
    assert not any("import" in line for line in lines)
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_files_are_made_once_and_jobs_run_at_every_size(tmp_path: Path) -> None:
    command = ["scale", "--quick", "--sizes", "150,300", "--genes", "200", "--peer-up-to", "0", "--folder"]
    command += [str(tmp_path / "files"), "--json", str(tmp_path / "scale.json")]
    assert main(command) == 0
    rows = json.loads((tmp_path / "scale.json").read_text())["rows"]
    cases = [r["case"] for r in rows]
    assert {"whole/150", "whole/300", "preprocess/150", "neighbors/300", "joint training/300"} <= set(cases)
    assert cases.index("whole/150") < cases.index("whole/300")
    assert {r["method"] for r in rows} == {"sccagn_scale"}
    assert all(r["metrics"].get("error") is None for r in rows)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "files").iterdir()}
    assert {path.name for path in kept} == {"simulated_150x200.h5ad", "simulated_300x200.h5ad"}
    assert main([*command[:3], "150", *command[4:]]) == 0
    assert all(path.stat().st_mtime_ns == made_at for path, made_at in kept.items())


def test_a_wrong_size_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", "--quick", "--sizes", "many"]) == 2
    assert "`--sizes`" in capsys.readouterr().err
