"""The table and the figure of `ablation`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks._results import Row, write_atomically
from benchmarks._variants import AS_IS, VARIANTS

SCORES = {"nmi": "NMI", "ari": "ARI"}
COLOURS = {"nmi": "#0072B2", "ari": "#D55E00"}


class Differences:
    """One preset's variants against the preset as it is, set by set."""

    def __init__(self, rows: Sequence[Row], preset: str) -> None:
        mine = [row for row in rows if row["case"].rpartition("/")[2] == preset and "error" not in row["metrics"]]
        self._metrics = {(row["method"], row["case"]): row["metrics"] for row in mine}
        self._cases = sorted({row["case"] for row in mine})
        self.variants = _in_order({row["method"] for row in mine})

    def scores(self, variant: str, metric: str) -> np.ndarray:
        """Mean over seeds for each set that both the variant and the preset have."""
        return np.array([self._metrics[variant, case][metric] for case in self._shared(variant)])

    def differences(self, variant: str, metric: str) -> np.ndarray:
        """Of those, from the preset's."""
        preset = np.array([self._metrics[AS_IS, case][metric] for case in self._shared(variant)])
        return self.scores(variant, metric) - preset

    def _shared(self, variant: str) -> list[str]:
        return [case for case in self._cases if {(variant, case), (AS_IS, case)} <= self._metrics.keys()]


def _in_order(variants: set[str]) -> list[str]:
    """As in `VARIANTS`; those that only kept results still have come last."""
    return [name for name in VARIANTS if name in variants] + sorted(variants - VARIANTS.keys())


def write(rows: Sequence[Row], *, beside: Path) -> None:
    """Write the table as `.md` and the figure as `.png`, named as the result file `beside` which they stand."""
    write_atomically(beside.with_suffix(".md"), markdown(rows))
    plot(rows, beside.with_suffix(".png"))


def markdown(rows: Sequence[Row]) -> str:
    """Means over sets, and the mean difference from the preset with its 95 % interval (Student's t over sets)."""
    parts = []
    for preset in presets(rows):
        found = Differences(rows, preset)
        parts += [f"## `{preset}`", "", "| variant | sets | NMI | ARI | NMI − as it is | ARI − as it is |"]
        parts += ["| --- | --- | --- | --- | --- | --- |"]
        for variant in found.variants:
            means = [f"{found.scores(variant, metric).mean():.3f}" for metric in SCORES]
            away = [f"{d.mean():+.3f} ± {half_width(d):.3f}" for d in (found.differences(variant, m) for m in SCORES)]
            away = ["–", "–"] if variant == AS_IS else away
            parts.append(f"| {' | '.join([variant, str(len(found.scores(variant, 'nmi'))), *means, *away])} |")
        parts.append("")
    return "\n".join(parts)


def presets(rows: Sequence[Row]) -> list[str]:
    """Those that the rows have, in their order."""
    return list(dict.fromkeys(row["case"].rpartition("/")[2] for row in rows))


def half_width(differences: np.ndarray) -> float:
    """Half the width of the 95 % interval of their mean; NaN for a single one."""
    n = len(differences)
    return float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5) if n > 1 else float("nan")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the mean differences and their intervals, a panel for each preset."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    shown = presets(rows)
    figure, axes = plt.subplots(1, len(shown), figsize=(1.5 + 4.5 * len(shown), 8), sharey=True, squeeze=False)
    differences = [Differences(rows, preset) for preset in shown]
    order = _in_order({name for found in differences for name in found.variants} - {AS_IS})
    for panel, preset, found in zip(axes[0], shown, differences, strict=True):
        for offset, (metric, title) in zip((-0.15, 0.15), SCORES.items(), strict=True):
            for variant in set(found.variants) - {AS_IS}:
                away = found.differences(variant, metric)
                panel.errorbar(
                    away.mean(), order.index(variant) + offset, xerr=half_width(away), fmt="o", markersize=4,
                    color=COLOURS[metric], label=title if variant == found.variants[-1] else None,
                )  # fmt: skip
        panel.axvline(0, color="#7F7F7F", linewidth=1, zorder=0)
        panel.set_title(preset)
        panel.set_xlabel("difference from the preset as it is")
        panel.grid(axis="y", color="#E5E5E5", linewidth=0.5)
        panel.set_axisbelow(True)
        panel.xaxis.set_major_locator(MaxNLocator(5))
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    axes[0, -1].legend(loc="lower left", frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
