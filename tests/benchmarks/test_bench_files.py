"""Files that are measured on: what tells them apart, and that they are read from the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _files, scale


def test_files_are_told_apart_by_size_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(scale, "in_fresh_process", lambda target, kwargs: made.append(kwargs))
    paths = {scale.simulated_file(tmp_path, 300, n_vars, median_counts=n) for n_vars in (20, 30) for n in (None, 500.0)}
    assert len(paths) == 4
    assert {one["path"] for one in made} == {str(path) for path in paths}
    path = scale.simulated_file(tmp_path, 300, 20)
    path.touch()
    assert scale.simulated_file(tmp_path, 300, 20) == path
    assert len(made) == 5


def test_what_is_forgotten_is_on_the_disk_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_bytes(b"x")
    done: list[tuple[str, str]] = []
    name_of = {os.stat(tmp_path / name).st_ino: name for name in ("a", "inner/b")}

    def note(what: str) -> Any:
        return lambda file, *_: done.append((what, name_of[os.fstat(file).st_ino]))

    monkeypatch.setattr(_files.os, "fsync", note("flushed"))
    monkeypatch.setattr(_files.os, "posix_fadvise", note("dropped"))
    _files.forget(tmp_path / "a")
    assert done == [("flushed", "a"), ("dropped", "a")]
    done.clear()
    _files.forget(tmp_path)
    for name in ("a", "inner/b"):
        assert done.index(("flushed", name)) < done.index(("dropped", name))
