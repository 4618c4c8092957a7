"""A model trained once, and its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from model_samples import TINY, planted

from sccagn_scale import SCCAGN


@pytest.fixture(scope="session")
def tiny() -> SCCAGN:
    """Of the planted cells after hardly any training; no test changes it."""
    return SCCAGN(planted(), 3, TINY).train()


@pytest.fixture(scope="session")
def _saved(tiny: SCCAGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "kept"
    tiny.save(folder)
    return folder


@pytest.fixture
def kept(_saved: Path, tmp_path: Path) -> Path:
    """A folder of its own that `tiny` is saved in."""
    return Path(shutil.copytree(_saved, tmp_path / "kept"))
