"""Settings drawn at random, all that may be together."""

from __future__ import annotations

import math
import types
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from sccagn_scale.config import _RANGES, Config

_LARGEST = {int: 2**63 - 1, float: 3.4e38}


def _values(name: str, hint: Any) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is types.UnionType:
        return st.none() | _values(name, get_args(hint)[0])
    if hint is bool:
        return st.booleans()
    low, high, _ = _RANGES[name]
    high = high if math.isfinite(high) else _LARGEST[hint]
    return st.integers(int(low), int(high)) if hint is int else st.floats(low, high)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any settings that are taken."""
    hints = get_type_hints(Config)
    settings = {name: draw(_values(name, hint)) for name, hint in hints.items() if get_origin(hint) is not tuple}
    widths = st.integers(1, _LARGEST[int])
    first, second = draw(widths), draw(widths)
    settings |= {"n_hidden": (first, second, second), "n_fanout": tuple(draw(st.lists(widths, min_size=1, max_size=4)))}
    if settings["fusion"] == "attention":
        settings["n_heads"] = draw(st.integers(1, 64))
        settings["n_latent"] = settings["n_heads"] * draw(st.integers(1, 64))
    return Config(**settings)
