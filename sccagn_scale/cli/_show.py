"""What every verb shows in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sccagn_scale._console import Console

if TYPE_CHECKING:
    from rich.table import Table


def new_table(**options: Any) -> Table:
    """A table without lines, two spaces between its columns; `options` are rich's."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", **options)


def show_written(paths: Iterable[Path], console: Console) -> None:
    """Say where what was written is, a line for each."""
    for i, path in enumerate(paths):
        console.fact("" if i else "Written", str(path))
