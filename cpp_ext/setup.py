"""Compile the two libraries: `cpu.so` always, `cuda.so` where there is nvcc.

Neither knows Python, and of torch only the stable ABI, so one build serves every Python and every torch from 2.11 on.

Environment variables
---------------------
CXX, NVCC
    The compilers, `c++` and `nvcc` (or that of CUDA_HOME) if not set.
SCCAGN_CUDA
    0 leaves CUDA out, 1 insists on it. A GPU is not needed to compile.
SCCAGN_SANITIZE
    1 builds the CPU library with the address and undefined-behaviour sanitizers, without optimisation that hides from
    them.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
CSRC = HERE / "csrc"
# torch's stable ABI as of 2.11
DEFINES = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"]
INSTRUCTION_SETS = {"baseline": []} | ({"avx2": ["-mavx2", "-mfma"], "avx512": AVX512} if X86 else {})
# Turing (the oldest that torch and nvcc 13 know), Ampere, Hopper, and intermediate code for what comes after them
TARGETS = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (75, 80, 90)]
TARGETS += ["-gencode=arch=compute_90,code=compute_90"]


def torch_folder() -> Path:
    """Where the installed torch is."""
    try:
        import torch
    except ImportError:
        raise SystemExit("torch has to be installed first; then: pip install ./cpp_ext --no-build-isolation") from None
    return Path(torch.__file__).parent


def nvcc() -> str | None:
    """The CUDA compiler, if one is to be used."""
    wish = os.environ.get("SCCAGN_CUDA", "")
    if wish == "0":
        return None
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ] + ["/usr/local/cuda"]
    named = os.environ.get("NVCC")
    candidates = [named] if named else [*(f"{home}/bin/nvcc" for home in homes), "nvcc"]
    found = next((path for name in candidates if (path := shutil.which(name))), None)
    if named and found is None:
        raise SystemExit(f"NVCC={named} is no program.")
    if wish == "1" and found is None:
        raise SystemExit("SCCAGN_CUDA=1, but there is no nvcc on PATH, in CUDA_HOME or named by NVCC.")
    return found


class Build(build_ext):
    """Calls the compilers itself: the same kernels are compiled once for each instruction set."""

    def run(self) -> None:
        """Build afresh: a library that an earlier build left would go into the wheel."""
        for left in Path(self.build_lib).glob("sccagn_scale_ext/*.so"):
            left.unlink()
        super().run()

    def get_ext_filename(self, name: str) -> str:
        """No Python in the name, as there is none in the library."""
        return name.replace(".", os.sep) + ".so"

    def build_extension(self, extension: Extension) -> None:
        """Compile and link one library."""
        library = Path(self.get_ext_fullpath(extension.name))
        objects = Path(self.build_temp).resolve()
        for folder in (library.parent, objects):
            folder.mkdir(parents=True, exist_ok=True)
        if extension.name.endswith("cpu"):
            self._cpu(library, objects)
            return
        try:
            self._cuda(library, objects)
        except SystemExit as failure:
            if os.environ.get("SCCAGN_CUDA") == "1":
                raise
            print(f"CUDA is left out: {failure} SCCAGN_CUDA=1 insists on it.", flush=True)

    def _cpu(self, library: Path, objects: Path) -> None:
        compiler = shlex.split(os.environ.get("CXX") or "c++")
        if not shutil.which(compiler[0]):
            raise SystemExit(f"A compiler for C++20 is needed, and there is no {compiler[0]}; name one in CXX.")
        sanitize = os.environ.get("SCCAGN_SANITIZE") == "1"
        checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-fno-omit-frame-pointer"]
        common = [
            *compiler, "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi",
            *(["-O1", *checks] if sanitize else ["-O3"]), *DEFINES, *(["-DSCCAGN_X86"] if X86 else []),
        ]  # fmt: skip
        torch = torch_folder()
        jobs, linked = [], []
        for source in sources("cpu/*.cpp"):
            variants = INSTRUCTION_SETS if source.stem.endswith("_kernels") else {"": []}
            for name, flags in variants.items():
                linked.append(str(objects / f"{source.stem}_{name}.o"))
                own = [f"-DSCCAGN_TARGET={name}", *flags] if name else ["-isystem", str(torch / "include")]
                jobs.append([*common, *own, "-c", str(source), "-o", linked[-1]])
        run_all(jobs)
        ends = checks if sanitize else ["-Wl,-s"]
        run([*compiler, "-shared", *linked, *ends, f"-L{torch / 'lib'}", "-ltorch_cpu", "-o", str(library)])

    def _cuda(self, library: Path, objects: Path) -> None:
        compiler = nvcc()
        assert compiler is not None
        named = shlex.split(os.environ.get("CXX", ""))
        host = ["-ccbin", *named] if len(named) == 1 else []  # nvcc takes no launcher such as ccache, and no options
        torch = torch_folder()
        common = [
            compiler, *host, "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden",
            *TARGETS, *DEFINES, "-DUSE_CUDA", "-isystem", str(torch / "include"),
        ]  # fmt: skip
        found = sources("cuda/*.cu")
        linked = [str(objects / f"{source.stem}_cuda.o") for source in found]
        run_all([[*common, "-c", str(source), "-o", built] for source, built in zip(found, linked, strict=True)])
        # libtorch_cuda is looked into when the library is loaded: a torch without CUDA can compile for one with it. The
        # runtime is the one that torch has loaded by then; a library for another CUDA is left out
        ends = ["-cudart=shared", "-L" + str(torch / "lib"), "-ltorch_cpu", "-o", str(library)]
        run([compiler, *host, "-shared", *linked, *TARGETS, *ends])


class Wheel(bdist_wheel):
    """A wheel for every Python 3 on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """As the libraries do not know Python."""
        return ("py3", "none", super().get_tag()[2])


def sources(pattern: str) -> list[Path]:
    """Files of csrc; none means that they were not packed."""
    found = sorted(CSRC.glob(pattern))
    if not found:
        raise SystemExit(f"{CSRC / pattern} is not there: this source is not complete.")
    return found


def run(command: list[str]) -> None:
    """Run a compiler; its own message is all that a failure needs."""
    print(" ".join(command), flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"{command[0]} failed.")


def run_all(commands: list[list[str]]) -> None:
    """Run compilers side by side."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands))


libraries = ["sccagn_scale_ext.cpu", *(["sccagn_scale_ext.cuda"] if nvcc() else [])]
setup(
    ext_modules=[Extension(name, sources=[]) for name in libraries],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
