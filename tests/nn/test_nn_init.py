"""The network's start: principal components, smoothed over the graph, and back."""

from __future__ import annotations

import pytest
import torch
from nn_samples import N_VARS, cells
from torch import Tensor

from sccagn_scale.nn import SCCAGNModule, initialize, transform_latent

SCALE = torch.linspace(0.2, 0.6, N_VARS, dtype=torch.float64)


def components() -> tuple[Tensor, Tensor]:
    """All principal axes of the sample, and its mean."""
    dense = cells().dense
    mean = dense.mean(0)
    return torch.linalg.svd(dense - mean, full_matrices=False).Vh, mean


def started(n_comps: int, hidden: int, n_latent: int, phi: float, conv: str = "gcn") -> SCCAGNModule:
    torch.manual_seed(0)
    module = SCCAGNModule(N_VARS, (hidden, hidden, hidden), n_latent, n_heads=1, phi=phi, conv=conv).double()  # type: ignore[arg-type]
    axes, mean = components()
    initialize(module, axes[:n_comps], mean, scale=SCALE[:n_comps])
    return module


def scores(n_comps: int) -> Tensor:
    axes, mean = components()
    return (cells().dense - mean) @ axes[:n_comps].T / SCALE[:n_comps]


def rebuilt(n_comps: int) -> Tensor:
    axes, mean = components()
    return scores(n_comps) * SCALE[:n_comps] @ axes[:n_comps] + mean


@pytest.mark.parametrize("n_latent", [3, 6])
@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_the_encoder_starts_as_pca(n_latent: int, layout: str) -> None:
    batch, module = cells(), started(6, hidden=12, n_latent=n_latent, phi=0.0)
    z = module.encode(getattr(batch, layout), batch.adjacency).z
    torch.testing.assert_close(z, scores(n_latent))


@pytest.mark.parametrize("n_latent", [3, 6])
def test_the_decoder_starts_as_the_reconstruction_from_the_first_components(n_latent: int) -> None:
    batch, module = cells(), started(6, hidden=12, n_latent=n_latent, phi=0.0)
    latent = module.encode(batch.sparse, batch.adjacency)
    output = module.decoder[-1](module.decode(latent, from_z=True))
    torch.testing.assert_close(output, rebuilt(n_latent))


def test_the_graph_network_starts_as_pca_smoothed_over_the_graph() -> None:
    batch, module = cells(), started(4, hidden=8, n_latent=4, phi=1.0)
    axes, mean = components()
    once = batch.a @ batch.dense @ axes[:4].T / SCALE[:4] - axes[:4] @ mean / SCALE[:4]
    latent = module.encode(batch.sparse, batch.adjacency)
    torch.testing.assert_close(latent.z, batch.a @ once)
    torch.testing.assert_close(latent.g3, (batch.a @ batch.a @ once).relu())


@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
def test_units_beside_the_components_disturb_them_little(conv: str) -> None:
    batch, module = cells(), started(10, hidden=40, n_latent=4, phi=0.0, conv=conv)
    latent = module.encode(batch.sparse, batch.adjacency)
    expected = scores(4)
    assert (latent.z - expected).norm() < 0.1 * expected.norm()
    unexplained = (module.decoder[-1](module.decode(latent, from_z=True)) - batch.dense).square().sum()
    best = (rebuilt(4) - batch.dense).square().sum()
    assert abs(unexplained - best) < 0.2 * best
    assert all(p.abs().sum() > 0 for p in module.encoder[1].weight)  # no unit is dead from the start


def test_no_more_components_than_fit_in_pairs() -> None:
    module = started(10, hidden=8, n_latent=4, phi=0.0)
    z = module.encode(cells().sparse, cells().adjacency).z
    torch.testing.assert_close(z, scores(4))


def test_scale_gives_every_dimension_the_variance_of_the_prior() -> None:
    axes, mean = components()
    spread = ((cells().dense - mean) @ axes.T).std(0, correction=0)
    torch.manual_seed(0)
    module = SCCAGNModule(N_VARS, (8, 8, 8), 4, phi=0.0).double()
    initialize(module, axes, mean, scale=spread)
    z = module.encode(cells().sparse, cells().adjacency).z
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(z.mean(0), torch.zeros(4, dtype=torch.float64))


def test_what_sage_adds_of_the_cell_itself_starts_small_and_is_transformed_too() -> None:
    """Beside the average of the neighbours; PyG draws it from up to 1 / √n_in."""
    module = started(6, 12, 6, phi=0.5, conv="sage")
    own = [layer.own_weight for layer in module.graph]  # type: ignore[union-attr]
    for weight in own:
        assert 0 < weight.abs().max() <= 0.1 / weight.shape[1] ** 0.5  # type: ignore[union-attr, operator]
    x, adjacency = cells().dense, cells().adjacency
    hidden = torch.randn(len(x), 12, dtype=torch.float64)
    before = module.graph[-1](hidden, adjacency)
    transform = torch.diag(torch.linspace(0.5, 2.0, 6, dtype=torch.float64)) + 0.1
    transform_latent(module, transform)
    torch.testing.assert_close(module.graph[-1](hidden, adjacency), before @ transform)


@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
def test_a_transformed_latent_space_rebuilds_the_same_cells(conv: str) -> None:
    module = started(6, 12, 6, phi=0.5, conv=conv)
    x, adjacency = cells().dense, cells().adjacency
    before = module.encode(x, adjacency)
    transform = torch.diag(torch.linspace(0.5, 2.0, 6, dtype=torch.float64)) + 0.1
    rebuilt_before = module.decode(before, from_z=True)
    transform_latent(module, transform)
    after = module.encode(x, adjacency)
    torch.testing.assert_close(after.z, before.z @ transform)
    torch.testing.assert_close(module.decode(after, from_z=True), rebuilt_before)
