"""Plan of a reproduction: the grid, its disk space, and a rough time for this machine."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.errors import StorageFull
from otoscope.hardware import flop_per_s
from otoscope.paths import user_path
from otoscope.protocols.mariotte2025.published import MISRATED_LAYERS, PAIR, StudyModel
from otoscope.reproduce.mariotte2025.corpus import cut_takes, list_vocalset
from otoscope.sae.config import MARIOTTE2025

FLOAT_BYTES = 4

TRAINING_COPIES = 4
"""Copies of the weights that a running training may store: current, best, and Adam's two moments."""

FREE_SPACE_FACTOR = 1.2
"""Required free disk space relative to the estimate."""

LAYERS, WIDTH, PARAMETERS, FRAMES_PER_S = 13, 768, 95e6, 50
"""Size of the study's models: hidden states, width, parameters, and frames per second of audio."""

CHECKPOINT_BYTES = 4 * PARAMETERS


@dataclass(frozen=True)
class Step:
    """One step of the plan; the time counts matrix products only."""

    step: str
    amount: str
    seconds: float
    bytes: float


@dataclass(frozen=True)
class ReproductionPlan:
    """Steps of a reproduction, and the free disk space of its folder."""

    steps: tuple[Step, ...]
    free_bytes: float
    folder: Path

    @property
    def seconds(self) -> float:
        """Total time."""
        return sum(step.seconds for step in self.steps)

    @property
    def bytes(self) -> float:
        """Total disk space."""
        return sum(step.bytes for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return the values that `--json` prints."""
        steps = [asdict(step) for step in self.steps]
        return {"steps": steps, "seconds": self.seconds, "bytes": self.bytes, "free_bytes": self.free_bytes}

    def require_disk_space(self) -> None:
        """Raise `StorageFull` if the disk is too small."""
        require_disk_space(self.folder, self.bytes)


def plan(data: Path, folder: Path, *, models: Sequence[StudyModel], settings: ReproductionSettings) -> ReproductionPlan:
    """Return the plan of a reproduction, from file headers and one short measurement; writes nothing."""
    takes = cut_takes(list_vocalset(data, settings), settings)
    rate = flop_per_s()
    crops = takes.filter(pl.col("take") != "whole")
    whole_s = float(takes.filter(pl.col("take") == "whole")["duration_s"].sum())
    clips, crops_s = takes["clip_id"].n_unique(), float(crops["duration_s"].sum())
    train_files = takes.filter(pl.col("take") == "train")["path"].n_unique()
    steps: list[Step] = []
    for model in models:
        repeats = 2 if model.name == "MERT" and settings.mert_rate == "mixed" else 1
        audio_s = repeats * crops_s + (whole_s if settings.factor_audio == "whole" else 0.0)
        misrated = len(MISRATED_LAYERS) / LAYERS if repeats > 1 else 0.0
        size = store_bytes(clips, LAYERS, WIDTH) * (1 + misrated) + (
            0 if user_path(model.checkpoint).is_dir() else CHECKPOINT_BYTES
        )
        flop = 2 * PARAMETERS * FRAMES_PER_S * audio_s
        steps.append(
            Step(f"{model.name}: encode", f"{audio_s / 3600:.1f} h of audio, {LAYERS} layers", flop / rate, size)
        )
    number = PAIR * len(models) * len(settings.sparsities)
    rows = settings.sae_epochs * train_files
    # encoder and decoder, each forward, and backward for weights and inputs
    flop = number * rows * 6 * 2 * settings.latents * WIDTH
    amount = f"{number} of {settings.latents:,} latents, {-(-rows // MARIOTTE2025.batch):,} steps each"
    steps.append(Step("train SAEs", amount, flop / rate, grid_bytes(settings, WIDTH, PAIR * len(models))))
    probe_rows = settings.probe_epochs * train_files
    flop = 6 * 10 * probe_rows * (LAYERS * len(models) * WIDTH + number * settings.latents)
    steps.append(Step("probes", f"{LAYERS * len(models)} layers, {number} SAEs", flop / rate, 0.0))
    return ReproductionPlan(tuple(steps), free_bytes(folder), folder)


def store_bytes(clips: int, layers: int, width: int) -> float:
    """Return the size of pooled states of every layer and clip."""
    return clips * layers * width * FLOAT_BYTES


def sae_bytes(settings: ReproductionSettings, width: int) -> float:
    """Return the size of one SAE."""
    return (2 * settings.latents * width + settings.latents) * FLOAT_BYTES


def grid_bytes(settings: ReproductionSettings, width: int, layers: int) -> float:
    """Return the size of the SAEs of some layers, with the training state of one layer."""
    return len(settings.sparsities) * (layers + TRAINING_COPIES) * sae_bytes(settings, width)


def require_disk_space(folder: Path, total: float) -> None:
    """Raise `StorageFull` unless the disk has room for `total` bytes, less what the folder contains already."""
    existing = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    missing, free = max(total - existing, 0.0) * FREE_SPACE_FACTOR, free_bytes(folder)
    if missing > free:
        raise StorageFull(
            f"{folder} needs about {missing / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "choose another --out, or free some space"
        )


def free_bytes(folder: Path) -> float:
    """Return the free bytes of the device of a folder, which need not exist."""
    path = folder.resolve()
    while not path.exists():
        path = path.parent
    return float(shutil.disk_usage(path).free)
