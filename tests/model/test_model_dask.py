"""Preprocessing on a Dask cluster gives the numbers of the local run."""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_samples import FAST, TINY, planted, use_small_blocks

from sccagn_scale import SCCAGN
from sccagn_scale._errors import InputError
from sccagn_scale.io import Atlas, StoredMatrix, open_atlas
from sccagn_scale.model import _workspace
from sccagn_scale.pp._dask import OnCluster

distributed = pytest.importorskip("distributed")


@pytest.fixture
def atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Atlas:
    use_small_blocks(monkeypatch)
    adata = planted()
    adata[:130].copy().write_h5ad(tmp_path / "a.h5ad")
    adata[130:].copy().write_h5ad(tmp_path / "b.h5ad")
    return open_atlas([tmp_path / "a.h5ad", tmp_path / "b.h5ad"])


@pytest.fixture
def scheduler() -> Iterator[str]:
    """Address of a cluster whose workers are threads of this process."""
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options, protocol="tcp://", host="127.0.0.1") as cluster:
        yield cluster.scheduler_address


@pytest.mark.filterwarnings("ignore")  # what distributed does is not ours
@pytest.mark.parametrize("input_rep", ["pca", "genes"])
def test_the_same_numbers(atlas: Atlas, scheduler: str, input_rep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(FAST, input_rep=input_rep)
    here = SCCAGN(atlas, 3, config).train()

    def fail(*_: Any) -> Any:
        raise AssertionError("the files are for the workers to read")

    monkeypatch.setattr(StoredMatrix, "blocks", fail)
    there = SCCAGN(atlas, 3, config, dask=scheduler).train()
    np.testing.assert_array_equal(there.recipe_.chosen, here.recipe_.chosen)
    np.testing.assert_array_equal(there.recipe_.maxima, here.recipe_.maxima)
    np.testing.assert_array_equal(there.pcs_, here.pcs_)
    np.testing.assert_array_equal(there.labels_, here.labels_)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_processes_on_this_machine(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything sent has to be pickled."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sent = []
    each = OnCluster.each
    monkeypatch.setattr(OnCluster, "each", lambda *args: sent.append(args[1]) or each(*args))
    here, there = (SCCAGN(atlas, 3, TINY, dask=dask).train() for dask in (None, "local"))
    np.testing.assert_array_equal(there.pcs_, here.pcs_)
    np.testing.assert_array_equal(there.labels_, here.labels_)
    assert len(sent) == 5


@pytest.mark.filterwarnings("ignore")
def test_what_a_worker_finds_wrong_is_told_here(atlas: Atlas, scheduler: str) -> None:
    path = atlas.files[1]
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"b\.h5ad"):
        SCCAGN(atlas, 3, TINY, dask=scheduler).train()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:9"])
def test_no_scheduler(atlas: Atlas, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "_PATIENCE", 0.5)
    with pytest.raises(InputError, match=f"`dask` = '{address}' must be 'local' or the address of a scheduler") as told:
        SCCAGN(atlas, 3, TINY, dask=address).train()
    # were the client that failed left for the collector to close, another that starts then could wait for it for ever
    closed: list[Any] = []
    monkeypatch.setattr("distributed.utils.LoopRunner.stop", lambda self, timeout=10: closed.append(self))
    del told
    gc.collect()
    assert closed == []


def test_without_the_package(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    needed = r"`dask` needs the package distributed, which cannot be used: not installed \(pip install 'sccagn-scale\["
    with pytest.raises(InputError, match=needed + r"dask\]'\)\. Install it, or leave `dask` out\.$"):
        SCCAGN(atlas, 3, TINY, dask="local").train()
