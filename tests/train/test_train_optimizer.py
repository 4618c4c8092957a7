"""One step: what moves, what does not, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from train_samples import WEIGHTS, optimizer, own_target, toy

from sccagn_scale._errors import InputError
from sccagn_scale.nn import LossWeights, SCCAGNModule, Target, discriminator_loss, generator_loss
from sccagn_scale.train import Optimizer


def values(module: SCCAGNModule) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(module: SCCAGNModule, before: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def with_centroids(module: SCCAGNModule) -> SCCAGNModule:
    torch.manual_seed(1)
    module.set_centroids(torch.randn(3, 4))
    return module


def test_steps_lower_every_loss_they_work_on() -> None:
    module, _, batch = toy()
    with_centroids(module)
    steps = optimizer(module)
    losses = [steps.step(batch, LossWeights(1.0, 1.0, 0.0), own_target(module, batch)) for _ in range(60)]
    assert losses[-1].total < 0.5 * losses[0].total
    assert losses[-1].reconstruction < losses[0].reconstruction
    assert losses[-1].clustering < losses[0].clustering
    assert not any(part.requires_grad for part in losses[-1])


def test_the_steps_of_network_and_discriminator_leave_each_other_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, batch = toy()
    with_centroids(module)
    steps = optimizer(module)
    before = values(module)
    after_network: dict[str, Tensor] = {}
    discriminator_step = Optimizer._discriminator_step

    def spy(self: Optimizer, z: Tensor) -> None:
        after_network.update(values(module))
        discriminator_step(self, z)

    monkeypatch.setattr(Optimizer, "_discriminator_step", spy)
    steps.step(batch, WEIGHTS, own_target(module, batch))
    network = {"encoder", "graph", "decoder", "attention", "centroids", "head"}
    by_network = {name.split(".")[0] for name, p in after_network.items() if not torch.equal(p, before[name])}
    assert by_network == network
    assert moved(module, after_network) == {"discriminator"}


def test_the_discriminator_learns_from_the_latent_vectors_of_the_step() -> None:
    module, _, batch = toy()
    steps = Optimizer(module, 1e-12, 1e-2, generator=torch.Generator().manual_seed(0))
    for _ in range(80):
        steps.step(batch, WEIGHTS)
    z = module.encode(batch.x, batch.adjacency).z.detach()
    prior = torch.randn(len(z), 4, generator=torch.Generator().manual_seed(9))
    assert module.discriminator is not None
    assert module.discriminator(prior).mean() > module.discriminator(z).mean() + 1


def test_the_adversarial_loss_moves_z_towards_the_prior() -> None:
    module, _, batch = toy()
    steps = Optimizer(module, 1e-2, 1e-2, generator=torch.Generator().manual_seed(0))
    before = module.encode(batch.x, batch.adjacency).z.detach()
    for _ in range(100):
        steps.step(batch, LossWeights(0, 0, 1))
    after = module.encode(batch.x, batch.adjacency).z.detach()
    assert 2 * before.std() < after.std() < 2


@pytest.mark.parametrize("weights", [LossWeights(0.1, 0.5, 0.0), WEIGHTS])
def test_without_adversarial_loss_there_is_no_discriminator_step(weights: LossWeights) -> None:
    module, _, batch = toy(discriminator=weights.adversarial == 0)
    with_centroids(module)
    before = values(module)
    losses = optimizer(module).step(batch, weights, own_target(module, batch))
    assert losses.adversarial == 0
    assert moved(module, before) == {"encoder", "graph", "decoder", "attention", "centroids", "head"}


@pytest.mark.parametrize("weights", [LossWeights(0.1, 0, 0), LossWeights(0, 0, 0), LossWeights(0.1, 0, 0.5)])
def test_a_step_with_nothing_to_learn_changes_nothing(weights: LossWeights) -> None:
    module, _, batch = toy(discriminator=False)
    before = values(module)
    assert optimizer(module).step(batch, weights).total == 0
    assert moved(module, before) == set()


def test_divergence_is_told_as_a_mistake_of_the_learning_rate() -> None:
    module, _, batch = toy()
    steps = optimizer(module, learning_rate=1e20)

    def many() -> None:
        for _ in range(5):
            steps.step(batch, WEIGHTS)

    with pytest.raises(InputError, match=r"diverged.*`learning_rate`"):
        many()


def test_the_generator_alone_decides_the_prior() -> None:
    ends = []
    for seed in (0, 1):
        module, _, batch = toy()
        torch.manual_seed(seed)
        steps = optimizer(module)
        for _ in range(3):
            steps.step(batch, WEIGHTS)
        ends.append(values(module))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert module.discriminator is not None
    module, _, batch = toy()
    other = Optimizer(module, 1e-2, 1e-3, generator=torch.Generator().manual_seed(5))
    for _ in range(3):
        other.step(batch, WEIGHTS)
    assert any(not torch.equal(p, ends[0][name]) for name, p in module.named_parameters())


def test_the_loss_of_a_step_is_the_one_before_it() -> None:
    module, _, batch = toy()
    z = module.encode(batch.x, batch.adjacency).z
    assert module.discriminator is not None
    expected = generator_loss(module.discriminator(z)).detach()
    torch.testing.assert_close(optimizer(module).step(batch, WEIGHTS).adversarial, expected)


def test_steps_are_those_of_torchs_own_optimizers() -> None:
    module, _, batch = toy()
    steps = optimizer(module)
    same, _, _ = toy()
    assert same.discriminator is not None
    discriminator = list(same.discriminator.parameters())
    adamax = torch.optim.Adamax([p for name, p in same.named_parameters() if "discriminator" not in name], lr=1e-2)
    adam = torch.optim.Adam(discriminator, lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    # in pretraining the fusion gets no gradient: it has taken fewer steps than the rest
    target = Target(1.0, 0.5, 0.0, torch.zeros(60, dtype=torch.int64))
    for own in (None, target, None):
        steps.step(batch, LossWeights(0.0, 0.5, 0.5), own)
        losses, z = same.loss(batch.x, batch.adjacency, LossWeights(0.0, 0.5, 0.5), target=own)
        adamax.zero_grad()
        losses.total.backward()
        adamax.step()
        prior = torch.randn(z.shape, generator=generator)
        loss = discriminator_loss(same.discriminator(prior), same.discriminator(z.detach()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    for name, p in same.named_parameters():
        torch.testing.assert_close(module.get_parameter(name), p, rtol=0, atol=0)


def test_a_run_loads_no_compiler() -> None:
    code = """
import sys
import numpy as np, anndata
import sccagn_scale
counts = np.random.default_rng(0).poisson(2.0, (60, 40)).astype(np.float32)
sccagn_scale.cluster(anndata.AnnData(counts), 2)
print("torch" in sys.modules, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
