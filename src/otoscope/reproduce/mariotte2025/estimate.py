"""What the study costs on this machine, before anything of it is started.

How much disk the study takes, and whether there is room for it.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.config.strict import StrictSettings
from otoscope.errors import StorageFull
from otoscope.factors.egemaps import FACTORS
from otoscope.formatting import count
from otoscope.protocols.mariotte2025.models import MISRATED_LAYERS, PAIR, Model
from otoscope.reproduce.mariotte2025 import timing as speed
from otoscope.reproduce.mariotte2025.corpus import glance, takes
from otoscope.reproduce.mariotte2025.encoder import CROP_S
from otoscope.reproduce.mariotte2025.timing import Forward
from otoscope.runs.progress import ProgressReporter, SilentReporter, task
from otoscope.sae.config import MARIOTTE2025

FLOAT_BYTES = 4
TRAINING_COPIES = 4
"""Weights, their best so far, and Adam's two moments: what a dictionary that is at work may take on disk."""

ROOM = 1.2
"""Free disk that is asked for, over what is expected."""


def store_bytes(clips: int, layers: int, width: int) -> float:
    """Return the size of pooled states: every layer of every clip."""
    return clips * layers * width * FLOAT_BYTES


def dictionary_bytes(settings: ReproductionSettings, width: int) -> float:
    """Return the size of one dictionary."""
    return (2 * settings.latents * width + settings.latents) * FLOAT_BYTES


def grid_bytes(settings: ReproductionSettings, width: int, layers: int) -> float:
    """Return the size of the dictionaries of some layers, those of one layer at work."""
    dictionaries = len(settings.sparsities) * (layers + TRAINING_COPIES)
    return dictionaries * dictionary_bytes(settings, width)


def require_room(folder: Path, wanted: float, free_bytes: float | None = None) -> None:
    """Raise `StorageFull` unless the disk has room for what is wanted beyond what the folder holds already."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    missing = max(wanted - there, 0.0) * ROOM
    free_bytes = free(folder) if free_bytes is None else free_bytes
    if missing > free_bytes:
        raise StorageFull(
            f"{folder} needs about {missing / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB are free; "
            "choose another --out, or free some space"
        )


def free(folder: Path) -> float:
    """Return the free bytes of the device that a folder is or would be on."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)


CHECKPOINT_BYTES = 380e6
"""A base model's weights, fetched where they are not at hand."""


class Cost(NamedTuple):
    """One step: what is done how often, and seconds and bytes as the authors did it and in strict form."""

    step: str
    amount: str
    seconds: float
    bytes: float
    strict_amount: str
    strict_seconds: float
    strict_bytes: float


@dataclass(frozen=True)
class Estimate:
    """What a reproduction takes, step by step, and what is free on the disk it goes to."""

    costs: tuple[Cost, ...]
    free_bytes: float
    folder: Path

    @property
    def bytes(self) -> float:
        """Disk as the authors did it."""
        return sum(cost.bytes for cost in self.costs)

    @property
    def seconds(self) -> float:
        """Time as the authors did it."""
        return sum(cost.seconds for cost in self.costs)

    def as_json(self) -> dict[str, Any]:
        """Return the values that `--json` prints."""
        return {
            "steps": [cost._asdict() for cost in self.costs],
            "seconds": self.seconds,
            "bytes": self.bytes,
            "strict_seconds": sum(cost.strict_seconds for cost in self.costs),
            "strict_bytes": sum(cost.strict_bytes for cost in self.costs),
            "free_bytes": self.free_bytes,
        }

    def require_room(self) -> None:
        """Raise `StorageFull` when the disk is too small for the reproduction as the authors did it."""
        require_room(self.folder, self.bytes, self.free_bytes)


class Sizes(NamedTuple):
    """What the corpus comes to: clips and seconds of each kind."""

    files: int
    train_files: int
    test_files: int
    crops: int
    training_crops: int
    whole_s: float
    all_s: float


def estimate(
    data: Path,
    folder: Path,
    *,
    models: Sequence[Model],
    settings: ReproductionSettings,
    device: str = "cpu",
    progress: ProgressReporter | None = None,
) -> Estimate:
    """Measure rates on this machine, a few minutes in all, and multiply them out; writes nothing."""
    progress = progress or SilentReporter()
    corpus = glance(data, settings)
    sizes = sizes_of(takes(corpus, settings))
    progress.message(f"measuring {count(len(models), 'architecture')} on this machine: a few minutes")
    with task(progress, "measuring speed", len(models) + 1, "parts"):
        forwards: dict[str, Forward] = {}
        for model in models:
            progress.message(f"  {model.name}: forward passes")
            forwards[model.name] = speed.forward(model, settings, device)
            progress.advance(1, note=model.name)
        progress.message("  decoding, factors, training steps, probes and regressions")
        paths = [corpus.root / path for path in corpus.clips["path"].head(4)]
        costs = tuple(_costs(models, settings, forwards, sizes, paths))
        progress.advance(1)
    return Estimate(costs, free(folder), folder)


