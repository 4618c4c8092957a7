"""A trained model on disk: configuration, what preprocessing learned, and weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sccagn_scale import clustering, pp
from sccagn_scale._errors import InputError, first_line
from sccagn_scale.config import Config
from sccagn_scale.io import as_path, replacing
from sccagn_scale.model._prepare import Recipe
from sccagn_scale.model._results import evidence, versions

if TYPE_CHECKING:
    from sccagn_scale.model._model import SCCAGN

_MODEL, _RECIPE, _WEIGHTS = "model.json", "recipe.npz", "weights.pt"
_HISTORY = "history/"
_FORMAT = 4
_UNREADABLE = (
    *(OSError, LookupError, ValueError, EOFError, RuntimeError, TypeError, AttributeError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)


class Saved(NamedTuple):
    """What a folder written by `save_model` holds."""

    config: Config
    recipe: Recipe
    weights: dict[str, torch.Tensor]
    random_state: int
    estimate: clustering.Estimate | None
    initial: dict[str, Any]
    history: pd.DataFrame


def save_model(model: SCCAGN, folder: str | Path) -> None:
    """Write a folder of three files, whole or not at all; an earlier model stays until this one takes its place."""
    if model.batch_key is not None:
        raise InputError(
            f"A model with `batch_key` = '{model.batch_key}' cannot be saved: Harmony corrects the cells that it is "
            "given and finds no rule for others. Keep the results (`write_to`), or train without `batch_key`."
        )
    target = checked_folder(folder)
    recipe = model.recipe_
    if not recipe.genes.is_unique:
        raise InputError(
            f"A model of genes whose names repeat, such as '{recipe.genes[recipe.genes.duplicated()][0]}', cannot be "
            "saved: other cells' genes are found by name. Call adata.var_names_make_unique() before training."
        )
    facts: dict[str, Any] = {
        "format": _FORMAT,
        "config": dataclasses.asdict(model.config),
        "random_state": model.random_state,
        "input_kind": recipe.input_kind,
        "target_sum": recipe.target_sum,
        "pc_scale": recipe.pc_scale,
        "n_obs": recipe.n_obs,
        "n_clusters": model.n_clusters_,
        "n_clusters_evidence": evidence(model.estimate_),
        "initial": model.initial_,
        "versions": versions(),
    }
    history = model.history_.items()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh:
            fresh.mkdir()
            np.savez(
                fresh / _RECIPE,
                genes=recipe.genes.to_numpy(dtype=str),
                chosen=recipe.chosen,
                maxima=recipe.maxima,
                mean=recipe.pca.mean,
                components=recipe.pca.components,
                **{f"{_HISTORY}{name}": column.to_numpy(None if name != "stage" else str) for name, column in history},
            )
            torch.save(model.module_.state_dict(), fresh / _WEIGHTS)
            facts["sha256"] = {name: _digest(fresh / name) for name in (_RECIPE, _WEIGHTS)}
            (fresh / _MODEL).write_text(json.dumps(facts, indent=2, default=np.ndarray.tolist) + "\n", encoding="utf-8")
    except (OSError, RuntimeError) as error:  # torch has its own for a full disk
        raise InputError(f"`folder` '{target}' cannot be written: {first_line(error)}.") from error


def checked_folder(folder: str | Path) -> Path:
    """Return the place of a model to come, or refuse one where something else is."""
    target = as_path(folder, "folder")
    if not target.exists():
        return target
    if not target.is_dir():
        raise InputError(f"`folder` must be a folder; '{target}' is a file.")
    if target.resolve() == Path.cwd():
        raise InputError(f"`folder` must not be the current one, '{folder}': it is replaced whole. Name another.")
    names = {path.name for path in target.iterdir()}
    others = names - {_MODEL, _RECIPE, _WEIGHTS} or (set() if _is_ours(target / _MODEL) else names)
    if others:
        raise InputError(
            f"`folder` must be new, empty or a saved model and nothing else, for it is replaced whole; '{target}' "
            f"holds '{min(others)}', which is none of it."
        )
    return target


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_ours(path: Path) -> bool:
    """Whether `save_model` wrote this `model.json`, be it in another format."""
    try:
        return {"format", "config", "pc_scale"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return False


def load_model(folder: str | Path) -> Saved:
    """Read what `save_model` wrote."""
    source = as_path(folder, "folder")
    try:
        facts = json.loads((source / _MODEL).read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT:
            raise ValueError(
                f"it has format {facts['format']}, and this version of sccagn_scale reads {_FORMAT}; train it anew and "
                "save it"
            )
        for name, digest in facts["sha256"].items():
            if _digest(source / name) != digest:
                raise ValueError(f"its {name} is not the one that was saved; train it anew and save it")
        with (source / _RECIPE).open("rb") as file:  # np.load leaves one that it cannot read open
            arrays = dict(np.load(file, allow_pickle=False))
        weights = torch.load(source / _WEIGHTS, map_location="cpu", weights_only=True)
        recipe = Recipe(
            facts["input_kind"],
            pd.Index(arrays["genes"]),
            facts["target_sum"],
            arrays["chosen"],
            arrays["maxima"],
            pp.Projection(arrays["mean"], arrays["components"]),
            facts["pc_scale"],
            facts["n_obs"],
        )
        config = Config(**facts["config"])
        estimate = _estimate(facts["n_clusters"], **facts["n_clusters_evidence"])
        names = [name for name in arrays if name.startswith(_HISTORY)]
        history = pd.DataFrame({name.removeprefix(_HISTORY): arrays[name] for name in names})
    except _UNREADABLE as error:
        raise InputError(f"`folder` '{source}' holds no model that can be read: {error}.") from error
    initial = dict(facts.get("initial", {}))  # models saved before it was written down are read too
    return Saved(config, recipe, weights, facts["random_state"], estimate, initial, history)


def _estimate(chosen: int, **evidence: Any) -> clustering.Estimate | None:
    """What `evidence` of `_results` was made of."""
    if not evidence:
        return None
    low, high = evidence["plausible"]
    candidates, scores = np.array(evidence["n_clusters"]), np.array(evidence["score"])
    return clustering.Estimate(chosen, evidence["method"], candidates, scores, (low, high))
