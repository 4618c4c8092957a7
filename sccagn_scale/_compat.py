"""Which optional parts this environment has, and why not where it has none.

Importing this module imports nothing heavy; a probe imports what it asks about, because a compiled package that is
installed but does not fit the installed torch shows it only then.
"""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sccagn_scale._errors import InputError, first_line

__all__ = [
    "OptionalPart",
    "cuda_devices",
    "faiss_gpu",
    "optional_parts",
    "package_version",
    "package_versions",
    "probe",
    "require",
]


@dataclass(frozen=True)
class OptionalPart:
    """One optional part: what it is for, and whether it can be used here."""

    name: str
    purpose: str
    present: bool
    detail: str
    """Version when present, otherwise why it is not and what to do."""


# Import name → (distribution, what it is for, how to get it).
_PACKAGES = {
    "sccagn_scale_ext": ("sccagn-scale-ext", "compiled C++/CUDA operators", "everything works without it, slower"),
    "torch_scatter": ("torch-scatter", "compiled scatter operations for PyG", "pip install 'sccagn-scale[pyg]'"),
    "torch_sparse": ("torch-sparse", "compiled neighbour sampling for PyG", "pip install 'sccagn-scale[pyg]'"),
    "pyg_lib": ("pyg-lib", "compiled neighbour sampling for PyG", "see PyG's installation page"),
    "harmonypy": ("harmonypy", "correction for batches (batch_key)", "pip install 'sccagn-scale[batch]'"),
    "distributed": ("distributed", "preprocessing on a Dask cluster", "pip install 'sccagn-scale[dask]'"),
}


_FAISS = ("faiss-cpu", "faiss-gpu-cuvs", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11")
"""Its distributions."""


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution, without importing it; None when it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def package_versions(*further: str) -> dict[str, str | None]:
    """Versions of Python, of the packages that results depend on and of `further` ones; None where not installed.

    That of `faiss` is of whichever of its distributions is there.
    """
    names = (*further, "torch", "torch-geometric", "faiss", "anndata", "numpy", "scipy", "scikit-learn")
    found = {"python": platform.python_version()} | {name: package_version(name) for name in names}
    of_faiss = (package_version(distribution) for distribution in _FAISS)
    return found | {"faiss": next(filter(None, of_faiss), None) or importlib.import_module("faiss").__version__}


def probe(name: str) -> OptionalPart:
    """Try an optional package.

    Parameters
    ----------
    name
        Import name: one of `sccagn_scale_ext`, `torch_scatter`, `torch_sparse`, `pyg_lib`, `harmonypy`,
        `distributed`.

    Returns
    -------
    The answer; a package that is installed but cannot be imported is absent, with the first line of its error.

    Raises
    ------
    KeyError
        For any other name.
    """
    distribution, purpose, remedy = _PACKAGES[name]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return OptionalPart(name, purpose, False, f"not installed ({remedy})")
        return OptionalPart(name, purpose, False, f"installed but cannot be imported: {first_line(error)}")
    except Exception as error:  # a compiled package fails in many ways: OSError, RuntimeError, AttributeError
        return OptionalPart(name, purpose, False, f"installed but cannot be imported: {first_line(error)}")
    found = package_version(distribution) or getattr(module, "__version__", "version unknown")
    return OptionalPart(name, purpose, True, str(found))


def require(name: str, what: str, instead: str) -> OptionalPart:
    """Try an optional package that is needed.

    Parameters
    ----------
    name
        See `probe`.
    what
        What needs it, as the error begins.
    instead
        What the error proposes where it cannot be installed.

    Raises
    ------
    InputError
        If it cannot be used.
    """
    part = probe(name)
    if not part.present:
        raise InputError(
            f"{what} needs the package {_PACKAGES[name][0]}, which cannot be used: {part.detail}. Install it, or "
            f"{instead}."
        )
    return part


def optional_parts() -> list[OptionalPart]:
    """Try everything optional: compiled packages, harmonypy, Dask, FAISS on the GPU and CUDA."""
    return [*(probe(name) for name in _PACKAGES), faiss_gpu(), _cuda()]


def cuda_devices() -> list[str]:
    """Name, memory and compute capability of each CUDA device that torch can use; empty without any."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [_describe(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())]


def _describe(device: Any) -> str:
    return f"{device.name}, {device.total_memory / 1e9:.0f} GB, compute capability {device.major}.{device.minor}"


def faiss_gpu() -> OptionalPart:
    """Ask FAISS whether it searches on a GPU."""
    name, purpose = "faiss GPU", "nearest neighbours on the GPU"
    try:
        import faiss
    except Exception as error:
        return OptionalPart(name, purpose, False, f"faiss cannot be imported: {first_line(error)}")
    if not hasattr(faiss, "StandardGpuResources"):
        return OptionalPart(
            name, purpose, False, "this faiss was built without GPU support (install faiss-gpu in place of faiss-cpu)"
        )
    count = int(faiss.get_num_gpus())
    return OptionalPart(name, purpose, count > 0, f"{count} usable GPUs" if count else "faiss sees no GPU")


def _cuda() -> OptionalPart:
    name, purpose = "CUDA", "training on the GPU"
    try:
        import torch
    except Exception as error:
        return OptionalPart(name, purpose, False, f"torch cannot be imported: {first_line(error)}")
    if torch.version.cuda is None:
        return OptionalPart(name, purpose, False, f"torch {torch.__version__} was built without CUDA")
    count = len(cuda_devices())
    if not count:
        return OptionalPart(name, purpose, False, f"torch was built for CUDA {torch.version.cuda} but sees no GPU")
    return OptionalPart(name, purpose, True, f"CUDA {torch.version.cuda}, {count} GPU{'s' if count > 1 else ''}")
