"""Which backend searches neighbours, and which cannot run here."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sccagn_scale import ops
from sccagn_scale._errors import InputError
from sccagn_scale.graph import _algorithms, neighbors, resolved_backend, why_unavailable


@pytest.mark.parametrize(
    ("n_obs", "compiled", "backend"),
    [(2, True, "exact"), (30_000, True, "exact"), (30_001, True, "ivf"), (30_001, False, "ivf_graph")],
)
def test_the_number_of_cells_and_what_is_compiled_choose_the_backend(
    monkeypatch: pytest.MonkeyPatch, n_obs: int, compiled: bool, backend: str
) -> None:
    monkeypatch.setattr(ops, "is_compiled", lambda operator, device: compiled)
    assert resolved_backend("auto", n_obs) == backend


@pytest.mark.parametrize(
    ("without", "few", "many"),
    [
        ([], "flat_gpu", "cagra_gpu"),
        (["cagra_gpu"], "flat_gpu", "ivf_gpu"),
        (["cagra_gpu", "ivf_gpu", "flat_gpu"], "torch_exact", resolved_backend("auto", 10**6)),
    ],
)
def test_on_a_gpu_the_best_that_is_there_is_chosen(
    monkeypatch: pytest.MonkeyPatch, without: list[str], few: str, many: str
) -> None:
    monkeypatch.setattr("sccagn_scale.graph._neighbors.why_unavailable", lambda name: "no" if name in without else None)
    assert resolved_backend("auto", 1000, "cuda") == few
    assert resolved_backend("auto", 1_000_000, "cuda") == many
    assert resolved_backend("auto", 1000) == "exact"


def test_faiss_says_which_backends_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        StandardGpuResources = None
        count = 0

        def get_num_gpus(self) -> int:
            return self.count

    fake = Fake()
    monkeypatch.setattr(_algorithms, "faiss", fake)
    monkeypatch.setitem(sys.modules, "faiss", fake)
    assert why_unavailable("flat_gpu") == "faiss sees no GPU"
    fake.count = 1
    assert why_unavailable("flat_gpu") is why_unavailable("ivf_gpu") is why_unavailable("exact") is None
    assert "without cuVS" in str(why_unavailable("cagra_gpu"))
    monkeypatch.setitem(sys.modules, "faiss", object())
    assert "without GPU support" in str(why_unavailable("flat_gpu"))
    assert why_unavailable("ivf_graph") is None


def test_a_backend_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sccagn_scale.graph._neighbors.why_unavailable", lambda name: "faiss sees no GPU")
    with pytest.raises(InputError, match="'flat_gpu' cannot: faiss sees no GPU"):
        neighbors(np.zeros((10, 2)), 3, "flat_gpu")
