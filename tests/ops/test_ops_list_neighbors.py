"""Neighbours among the points of inverted lists, against looking at all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sccagn_scale import ops
from sccagn_scale.ops import implementations
from sccagn_scale.ops.list_neighbors import list_neighbors_reference

COMPILED = implementations()["list_neighbors"]["cpu"] == "ext"


def list_neighbors(
    points: Tensor, starts: Tensor, centroids: Tensor, near: Tensor, first: int, n_probes: int, k: int
) -> tuple[Tensor, Tensor]:
    return ops.list_neighbors(points, starts, centroids, near=near, first=first, n_probes=n_probes, k=k)


def sample(sizes: list[int], d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, starts, centroids, and for every list all lists, nearest first."""
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(len(sizes), d)).astype(np.float32)
    points = (np.repeat(centroids, sizes, axis=0) + rng.normal(size=(sum(sizes), d))).astype(np.float32)
    near = np.argsort(((centroids[:, None] - centroids) ** 2).sum(axis=2), axis=1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return torch.from_numpy(points), torch.from_numpy(starts), torch.from_numpy(centroids), torch.from_numpy(near)


def brute_force(
    points: Tensor, starts: Tensor, centroids: Tensor, near: Tensor, first: int, n_probes: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """By the definition, in float64."""
    x, centres, start = points.double().numpy(), centroids.double().numpy(), starts.numpy()
    found, squared = [], []
    for i, own in enumerate(near.numpy()):
        lists = own[: np.argmax(own < 0)] if (own < 0).any() else own
        for q in x[start[first + i] : start[first + i + 1]]:
            chosen = lists[np.argsort(((centres[lists] - q) ** 2).sum(axis=1), kind="stable")[:n_probes]]
            places = np.concatenate([np.arange(start[j], start[j + 1]) for j in chosen])
            away = ((x[places] - q) ** 2).sum(axis=1)
            order = np.argsort(away, kind="stable")[:k]
            fill = k - len(order)
            found.append(np.concatenate([places[order], np.full(fill, -1)]))
            squared.append(np.concatenate([away[order], np.full(fill, np.inf)]))
    return np.array(found, int).reshape(-1, k), np.array(squared).reshape(-1, k)


Arguments = tuple[Tensor, Tensor, Tensor, Tensor, int, int, int]
Search = Callable[..., tuple[Tensor, Tensor]]


def check(found: tuple[Tensor, Tensor], arguments: Arguments) -> None:
    """The distances are the right ones, but for what rounding squared lengths makes of them; so are the places'."""
    expected = brute_force(*arguments)
    points, starts, _, near, first, *_ = arguments
    places, squared = (part.numpy() for part in found)
    assert places.dtype == np.int64
    assert squared.dtype == np.float32
    rounding = 4 * np.finfo(np.float32).eps * float((points**2).sum(dim=1).amax()) if len(points) else 0.0
    np.testing.assert_allclose(squared, expected[1], rtol=1e-5, atol=rounding)
    np.testing.assert_array_equal(places < 0, expected[0] < 0)
    assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in places)
    x = points.double().numpy()
    queries = x[starts[first] : starts[first + len(near)]]
    own, column = np.nonzero(places >= 0)
    exact = ((queries[own] - x[places[own, column]]) ** 2).sum(axis=1)
    np.testing.assert_allclose(squared[own, column], exact, rtol=1e-5, atol=1e-6)


@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=8),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 20),
    st.integers(0, 10**6),
    st.data(),
)
def test_neighbours_are_those_of_looking_at_all(
    sizes: list[int], d: int, n_probes: int, k: int, seed: int, data: st.DataObject
) -> None:
    points, starts, centroids, near = sample(sizes, d, seed)
    first = data.draw(st.integers(0, len(sizes)))
    n_here = data.draw(st.integers(0, len(sizes) - first))
    arguments = points, starts, centroids, near[first : first + n_here], first, n_probes, k
    check(list_neighbors(*arguments), arguments)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("d", [1, 2, 15, 16, 17, 50, 64])
def test_one_list_holds_all_neighbours(n: int, d: int) -> None:
    arguments = *sample([n], d), 0, 1, 15
    check(list_neighbors(*arguments), arguments)


