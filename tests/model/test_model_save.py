"""A trained model on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model_samples import FAST, TINY, planted

from sccagn_scale import SCCAGN, InputError, InputWarning


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


@pytest.mark.parametrize("n_obs", [1, 2, 10, 35, 36, 100])
def test_few_cells_get_the_clusters_that_they_have_among_many(tmp_path: Path, n_obs: int) -> None:
    adata = planted()
    trained = SCCAGN(adata[:200].copy(), 3, FAST).train()
    trained.save(tmp_path / "kept")
    many = SCCAGN.load(tmp_path / "kept", adata).labels_
    same = []
    for cells in np.split(np.arange(200, 200 + n_obs * (100 // n_obs)), 100 // n_obs)[:20]:
        written = adata[cells].copy()
        few = SCCAGN.load(tmp_path / "kept", written)
        same.extend(few.labels_ == many[cells])
        few.write_to(written)
        assert written.uns["neighbors"]["params"]["n_neighbors"] == min(n_obs, 15)
        assert written.obsp["distances"].nnz == n_obs * (min(n_obs, 15) - 1)
    assert np.mean(same) >= 0.9


def test_a_model_of_another_format_is_told(tmp_path: Path) -> None:
    SCCAGN(planted(), 3, TINY).train().save(tmp_path / "kept")
    path = tmp_path / "kept" / "model.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 1'))
    with pytest.raises(InputError, match=r"holds no model that can be read: it has format 1, and this version"):
        SCCAGN.load(tmp_path / "kept", planted())


@pytest.mark.parametrize(("changed", "said"), [("logged", "not all of these"), ("counts", "all of these")])
def test_values_of_another_kind_are_told(tmp_path: Path, changed: str, said: str) -> None:
    counts, logged = planted(), planted()
    logged.X = logged.X.log1p()
    first, second = (counts, logged) if changed == "logged" else (logged, counts)
    SCCAGN(first, 3, TINY).train().save(tmp_path / "kept")
    SCCAGN.load(tmp_path / "kept", first)
    with pytest.warns(InputWarning, match=f"trained on (counts|logged values), but {said} values are whole numbers"):
        SCCAGN.load(tmp_path / "kept", second)


@pytest.mark.parametrize("name", ["model.json", "recipe.npz", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04 cut short", None])
def test_a_damaged_model_is_told(tmp_path: Path, name: str, content: bytes | None) -> None:
    SCCAGN(planted(), 3, TINY).train().save(tmp_path / "kept")
    path = tmp_path / "kept" / name
    if content is None:  # half of it
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"`folder` '.*kept' holds no model that can be read"):
        SCCAGN.load(tmp_path / "kept", planted())
