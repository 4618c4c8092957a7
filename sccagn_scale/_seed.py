"""Torch's global generator, seeded for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_GENERATOR = threading.RLock()  # torch has one for all threads


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's global generator of the CPU start from a seed, and leave it as it was; one thread at a time."""
    import torch

    with _GENERATOR, torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield
