"""A trained dictionary as `sae.safetensors` and `card.json`, and a run that can be continued."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otoscope.artifacts import (
    canonical_json,
    digest,
    environment,
    fingerprint,
    read_json,
    read_tensors,
    require_fingerprint,
    write_json,
    write_tensors,
)
from otoscope.errors import DamagedArtifact, StaleArtifact
from otoscope.sae.catalog import sparsifier_from_card
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.train import Training

FORMAT = 1
WEIGHTS, CARD, PROGRESS = "sae.safetensors", "card.json", "progress.safetensors"


class Loaded(NamedTuple):
    """A model and its card."""

    sae: SparseAutoencoder
    card: dict[str, Any]


def save_sae(folder: Path, sae: SparseAutoencoder, card: Mapping[str, Any]) -> None:
    """Write a model and its card; the card comes last, so a folder with a card is whole.

    `card` holds what the caller knows (preset, seed, layer, encoder, fingerprints, summary); shape,
    sparsifier, format, versions and the weights' SHA-256 are added.
    """
    weights = folder / WEIGHTS
    (folder / CARD).unlink(missing_ok=True)
    write_tensors(weights, {name: _array(value) for name, value in sae.state_dict().items()})
    added = {"format": FORMAT, "model": sae.settings(), "sha256": digest(weights), "versions": environment()}
    write_json(folder / CARD, {**card, **added})


def load_sae(folder: Path) -> Loaded:
    """Read a model, in eval mode, and its card.

    Raises `IncompleteArtifact` when a file is missing, `DamagedArtifact` when weights and card do
    not belong together or a key is missing or unexpected, `StaleArtifact` for another format.
    """
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or not {"format", "model", "sha256"} <= card.keys():
        raise DamagedArtifact(f"{folder / CARD} is not the card of a dictionary; train it again")
    if card["format"] != FORMAT:
        raise StaleArtifact(f"{folder} has format {card['format']}, this release reads {FORMAT}; train it again")
    tensors = read_tensors(folder / WEIGHTS)
    if digest(folder / WEIGHTS) != card["sha256"]:
        raise DamagedArtifact(f"{folder / WEIGHTS} is not the file that its card was written for; train it again")
    sae = empty_sae(card["model"], folder)
    load_strictly(sae, {name: torch.from_numpy(value) for name, value in tensors.items()}, folder / WEIGHTS)
    return Loaded(sae.eval(), card)


def empty_sae(settings: Mapping[str, Any], folder: Path) -> SparseAutoencoder:
    """Make a model of the shape that `SparseAutoencoder.settings` told."""
    known = dict(settings)
    try:
        per_dimension = known.pop("scale_per_dimension")
        sparsifier = sparsifier_from_card(known.pop("sparsifier"), latents=known["latents"])
        sae = SparseAutoencoder(sparsifier=sparsifier, **known)
    except (KeyError, TypeError) as error:
        raise DamagedArtifact(f"{folder / CARD} does not describe a dictionary ({error}); train it again") from error
    if per_dimension:
        sae.scale = torch.ones(sae.width)
    return sae


def load_strictly(sae: SparseAutoencoder, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model; raise `DamagedArtifact` for a missing, unexpected or misshapen one."""
    wanted = sae.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise DamagedArtifact(f"{path}: missing keys {missing}, unexpected keys {extra}; train it again")
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            raise DamagedArtifact(f"{path}: {name} has shape {list(tensors[name].shape)}, expected {list(value.shape)}")
    sae.load_state_dict(dict(tensors))


def save_progress(folder: Path, run: Training) -> None:
    """Write all that changes during a run into one file: weights, moments, counters, best so far, position."""
    groups = {"sae": run.sae.state_dict(), "engine": run.engine.state(), "best": run.best}
    tensors = {f"{group}/{name}": _array(value) for group, part in groups.items() for name, value in part.items()}
    position = {
        "identity": identity(run),
        "step": run.step,
        "best_mse": run.best_mse if run.best else None,
        "best_step": run.best_step,
        "history": run.history,
    }
    # the position travels as bytes in the same file: weights and step number can then never disagree
    tensors["position"] = np.frombuffer(canonical_json(position).encode(), dtype=np.uint8)
    write_tensors(folder / PROGRESS, tensors)


def load_progress(folder: Path, run: Training) -> bool:
    """Continue a run that `begin` has made afresh; return whether there was anything to continue.

    Raises `StaleArtifact` when the saved run had other settings or rows, `DamagedArtifact` when the
    file is not whole.
    """
    path = folder / PROGRESS
    if not path.is_file():
        return False
    tensors = read_tensors(path)
    try:
        position = json.loads(tensors.pop("position").tobytes())
    except (KeyError, ValueError) as error:
        raise DamagedArtifact(f"{path} holds no position ({error}); delete it and train again") from error
    require_fingerprint(path, position["identity"], identity(run))
    load_strictly(run.sae, _group(tensors, "sae"), path)
    run.engine.restore(_group(tensors, "engine"))
    run.best = _group(tensors, "best")
    run.best_mse = math.inf if position["best_mse"] is None else position["best_mse"]
    run.step, run.best_step, run.history = position["step"], position["best_step"], position["history"]
    return True


def clear_progress(folder: Path) -> None:
    """Remove what `save_progress` wrote, once the finished model is saved."""
    (folder / PROGRESS).unlink(missing_ok=True)


def identity(run: Training) -> str:
    """Return a fingerprint of all that decides what a run will become."""
    moments = hashlib.sha256(run.moments.mean.tobytes() + run.moments.variance.tobytes()).hexdigest()
    heights = [run.rows.height, run.valid_rows.height]
    return fingerprint(run.config.model_dump(), run.sae.settings(), run.seed, heights, moments)


def _group(tensors: Mapping[str, np.ndarray[Any, Any]], group: str) -> dict[str, Tensor]:
    prefix = f"{group}/"
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return {name: torch.from_numpy(value.copy()) for name, value in found.items()}


def _array(value: Tensor) -> np.ndarray[Any, Any]:
    return value.detach().cpu().numpy()
