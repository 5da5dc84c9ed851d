"""A run that survives being killed: everything that changes in it, in one file."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otoscope.artifacts import fingerprint, read_tensors, require_fingerprint, write_tensors
from otoscope.errors import DamagedArtifact
from otoscope.sae.checkpoint import load_strictly, save_sae, to_array
from otoscope.sae.train import UNSEEN, Step, Trained, Training, finish, train

PROGRESS = "progress.safetensors"


def train_into(
    folder: Path,
    run: Training,
    card: Mapping[str, Any],
    *,
    save_every_s: float = 30.0,
    on_step: Callable[[Step], None] | None = None,
) -> Trained:
    """Train a run that `begin` has made, or what is left of it, and save the dictionary in `folder`.

    Progress is kept in the folder every `save_every_s` seconds; a killed run, begun again with the
    same settings and rows, ends in the same bytes. The card gets `training` (the summary) and
    `history` beside what the caller gives.
    """
    load_progress(folder, run)
    saved_at = monotonic()
    for step in train(run):
        if on_step is not None:
            on_step(step)
        if monotonic() - saved_at >= save_every_s:
            save_progress(folder, run)
            saved_at = monotonic()
    return conclude(folder, run, card)


def conclude(folder: Path, run: Training, card: Mapping[str, Any]) -> Trained:
    """Save the dictionary of a run whose steps are done, and remove its progress."""
    trained = finish(run)
    save_sae(folder, trained.sae, {**card, "training": trained.summary, "history": trained.history})
    clear_progress(folder)
    return trained


def save_progress(folder: Path, run: Training) -> None:
    """Write all that changes during a run into one file: weights, moments, counters, best so far, position."""
    groups = {"sae": run.sae.state_dict(), "engine": run.engine.state(), "best": run.best}
    tensors = {f"{group}/{name}": to_array(value) for group, part in groups.items() for name, value in part.items()}
    position = {
        "identity": identity(run),
        "step": run.step,
        "best_rank": run.best_rank if run.best else None,
        "best_step": run.best_step,
        "history": run.history,
    }
    # the position travels as bytes in the same file: weights and step number can then never disagree
    tensors["position"] = np.frombuffer(json.dumps(position).encode(), dtype=np.uint8)
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
    run.best_rank = tuple(position["best_rank"]) if position["best_rank"] else UNSEEN
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


def _group(tensors: Mapping[str, NDArray[Any]], group: str) -> dict[str, Tensor]:
    prefix = f"{group}/"
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return {name: torch.from_numpy(value.copy()) for name, value in found.items()}
