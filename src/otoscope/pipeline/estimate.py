"""Cost of a run, estimated before the work from file headers and measurements of about a second.

Corpus, factors and extraction are timed on a few clips. Training and evaluation are counted in floating-point
operations and divided by the measured rate of matrix products; their constants come from runs of the demo and of 528
sung clips with three labels, and they are right within a factor of about three.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from otoscope.config import RunConfig
from otoscope.corpus.catalog import list_clips
from otoscope.corpus.listing import EACH, Listing
from otoscope.corpus.selection import SelectableCorpus
from otoscope.corpus.splits import assign_folds
from otoscope.corpus.streaming import measure_clip
from otoscope.corpus.synth.dataset import SynthCorpus, render_task
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import AudioError
from otoscope.factors import egemaps
from otoscope.formatting import count, duration
from otoscope.hardware import available_cores, find_device, flop_per_s
from otoscope.runs.context import Context, layers_to_extract
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.training import GridMember, fold_members
from otoscope.sae.plan import Plan

FIRST_LOOK, FIRST_LOOK_S = 12, 600.0
"""SAEs, and estimated seconds, above which a run names settings for a first look."""

FEW_CLIPS = 200
"""Fewest clips that a first look is reduced to."""

SAMPLED_CLIPS, SAMPLED_S = 6, 0.3
"""Clips that are decoded to measure rate and length, and the time after which no further one is."""

MEASURED_S = 2.0
"""Length of the noise that is encoded and measured."""

FLOP_PER_VALUE_AND_LATENT, FLOP_PER_VALUE = 4.0, 4000.0
"""Operations of a training step per value of its rows and latent, and per value, as multiples of a matrix product's."""

FLOP_PER_UNIT_AND_FACTOR, FLOP_PER_CLIP_AND_LABEL = 4.0e6, 5.0e7
"""Operations of a tuned regression per unit of a representation and factor, and of a probe per clip and label."""

WHOLE_CLIPS = 200
"""Clips up to which the cost of a regression grows with their number."""


class Workload(NamedTuple):
    """Clips of a corpus, total length, labels and factors, time to list and decode them, and folds of readers."""

    clips: int
    sound_s: float
    labels: int
    factors: int
    corpus_s: float
    folds: int = 1

    @property
    def mean_s(self) -> float:
        """Mean length of a clip."""
        return self.sound_s / max(self.clips, 1)


def cost_lines(run: Context, grid: Sequence[GridMember], stages: Sequence[str]) -> list[str]:
    """Return the estimated cost of the stages that have not run yet, and settings for a first look if it is high.

    Stages whose card exists are not counted. Raises the errors of listing the corpus.
    """
    left = [stage for stage in stages if not run.folder.card(stage).is_file()]
    if not {"corpus", "factors", "extract", "train"} & set(left) or not run.executor.in_process:
        return first_look(grid)
    work = measure_workload(run.config, run.folder)
    if work is None:
        return first_look(grid)
    seconds = {stage: cost for stage, cost in _stage_costs(run, grid, work).items() if stage in left}
    each = ", ".join(f"{stage} {duration(cost)}" for stage, cost in seconds.items())
    total_s = sum(seconds.values())
    sound = f"{count(work.clips, 'clip')}, {duration(work.sound_s)} of sound"
    protocols = [name for name in run.config.evaluate.protocols if name != "held_out"]
    more = f"; evaluate without {', '.join(protocols)}" if protocols and "evaluate" in seconds else ""
    line = f"estimate for {sound}: {each}; in all about {duration(total_s)}{more}"
    return [line, *first_look(grid, _fewer_clips(run.config, work, seconds))]


