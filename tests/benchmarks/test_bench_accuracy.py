"""Labels stay out of the methods' reach, scores are right, the peers work, and the whole verb runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from bench_samples import read_greedily, row, scored, write_set
from matplotlib.figure import Figure
from sklearn.metrics import adjusted_rand_score

from benchmarks import _results, accuracy
from benchmarks.__main__ import main
from benchmarks._accuracy_ranks import cliques, common_sets, critical_difference, mean_ranks, plot_ranks, ranked
from benchmarks._accuracy_report import COLOURS, Scores, markdown, plot
from benchmarks._labelled import labelled_files, made_cells, read_blind
from benchmarks._methods import CLUSTERINGS, SCRATCH, Clustering, Shared
from benchmarks._outcome import memory_mb, peak_rss_mb
from benchmarks._preprocess import input_kind, log_expression, principal_components
from benchmarks._results import Row


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[AnnData, int | None, int]]:
    """What a method was given, call by call."""
    seen: list[tuple[AnnData, int | None, int]] = []

    def spy(adata: AnnData, n_clusters: int | None, seed: int) -> np.ndarray:
        seen.append((adata, n_clusters, seed))
        return np.arange(adata.n_obs) % (n_clusters or 2)

    monkeypatch.setitem(CLUSTERINGS, "spy", Clustering(spy, ("given", "auto")))
    return seen


@pytest.mark.parametrize("mode", ["given", "auto"])
def test_no_label_reaches_a_method(tmp_path: Path, seen: list[Any], mode: Any) -> None:
    full = write_set(tmp_path / "s.h5ad", n_obs=40, n_types=4)
    outcome = accuracy.run_seeds(str(tmp_path / "s.h5ad"), "spy", mode, 2)
    real = [call for call in seen if call[0].n_obs == 40]
    assert [(n, seed) for _, n, seed in real] == [(4 if mode == "given" else None, seed) for seed in (0, 1)]
    for adata, _, _ in real:
        assert not len(adata.obs.columns)
        assert not len(adata.var.columns)
        assert not adata.uns
        assert not adata.obsm
        assert not adata.layers
        assert adata.raw is None
        assert list(adata.obs_names) == [f"cell{i}" for i in range(40)]
        assert not np.array_equal(adata.X.toarray(), full.X.toarray())  # the order tells nothing either
    assert outcome.evidence["n_obs"] == 40
    assert outcome.seconds.keys() == {f"s/{mode}"}
    assert len(outcome.seconds[f"s/{mode}"]) == 2


@pytest.mark.parametrize(("n_obs", "warm"), [(8191, 150), (8192, 9000)])
def test_a_peer_warms_up_on_as_many_cells_as_its_way_of_searching_needs(
    tmp_path: Path, seen: list[Any], n_obs: int, warm: int
) -> None:
    write_set(tmp_path / "s.h5ad", n_obs=n_obs, n_vars=5)
    accuracy.run_seeds(str(tmp_path / "s.h5ad"), "spy", "auto", 1)
    assert [adata.n_obs for adata, _, _ in seen] == [warm, n_obs]


def test_cells_and_types_are_shuffled_alike(tmp_path: Path) -> None:
    full = write_set(tmp_path / "s.h5ad", n_obs=30)
    blind, truth = read_blind(tmp_path / "s.h5ad")
    of_row = {full.X[i].toarray().tobytes(): t for i, t in enumerate(full.obs["cell_type"])}
    assert [of_row[blind.X[i].toarray().tobytes()] for i in range(30)] == list(truth)
    assert list(truth) != list(full.obs["cell_type"])
    assert list(blind.var_names) == list(full.var_names)
    again, _ = read_blind(tmp_path / "s.h5ad")
    assert (blind.X != again.X).nnz == 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system resets no peaks")
def test_memory_that_reading_took_is_not_counted(
    tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "read_blind", read_greedily)
    write_set(tmp_path / "s.h5ad", n_obs=40)
    before = memory_mb("VmRSS")
    accuracy.run_seeds(str(tmp_path / "s.h5ad"), "spy", "auto", 1)
    assert peak_rss_mb() < before + 200


def test_only_labelled_files_count(tmp_path: Path) -> None:
    write_set(tmp_path / "b.h5ad", n_obs=10)
    made_cells(10)[0].write_h5ad(tmp_path / "unlabelled.h5ad")
    (tmp_path / "notes.txt").write_text("")
    assert [path.name for path in labelled_files(tmp_path)] == ["b.h5ad"]


def test_scores_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "s.h5ad", n_obs=30, n_types=3)
    _, truth = read_blind(tmp_path / "s.h5ad")
    by_seed = [
        truth.to_numpy(object),
        truth.astype(object).replace("type2", "type1").to_numpy(),
        truth.to_numpy(object),
    ]
    by_seed[2] = np.where(truth == "type2", None, by_seed[2])  # cells refused: a group for the score, no cluster

    def cluster(adata: AnnData, n_clusters: int | None, seed: int) -> np.ndarray:
        return by_seed[seed] if adata.n_obs == 30 else np.zeros(adata.n_obs)

    monkeypatch.setitem(CLUSTERINGS, "fixed", Clustering(cluster, ("auto",)))
    metrics = accuracy.run_seeds(str(tmp_path / "s.h5ad"), "fixed", "auto", 3).score()["s/auto"]
    merged = adjusted_rand_score(truth, by_seed[1])
    assert metrics["ari_each"] == pytest.approx([1.0, merged, 1.0])
    assert metrics["ari"] == pytest.approx((2 + merged) / 3)
    assert metrics["ari_sd"] == pytest.approx(np.std([1, merged, 1], ddof=1))
    assert metrics["cross_seed_ari"] == pytest.approx((2 * merged + 1) / 3)
    assert metrics["n_clusters_each"] == [3, 2, 2]
    assert metrics["n_clusters"] == 2
    assert metrics["n_types"] == 3
    assert metrics["unassigned"] == pytest.approx(1 / 9)
    assert metrics["seeds"] == [0, 1, 2]


def test_labels_for_other_cells_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "s.h5ad", n_obs=20)
    monkeypatch.setitem(CLUSTERINGS, "short", Clustering(lambda *_: np.zeros(5), ("auto",)))
    with pytest.raises(ValueError, match=r"shape \(5,\) for 20 cells"):
        accuracy.run_seeds(str(tmp_path / "s.h5ad"), "short", "auto", 1)


def test_input_is_recognised_and_logged_once() -> None:
    counts, _ = made_cells(40, 60)
    counts = counts[:, counts.X.getnnz(axis=0) >= 3].copy()  # rarer genes are filtered out
    linear, log, scaled = counts.copy(), counts.copy(), counts.copy()
    totals = np.asarray(counts.X.sum(1)).ravel()
    linear.X = (counts.X.multiply(1e6 / totals[:, None])).tocsr().astype(np.float32)
    log.X = (counts.X.multiply(1e4 / totals[:, None])).tocsr().astype(np.float32).log1p()
    scaled.X = counts.X.toarray() - 1
    assert [input_kind(one) for one in (counts, linear, log)] == ["counts", "linear", "log"]
    with pytest.raises(ValueError, match="negative"):
        input_kind(scaled)
    to_median = np.log1p(counts.X.toarray() * (np.median(totals) / totals)[:, None])
    assert log_expression(counts).X.toarray() == pytest.approx(to_median, rel=1e-4)
    assert log_expression(linear).X.toarray() == pytest.approx(np.log1p(linear.X.toarray()), rel=1e-4)
    assert log_expression(log).X.toarray() == pytest.approx(log.X.toarray())


def test_variable_genes_are_kept_when_there_are_many() -> None:
    adata, _ = made_cells(60, 2300)
    assert log_expression(adata).n_vars == 2000
    assert adata.n_vars == 2300


PEERS = [name for name, one in CLUSTERINGS.items() if not one.is_ours and not name.startswith("scvi")]


@pytest.mark.filterwarnings("ignore::sccagn_scale.InputWarning")  # `dec` is ours, and these cells have rare genes
@pytest.mark.parametrize("name", PEERS)
def test_peers_find_types_that_are_easily_told(name: str) -> None:
    adata, types = made_cells(120, 200, n_types=4)
    before = adata.X.copy()
    clustering = CLUSTERINGS[name]
    labels = clustering.run(adata, 4 if "given" in clustering.modes else None, 0)
    assert adjusted_rand_score(types, labels) == 1.0
    assert (before != adata.X).nnz == 0
    assert not len(adata.obs.columns)


@pytest.mark.parametrize("name", ["leiden_k", "louvain_k"])
@pytest.mark.parametrize("n_clusters", [6, 9])
def test_the_resolution_gives_the_number_of_clusters_asked_for(name: str, n_clusters: int) -> None:
    adata, _ = made_cells(200, 200, n_types=4)
    assert len(set(CLUSTERINGS[name].run(adata, n_clusters, 0))) == n_clusters


def test_every_method_has_a_colour_of_its_own() -> None:
    assert len(set(COLOURS)) == len(COLOURS) >= len(CLUSTERINGS)


@pytest.mark.parametrize("before", [None, "elsewhere"])
def test_a_run_that_fails_leaves_the_environment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv(SCRATCH, raising=False)
    else:
        monkeypatch.setenv(SCRATCH, before)
    during: list[Path] = []

    def fail(contest: Any, threads: int, references: Any) -> None:
        during.append(Path(os.environ[SCRATCH]))
        assert during[0].is_dir()
        raise RuntimeError("out of luck")

    monkeypatch.setattr("benchmarks._session.run_contest", fail)
    write_set(tmp_path / "a.h5ad", n_obs=20)
    with pytest.raises(RuntimeError, match="out of luck"):
        main(["accuracy", "--data", str(tmp_path), "--methods", "gmm", "--json", str(tmp_path / "r.json")])
    assert os.environ.get(SCRATCH) == before
    assert not during[0].exists()


class FakeScvi:
    """Stands for scvi-tools: the latent space is the counts' PCA, and every training is remembered."""

    def __init__(self) -> None:
        self.trained: list[int] = []
        self.settings = SimpleNamespace(seed=0, verbosity=0)
        outer = self

        class Model:
            @staticmethod
            def setup_anndata(adata: AnnData) -> None: ...

            def __init__(self, adata: AnnData, n_latent: int) -> None:
                self.adata, self.n_latent = adata, n_latent

            def train(self, **options: Any) -> None:
                assert options["max_epochs"] == 100
                outer.trained.append(outer.settings.seed)

            def get_latent_representation(self) -> np.ndarray:
                return principal_components(log_expression(self.adata), seed=0)[:, : self.n_latent]

        self.model = SimpleNamespace(SCVI=Model)


