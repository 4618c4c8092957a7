"""Cells of planted types, short training, and what an AnnData holds."""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sccagn_scale import Config

FAST = dataclasses.replace(Config(), pretrain_steps=20, joint_steps=10, n_init=2)
TINY = dataclasses.replace(FAST, pretrain_steps=2, joint_steps=2)
GENES = dataclasses.replace(FAST, input_rep="genes", batch_size=64, pretrain_batch_size=64)


def use_small_blocks(patch: pytest.MonkeyPatch) -> None:
    """Have matrices gone through in many blocks."""
    patch.setattr("sccagn_scale.pp._matrix.BLOCK_SIZE", 32)
    patch.setattr("sccagn_scale.pp.BLOCK_SIZE", 32)


class ReachedError(Exception):
    """A run has come as far as a test wants it to."""


def end_here(*_: Any, **__: Any) -> NoReturn:
    raise ReachedError


def planted(sizes: tuple[int, ...] = (150, 100, 50), n_vars: int = 200, seed: int = 0) -> ad.AnnData:
    """Counts of types that each raise twenty genes of their own fourfold, cells in mixed order."""
    rng = np.random.default_rng(seed)
    types = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    means = np.tile(rng.gamma(2, 1, n_vars), (len(sizes), 1))
    for i in range(len(sizes)):
        means[i, 20 * i : 20 * (i + 1)] *= 4
    depth = rng.lognormal(0, 0.3, len(types))
    counts = rng.poisson(means[types] * depth[:, None])
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.int32)))
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    adata.obs["type"] = pd.Categorical(types.astype(str))
    return adata


def two_batches() -> ad.AnnData:
    """Planted types, all in both batches; one batch has two or three counts more of every fifth gene."""
    adata = planted()
    rng = np.random.default_rng(1)
    late = rng.random(adata.n_obs) < 0.5
    shift = rng.poisson(2.5, adata.shape) * late[:, None] * (np.arange(adata.n_vars) % 5 == 0)
    adata.X = sp.csr_matrix(adata.X + shift.astype(np.int32))
    adata.obs["batch"] = pd.Categorical(np.where(late, "late", "early"))
    return adata


def content(adata: ad.AnnData) -> dict[str, Any]:
    """All that an AnnData of `planted` holds, for comparison."""
    assert adata.X is not None
    parts: dict[str, Any] = {"X": adata.X.toarray(), "X.dtype": adata.X.dtype, "obs": adata.obs.copy()}
    return parts | {name: sorted(getattr(adata, name)) for name in ("obsm", "obsp", "uns", "layers", "varm", "var")}


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    np.testing.assert_array_equal(before.pop("X"), after.pop("X"))
    pd.testing.assert_frame_equal(before.pop("obs"), after.pop("obs"))
    assert before == after
