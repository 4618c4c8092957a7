"""Arrays on disk hold what arrays in memory do, count as no memory, and leave nothing behind."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from sccagn_scale import _memory
from sccagn_scale._errors import InputError
from sccagn_scale._memory import IN_MEMORY, Scratch, available

LARGE = 2**24  # bytes


def own_bytes() -> int:
    """Memory of this process that is no file's."""
    return 1024 * int(re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def resident_bytes() -> int:
    return 1024 * int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def held_in(folder: Path) -> int:
    """Files of the folder, deleted or not, that are mapped into memory."""
    return len({line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line})


@pytest.mark.parametrize("shape", [7, (3, 4), (0, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_arrays_can_be_filled(tmp_path: Path, shape: int | tuple[int, int], dtype: type) -> None:
    for scratch in (IN_MEMORY, Scratch(tmp_path)):
        array = scratch.empty(shape, dtype)
        array[...] = 1
        assert (array.dtype, array.shape) == (dtype, np.empty(shape).shape)
        assert array.all()
        assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_the_same(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(50, 3))[:, ::2]
    matrix = sp.random(40, 30, 0.1, format="csr", dtype=np.float32, random_state=0)
    assert IN_MEMORY.keep(array) is array
    assert IN_MEMORY.keep_csr(matrix) is matrix
    scratch = Scratch(tmp_path)
    np.testing.assert_array_equal(scratch.keep(array), array)
    kept = scratch.keep_csr(matrix)
    assert (kept != matrix).nnz == 0
    assert all(a.dtype == b.dtype for a, b in zip(_parts(kept), _parts(matrix), strict=True))
    assert all(part.base is not None for part in _parts(kept))


def _parts(matrix: sp.csr_matrix) -> tuple[np.ndarray, ...]:
    return matrix.data, matrix.indices, matrix.indptr


def test_pages_are_no_memory_of_ours_and_can_be_let_go(tmp_path: Path) -> None:
    scratch, before = Scratch(tmp_path), own_bytes()
    arrays = [scratch.empty(LARGE, np.uint8) for _ in range(2)]
    for array in arrays:
        array[...] = 7
    assert own_bytes() - before < LARGE / 4
    held = resident_bytes()
    scratch.rest()
    assert held - resident_bytes() > 1.5 * LARGE
    assert all((array == 7).all() for array in arrays)


def test_space_is_free_when_an_array_is_dropped(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    array = scratch.empty(LARGE, np.uint8)
    part = array[5:10]
    part[:] = 3
    del array
    gc.collect()
    assert part.tolist() == [3] * 5  # still there
    assert held_in(tmp_path) == 1
    del part
    gc.collect()
    scratch.rest()
    assert held_in(tmp_path) == 0


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, n_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        InputError, match=r"`store` needs 17 MB more on the disk of '.*', which could not be reserved: No space"
    ):
        Scratch(tmp_path).empty(LARGE, np.uint8)
    assert list(tmp_path.iterdir()) == []


def test_available_memory_is_some_of_the_machines() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**24 < available() <= total


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 5,000,000 KiB free, in whose folder of control groups there is none yet."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 5000000 kB\n")
    monkeypatch.setattr(_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(_memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(_memory, "_GROUPS", tmp_path / "groups")
    return tmp_path / "groups"


def group(folder: Path, limit: str, taken: int, cached: int = 0, *, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pages = "{0}active_file {1}\n{0}inactive_file {1}\n".format("" if version == 2 else "total_", cached // 2)
    (folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(f"{limit}\n")
    (folder / ("memory.current" if version == 2 else "memory.usage_in_bytes")).write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{pages}")


def test_a_containers_limit_counts_and_pages_of_files_do_not(groups: Path) -> None:
    groups.with_name("own").write_text("0::/../somewhere/outside\n")  # as seen from inside
    group(groups, "3000000000", 1_800_000_000, 800_000_000)
    assert (available(), _memory.limit()) == (2 * 10**9, 3 * 10**9)
    group(groups, "max", 1_800_000_000)
    assert (available(), _memory.limit()) == (5_000_000 * 1024, None)


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_nested_groups_counts(groups: Path, version: int) -> None:
    """As in a job of Slurm or a service of systemd, whose group lies below the top."""
    controllers, top = ("", groups) if version == 2 else ("cpu,memory", groups / "memory")
    groups.with_name("own").write_text(f"7:pids:/\n3:{controllers}:/slurm/job_5/step_0\n")
    group(top / "slurm" / "job_5" / "step_0", "4000000000", 10**9, version=version)
    group(top / "slurm" / "job_5", "3000000000", 2 * 10**9, version=version)
    assert (available(), _memory.limit()) == (10**9, 3 * 10**9)


def test_a_machine_without_groups_has_no_limit(groups: Path) -> None:
    assert (available(), _memory.limit()) == (5_000_000 * 1024, None)


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(1000, "1,000 bytes"), (617.4e6, "617 MB"), (1.234e9, "1.23 GB"), (45.64e9, "45.6 GB"), (5e12, "5,000.0 GB")],
)
def test_sizes_in_words(n_bytes: float, words: str) -> None:
    assert _memory.in_words(n_bytes) == words


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="not Linux")
def test_folders_that_are_memory_are_told_from_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    kinds = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in lines}
    if kinds.get(str(shared)) == "tmpfs":
        assert _memory.is_in_memory(shared)
    assert not _memory.is_in_memory(Path("/proc"))
    device = os.stat(tmp_path).st_dev
    own = f"{os.major(device)}:{os.minor(device)}"
    for kind, expected in (("ramfs", True), ("ext4", False)):
        mounts = f"1 0 0:999 / / rw - tmpfs a rw\n2 1 {own} / /x rw shared:1 - {kind} b rw\n"
        monkeypatch.setattr(Path, "read_text", lambda self, mounts=mounts: mounts)
        assert _memory.is_in_memory(tmp_path) is expected
