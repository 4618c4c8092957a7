"""Training of one network, as the configuration has it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from sccagn_scale import clustering, train
from sccagn_scale._memory import Scratch
from sccagn_scale._progress import Stage
from sccagn_scale._seed import seeded
from sccagn_scale.config import Config
from sccagn_scale.loader import Loader, WholeGraph
from sccagn_scale.model._batches import make_loader
from sccagn_scale.model._prepare import Prepared
from sccagn_scale.nn import LossWeights, SCCAGNModule, Target, transform_latent


class Training:
    """A network, its cells, and what the stages of its training share: noise, weights of the losses, history.

    Parameters
    ----------
    module
        The network, which is changed in place.
    prepared
        The cells.
    normalized
        Â [n, n].
    config
        The settings.
    device
        Where to train.
    random_state
        Seed.

    Attributes
    ----------
    prepared
        The cells.
    history
        Of the losses, epoch by epoch.
    """

    def __init__(
        self,
        module: SCCAGNModule,
        prepared: Prepared,
        normalized: sp.csr_matrix,
        *,
        config: Config,
        device: torch.device,
        random_state: int,
    ) -> None:
        self.prepared = prepared
        self._module, self._normalized = module, normalized
        self._config, self._device, self._seed = config, device, random_state
        self._generator = torch.Generator(device).manual_seed(random_state)
        self._weights = LossWeights(config.weight_clustering, config.weight_reconstruction, config.weight_adversarial)
        self.history = train.History()

    def pretrain(self, progress: Stage) -> None:
        """Train without clusters."""
        config = self._config
        train.pretrain(
            self._optimizer(),
            self._loader(config.pretrain_batch_size),
            self._weights,
            n_steps=config.pretrain_steps,
            plateau=train.Plateau(config.patience),
            history=self.history,
            progress=progress,
        )

    def place_centroids(self, z: np.ndarray, initial: np.ndarray) -> np.ndarray:
        """Put centroids amid the initial clusters, int [n], of the embedding [n, n_latent].

        Returns
        -------
        The embedding as the network encodes it from now on: sphered, if clusters are to be round.
        """
        if self._config.round_clusters:
            transform = clustering.sphering(z, initial)
            transform_latent(self._module, torch.from_numpy(transform).to(self._device))
            z = z @ transform
        with seeded(self._seed):
            self._module.set_centroids(torch.from_numpy(clustering.centers(z, initial)).to(self._device))
        return z

    def train_jointly(
        self, z: np.ndarray, initial: np.ndarray, whole: WholeGraph, *, progress: Stage, scratch: Scratch
    ) -> train.JointResult:
        """Train embedding and clusters together, from what `place_centroids` gave and the initial clusters.

        `whole` is the cells and their graph for the passes over all of them, `scratch` where their embedding is kept.
        """
        config = self._config
        return train.train_jointly(
            self._optimizer(),
            self._loader(config.batch_size),
            whole,
            z=torch.from_numpy(z).to(self._device),
            weights=self._weights,
            target=Target(
                config.degrees_of_freedom,
                config.tau,
                config.anchor_share,
                torch.from_numpy(initial).to(self._device),
            ),
            n_steps=config.joint_steps,
            settled=train.Settled(config.tolerance, config.settle_epochs),
            plateau=train.Plateau(config.patience),
            history=self.history,
            progress=progress,
            scratch=scratch,
        )

    def _optimizer(self) -> train.Optimizer:
        rates = self._config.learning_rate, self._config.discriminator_learning_rate
        return train.Optimizer(self._module, *rates, generator=self._generator)

    def _loader(self, batch_size: int | None) -> Loader:
        return make_loader(
            self.prepared,
            self._normalized,
            self._config,
            batch_size,
            device=self._device,
            random_state=self._seed,
        )