def first_look(grid: Sequence[GridMember], corpus_settings: str = "") -> list[str]:
    """Return the settings for a first look: one line, or none for a small grid of little cost.

    >>> first_look([GridMember(3, "encode_then_pool", "default", 64, 0.9, 0)], "--set corpus.max_clips=200")
    ['for a first look: --set corpus.max_clips=200']
    """
    settings = [corpus_settings] if corpus_settings else []
    if len(grid) > FIRST_LOOK:
        middle = grid[len(grid) // 2]
        settings.append(
            f"--set train.layers=[{middle.layer}] --set train.sparsities=[0.9] --set train.seeds=[{middle.seed}]"
        )
    return [f"for a first look: {' '.join(settings)}"] if settings else []


def _fewer_clips(config: RunConfig, work: Workload, seconds: dict[str, float]) -> str:
    """Return the setting that brings the stages whose cost grows with the clips below `FIRST_LOOK_S`; empty if none."""
    total_s = sum(seconds.values())
    clips = max(FEW_CLIPS, 100 * round(work.clips * FIRST_LOOK_S / max(total_s, 1.0) / 200))
    if total_s <= FIRST_LOOK_S or clips >= work.clips or not isinstance(config.corpus, SelectableCorpus):
        return ""
    return f"--set corpus.max_clips={clips}"


def measure_workload(config: RunConfig, folder: RunFolder) -> Workload | None:
    """Return the size of the corpus by its list and a few decoded clips, or an earlier run; None if unreadable."""
    earlier = load_corpus(folder) if folder.card("corpus").is_file() else None
    if isinstance(config.corpus, SynthCorpus):
        if earlier is not None and earlier.clips.height == len(config.corpus.tasks()):
            return _measured(earlier, earlier.clips)
        singers = pl.DataFrame({"group": [str(i) for i in range(config.corpus.singers)], "split": None})
        return _synthesised(config.corpus)._replace(folds=_folds(assign_folds(singers, config.splits)))
    listing = list_clips(config.corpus, folder.sound)
    folds = _folds(assign_folds(listing.clips, config.splits))
    if earlier is not None:
        # settings may choose other clips now
        chosen = earlier.clips.join(listing.clips, on=["path", "start_s"], how="semi")
        if chosen.height >= (1.0 - config.max_set_aside) * listing.clips.height:
            return _measured(earlier, chosen)._replace(folds=folds)
    work = _listed(listing)
    return work and work._replace(folds=folds)


def _measured(corpus: Corpus, clips: pl.DataFrame) -> Workload:
    """Return the size of clips of an earlier run, which are listed and decoded already."""
    size = clips.height, float(clips["duration_s"].sum()), len(corpus.labels), len(corpus.factors)
    return Workload(*size, 0.0, _folds(clips))


def _folds(clips: pl.DataFrame) -> int:
    return clips["fold"].n_unique() if "fold" in clips.columns else 1


def _synthesised(spec: SynthCorpus) -> Workload:
    tasks = spec.tasks()
    short = spec.model_copy(update={"duration_s": min(spec.duration_s, MEASURED_S)})
    clip = render_task(tasks[0], short)
    once_s = _seconds(lambda: render_task(tasks[0], short)) * spec.duration_s / short.duration_s
    labels = 4
    corpus_s = len(tasks) * once_s / available_cores()
    return Workload(len(tasks), len(tasks) * spec.duration_s, labels, len(clip.factors), corpus_s)


def _listed(listing: Listing) -> Workload | None:
    """Return the size of a list of files: lengths that it does not state are estimated from the bytes of a sample."""
    clips = listing.clips
    step = max(1, clips.height // SAMPLED_CLIPS)
    sampled_s, sampled_bytes, start_s = 0.0, 0, time.perf_counter()
    of_file: list[int] = []  # clips, of which `channel: each` makes one per channel
    for row in clips[::step].iter_rows(named=True):
        path = listing.root / row["path"]
        try:
            measured = measure_clip(path, start_s=row["start_s"], duration_s=row["duration_s"])
            sampled_bytes += path.stat().st_size
        except (AudioError, OSError):
            continue
        sampled_s += measured.samples / measured.rate_hz
        of_file.append(measured.channels if row.get("channel") == EACH else 1)
        if time.perf_counter() - start_s > SAMPLED_S:
            break
    spent_s = time.perf_counter() - start_s
    if not sampled_s:
        return None
    whole = clips.filter(pl.col("duration_s").is_null())["path"].to_list()
    whole_s = sum(_size(listing, path) for path in whole) * sampled_s / sampled_bytes
    sound_s = float(clips["duration_s"].sum()) + whole_s
    labels = [name for name in clips.columns if name.startswith("label_")]
    factors = [name for name in clips.columns if name.startswith("factor_")]
    corpus_s = spent_s * sound_s / sampled_s / min(8, available_cores())
    each = sum(of_file) / len(of_file)
    return Workload(round(clips.height * each), sound_s * each, len(labels), len(factors), corpus_s * each)


def _size(listing: Listing, path: str) -> int:
    try:
        return (listing.root / path).stat().st_size
    except OSError:
        return 0


def _stage_costs(run: Context, grid: Sequence[GridMember], work: Workload) -> dict[str, float]:
    config, encoder = run.config, run.encoder.load()
    layers = layers_to_extract(config, encoder)
    per_s = flop_per_s(find_device(config.device))
    use_egemaps = config.factors.egemaps and egemaps.egemaps_identity() != "absent"
    egemaps_s, extract_s = _egemaps_s(work) if use_egemaps else 0.0, _extraction_s(encoder, layers, work)
    explained = min(1.0, config.explain.clips / max(work.clips, 1))
    factors = (egemaps.FACTORS if use_egemaps else 0) + (work.factors if config.factors.truth else 0)
    return {
        "corpus": work.corpus_s,
        "factors": egemaps_s,
        "extract": extract_s,
        "train": _training_flop(config, encoder, grid, work) / per_s,
        "evaluate": work.folds * _evaluation_flop(encoder, layers, grid, work, factors) / per_s,
        # descriptors of the frames of some clips, and layers above an SAE that is spliced in
        "explain": explained * (egemaps_s + extract_s),
    }


def _seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _noise(seconds: float, rate_hz: int) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(max(1, round(seconds * rate_hz)))
    return (0.05 * noise).astype(np.float32)


def _egemaps_s(work: Workload) -> float:
    """Return the seconds of measuring eGeMAPS on every clip, from one clip of noise."""
    length_s = min(max(work.mean_s, 0.1), MEASURED_S)
    clips = pl.DataFrame({"clip_id": ["a"], "path": ["a"], "start_s": [0.0], "duration_s": [length_s], "digest": ["a"]})
    wave = _noise(length_s, egemaps.RATE_HZ)

    def measure() -> None:
        egemaps.measure_egemaps(clips, Path(), workers=1, load=lambda _: wave)

    measure()  # the first call loads openSMILE
    return work.sound_s / length_s * _seconds(measure) / available_cores()


def _extraction_s(encoder: Encoder, layers: Sequence[int], work: Workload) -> float:
    """Return the seconds of encoding every clip, from the layers 0 and 1 of one clip of noise."""
    longest_s = encoder.window_s or 30.0
    length_s = min(max(work.mean_s, encoder.min_samples / encoder.rate_hz), longest_s)
    windows = work.clips * math.ceil(work.mean_s / longest_s)
    # a pass over less than its window costs as much as a whole one
    is_padded = encoder.window_s is not None and getattr(encoder, "context", "exact") == "exact"
    measured_s = length_s if is_padded else min(length_s, max(MEASURED_S, encoder.min_samples / encoder.rate_hz))
    wave = _noise(measured_s, encoder.rate_hz)[: round(longest_s * encoder.rate_hz)]
    first, second = encoder.layers[0].index, encoder.layers[min(1, len(encoder.layers) - 1)].index
    encoder.encode([wave], [first])  # the first call allocates
    input_s = _seconds(lambda: encoder.encode([wave], [first]))
    block_s = max(_seconds(lambda: encoder.encode([wave], [second])) - input_s, 0.05 * input_s)
    return windows * (input_s + max(layers) * block_s) * length_s / measured_s


def _training_flop(config: RunConfig, encoder: Encoder, grid: Sequence[GridMember], work: Workload) -> float:
    """Return the floating-point operations of training the grid, without those that a patient member saves."""
    whole, of_fold = 1.0 - config.splits.valid - config.splits.test, 1.0 - 2.0 / work.folds
    width_of = {layer.index: layer.width for layer in encoder.layers}
    rate_of = {layer.index: layer.rate_hz for layer in encoder.layers}
    flop = 0.0
    for member in (one for shared in grid for one in (shared, *fold_members(shared, config.splits, work.folds))):
        rows = work.clips if member.pooling == "pool_then_encode" else work.sound_s * rate_of[member.layer]
        settings = config.train.train_config(member.preset)
        height = max(2, round((whole if member.fold is None else of_fold) * rows))
        plan = Plan.derive(settings, height=height, latents=member.latents, k=member.k, seed=member.seed)
        values = plan.steps * plan.shuffle.batch * width_of[member.layer]
        flop += values * (FLOP_PER_VALUE + FLOP_PER_VALUE_AND_LATENT * member.latents)
    return flop


def _evaluation_flop(
    encoder: Encoder, layers: Sequence[int], grid: Sequence[GridMember], work: Workload, factors: int
) -> float:
    """Return the floating-point operations of the protocol `held_out`."""
    width_of = {layer.index: layer.width for layer in encoder.layers}
    units = sum(width_of[layer] for layer in layers) + sum(member.latents for member in grid)
    representations = len(layers) + len(grid)
    return (
        FLOP_PER_UNIT_AND_FACTOR * units * factors * min(work.clips / WHOLE_CLIPS, 1.0)
        + FLOP_PER_CLIP_AND_LABEL * representations * work.clips * work.labels
    )
