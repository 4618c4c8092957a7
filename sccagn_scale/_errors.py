"""What a user's mistake raises, and what a user's attention is drawn to."""

from __future__ import annotations


class InputError(ValueError):
    """The input or a parameter cannot be used as it is.

    The message names the parameter in backticks, says what is needed, what came and what to do. The command line
    prints it as one sentence and exits with code 2; any other exception is a defect of ours and keeps its traceback.
    """


class InputWarning(UserWarning):
    """The input was taken, but something was done to it that the user should know."""
