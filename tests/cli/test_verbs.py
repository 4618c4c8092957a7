"""`simulate`, `info` and the program itself."""

from __future__ import annotations

import json
import logging
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cli_samples import complaint, exit_code

from sccagn_scale._compat import package_version
from sccagn_scale._console import Console, duration
from sccagn_scale._errors import InputError
from sccagn_scale.cli import main
from sccagn_scale.cli._machine import peak_rss_mb
from sccagn_scale.cli._output import plain, write_json


def test_simulate_writes_an_atlas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "atlas.h5ad"
    assert main(["simulate", "-o", str(file), "--cells", "300", "--genes", "50", "--types", "4", "--seed", "2"]) == 0
    out, err = capsys.readouterr()
    adata = ad.read_h5ad(file)
    assert adata.shape == (300, 50)
    assert adata.obs["cell_type"].nunique() == 4
    assert "300 cells" in out
    assert err.count("\n") == 1


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Sixty cells of three types: a half, a third and a sixth of them."""
    rng = np.random.default_rng(0)
    types = np.repeat(np.arange(3), [30, 20, 10])
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(rng.gamma(0.5, 6, (3, 40))[types]).astype(np.float32)))
    adata.var_names = [f"real gene {i}" for i in range(40)]
    adata.obs["kind"] = pd.Categorical(np.array(["T", "B", "NK"])[types])
    adata.write_h5ad(tmp_path / "real.h5ad")
    return tmp_path / "real.h5ad"


def test_simulate_takes_types_shares_and_genes_from_real_cells(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = real.with_name("atlas.h5ad")
    assert exit_code(["simulate", "-o", file, "--cells", 600, "--from", real, "--label", "kind"]) == 0
    assert "600 cells" in capsys.readouterr().out
    adata = ad.read_h5ad(file)
    assert adata.obs["cell_type"].value_counts().to_dict() == {"T": 300, "B": 200, "NK": 100}
    assert adata.var_names.tolist() == [f"real gene {i}" for i in range(40)]
    means = [
        [np.asarray(cells.X[(cells.obs[column] == name).to_numpy()].mean(axis=0)).ravel() for name in ("T", "B", "NK")]
        for cells, column in ((adata, "cell_type"), (ad.read_h5ad(real), "kind"))
    ]
    assert [np.corrcoef(means[0][i], means[1])[0, 1:].argmax() for i in range(3)] == [0, 1, 2]


def test_simulate_is_silent_if_asked_to_be_and_heeds_the_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    for seed in (1, 1, 2):
        file = tmp_path / "atlas.h5ad"
        size = ["--cells", 100, "--genes", 50, "--types", 2]
        assert exit_code(["simulate", "-o", file, *size, "--seed", seed, "--quiet"]) == 0
        made.append(ad.read_h5ad(file).X.toarray())
    assert (made[0] == made[1]).all()
    assert (made[0] != made[2]).any()
    assert capsys.readouterr() == ("", "")


def test_simulate_gives_cells_as_many_counts_as_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "atlas.h5ad"
    assert exit_code(["simulate", "-o", file, "--cells", 500, "--genes", 200, "--counts", 500, "--quiet"]) == 0
    assert np.median(ad.read_h5ad(file).X.toarray().sum(axis=1)) == pytest.approx(500, rel=0.1)


def test_simulate_names_its_own_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "atlas.h5ad"
    assert "`--cells`" in complaint(["simulate", "-o", file, "--cells", 0], capsys)
    assert "`--types`" in complaint(["simulate", "-o", file, "--cells", 50, "--types", 1], capsys)
    assert "`--output`" in complaint(["simulate", "-o", tmp_path / "x.txt", "--cells", 50], capsys)
    assert "`--from`" in complaint(["simulate", "-o", file, "--cells", 50, "--from", tmp_path / "no.h5ad"], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "REAL"], "`--label` must name the column of the source's obs that holds the cell types, got none."),
        (["--label", "kind"], "`--label` needs a `--from` whose column it names, got 'kind' alone; give both or none."),
        (["--from", "REAL", "--label", "type"], "`--label` must be a column of the source's obs, got 'type'; its "),
        (["--from", "REAL", "--label", "kind", "-o", "REAL"], "`--output` must not be the same as `--from`"),
        (["--from", "REAL", "--label", "kind", "--counts", 500], "`--counts` must be left out with a `--from`, whose "),
        (["--counts", 0], "`--counts` must be a number above 0, got 0.0."),
        (["--counts", "nan"], "`--counts` must be a number above 0, got nan."),
        (["--counts", "inf"], "`--counts` must be a number above 0, got inf."),
        (["--seed", -1], "`--seed` must be a whole number of at least 0 and below 2³²; it is -1."),
    ],
)
def test_simulate_tells_mistakes_and_writes_nothing(
    real: Path, options: list[object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = real.read_bytes()
    given = [real if option == "REAL" else option for option in options]
    told = complaint(["simulate", "-o", real.with_name("atlas.h5ad"), "--cells", 50, *given], capsys)
    assert told.startswith(f"sccagn-scale: error: {message}")
    assert list(real.parent.iterdir()) == [real]
    assert real.read_bytes() == before


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    operators = {"csr_matmul": {"cpu": "ext", "cuda": "reference"}, "student_t": {"cpu": "reference"}}
    monkeypatch.setattr("sccagn_scale.ops.implementations", lambda: operators)
    monkeypatch.setattr("sccagn_scale.ops.instruction_set", lambda: "avx2")
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in (package_version("torch"), package_version("anndata"), "processor", "memory", "sccagn_scale_ext"):
        assert str(word) in text
    assert any(line.split() == ["csr_matmul", "ext", "reference"] for line in text.splitlines())
    assert any(line.split() == ["student_t", "reference", "-"] for line in text.splitlines())
    assert "Operators (ext: compiled, avx2)" in text

    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["operators"] == operators
    assert facts["instruction_set"] == "avx2"
    assert facts["versions"]["numpy"] == package_version("numpy")
    assert facts["optional"]["CUDA"]["detail"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["cluster", "a.h5ad"],
            "one of the arguments -o/--output --inplace is required (see `sccagn-scale cluster --help`)",
        ),
        (["cluster", "a.h5ad", "-o", "b.h5ad", "-k", "1"], "at least 2 clusters are needed, got 1"),
        (["cluster", "a.h5ad", "-o", "b.h5ad", "-k", "many"], "a whole number or `auto` is needed, got 'many'"),
        (["cluster", "a.h5ad", "-o", "b.h5ad", "--threads", "0"], "1 to 65,536 threads"),
        (["cluster", "a.h5ad", "-o", "b.h5ad", "--see", "1"], "unrecognized arguments: --see 1"),
        (["clutser"], "invalid choice: 'clutser'"),
    ],
)
def test_wrong_arguments_give_one_line(
    arguments: list[object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(arguments, capsys)


def test_without_a_verb_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "examples:" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [None, "cluster", "assign", "recluster", "plan", "evaluate", "simulate", "info"])
def test_help_fits_a_terminal(
    verb: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([*([verb] if verb else []), "--help"])
    assert stop.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sccagn_scale.cli import main\n"
        "try: main([sys.argv[1]])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'scanpy', 'anndata', 'numpy', 'pandas', 'rich', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for option in ("--help", "--version"):
        result = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert result.stdout.startswith(("usage: sccagn-scale", "sccagn-scale "))
        assert result.stderr.strip() == "[]"


def test_bars_in_a_terminal_and_results_on_stdout(tmp_path: Path) -> None:
    """As a process of its own, stderr being a terminal and stdout a pipe."""
    master, slave = pty.openpty()
    file = tmp_path / "atlas.h5ad"
    command = [sys.executable, "-m", "sccagn_scale", "simulate", "-o", str(file), "--cells", "500", "--genes", "40"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=environment, text=True) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                seen += os.read(master, 65536)
            except OSError:  # the other end is closed
                break
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(master)
    assert process.returncode == 0
    assert "━" in seen.decode()
    assert "100%" in seen.decode()
    assert out.startswith(f"Wrote {file}")


def test_reader_that_has_left() -> None:
    code = (
        "import sys, types; from sccagn_scale.cli import main\n"
        "verb = types.ModuleType('verb'); verb.run = lambda arguments: print('result')\n"
        "sys.modules['sccagn_scale.cli._info'] = verb; sys.exit(main(['info']))"
    )
    gone, pipe = os.pipe()
    os.close(gone)
    result = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, text=True)
    os.close(pipe)
    assert (result.returncode, result.stderr) == (1, "")


def test_plain_has_only_what_json_has() -> None:
    value = {
        1: np.float32(0.5),
        "a": np.array([1.0, np.nan]),
        "b": (np.int64(3), np.bool_(True), None, np.inf),
        "c": Path("x"),
    }
    assert plain(value) == {"1": 0.5, "a": [1.0, None], "b": [3, True, None, None], "c": "x"}


def test_peak_memory_is_the_highest_there_was() -> None:
    before = peak_rss_mb()
    held = np.ones(int(before * 1e6 + 50e6) // 8)
    after = peak_rss_mb()
    assert after - before > 40
    del held
    assert peak_rss_mb() > after - 5  # the kernel counts in batches


def test_json_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "run.json"
    write_json({"run": 1}, path)
    monkeypatch.setattr("sccagn_scale.io._atomic._sync", full)
    with pytest.raises(InputError, match=r"`--json` '.*run\.json' could not be written: No space left on device"):
        write_json({"run": 2}, path)
    assert json.loads(path.read_text()) == {"run": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_stage_that_comes_twice_has_its_time_added() -> None:
    with Console(quiet=True) as console:
        for pause in (0.1, 0.0):
            with console.stage("Search"):
                time.sleep(pause)
    assert list(console.seconds) == ["Search"]
    assert console.seconds["Search"] >= 0.1


def test_a_console_leaves_the_logger_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("sccagn_scale")
    before = logger.level, list(logger.handlers)
    with Console():
        logger.info("inside")
    assert (logger.level, logger.handlers) == before
    logger.info("outside")
    assert capsys.readouterr().err == "inside\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_logged_as_a_warning_is_a_note(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with Console(quiet=quiet) as console:
        for _ in range(2):
            logging.getLogger("sccagn_scale.model").warning("%d clusters hold no cell", 2)
    assert console.notes == ["2 clusters hold no cell"]
    assert capsys.readouterr().err == "note: 2 clusters hold no cell\n"


def test_durations() -> None:
    assert [duration(s) for s in (0.44, 9.96, 61, 3599.6, 7650)] == [
        "0.4 s",
        "10 s",
        "1 min 01 s",
        "1 h 00 min",
        "2 h 07 min",
    ]


def test_letters_that_the_output_lacks(tmp_path: Path) -> None:
    file = tmp_path / "atlas.h5ad"
    assert main(["simulate", "-o", str(file), "--cells", "300", "--genes", "60", "-q"]) == 0
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "sccagn_scale", "plan", str(file)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)
    assert "300 cells ? 60 genes" in result.stdout


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_nothing(tmp_path: Path, ended_by: signal.Signals) -> None:
    """With all on disk, so that there is something to leave."""
    file = tmp_path / "atlas.h5ad"
    assert main(["simulate", "-o", str(file), "--cells", "3000", "--genes", "300", "-q"]) == 0
    code = (
        "import sys; from sccagn_scale.cli import main; from sccagn_scale.model import _workspace\n"
        "from sccagn_scale.model._needs import Need\n"
        "_workspace.needs = lambda *_, on_disk, **__: {'all': Need(0 if on_disk else 2**60, 1)}\n"
        f"sys.exit(main(['cluster', {str(file)!r}, '-o', {str(tmp_path / 'out.h5ad')!r}, '-k', '5']))"
    )

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what was started in the background ignores it

    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Preprocess:"):
                break
        assert len(list(tmp_path.iterdir())) == 2  # the workspace
        process.send_signal(ended_by)
        said = process.stderr.read()
    assert process.returncode == 128 + ended_by
    assert said.splitlines()[-1] == f"sccagn-scale: {'terminated' if ended_by == signal.SIGTERM else 'interrupted'}"
    assert list(tmp_path.iterdir()) == [file]


def test_stdout_may_be_closed() -> None:
    code = "import sys; sys.stdout = None; from sccagn_scale.cli import main; sys.exit(main(['info', '--json']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_notebooks_backend_is_not_needed() -> None:
    code = "from sccagn_scale.cli import main; main(['info']); import matplotlib; print(matplotlib.get_backend())"
    environment = {**os.environ, "MPLBACKEND": "module://not_installed.here"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "agg"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_an_output_that_is_full_is_told() -> None:
    command = [sys.executable, "-m", "sccagn_scale", "info"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "sccagn-scale: error: what is shown cannot be written: No space left on device.\n"


@pytest.mark.parametrize("arguments", [["plan", ""], ["cluster", "a.h5ad", "-o", "b.h5ad", "--plots", ""]])
def test_a_path_of_nothing_is_no_path(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "a path is needed, got ''" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--memory", "9" * 400], ["--threads", "9" * 20]])
def test_numbers_that_nothing_has_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cluster", "a.h5ad", "-o", "b.h5ad", *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err
