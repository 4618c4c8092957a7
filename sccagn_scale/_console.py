"""What a user sees while a run goes on: a bar for each stage, notes, and nothing of what other packages say."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from sccagn_scale._errors import InputError, InputWarning
from sccagn_scale._progress import SILENT, Stage
from sccagn_scale._progress import Progress as Listener

_UNFOLDED = 100_000
"""Width of output that is no terminal, so that lines are not wrapped."""


class Console:
    """Shows stages on stderr, as bars in a terminal and otherwise a line each, and results on stdout.

    It is the `progress` that the rooms below are given. Use it as a context: inside, warnings, raised or logged, become
    notes, announcements are shown, and other packages' warnings are hidden.

    Parameters
    ----------
    quiet
        Show notes only.

    Attributes
    ----------
    seconds
        How long each finished stage took, in order.
    notes
        What was warned of, once each.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.out = _rich(stderr=False)
        self._err = _rich(stderr=True)
        self._in_terminal = self._err.is_terminal and not self._err.is_dumb_terminal
        self._bars: Progress | None = None
        self._context = ExitStack()

    def __enter__(self) -> Console:
        self._context.enter_context(self._warnings())
        self._context.enter_context(self._announcements())
        return self

    def __exit__(self, *error: object) -> None:
        self._end_bars()
        self._context.close()

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        """Show a stage of `total` steps (None: unknown) while the block runs, and keep its time."""
        start = time.perf_counter()
        shown = self._bar(name, total) if self._in_terminal and not self.quiet else _Line()
        try:
            yield shown
        except BaseException:
            shown.close(done=False)
            raise
        shown.close(done=True)
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if isinstance(shown, _Line) and not self.quiet:
            self.announce(f"{name}: {duration(seconds)}{f' ({shown.text})' if shown.text else ''}")

    def note(self, text: str) -> None:
        """Warn of something, once."""
        text = " ".join(text.split())
        if text not in self.notes:
            self.notes.append(text)
            self.announce(f"note: {text}")

    def print(self, *content: Any) -> None:
        """Show results on stdout, unless quiet."""
        if not self.quiet:
            self._end_bars()
            self.out.print(*content, soft_wrap=all(isinstance(part, (str, Text)) for part in content))

    def fact(self, name: str, text: str) -> None:
        """Show one line of results: a bold name, or none, and the text beside it."""
        self.print(Text.assemble((f"{name:<10}", "bold"), text))

    def announce(self, text: str) -> None:
        """Say on stderr how the run goes."""
        with suppress(OSError):  # such as a full disk under stderr: no reason to lose the work
            self._err.print(text, soft_wrap=True)

    def _bar(self, name: str, total: float | None) -> _Bar:
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TaskProgressColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}", style="dim"),
                console=self._err,
                redirect_stdout=False,  # rich would send results to stderr
            )
            self._bars.start()
        return _Bar(self._bars, self._bars.add_task(name, total=total, text=""))

    def _end_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._err.print()

    @contextmanager
    def _warnings(self) -> Iterator[None]:
        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, InputWarning):
                self.note(str(message))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", InputWarning)
            # Also a gate of its own: packages that are imported on the way put their own filters first.
            warnings.showwarning = show
            yield

    @contextmanager
    def _announcements(self) -> Iterator[None]:
        logger = logging.getLogger("sccagn_scale")
        handler = _Handler(self)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING if self.quiet else logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def checked_listener(progress: Listener | bool) -> Listener | bool:
    """Return what `shown` takes, or refuse what it does not."""
    if isinstance(progress, bool) or callable(getattr(progress, "stage", None)):
        return progress
    raise InputError(f"`progress` must be True, False, or have a method `stage`; it is {progress!r}.")


@contextmanager
def shown(progress: Listener | bool) -> Iterator[Listener]:
    """Give what stages are told to: for True a console, for False nobody, else what was given itself."""
    if progress is True:
        with Console() as console:
            yield console
    else:
        yield SILENT if progress is False else progress


class _Bar:
    """A stage as a row with a bar; it stays when the stage is done."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, n: float = 1, /, **info: float | int | str) -> None:
        if info:
            self._bars.update(self._task, advance=n, text=_brief(info))
        else:
            self._bars.update(self._task, advance=n)

    def close(self, *, done: bool) -> None:
        if done:  # a stage that stopped early, as training does, is complete all the same
            self._bars.update(self._task, total=1, completed=1)
        self._bars.stop_task(self._task)


class _Line:
    """A stage of which only the end is shown, or nothing; keeps the last information."""

    def __init__(self) -> None:
        self.text = ""

    def advance(self, n: float = 1, /, **info: float | int | str) -> None:
        if info:
            self.text = _brief(info)

    def close(self, *, done: bool) -> None:
        pass


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        say = self._console.note if record.levelno >= logging.WARNING else self._console.announce
        say(record.getMessage())


def duration(seconds: float) -> str:
    """A time for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _brief(info: dict[str, float | int | str]) -> str:
    return "  ".join(f"{name} {_value(value)}" for name, value in info.items())


def _value(value: float | int | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _rich(*, stderr: bool) -> RichConsole:
    # names of cells, columns and files come out as they are, whatever they look like to rich
    plain = partial(RichConsole, stderr=stderr, highlight=False, markup=False, emoji=False)
    console = plain()
    return console if console.is_terminal else plain(width=_UNFOLDED)
