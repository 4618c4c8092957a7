"""One step of training: network first, then the discriminator on the same latent vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamax import adamax

from sccagn_scale._errors import InputError
from sccagn_scale.loader import Batch
from sccagn_scale.nn import Losses, LossWeights, SCCAGNModule, Target, discriminator_loss


class Optimizer:
    """Adamax for the network (Kingma & Ba 2015) and Adam for the discriminator.

    The adversarial loss of a step reaches the encoder: the discriminator is held fixed while the network steps, and
    only then learns to tell the latent vectors of that step from draws of N(0, I).

    Parameters
    ----------
    module
        The network, on its device.
    learning_rate, discriminator_learning_rate
        Step sizes.
    generator
        Draws the prior, on the module's device.
    """

    def __init__(
        self,
        module: SCCAGNModule,
        learning_rate: float,
        discriminator_learning_rate: float,
        *,
        generator: torch.Generator,
    ) -> None:
        self.module = module
        self._generator = generator
        usual: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        discriminator = [] if module.discriminator is None else list(module.discriminator.parameters())
        its_own = set(discriminator)
        network = [p for p in module.parameters() if p not in its_own]
        self._network = _Moments(network, partial(adamax, lr=learning_rate, **usual))
        adam_step = partial(
            adam, lr=discriminator_learning_rate, max_exp_avg_sqs=[], amsgrad=False, maximize=False, **usual
        )
        self._discriminator = _Moments(discriminator, adam_step) if discriminator else None

    def step(self, batch: Batch, weights: LossWeights, target: Target | None = None) -> Losses:
        """Train on one batch; see `SCCAGNModule.loss` for the parameters. Returns its detached losses.

        Raises
        ------
        InputError
            If the loss is no longer finite.
        """
        losses, z = self.module.loss(batch.x, batch.adjacency, weights, n_seeds=batch.n_seeds, target=target)
        check_finite(losses.total, "loss")
        if losses.total.requires_grad:  # not while every part is off, as in pretraining for the clustering loss alone
            self._network.zero_grad()
            losses.total.backward()
            self._network.step()
        if self._discriminator is not None and weights.adversarial and len(z) > 1:
            self._discriminator_step(z.detach())
        return Losses(*(part.detach() for part in losses))

    def _discriminator_step(self, z: Tensor) -> None:
        assert self._discriminator is not None
        assert self.module.discriminator is not None
        prior = torch.randn(z.shape, generator=self._generator, device=z.device, dtype=z.dtype)
        loss = discriminator_loss(self.module.discriminator(prior), self.module.discriminator(z))
        self._discriminator.zero_grad()
        loss.backward()
        self._discriminator.step()


class _Moments:
    """Parameters and what torch's functional optimizers keep of each: two running moments, and the steps taken.

    `torch.optim.Adamax` and `Adam` do the same arithmetic, but load `torch._dynamo` when the first is made: 1 to 2 s
    and 50 MB for a compiler that no run has a use for.
    """

    def __init__(self, parameters: Iterable[Tensor], update: Callable[..., None]) -> None:
        self._state = [(p, torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())) for p in parameters]
        self._update = update

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter, *_ in self._state:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        moved = [(p, p.grad, first, second, steps) for p, first, second, steps in self._state if p.grad is not None]
        parameters, gradients, first, second, steps = map(list, zip(*moved, strict=True))
        self._update(parameters, gradients, first, second, state_steps=steps)


def check_finite(values: Tensor, what: str) -> None:
    """Raise an InputError if training has left the finite numbers; `what` names the values."""
    if not torch.isfinite(values).all():
        raise InputError(
            f"Training diverged: the {what} is not finite. `learning_rate` or a loss weight is too large; lower it."
        )