def test_what_scvi_learned_is_shared_by_the_methods_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeScvi()
    monkeypatch.setitem(sys.modules, "scvi", fake)
    monkeypatch.setenv(SCRATCH, str(tmp_path))
    adata, types = made_cells(120, 200, n_types=4)
    first = CLUSTERINGS["scvi_ward"].run(adata.copy(), 4, 0)
    again = CLUSTERINGS["scvi_kmeans"].run(adata.copy(), 4, 0)
    CLUSTERINGS["scvi_leiden"].run(adata.copy(), None, 1)
    assert fake.trained == [0, 1]
    assert first.seconds == 0 < again.seconds
    assert first.peak_rss_mb == 0 < again.peak_rss_mb <= peak_rss_mb()
    assert [path.suffixes for path in tmp_path.iterdir()] == [[".npz"]] * 2
    assert adjusted_rand_score(types, first.labels) == adjusted_rand_score(types, again.labels) == 1.0
    adata.X.data += 1
    CLUSTERINGS["scvi_ward"].run(adata, 4, 0)
    assert fake.trained == [0, 1, 0]
    monkeypatch.delenv(SCRATCH)
    CLUSTERINGS["scvi_ward"].run(adata, 4, 0)
    assert fake.trained == [0, 1, 0, 0]


def test_what_scvi_learned_is_kept_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scvi", FakeScvi())
    monkeypatch.setenv(SCRATCH, str(tmp_path))

    def half(path: Any, **arrays: Any) -> None:
        Path(path).write_bytes(b"PK")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", half)
    adata, _ = made_cells(120, 200, n_types=4)
    with pytest.raises(OSError, match="no space left"):
        CLUSTERINGS["scvi_ward"].run(adata.copy(), 4, 0)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "scvi", FakeScvi())
    monkeypatch.setenv(SCRATCH, str(tmp_path))
    assert CLUSTERINGS["scvi_ward"].run(adata.copy(), 4, 0).seconds == 0  # trained anew


