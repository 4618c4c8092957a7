"""What a seed may be, and torch's global generator seeded for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sccagn_scale._errors import InputError

_GENERATOR = threading.RLock()  # torch has one for all threads


def checked_random_state(random_state: int) -> int:
    """Return the seed as an int, or refuse what not every generator takes."""
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)):
        raise InputError(f"`random_state` must be a whole number; it is {random_state!r}.")
    if not 0 <= random_state < 2**32:
        raise InputError(f"`random_state` must be at least 0 and below 2³²; it is {random_state}.")
    return int(random_state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's global generator of the CPU start from a seed, and leave it as it was; one thread at a time."""
    import torch

    with _GENERATOR, torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield
