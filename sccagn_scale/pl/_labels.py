"""Names written on the cells they belong to."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Places to try, in widths and heights of the name around its group's middle.
_SHIFTS = [(0, 0), (0, 0.6), (0, -0.6), (0.4, 0), (-0.4, 0), (0.4, 0.8), (-0.4, 0.8), (0.4, -0.8), (-0.4, -0.8)]
_SHIFTS += [(0, 1.1), (0, -1.1)]
_MOST_HIDDEN = 0.5  # of a group's cells, by its name


def label_groups(panel: Axes, xy: NDArray[np.float32], codes: NDArray[np.integer], names: list[str]) -> None:
    """Write each group's name at its middle, or close to it.

    Names are placed from the largest group to the smallest, and do not hide more than half of the group's cells. One
    that finds no free place close to its group is left out, as it would be read as another group's name; the legend has
    it.

    Parameters
    ----------
    panel
        Axes of a figure that has been laid out.
    xy
        Positions, [n, 2].
    codes
        Group of each cell, [n]; −1 for none.
    names
        Name of each group.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure = panel.get_figure(root=True)
    assert figure is not None
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = panel.get_window_extent(renderer)
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    taken: list[Bbox] = []
    for code in np.argsort(-sizes, kind="stable"):
        if not sizes[code]:
            continue
        own = xy[codes == code]
        cells, middle = panel.transData.transform(own), panel.transData.transform(_middle(own))
        name = textwrap.fill(names[code], 18, break_long_words=False, break_on_hyphens=False)
        text = panel.text(
            *(0.5, 0.5),
            name,
            transform=None,  # pixels
            fontsize=10 if len(name) <= 4 else 7.5,
            fontweight="bold",
            ha="center",
            va="center",
            linespacing=0.9,
            path_effects=[withStroke(linewidth=2.2, foreground="white")],
        )
        text.set_in_layout(False)
        box = text.get_window_extent(renderer)
        size = np.array([box.width, box.height])
        for shift in _SHIFTS:
            place = middle + np.array(shift) * size
            here = Bbox([place - size / 2, place + size / 2])
            fits = here.x0 > frame.x0 and here.x1 < frame.x1 and not any(here.overlaps(other) for other in taken)
            hidden = (np.abs(cells - place) < size / 2).all(axis=1).mean()
            if fits and hidden <= _MOST_HIDDEN:
                taken.append(here)
                text.set_transform(panel.transData)
                text.set_position(tuple(panel.transData.inverted().transform(place)))
                break
        else:
            text.remove()


def _middle(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """The group's own cell nearest its median, so that the name of a bent or split group lies on the group."""
    away = ((cells - np.median(cells, axis=0)) ** 2).sum(axis=1)
    return cells[int(away.argmin())]
