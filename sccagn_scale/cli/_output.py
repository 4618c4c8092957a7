"""What goes to disk beside the AnnData, and the checks of every path before the work."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sccagn_scale._errors import InputError
from sccagn_scale._memory import in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sccagn_scale.io import Atlas, Making

Kind = Literal["anndata", "file", "folder"]


@contextmanager
def named(*same: str, **others: str) -> Iterator[None]:
    """Name the command line's options in errors from inside, in place of the parameters that they are passed to.

    Parameters
    ----------
    same
        Parameters whose options have their names: `--n-clusters` for `n_clusters`.
    others
        Parameter → option.
    """
    options = {parameter: f"--{parameter.replace('_', '-')}" for parameter in same} | others
    try:
        yield
    except InputError as error:
        message = str(error)
        for parameter, option in options.items():
            message = message.replace(f"`{parameter}`", f"`{option}`")
        raise InputError(message) from error


def by_option(inputs: Sequence[Path]) -> dict[str, Path]:
    """Name every INPUT as messages do."""
    return {f"INPUT {i}" if i else "INPUT": path for i, path in enumerate(inputs)}


def check_distinct(
    inputs: Mapping[str, Path | None], outputs: Mapping[str, Path | None], *, whole: Collection[str] = ()
) -> None:
    """Refuse an output that would overwrite an input or another output.

    Parameters
    ----------
    inputs, outputs
        Paths by the option that they came in; None where the option was not given.
    whole
        Outputs that are folders which are replaced whole, so that nothing else may be in them.
    """
    taken = {name: path for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        try:
            path.exists()
            os.path.realpath(path)
        except OSError as error:  # a folder that may not be entered, a name too long, a folder that is gone
            raise InputError(f"`{name}` {str(path)!r} cannot be used: {error.strerror}; give another.") from error
        for other, used in taken.items():
            if _same(path, used) or (other in inputs and used.is_dir() and _inside(path, used)):
                raise InputError(
                    f"`{name}` must not be the same as `{other}` nor inside it, but {str(path)!r} is; give another."
                )
            if name in whole and _inside(used, path):
                raise InputError(f"`{other}` must not be inside `{name}`, but {str(used)!r} is; give another.")
            if other in whole and _inside(path, used):
                raise InputError(f"`{name}` must not be inside `{other}`, but {str(path)!r} is; give another.")
        taken[name] = path


def check_outputs(
    inputs: Mapping[str, Path | None],
    outputs: Mapping[Kind, Mapping[str, Path | None]],
    *,
    whole: Collection[str] = (),
) -> None:
    """Refuse outputs that would overwrite an input or one another, or that cannot be written.

    Parameters
    ----------
    inputs, whole
        See `check_distinct`.
    outputs
        Those of each kind that `check_writable` knows, by the option that they came in.
    """
    from sccagn_scale.io import check_writable

    check_distinct(inputs, {option: path for paths in outputs.values() for option, path in paths.items()}, whole=whole)
    for kind, paths in outputs.items():
        for option, path in paths.items():
            if path is not None:
                check_writable(path, option, kind=kind)


def check_room(cells: Atlas, making: Making, path: Path, *, called: str = "INPUT", also: Sequence[str] = ()) -> None:
    """Refuse an output that its disk has no room for, even without the results.

    Parameters
    ----------
    cells, making
        The input, and how the output comes about.
    path
        The output.
    called
        What the verb's help calls the input.
    also
        What else than another disk helps.
    """
    from sccagn_scale.io import free_room, output_size, shares_blocks

    needed, free = output_size(cells, making), free_room(path)
    if needed <= free or (making != "anew" and shares_blocks(cells.files[0], path)):
        return
    option, what = (called, "changed copy") if making == "in place" else ("--output", "matrices")
    *remedies, last = "make room", "let `--output` be on another disk", *also
    raise InputError(
        f"`{option}` needs {in_words(needed)} for its {what}, but the disk of {str(path)!r} has {in_words(free)} free: "
        f"{', '.join(remedies)}, or {last}."
    )


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON, whole or not at all; numbers that JSON has no word for become null."""
    from sccagn_scale.io import replacing

    text = json.dumps(plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        with replacing(path) as fresh:
            fresh.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no UTF-8
    except OSError as error:
        raise InputError(f"`--json` {str(path)!r} could not be written: {error.strerror}.") from error


def write_figure(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all, making its folder if need be."""
    from sccagn_scale.io import replacing

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as fresh:
            figure.savefig(fresh)
    except OSError as error:
        raise InputError(f"`--plots` {str(path)!r} could not be written: {error.strerror}.") from error


def plain(value: Any) -> Any:
    """The same in types that JSON has: arrays as lists, NaN and infinity as None, keys as strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _same(a: Path, b: Path) -> bool:
    if os.path.realpath(a) == os.path.realpath(b):
        return True
    return a.exists() and b.exists() and a.samefile(b)  # hard links, file systems without upper and lower case


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
