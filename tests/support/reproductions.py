"""Reproductions small enough for a test, and one that is killed again and again.

Run as a module: `python -m tests.support.reproductions DATA MODEL FOLDER` prints one JSON line about what happened.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otoscope.config.mariotte2025 import parse_settings
from otoscope.protocols.mariotte2025.published import choose_models
from otoscope.reproduce.mariotte2025.run import Reproduction, reproduce
from otoscope.runs.progress import ProgressReporter, SilentReporter
from tests.support.kill_and_resume import child, end_of

SMALL = ("latents=128", "sparsities=[0.75, 0.9, 0.99]", "crops=2", "sae_epochs=6", "probe_epochs=4")
"""Effort of a reproduction of a few seconds."""

MOMENTS = (("encoding check", 1), ("training", 25), ("evaluating", 2))
"""Where a reproduction is killed, one after the other: in which task, and after how many of its steps."""


class Killing(SilentReporter):
    """A watch that kills the process in the middle of a task."""

    def __init__(self, title: str, steps: int) -> None:
        self.title, self.steps, self.here = title, steps, False

    def start(self, title: str, total: float, unit: str) -> None:  # noqa: ARG002
        self.here = self.title in title

    def advance(self, amount: float, note: str = "") -> None:  # noqa: ARG002
        self.steps -= self.here and amount > 0
        if self.here and self.steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def one_model(
    data: Path, model: Path, root: Path, *, settings: Sequence[str] = (), watch: ProgressReporter | None = None
) -> Reproduction:
    """Reproduce the study on one tiny checkpoint in the place of HuBERT."""
    models = choose_models(overrides=[f"HuBERT={model}@1,3"], only=["HuBERT"])
    return reproduce(data, root, models=models, settings=parse_settings([*SMALL, *settings]), progress=watch)


def broken(data: Path, model: Path, folder: Path) -> dict[str, Any]:
    """Kill a reproduction at every moment in turn, let it end, and compare it with one that nothing disturbed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    ends = [
        end_of(child(lambda at=at: one_model(data, model, folder / "killed", watch=Killing(*at)))) for at in MOMENTS
    ]
    last = end_of(child(lambda: one_model(data, model, folder / "killed")))
    whole = end_of(child(lambda: one_model(data, model, folder / "unbroken")))
    return {"ends": ends, "last": last, "whole": whole}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(broken(*map(Path, sys.argv[1:]))))
