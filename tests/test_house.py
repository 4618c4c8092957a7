"""The house's own rules: who imports whom, how long files are, what public functions look like."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sccagn_scale

ROOT = Path(sccagn_scale.__file__).parent
PACKAGE = "sccagn_scale"
FILES = sorted(ROOT.rglob("*.py"))

FLOORS = {
    "_errors": 0,
    "_checks": 0,
    "_crosstab": 0,
    "_progress": 0,
    "_console": 0,
    "_threads": 0,
    "_memory": 0,
    "_keys": 0,
    "_seed": 0,
    "_compat": 0,
    "config": 0,
    "io": 1,
    "ops": 1,
    "pp": 2,
    "simulate": 2,
    "clustering": 3,
    "graph": 3,
    "nn": 3,
    "loader": 4,
    "infer": 5,
    "train": 6,
    "model": 7,
    "pl": 7,
    "metrics": 7,
    "cli": 8,
    "__init__": 9,
    "__main__": 9,
}
BASE = {"_errors", "_progress", "_threads", "_keys"}
"""Of the lowest floor, open to its other rooms too."""


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    return ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything of ours that a file imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (start, node.module)))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == PACKAGE)


def forbidden(own: str, source: str, package: str) -> list[str]:
    """Imports that go up, or to a neighbour on the same floor, or behind the front door of another room."""
    wrong = []
    for line, name in imported(source, package):
        parts = name.split(".")
        other = parts[1] if len(parts) > 1 else "__init__"
        if other == "__version__" or other == own:
            continue
        open_to_all = other in BASE and own not in BASE
        if not open_to_all and FLOORS.get(other, 9) >= FLOORS[own]:
            wrong.append(f"line {line}: {own} imports {name}")
        elif len(parts) > 2 and parts[2].startswith("_"):
            wrong.append(f"line {line}: {own} imports {name}, which is private to its room")
    return wrong


def test_every_room_has_its_floor() -> None:
    assert {room(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_lower_floors_offer(path: Path) -> None:
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    assert forbidden(room(path), path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("own", "source", "allowed"),
    [
        ("nn", "from sccagn_scale.ops import Csr", True),
        ("nn", "from sccagn_scale.nn._layers import NodeFeatures", True),
        ("nn", "from ._layers import NodeFeatures", True),
        ("nn", "from sccagn_scale.graph import neighbors", False),
        ("nn", "def f():\n    from sccagn_scale.loader import Batch", False),
        ("nn", "if TYPE_CHECKING:\n    from sccagn_scale.model import SCCAGN", False),
        ("nn", "from ..model import SCCAGN", False),
        ("nn", "import sccagn_scale.model", False),
        ("nn", "import sccagn_scale", False),
        ("nn", "from sccagn_scale import model", False),
        ("nn", "from sccagn_scale import ops, train", False),
        ("model", "from sccagn_scale import pl", False),
        ("cli", "from sccagn_scale import __version__, pl", True),
        ("metrics", "from sccagn_scale._errors import InputError", True),
        ("graph", "from sccagn_scale.metrics import evaluate", False),
        ("model", "from sccagn_scale.metrics import evaluate", False),
        ("metrics", "from sccagn_scale.model import SCCAGN", False),
        ("config", "from sccagn_scale.io import read", False),
        ("pp", "from sccagn_scale.io._store import PackedRows", False),
        ("pp", "from sccagn_scale.io import _store", False),
        ("_errors", "from sccagn_scale._keys import Keys", False),
    ],
)
def test_the_check_of_imports_sees_what_it_should(own: str, source: str, allowed: bool) -> None:
    assert (forbidden(own, source, f"{PACKAGE}.{own}") == []) == allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 450
    assert ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("module", ["sccagn_scale", "sccagn_scale.cli", "sccagn_scale.config", "sccagn_scale.metrics"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    heavy = ("torch", "torch_geometric", "scanpy", "faiss", "igraph", "matplotlib")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there_when_it_is_first_used() -> None:
    code = "import sccagn_scale; print([name for name in sccagn_scale.__all__ if not getattr(sccagn_scale, name)])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="has no attribute 'tl'"):
        _ = sccagn_scale.tl


def chooses_device(tree: ast.AST) -> list[int]:
    """Lines that pick or ask for a GPU: `.to("cuda")`, `device="cuda"`, `.cuda()`, `torch.cuda.is_available()`."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        values = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "device")]
        texts = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
        named = any(text.split(":")[0] == "cuda" for text in texts)
        asks = name == "is_available" and "cuda" in ast.unparse(node.func)
        if name == "cuda" or asks or named:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", [p for p in FILES if room(p) not in {"model", "cli", "_compat"}], ids=module_name)
def test_only_the_model_and_the_command_line_choose_a_device(path: Path) -> None:
    assert chooses_device(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_check_of_devices_sees_what_it_should() -> None:
    bad = ['torch.device("cuda")', 'x.to("cuda:0")', 'torch.zeros(3, device="cuda")', "x.cuda()"]
    bad += ["torch.cuda.is_available()"]
    assert all(chooses_device(ast.parse(line)) for line in bad)
    good = ["x.to(device)", "torch.zeros(3, device=x.device)", 'names = {"cuda": "CUDA"}', 'torch.device("cpu")']
    assert not any(chooses_device(ast.parse(line)) for line in good)


def public(name: str) -> Iterator[tuple[str, Any]]:
    """What a room exports."""
    module = importlib.import_module(f"{PACKAGE}.{name}" if name != "__init__" else PACKAGE)
    yield from ((f"{name}.{export}", getattr(module, export)) for export in getattr(module, "__all__", ()))


EXPORTS = dict(entry for name in sorted({room(path) for path in FILES} - {"__main__"}) for entry in public(name))
FUNCTIONS = {name: value for name, value in EXPORTS.items() if inspect.isfunction(value)}
CLASSES = {
    name: value for name, value in EXPORTS.items() if inspect.isclass(value) and value.__module__.startswith(PACKAGE)
}


def positional(function: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds and p.name != "self"]


def test_rooms_export_something() -> None:
    assert {"pp.fit_pca", "graph.neighbors", "train.pretrain", "model.cluster", "__init__.SCCAGN"} <= set(EXPORTS)


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_what_is_public_is_documented_and_typed(name: str) -> None:
    value = EXPORTS[name]
    assert value.__doc__
    assert value.__doc__.strip()
    if inspect.isfunction(value):
        parameters = inspect.signature(value).parameters.values()
        assert all(p.annotation is not p.empty for p in parameters)
        assert inspect.signature(value).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_take_three_positional_parameters_at_most(name: str) -> None:
    assert len(positional(FUNCTIONS[name])) <= 3


@pytest.mark.parametrize("name", CLASSES)
def test_public_methods_take_three_positional_parameters_at_most(name: str) -> None:
    """Constructors too, but not those of records, which `__init__` does not write out."""
    own = CLASSES[name]
    is_record = dataclasses.is_dataclass(own) or issubclass(own, tuple)
    methods = {
        key: value
        for key, value in vars(own).items()
        if inspect.isfunction(value) and (not key.startswith("_") or (key == "__init__" and not is_record))
    }
    assert {key: positional(value) for key, value in methods.items() if len(positional(value)) > 3} == {}
