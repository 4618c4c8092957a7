"""Nearest neighbours among the points of inverted lists: each point with those of the lists that lie nearest to it.

    d²(q, x) = ‖x‖² − 2 q·x + ‖q‖²

Points are laid out list after list. Those of one list lie close together and look into much the same lists, so that
distances are matrix products; which of them count is decided point by point. The reference takes the union of the lists
that any point of a list looks into; the compiled operator takes no more than it has to, and keeps the best in registers
and near caches.
"""

from __future__ import annotations

import torch
from torch import Tensor

torch.library.define(
    "sccagn::list_neighbors",
    "(Tensor points, Tensor starts, Tensor centroids, Tensor near, int first, int n_probes, int k) -> (Tensor, Tensor)",
)


def list_neighbors(
    points: Tensor, starts: Tensor, centroids: Tensor, *, near: Tensor, first: int, n_probes: int, k: int
) -> tuple[Tensor, Tensor]:
    """Find the nearest neighbours of the points of some lists.

    Parameters
    ----------
    points
        Points, list after list, float32 [n, d]; about the origin, or products lose what distances need.
    starts
        Place of the first point of every list, and n: int64 [n_lists + 1].
    centroids
        float32 [n_lists, d].
    near
        Lists that may be looked into from the lists `first`, `first` + 1, …; int64 [n_here, n_near]. The first −1 ends
        a row. The nearest should come first: close neighbours found early let later points be skipped.
    first
        The first list whose points are searched for.
    n_probes
        A point looks into that many of its list's near lists: those with the nearest centroids, and any as near as the
        last of them.
    k
        Neighbours wanted.

    Returns
    -------
    Places int64 and squared distances float32 [n_points_here, k], nearest first; the point itself is among those that
    are found. Where there are fewer, the place is −1 and the distance infinite. Distances are computed anew
    once the neighbours are chosen; which of two points is chosen whose distances differ by less than the rounding of
    ‖x‖² is not defined.
    """
    return torch.ops.sccagn.list_neighbors(points, starts, centroids, near, first, n_probes, k)


@torch.library.register_fake("sccagn::list_neighbors")
def _fake(
    points: Tensor, starts: Tensor, centroids: Tensor, near: Tensor, first: int, n_probes: int, k: int
) -> tuple[Tensor, Tensor]:
    n_here = torch.library.get_ctx().new_dynamic_size()
    return starts.new_empty(n_here, k), points.new_empty(n_here, k)


def list_neighbors_reference(
    points: Tensor, starts: Tensor, centroids: Tensor, near: Tensor, first: int, n_probes: int, k: int
) -> tuple[Tensor, Tensor]:
    bounds = starts[first : first + len(near) + 1]
    found = starts.new_full((int(bounds[-1] - bounds[0]), k), -1)
    squared = points.new_full(found.shape, torch.inf)
    lengths = (points * points).sum(1)
    to_centroids = (centroids * centroids).sum(1)
    for own, begin, end in zip(near, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        lists = own[: int((own >= 0).cumprod(0).sum())]
        if begin == end or not len(lists):
            continue
        queries = points[begin:end]
        away = torch.addmm(to_centroids[lists], queries, centroids[lists].T, alpha=-2)
        looks = away <= away.kthvalue(min(n_probes, len(lists)), dim=1, keepdim=True)[0]
        used = looks.any(0)
        lists, looks = lists[used], looks[:, used]
        sizes = starts[lists + 1] - starts[lists]
        places = torch.arange(int(sizes.sum()), device=points.device) + (
            starts[lists] - sizes.cumsum(0) + sizes
        ).repeat_interleave(sizes)
        away = torch.addmm(lengths[places], queries, points[places].T, alpha=-2)
        away.masked_fill_(~looks.repeat_interleave(sizes, dim=1), torch.inf)
        nearest, order = away.topk(min(k, len(places)), largest=False)
        here = places[order]
        exact = (queries[:, None] - points[here]).square().sum(2).where(nearest < torch.inf, torch.inf)
        exact, order = exact.sort(dim=1)
        rows, columns = slice(begin - int(bounds[0]), end - int(bounds[0])), slice(0, exact.shape[1])
        squared[rows, columns] = exact
        found[rows, columns] = here.gather(1, order).where(exact < torch.inf, -1)
    return found, squared


torch.library.impl("sccagn::list_neighbors", "default", list_neighbors_reference)
