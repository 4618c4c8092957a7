"""Blocks of a few cells."""

from __future__ import annotations

import pytest


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that everything is put together from several blocks."""
    monkeypatch.setattr("sccagn_scale.pp._matrix.BLOCK_SIZE", 4)


@pytest.fixture(params=["1", "2"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, and two."""
    monkeypatch.setenv("OMP_NUM_THREADS", request.param)
