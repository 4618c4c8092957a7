"""Pretraining and joint training: budgets, stops, reports, and no way in for labels."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from planted import blobs, same_partition
from train_samples import WEIGHTS, Stage, optimizer, toy, toy_graph, toy_points

import sccagn_scale
from sccagn_scale import clustering, train
from sccagn_scale._errors import InputError
from sccagn_scale.clustering import centers, kmeans
from sccagn_scale.infer import embed
from sccagn_scale.loader import Batch, PartitionLoader
from sccagn_scale.nn import Losses, LossWeights, SCCAGNModule, Target
from sccagn_scale.ops import student_t_column_sums, student_t_label
from sccagn_scale.train import (
    History,
    JointResult,
    Optimizer,
    Plateau,
    Settled,
    pretrain,
    train_jointly,
)

NEVER = 10**6


def batches_of(n_parts: int) -> PartitionLoader:
    """The toy's cells in as many batches of equal parts."""
    return PartitionLoader(
        toy_points(),
        toy_graph(),
        np.arange(60) % (4 * n_parts),
        batch_size=60 // n_parts,
        device=torch.device("cpu"),
        generator=np.random.default_rng(0),
    )


def joint(
    *,
    n_steps: int = 20,
    settled: Settled | None = None,
    plateau: Plateau | None = None,
    weights: LossWeights = WEIGHTS,
    anchor_share: float = 0.0,
    learning_rate: float = 1e-2,
    n_parts: int = 1,
) -> tuple[JointResult, History, Stage, SCCAGNModule]:
    module, full, whole = toy(as_pca=True)
    z = embed(module, whole).numpy()
    initial = kmeans(z, 3)
    torch.manual_seed(1)
    module.set_centroids(torch.from_numpy(centers(z, initial)))
    history, stage = History(), Stage()
    result = train_jointly(
        optimizer(module, learning_rate),
        full if n_parts == 1 else batches_of(n_parts),
        whole,
        z=embed(module, whole),
        weights=weights,
        target=Target(nu=1.0, tau=0.5, anchor_share=anchor_share, anchor=torch.from_numpy(initial)),
        n_steps=n_steps,
        settled=settled or Settled(-1.0, 1),
        plateau=plateau or Plateau(NEVER),
        history=history,
        progress=stage,
    )
    return result, history, stage, module


def pretrained(n_steps: int, *, n_parts: int = 1, patience: int = NEVER, **options: Any) -> tuple[History, Stage]:
    module, full, _ = toy(**options)
    history, stage = History(), Stage()
    pretrain(
        optimizer(module),
        full if n_parts == 1 else batches_of(n_parts),
        WEIGHTS,
        n_steps=n_steps,
        plateau=Plateau(patience),
        history=history,
        progress=stage,
    )
    return history, stage


def test_pretraining_rebuilds_cells_better_and_better() -> None:
    history, stage = pretrained(200)
    rebuilt = history.frame()["reconstruction"]
    assert rebuilt.iloc[-1] < 0.3 * rebuilt.iloc[0]
    assert stage.steps == 200
    assert stage.seen[-1] == {"loss": pytest.approx(history.rows[-1].loss)}
    assert {row.stage for row in history.rows} == {"pretrain"}
    assert [row.epoch for row in history.rows] == list(range(1, 201))
    assert all(row.clustering == row.adversarial == 0 and math.isnan(row.changed) for row in history.rows)
    assert all(row.loss == WEIGHTS.reconstruction * row.reconstruction for row in history.rows)


@pytest.mark.parametrize(("n_steps", "epochs"), [(0, 0), (1, 1), (3, 1), (4, 2), (7, 3)])
def test_the_budget_of_pretraining_is_steps_not_epochs(n_steps: int, epochs: int) -> None:
    history, stage = pretrained(n_steps, n_parts=3)
    assert stage.steps == n_steps
    assert len(history.rows) == epochs


def test_pretraining_stops_at_a_plateau() -> None:
    _, stage = pretrained(500, patience=3)
    assert 3 < stage.steps < 500


def test_epochs_are_counted_in_each_stage() -> None:
    history = History()
    for stage in ("pretrain", "pretrain", "joint", "joint", "joint"):
        history.add(stage, [Losses(*torch.tensor([4.0, 3, 2, 1])), Losses(*torch.tensor([2.0, 1, 0, 1]))])  # type: ignore[arg-type]
    frame = history.frame()
    assert frame["epoch"].tolist() == [1, 2, 1, 2, 3]
    assert frame.iloc[0, 2:6].tolist() == [3, 2, 1, 1]


def test_joint_training_sharpens_the_clusters_and_keeps_z_up_to_date() -> None:
    result, history, stage, module = joint(n_steps=30)
    frame = history.frame()
    assert result.stopped == "budget"
    assert stage.steps == len(frame) == 30
    assert set(frame["stage"]) == {"joint"}
    assert frame["clustering"].iloc[-1] < frame["clustering"].iloc[0]
    assert frame["changed"].between(0, 1).all()
    _, _, whole = toy(as_pca=True)
    torch.testing.assert_close(result.z, embed(module, whole))
    assert same_partition(student_t_label(result.z, module.centroids).labels.numpy(), blobs([20, 20, 20])[1])  # type: ignore[arg-type]


