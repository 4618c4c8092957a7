"""The compiled extension is built here, without being installed, and stands the operators' tests for each target."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sccagn_scale
from sccagn_scale.ops import implementations

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "cpp_ext"
PTX, MACHINE_CODE = 1, 2  # kinds of code in a fat binary
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
OPERATOR_TESTS = ("tests/ops", "tests/nn/test_nn_losses.py", "tests/nn/test_nn_module.py", "tests/test_infer.py")

compiled = implementations()["csr_matmul"]["cpu"] == "ext"
compiler = os.environ.get("CXX", "c++")
nvcc = next(filter(None, map(shutil.which, (os.environ.get("NVCC", "nvcc"), "/usr/local/cuda/bin/nvcc"))), None)
needs_compiler = pytest.mark.skipif(shutil.which(compiler) is None, reason=f"there is no C++ compiler, {compiler}")


def succeed(command: list[str], **variables: str) -> str:
    """Run a command at the root; its output, which a failure shows."""
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def built(folder: Path, **variables: str) -> Path:
    """Install the extension into a folder of its own, from a copy of its source."""
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    install = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index"]
    succeed([*install, "--target", str(folder / "site"), str(folder / "source")], **variables)
    return folder / "site"


def run_operator_tests(*tests: str, **variables: str) -> str:
    return succeed(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], **variables
    )


@needs_compiler
def test_what_is_not_installed_passes_the_same_tests(tmp_path: Path) -> None:
    """Of the reference and the extension, this run has one; here the other is tested, with all instruction sets."""
    if compiled:
        run_operator_tests(*OPERATOR_TESTS, SCCAGN_EXT="0")
        path = os.environ.get("PYTHONPATH", "")
    else:
        path = os.pathsep.join(filter(None, (str(built(tmp_path, SCCAGN_CUDA="0")), os.environ.get("PYTHONPATH"))))
        run_operator_tests(*OPERATOR_TESTS, PYTHONPATH=path, SCCAGN_EXT="1")
    loaded = {"PYTHONPATH": path, "SCCAGN_EXT": "1"}
    told = [sys.executable, "-c", "from sccagn_scale import ops; print(ops.instruction_set())"]
    widest = succeed(told, **loaded).split()[-1]
    narrower = INSTRUCTION_SETS[: INSTRUCTION_SETS.index(widest)]  # an error where none is loaded
    for instructions in narrower:
        assert succeed(told, **loaded, SCCAGN_ISA=instructions).split()[-1] == instructions
        run_operator_tests("tests/ops", **loaded, SCCAGN_ISA=instructions)
    assert "SCCAGN_ISA must be one of baseline, avx2, avx512, but is sse" in succeed(told, **loaded, SCCAGN_ISA="sse")


RUN = """
import sys
import numpy as np
from model_samples import FAST, GENES, planted
from sccagn_scale import SCCAGN, ops

