"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Sequence

from sccagn_scale.cli import main


def exit_code(arguments: Sequence[object]) -> int | str | None:
    """Run the program; its exit code, whether it comes from the argument parser or from the work."""
    try:
        return main(list(map(str, arguments)))
    except SystemExit as error:
        return error.code
