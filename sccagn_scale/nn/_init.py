"""Where every parameter starts: the network begins as graph-smoothed PCA and learns from there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sccagn_scale.nn._layers import GCNLayer, PyGLayer
from sccagn_scale.nn._module import SCCAGNModule

_QUIET = 0.1
"""Factor on the random start of the weights that the components do not use."""


@torch.no_grad()
def initialize(module: SCCAGNModule, components: Tensor, mean: Tensor, *, scale: Tensor) -> None:
    """Start every layer as the identity on principal components.

    A unit pair holds ReLU(s) and ReLU(−s) for the score s of one component; since s = ReLU(s) − ReLU(−s), each layer
    can hand the scores on unchanged. So the encoder starts as whitened PCA, the graph network as that smoothed over the
    cell graph (the two are mixed by φ), and the decoder as the reconstruction from the first d components. From a
    random start thousands of steps pass before an autoencoder of unit-length cells, whose 2,000 values are about 0.02
    each and nearly the same in all cells, is as good as that.

    Parameters
    ----------
    module
        Changed in place. The discriminator, attention and other random weights stay, those beside the components'
        at a tenth.
    components
        Principal axes of the network's input [n_comps, n_input], orthonormal, by falling variance. As many are used as
        half the narrowest hidden layer.
    mean
        Mean cell [n_input].
    scale
        Standard deviation of the scores [n_comps]: they are divided by it, so that z starts as the prior has it, with
        variance one in every dimension, and rare types weigh as much as common ones.
    """
    c = min(len(components), *(len(_parameters(layer)[1]) // 2 for layer in module.encoder[:-1]))
    axes = components[:c] / scale[:c, None]  # [c, n_input]
    offset = -axes @ mean
    for first in (module.encoder[0], module.graph[0]):
        weight, bias = _parameters(first)
        weight.mul_(_QUIET)
        bias.mul_(_QUIET)
        weight[: 2 * c] = torch.cat([axes, -axes])
        bias[: 2 * c] = torch.cat([offset, -offset])
    for layer in module.graph:
        if (own := _own_weight(layer)) is not None:
            own.mul_(_QUIET)
    for layer in (*module.encoder[1:-1], module.graph[1], *module.decoder[1:-1]):
        _hand_on(layer, c, n_in=2 * c, n_out=2 * c)
    _hand_on(module.encoder[-1], c, n_in=2 * c, n_out=c)
    _hand_on(module.graph[-1], c, n_in=2 * c, n_out=c)
    _hand_on(module.decoder[0], c, n_in=c, n_out=2 * c)
    output_weight, output_bias = _parameters(module.decoder[-1])
    output_weight.mul_(_QUIET)
    back = components[:c] * scale[:c, None]
    output_weight[:, : 2 * c] = torch.cat([back, -back]).T
    output_bias.copy_(mean)


@torch.no_grad()
def transform_latent(module: SCCAGNModule, transform: Tensor) -> None:
    """Replace z by z·T, T [n_latent, n_latent] symmetric and invertible, and let the decoder undo it.

    What is rebuilt from z alone stays as it was. g3, which joins z in front of the decoder, is transformed too, up to
    its ReLU.
    """
    for layer in (module.encoder[-1], module.graph[-1]):
        weight, bias = _parameters(layer)
        weight.copy_(transform @ weight)
        bias.copy_(transform @ bias)
        if (own := _own_weight(layer)) is not None:
            own.copy_(transform @ own)
    weight, _ = _parameters(module.decoder[0])
    weight.copy_(torch.linalg.solve(transform, weight.T).T)


def _hand_on(layer: nn.Module, c: int, *, n_in: int, n_out: int) -> None:
    """Make a layer the identity on the scores of c components, held in n_in = c or 2c units (pairs), out in n_out."""
    weight, bias = _parameters(layer)
    weight.mul_(_QUIET)
    bias.zero_()
    same = torch.eye(c, dtype=weight.dtype, device=weight.device)
    block = torch.cat([same, -same]) if n_out == 2 * c else same
    block = torch.cat([block, -block], dim=1) if n_in == 2 * c else block
    rows, columns = min(len(weight), n_out), min(weight.shape[1], n_in)
    weight[:rows, :columns] = block[:rows, :columns]


def _own_weight(layer: nn.Module) -> Tensor | None:
    return layer.own_weight if isinstance(layer, PyGLayer) else None


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight [n_out, n_in] and bias [n_out] of the part of a layer that carries the cells' values."""
    if isinstance(layer, GCNLayer):
        return layer.linear.weight, layer.bias
    if isinstance(layer, PyGLayer):
        return layer.value_weight, layer.value_bias
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias
