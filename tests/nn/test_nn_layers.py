"""Building blocks against dense formulas."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch
from nn_samples import N_LATENT, N_OBS, N_VARS, cells
from torch import Tensor

from sccagn_scale.nn import CrossAttention, Discriminator, GCNLayer, RowLinear, _layers, graph_layer
from sccagn_scale.nn._layers import evenly, plain_attention, tiled_attention


def latent(n_obs: int = N_OBS, seed: int = 0) -> Tensor:
    return torch.randn(n_obs, N_LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attention(n_heads: int, n_attended: int | None = None) -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(N_LATENT, n_heads, n_attended).double()


def naive_attention(layer: CrossAttention, z: Tensor, g: Tensor) -> Tensor:
    """Head by head, with the whole matrix of weights."""
    queries, keys, values = layer.query(z), layer.key(g), layer.value(g)
    width = N_LATENT // layer.n_heads
    heads = []
    for h in range(layer.n_heads):
        own = slice(h * width, (h + 1) * width)
        weights = torch.softmax(queries[:, own] @ keys[:, own].T / width**0.5, dim=1)
        heads.append(weights @ values[:, own])
    return layer.out(torch.cat(heads, dim=1))


@pytest.mark.parametrize("bias", [True, False])
def test_a_row_linear_layer_treats_sparse_rows_as_dense_ones(bias: bool) -> None:
    batch = cells()
    torch.manual_seed(0)
    layer = RowLinear(N_VARS, 6, bias=bias).double()
    expected = batch.dense @ layer.weight.T + (layer.bias if bias else 0)
    results = [layer(batch.sparse), layer(batch.dense)]
    gradients = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in results]
    for result in results:
        torch.testing.assert_close(result, expected)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("layout", ["sparse", "dense"])
def test_a_graph_convolution_is_axw_plus_b(layout: str) -> None:
    batch = cells()
    torch.manual_seed(0)
    layer = GCNLayer(N_VARS, 6).double()
    torch.nn.init.normal_(layer.bias)
    torch.testing.assert_close(
        layer(getattr(batch, layout), batch.adjacency), batch.a @ batch.dense @ layer.linear.weight.T + layer.bias
    )


def test_graphsage_averages_over_stored_edges() -> None:
    batch = cells()
    torch.manual_seed(0)
    layer = graph_layer("sage", N_VARS, 6).double()
    edges = (batch.a > 0).double()
    mean = edges @ batch.dense / edges.sum(1, keepdim=True)
    expected = mean @ layer.value_weight.T + layer.value_bias + batch.dense @ layer.conv.lin_r.weight.T
    for x in (batch.dense, batch.sparse):
        torch.testing.assert_close(layer(x, batch.adjacency), expected)


def test_graph_attention_mixes_each_cells_neighbours_only() -> None:
    batch = cells()
    torch.manual_seed(0)
    layer = graph_layer("gat", N_VARS, 6).double()
    output = layer(batch.dense, batch.adjacency)
    values = batch.dense @ layer.value_weight.T
    scores = (values @ layer.conv.att_dst[0, 0])[:, None] + values @ layer.conv.att_src[0, 0]
    scores = torch.nn.functional.leaky_relu(scores, 0.2).masked_fill(batch.a == 0, -torch.inf)
    torch.testing.assert_close(output, scores.softmax(1) @ values + layer.value_bias)


@pytest.mark.parametrize("n_heads", [1, 2, 4, 8])
def test_attention_is_the_naive_softmax(n_heads: int) -> None:
    layer, z, g = attention(n_heads), latent(), latent(seed=1)
    torch.testing.assert_close(layer(z, g), naive_attention(layer, z, g))


@pytest.mark.parametrize("n_queries", [1, 9, N_OBS])
def test_attention_has_the_gradients_of_the_naive_softmax(n_queries: int) -> None:
    layer, z, g = attention(4), latent(n_queries).requires_grad_(), latent(seed=1).requires_grad_()
    wanted = [z, g, *layer.parameters()]
    gradients = [
        torch.autograd.grad(result.pow(3).sum(), wanted) for result in (layer(z, g), naive_attention(layer, z, g))
    ]
    torch.testing.assert_close(*gradients)


def heads(d_head: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 4, n, d_head, generator=generator, dtype=dtype, requires_grad=True) for n in (30, 40, 40)]


@pytest.mark.parametrize("d_head", [2, 6, 8, 9])
def test_filling_heads_in_changes_neither_values_nor_gradients(d_head: int) -> None:
    results = []
    for multiple in (1, 8):
        q, k, v = heads(d_head, torch.float64)
        result = tiled_attention(q, k, v, multiple=multiple)
        assert result.shape == q.shape
        results.append([result, *torch.autograd.grad(result.pow(3).sum(), (q, k, v))])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("n_cells", "n_attended"), [(5, 1), (5, 4), (1025, 512), (20_000_000, 512), (2**31 + 7, 3)])
def test_attended_cells_lie_evenly_from_the_first_cell_to_the_last(n_cells: int, n_attended: int) -> None:
    """Whole numbers throughout: float32 knows no odd ones beyond 16.8 million."""
    found = evenly(n_cells, n_attended, torch.device("cpu"))
    expected = [i * (n_cells - 1) // max(n_attended - 1, 1) for i in range(n_attended)]
    assert found.tolist() == expected


def test_plain_and_tiled_attention_are_one() -> None:
    results = []
    for attend in (plain_attention, partial(tiled_attention, multiple=1)):
        q, k, v = heads(6, torch.float64)
        result = attend(q, k, v)
        results.append([result, *torch.autograd.grad(result.pow(3).sum(), (q, k, v))])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("n", "m", "taken"), [(2048, 2048, "plain"), (2049, 2048, "tiled")])
def test_few_pairs_are_attended_to_in_a_fixed_order_elsewhere_than_on_the_cpu(
    n: int, m: int, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(_layers, "plain_attention", lambda q, k, v: called.append("plain") or v)
    monkeypatch.setattr(_layers, "tiled_attention", lambda q, k, v, *, multiple: called.append("tiled") or v)
    with torch.device("meta"):
        CrossAttention(24, 4)(torch.empty(n, 24), torch.empty(m, 24))
    assert called == [taken]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_gradients_of_a_batch_are_the_same_bits_twice_on_a_gpu() -> None:
    attention = CrossAttention(24, 4, n_attended=512).cuda()
    z, g = torch.randn(1024, 24, device="cuda"), torch.randn(1024, 24, device="cuda", requires_grad=True)
    first, second = (
        torch.autograd.grad(attention(z, g).square().sum(), [g, *attention.parameters()]) for _ in range(2)
    )
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("d_head", [2, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tiled_kernel_is_the_one_that_runs(d_head: int, dtype: torch.dtype) -> None:
    q, k, v = heads(d_head, dtype)
    assert "FlashAttention" in type(tiled_attention(q, k, v, multiple=1).grad_fn).__name__


def test_the_memory_of_attention_is_flat() -> None:
    """Of 6,000 cells over 6,000 cells; the weights alone would be 0.6 GB, and their gradient as much."""
    code = """
