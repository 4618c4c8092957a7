"""Facts about this machine and this process."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

from threadpoolctl import threadpool_limits


def peak_rss_mb() -> float:
    """Most memory that this process has held at once, in MB of 10⁶ bytes."""
    try:
        # Not ru_maxrss where there is a choice: a process inherits that from the one that started it.
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / 1e6  # bytes on macOS, KiB elsewhere


def cpu() -> str:
    """Model of the processor, and how many cores this process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux on x86; the architecture has to do
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return f"{model}, {usable} of {cores} cores usable"


def memory() -> str:
    """Memory of the machine, and the limit of this process's container or job when there is one."""
    from sccagn_scale._memory import in_words, limit

    text = in_words(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    allowed = limit()
    return text if allowed is None else f"{text}, of which {in_words(allowed)} may be used"


def limit_threads(n: int) -> None:
    """Let every library use `n` threads, those that are imported already and those that will be."""
    for name in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM"):
        os.environ[f"{name}_NUM_THREADS"] = str(n)
    # Numba first: when it starts its threads, it sets their number in the OpenMP that it shares with torch.
    if "numba" in sys.modules:  # which refuses another value in the environment once it runs
        sys.modules["numba"].set_num_threads(min(n, sys.modules["numba"].config.NUMBA_NUM_THREADS))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(n)
    threadpool_limits(n, user_api="blas")  # NumPy and SciPy have read the environment when they were loaded
