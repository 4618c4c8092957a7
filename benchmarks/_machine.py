"""Facts of the machine, without which a time means nothing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "sccagn-scale",
    "sccagn-scale-ext",
    "anndata",
    "annbatch",
    "faiss-cpu",
    "faiss-gpu",
    "faiss-gpu-cuvs",
    "h5py",
    "harmonypy",
    "hnswlib",
    "igraph",
    "leidenalg",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "pynndescent",
    "scanpy",
    "scdataset",
    "scikit-learn",
    "scikit-misc",
    "scipy",
    "scvi-tools",
    "torch",
    "torch-geometric",
    "torch-scatter",
    "torch-sparse",
    "umap-learn",
    "zarr",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Which of the processor's a name like "AMD EPYC" does not tell.
INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
EXTENSION_VARIABLES = ("SCCAGN_EXT", "SCCAGN_ISA")
ROOT = Path(__file__).resolve().parents[1]


def machine_facts() -> dict[str, Any]:
    """Processor, memory, system, operators, versions and commit, with none of the packages imported here."""
    flags = (_field("/proc/cpuinfo", "flags") or "").split()
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpu_family": _field("/proc/cpuinfo", "cpu family"),
        "cpu_model": _field("/proc/cpuinfo", "model"),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
        "thread_limits": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "extension": {name: os.environ[name] for name in EXTENSION_VARIABLES if name in os.environ},
        "operators": _operators(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "git_commit": _commit(),
    }


@cache
def _operators() -> dict[str, Any]:
    """Which implementation each operator has, and the instructions it was compiled for, where methods choose none."""
    told = "json.dumps({'instructions': ops.instruction_set(), **ops.implementations()})"
    said = _output(sys.executable, "-c", f"import json; from sccagn_scale import ops; print({told})")
    return dict(json.loads(said or "{}"))


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    stated = _field("/proc/meminfo", "MemAvailable")
    return None if stated is None else int(stated.split()[0]) * 1024


def _field(path: str, name: str) -> str | None:
    if not Path(path).exists():
        return None
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this checkout, with "-dirty" when tracked files but results were changed; None outside of git."""
    commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD").strip()
    if not commit:
        return None
    what = ("--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return f"{commit}-dirty" if _output("git", "-C", str(ROOT), "status", *what).strip() else commit


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
