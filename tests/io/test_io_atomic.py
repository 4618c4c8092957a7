"""Files and folders that are replaced: whole, in one step, with their owners and modes, and flushed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from io_samples import COUNTS, NAMES, tree, x_of

from sccagn_scale import io
from sccagn_scale._errors import InputError
from sccagn_scale.io import _atomic


def test_a_link_is_followed(tmp_path: Path, adata: anndata.AnnData) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "a.h5ad").symlink_to(tmp_path / "store" / "real.h5ad")
    io.write(adata, tmp_path / "a.h5ad")
    assert (tmp_path / "a.h5ad").is_symlink()
    np.testing.assert_array_equal(x_of(tmp_path / "store" / "real.h5ad"), COUNTS)
    assert os.listdir(tmp_path / "store") == ["real.h5ad"]


def test_modes(tmp_path: Path, adata: anndata.AnnData) -> None:
    before = os.umask(0o027)
    try:
        io.write(adata, tmp_path / "a.h5ad")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.h5ad").stat().st_mode) == 0o640
    (tmp_path / "a.h5ad").chmod(0o600)
    io.write(adata, tmp_path / "a.h5ad")
    assert stat.S_IMODE((tmp_path / "a.h5ad").stat().st_mode) == 0o600


def test_it_is_flushed_before_the_rename(
    tmp_path: Path, adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    io.write(adata, tmp_path / "a.h5ad")
    assert [Path(call).name for call in calls] == ["a.h5ad", "replace", tmp_path.name]


def test_all_of_a_folder_is_flushed_before_the_rename(
    tmp_path: Path, adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    fsync, replace = os.fsync, os.replace

    def renamed(old: Path, new: Path) -> None:
        if Path(new) == tmp_path / "a.zarr":  # zarr has files of its own to rename
            calls.append(Path(old))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(Path(os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", renamed)
    io.write(adata, tmp_path / "a.zarr")
    *flushed, fresh, above = calls
    assert above == tmp_path
    whole = {path.relative_to(tmp_path) for path in (tmp_path / "a.zarr", *(tmp_path / "a.zarr").rglob("*"))}
    assert whole <= {path.relative_to(fresh.parent) for path in flushed if path.is_relative_to(fresh)}


def test_a_zarr_folder_is_replaced_in_one_step(
    tmp_path: Path, adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr"
    io.write(adata, path)
    exchange, held = _atomic._exchange, []

    def seen(one: Path, other: Path) -> bool:
        done = exchange(one, other)
        held.append((one, other, x_of(one)[0, 1], x_of(other)[0, 1]))
        return done

    monkeypatch.setattr(_atomic, "_exchange", seen)
    adata.X = 2 * adata.X
    io.write(adata, path)
    ((one, other, new, old),) = held
    assert (one, other.name, other.is_relative_to(tmp_path)) == (path, path.name, True)
    assert (new, old) == (6, 3)
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_system_that_cannot_exchange_takes_two_steps(
    tmp_path: Path, adata: anndata.AnnData, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the second fails, the first is taken back."""
    io.write(adata, tmp_path / "a.zarr")
    before, steps, rename = tree(tmp_path), [], os.rename

    def second_fails(source: Path, target: Path) -> None:
        if "a.zarr" in (source.name, target.name):
            steps.append((source, target))
            if fails and len(steps) == 2:
                raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    monkeypatch.setattr(_atomic, "_exchange", lambda one, other: False)
    adata.X = 2 * adata.X
    if fails:
        with pytest.raises(InputError, match="Input/output error"):
            io.write(adata, tmp_path / "a.zarr")
        assert tree(tmp_path) == before
        assert len(steps) == 3
    else:
        io.write(adata, tmp_path / "a.zarr")
        np.testing.assert_array_equal(x_of(tmp_path / "a.zarr"), 2 * COUNTS)
        assert len(steps) == 2
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path, adata: anndata.AnnData) -> None:
    """And what a living one has there is not, nor anything of another name."""
    left = tmp_path / f"{_atomic._SCRATCH}left"
    (left / "below").mkdir(parents=True)
    (left / "below" / "a.h5ad").write_bytes(b"half")
    (tmp_path / ".sccagn_scale-on-another-machine-x").mkdir()
    with _atomic.scratch_folder(tmp_path) as living:
        assert not left.exists()
        io.write(adata, tmp_path / "a.h5ad")
        assert living.is_dir()
        assert sorted(os.listdir(tmp_path)) == sorted([".sccagn_scale-on-another-machine-x", living.name, "a.h5ad"])
    assert not living.exists()


