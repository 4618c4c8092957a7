"""Probes of optional parts: present, absent, and installed but broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sccagn_scale import _compat


def test_importing_the_module_imports_nothing_heavy() -> None:
    code = "import sys, sccagn_scale._compat; print([m for m in ('torch', 'faiss', 'zarr') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_absent_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_compat._PACKAGES, "no_such_part", ("no-such-part", "nothing", "pip install it"))
    part = _compat.probe("no_such_part")
    assert not part.present
    assert part.detail == "not installed (pip install it)"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("raise OSError('undefined symbol: xyz\\nmore')", "installed but cannot be imported: undefined symbol: xyz"),
        ("import a_package_that_is_missing", "cannot be imported: No module named 'a_package_that_is_missing'"),
    ],
)
def test_broken_package_gives_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, detail: str
) -> None:
    name = f"broken_part_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(_compat._PACKAGES, name, (name, "nothing", "mend it"))
    part = _compat.probe(name)
    assert not part.present
    assert detail in part.detail


def test_present_package_gives_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole_part.py").write_text("__version__ = '3.2'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(_compat._PACKAGES, "whole_part", ("whole-part", "nothing", ""))
    assert _compat.probe("whole_part") == _compat.OptionalPart("whole_part", "nothing", True, "3.2")


def test_every_part_answers() -> None:
    parts = _compat.optional_parts()
    packages = {"sccagn_scale_ext", "torch_scatter", "torch_sparse", "pyg_lib", "harmonypy", "distributed"}
    assert {part.name for part in parts} == {*packages, "faiss GPU", "CUDA"}
    assert all(part.detail and "\n" not in part.detail for part in parts)


def test_faiss_gpu_and_cuda_follow_what_the_libraries_say(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimpleNamespace(name="Card", total_memory=80 * 2**30, major=9, minor=0)
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda i: device)
    torch = SimpleNamespace(__version__="2.9", version=SimpleNamespace(cuda="12.8"), cuda=cuda)
    faiss = SimpleNamespace(StandardGpuResources=object, get_num_gpus=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    assert _compat.cuda_devices() == ["Card, 86 GB, compute capability 9.0"]
    assert _compat._cuda() == _compat.OptionalPart("CUDA", "training on the GPU", True, "CUDA 12.8, 1 GPU")
    assert _compat.faiss_gpu().detail == "2 usable GPUs"

    cuda.is_available = lambda: False
    faiss.get_num_gpus = lambda: 0
    assert _compat.cuda_devices() == []
    assert not _compat._cuda().present
    assert not _compat.faiss_gpu().present
    del faiss.StandardGpuResources
    assert "without GPU support" in _compat.faiss_gpu().detail
    torch.version.cuda = None
    assert _compat._cuda().detail == "torch 2.9 was built without CUDA"


def test_package_version() -> None:
    assert _compat.package_version("numpy")
    assert _compat.package_version("no-such-distribution") is None


def test_broken_required_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert _compat._cuda().detail.startswith("torch cannot be imported: ")
    assert _compat.faiss_gpu().detail.startswith("faiss cannot be imported: ")