def test_a_row_of_near_lists_ends_at_the_first_gap() -> None:
    points, starts, centroids, near = sample([20, 30, 40, 10], 6)
    near = torch.where(torch.arange(4) < torch.tensor([[1], [2], [3], [4]]), near, -1)
    arguments = points, starts, centroids, near, 0, 3, 25
    check(list_neighbors(*arguments), arguments)
    assert (list_neighbors(*arguments)[0][:20, 20:] == -1).all()
    alone = list_neighbors(points, starts, centroids, torch.full((4, 2), -1), 0, 1, 2)
    assert alone[0].tolist() == [[-1, -1]] * 100
    assert alone[1].isinf().all()


def test_points_that_coincide_are_all_found() -> None:
    points, starts, centroids, near = sample([40, 40], 5)
    points = points[:1].expand(80, 5).clone()
    found, squared = list_neighbors(points, starts, centroids, near, 0, 2, 80)
    assert (found.sort(dim=1)[0] == torch.arange(80)).all()
    assert not squared.any()


def test_distances_do_not_come_from_differences_of_large_numbers() -> None:
    points = 10 + torch.arange(64.0)[:, None] / 64 * torch.ones(3)
    found, squared = list_neighbors(points, torch.tensor([0, 64]), torch.zeros(1, 3), torch.tensor([[0]]), 0, 1, 2)
    assert (found[:, 0] == torch.arange(64)).all()
    assert not squared[:, 0].any()
    torch.testing.assert_close(squared[:, 1], torch.full((64,), 3 / 64**2), rtol=0, atol=0)


def test_strides_change_nothing_and_the_input_stays() -> None:
    points, starts, centroids, near = sample([50, 60, 70], 12)
    before = points.clone()
    expected = list_neighbors(points, starts, centroids, near, 0, 2, 9)
    strided = [t.T.contiguous().T for t in (points, centroids, near)]
    found = list_neighbors(strided[0], starts, strided[1], strided[2], 0, 2, 9)
    assert all(map(torch.equal, found, expected))
    assert torch.equal(points, before)


@pytest.mark.skipif(not COMPILED, reason="of the compiled operators (`make ext`)")
def test_the_compiled_operator_agrees_with_the_reference_and_with_itself_on_any_number_of_threads() -> None:
    arguments = *sample([150, 5, 0, 90, 200, 64, 33] * 4, 50, 3), 0, 9, 15
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(list_neighbors(*arguments))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))
    check(found[0], arguments)
    check(list_neighbors_reference(*arguments), arguments)


def test_the_operator_passes_torch_s_own_checks() -> None:
    torch.library.opcheck(torch.ops.sccagn.list_neighbors, (*sample([9, 4], 3), 0, 1, 3))


@pytest.mark.skipif(not COMPILED, reason="of the compiled operators (`make ext`)")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(5, 3, dtype=torch.float64)}, "must be float32"),
        ({"points": torch.zeros(5, 2)}, "share d"),
        ({"starts": torch.tensor([0, 2, 6])}, "starts must rise from 0 to the number of points"),
        ({"starts": torch.tensor([0, 6, 5])}, "starts must rise"),
        ({"near": torch.tensor([[0, 2]])}, "from 0 to before 2"),
        ({"near": torch.tensor([[0, 1]], dtype=torch.int32)}, "must be int64"),
        ({"first": 2}, "there are 2 lists"),
        ({"n_probes": 0}, "must be above 0"),
        ({"k": 0}, "must be above 0"),
    ],
)
def test_misuse_is_told(change: dict[str, Tensor | int], message: str) -> None:
    fine = {
        "points": torch.zeros(5, 3),
        "starts": torch.tensor([0, 2, 5]),
        "centroids": torch.zeros(2, 3),
        "near": torch.tensor([[0, 1]]),
        "first": 0,
        "n_probes": 1,
        "k": 2,
    }
    list_neighbors(**fine)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=message):
        list_neighbors(**(fine | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("search", [list_neighbors, list_neighbors_reference])
def test_a_point_that_is_not_finite_has_no_neighbours_and_is_none(search: Search, value: float) -> None:
    """Whatever the bound that lists must be within is looked for among."""
    points, starts, centroids, near = sample([5, 7, 40, 9], 3)
    expected = list_neighbors(points, starts, centroids, near, 0, 2, 4)
    row = 14
    points[row, 1] = value
    found, squared = search(points, starts, centroids, near, 0, 2, 4)
    assert found[row].tolist() == [-1] * 4
    assert squared[row].tolist() == [float("inf")] * 4
    assert not (found == row).any()
    unrelated = ~(expected[0] == row).any(dim=1)
    unrelated[row] = False
    assert torch.equal(found[unrelated], expected[0][unrelated])
