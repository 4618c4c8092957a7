"""The same number of threads everywhere, so that times and rounding are steady."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy, torch or FAISS are imported

from hypothesis import settings  # noqa: E402

settings.register_profile("house", deadline=None, max_examples=60)
settings.load_profile("house")
