"""`open_atlas` on bad input: found at once but for damage in the middle; one sentence, nothing touched or left."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from atlas_samples import random_atlas, store
from io_samples import tree
from scipy import sparse

from sccagn_scale import io
from sccagn_scale._errors import InputError
from sccagn_scale.io import _atomic, _transpose


def fails(action: Callable[[], object], match: str) -> None:
    """Assert that it ends with one sentence that fits `match`."""
    with pytest.raises(InputError, match=match) as caught:
        action()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message


def run(path: Path, block_size: int = 5, scratch: Path | None = None) -> list[int]:
    """Go through all blocks; their first cells."""
    return [start for start, _ in io.open_atlas([path], scratch=scratch).matrix().blocks(block_size)]


# What is given


def test_no_files(tmp_path: Path) -> None:
    fails(lambda: io.open_atlas([]), "`paths` must name at least one file, but is empty")
    fails(lambda: io.open_atlas([tmp_path / "none.h5ad"]), "none.h5ad' does not exist")
    (tmp_path / "notes.txt").touch()
    store(random_atlas(0, (3, 4)), tmp_path / ".hidden")
    fails(lambda: io.open_atlas([tmp_path]), r"`paths` must name files .* holds no \.h5ad .*; it holds notes\.txt\.$")
    (tmp_path / "a.h5").touch()
    fails(lambda: io.open_atlas([tmp_path]), r"a\.h5' is empty")


def test_a_store_without_content_is_not_passed_over(tmp_path: Path) -> None:
    store(random_atlas(0, (3, 4)), tmp_path / "a")
    (tmp_path / "b.zarr").mkdir()
    fails(lambda: io.open_atlas([tmp_path]), r"b\.zarr' holds nothing")


def test_a_file_given_twice(tmp_path: Path) -> None:
    path = store(random_atlas(0, (3, 4)), tmp_path / "a")
    (tmp_path / "link.h5ad").symlink_to(path)
    fails(lambda: io.open_atlas([path, path]), "`paths` must name every file once, but .*a.h5ad' comes twice")
    fails(lambda: io.open_atlas(tmp_path), "`paths` must name every file once, but .*link.h5ad' comes twice")


def test_scratch_that_is_no_folder(tmp_path: Path) -> None:
    path = store(random_atlas(0, (3, 4)), tmp_path / "a")
    fails(lambda: io.open_atlas([path], scratch=tmp_path / "none"), "`scratch` must be an existing folder")


def test_no_genes_in_common(tmp_path: Path) -> None:
    paths = []
    for name, genes in (("a", ["CD3E", "NKG7"]), ("b", ["NKG7", "CD3E"]), ("c", ["ENSG01", "ENSG02"])):
        adata = random_atlas(0, (3, 2), prefix=name)
        adata.var_names = genes
        paths.append(store(adata, tmp_path / name))
    fails(
        lambda: io.open_atlas(paths),
        r"`paths` must have genes in common.*c\.h5ad' \(genes such as 'ENSG01'\) beside .*a\.h5ad' \(such as 'CD3E'\)",
    )


def test_a_cell_in_two_files(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b", "c"):
        adata = random_atlas(0, (3, 2), prefix=name)
        adata.var_names = ["x", "y"]
        if name != "a":
            adata.obs_names = ["b0", "b1", f"{name}2"]
        paths.append(store(adata, tmp_path / name))
    fails(
        lambda: io.open_atlas(paths),
        r"`paths` must name every cell differently, but 'b0' is in .*b\.h5ad' and in .*c\.h5ad' \(2 names .*'c:' \+",
    )


def test_a_column_file_of_their_own(tmp_path: Path) -> None:
    paths = [store(random_atlas(0, (3, 4), prefix="a"), tmp_path / "a")]
    adata = random_atlas(0, (3, 4), prefix="b")
    adata.obs["file"] = "lane 1"
    paths.append(store(adata, tmp_path / "b"))
    fails(lambda: io.open_atlas(paths), r"`paths` must have no column obs\['file'\].*b\.h5ad' has one; rename it")


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    adata = random_atlas(0, (3, 4))
    adata.layers["counts"] = adata.X
    atlas = io.open_atlas([store(adata, tmp_path / "a")])
    fails(lambda: atlas.matrix("spliced"), r"^`layer` must be one of None \(X\), 'counts'; there is no 'spliced'\.$")
    fails(lambda: atlas.matrix("raw"), r"`layer` must be one of None \(X\), 'counts'; there is no 'raw'")
    adata.X = None
    atlas = io.open_atlas([store(adata, tmp_path / "a")])
    fails(lambda: atlas.matrix(), r"^`layer` points at X, which holds no matrix; choose one of 'counts'\.$")
    del adata.layers["counts"]
    atlas = io.open_atlas([store(adata, tmp_path / "a", "zarr 3")])
    fails(lambda: atlas.matrix(), "choose one of none, as there is no matrix")


def test_nothing_in_it(tmp_path: Path) -> None:
    for shape in ((0, 3), (3, 0)):
        atlas = io.open_atlas([store(anndata.AnnData(sparse.csr_matrix(shape, dtype="f4")), tmp_path / "a")])
        fails(lambda atlas=atlas: atlas.matrix(), f"The input is empty: X has {shape[0]} cells and {shape[1]} genes")


def test_text_tables_and_other_shapes(tmp_path: Path) -> None:
    path = store(random_atlas(0, (3, 4)), tmp_path / "a")
    with h5py.File(path, "a") as file:
        anndata.io.write_elem(file, "layers/words", np.full((3, 4), "high"))
        anndata.io.write_elem(file, "layers/table", pd.DataFrame(index=["a", "b", "c"]))
        anndata.io.write_elem(file, "layers/flat", np.zeros(12))
        anndata.io.write_elem(file, "layers/wide", np.zeros((3, 5)))
    atlas = io.open_atlas([path])
    fails(lambda: atlas.matrix("words"), "`layer` must hold numbers")
    fails(lambda: atlas.matrix("table"), "/layers/table is no matrix")
    fails(lambda: atlas.matrix("flat"), "/layers/flat has 1 dimensions")
    fails(lambda: atlas.matrix("wide"), "/layers/wide is 3 × 5 but must be 3 × 4")


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 4)])
def test_cells_that_are_not_there(tmp_path: Path, start: int, stop: int) -> None:
    matrix = io.open_atlas([store(random_atlas(0, (3, 4)), tmp_path / "a")]).matrix()
    fails(lambda: matrix.read(start, stop), f"`start` and `stop` must lie in order between 0 and 3, but are {start}")


@pytest.mark.parametrize("block_size", [0, 2.5, True])
def test_block_size(tmp_path: Path, block_size: object) -> None:
    matrix = io.open_atlas([store(random_atlas(0, (3, 4)), tmp_path / "a")]).matrix()
    fails(lambda: matrix.blocks(block_size), "`block_size` must be a whole number of at least 1; it is")


# Damage


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_file_cut_short(tmp_path: Path, layout: str, fraction: float) -> None:
    path = store(random_atlas(0, (300, 40), layout), tmp_path / "a", "h5ad gzip")
    os.truncate(path, int(fraction * path.stat().st_size))
    before = tree(tmp_path)
    fails(lambda: io.open_atlas([path]), "`path` .*a.h5ad' is")
    assert tree(tmp_path) == before


def chunked(path: Path, layout: str) -> int:
    """Write 64 cells in chunks that know their sums; a place in the last chunk."""
    values = np.random.default_rng(0).integers(1, 99, (64, 64)).astype(np.float32)
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "/", anndata.AnnData(sparse.csr_matrix(values).asformat(layout)))
        del file["X/data"]
        flat = values.ravel() if layout == "csr" else values.T.ravel()
        data = file["X"].create_dataset("data", data=flat, chunks=(512,), compression="gzip", fletcher32=True)
        info = data.id.get_chunk_info(7)
    return info.byte_offset + info.size // 2


def test_a_broken_chunk_ends_the_block_it_is_in(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    place = chunked(path, "csr")
    whole = store(random_atlas(0, (3, 64), prefix="w"), tmp_path / "w")
    with h5py.File(whole, "a") as file:
        file["var/_index"][:] = [str(i) for i in range(64)]
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    matrix = io.open_atlas([whole, path]).matrix()
    blocks = matrix.blocks(8)
    assert [start for start, _ in itertools.islice(blocks, 8)] == [0, *range(3, 59, 8)]
    fails(lambda: next(blocks), r"`path` .*a\.h5ad' is damaged.*cells 56 to 63, ")
    assert matrix.read(0, 59).shape == (59, 64)
    fails(lambda: matrix.read(60, 61), r"a\.h5ad' is damaged.*cells 57 to 57, ")


def test_a_broken_chunk_of_csc_is_told_with_its_genes(tmp_path: Path) -> None:
    path, scratch = tmp_path / "a.h5ad", tmp_path / "scratch"
    scratch.mkdir()
    place = chunked(path, "csc")
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    atlas = io.open_atlas([path], scratch=scratch)
    fails(lambda: atlas.matrix().read(0, 1), r"`path` .*a\.h5ad' is damaged.*all cells' genes 0 to 63, ")
    assert list(scratch.rglob("*.h5")) == []
    assert path.read_bytes() == content


@pytest.mark.parametrize(("layout", "what"), [("csr", "cells 15 to 19"), ("csc", "all cells' genes 0 to 7")])
@pytest.mark.parametrize("value", [-1, 10**6])
def test_an_index_out_of_bounds(tmp_path: Path, layout: str, what: str, value: int) -> None:
    path = store(random_atlas(0, (20, 8), layout), tmp_path / "a")
    with h5py.File(path, "a") as file:
        file["X/indices"][-1] = value
    fails(lambda: run(path), rf"`path` .*a\.h5ad' is damaged.*{what}, index {value} is not below")


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("position", [0, 3, -1])
def test_bad_offsets_are_found_before_the_pass(tmp_path: Path, layout: str, position: int) -> None:
    path = store(random_atlas(0, (20, 8), layout), tmp_path / "a")
    with h5py.File(path, "a") as file:
        file["X/indptr"][position] += 10**6
    fails(io.open_atlas([path]).matrix, r"`path` .*a\.h5ad' is damaged.*in /X, indptr does not rise")


def test_fewer_indices_than_values(tmp_path: Path) -> None:
    path = store(random_atlas(0, (20, 8)), tmp_path / "a")
    with h5py.File(path, "a") as file:
        file["X/indices"].resize((10,))
    fails(io.open_atlas([path]).matrix, r"/X has \d+ values but 10 indices")


@pytest.mark.parametrize("missing", ["obs", "var", "X/indptr", "X/data", "obs/_index"])
@pytest.mark.parametrize("kind", ["h5ad", "zarr 2", "zarr 3"])
def test_missing_parts_are_found_before_the_pass(tmp_path: Path, kind: str, missing: str) -> None:
    path = store(random_atlas(0, (20, 8)), tmp_path / "a", kind)
    if kind == "h5ad":
        with h5py.File(path, "a") as file:
            del file[missing]
    else:
        shutil.rmtree(path / missing)
        (path / ".zmetadata").unlink(missing_ok=True)  # the copy of all metadata; in format 3 a part of the group's own
        if (path / "zarr.json").exists():
            metadata = json.loads((path / "zarr.json").read_text())
            del metadata["consolidated_metadata"]
            (path / "zarr.json").write_text(json.dumps(metadata))
    fails(lambda: io.open_atlas([path]).matrix(), r"`path` .*a\.(h5ad|zarr)'")


def test_names_of_raw_that_cannot_be_read(tmp_path: Path) -> None:
    adata = random_atlas(0, (20, 8))
    adata.raw = adata
    path = store(adata, tmp_path / "a")
    with h5py.File(path, "a") as file:
        file["raw/var"].attrs["encoding-type"] = "unheard of"
    fails(lambda: io.open_atlas([path]), r"`path` .*a\.h5ad' is damaged")


def zarr_chunks(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith((".z", "zarr.json")))


@pytest.mark.parametrize("kind", ["zarr 2", "zarr 3", "zarr 3 sharded"])
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
@pytest.mark.parametrize("how", ["gone", "cut"])
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_broken_chunks_of_zarr(tmp_path: Path, kind: str, part: str, how: str, layout: str) -> None:
    path = store(random_atlas(0, (20, 8), layout), tmp_path / "a", kind)
    (chunk,) = zarr_chunks(path / "X" / part)
    if how == "gone":  # zarr takes it for zeros
        chunk.unlink()
    else:
        os.truncate(chunk, chunk.stat().st_size // 2)
    fails(lambda: run(path), r"`path` .*a\.zarr' is damaged")


@pytest.mark.parametrize("kind", ["zarr 2", "zarr 3"])
def test_a_gene_twice_in_a_cell_is_no_damage(tmp_path: Path, kind: str) -> None:
    """Its values are to be added; a chunk that is missing looks alike."""
    twice = sparse.csr_matrix((np.ones(5, np.float32), [0, 0, 1, 0, 1], [0, 3, 5]), shape=(2, 2))
    path = store(anndata.AnnData(twice), tmp_path / "a", kind)
    np.testing.assert_array_equal(io.open_atlas([path]).matrix().read(0, 2).toarray(), [[2, 1], [1, 1]])
    for chunk in zarr_chunks(path / "X" / "indices"):
        chunk.unlink()
    fails(lambda: run(path), "the first gene comes more than once in a cell; chunks are missing")


def test_all_values_in_the_first_gene_are_no_damage(tmp_path: Path) -> None:
    """zarr then does not store the chunk of indices, which are zeros."""
    adata = anndata.AnnData(sparse.csr_matrix(np.array([[1, 0], [0, 0], [5, 0]], np.float32)))
    for kind in ("zarr 2", "zarr 3"):
        matrix = io.open_atlas([store(adata, tmp_path / kind, kind)]).matrix()
        np.testing.assert_array_equal(matrix.read(0, 3).toarray(), adata.X.toarray())


def test_a_file_removed_after_it_was_opened(tmp_path: Path) -> None:
    path = store(random_atlas(0, (20, 8)), tmp_path / "a")
    matrix = io.open_atlas([path]).matrix()
    path.unlink()
    fails(lambda: list(matrix.blocks(5)), r"`path` .*a\.h5ad' cannot be opened")


# A scratch folder that is full


def test_no_room_to_transpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scratch = store(random_atlas(0, (20, 8), "csc"), tmp_path / "a"), tmp_path / "scratch"
    scratch.mkdir()

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    atlas = io.open_atlas([path], scratch=scratch)
    fails(
        lambda: atlas.matrix().read(0, 1),
        r"scratch.*could not take the rows of /X of .*a\.h5ad'.*No space left.*`scratch`",
    )
    assert list(scratch.rglob("*.h5")) == []
    atlas.close()
    assert list(scratch.iterdir()) == []


def test_a_disk_with_room_for_half_of_it_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_atlas(0, (200, 80), "csc")
    matrix = io.open_atlas([store(values, tmp_path / "a")], scratch=tmp_path).matrix()
    free = 12 * values.X.nnz  # enough for the ranges alone
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    monkeypatch.setattr(_transpose, "_distribute", lambda *_: pytest.fail("values were written"))
    fails(lambda: matrix.read(0, 1), r"could not take the rows .*No space left.* GB free")


def test_a_disk_with_room_for_one_of_two_copies_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_room_for(one: io.StoredMatrix) -> None:
        room = SimpleNamespace(free=one.copies.kept + one.copies.making)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: room)

    paths = [store(random_atlas(i, (200, 80), "csc", prefix=f"{i} "), tmp_path / f"{i}") for i in range(2)]
    alone, both = (io.open_atlas(files, scratch=tmp_path).matrix() for files in (paths[:1], paths))
    with_room_for(alone)
    with monkeypatch.context() as untouched:
        untouched.setattr(_transpose, "_distribute", lambda *_: pytest.fail("values were written"))
        fails(lambda: both.read(0, 1), r"could not take the rows .*No space left.* GB free")
    alone.read(0, 1)
    with_room_for(both)
    both.read(0, 1)
    with_room_for(both)  # one of the two is there
    both.read(200, 201)


def test_a_disk_that_fills_up_under_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: object, buffer: object) -> int:
        self.failure = OSError(errno.ENOSPC, "No space left on device")
        return len(buffer)

    path = store(random_atlas(0, (20, 8), "csc"), tmp_path / "a")
    monkeypatch.setattr(_atomic._PatientFile, "write", write)
    matrix = io.open_atlas([path], scratch=tmp_path).matrix()
    fails(lambda: matrix.read(0, 1), r"could not take the rows .*No space left")
    assert [entry.name for entry in tmp_path.rglob("*.h5")] == []


def test_a_scratch_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(random_atlas(0, (20, 8), "csc"), tmp_path / "a")
    atlas = io.open_atlas([path], scratch=tmp_path)

    def refuse(**_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    fails(lambda: atlas.matrix().read(0, 1), "`scratch` must be a folder that takes new files")


def test_files_that_changed_are_known(tmp_path: Path) -> None:
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path in paths:
        adata = anndata.AnnData(np.eye(3))
        adata.obs_names = [f"{path.stem}{i}" for i in range(3)]
        adata.write_h5ad(path)
    atlas = io.open_atlas(paths)
    paths[0].chmod(0o600)
    os.link(paths[0], tmp_path / "link")
    assert atlas.changed_files == []
    os.utime(paths[1], ns=(5, 5))
    assert atlas.changed_files == [paths[1]]
    paths[0].unlink()
    assert atlas.changed_files == paths


def test_changes_behind_links_are_known_and_links_to_nowhere_do_no_harm(tmp_path: Path) -> None:
    path = store(random_atlas(0, (5, 4)), tmp_path / "a", "zarr 2")
    (path / "X").rename(tmp_path / "elsewhere")
    (path / "X").symlink_to(tmp_path / "elsewhere")
    (path / ".#lock").symlink_to("nobody@nowhere")
    atlas = io.open_atlas(path)
    assert atlas.matrix().read(0, 5).shape == (5, 4)
    assert atlas.changed_files == []
    chunk = next(entry for entry in sorted((tmp_path / "elsewhere").rglob("*")) if entry.is_file())
    os.utime(chunk, ns=(2**62, 2**62))
    assert atlas.changed_files == [path]


@pytest.mark.parametrize("kind", ["h5ad", "zarr 3"])
def test_another_file_of_the_same_size_and_time_is_another(tmp_path: Path, kind: str) -> None:
    values = random_atlas(0, (5, 4))
    path = store(values, tmp_path / "a", kind)
    values.X.data = values.X.data[::-1].copy()
    other = store(values, tmp_path / "b", kind)
    for entry in (path, other, *path.rglob("*"), *other.rglob("*")):
        os.utime(entry, ns=(5, 5))
    before = io.file_facts(path)
    assert {**before, "ctime_ns": 0} == {**io.file_facts(other), "ctime_ns": 0}
    time.sleep(0.02)  # the system's clock for files may be coarse
    path.rename(tmp_path / "old")
    other.rename(path)
    assert io.file_facts(path) != before


def test_what_is_no_path() -> None:
    for wrong in (5, None, b"a.h5ad", [None], [5], anndata.AnnData(np.eye(2))):
        fails(lambda wrong=wrong: io.open_atlas(wrong), "`paths` must be the path of a file or folder, .* of type ")
    fails(lambda: io.open_atlas("a.h5ad", scratch=5), "`scratch` must be the path of a file or folder, .* of type int")