def test_changed_is_the_share_of_cells_that_moved() -> None:
    result, history, _, module = joint(n_steps=1, learning_rate=0.3)
    start, _, whole = toy(as_pca=True)
    z = embed(start, whole)
    first = student_t_label(z, torch.from_numpy(centers(z.numpy(), kmeans(z.numpy(), 3)))).labels
    last = student_t_label(result.z, module.centroids).labels  # type: ignore[arg-type]
    assert history.rows[0].changed == pytest.approx((first != last).float().mean().item())


@pytest.mark.parametrize(("n_steps", "epochs"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_the_budget_of_joint_training_is_steps_not_epochs(n_steps: int, epochs: int) -> None:
    result, history, stage, module = joint(n_steps=n_steps, n_parts=3)
    assert stage.steps == n_steps
    assert len(history.rows) == epochs
    _, _, whole = toy(as_pca=True)
    torch.testing.assert_close(result.z, embed(module, whole))  # of all cells, those not trained on last too


def test_no_steps_give_the_start_back() -> None:
    result, history, stage, _ = joint(n_steps=0)
    start, _, whole = toy(as_pca=True)
    assert (result.stopped, stage.steps, history.rows) == ("budget", 0, [])
    torch.testing.assert_close(result.z, embed(start, whole))


@pytest.mark.parametrize("n_steps", [50, 3])
def test_joint_training_stops_when_cells_have_settled(n_steps: int) -> None:
    result, history, _, _ = joint(n_steps=n_steps, settled=Settled(1.0, 3))
    assert (result.stopped, len(history.rows)) == ("settled", 3)


def test_joint_training_stops_at_a_plateau() -> None:
    result, history, _, _ = joint(n_steps=50, plateau=Plateau(2, min_improvement=0.9))
    assert (result.stopped, len(history.rows)) == ("plateau", 3)


def test_runs_are_repeatable() -> None:
    first, second = (joint(n_steps=10, n_parts=2)[0].z for _ in range(2))
    assert torch.equal(first, second)


def test_an_anchor_holds_the_initial_clusters() -> None:
    """With the target made of the initial clusters alone, hard training ends in those clusters."""
    result, _, _, module = joint(n_steps=60, weights=LossWeights(1.0, 0.0, 0.0), anchor_share=1.0, n_parts=2)
    start, _, whole = toy(as_pca=True)
    labels = student_t_label(result.z, module.centroids).labels.numpy()  # type: ignore[arg-type]
    assert same_partition(labels, kmeans(embed(start, whole).numpy(), 3))


def test_every_batch_is_told_of_its_anchors_and_of_the_sums_over_all_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Batch, Target]] = []
    step = Optimizer.step

    def spy(self: Optimizer, batch: Batch, weights: LossWeights, target: Target) -> Losses:
        told.append((batch, target))
        return step(self, batch, weights, target)

    monkeypatch.setattr(Optimizer, "step", spy)
    joint(n_steps=3, n_parts=3, anchor_share=0.25)
    start, _, whole = toy(as_pca=True)
    z = embed(start, whole)
    initial = torch.from_numpy(kmeans(z.numpy(), 3))
    sums = student_t_column_sums(z, torch.from_numpy(centers(z.numpy(), initial.numpy())), 1.0, tau=0.5)
    assert len(told) == 3
    for batch, target in told:
        torch.testing.assert_close(target.column_sums, sums)
        assert torch.equal(target.anchor, initial[batch.n_id])
        assert (target.anchor_share, target.nu, target.tau) == (0.25, 1.0, 0.5)


def test_joint_training_that_diverges_is_told() -> None:
    with pytest.raises(InputError, match="`learning_rate`"):
        joint(n_steps=20, learning_rate=1e20)


TRAINERS = [
    sccagn_scale.cluster,
    sccagn_scale.SCCAGN,
    sccagn_scale.SCCAGN.train,
    SCCAGNModule,
    SCCAGNModule.loss,
    clustering.CommunityFinder,
    clustering.CommunityFinder.at_resolution,
    clustering.CommunityFinder.into,
    train.Optimizer,
    train.Optimizer.step,
    clustering.estimate_by_communities,
    clustering.kmeans,
    clustering.ward,
    train.pretrain,
    train.train_jointly,
]


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.__qualname__)
def test_nothing_that_trains_has_a_place_for_labels(trainer: Any) -> None:
    suspicious = re.compile(r"^y(_|$)|truth|label|cell_?type|annotation|kwargs|class(es)?$|obs_key")
    assert not [name for name in inspect.signature(trainer).parameters if suspicious.search(name)]
    assert inspect.Parameter.VAR_KEYWORD not in {p.kind for p in inspect.signature(trainer).parameters.values()}