def test_what_was_spent_for_another_method_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "s.h5ad", n_obs=20)
    monkeypatch.setitem(CLUSTERINGS, "late", Clustering(lambda *_: Shared(np.zeros(20), 1000.0, 1e6), ("auto",)))
    outcome = accuracy.run_seeds(str(tmp_path / "s.h5ad"), "late", "auto", 1)
    (seconds,) = outcome.seconds["s/auto"]
    assert 1000 < seconds < 1100
    assert outcome.peak_rss_mb == {"s/auto": 1e6}


@pytest.fixture
def rows() -> list[Row]:
    return [
        scored("a/given", "default", 0.8, 0.7),
        scored("a/given", "paper", 0.99, 0.99),
        scored("a/given", "gmm", 0.7, 0.75),
        scored("a/given", "pca_kmeans", 0.6, 0.6),
        scored("b/given", "default", 0.5, 0.4),
        scored("b/given", "pca_kmeans", 0.6, 0.5),
        row("b/given", "gmm", None, error="out of memory"),
        scored("a/auto", "leiden", 0.9, 0.8),
    ]


def test_markdown_has_scores_best_peer_difference_and_means(rows: list[Row]) -> None:
    text = markdown(rows)
    given, auto = text.split("## Number of clusters estimated")
    assert (
        "| a | 5 | 0.800 ± 0.010 / 0.700 ± 0.020 | 0.990 ± 0.010 / 0.990 ± 0.020 | 0.600 ± 0.010 / 0.600 ± 0.020 "
        "| 0.700 ± 0.010 / 0.750 ± 0.020 | gmm | +0.100 / -0.050 |" in given
    )
    assert "| failed | pca_kmeans | -0.100 / -0.100 |" in given
    assert "| **mean of 2** |  | **0.650** / **0.550** |" in given
    assert "**0.700** / **0.750** (1 sets)" in given  # a mean that leaves out a failure says so
    assert "| gmm | 0.700 (1 sets) | 0.750 (1 sets) |" in given
    assert "| default | 0.650 | 0.550 |" in given
    assert "0.900 ± 0.010 / 0.800 ± 0.020 (4) | leiden |" in auto
    assert "default" not in auto
    assert all(line.count("|") == given.splitlines()[4].count("|") for line in given.splitlines()[4:9])


