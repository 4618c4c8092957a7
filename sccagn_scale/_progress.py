"""How the rooms say where they are, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Stage(Protocol):
    """One running stage."""

    def advance(self, n: float = 1, /, **info: float | int | str) -> None:
        """Say that `n` more of the stage's `total` are done; `info` is shown beside the bar."""


class Progress(Protocol):
    """Something that shows stages: the command line's bars, or nothing at all."""

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        """Open a stage of `total` steps (None: unknown), closed when the block ends."""
        ...


class _SilentStage:
    def advance(self, n: float = 1, /, **info: float | int | str) -> None:
        pass


SILENT_STAGE: Stage = _SilentStage()


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        yield SILENT_STAGE


SILENT = Silent()
