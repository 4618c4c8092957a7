"""The network: its losses, its switches, and where gradients go."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from nn_samples import N_LATENT, N_OBS, cells, clustering, network, own_target
from torch.utils._python_dispatch import TorchDispatchMode

from sccagn_scale.nn import (
    Losses,
    LossWeights,
    SCCAGNModule,
    generator_loss,
    kl_divergence,
    reconstruction,
    target_distribution,
)
from sccagn_scale.nn._layers import first_rows
from sccagn_scale.ops import Csr, student_t_assign, student_t_column_sums

ALL_ON = LossWeights(clustering=0.3, reconstruction=0.5, adversarial=0.7)


def losses_of(module: SCCAGNModule, weights: LossWeights = ALL_ON, *, dense: bool = False, **changes: Any) -> Losses:
    batch = cells()
    x = batch.dense if dense else batch.sparse
    target = None if module.centroids is None else own_target(module, x, batch.adjacency)._replace(**changes)
    return module.loss(x, batch.adjacency, weights, target=target)[0]


def reached(module: SCCAGNModule) -> set[str]:
    """Parts of the network that have a gradient other than zero."""
    moved = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    return moved - {"discriminator"}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
@pytest.mark.parametrize(
    ("fusion", "n_heads"),
    [*itertools.product(["attention"], [1, 2, 4, 8]), ("add", 4), ("concat", 4), ("multiply", 4), ("none", 4)],
)
def test_every_architecture_learns(conv: Any, fusion: Any, n_heads: int, dense: bool) -> None:
    module = clustering(network(conv=conv, fusion=fusion, n_heads=n_heads))
    losses = losses_of(module, dense=dense)
    losses.total.backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    parts = {"encoder", "graph", "decoder", "centroids", "head"}
    parts |= {"attention"} if fusion == "attention" else set()
    parts |= {"join"} if fusion == "concat" else set()
    assert reached(module) == parts


def test_sparse_and_dense_cells_have_one_loss() -> None:
    module = clustering(network())
    torch.testing.assert_close(losses_of(module), losses_of(module, dense=True))


def test_losses_are_the_parts_put_together_by_hand() -> None:
    batch, module = cells(), clustering(network())
    target = own_target(module, batch.sparse, batch.adjacency, nu=2.0, tau=0.7)
    losses, z = module.loss(batch.sparse, batch.adjacency, ALL_ON, target=target)
    latent = module.encode(batch.sparse, batch.adjacency)
    torch.testing.assert_close(z, latent.z)
    rebuilt = [reconstruction(module.decode(latent, from_z=f), module.decoder[-1], batch.dense) for f in (True, False)]
    torch.testing.assert_close(losses.reconstruction, 0.5 * sum(rebuilt))
    torch.testing.assert_close(losses.adversarial, generator_loss(module.discriminator(z)))
    q = student_t_assign(z, module.centroids, 2.0)
    predicted = module.head(latent.g3, batch.adjacency).softmax(1)
    p = target_distribution(q, 0.7)
    torch.testing.assert_close(losses.clustering, kl_divergence(p, q) + kl_divergence(p, predicted))
    torch.testing.assert_close(
        losses.total, 0.3 * losses.clustering + 0.5 * losses.reconstruction + 0.7 * losses.adversarial
    )


def test_sums_over_all_cells_enter_the_target() -> None:
    batch, module = cells(), clustering(network())
    sums = student_t_column_sums(module.encode(batch.sparse, batch.adjacency).z, module.centroids)
    own = losses_of(module, column_sums=sums)
    other = losses_of(module, column_sums=sums * torch.tensor([1.0, 50, 1]))
    assert abs(other.clustering - own.clustering) > 1e-3


@pytest.mark.parametrize("part", ["clustering", "reconstruction", "adversarial"])
def test_a_weight_of_zero_switches_a_loss_off(part: str) -> None:
    module = clustering(network())
    losses = losses_of(module, ALL_ON._replace(**{part: 0.0}))
    assert getattr(losses, part).item() == 0
    others = {"clustering", "reconstruction", "adversarial"} - {part}
    assert all(getattr(losses, other).item() > 0 for other in others)
    torch.testing.assert_close(losses.total, sum(getattr(ALL_ON, other) * getattr(losses, other) for other in others))
    losses.total.backward()
    unreached = {"clustering": {"centroids", "head"}, "reconstruction": {"decoder", "attention"}, "adversarial": set()}
    assert reached(module) == {"encoder", "graph", "decoder", "attention", "centroids", "head"} - unreached[part]


def test_the_adversarial_loss_reaches_every_layer_of_the_encoder() -> None:
    module = network()
    losses_of(module, LossWeights(0, 0, 1)).total.backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in module.encoder)
    assert all(layer.linear.weight.grad.abs().max() > 0 for layer in module.graph[:2])  # g3 plays no part in z
    assert reached(module) == {"encoder", "graph"}


def test_without_the_discriminator_there_is_no_adversarial_loss() -> None:
    module = network(discriminator=False)
    losses = losses_of(module, LossWeights(0, 0, 1))
    assert losses.adversarial.item() == losses.total.item() == 0
    assert not losses.total.requires_grad


def test_pretraining_rebuilds_from_z_alone_and_clusters_nothing() -> None:
    batch, module = cells(), clustering(network())
    losses, _ = module.loss(batch.sparse, batch.adjacency, ALL_ON)
    latent = module.encode(batch.sparse, batch.adjacency)
    expected = reconstruction(module.decode(latent, from_z=True), module.decoder[-1], batch.dense)
    torch.testing.assert_close(losses.reconstruction, expected)
    assert losses.clustering.item() == 0
    losses.total.backward()
    assert reached(module) == {"encoder", "graph", "decoder"}


def test_an_anchor_is_the_target_by_its_share() -> None:
    batch, module = cells(), clustering(network())
    anchor = torch.arange(N_OBS) % 3
    latent = module.encode(batch.sparse, batch.adjacency)
    q = student_t_assign(latent.z, module.centroids)
    predicted = module.head(latent.g3, batch.adjacency).softmax(1)
    whole = losses_of(module, anchor=anchor, anchor_share=1.0).clustering
    rows = torch.arange(N_OBS)
    torch.testing.assert_close(whole, -(q[rows, anchor].log() + predicted[rows, anchor].log()).mean())
    p = target_distribution(q)
    p = 0.75 * p + 0.25 * torch.nn.functional.one_hot(anchor, 3)
    quarter = losses_of(module, anchor=anchor, anchor_share=0.25).clustering
    torch.testing.assert_close(quarter, kl_divergence(p, q) + kl_divergence(p, predicted))
    torch.testing.assert_close(losses_of(module, anchor=anchor, anchor_share=0.0), losses_of(module))


def around(seeds: np.ndarray, n_hops: int, reach: np.ndarray) -> np.ndarray:
    """Seeds, then every cell within some hops of one."""
    inside = np.isin(np.arange(len(reach)), seeds)
    for _ in range(n_hops):
        inside = reach[inside].any(0) | inside
    return np.concatenate([seeds, np.setdiff1d(inside.nonzero()[0], seeds)])


@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
@pytest.mark.parametrize("fusion", ["attention", "add", "concat", "multiply", "none"])
@pytest.mark.parametrize("pretraining", [True, False])
def test_sparse_cells_are_learned_from_as_dense_ones_are(conv: Any, fusion: Any, pretraining: bool) -> None:
    """Same losses and same gradient of every parameter, to the digits of float64."""
    batch, module = cells(), clustering(network(conv=conv, fusion=fusion))
    results = []
    for x in (batch.sparse, batch.dense):
        target = None if pretraining else own_target(module, x, batch.adjacency)
        losses, z = module.loss(x, batch.adjacency, ALL_ON, target=target)
        gradients = torch.autograd.grad(losses.total, [*module.parameters()], allow_unused=True)
        results.append([*losses, z, *(g for g in gradients if g is not None)])
    assert len(results[0]) > 15
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made, forward or backward."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in (result if isinstance(result, tuple | list) else [result]) if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *(t.numel() for t in tensors)])
        return result


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_training_on_sparse_cells_makes_nothing_of_the_size_of_cells_times_genes(layout: str) -> None:
    n_obs, n_vars = 300, 4000
    values = sp.random(n_obs, n_vars, 0.01, format="csr", dtype=np.float32, random_state=0)
    adjacency = Csr.from_scipy(sp.identity(n_obs, np.float32, "csr"), symmetric=True)
    torch.manual_seed(0)
    module = SCCAGNModule(n_vars, (12, 16, 16), 8)
    module.set_centroids(torch.randn(3, 8))
    x = Csr.from_scipy(values) if layout == "sparse" else torch.from_numpy(values.toarray())
    with Largest() as seen:
        module.loss(x, adjacency, ALL_ON, target=own_target(module, x, adjacency))[0].total.backward()
    parameters = 12 * n_vars
    assert (seen.numel <= max(parameters, 10 * values.nnz)) == (layout == "sparse")
    assert (seen.numel >= n_obs * n_vars) == (layout == "dense")


def test_as_many_seeds_as_cells_change_nothing() -> None:
    batch, module = cells(), clustering(network())
    assert all(first_rows(x, N_OBS) is x for x in (batch.sparse, batch.dense))
    target = own_target(module, batch.sparse, batch.adjacency)
    expected = module.loss(batch.sparse, batch.adjacency, ALL_ON, target=target)
    result = module.loss(batch.sparse, batch.adjacency, ALL_ON, n_seeds=N_OBS, target=target)
    assert all(torch.equal(a, b) for a, b in zip((*expected[0], expected[1]), (*result[0], result[1]), strict=True))


@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
@pytest.mark.parametrize("fusion", ["add", "concat", "multiply", "none"])
@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_seeds_with_all_their_neighbours_learn_as_in_the_whole_graph(conv: Any, fusion: Any, layout: str) -> None:
    """Three graph layers and the head see four hops; what lies beyond plays no part, and its edges may be missing."""
    seeds = np.array([5, 2, 9])
    n_id = around(seeds, 4, cells(150).a.numpy() > 0)
    order = np.concatenate([n_id, np.setdiff1d(np.arange(150), n_id)])
    assert len(n_id) < 120
    whole, module = cells(150, order), clustering(network(conv=conv, fusion=fusion))
    sub = sp.csr_matrix(whole.a.numpy()[: len(n_id), : len(n_id)])
    adjacency = Csr.from_scipy(sub, symmetric=True, dtype=torch.float64)
    x = getattr(whole, layout)
    results = []
    for rows, graph in ((x, whole.adjacency), (first_rows(x, len(n_id)), adjacency)):
        target = own_target(module, rows, graph, n_seeds=len(seeds))
        losses, z = module.loss(rows, graph, ALL_ON, n_seeds=len(seeds), target=target)
        assert z.shape == (3, 8)
        gradients = torch.autograd.grad(losses.total, [*module.parameters()], allow_unused=True)
        results.append([*losses, z, *(g for g in gradients if g is not None)])
    torch.testing.assert_close(results[0], results[1])


def test_losses_are_of_the_seeds_and_attention_is_to_all() -> None:
    batch, module = cells(), clustering(network())
    target = own_target(module, batch.sparse, batch.adjacency, n_seeds=7)
    losses, z = module.loss(batch.sparse, batch.adjacency, ALL_ON, n_seeds=7, target=target)
    z_all, g1, g2, g3 = module.encode(batch.sparse, batch.adjacency)
    torch.testing.assert_close(z, z_all[:7])
    rebuilt = []
    for latent in (z, module.attention(z_all, g3)[:7] + g3[:7]):
        hidden = latent
        for layer, skip in zip(module.decoder[:-1], (g2, g2, g1), strict=True):
            hidden = layer(hidden).relu() if latent is z else 0.5 * layer(hidden).relu() + 0.5 * skip[:7]
        rebuilt.append((module.decoder[-1](hidden) - batch.dense[:7]).square().sum() / 7)
    torch.testing.assert_close(losses.reconstruction, 0.5 * sum(rebuilt))
    torch.testing.assert_close(losses.adversarial, generator_loss(module.discriminator(z_all[:7])))
    q = student_t_assign(z_all[:7], module.centroids)
    predicted = module.head(g3, batch.adjacency).softmax(1)[:7]
    p = target_distribution(q)
    torch.testing.assert_close(losses.clustering, kl_divergence(p, q) + kl_divergence(p, predicted))


def test_fusion_without_attention_follows_its_formula() -> None:
    batch = cells()
    for fusion in ("add", "concat", "multiply", "none"):
        module = network(fusion=fusion, phi=0.3)
        z, g1, g2, g3 = latent = module.encode(batch.sparse, batch.adjacency)
        if fusion == "add":
            start = z + g3
        elif fusion == "concat":
            start = module.join(torch.cat([z, g3], 1))
        else:
            start = z * g3 if fusion == "multiply" else z
        hidden = start
        for layer, skip in zip(module.decoder[:-1], (g2, g2, g1), strict=True):
            own = layer(hidden).relu()
            hidden = own if fusion == "none" else 0.7 * own + 0.3 * skip
        torch.testing.assert_close(module.decode(latent), hidden)


def test_attention_starts_the_decoder_with_what_it_found_and_g3() -> None:
    batch, module = cells(), network(n_heads=2, phi=0.3)
    z, g1, g2, g3 = latent = module.encode(batch.sparse, batch.adjacency)
    hidden = module.attention(z, g3) + g3
    for layer, skip in zip(module.decoder[:-1], (g2, g2, g1), strict=True):
        hidden = 0.7 * layer(hidden).relu() + 0.3 * skip
    torch.testing.assert_close(module.decode(latent), hidden)


def test_phi_mixes_the_graph_network_into_the_encoder() -> None:
    batch = cells()
    for phi in (0.0, 0.3, 1.0):
        module = network(phi=phi)
        latent = module.encode(batch.sparse, batch.adjacency)
        g1 = (batch.a @ batch.dense @ module.graph[0].linear.weight.T + module.graph[0].bias).relu()
        g2 = (batch.a @ g1 @ module.graph[1].linear.weight.T + module.graph[1].bias).relu()
        g3 = (batch.a @ g2 @ module.graph[2].linear.weight.T + module.graph[2].bias).relu()
        hidden = batch.dense
        for layer, g in zip(module.encoder[:3], (g1, g2, g2), strict=True):
            hidden = (1 - phi) * layer(hidden).relu() + phi * g
        torch.testing.assert_close(latent, (module.encoder[3](hidden), g1, g2, g3))


@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
def test_the_order_of_cells_does_not_matter(conv: Any) -> None:
    order = np.random.default_rng(0).permutation(N_OBS)
    batch, shuffled, module = cells(), cells(order=order), clustering(network(conv=conv))
    target = own_target(module, batch.sparse, batch.adjacency)
    losses, z = module.loss(batch.sparse, batch.adjacency, ALL_ON, target=target)
    losses_shuffled, z_shuffled = module.loss(shuffled.sparse, shuffled.adjacency, ALL_ON, target=target)
    torch.testing.assert_close(z_shuffled, z[order])
    torch.testing.assert_close(losses_shuffled, losses)


def test_centroids_are_a_copy_that_is_learned() -> None:
    module, start = network().float(), torch.zeros(3, 8)
    module.set_centroids(start)
    start += 1
    assert not module.centroids.any()
    assert "centroids" in dict(module.named_parameters())
    assert module.head.linear.weight.shape == (3, 8)


@pytest.mark.parametrize("n_clusters", [3, N_LATENT])
@pytest.mark.parametrize("conv", ["gcn", "gat", "sage"])
def test_clusters_are_renumbered_with_all_that_belongs_to_them(conv: Any, n_clusters: int) -> None:
    batch, module = cells(), clustering(network(conv=conv), n_clusters)
    order = torch.randperm(n_clusters, generator=torch.Generator().manual_seed(1))
    latent = module.encode(batch.sparse, batch.adjacency)
    q, predicted = student_t_assign(latent.z, module.centroids), module.head(latent.g3, batch.adjacency)
    module.reorder_clusters(order)
    torch.testing.assert_close(student_t_assign(latent.z, module.centroids), q[:, order])
    torch.testing.assert_close(module.head(latent.g3, batch.adjacency), predicted[:, order])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's, of its own doing
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_a_model_that_is_compiled_gives_the_same_loss_and_gradients() -> None:
    batch, weights = cells(), LossWeights(clustering=0.3, reconstruction=0.5, adversarial=0.0)
    module = clustering(network())
    target = own_target(module, batch.sparse, batch.adjacency, nu=2.0)

    def loss() -> torch.Tensor:
        return module.loss(batch.sparse, batch.adjacency, weights, target=target)[0].total

    found = []
    for function in (loss, torch.compile(loss, backend="aot_eager")):
        module.zero_grad()
        total = function()
        total.backward()
        found.append([total.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)])
    for ours, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, ours)
