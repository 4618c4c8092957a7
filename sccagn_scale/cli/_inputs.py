"""What the verbs take in: cells and settings."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sccagn_scale._errors import InputError
from sccagn_scale.cli._output import named

if TYPE_CHECKING:
    from sccagn_scale.config import Config
    from sccagn_scale.io import Atlas


def check_inputs(paths: Sequence[Path], *, called: str = "INPUT") -> None:
    """Refuse an input that is not there, or is given twice; `called` is what the verb's help calls it."""
    seen: dict[Path, Path] = {}
    for path in paths:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"`{called}` must name an existing file or folder, but {str(path)!r} does not exist."
            ) from error
        except OSError as error:
            raise InputError(f"`{called}` {str(path)!r} cannot be opened: {error.strerror}.") from error
        if (other := seen.get(path.resolve())) is not None:
            raise InputError(f"`{called}` must name each file once, but {str(path)!r} is {str(other)!r} again.")
        seen[path.resolve()] = path


def read_cells(
    paths: Sequence[Path], scratch: Path | None = None, *, called: str = "INPUT", parts: Collection[str] | None = None
) -> Atlas:
    """Open the input; `scratch` is for copies of what is not stored by rows, `parts` what is read of one file."""
    from sccagn_scale.io import open_atlas

    with named(path=called, paths=called, scratch="--output"):
        return open_atlas(paths, scratch=scratch, parts=parts)


def read_config(arguments: argparse.Namespace) -> Config:
    """Take the preset with what `--config` changes, and on top of that what `--set` does."""
    from sccagn_scale.config import Config

    config = Config.preset(arguments.preset)
    if arguments.config is not None:
        with named(path="--config", config="--config"):
            config = Config.from_toml(arguments.config, base=config)
    with named(assignments="--set"):
        return Config.from_assignments(arguments.set, base=config)
