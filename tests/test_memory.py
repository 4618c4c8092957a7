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


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


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
    array = scratch.empty(LARGE, np.uint8)
    array[...] = 7
    assert own_bytes() - before < LARGE / 4
    held = resident_bytes()
    scratch.rest()
    assert held - resident_bytes() > LARGE / 2
    assert (array == 7).all()


def test_space_is_free_when_an_array_is_dropped(tmp_path: Path) -> None:
    scratch, before = Scratch(tmp_path), descriptors()
    array = scratch.empty(LARGE, np.uint8)
    part = array[5:10]
    part[:] = 3
    del array
    gc.collect()
    assert part.tolist() == [3] * 5  # still there
    del part
    gc.collect()
    scratch.rest()
    assert descriptors() == before


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, n_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        InputError, match=r"`store` needs 0\.02 GB more on the disk of '.*', which could not be had: No space"
    ):
        Scratch(tmp_path).empty(LARGE, np.uint8)
    assert list(tmp_path.iterdir()) == []


def test_available_memory_is_some_of_the_machines() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**24 < available() <= total


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 5000000 kB\n")
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1800000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000000\nactive_file 300000000\ninactive_file 500000000\n")
    monkeypatch.setattr(_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(_memory, "_GROUP", tmp_path)
    assert available() == 2 * 10**9
    (tmp_path / "memory.max").write_text("max\n")
    assert available() == 5_000_000 * 1024
