"""How the time of a stage is stretched from some cells to all."""

from __future__ import annotations

import pytest
from config_samples import configs
from hypothesis import given
from hypothesis import strategies as st

from sccagn_scale import Config
from sccagn_scale.model._plan import stretched

STAGES = ["Preprocess", "Neighbors", "Pretrain", "Initial clusters", "Joint training", "Read out", "Write"]


@given(configs(), st.floats(0, 1e4), st.integers(1, 25_000), st.lists(st.integers(0, 10**8), min_size=2, max_size=5))
def test_more_cells_take_no_less_time_and_those_measured_what_was_measured(
    config: Config, seconds: float, measured: int, more: list[int]
) -> None:
    for stage in STAGES:
        assert stretched(stage, seconds, measured, measured, config) == pytest.approx(seconds)
        times = [stretched(stage, seconds, measured, measured + n, config) for n in sorted(more)]
        assert times == sorted(times)
        assert seconds <= times[0] * (1 + 1e-9)
