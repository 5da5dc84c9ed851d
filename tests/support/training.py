"""Training of one SAE with progress saved in a folder, as a bank does for each member."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from otoscope.sae.bank import load_progress, save_progress, save_result
from otoscope.sae.train import TrainingRun, TrainResult, TrainStep, train_steps


def train_into(
    folder: Path,
    run: TrainingRun,
    card: Mapping[str, Any],
    *,
    save_every_s: float = 30.0,
    on_step: Callable[[TrainStep], None] | None = None,
) -> TrainResult:
    """Resume a run at step 0 from the folder's progress if there is any, train it, and save the SAE there."""
    load_progress(folder, run)
    saved_at = monotonic()
    for step in train_steps(run):
        if on_step is not None:
            on_step(step)
        if monotonic() - saved_at >= save_every_s:
            save_progress(folder, run)
            saved_at = monotonic()
    return save_result(folder, run, card)
