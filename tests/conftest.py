"""The same number of threads everywhere, so that times and rounding are steady."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy, torch or FAISS are imported

import threading  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("house", deadline=None, max_examples=60)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def nothing_chooses_a_gpu() -> Iterator[None]:
    """What is expected of `device="auto"` should not hang on the machine; tests of a GPU name it."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that have copied a matrix by rows, in their order."""
    from sccagn_scale.io import _copied

    threads, copied = [], _copied.copied

    def noted(*given: Any, **named: Any) -> Any:
        threads.append(threading.current_thread())
        return copied(*given, **named)

    monkeypatch.setattr(_copied, "copied", noted)
    return threads
