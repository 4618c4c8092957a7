"""The file that `simulate` writes: its layout, its labels, its memory, and what it refuses."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale.simulate import simulate
from sccagn_scale.simulate._simulate import _spread_types


def real_cells(n_per_type: tuple[int, ...] = (30, 20, 10), n_vars: int = 50) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    types = np.repeat([f"t{i}" for i in range(len(n_per_type))], n_per_type)
    profiles = rng.gamma(0.5, size=(len(n_per_type), n_vars))
    counts = rng.poisson(3 * np.repeat(profiles, n_per_type, axis=0)).astype(np.float32)
    counts[:, 0] += 1  # no empty cell
    obs = pd.DataFrame({"kind": types, "donor": "a"}, index=[f"c{i}" for i in range(len(types))])
    return anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_vars)]))


def same(one: Path, other: Path) -> bool:
    a, b = anndata.read_h5ad(one), anndata.read_h5ad(other)
    return (a.X != b.X).nnz == 0 and (a.obs["cell_type"] == b.obs["cell_type"]).all()


@pytest.mark.parametrize("from_source", [False, True])
def test_the_file_is_what_anndata_would_have_written(tmp_path: Path, from_source: bool) -> None:
    path = tmp_path / "a.h5ad"
    if from_source:
        simulate(path, 300, source=real_cells(), label="kind", random_state=5)
    else:
        simulate(path, 300, 400, n_types=3, random_state=5)
    adata = anndata.read_h5ad(path)
    assert adata.shape == (300, 50 if from_source else 400)
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    assert adata.X.data.min() >= 1
    assert (adata.X.data == np.floor(adata.X.data)).all()
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert list(adata.obs) == ["cell_type"]
    assert len(adata.obs["cell_type"].cat.categories) == adata.obs["cell_type"].nunique() == 3
    assert adata.uns["simulation"]["n_types"] == 3
    assert adata.uns["simulation"]["random_state"] == 5

    # anndata writes the same tree of groups, datasets and encodings
    again = tmp_path / "b.h5ad"
    adata.write_h5ad(again)
    assert _layout(path) == _layout(again)
    with h5py.File(path) as file:
        assert file["X/indptr"].dtype == np.int64


def _layout(path: Path) -> dict[str, tuple[str, str]]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update(
                {name: (type(item).__name__, item.attrs["encoding-type"], item.attrs["encoding-version"])}
                if "encoding-type" in item.attrs
                else {name: (type(item).__name__,)}
            )
        )
    return found


def test_cells_are_named_as_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sccagn_scale.simulate._h5ad._NAMES_AT_ONCE", 64)
    simulate(tmp_path / "a.h5ad", 150, 20, n_types=2)
    assert anndata.read_h5ad(tmp_path / "a.h5ad").obs_names.tolist() == [f"cell_{i:03d}" for i in range(150)]


def test_backed_mode_reads_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    simulate(path, 200, 300, n_types=2)
    whole, backed = anndata.read_h5ad(path), anndata.read_h5ad(path, backed="r")
    np.testing.assert_array_equal(backed[70:90].X.toarray(), whole[70:90].X.toarray())
    backed.file.close()


@pytest.mark.parametrize("from_source", [False, True])
def test_the_seed_decides_and_the_number_of_threads_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_source: bool
) -> None:
    kwargs = {"source": real_cells(), "label": "kind"} if from_source else {"n_vars": 200, "n_types": 3}
    for name, seed, n_threads in (("a", 1, "2"), ("b", 1, "2"), ("c", 1, "1"), ("d", 1, "5"), ("e", 2, "2")):
        monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
        simulate(tmp_path / f"{name}.h5ad", 500, random_state=seed, **kwargs)
    for name in "bcd":
        assert same(tmp_path / "a.h5ad", tmp_path / f"{name}.h5ad")
    assert not same(tmp_path / "a.h5ad", tmp_path / "e.h5ad")


def test_memory_does_not_grow_with_the_cells(tmp_path: Path) -> None:
    def peak(n_obs: int) -> int:
        tracemalloc.start()
        try:
            simulate(tmp_path / "a.h5ad", n_obs, source=source, label="kind")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    source = real_cells(n_vars=300)
    peak(1000)  # what is imported and cached once
    few, many = peak(2000), peak(12_000)
    bytes_per_cell = (many - few) / 10_000
    row = 8 * sp.csr_matrix(source.X).nnz / source.n_obs
    assert bytes_per_cell < 0.1 * row


def test_labels_can_be_found_again_but_not_for_free(tmp_path: Path) -> None:
    scores = []
    for seed in range(3):  # how far apart the types of one atlas lie is drawn too, so that one alone says little
        simulate(tmp_path / "a.h5ad", 800, 2000, n_types=6, random_state=seed)
        adata = anndata.read_h5ad(tmp_path / "a.h5ad")
        x = adata.X.toarray()
        x = np.log1p(x / x.sum(axis=1, keepdims=True) * np.median(x.sum(axis=1)))
        x = x[:, np.argsort(-x.std(axis=0))[:500]]
        found = KMeans(6, n_init=2, random_state=0).fit_predict(PCA(20, random_state=0).fit_transform(x))
        scores.append(adjusted_rand_score(adata.obs["cell_type"], found))
    assert 0.5 < np.mean(scores) < 0.95


@pytest.mark.parametrize(("asked", "expected"), [(None, 3000), (500, 500), (40.5, 40.5)])
def test_the_median_cell_has_as_many_counts_as_asked_for(tmp_path: Path, asked: float | None, expected: float) -> None:
    simulate(tmp_path / "a.h5ad", 500, 400, n_types=3, median_counts=asked)
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert np.median(adata.X.toarray().sum(axis=1)) == pytest.approx(expected, rel=0.1)
    assert adata.uns["simulation"]["median_library_size"] == expected


def test_source_types_keep_their_shares_names_and_order(tmp_path: Path) -> None:
    source = real_cells((10, 60, 30))
    simulate(tmp_path / "a.h5ad", 1000, source=source, label="kind")
    simulate(tmp_path / "b.h5ad", 900, source=source, label="kind", n_types=2)
    all_types = anndata.read_h5ad(tmp_path / "a.h5ad").obs["cell_type"]
    most_abundant = anndata.read_h5ad(tmp_path / "b.h5ad").obs["cell_type"]
    assert all_types.value_counts(sort=False).to_dict() == {"t0": 100, "t1": 600, "t2": 300}
    assert most_abundant.value_counts(sort=False).to_dict() == {"t1": 600, "t2": 300}


def test_source_may_be_a_file_or_backed(tmp_path: Path) -> None:
    source = real_cells()
    source.obs["kind"] = source.obs["kind"].astype("category")
    source.write_h5ad(tmp_path / "real.h5ad")
    backed = anndata.read_h5ad(tmp_path / "real.h5ad", backed="r")
    for name, given_source in (("a", source), ("b", tmp_path / "real.h5ad"), ("c", backed)):
        simulate(tmp_path / f"{name}.h5ad", 100, source=given_source, label="kind")
    backed.file.close()
    assert same(tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    assert same(tmp_path / "a.h5ad", tmp_path / "c.h5ad")


def test_cells_without_label_or_counts_are_left_out_with_a_warning(tmp_path: Path) -> None:
    source = real_cells()
    source.obs.loc[source.obs_names[:5], "kind"] = None
    with pytest.warns(InputWarning, match=r"5 of 60 source cells have no 'kind'") as caught:
        simulate(tmp_path / "a.h5ad", 100, source=source, label="kind")
    assert caught[0].filename == __file__
    assert anndata.read_h5ad(tmp_path / "a.h5ad").uns["simulation"]["n_source_cells"] == 55

    source = real_cells()
    source.X.data[: source.X.indptr[3]] = 0
    with pytest.warns(InputWarning, match=r"3 of 60 source cells have no counts"):
        simulate(tmp_path / "a.h5ad", 100, source=source, label="kind")


def _with_x(change: str) -> anndata.AnnData:
    adata = real_cells()
    if change == "none":
        return anndata.AnnData(obs=adata.obs)
    adata.X.data[3] = {"negative": -1.0, "fraction": 0.5, "nan": np.nan}[change]
    return adata


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_obs": 0}, "`n_obs` must be a whole number of at least 1; it is 0"),
        ({"n_obs": 1e3}, "`n_obs` must be a whole number"),
        ({"n_vars": 0}, "`n_vars` must be"),
        ({"n_types": 1}, "`n_types` must be a whole number of at least 2, or None; it is 1"),
        ({"n_obs": 4, "n_types": 5}, "`n_types` must be at most `n_obs`"),
        ({"n_obs": 4}, "`n_obs` must be at least the number of cell types, 10, got 4"),
        ({"median_counts": 0}, "`median_counts` must be a number above 0, got 0"),
        ({"median_counts": -5}, "`median_counts` must be a number above 0, got -5"),
        ({"median_counts": np.nan}, "`median_counts` must be a number above 0, got nan"),
        ({"median_counts": "500"}, "`median_counts` must be a number above 0, got '500'"),
        ({"median_counts": np.inf}, "`median_counts` must be a number above 0, got inf"),
        (
            {"source": real_cells(), "label": "kind", "median_counts": 500},
            "`median_counts` must be left out with a `source`, whose cells have their own, got 500",
        ),
        ({"random_state": -1}, "`random_state` must be"),
        ({"label": "kind"}, "`label` needs a `source`"),
        ({"source": real_cells()}, "`label` must name the column"),
        ({"source": real_cells(), "label": "cell"}, "`label` must be a column .* got 'cell'; .* 'kind', 'donor'"),
        ({"source": real_cells(), "label": "donor"}, "`label` must tell at least 2 types"),
        ({"source": real_cells(), "label": "kind", "n_types": 4}, "`n_types` must be at most the 3 types"),
        ({"source": real_cells(), "label": "kind", "n_vars": 49}, "`n_vars` must be the source's 50 genes"),
        ({"source": "nowhere.h5ad", "label": "kind"}, "`source` must name an existing file"),
        ({"source": _with_x("negative"), "label": "kind"}, "`source` must hold counts .* negative values such as -1"),
        ({"source": _with_x("fraction"), "label": "kind"}, "`source` must hold counts .* fractions such as 0.5"),
        ({"source": _with_x("nan"), "label": "kind"}, "`source` must hold counts .* NaN"),
        ({"source": _with_x("none"), "label": "kind"}, "`source` must hold a count matrix"),
        ({"path": "a.csv"}, "`path` must end in .h5ad"),
        ({"path": "missing/a.h5ad"}, "`path`"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path: Path, kwargs: dict, message: str) -> None:
    kwargs = {"n_obs": 100, "path": "a.h5ad", **kwargs}
    with pytest.raises(InputError, match=message):
        simulate(tmp_path / kwargs.pop("path"), **kwargs)
    assert list(tmp_path.iterdir()) == []


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "real.h5ad"
    real_cells().write_h5ad(path)
    before = path.read_bytes()
    for source in (path, anndata.read_h5ad(path, backed="r")):
        with pytest.raises(InputError, match="`path` must differ from `source`"):
            simulate(path, 100, source=source, label="kind")
    assert path.read_bytes() == before


class Interrupting:
    """A progress display in which the user presses Ctrl-C after some cells."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.done = error, 0.0

    @contextmanager
    def stage(self, name: str, total: float | None = None):
        yield self

    def advance(self, n: float = 1, /, **info: float | int | str) -> None:
        self.done += n
        if self.done >= 200:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
def test_an_interrupted_run_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.h5ad"
    path.write_bytes(b"before")
    with pytest.raises(type(error)):
        simulate(path, 2000, 100, n_types=2, progress=Interrupting(error))
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]
    assert path.read_bytes() == b"before"


def test_a_full_disk_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`path` .* could not be written: No space left"):
        simulate(tmp_path / "a.h5ad", 500, 100, n_types=2, progress=Interrupting(OSError(28, "No space left")))
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "a.h5ad", 199, 100, n_types=2, progress=True)
    assert "Simulate" in capsys.readouterr().err
    with pytest.raises(InputError, match="`progress` must be True, False"):
        simulate(tmp_path / "a.h5ad", 199, 100, progress="loud")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [True, 2**32, -1, 1.5])
def test_a_seed_is_what_every_generator_takes(tmp_path: Path, seed: Any) -> None:
    with pytest.raises(InputError, match="`random_state` must be"):
        simulate(tmp_path / "a.h5ad", 199, 100, random_state=seed)


def test_progress_counts_every_cell(tmp_path: Path) -> None:
    counter = Interrupting(RuntimeError())
    simulate(tmp_path / "a.h5ad", 199, 100, n_types=2, progress=counter)
    assert counter.done == 199


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=40), st.integers(0, 500))
def test_type_sizes_are_whole_near_their_shares_and_none_is_empty(weights: list[float], more: int) -> None:
    proportions = np.array(weights) / np.sum(weights)
    n_obs = len(weights) + more
    sizes = np.bincount(_spread_types(n_obs, proportions, np.random.default_rng(0)), minlength=len(weights))
    assert sizes.sum() == n_obs
    assert sizes.min() >= 1
    assert (sizes - n_obs * proportions).max() <= 1


def test_strings_of_pandas_own_type_are_not_what_is_written(tmp_path: Path) -> None:
    with pd.option_context("future.infer_string", True):
        simulate(tmp_path / "a.h5ad", 30, 20, n_types=2)
        simulate(tmp_path / "b.h5ad", 30, source=tmp_path / "a.h5ad", label="cell_type")
    for path in tmp_path.iterdir():
        with h5py.File(path) as file:
            assert file["var/_index"].attrs["encoding-type"] == "string-array"
        assert len(anndata.read_h5ad(path).var_names) == 20