import torch
from sccagn_scale.nn import CrossAttention
layer = CrossAttention(8, 4)
def peak(n):
    z, g = torch.randn(n, 8, requires_grad=True), torch.randn(n, 8, requires_grad=True)
    layer(z, g).square().sum().backward()
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak(100)
print(peak(6_000) - before)
"""
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 100


@pytest.mark.parametrize("n_attended", [N_OBS, N_OBS + 1, 10**6])
def test_as_many_attended_as_there_are_cells_is_full_attention(n_attended: int) -> None:
    z, g = latent(), latent(seed=1)
    torch.testing.assert_close(attention(2, n_attended)(z, g), attention(2)(z, g))


@pytest.mark.parametrize(("n_attended", "chosen"), [(2, [0, 23]), (4, [0, 7, 15, 23]), (1, [0])])
def test_fewer_are_taken_at_even_distances(n_attended: int, chosen: list[int]) -> None:
    layer, z, g = attention(2, n_attended), latent(), latent(seed=1)
    torch.testing.assert_close(layer(z, g), naive_attention(layer, z, g[chosen]))


def test_the_critic_gives_one_logit_to_a_cell_after_two_layers_normalised_over_the_batch() -> None:
    torch.manual_seed(0)
    critic = Discriminator(N_LATENT).double()
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter)
    *layers, weight_out, bias_out = critic.parameters()
    x = latent()
    for weight, bias, scale, shift in (layers[:4], layers[4:]):
        x = x @ weight.T + bias
        x = scale * (x - x.mean(dim=0)) / (x.var(dim=0, correction=0) + 1e-5).sqrt() + shift
        x = torch.where(x > 0, x, 0.2 * x)
    logits = critic(latent())
    assert logits.shape == (N_OBS, 1)
    torch.testing.assert_close(logits, x @ weight_out.T + bias_out)
