"""The model: AnnData in, labels out. The one place that unpacks the configuration and picks the device."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
import torch

from sccagn_scale import clustering, graph, pp, train
from sccagn_scale._checks import checked_random_state
from sccagn_scale._console import checked_listener, shown
from sccagn_scale._errors import InputError
from sccagn_scale._progress import SILENT, Progress, Stage
from sccagn_scale.config import Config, Device, Init, Preset
from sccagn_scale.infer import embed
from sccagn_scale.io import free_keys
from sccagn_scale.loader import whole_graph
from sccagn_scale.model._graph import build_graph, join_new, scoring_graph
from sccagn_scale.model._initial import choose_init, find_initial
from sccagn_scale.model._needs import Size
from sccagn_scale.model._network import loaded_network, started_network
from sccagn_scale.model._prepare import Prepared, input_size, n_passes, n_passes_like, prepare, prepare_like
from sccagn_scale.model._results import scatter, write_results
from sccagn_scale.model._save import Saved, load_model, save_model
from sccagn_scale.model._setup import (
    check_enough,
    check_same_cells,
    checked_batch_key,
    checked_config,
    checked_input,
    checked_n_clusters,
    pick_device,
    usable_config,
    usual_numerics,
)
from sccagn_scale.model._training import Training
from sccagn_scale.model._views import find_views
from sccagn_scale.model._workspace import Limits, Workspace, checked_limits, workspace
from sccagn_scale.ops import student_t_assign, student_t_label

if TYPE_CHECKING:
    from anndata import AnnData

    from sccagn_scale.io import Atlas

log = logging.getLogger("sccagn_scale")


class SCCAGN:
    """Deep graph clustering of cells (scCAGN; Tang, Feng, Gao, BMC Genomics 2025, 26:749).

    Parameters
    ----------
    adata
        Cells × genes: counts or log-normalised values; in memory, backed by a file, or on disk as returned by
        `open_atlas`. It is not changed.
    n_clusters
        Number of clusters, at least 2. None: estimated from the cell graph.
    config
        A `Config`, or the name of a preset: `"default"` or `"paper"`.
    layer
        None for `X`, `"raw"` for `.raw.X`, or a name in `layers`.
    batch_key
        Column of `obs` with each cell's batch. Harmony (Korsunsky et al., Nature Methods 2019, 16:1289; needs
        harmonypy) corrects the principal components for it, and graph and network are built from these. None: no
        correction. Never name a column of types: it would make them alike. Refused with genes as `input_rep` or
        `graph_rep` (preset `"paper"`), which Harmony does not correct.
    random_state
        Seed of every random choice.
    device
        `"cpu"`, `"cuda"`, or `"auto"`: CUDA if there is a GPU.
    memory
        Bytes that the run may use; None: 70 % of what is free. A run that needs more keeps large arrays on disk.
    store
        Folder for what is kept on disk. The cell store in it, the counts in a few bytes each, stays there and is reused
        by a later run on the same input. None: a temporary folder, if the run needs one.
    scratch
        Where to make that temporary folder; None: where the system has temporary files, which may be too small.
    dask
        Address of a Dask scheduler, or `"local"` for a cluster on this machine. Its workers read the files, keep the
        counts in their memory and do the preprocessing, with the same numbers. None: no cluster.
    progress
        True: show every stage and what is found out on the way, as the command line does. Or an object that is told of
        the stages.

    Attributes
    ----------
    labels_
        Cluster of each cell, int64 [n_obs], 0 the largest of the training cells; −1 for cells that failed quality
        control.
    confidence_, soft_assignments_
        Largest soft assignment of each cell, float32 [n_obs], and all of them, [n_obs, n_clusters]; NaN for such cells.
    embedding_
        z, float32 [n_obs, n_latent]; NaN for such cells.
    keep_obs_, pcs_
        Which cells passed quality control, bool [n_obs], and the principal components, float32 [n_obs, n_comps].
    neighbors_, adjacency_
        Of the cells that passed: indices and distances of the nearest neighbours, and the cell graph, CSR.
    n_clusters_, estimate_
        Number of clusters, given or estimated, and the evidence for an estimate (`candidates`, `scores`, the
        `plausible` range), which is None if the number was given.
    initial_
        How the first clusters came about (`method`); `n_supported`, if the data support another number best than given.
    history_, stopped_
        Losses and the fraction of cells that changed cluster, one row per epoch; and what ended joint training, or
        `"loaded"` for a model read from disk.

    Raises
    ------
    InputError
        If a parameter or the input cannot be used. Bad values in the matrix are found by `train`, before any work.

    Examples
    --------
    >>> import scanpy as sc, sccagn_scale
    >>> adata = sc.datasets.pbmc68k_reduced()
    >>> model = sccagn_scale.SCCAGN(adata, n_clusters=8, layer="raw").train()
    >>> model.labels_.shape
    (700,)
    """

    labels_: np.ndarray
    confidence_: np.ndarray
    embedding_: np.ndarray
    history_: pd.DataFrame
    n_clusters_: int
    estimate_: clustering.Estimate | None
    initial_: dict[str, Any]
    stopped_: Literal["settled", "plateau", "budget", "loaded"]
    loaded_from: str | None = None

    def __init__(
        self,
        adata: AnnData | Atlas,
        n_clusters: int | None = None,
        config: Config | Preset | None = None,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        random_state: int = 0,
        device: Device = "auto",
        memory: int | None = None,
        store: str | Path | None = None,
        scratch: str | Path | None = None,
        dask: str | None = None,
        progress: Progress | bool = False,
    ) -> None:
        self.config = checked_config(config)
        self.layer, self.random_state = layer, checked_random_state(random_state)
        self._adata, self._listener = checked_input(adata), checked_listener(progress)
        self._limits = checked_limits(Limits(memory, store, scratch, dask))
        self.n_clusters_given = checked_n_clusters(n_clusters, adata.n_obs)
        self.device = pick_device(device)
        self.batch_key = checked_batch_key(batch_key, adata, self.config)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            is_early = name.endswith("_") and not name.startswith("_") and "labels_" not in vars(self)
            when = " before `train` has run" if is_early else ""
            raise AttributeError(f"{type(self).__name__} has no `{name}`{when}.")

    def train(self) -> Self:
        """Run the whole job, from preprocessing to labels.

        Returns
        -------
        The model itself, with the attributes that end in an underscore set.

        Raises
        ------
        InputError
            If the input cannot be clustered, takes more memory or disk than there is, or the model was loaded.
        """
        if self.loaded_from is not None:
            raise InputError(
                f"`train` is for a new model, but this one was loaded from {self.loaded_from!r}; make one with "
                "`SCCAGN(adata, ...)`."
            )
        size = input_size(self._adata, self.layer)
        check_enough(size.n_obs, self.config)
        init = choose_init(self.config, self.n_clusters_given, size.n_obs)
        with self._run(size, dataclasses.replace(self.config, init=init)) as place:
            self._train(place, init)
        return self

    def save(self, folder: str | Path) -> None:
        """Save the trained model to a folder: `model.json`, `recipe.npz`, `weights.pt`.

        Raises
        ------
        InputError
            If the folder cannot be written, or holds something other than a saved model; or if the model has a
            `batch_key`, as Harmony gives no rule for correcting other cells.
        """
        save_model(self, folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        adata: AnnData | Atlas,
        *,
        layer: str | None = None,
        device: Device = "auto",
        memory: int | None = None,
        store: str | Path | None = None,
        scratch: str | Path | None = None,
        dask: str | None = None,
        progress: Progress | bool = False,
    ) -> Self:
        """Assign the cells of an AnnData to the clusters of a saved model; nothing is trained.

        Parameters
        ----------
        folder
            Where `save` put the model.
        adata
            The same or other cells, with the genes that the model uses. They are preprocessed like the training cells,
            and none is left out. The graph joins these cells among themselves; if they are few, with fewer neighbours.
        layer, device, memory, store, scratch, dask, progress
            See `SCCAGN`.

        Returns
        -------
        A model with labels, embedding and graph of these cells.

        Raises
        ------
        InputError
            If the folder holds no model, genes are missing, or the input cannot be used.
        """
        saved = load_model(folder)
        saved = saved._replace(config=usable_config(saved.config))
        model = cls(
            adata, None, saved.config, layer=layer, random_state=saved.random_state, device=device, memory=memory,
            store=store, scratch=scratch, dask=dask, progress=progress,
        )  # fmt: skip
        model.loaded_from = str(folder)
        # whatever they are, nothing is clustered or trained
        needed = dataclasses.replace(saved.config, init="leiden", pretrain_steps=0, joint_steps=0)
        with model._run(input_size(adata, layer), needed) as place:
            with model._stage("Preprocess", adata.n_obs * n_passes_like(saved.config, place.scratch)) as stage:
                model.recipe_ = saved.recipe
                prepared = prepare_like(
                    saved.recipe,
                    adata,
                    saved.config,
                    layer=layer,
                    random_state=saved.random_state,
                    scratch=place.scratch,
                    store=place.store,
                    client=place.client,
                    stage=stage,
                )
            with model._stage("Neighbors"):
                model._build_graph(prepared)
            with model._stage("Read out"):
                model._restore(prepared, saved)
        return model

    @property
    def soft_assignments_(self) -> np.ndarray:
        """q, float32 [n_obs, n_clusters], rows sum to one; NaN for cells that failed quality control."""
        z = torch.from_numpy(self.embedding_[self.keep_obs_])
        assert self.module_.centroids is not None
        q = student_t_assign(z, self.module_.centroids.detach().cpu(), self.config.degrees_of_freedom).numpy()
        return scatter(q, self.keep_obs_)

    def write_to(self, adata: AnnData, key_added: str = "sccagn") -> None:
        """Write the results into an AnnData of the same cells.

        Parameters
        ----------
        adata
            Must have the same cells as the model, with the same names and in the same order.
        key_added
            Name of the results: first part of the keys below.

        Returns
        -------
        Nothing. Sets the keys below, which follow scanpy's conventions. Cells that failed quality control have no
        cluster, no neighbours, and NaN in every float field; scanpy's UMAP does not accept that, so leave them out
        first. If all cells were kept, arrays are the model's own rather than copies.

        `obs[key_added]`
            Cluster, categorical of strings, "0" the largest.
        `obs[f"{key_added}_confidence"]`
            Largest soft assignment, float32.
        `obsm[f"X_{key_added}"]`
            z, float32 [n_obs, n_latent].
        `obsm["X_pca"]`
            Principal components of unit-length log expression, corrected with `batch_key`; float32 [n_obs, n_comps].
            What an earlier PCA left in `uns["pca"]` and `varm["PCs"]` stays.
        `obsp["distances"]`, `obsp["connectivities"]`
            Neighbour distances and the symmetric cell graph, CSR float32 [n_obs, n_obs].
        `uns["neighbors"]`
            Where those two are, for `sc.tl.umap` and the like.
        `uns[key_added]`
            `params`, `versions`, `n_clusters`, `n_clusters_evidence`, `preprocessing`, `graph`, `history`, `stopped`.
        """
        check_same_cells(adata, self.obs_names_, may_be_renamed=adata is self._adata)
        write_results(self, adata, free_keys(key_added, adata))

    @contextmanager
    def _run(self, size: Size, config: Config) -> Iterator[Workspace]:
        """Give a run the place for its arrays, somebody to tell its stages, and numerics of its own."""
        place = workspace(
            size,
            config,
            self._limits,
            device_type=self.device.type,
            corrects=self.batch_key is not None,
            holds_cells=lambda cells: pp.holds_cells(cells, self._adata, self.layer),
        )
        try:
            with usual_numerics(), shown(self._listener) as self._progress, place as made:
                self._scratch, self.obs_names_ = made.scratch, self._adata.obs.index
                yield made
        finally:
            self._progress = SILENT

    def _train(self, place: Workspace, init: Init) -> None:
        config, scratch = self.config, place.scratch
        prepared = self._prepare(place, scaled=init == "consensus")
        with self._stage("Neighbors"):
            self._build_graph(prepared)
        normalized = scratch.keep_csr(graph.normalized(self.adjacency_))
        whole = whole_graph(prepared.x, normalized, self.device)
        network = started_network(prepared.x, normalized, config, random_state=self.random_state)
        self.module_ = network.to(self.device)
        where: Any = {"config": config, "device": self.device, "random_state": self.random_state}
        training = Training(self.module_, dataclasses.replace(prepared, scaled_pcs=None), normalized, **where)
        if config.pretrain_steps:
            with self._stage("Pretrain", total=config.pretrain_steps) as stage:
                training.pretrain(stage)
        with self._stage("Initial clusters"):
            start = embed(self.module_, whole, scratch=scratch)
            train.check_finite(start, "embedding")
            z = start.cpu().numpy()
            initial = self._find_initial(prepared, z, init)
            del prepared  # whose scaled components are no longer needed
            z = training.place_centroids(z, initial)
        with self._stage("Joint training", total=config.joint_steps) as stage:
            end = training.train_jointly(z, initial, whole, progress=stage, scratch=scratch)
        self.stopped_, self.history_ = end.stopped, training.history.frame()
        with self._stage("Read out"):
            self._order_by_size(end.z)
            self._read_out(training.prepared, end.z)

    def _prepare(self, place: Workspace, *, scaled: bool) -> Prepared:
        """Quality control, normalization, components; also of scaled genes, if that is asked for."""
        with self._stage("Preprocess", self._adata.n_obs * n_passes(self.config, place.scratch)) as stage:
            self.recipe_, prepared = prepare(
                self._adata,
                self.config,
                layer=self.layer,
                random_state=self.random_state,
                batch_key=self.batch_key,
                scaled=scaled,
                scratch=place.scratch,
                store=place.store,
                client=place.client,
                stage=stage,
            )
            check_enough(len(prepared.pcs), self.config, "that pass quality control")
            checked_n_clusters(self.n_clusters_given, len(prepared.pcs), "that pass quality control")
        return prepared

    def _find_initial(self, prepared: Prepared, z: np.ndarray, init: Init) -> np.ndarray:
        """Cluster the embedding [n, n_latent] into as many clusters as are wanted, or as there seem to be."""
        where: Any = {"device": self.device, "random_state": self.random_state}
        initial = find_initial(
            prepared.pcs,
            z,
            self.adjacency_,
            self.n_clusters_given,
            self.config,
            find_scoring=lambda: scoring_graph(prepared.points, self.neighbors_, self.adjacency_, self.config, **where),
            init=init,
            views=()
            if prepared.scaled_pcs is None
            else find_views(prepared, self.adjacency_, z, self.config, device=self.device, scratch=self._scratch),
            random_state=self.random_state,
        )
        self.estimate_, self.initial_ = initial.estimate, initial.facts
        self.n_clusters_ = self.estimate_.n_clusters if self.estimate_ else int(self.n_clusters_given or 0)
        if (n_found := initial.labels.max() + 1) < self.n_clusters_:
            raise InputError(
                f"`n_clusters` = {self.n_clusters_} is more than the {n_found} groups of distinct cells "
                "that there are; lower it."
            )
        return initial.labels

    @contextmanager
    def _stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        """Show a stage, and keep no page of the arrays on disk in memory after it."""
        with self._progress.stage(name, total) as stage:
            yield stage
        self._scratch.rest()

    def _build_graph(self, prepared: Prepared) -> None:
        self.neighbors_, self.adjacency_, self.graph_facts_ = build_graph(
            prepared.points, self.config, self.device, random_state=self.random_state, scratch=self._scratch
        )

    def _restore(self, prepared: Prepared, saved: Saved) -> None:
        """Take a saved model's weights and read the cells out with them."""
        self.module_ = loaded_network(prepared.x.shape[1], self.config, saved.weights).to(self.device)
        self.n_clusters_ = len(saved.weights["centroids"])
        self.n_clusters_given = None if saved.estimate else self.n_clusters_
        self.estimate_, self.initial_ = saved.estimate, saved.initial
        self.stopped_, self.history_ = "loaded", saved.history
        joined = join_new(self.neighbors_, self.adjacency_, self.recipe_.n_obs, self.config)
        normalized = self._scratch.keep_csr(graph.normalized(joined))
        whole = whole_graph(prepared.x, normalized, self.device)
        self._read_out(prepared, embed(self.module_, whole, scratch=self._scratch))

    def _order_by_size(self, z: torch.Tensor) -> None:
        """Renumber the clusters so that 0 is the largest."""
        assert self.module_.centroids is not None
        labels = student_t_label(z, self.module_.centroids, self.config.degrees_of_freedom).labels
        sizes = torch.bincount(labels, minlength=self.n_clusters_)
        self.module_.reorder_clusters(sizes.argsort(descending=True, stable=True))
        n_empty = int((sizes == 0).sum())
        if n_empty:
            log.warning(
                "After joint training %d of the %d clusters hold no cell; a lower `n_clusters` may leave none empty.",
                n_empty,
                self.n_clusters_,
            )

    def _read_out(self, prepared: Prepared, z: torch.Tensor) -> None:
        """Set labels, confidence and embedding."""
        module = self.module_
        assert module.centroids is not None
        labels, confidence = student_t_label(z, module.centroids, self.config.degrees_of_freedom)
        self.keep_obs_ = prepared.keep_obs
        self.labels_ = np.full(len(self.keep_obs_), -1, np.int64)
        self.labels_[self.keep_obs_] = labels.cpu().numpy()
        self.confidence_ = scatter(confidence.cpu().numpy(), self.keep_obs_)
        self.embedding_ = scatter(z.cpu().numpy(), self.keep_obs_, self._scratch)
        self.pcs_ = scatter(prepared.pcs, self.keep_obs_, self._scratch)