@pytest.mark.parametrize("error", [None, errno.EXDEV, errno.ENOSYS, errno.ENOSPC])
@pytest.mark.parametrize("n_before", [0, 1])
def test_a_copy_by_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None, n_before: int
) -> None:
    """What the system cannot do it refuses at the first piece; later it is a failure."""
    content = bytes(range(256)) * 40
    (tmp_path / "a").write_bytes(content)
    copy, pieces = os.copy_file_range, []

    def in_pieces(source: int, target: int, count: int) -> int:
        pieces.append(count)
        if error is not None and len(pieces) > n_before:
            raise OSError(error, os.strerror(error))
        return copy(source, target, min(count, 4000))

    monkeypatch.setattr(os, "copy_file_range", in_pieces)
    if error is not None and n_before:
        with pytest.raises(OSError, match=os.strerror(error)):
            _atomic.copy_file(tmp_path / "a", tmp_path / "b")
        return
    _atomic.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    assert len(pieces) == (4 if error is None else 1)


def test_a_copy_where_the_system_has_no_call_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"content")
    monkeypatch.delattr(os, "copy_file_range")
    _atomic.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_allowed", [True, False])
def test_owner_and_group_are_kept_where_the_system_allows_it(
    tmp_path: Path, adata: anndata.AnnData, name: str, is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    io.write(adata, tmp_path / name)
    seen, found, fresh = {}, Path.stat, tmp_path / name

    def of_others(self: Path, **how: Any) -> os.stat_result:
        done = found(self, **how)
        return os.stat_result((*done[:4], 4321, 1234, *done[6:])) if self == fresh else done

    def chown(path: Path, owner: int, group: int, **_: object) -> None:
        seen.setdefault(Path(path).name, []).append((owner, group))
        if not is_allowed:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "stat", of_others)
    monkeypatch.setattr(os, "chown", chown)
    io.write(adata, tmp_path / name)
    assert seen[name] == [(-1, 1234), (4321, -1)]
    assert len(seen) == 1 or "indptr" in seen
    np.testing.assert_array_equal(x_of(tmp_path / name), COUNTS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", NAMES)
def test_owner_and_group_of_a_file_that_root_replaces(tmp_path: Path, adata: anndata.AnnData, name: str) -> None:
    io.write(adata, tmp_path / name)
    path = tmp_path / name
    path.chmod(0o2750)
    try:
        os.chown(path, 4321, 1234)
    except OSError:
        pytest.skip("there are no other users here")
    path.chmod(0o2750)
    io.write(adata, path)
    for entry in (path, *path.rglob("*")):
        assert (entry.stat().st_uid, entry.stat().st_gid) == (4321, 1234)
    assert stat.S_IMODE(path.stat().st_mode) == 0o2750


def test_a_folder_that_may_be_written_and_not_opened(
    tmp_path: Path, adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, *rest: Any, **how: Any) -> int:
        if Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *rest, **how)

    monkeypatch.setattr(os, "open", refuse)
    io.write(adata, tmp_path / "a.h5ad")
    monkeypatch.undo()
    np.testing.assert_array_equal(x_of(tmp_path / "a.h5ad"), COUNTS)


# Interruptions, which would crash the process if HDF5 met them


class Interruptions:
    """At which calls of its methods a file gets a signal, and which."""

    at: Collection[int] = ()
    number = signal.SIGINT


@pytest.fixture
def interruptions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interruptions]:
    """To be filled in; handlers must be back in the end."""
    before = signal.getsignal(signal.SIGINT)
    made, n_calls = Interruptions(), 0

    def interrupted(buffer: Any) -> memoryview:
        nonlocal n_calls
        n_calls += 1
        if n_calls in made.at:
            signal.raise_signal(made.number)
        return memoryview(buffer)

    monkeypatch.setattr(_atomic, "memoryview", interrupted, raising=False)
    yield made
    assert signal.getsignal(signal.SIGINT) is before