def test_plot_is_a_picture(tmp_path: Path, rows: list[Row]) -> None:
    plot(rows, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    plot([one for one in rows if "error" in one["metrics"]], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    apart = [one for one in rows if one["case"] != "a/given"] + [scored("c/given", "gmm", 0.5, 0.5)]
    plot_ranks(apart, tmp_path / "none.png")  # no set has every method's
    assert not (tmp_path / "none.png").exists()
    plot_ranks(rows, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    plot_ranks(rows[:1], tmp_path / "r.png")  # one method has no rank, and no older picture stays
    assert not (tmp_path / "r.png").exists()


def test_mean_ranks_share_ties_and_leave_out_sets_without_every_score(rows: list[Row]) -> None:
    scores = Scores(rows, "given")
    assert scores.methods == ["default", "paper", "pca_kmeans", "gmm"]
    rows += [scored("c/given", method, 0.5, 0.5) for method in scores.methods]
    scores = Scores(rows, "given")
    assert common_sets(scores) == ["a", "c"]  # on b `paper` has no row, and `gmm` an error
    np.testing.assert_allclose(mean_ranks(scores), [2.25, 1.75, 3.25, 2.75])


def test_a_method_that_failed_everywhere_is_not_ranked_and_named(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"seconds": None, "spread": None, "peak_rss_mb": None, "metrics": {"error": "No module named 'scvi'"}}
    rows += [Row(case=f"{name}/given", method="scvi_ward", **failed) for name in "ab"]
    scores = Scores(rows, "given")
    assert "scvi_ward" in scores.methods
    assert ranked(scores) == ["default", "paper", "pca_kmeans", "gmm"]
    assert common_sets(scores) == ["a"]
    titles: list[str] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: titles.append(figure.axes[0].get_title("left")))
    plot_ranks(rows, tmp_path / "r.png")
    assert titles == ["Number of clusters given, 1 sets, without scvi_ward (failed on all)"]


def test_the_critical_difference_is_that_of_demsars_table() -> None:
    assert critical_difference(2, 30) == pytest.approx(1.960 * np.sqrt(6 / 180), abs=1e-3)
    assert critical_difference(10, 14) == pytest.approx(3.164 * np.sqrt(110 / 84), abs=1e-3)


@pytest.mark.parametrize(
    ("ranks", "found"),
    [
        ([1.0, 3.0, 1.5, 4.5], [(1.0, 1.5)]),
        ([1.0, 2.0, 3.0, 5.0], [(1.0, 2.0), (2.0, 3.0)]),
        ([1.0, 1.4, 1.8, 2.9], [(1.0, 1.8), (1.8, 2.9)]),
        ([1.0, 1.1, 1.2, 1.3], [(1.0, 1.3)]),
    ],
)
def test_bars_join_methods_that_do_not_differ(ranks: list[float], found: list[tuple[float, float]]) -> None:
    assert cliques(np.array(ranks), 1.2) == found


def test_quick_run_from_files_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_set(data / "one.h5ad", n_obs=60)
    write_set(data / "two.h5ad", n_obs=80, n_types=4)
    out = tmp_path / "out" / "acc.json"
    request = ["accuracy", "--data", str(data), "--methods", "smoothed_pca_kmeans", "--quick", "--jobs", "2"]
    assert main([*request, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["benchmark"] == "accuracy"
    assert [(one["case"], one["method"]) for one in result["rows"]] == [
        (f"{name}/given", "smoothed_pca_kmeans") for name in ("one", "two")
    ]
    for one in result["rows"]:
        assert one.keys() == {"case", "method", "seconds", "spread", "peak_rss_mb", "metrics"}
        assert one["seconds"] > 0
        assert one["peak_rss_mb"] > 50
        assert one["metrics"]["ari"] == pytest.approx(1.0)
        assert one["metrics"].keys() >= {"nmi", "ari", "ami", "completeness", "accuracy", "cross_seed_ari"}
    # one method has no rank
    assert sorted(path.name for path in out.parent.iterdir()) == ["acc.json", "acc.md", "acc.png"]
    assert "mean of 2 × given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "walktrap"], "`--methods` knows default"),
        (["--sets", "b"], "`--sets` knows a, but not b"),
        (["--seeds", "0"], "`--seeds` must be at least 1"),
        (["--methods", "leiden", "--modes", "given"], "`--methods` must name one that is run in the mode given"),
        (["--data", "nowhere"], "`--data` must be a folder"),
    ],
)
def test_a_request_that_cannot_be_done_is_one_sentence(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "a.h5ad", n_obs=20)
    assert main(["accuracy", "--data", str(tmp_path), "--json", str(tmp_path / "r.json"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_quick_run_leaves_the_kept_results_alone(
    tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path / "results")
    monkeypatch.setattr("benchmarks._session.run_contest", lambda contest, threads, references: iter(()))
    write_set(tmp_path / "a.h5ad", n_obs=20)
    request = ["accuracy", "--data", str(tmp_path)]
    assert main([*request, "--quick"]) == 0
    assert main([*request, "--methods", "gmm"]) == 2  # less than the whole
    assert not (tmp_path / "results").exists()
    assert main(request) == 0
    assert (tmp_path / "results" / "accuracy.json").exists()
