"""What a user's mistake raises, and what a user's attention is drawn to."""

from __future__ import annotations


class InputError(ValueError):
    """The input or a parameter cannot be used as it is.

    The message names the parameter in backticks and says what is needed, what was given and what to do. The command
    line prints it as one sentence and exits with code 2. Any other exception is a bug of ours and keeps its traceback.
    """


class InputWarning(UserWarning):
    """The input was accepted, but something was done to it that the user should know."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name, without a full stop: to be quoted inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
