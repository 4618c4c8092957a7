"""A trained model on disk."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from model_samples import FAST, TINY, planted

from sccagn_scale import SCCAGN, InputError, InputWarning, _compat, graph
from sccagn_scale._compat import OptionalPart
from sccagn_scale.model._prepare import prepare, prepare_like


def uneven() -> ad.AnnData:
    """Cells of which the first three show one gene each, and genes of which the first three are in two cells each."""
    counts = planted().X.tolil()
    counts[:, :3] = 0
    for gene in range(3):
        counts[[10 + gene, 20 + gene], gene] = 300
    counts[:3] = 0
    counts[:3, 50] = 1
    adata = ad.AnnData(sp.csr_matrix(counts))
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    return adata


@pytest.mark.parametrize("changes", [{}, {"input_rep": "genes", "graph_rep": "genes"}])
def test_cells_are_preprocessed_as_those_of_the_model_were(changes: dict[str, Any]) -> None:
    adata = uneven()
    config = dataclasses.replace(TINY, n_top_genes=60, n_comps=12, n_latent=8, **changes)
    recipe, prepared = prepare(adata, config, layer=None, random_state=0)
    kept = np.flatnonzero(prepared.keep_obs)
    assert recipe.n_obs == len(kept) == adata.n_obs - 3
    assert len(recipe.chosen) == 60 < len(recipe.genes) == adata.n_vars - 3
    assert recipe.target_sum == np.median(adata[kept, 3:].X.toarray().sum(axis=1))
    some = kept[5:40]
    again = prepare_like(recipe, adata[some][:, np.arange(adata.n_vars)[::-1]].copy(), config, layer=None)
    assert again.keep_obs.all()
    for name in ("pcs", "points", "x"):
        own, other = getattr(again, name), getattr(prepared, name)[5:40]
        own, other = (part.toarray() if sp.issparse(part) else part for part in (own, other))
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_what_preprocessing_learned_comes_back_whole(tmp_path: Path) -> None:
    adata = uneven()
    trained = SCCAGN(adata, 3, dataclasses.replace(TINY, n_top_genes=60, input_rep="genes")).train()
    trained.save(tmp_path / "kept")
    before, after = trained.recipe_, SCCAGN.load(tmp_path / "kept", adata[3:].copy()).recipe_
    assert before.n_obs == adata.n_obs - 3
    for name in ("input_kind", "target_sum", "pc_scale", "n_obs"):
        assert getattr(after, name) == getattr(before, name)
    for name in ("genes", "chosen", "maxima"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(after.pca.mean, before.pca.mean)
    np.testing.assert_array_equal(after.pca.components, before.pca.components)


class Harmful:
    """What a pickle may be."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["recipe.npz", "weights.pt"])
def test_nothing_in_a_model_is_run(kept: Path, tmp_path: Path, name: str) -> None:
    path, touched = kept / name, tmp_path / "touched"
    if name == "weights.pt":
        torch.save({"centroids": Harmful(touched)}, path)
    else:
        np.savez(path, genes=np.array([Harmful(touched)], dtype=object))
    with pytest.raises(InputError, match=r"holds no model that can be read"):
        SCCAGN.load(kept, planted())
    assert not touched.exists()


def test_a_loaded_model_has_the_settings_and_the_results(tmp_path: Path) -> None:
    adata = planted()
    trained = SCCAGN(adata, 3, TINY, random_state=5).train()
    trained.save(tmp_path / "kept")
    loaded = SCCAGN.load(tmp_path / "kept", adata)
    assert (loaded.config, loaded.random_state, loaded.n_clusters_) == (TINY, 5, 3)
    assert loaded.config.nu is None
    np.testing.assert_array_equal(loaded.labels_, trained.labels_)
    np.testing.assert_allclose(loaded.embedding_, trained.embedding_, atol=1e-5)
    np.testing.assert_allclose(loaded.soft_assignments_, trained.soft_assignments_, atol=1e-5)


