"""The network, as the configuration wants it."""

from __future__ import annotations

import scipy.sparse as sp
import torch

from sccagn_scale._seed import seeded
from sccagn_scale.config import Config
from sccagn_scale.loader import Cells
from sccagn_scale.model._start import find_start
from sccagn_scale.nn import SCCAGNModule, initialize


def started_network(x: Cells, normalized: sp.csr_matrix, config: Config, *, random_state: int) -> SCCAGNModule:
    """Make a network that begins as the components of its input x [n, n_input], smoothed over the graph Â [n, n]."""
    start = find_start(x, normalized, config, random_state=random_state)
    with seeded(random_state):
        module = _network(x.shape[1], config)
    axes, mean, scale = map(torch.from_numpy, start)
    initialize(module, axes, mean, scale=scale)
    return module


def loaded_network(n_input: int, config: Config, weights: dict[str, torch.Tensor]) -> SCCAGNModule:
    """Make the network that has these weights."""
    with seeded(0):  # all that is drawn is replaced
        module = _network(n_input, config)
        module.set_centroids(weights["centroids"])
    module.load_state_dict(weights)
    return module


def _network(n_input: int, config: Config) -> SCCAGNModule:
    return SCCAGNModule(
        n_input,
        config.n_hidden,
        config.n_latent,
        conv=config.conv,
        fusion=config.fusion,
        n_heads=config.n_heads,
        n_attended=config.n_attended,
        phi=config.phi,
        discriminator=config.weight_adversarial > 0,
    )
