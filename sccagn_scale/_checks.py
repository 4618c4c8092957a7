"""What a parameter may be."""

from __future__ import annotations

from typing import Any

import numpy as np

from sccagn_scale._errors import InputError


def whole(value: Any, name: str, least: int, *, further: str = "") -> int:
    """The whole number that came in the parameter `name`.

    Parameters
    ----------
    value
        What came.
    name
        The parameter, for the error.
    least
        The lowest that is taken.
    further
        What the error says besides, such as `, or None`.

    Raises
    ------
    InputError
        If it is no whole number, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"`{name}` must be a whole number of at least {least}{further}; it is {value!r}.")
    return int(value)


def checked_random_state(random_state: int) -> int:
    """Return the seed as an int, or refuse what not every generator takes."""
    seed = whole(random_state, "random_state", 0, further=" and below 2³²")
    if seed >= 2**32:
        raise InputError(f"`random_state` must be below 2³²; it is {seed}.")
    return seed