def sizes_of(heard: pl.DataFrame) -> Sizes:
    """Sum up what `takes` gives."""
    by = {name: rows for (name,), rows in heard.partition_by("take", as_dict=True).items()}
    whole_s = float(by["whole"]["duration_s"].sum())
    files = {name: rows["path"].n_unique() for name, rows in by.items()}
    ends = heard.group_by("path").agg(pl.col("file_s").first())
    return Sizes(
        files=sum(files[name] for name in ("train", "valid", "test")),
        train_files=files["train"],
        test_files=files["test"],
        crops=sum(by[name].height for name in ("train", "valid", "test")),
        training_crops=by["train"].height,
        whole_s=whole_s,
        all_s=float(ends["file_s"].sum()),
    )


def _costs(
    models: Sequence[Model],
    settings: ReproductionSettings,
    forwards: dict[str, Forward],
    sizes: Sizes,
    paths: list[Path],
) -> Iterator[Cost]:
    strict, cores = StrictSettings(), len(os.sched_getaffinity(0))
    decode_s = speed.decoding_per_s(paths) / cores
    checked = f"{sizes.files:,} files, {sizes.all_s / 3600:.1f} h"
    yield Cost("check recordings", checked, sizes.all_s * decode_s, 0, "the same", sizes.all_s * decode_s, 0)
    factor_s = speed.egemaps_per_s() / cores
    yield Cost(
        "eGeMAPS", f"{sizes.test_files:,} files", sizes.whole_s * factor_s, 0,
        f"{sizes.files:,} files", sizes.all_s * factor_s, 0,
    )  # fmt: skip
    for model in models:
        yield _encoding(model, settings, forwards[model.name], sizes)
    width = max(forward.width for forward in forwards.values())
    layers = PAIR * len(models)
    yield _training(settings, strict, sizes, layers, width)
    yield from _judging(settings, strict, sizes, layers, width, sum(f.layers for f in forwards.values()), cores)


def _encoding(model: Model, settings: ReproductionSettings, forward: Forward, sizes: Sizes) -> Cost:
    wrong = model.name == "MERT" and settings.mert_rate == "mixed" and forward.layers > min(MISRATED_LAYERS)
    crops = sizes.crops * (2 if wrong else 1)
    whole_s = sizes.whole_s if settings.factor_audio == "whole" else 0.0
    frames = sizes.all_s * forward.frames_per_s * forward.width * FLOAT_BYTES * PAIR
    fetched = 0.0 if forward.here else CHECKPOINT_BYTES
    return Cost(
        f"{model.name}: encode" + ("" if forward.here else " (to fetch)"),
        f"{crops:,} crops of {CROP_S:g} s, {whole_s / 3600:.1f} h whole",
        crops * forward.crop_s + whole_s * forward.per_s,
        store_bytes(crops + sizes.test_files, forward.layers, forward.width) + fetched,
        "whole, also untrained",
        2 * sizes.all_s * forward.per_s,
        2 * frames + fetched,
    )


def _training(settings: ReproductionSettings, strict: StrictSettings, sizes: Sizes, layers: int, width: int) -> Cost:
    step_s = speed.training_step_s(settings, width)
    steps = settings.sae_epochs * -(-sizes.train_files // MARIOTTE2025.batch)
    # an untrained layer and a frozen decoder take as long as a seed; the limit is looked for with two recipes
    rounds = strict.seeds + 2 + len(strict.limit_presets) * len(strict.limit_sparsities) / len(settings.sparsities)
    number, size = layers * len(settings.sparsities), dictionary_bytes(settings, width)
    return Cost(
        "train dictionaries", f"{number} of {settings.latents:,} latents, {steps:,} steps", layers * steps * step_s,
        grid_bytes(settings, width, layers),
        f"{round(number * rounds)}: {strict.seeds} seeds, nulls, limits", layers * steps * step_s * rounds,
        grid_bytes(settings, width, layers) + size * number * (rounds - 1),
    )  # fmt: skip


def _judging(
    settings: ReproductionSettings,
    strict: StrictSettings,
    sizes: Sizes,
    layers: int,
    width: int,
    depth: int,
    cores: int,
) -> Iterator[Cost]:
    codes = layers * len(settings.sparsities)
    probe_s = [settings.probe_epochs * speed.probe_epoch_s(sizes.train_files, w) for w in (width, settings.latents)]
    asked = layers * (1 + len(settings.sparsities) * strict.seeds + len(strict.baselines))
    yield Cost(
        "probes", f"{depth} layers, {codes} codes", depth * probe_s[0] + codes * probe_s[1] / cores, 0,
        f"{asked} representations", asked * probe_s[1] / cores, 0,
    )  # fmt: skip
    regress_s = layers * speed.lasso_s(width, settings.alpha) + codes * speed.lasso_s(settings.latents, settings.alpha)
    reading_s = speed.strict_reading_s(settings.latents, sizes.files) * FACTORS * (1 + strict.permutations)
    yield Cost(
        "regressions", f"{layers + codes} x {FACTORS} factors", regress_s * FACTORS / cores, 0,
        f"{asked} x {FACTORS}, {strict.permutations} nulls", asked * reading_s / cores, 0,
    )  # fmt: skip
