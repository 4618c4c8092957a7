"""`check_writable`: what would stop the writing is known before the work."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import anndata
import pytest
from io_samples import NAMES, tree

from sccagn_scale import io
from sccagn_scale._errors import InputError


def refused(path: Path | str, match: str, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        io.check_writable(path, "output", **options)
    message = str(caught.value)
    assert message.startswith("`output`")
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_behind(tmp_path: Path, adata: anndata.AnnData, name: str) -> None:
    io.check_writable(tmp_path / name, "output")
    assert os.listdir(tmp_path) == []
    io.write(adata, tmp_path / name)
    before = tree(tmp_path)
    io.check_writable(str(tmp_path / name), "output")
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.csv", "a", "a.h5", "a.h5ad.gz", ""])
def test_extension(tmp_path: Path, adata: anndata.AnnData, name: str) -> None:
    refused(str(tmp_path / name) if name else "", r"must end in \.h5ad or \.zarr, but is")
    with pytest.raises(InputError, match=r"`path` must end in"):
        io.write(adata, tmp_path / name)


def test_no_such_folder(tmp_path: Path, adata: anndata.AnnData) -> None:
    refused(tmp_path / "none" / "a.h5ad", "existing folder, but .*none' does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "a.h5ad", "existing folder, but .*file' is a file")
    with pytest.raises(InputError, match="`path` must lie in an existing folder"):
        io.write(adata, tmp_path / "none" / "a.h5ad")


def test_a_folder_that_takes_no_files() -> None:
    refused("/proc/a.h5ad", "takes new files, but '/proc' does not take 'a.h5ad'")  # for root neither
    refused("/proc/plots", "takes new files, but '/proc' does not", kind="folder")
    refused("/proc/a.json", "takes new files, but '/proc' does not", kind="file")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Any, *args: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", denied)
    refused(tmp_path / "a.h5ad", "does not take 'a.h5ad': Permission denied")


def test_a_name_too_long(tmp_path: Path) -> None:
    refused(tmp_path / f"{'a' * 300}.h5ad", "too long")
    io.check_writable(tmp_path / f"{'a' * 250}.h5ad", "output")
    assert os.listdir(tmp_path) == []


def test_something_else_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder.h5ad").mkdir()
    (tmp_path / "file.zarr").touch()
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.txt").touch()
    refused(tmp_path / "folder.h5ad", "must name a file, but .* is a folder")
    refused(tmp_path / "file.zarr", "must name a folder, but .* is a file")
    refused(tmp_path / "mine.zarr", "must not be a folder of other things")


@pytest.mark.parametrize("name", NAMES)
def test_write_protection_is_respected(tmp_path: Path, adata: anndata.AnnData, name: str) -> None:
    io.write(adata, tmp_path / name)
    mode = (tmp_path / name).stat().st_mode
    (tmp_path / name).chmod(mode & ~0o222)
    refused(tmp_path / name, "must not be write-protected")
    (tmp_path / name).chmod(mode)


def test_other_files_and_folders(tmp_path: Path) -> None:
    io.check_writable(tmp_path / "scores.json", "json", kind="file")
    io.check_writable(tmp_path / "new" / "deep" / "plots", "plots", kind="folder")
    io.check_writable(tmp_path, "plots", kind="folder")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    refused(tmp_path, "must name a file, but .* is a folder", kind="file")
    refused(tmp_path / "file", "must name a folder, but .* is a file", kind="folder")
    refused(tmp_path / "file" / "deep" / "plots", "is a file", kind="folder")


def test_a_stream_or_a_device_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "must name a file, but '.*pipe' is a device or a pipe", kind="file")
    for stream in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        refused(stream, f"must name a file of its own, but '{stream}' is a stream", kind="file")
    assert os.listdir(tmp_path) == ["pipe"]
