"""How a set is divided, that no label gets out, what is predicted, what follows a batch, and the whole verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from bench_samples import asked, read_greedily, write_set
from scipy import sparse
from sklearn.metrics import normalized_mutual_info_score

from benchmarks import _results, transfer
from benchmarks.__main__ import main
from benchmarks._labelled import made_cells, read_batches, read_blind
from benchmarks._outcome import memory_mb, peak_rss_mb
from benchmarks._preprocess import log_expression, log_expression_like, principal_components, projected
from benchmarks._results import Row
from benchmarks._transfer_report import markdown
from benchmarks._transfers import TRANSFERS, WHOLES, Found, Task


def write_batches(path: Path, n_obs: int = 300, *, batches: Any = None, n_types: int = 3) -> AnnData:
    """A labelled set in two batches, by default half and half of each type."""
    halves = np.array(["north", "south"])[np.arange(n_obs) % 2]
    return write_set(path, n_obs, 200, n_types=n_types, batches=halves if batches is None else batches)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_batches(folder / "a.h5ad")
    write_batches(folder / "b.h5ad", 360)
    write_batches(folder / "one_batch.h5ad", 30, batches=["north"] * 30)
    unbatched, types = made_cells(30)
    unbatched.obs["cell_type"] = pd.Categorical(types)
    unbatched.write_h5ad(folder / "no_batch.h5ad")
    return folder


@pytest.mark.parametrize(
    ("sizes", "second"),
    [
        ({"a": 2, "b": 5}, "a"),  # the largest is in the first part
        ({"b": 3, "a": 3}, "b"),  # equal ones by name
        ({"a": 5, "b": 4, "c": 3, "d": 1}, "bc"),  # 5 | 4, then 5 | 7, then 6 | 7
        ({"a": 4, "b": 2, "c": 2, "d": 1}, "bc"),  # 4 | 4: the first gets the next
        ({"a": 9, "b": 1, "c": 1, "d": 1}, "bcd"),
    ],
)
def test_batches_go_to_the_smaller_part_the_largest_first(sizes: dict[str, int], second: str) -> None:
    batches = pd.Series(np.repeat(list(sizes), list(sizes.values())))
    shuffled = batches.sample(frac=1, random_state=0, ignore_index=True)
    for one in (batches, shuffled, shuffled.astype("category")):
        assert transfer.divide(one).tolist() == one.isin(list(second)).astype(int).tolist()


def test_batches_are_read_in_the_order_of_the_cells(data: Path) -> None:
    full = write_batches(data / "a.h5ad")
    of_row = {full.X[i].toarray().tobytes(): batch for i, batch in enumerate(full.obs["batch"])}
    blind, _ = read_blind(data / "a.h5ad")
    assert [of_row[blind.X[i].toarray().tobytes()] for i in range(300)] == list(read_batches(data / "a.h5ad"))
    assert read_batches(data / "one_batch.h5ad") is None
    assert read_batches(data / "no_batch.h5ad") is None


@pytest.mark.parametrize("direction", transfer.DIRECTIONS)
def test_a_method_is_told_who_is_to_be_labelled_and_numbers_of_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    # the first part has types 0, 1, 2, the second 0, 1, 3 of four
    batches = ["north"] * 30 + ["south"] * 5 + ["north"] * 5 + ["south"] * 5 + ["north"] * 25
    full = write_batches(tmp_path / "s.h5ad", 70, n_types=4, batches=batches)
    kept = full.obs.groupby(["batch", "cell_type"], observed=True).size()
    seen: list[tuple[Task, int]] = []

    def spy(task: Task, seed: int) -> Found:
        seen.append((task, seed))
        return Found(np.zeros(task.in_target.sum()))

    monkeypatch.setitem(TRANSFERS, "spy", spy)
    outcome = transfer.run_seeds(str(tmp_path / "s.h5ad"), direction, "spy", 2)
    (task, _), *_ = real = [call for call in seen if call[0].cells.n_obs == 70]
    source, target = ("north", "south") if direction == "1->2" else ("south", "north")
    assert [seed for _, seed in real] == [0, 1]
    assert (task.n_types, task.n_source_types, task.n_target_types) == (4, len(kept[source]), len(kept[target]))
    assert (task.source().n_obs, task.target().n_obs) == (kept[source].sum(), kept[target].sum())
    for adata in (task.cells, task.source(), task.target()):
        assert adata.shape[1] == 200
        assert not len(adata.obs.columns)
        assert not len(adata.var.columns)
        assert not adata.uns
        assert not adata.obsm
        assert not adata.layers
        assert all(name.startswith("cell") for name in adata.obs_names)
    assert not np.array_equal(task.cells.X.toarray(), full.X.toarray())  # the order tells nothing either
    assert outcome.seconds.keys() == {f"s/{direction}"}
    metrics = outcome.score()[f"s/{direction}"]
    assert metrics["n_target_types"] == len(kept[target])
    new = [n for name, n in kept[target].items() if name not in kept[source]]
    assert metrics["new_types"] == pytest.approx(sum(new) / kept[target].sum())


def test_of_a_whole_set_all_cells_are_scored_and_their_batches_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_batches(tmp_path / "s.h5ad", 90, batches=["north"] * 40 + ["south"] * 50)
    batches = read_batches(tmp_path / "s.h5ad").to_numpy(object)
    truth = read_blind(tmp_path / "s.h5ad")[1].to_numpy(object)

    def by_batch(task: Task, seed: int) -> Found:
        if task.cells.n_obs == 90:
            assert task.in_target.all()
            assert task.n_types == task.n_target_types == 3
            np.testing.assert_array_equal(task.batches, batches)
        return Found(task.batches, task.batches)

    monkeypatch.setitem(WHOLES, "spy", by_batch)
    metrics = transfer.run_seeds(str(tmp_path / "s.h5ad"), "all", "spy", 2).score()["s/all"]
    assert metrics["batch_nmi_each"] == pytest.approx([1, 1])
    expected = normalized_mutual_info_score(batches, truth)
    assert 0.2 < expected < 0.8
    assert (metrics["nmi"], metrics["batch_nmi_of_types"]) == pytest.approx((expected, expected))
    assert (metrics["n_batches"], metrics["n_target"]) == (2, 90)


@pytest.mark.filterwarnings("ignore::sccagn_scale.InputWarning")
def test_correction_takes_out_what_a_batch_adds(tmp_path: Path) -> None:
    adata = write_batches(tmp_path / "plain.h5ad", 400)
    genes = np.random.default_rng(0).random(adata.n_vars) < 0.3
    shifted = adata.X.toarray()
    shifted[np.ix_(adata.obs["batch"] == "south", genes)] += 2
    adata.X = sparse.csr_matrix(shifted)
    adata.write_h5ad(tmp_path / "s.h5ad")
    plain, corrected = (
        transfer.run_seeds(str(tmp_path / "s.h5ad"), "all", name, 1).score()["s/all"] for name in WHOLES
    )
    assert plain["batch_nmi"] > 0.1
    assert plain["ari"] < 0.9
    assert corrected["batch_nmi"] == pytest.approx(0, abs=0.05)
    assert corrected["ari"] > 0.95


@pytest.mark.filterwarnings("ignore::sccagn_scale.InputWarning")  # these cells have genes that do not vary
@pytest.mark.parametrize("name", TRANSFERS)
def test_planted_clusters_are_found_in_the_other_part(data: Path, name: str) -> None:
    metrics = transfer.run_seeds(str(data / "a.h5ad"), "1->2", name, 1).score()["a/1->2"]
    assert [metrics[score] for score in transfer.SCORES] == pytest.approx([1.0, 1.0, 1.0])
    assert metrics["nmi_sd"] is None
    assert (metrics["n_source"], metrics["n_target"], metrics["new_types"]) == (150, 150, 0)
    assert metrics.get("batch_driven") == (0 if name == "together" else None)


@pytest.mark.filterwarnings("ignore::sccagn_scale.InputWarning")
def test_types_that_were_not_learned_are_not_found() -> None:
    cells, types = made_cells(300, 200, n_types=3)
    in_target = np.arange(300) >= 150
    in_target[(types == "type2").to_numpy()] = True
    task = Task(cells, in_target, types.to_numpy(object), 3, 2, 3)
    for name, n_found in {"default": 2, "pca_kmeans": 2, "own": 3, "together": 3}.items():
        assert len(set(TRANSFERS[name](task, 0).target)) == n_found


def test_scores_are_of_the_target_and_over_seeds(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = read_blind(data / "a.h5ad")[1].to_numpy(object)

    def label(task: Task, seed: int) -> Found:
        if len(task.cells) != len(truth):
            raise ValueError("this is the warm-up")
        labels = np.where(task.in_target, truth, "source")
        labels = np.where(truth == "type2", "type1", labels) if seed else labels
        return Found(labels[task.in_target])

    monkeypatch.setitem(TRANSFERS, "planted", label)
    metrics = transfer.run_seeds(str(data / "a.h5ad"), "1->2", "planted", 2).score()["a/1->2"]
    assert metrics["accuracy_each"] == pytest.approx([1, 2 / 3])
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    assert metrics["accuracy_sd"] == pytest.approx(np.std([1, 2 / 3], ddof=1))


@pytest.mark.parametrize(("peers", "n_calls"), [(set(), 1), ({"spy"}, 2)])
def test_only_peers_run_to_warm_up(data: Path, monkeypatch: pytest.MonkeyPatch, peers: set[str], n_calls: int) -> None:
    seen: list[int] = []

    def spy(task: Task, seed: int) -> Found:
        seen.append(task.cells.n_obs)
        return Found(np.zeros(task.in_target.sum()))

    monkeypatch.setitem(TRANSFERS, "spy", spy)
    monkeypatch.setattr(transfer, "PEERS", peers)
    transfer.run_seeds(str(data / "a.h5ad"), "1->2", "spy", 1)
    assert len(seen) == n_calls
    assert seen[-1] == 300


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system resets no peaks")
def test_memory_that_reading_took_is_not_counted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "read_blind", read_greedily)
    monkeypatch.setitem(TRANSFERS, "spy", lambda task, seed: Found(np.zeros(task.in_target.sum())))
    before = memory_mb("VmRSS")
    transfer.run_seeds(str(data / "a.h5ad"), "1->2", "spy", 1)
    assert peak_rss_mb() < before + 200


def test_other_cells_are_logged_and_projected_like_the_reference() -> None:
    reference, _ = made_cells(60, 2300, seed=1)
    other, _ = made_cells(40, 2300, seed=1)
    other.X = (other.X * 3).tocsr()  # deeper sequencing, the same cells
    logged = log_expression(reference)
    scores = principal_components(logged, seed=0)
    same = log_expression_like(reference, reference, logged.var_names)
    assert list(same.var_names) == list(logged.var_names)
    np.testing.assert_allclose(same.X.toarray(), logged.X.toarray(), rtol=1e-5)
    np.testing.assert_allclose(projected(same, logged), scores, atol=1e-3)
    deeper, shallow = (
        log_expression_like(one, reference, logged.var_names) for one in (other, made_cells(40, 2300, seed=1)[0])
    )
    np.testing.assert_allclose(deeper.X.toarray(), shallow.X.toarray(), rtol=1e-5)


#         cluster 0: 10 of x           cluster 1: 9 of x, 1 of y    cluster 2: 4 of x, 6 of y
CLUSTERS = [0] * 10 + [1] * 10 + [2] * 10
FROM = ["x"] * 19 + ["y"] + ["x"] * 4 + ["y"] * 6


@pytest.mark.parametrize(
    ("types", "share"),
    [
        ("a" * 10 + "b" * 10 + "c" * 10, 0.0),  # a is x's alone, and so is nearly all of b
        ("a" * 10 + "b" * 10 + "a" * 10, 1 / 3),  # a lies in both batches, and cluster 0 has those of x
        ("a" * 10 + "a" * 10 + "a" * 10, 2 / 3),
        ("a" * 6 + "b" * 4 + "b" * 10 + "b" * 10, 1 / 3),  # the most frequent type of cluster 0 is x's alone
        ("b" * 4 + "a" * 6 + "b" * 10 + "c" * 10, 0.0),  # 13 of the 14 cells of b are x's
    ],
)
def test_a_cluster_follows_a_batch_where_its_type_does_not(types: str, share: float) -> None:
    truth, batches = pd.Series(list(types)), pd.Series(FROM)
    assert transfer.batch_driven(CLUSTERS, truth, batches) == pytest.approx(share)
    named = np.array(CLUSTERS).astype(str).astype(object)
    assert transfer.batch_driven(named, truth.astype("category"), batches) == pytest.approx(share)


def test_cells_without_a_cluster_follow_no_batch_but_count() -> None:
    labels = np.array([None] * 10 + [0] * 5 + [1] * 5, dtype=object)
    truth, batches = pd.Series(["a"] * 20), pd.Series(["x"] * 15 + ["y"] * 5)
    assert transfer.batch_driven(labels, truth, batches) == pytest.approx(10 / 20)


def test_every_method_goes_both_ways_on_sets_with_batches(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contests = asked(["transfer", "--data", str(data), "--json", str(tmp_path / "r.json")], monkeypatch)
    directions = ["1->2", "2->1", "all"]
    assert [contest.case for contest in contests] == [
        f"{name}/{direction}" for name in "ab" for direction in directions
    ]
    for contest in contests:
        whole = contest.case.endswith("all")
        methods = ["together", "corrected"] if whole else ["default", "pca_kmeans", "own", "together"]
        assert [method.name for method in contest.methods] == methods
        assert {method.kwargs["n_seeds"] for method in contest.methods} == {5}


def test_a_quick_run_keeps_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path / "results")
    contests = asked(["transfer", "--data", str(data), "--quick"], monkeypatch)
    assert [contest.case for contest in contests] == ["a/1->2", "a/2->1", "a/all"]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sets", "a,one_batch"], "`--sets` knows a, b, but not one_batch"),
        (["--seeds", "0"], "`--seeds` must be at least 1"),
        (["--data", "nowhere"], "`--data` must be a folder"),
    ],
)
def test_a_request_that_cannot_be_done_is_one_sentence(
    data: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", "--data", str(data), "--quick", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_batches_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_batches(tmp_path / "one.h5ad", 30, batches=["north"] * 30)
    assert main(["transfer", "--data", str(tmp_path), "--quick"]) == 2
    assert "two or more batches" in capsys.readouterr().err


def test_the_whole_verb(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TRANSFERS", {"pca_kmeans": TRANSFERS["pca_kmeans"]})
    monkeypatch.setattr(transfer, "WHOLES", {"together": WHOLES["together"]})
    out = tmp_path / "r.json"
    assert main(["transfer", "--data", str(data), "--sets", "a", "--quick", "--json", str(out)]) == 0
    rows: list[Row] = json.loads(out.read_text())["rows"]
    cases = [f"a/{direction}" for direction in ("1->2", "2->1", "all")]
    assert [(row["case"], row["metrics"]["seeds"]) for row in rows] == [(case, [0, 1]) for case in cases]
    assert all(row["metrics"]["ari"] == pytest.approx(1.0) for row in rows)
    assert out.with_suffix(".md").read_text() == markdown(rows, "all")


def made_row(case: str, method: str, nmi: float, **metrics: Any) -> Row:
    scores = {"nmi": nmi, "nmi_sd": 0.01, "ari": 0.5, "ari_sd": 0.0, "accuracy": 0.25, "accuracy_sd": None}
    counts = {"n_source": 1200, "n_target": 300, "n_source_types": 4, "n_target_types": 3, "new_types": 0.125}
    counts |= {"n_batches": 7}
    return Row(case=case, method=method, seconds=2.0, spread=0.1, peak_rss_mb=100.0, metrics=scores | counts | metrics)


def test_the_tables_have_every_row_and_the_means() -> None:
    failed = Row(case="a/2->1", method="own", seconds=None, spread=None, peak_rss_mb=None, metrics={"error": "no room"})
    rows = [
        made_row("a/1->2", "own", 0.4),
        made_row("a/1->2", "together", 0.2, batch_driven=0.5, batch_driven_sd=0.1),
        failed,
        made_row("a/2->1", "together", 0.4, batch_driven=0.0, batch_driven_sd=0.0),
        made_row("a/all", "together", 0.6, batch_nmi=0.3, batch_nmi_sd=0.1, batch_nmi_of_types=0.2),
        failed | Row(case="a/all", method="corrected"),
    ]
    lines = markdown(rows, "all").splitlines()
    parts, wholes = lines[: lines.index("## All cells")], lines[lines.index("## All cells") :]
    scores = "0.400 ± 0.010 | 0.500 ± 0.000 | 0.250 | – | –"
    assert f"| a | 1->2 | own | 1,200 → 300 | 4 → 3 | 12.5% | {scores} | 2.0 | 100 |" in parts
    assert any(line.startswith("| a | 2->1 | own | failed | – |") for line in parts)
    assert "| own | 0.400 (of 1) | 0.500 (of 1) | 0.250 (of 1) | – | – |" in parts
    assert "| together | 0.300 | 0.500 | 0.250 | 0.250 | – |" in parts
    scores = "0.600 ± 0.010 | 0.500 ± 0.000 | 0.250 | – | 0.300 ± 0.100"
    assert f"| a | 3 | 7 | together | {scores} | 0.200 | 2.0 | 100 |" in wholes
    assert any(line.startswith("| a | – | – | corrected | failed | – |") for line in wholes)
    assert "| corrected | – | – | – | – | – |" in wholes
    for part in (parts, wholes):
        first, second = "".join(f"{line}\n" for line in part if line.startswith("|")).split("| mean of")
        assert [len({line.count("|") for line in table.splitlines()}) for table in (first, f"|{second}")] == [1, 1]