def test_loading_draws_nothing_from_the_global_generators(kept: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    SCCAGN.load(kept, planted())
    torch.testing.assert_close(torch.rand(4), expected)


def test_a_model_is_not_bound_to_the_search_that_it_was_trained_with(
    tiny: SCCAGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adata, changes = planted(), {"knn_backend": "exact", "loader": "neighbor", "neighbor_sampler": "torch-sparse"}
    trained = copy.copy(tiny)
    trained.config = dataclasses.replace(TINY, **changes)  # as on a machine that has it all
    trained.save(tmp_path / "kept")
    monkeypatch.setattr(graph, "why_unavailable", lambda backend: "no such thing" if backend == "exact" else None)
    monkeypatch.setattr(_compat, "probe", lambda name: OptionalPart(name, "", False, "not here"))
    with pytest.raises(InputError, match="knn_backend"):
        SCCAGN(adata, 3, trained.config)
    with pytest.raises(InputError, match="neighbor_sampler"):
        SCCAGN(adata, 3, dataclasses.replace(trained.config, knn_backend="auto"))
    with caplog.at_level("INFO", "sccagn_scale"):
        loaded = SCCAGN.load(tmp_path / "kept", adata)
    np.testing.assert_array_equal(loaded.labels_, trained.labels_)
    assert (loaded.config.knn_backend, loaded.config.neighbor_sampler) == ("auto", "torch")
    assert "exact, cannot run here (no such thing)" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(_compat, "probe", lambda name: OptionalPart(name, "", True, "1"))
    assert SCCAGN.load(tmp_path / "kept", adata).config == trained.config


@pytest.fixture(scope="module")
def of_many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A model of 200 cells, and the clusters of these and a hundred more by it."""
    folder = tmp_path_factory.mktemp("many") / "kept"
    SCCAGN(planted()[:200].copy(), 3, FAST).train().save(folder)
    return folder, SCCAGN.load(folder, planted()).labels_


@pytest.mark.parametrize("n_obs", [1, 2, 10, 35, 36, 100])
def test_few_cells_get_the_clusters_that_they_have_among_many(of_many: tuple[Path, np.ndarray], n_obs: int) -> None:
    folder, many = of_many
    adata, same = planted(), []
    for cells in np.split(np.arange(200, 200 + n_obs * (100 // n_obs)), 100 // n_obs)[:20]:
        written = adata[cells].copy()
        few = SCCAGN.load(folder, written)
        same.extend(few.labels_ == many[cells])
        few.write_to(written)
        assert written.uns["neighbors"]["params"]["n_neighbors"] == min(n_obs, 15)
        assert written.obsp["distances"].nnz == n_obs * (min(n_obs, 15) - 1)
    assert np.mean(same) >= 0.9


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_a_discriminator_is_made_and_kept_where_there_is_an_adversarial_loss(tmp_path: Path, weight: float) -> None:
    trained = SCCAGN(planted(), 3, dataclasses.replace(TINY, weight_adversarial=weight)).train()
    trained.save(tmp_path / "kept")
    loaded = SCCAGN.load(tmp_path / "kept", planted())
    for model in (trained, loaded):
        assert (model.module_.discriminator is not None) == (weight > 0)
    np.testing.assert_array_equal(loaded.labels_, trained.labels_)


def test_a_model_of_an_older_format_is_told_and_may_be_replaced(tiny: SCCAGN, kept: Path) -> None:
    path = kept / "model.json"
    facts = json.loads(path.read_text())
    of_old = {"discriminator": True, "attention_scope": "anchors", "n_anchors": 512, "loader": "auto"}
    path.write_text(json.dumps(facts | {"format": 3, "config": facts["config"] | of_old}))
    with pytest.raises(InputError, match=r"`folder` '.*kept' holds .*: it has format 3, .* reads 4; train it anew"):
        SCCAGN.load(kept, planted())
    tiny.save(kept)
    np.testing.assert_array_equal(SCCAGN.load(kept, planted()).labels_, tiny.labels_)


@pytest.mark.filterwarnings("ignore:The values are neither counts nor logged")
@pytest.mark.parametrize("trained_on", ["counts", "logged values", "normalised values"])
def test_values_of_another_kind_are_told(tmp_path: Path, trained_on: str) -> None:
    of_kind = {"counts": planted(), "logged values": planted(), "normalised values": planted()}
    of_kind["logged values"].X = of_kind["logged values"].X.log1p()
    of_kind["normalised values"].X = of_kind["normalised values"].X * 100.5
    SCCAGN(of_kind[trained_on], 3, TINY).train().save(tmp_path / "kept")
    for kind, cells in of_kind.items():
        if kind == trained_on:
            SCCAGN.load(tmp_path / "kept", cells)
        else:
            with pytest.warns(InputWarning, match=f"trained on {trained_on}, but these values look like {kind}"):
                SCCAGN.load(tmp_path / "kept", cells)


@pytest.mark.parametrize("name", ["model.json", "recipe.npz", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04 cut short", None])
def test_a_damaged_model_is_told(kept: Path, name: str, content: bytes | None) -> None:
    path = kept / name
    if content is None:  # half of it
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"`folder` '.*kept' holds no model that can be read"):
        SCCAGN.load(kept, planted())


def test_evidence_and_history_are_kept(tmp_path: Path) -> None:
    adata = planted()
    trained = SCCAGN(adata, None, TINY).train()
    assert trained.estimate_ is not None
    trained.write_to(adata)
    trained.save(tmp_path / "kept")
    again = planted()
    loaded = SCCAGN.load(tmp_path / "kept", again)
    loaded.write_to(again)
    before, after = adata.uns["sccagn"], again.uns["sccagn"]
    for part in ("n_clusters_evidence", "initial", "history"):
        assert before[part].keys() == after[part].keys()
        for name, values in before[part].items():
            np.testing.assert_array_equal(after[part][name], values)
    assert (before["params"]["n_clusters"], after["params"]["n_clusters"]) == ("auto", "auto")
    assert (before["params"]["model"], after["params"]["model"]) == ("none", str(tmp_path / "kept"))
    loaded.save(tmp_path / "once more")
    assert SCCAGN.load(tmp_path / "once more", planted()).estimate_.n_clusters == trained.n_clusters_


def test_a_model_of_before_the_first_clusters_were_written_down(tmp_path: Path) -> None:
    SCCAGN(planted(), 3, TINY).train().save(tmp_path / "kept")
    path = tmp_path / "kept" / "model.json"
    facts = json.loads(path.read_text())
    assert facts.pop("initial") == {"method": "consensus"}
    path.write_text(json.dumps(facts))
    assert SCCAGN.load(tmp_path / "kept", planted()).initial_ == {}


def test_all_clusters_keep_their_places_where_some_have_no_cell(tmp_path: Path) -> None:
    adata = planted()
    trained = SCCAGN(adata, 3, FAST).train()
    trained.save(tmp_path / "kept")
    some = adata[trained.labels_ == 1].copy()
    SCCAGN.load(tmp_path / "kept", some).write_to(some)
    assert some.obs["sccagn"].cat.categories.tolist() == ["0", "1", "2"]
    assert (some.obs["sccagn"] == "1").all()


@pytest.mark.parametrize("names", [["model.json"], ["model.json", "thesis.tex"], ["data"], [".hidden"]])
def test_folders_of_other_things_are_left_alone(tiny: SCCAGN, tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    for name in names:
        (folder / name).write_text('{"layers": []}')
    with pytest.raises(InputError, match=r"`folder` must be new, empty or a saved model and nothing else, .*which"):
        tiny.save(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(names, '{"layers": []}')


def test_a_file_in_a_saved_model_is_left_alone(tiny: SCCAGN, kept: Path) -> None:
    (kept / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes\.txt', which is none of it"):
        tiny.save(kept)
    (kept / "notes.txt").unlink()
    tiny.save(kept)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("unexpected pos"), OSError(28, "No space left")])
def test_a_save_that_fails_leaves_the_earlier_model(
    tiny: SCCAGN, kept: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = {path.name: path.read_bytes() for path in kept.iterdir()}

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("torch.save", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError) as caught:
        tiny.save(kept)
    assert isinstance(error, KeyboardInterrupt) or f"cannot be written: {error}" in str(caught.value)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert [path.name for path in kept.parent.iterdir()] == ["kept"]


def test_the_folders_above_a_model_are_made(tiny: SCCAGN, tmp_path: Path) -> None:
    tiny.save(tmp_path / "models" / "first" / "kept")
    assert [path.name for path in (tmp_path / "models" / "first").iterdir()] == ["kept"]


def test_genes_that_only_count_towards_totals_are_missed(tmp_path: Path) -> None:
    """The values of the others are shares of a smaller total then."""
    adata = planted()
    trained = SCCAGN(adata, 3, dataclasses.replace(TINY, n_top_genes=50)).train()
    trained.save(tmp_path / "kept")
    others = adata.var_names.difference(trained.recipe_.gene_names)
    assert len(others) > 20
    with pytest.warns(InputWarning, match=rf"`adata` lacks 20 of the {len(trained.recipe_.genes)} genes over which"):
        SCCAGN.load(tmp_path / "kept", adata[:, adata.var_names.difference(others[:20], sort=False)].copy())


def test_a_link_to_a_model_is_followed(tiny: SCCAGN, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "there").mkdir()
    tiny.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"model.json", "recipe.npz", "weights.pt"}


def test_genes_are_found_by_name_so_names_must_not_repeat(tmp_path: Path) -> None:
    adata = planted()
    adata.var_names = ["one"] * 2 + adata.var_names[2:].tolist()
    model = SCCAGN(adata, 3, TINY).train()
    with pytest.raises(InputError, match=r"names repeat, such as 'one', cannot be saved.*var_names_make_unique"):
        model.save(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder(tiny: SCCAGN, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`folder` must be the path of a file or folder, .* of type AnnData"):
        SCCAGN.load(planted(), tmp_path / "kept")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"`folder` must be a folder; '.*file' is a file"):
        tiny.save(tmp_path / "file")


def test_the_current_folder_is_no_place(tiny: SCCAGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"`folder` must not be the current one, '\.'"):
        tiny.save(".")
    tiny.save("kept")
    assert Path.cwd() == tmp_path


def test_a_loaded_model_is_not_trained(kept: Path) -> None:
    loaded = SCCAGN.load(kept, planted())
    with pytest.raises(InputError, match=r"`train` is for a new model, but this one was loaded from '.*kept'"):
        loaded.train()
    np.testing.assert_array_equal(loaded.labels_, SCCAGN.load(kept, planted(), progress=False).labels_)


def test_what_shows_no_stages_is_refused_by_load(kept: Path) -> None:
    with pytest.raises(InputError, match="`progress` must be True, False, or have a method `stage`"):
        SCCAGN.load(kept, planted(), progress=3)  # type: ignore[arg-type]


def test_a_model_without_an_epoch_comes_back(tmp_path: Path) -> None:
    model = SCCAGN(planted(), 3, dataclasses.replace(TINY, pretrain_steps=0, joint_steps=0)).train()
    model.save(tmp_path / "model")
    loaded = SCCAGN.load(tmp_path / "model", planted())
    assert len(loaded.history_) == 0
    assert loaded.history_.columns.tolist() == model.history_.columns.tolist()


@pytest.mark.parametrize("name", ["weights.pt", "recipe.npz"])
def test_files_of_two_models_are_told_apart(kept: Path, tmp_path: Path, name: str) -> None:
    SCCAGN(planted(seed=1), 3, dataclasses.replace(TINY, n_latent=8)).train().save(tmp_path / "other")
    (kept / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(InputError, match=f"its {name} is not the one that was saved"):
        SCCAGN.load(kept, planted())
