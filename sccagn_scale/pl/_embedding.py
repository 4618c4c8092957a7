"""Cells in the plane, coloured by cluster, type or any other column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sccagn_scale._checks import checked_random_state, whole
from sccagn_scale._crosstab import crosstab
from sccagn_scale._errors import InputError
from sccagn_scale._keys import Keys
from sccagn_scale.io import checked_anndata
from sccagn_scale.pl._labels import label_groups
from sccagn_scale.pl._layout import FEWEST, place
from sccagn_scale.pl._palette import MISSING, matched, palette

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGEND_ROWS = 24
_NO_GROUP = "no group"


def embedding(
    adata: AnnData,
    color: str | Sequence[str] | None = None,
    *,
    key: str = "sccagn",
    basis: str = "X_umap",
    max_cells: int = 50_000,
    point_size: float | None = None,
    random_state: int = 0,
) -> Figure:
    """Draw the cells in the plane, one panel for each column.

    Groups of two panels that have most cells in common also have their colour in common, so that clusters and known
    types can be compared at a glance. Cells without a group are grey.

    Parameters
    ----------
    adata
        Clustered cells.
    color
        Column or columns of obs, for example `["sccagn", "cell_type"]`; the clusters alone when not given. Columns of
        floats get a colour bar, all others a legend with the number of cells. Colours in `uns["<column>_colors"]`
        are used, as in scanpy.
    key
        Name under which the clusters were written.
    basis
        Which of obsm to draw. A missing `X_umap` is computed from the cell graph and not kept; of fewer than four cells
        the first two components are drawn instead.
    max_cells
        Draw at most so many cells, taken at random.
    point_size
        Area of a cell's point in points²; chosen by the number of cells when not given.
    random_state
        Seed of the UMAP, of the sample and of the order in which cells are drawn.

    Returns
    -------
    The figure; `figure.savefig(path)` writes it.

    Raises
    ------
    InputError
        When a column or `basis` is missing, or there is no graph to compute a UMAP from.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    checked_anndata(adata)
    max_cells = whole(max_cells, "max_cells", FEWEST)
    if point_size is not None and not (isinstance(point_size, int | float | np.number) and 0 < point_size < np.inf):
        raise InputError(f"`point_size` must be a number above 0; it is {point_size!r}.")
    random_state = checked_random_state(random_state)
    columns = _columns(adata, color, key)
    cells, xy, basis = place(adata, basis, key=key, max_cells=max_cells, random_state=random_state)
    if not len(cells):
        raise InputError(f"`adata` must hold at least one cell with a position in {basis!r}, but has none.")
    order = np.random.default_rng(random_state).permutation(len(cells))  # so that no group hides the others
    cells, xy = cells[order], xy[order]
    size = point_size if point_size is not None else float(np.clip(40_000 / len(cells), 1.5, 28))

    values = {column: adata.obs[column] for column in columns}
    groups = {column: _groups(value) for column, value in values.items() if not _is_continuous(value)}
    colors = _colors(adata, groups)
    figure = Figure(
        figsize=(sum(4.2 + _legend_width(groups.get(column)) for column in columns), 4.4), layout="constrained", dpi=150
    )
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(figure.subplots(1, len(columns), squeeze=False)[0])
    for panel, column in zip(panels, columns, strict=True):
        if column in groups:
            _scatter(panel, xy, groups[column].codes[cells], colors[column], size)
            _legend(panel, groups[column], colors[column])
        else:
            shade = values[column].to_numpy(dtype=float)[cells]
            points = panel.scatter(xy[:, 0], xy[:, 1], c=shade, s=size, cmap="viridis", linewidths=0, rasterized=True)
            figure.colorbar(points, ax=panel, shrink=0.6, aspect=25)
        _dress(panel, column, basis)
    hidden = adata.n_obs - len(cells)
    if hidden:
        note = f"{hidden:,} of {adata.n_obs:,} cells are not shown"
        figure.supxlabel(note, fontsize=8, color="0.4", x=0.01, ha="left")
    figure.draw_without_rendering()  # settles the panels, without which the labels' extents are not known
    for panel, column in zip(panels, columns, strict=True):
        if column in groups:
            label_groups(panel, xy, groups[column].codes[cells], list(groups[column].categories))
    return figure


