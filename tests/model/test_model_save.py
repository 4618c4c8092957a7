"""A trained model on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from model_samples import TINY, planted

from sccagn_scale import SCCAGN


def test_a_loaded_model_has_the_settings_and_the_results(tmp_path: Path) -> None:
    adata = planted()
    trained = SCCAGN(adata, 3, TINY, random_state=5).train()
    trained.save(tmp_path / "kept")
    loaded = SCCAGN.load(tmp_path / "kept", adata)
    assert (loaded.config, loaded.random_state, loaded.n_clusters_) == (TINY, 5, 3)
    assert loaded.config.nu is None
    np.testing.assert_array_equal(loaded.labels_, trained.labels_)
    np.testing.assert_allclose(loaded.embedding_, trained.embedding_, atol=1e-5)
    np.testing.assert_allclose(loaded.soft_assignments_, trained.soft_assignments_, atol=1e-5)
