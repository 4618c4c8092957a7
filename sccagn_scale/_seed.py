"""What a seed may be."""

from __future__ import annotations

import threading

import numpy as np

from sccagn_scale._errors import InputError

TORCH_GENERATOR = threading.RLock()
"""Held while torch's global generator is seeded and drawn from: there is one for all threads."""


def checked_random_state(random_state: int) -> int:
    """Return the seed as an int, or refuse what not every generator takes."""
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)):
        raise InputError(f"`random_state` must be a whole number; it is {random_state!r}.")
    if not 0 <= random_state < 2**32:
        raise InputError(f"`random_state` must be at least 0 and below 2³²; it is {random_state}.")
    return int(random_state)
