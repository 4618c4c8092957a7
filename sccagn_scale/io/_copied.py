"""Rows of a matrix that is not stored by rows, of which a copy is made when they are first read."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from sccagn_scale.io._atomic import temporary_folder
from sccagn_scale.io._stored import ReadRows, StoredRows
from sccagn_scale.io._transpose import Copies, Source, copied, copies_of


class ScratchFolder:
    """A temporary folder that is made when it is first asked for, and goes with the last that uses it."""

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent
        self.lock = Lock()
        """Held while something is made in it."""
        self.users: weakref.WeakSet[CopiedRows] = weakref.WeakSet()
        """Those whose copies it takes."""

    @cached_property
    def folder(self) -> Path:
        """The folder.

        Raises
        ------
        InputError
            If it cannot be made.
        """
        stack = ExitStack()
        folder = stack.enter_context(temporary_folder(self._parent))
        self._remove = weakref.finalize(self, stack.close)
        return folder

    def remove(self) -> None:
        """Remove it and what is in it."""
        if "folder" in vars(self):
            self._remove()


class CopiedRows:
    """Rows of what is in a file in another order. What is known of them without their values needs no copy.

    Pickled, it is its copy, so that whoever has it then makes no other.
    """

    def __init__(self, source: Source, scratch: ScratchFolder) -> None:
        self.source = source
        self.shape, self.dtype, self.nnz, self.n_bytes = source.shape, source.dtype, source.nnz, source.n_bytes
        self._scratch = scratch
        self._copy: StoredRows | None = None
        scratch.users.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.copy(),)

    @property
    def copies(self) -> Copies:
        """What the copy will take; nothing if it is made."""
        return Copies() if self.is_copied else copies_of(self.source)

    @property
    def is_copied(self) -> bool:
        """Whether the copy is made."""
        return self._copy is not None

    @contextmanager
    def reading(self) -> Iterator[ReadRows]:
        """Give the function that reads rows start to stop."""
        with self.copy().reading() as read:
            yield read

    def copy(self) -> StoredRows:
        """Make the copy, unless it is made.

        Raises
        ------
        InputError
            If the source is damaged, or the scratch folder cannot take it.
        """
        with self._scratch.lock:
            if self._copy is None:
                others = [user.copies for user in self._scratch.users if user is not self]
                self._copy = copied(self.source, self._scratch.folder, room_for=others)
        return self._copy

    def some_values(self, most: int) -> Any:
        """Up to so many of the stored values."""
        return self.source.some_values(most)


def _itself(rows: StoredRows) -> StoredRows:
    return rows