def _columns(adata: AnnData, color: str | Sequence[str] | None, key: str) -> list[str]:
    columns = [Keys(key).labels] if color is None else [color] if isinstance(color, str) else list(color)
    absent = [column for column in columns if column not in adata.obs]
    if absent or not columns:
        raise InputError(
            f"`color` must name columns of obs, but {', '.join(map(repr, absent)) or 'nothing'} was given; there is "
            f"{', '.join(map(str, adata.obs.columns)) or 'no column'}."
        )
    return columns


def _is_continuous(value: pd.Series) -> bool:
    return pd.api.types.is_float_dtype(value)


def _groups(value: pd.Series) -> pd.Categorical:
    """The column as categories named by strings. Those of no cell stay: colours go by the categories' places."""
    groups = pd.Categorical(value)
    names = [str(name) for name in groups.categories]
    if len(set(names)) < len(names):
        raise InputError(f"`color` must name columns whose groups differ by name; two of {value.name!r} look the same.")
    return groups.rename_categories(names)


def _colors(adata: AnnData, groups: dict[str, pd.Categorical]) -> dict[str, list[str]]:
    """A colour for each group: the user's where there are, and for the other columns such that they agree."""
    colors = {
        column: [str(color) for color in adata.uns[f"{column}_colors"]]
        for column, value in groups.items()
        if len(adata.uns.get(f"{column}_colors", ())) == len(value.categories)
    }
    if not groups:
        return colors
    guide = next(iter(colors), next(iter(groups)))
    colors.setdefault(guide, palette(len(groups[guide].categories)))
    for column, value in groups.items():
        if column not in colors:
            colors[column] = matched(colors[guide], _common(groups[guide], value))
    return colors


def _common(a: pd.Categorical, b: pd.Categorical) -> NDArray[np.intp]:
    """Cells that each group of `a` (rows) has in common with each of `b` (columns)."""
    both = (a.codes >= 0) & (b.codes >= 0)
    return crosstab(a.codes[both], b.codes[both], (len(a.categories), len(b.categories)))


def _scatter(panel: Axes, xy: NDArray[np.float32], codes: NDArray[np.integer], colors: list[str], size: float) -> None:
    from matplotlib.colors import to_rgba_array

    table = to_rgba_array([*colors, MISSING])  # code −1, no group, takes the last
    for drawn in (codes < 0, codes >= 0):  # grey below
        panel.scatter(xy[drawn, 0], xy[drawn, 1], c=table[codes[drawn]], s=size, linewidths=0, rasterized=True)


def _legend(panel: Axes, groups: pd.Categorical, colors: list[str]) -> None:
    from matplotlib.lines import Line2D

    counts = np.bincount(groups.codes[groups.codes >= 0], minlength=len(groups.categories))
    rows = zip(groups.categories, counts, colors, strict=True)
    entries = [(f"{name} ({n:,})", color) for name, n, color in rows if n]
    if (groups.codes < 0).any():
        entries.append((f"{_NO_GROUP} ({int((groups.codes < 0).sum()):,})", MISSING))
    panel.legend(
        [Line2D([], [], marker="o", linestyle="", markersize=6, color=color) for _, color in entries],
        [text for text, _ in entries],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        ncols=-(-len(entries) // _LEGEND_ROWS),
        frameon=False,
        fontsize=8,
        handletextpad=0.1,
        columnspacing=0.8,
    )


def _legend_width(groups: pd.Categorical | None) -> float:
    """Inches that a legend takes, or without groups a colour bar."""
    if groups is None:
        return 0.7
    names = groups.remove_unused_categories().categories
    widest = max(map(len, names), default=0) + len(f" ({len(groups):,})")
    return 0.3 + -(-(len(names) + 1) // _LEGEND_ROWS) * (0.3 + 0.062 * widest)


def _dress(panel: Axes, title: str, basis: str) -> None:
    name = basis.removeprefix("X_").upper() if basis == "X_umap" else basis.removeprefix("X_")
    panel.set_title(title, fontsize=11)
    panel.set_xlabel(f"{name} 1", fontsize=8, loc="left")
    panel.set_ylabel(f"{name} 2", fontsize=8, loc="bottom")
    panel.set(xticks=[], yticks=[])
    panel.margins(0.06)
    for side in panel.spines.values():
        side.set_color("0.8")
