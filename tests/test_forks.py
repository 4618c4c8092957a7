"""Processes forked from one that has clustered: they compute, on one thread, and nothing else changes for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

START = """
import json, multiprocessing, os, sys, time
import anndata, numpy as np, threadpoolctl, torch
from sccagn_scale import SCCAGN
from sccagn_scale._threads import n_threads

rng = np.random.default_rng(0)
types = np.arange(90) % 3
means = np.tile(rng.gamma(2, 1, 60), (3, 1))
for i in range(3):
    means[i, 20 * i : 20 * i + 20] *= 6
cells = anndata.AnnData(rng.poisson(means[types]).astype(np.float32))

def work():
    torch.ones(1_000_000).exp().sum()  # on all threads that torch may use
    found = SCCAGN(cells, 3).train().labels_.tolist()
    sane = len(set(zip(types.tolist(), found))) == len(set(found)) == 3
    return {"sane": sane, "threads": [n_threads(), torch.get_num_threads()]}

def tell(name, facts):
    print(json.dumps([name, facts]), flush=True)

def forked(name, function):
    pid = os.fork()
    if pid == 0:
        try:
            tell(name, function())
        finally:
            os._exit(0)
    until = time.monotonic() + 60
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > until:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            sys.exit(f"{name} hung")
        time.sleep(0.02)
"""
TWO = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")


def told(code: str, *arguments: str) -> dict[str, Any]:
    """Run code in a process with two threads, and collect what this and the processes forked from it tell."""
    command = [sys.executable, "-c", START + code, *arguments]
    done = subprocess.run(command, env=os.environ | TWO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_a_child_of_a_process_that_has_clustered_clusters_on_one_thread() -> None:
    code = """
tell("before", work())
forked("child", work)
forked("parent of a grandchild", lambda: forked("grandchild", work))
process = multiprocessing.get_context("fork").Process(target=lambda: tell("process", work()))
process.start()
process.join(60)
process.kill()
tell("after", work())
"""
    alone, all_threads = {"sane": True, "threads": [1, 1]}, {"sane": True, "threads": [2, 2]}
    assert told(code) == {
        "before": all_threads,
        "child": alone,
        "grandchild": alone,
        "parent of a grandchild": None,
        "process": alone,
        "after": all_threads,
    }


def test_a_child_of_a_process_that_has_loaded_a_model_loads_it_too(tmp_path: Path) -> None:
    SAVE, LOAD = "SCCAGN(cells, 3).train().save(sys.argv[1])", """
def load():
    return SCCAGN.load(sys.argv[1], cells).labels_.tolist()

tell("parent", load())
forked("child", load)
"""  # fmt: skip
    assert told(SAVE, str(tmp_path / "model")) == {}
    found = told(LOAD, str(tmp_path / "model"))
    assert found["child"] == found["parent"]


def test_a_child_that_does_something_else_is_left_alone() -> None:
    code = """
def state():
    pools = threadpoolctl.threadpool_info()
    own = [pool["num_threads"] for pool in pools if pool.get("threading_layer") == "pthreads"]
    return {"pools": own, "told": os.environ["OMP_NUM_THREADS"]}

def alive():
    n_alive = len(os.listdir("/proc/self/task"))
    square = np.arange(250_000.0).reshape(500, 500) / 250_000
    assert np.allclose(square @ square, np.einsum("ij,jk->ik", square, square))
    return {"n_alive": n_alive, "state": state()}

work()
tell("parent", state())
forked("child", alive)
"""
    found = told(code)
    assert found["child"] == {"n_alive": 1, "state": found["parent"]}
    assert set(found["parent"]["pools"]) <= {2}


def test_forks_are_left_alone_until_something_is_clustered() -> None:
    found = told("""forked("child", lambda: [n_threads(), torch.get_num_threads()])""")
    assert found == {"child": [2, 2]}