models = {"components": SCCAGN(planted(), None, FAST).train(), "genes": SCCAGN(planted(), 3, GENES).train()}
arrays = {name: [model.labels_, model.embedding_] for name, model in models.items()}
np.savez(sys.argv[1], **{f"{name} {i}": array for name, own in arrays.items() for i, array in enumerate(own)})
print(ops.implementations()["csr_matmul"]["cpu"])
"""


@pytest.mark.skipif(not compiled, reason="the extension is not installed")
def test_without_the_extension_a_run_gives_the_same_answers(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, (str(ROOT / "tests/model"), os.environ.get("PYTHONPATH"))))
    used = [
        succeed([sys.executable, "-c", RUN, str(tmp_path / f"{choice}.npz")], PYTHONPATH=path, SCCAGN_EXT=choice)
        for choice in "01"
    ]
    assert [text.split()[-1] for text in used] == ["reference", "ext"]
    without, compiled_in = (np.load(tmp_path / f"{choice}.npz") for choice in "01")
    for name in ("components", "genes"):
        np.testing.assert_array_equal(compiled_in[f"{name} 0"], without[f"{name} 0"])
        np.testing.assert_allclose(compiled_in[f"{name} 1"], without[f"{name} 1"], atol=1e-3)


def test_cuda_that_is_not_wanted_asks_for_no_compiler(tmp_path: Path) -> None:
    asked, gone = [sys.executable, str(SOURCE / "setup.py"), "--version"], str(tmp_path / "gone")
    succeed(asked, SCCAGN_CUDA="0", NVCC=gone)
    with pytest.raises(AssertionError, match="gone is no program"):
        succeed(asked, SCCAGN_CUDA="1", NVCC=gone)


@pytest.mark.skipif(nvcc is None, reason="there is no nvcc")
@needs_compiler
def test_cuda_is_compiled_for_every_target_without_a_gpu(tmp_path: Path) -> None:
    assert nvcc is not None
    library = built(tmp_path, SCCAGN_CUDA="1") / "sccagn_scale_ext/cuda.so"
    content = library.read_bytes()
    assert set(device_codes(content)) == {*((MACHINE_CODE, n) for n in (75, 80, 90)), (PTX, 90)}
    assert all(kernel in content for kernel in (b"gather", b"assign", b"label", b"column_sums", b"pull", b"add_blocks"))


def device_codes(library: bytes) -> Iterator[tuple[int, int]]:
    """Kind and compute capability of everything in the library's fat binaries.

    A fat binary starts with its magic number, a version and a header's length (16 bits each) and a size (64); in it
    each entry has its kind (16), version (16), header's length (32) and size (64), and its capability (32) at byte 28.
    """
    magic = (0xBA55ED50).to_bytes(4, "little")
    start = library.find(magic)
    while start >= 0:
        _, header, size = struct.unpack_from("<HHQ", library, start + 4)
        entry, end = start + header, start + header + size
        while entry < end:
            kind, _, length, size = struct.unpack_from("<HHIQ", library, entry)
            yield kind, struct.unpack_from("<I", library, entry + 28)[0]
            entry += length + size
        start = library.find(magic, end)


def packed(folder: Path, **variables: str) -> Path:
    """Make a wheel of the extension, but of one of its sources for the CPU: it is not compiled once more."""
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    (folder / "source/csrc/cpu").rename(folder / "kernels")
    (folder / "source/csrc/cpu").mkdir()
    for name in ("dispatch.cpp", "dispatch.h"):
        shutil.copy(folder / "kernels" / name, folder / "source/csrc/cpu")
    make = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    succeed([*make, "-w", str(folder), str(folder / "source")], **variables)
    (wheel,) = folder.glob("*.whl")
    return wheel


@needs_compiler
@pytest.mark.parametrize("launcher", ["", "env "])
def test_nvcc_takes_the_compiler_that_is_named_alone(tmp_path: Path, launcher: str) -> None:
    nvcc, asked = tmp_path / "nvcc", tmp_path / "asked"
    nvcc.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nexit 1\n')
    nvcc.chmod(0o755)
    packed(tmp_path, NVCC=str(nvcc), CXX=launcher + compiler)
    assert (f"-ccbin {compiler} " in asked.read_text()) == (not launcher)


@needs_compiler
@pytest.mark.parametrize(
    "variables", [{"SCCAGN_CUDA": "0"}, {"NVCC": "false"}], ids=["without CUDA", "with an nvcc that fails"]
)
def test_a_wheel_serves_every_python(tmp_path: Path, variables: dict[str, str]) -> None:
    wheel = packed(tmp_path, **variables)
    assert wheel.name.startswith("sccagn_scale_ext-0.1.0-py3-none-linux_")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"sccagn_scale_ext/__init__.py", "sccagn_scale_ext/cpu.so"} <= set(names)
    assert "sccagn_scale_ext/cuda.so" not in names


def test_both_packages_have_one_version() -> None:
    import tomllib

    versions = [
        sccagn_scale.__version__,
        tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["version"],
    ]
    assert versions[0] == versions[1]


def test_an_extension_of_another_version_is_left_out_with_a_word(tmp_path: Path) -> None:
    """A package that says it is the extension of version 9, and would fail if it were imported."""
    (tmp_path / "sccagn_scale_ext.py").write_text("raise RuntimeError('imported')")
    facts = tmp_path / "sccagn_scale_ext-9.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: sccagn-scale-ext\nVersion: 9\n")
    code = "from sccagn_scale import ops; print({d for o in ops.implementations().values() for d in o.values()})"
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    said = succeed([sys.executable, "-c", code], PYTHONPATH=path)
    assert "its version is 9, where 0.1.0 is needed. Build it anew (`make ext`), or remove it." in said
    assert "{'reference'}" in said
    assert "InputWarning" not in succeed([sys.executable, "-c", code], PYTHONPATH=path, SCCAGN_EXT="0")
