"""Resumable training state: everything that changes during a run, in one file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otoscope.artifacts import fingerprint, read_tensors, require_fingerprint, write_tensors
from otoscope.errors import DamagedArtifact
from otoscope.sae.checkpoint import load_strictly, to_array
from otoscope.sae.train import UNRANKED, TrainingRun, TrainResult, finish

PROGRESS = "progress.safetensors"


def save_result(folder: Path, run: TrainingRun, card: Mapping[str, Any]) -> TrainResult:
    """Save the SAE of a completed run and delete its progress.

    The card gets `training` (the summary) and `history` in addition to `card`.
    """
    result = finish(run)
    result.sae.save_pretrained(folder, {**card, "training": result.summary, "history": result.history}, overwrite=True)
    clear_progress(folder)
    return result


def save_progress(folder: Path, run: TrainingRun) -> None:
    """Write the mutable state of a run into one file: weights, moments, counters, best state, position."""
    groups = {"sae": run.sae.state_dict(), "stepper": run.stepper.state(), "best": run.best}
    tensors = {f"{group}/{name}": to_array(value) for group, part in groups.items() for name, value in part.items()}
    position = {
        "fingerprint": run_fingerprint(run),
        "step": run.step,
        "best_rank": run.best_rank if run.best else None,
        "best_step": run.best_step,
        "restart_steps": run.restart_steps,
        "budgets": run.budgets,
        "history": run.history,
    }
    # the position is stored as bytes in the same file, so weights and step number cannot disagree
    tensors["position"] = np.frombuffer(json.dumps(position).encode(), dtype=np.uint8)
    write_tensors(folder / PROGRESS, tensors)


def load_progress(folder: Path, run: TrainingRun) -> bool:
    """Load saved progress into a run at step 0; return whether there was any.

    Raises `StaleArtifact` if the saved run had other settings or rows, `DamagedArtifact` for an incomplete file.
    """
    path = folder / PROGRESS
    if not path.is_file():
        return False
    tensors = read_tensors(path)
    try:
        position = json.loads(tensors.pop("position").tobytes())
    except (KeyError, ValueError) as error:
        raise DamagedArtifact(f"{path} holds no position ({error}); delete it and train again") from error
    require_fingerprint(path, position["fingerprint"], run_fingerprint(run))
    load_strictly(run.sae, _group(tensors, "sae"), path)
    run.stepper.restore(_group(tensors, "stepper"))
    run.best = _group(tensors, "best")
    run.best_rank = tuple(position["best_rank"]) if position["best_rank"] else UNRANKED
    run.step, run.best_step, run.history = position["step"], position["best_step"], position["history"]
    run.restart_steps, run.budgets = position["restart_steps"], position["budgets"]
    if run.budgets:
        run.stepper.use_budgets(run.budgets)
    return True


def clear_progress(folder: Path) -> None:
    """Delete the file that `save_progress` wrote."""
    (folder / PROGRESS).unlink(missing_ok=True)


def run_fingerprint(run: TrainingRun) -> str:
    """Return a fingerprint of everything that determines the result of a run."""
    statistics = hashlib.sha256(run.statistics.mean.tobytes() + run.statistics.variance.tobytes()).hexdigest()
    heights = [run.rows.height, run.valid_rows.height]
    return fingerprint(run.config.model_dump(), run.sae.settings(), run.seed, heights, statistics)


def _group(tensors: Mapping[str, NDArray[Any]], group: str) -> dict[str, Tensor]:
    prefix = f"{group}/"
    arrays = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