class Ended(BaseException):
    """What a handler raises."""


@pytest.mark.parametrize("when", [[1], [2], [5], [3, 4]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_hdf5_writes_comes_up_and_nothing_is_written(
    tmp_path: Path,
    adata: anndata.AnnData,
    interruptions: Interruptions,
    when: list[int],
    number: signal.Signals,
) -> None:
    def end(*_: object) -> None:
        raise Ended

    path = tmp_path / "a.h5ad"
    path.write_bytes(b"as before")
    interruptions.at, interruptions.number = when, number
    before = signal.signal(number, end)
    try:
        with pytest.raises(Ended):
            io.write(adata, path)
    finally:
        signal.signal(number, before)
    assert tree(tmp_path) == {"a.h5ad": b"as before"}


def written(path: Path) -> None:
    with _atomic.replacing_hdf5(path) as file:
        file["x"] = np.zeros(100_000)


def test_a_second_signal_is_ignored_if_the_first_says_so(
    tmp_path: Path, interruptions: Interruptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line does, so that what is left is removed whole."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Ended

    removed = shutil.rmtree

    def remove(*given: Any, **named: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        removed(*given, **named)

    interruptions.number = signal.SIGTERM
    interruptions.at = [2]
    before = signal.signal(signal.SIGTERM, end)
    monkeypatch.setattr(shutil, "rmtree", remove)
    try:
        with pytest.raises(Ended):
            written(tmp_path / "a.h5")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_the_file_that_was_written_hears(tmp_path: Path, interruptions: Interruptions) -> None:
    """Of two, one within the other, the one whose write is interrupted is the one that fails."""
    finished = []

    def work() -> None:
        with _atomic.replacing_hdf5(tmp_path / "outer.h5") as outer:
            outer["x"] = np.zeros(9)
            try:
                with _atomic.replacing_hdf5(tmp_path / "inner.h5") as inner:
                    interruptions.at = range(1000)
                    inner["x"] = np.zeros(100_000)
                    inner.flush()
                    interruptions.at = ()
            except KeyboardInterrupt:
                finished.append("inner")
            outer.check()

    work()
    assert finished == ["inner"]
    assert [path.name for path in tmp_path.iterdir()] == ["outer.h5"]


def test_a_signal_that_is_ignored_ends_nothing(
    tmp_path: Path, adata: anndata.AnnData, interruptions: Interruptions
) -> None:
    interruptions.at = [2, 3]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        io.write(adata, tmp_path / "a.h5ad")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    np.testing.assert_array_equal(x_of(tmp_path / "a.h5ad"), COUNTS)


def test_long_work_hears_of_an_interruption(tmp_path: Path, interruptions: Interruptions) -> None:
    interruptions.at = [1]

    def work() -> None:
        with _atomic.replacing_hdf5(tmp_path / "a.h5") as file:
            file["x"] = np.zeros(100_000)
            file.flush()
            file.check()
            pytest.fail("the work went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []


def test_other_interruptions_come_up_at_once(tmp_path: Path, interruptions: Interruptions) -> None:
    def work() -> None:
        with _atomic.replacing_hdf5(tmp_path / "a.h5"):
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the work went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_handler_that_raises_nothing_ends_nothing(
    tmp_path: Path, adata: anndata.AnnData, interruptions: Interruptions
) -> None:
    interruptions.at = [2, 3]
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        io.write(adata, tmp_path / "a.h5ad")
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT] * 2
    np.testing.assert_array_equal(x_of(tmp_path / "a.h5ad"), COUNTS)


def test_a_thread_writes_as_well(tmp_path: Path, adata: anndata.AnnData) -> None:
    """Only the main thread may say what signals do."""
    thread = threading.Thread(target=io.write, args=(adata, tmp_path / "a.h5ad"))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(x_of(tmp_path / "a.h5ad"), COUNTS)
