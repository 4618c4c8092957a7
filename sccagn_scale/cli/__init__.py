"""The command line, `sccagn-scale`: one module for each verb, imported when the verb runs."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sccagn_scale._errors import InputError
from sccagn_scale.cli._machine import limit_threads
from sccagn_scale.cli._parser import PROGRAM, build_parser

__all__ = ["main"]

_MISTAKE, _FAILED, _INTERRUPTED, _TERMINATED = 2, 1, 130, 143


class _Terminated(BaseException):
    """The process was asked to end, as a workload manager does when time is up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments after the program's name; those of the process when not given.

    Returns
    -------
    Exit code: 0, or 2 for a mistake in the arguments or the input, 1 when memory ran out or the output cannot be shown,
    130 when interrupted, 143 when terminated. Either way nothing half-written is left. After 2 nothing is written, but
    for the results, without X, of a run whose input was changed meanwhile or whose X was found damaged at writing.

    Raises
    ------
    SystemExit
        From the argument parser: code 2 for arguments that cannot be read, 0 for `--help` and `--version`.
    """
    # pictures go to files; a notebook's backend, named in its environment, may not be installed in this one
    os.environ["MPLBACKEND"] = "agg"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has a × or a –
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.verb is None:
        parser.print_help(sys.stderr)
        return _MISTAKE
    try:
        with _ending_in_order():
            if getattr(arguments, "threads", None) is not None:  # an option of some verbs
                limit_threads(arguments.threads)
            importlib.import_module(f"sccagn_scale.cli._{arguments.verb}").run(arguments)
            if sys.stdout is not None:  # as where a daemon has closed it
                sys.stdout.flush()
    except InputError as error:
        return _complain(f"error: {error}", _MISTAKE)
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)
    except _Terminated:
        return _complain("terminated", _TERMINATED)
    except OSError as error:
        is_left = isinstance(error, BrokenPipeError)  # by the reader of our output, as `head` does
        if not is_left and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it would fail again at exit
        if is_left:
            return _FAILED
        return _complain(f"error: what is shown cannot be written: {error.strerror}.", _FAILED)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        remedy = "`--device cpu` or a larger GPU" if _is_of_gpu(error) else "fewer cells or a larger machine"
        return _complain(f"error: not enough memory: {_one_line(error)}; use {remedy}.", _FAILED)
    return 0


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM unwind what is running, so that temporary folders are removed."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise _Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before in (signal.SIG_IGN, None) or threading.current_thread() is not threading.main_thread():
        yield  # to be ignored, somebody else's, or not heard in this thread
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(text: str, code: int) -> int:
    print(f"{PROGRAM}: {text}", file=sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    """Also torch's and FAISS's own, which are RuntimeErrors: told by name and text, as neither may be imported."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in ("can't allocate memory", "out of memory", "alloc fail", "ALLOC_FAILED"))
    )


def _is_of_gpu(error: Exception) -> bool:
    return any(text in str(error) for text in ("CUDA", "CUBLAS", "CUDNN", "cuda", "GpuMemory"))


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["an allocation failed"])[0].rstrip(".")
