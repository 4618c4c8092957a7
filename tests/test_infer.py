"""Reading out in blocks is reading out at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sccagn_scale._memory import Scratch
from sccagn_scale.config import Conv
from sccagn_scale.graph import adjacency, neighbors, normalized
from sccagn_scale.infer import embed
from sccagn_scale.loader import WholeGraph, whole_graph
from sccagn_scale.nn import SCCAGNModule


@pytest.fixture
def whole() -> WholeGraph:
    x = np.random.default_rng(0).random((50, 6), dtype=np.float32)
    return whole_graph(sp.csr_matrix(x), normalized(adjacency(neighbors(x, 5))), torch.device("cpu"))


@pytest.fixture
def module() -> SCCAGNModule:
    torch.manual_seed(0)
    return SCCAGNModule(6, (8, 8, 8), 4)


@pytest.mark.parametrize("training", [True, False])
def test_embedding_is_the_encoders_and_leaves_the_mode_alone(
    module: SCCAGNModule, whole: WholeGraph, training: bool
) -> None:
    module.train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    z = embed(module, whole)
    assert module.training == training
    assert not z.requires_grad
    torch.testing.assert_close(z, module.encode(whole.x, whole.adjacency).z.detach())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
@pytest.mark.parametrize("widths", [(8, 8, 8), (4, 9, 9)])  # narrower and wider than the input
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("block_size", [1, 7, 50, 1000])
def test_embedding_in_blocks_is_that_of_the_whole_graph(
    conv: Conv, widths: tuple[int, int, int], sparse: bool, block_size: int
) -> None:
    values = np.random.default_rng(0).random((50, 6), dtype=np.float32) * (np.arange(300).reshape(50, 6) % 7 > 2)
    graph = normalized(adjacency(neighbors(values, 5)))
    whole = whole_graph(sp.csr_matrix(values) if sparse else values, graph, torch.device("cpu"))
    torch.manual_seed(0)
    module = SCCAGNModule(6, widths, 4, conv=conv)
    expected = module.encode(whole.x, whole.adjacency).z.detach()
    torch.testing.assert_close(embed(module, whole, block_size=block_size), expected)


def test_what_all_cells_have_is_held_in_the_scratch(module: SCCAGNModule, whole: WholeGraph, tmp_path: Path) -> None:
    made: list[tuple[int, ...]] = []

    class Known(Scratch):
        def empty(self, shape: tuple[int, int], dtype: type) -> np.ndarray:  # type: ignore[override]
            made.append(shape)
            return super().empty(shape, dtype)

    z = embed(module, whole, scratch=Known(tmp_path))
    assert made == [(50, 8), (50, 8), (50, 8), (50, 4)]  # sent, g1, sent and z
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    assert torch.equal(z, embed(module, whole))
