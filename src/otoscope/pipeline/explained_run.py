"""What the steps of the stage `explain` share: the dictionary shown, its codes, its clips and the latents explained."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_table
from otoscope.corpus.audio import load_clip
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Frames
from otoscope.errors import ArtifactError, ConfigError
from otoscope.explain import (
    ActivationIndex,
    LatentChoice,
    TimedCodes,
    choose_class_latents,
    choose_latents,
    index_inputs,
    write_activation_index,
)
from otoscope.explain.frame_descriptors import unreliable_functionals
from otoscope.factors.annotations import READERS
from otoscope.factors.table import FactorTable
from otoscope.pipeline.changed_layer import ChangedLayer
from otoscope.protocols import strict
from otoscope.protocols.strict.compare import ReappearingLatents, read_reappearing_latents
from otoscope.report.results import REFERENCE_SPARSITY, Results
from otoscope.runs.code_version import code_version
from otoscope.runs.context import Context
from otoscope.runs.folder import load_corpus
from otoscope.runs.inputs import Clips, clip_arrays, open_activations
from otoscope.runs.progress import task
from otoscope.runs.training import GridMember, training_grid
from otoscope.sae.checkpoint import CARD
from otoscope.sae.model import load_sae


@dataclass(frozen=True)
class ExplainedRun:
    """Inputs of all steps of the stage; indices, codes and the latents explained are computed on first use."""

    run: Context
    store: ActivationStore
    results: pl.DataFrame
    corpus: Corpus
    compared: ReappearingLatents | None
    grid: list[GridMember]
    member: GridMember
    inputs: str

    @property
    def indices(self) -> Path:
        """Folder with one index per dictionary."""
        return self.run.folder.explain / "index"

    def index_of(self, member: GridMember) -> ActivationIndex:
        """Return the index of a dictionary, written if it is missing or outdated."""
        folder, sae = self.indices / member.sae_id, load_sae(self.run.folder.saes / member.sae_id).sae
        inputs = index_inputs(self.store, sae, member.layer, pooling=member.pooling)
        if (index := _open_index(folder)) is not None and index.card.get("inputs") == inputs:
            return index
        watch = self.run.progress
        with task(watch, "indexing codes", len(self.store.clip_ids), "clips"):
            return write_activation_index(
                folder, self.store, sae, member.layer, pooling=member.pooling, on_clip=lambda: watch.advance(1)
            )

    @cached_property
    def index(self) -> ActivationIndex:
        """Index of the dictionary shown."""
        return self.index_of(self.member)

    @cached_property
    def groups(self) -> list[str]:
        """Group of each clip."""
        return self.corpus.clips["group"].to_list()

    @cached_property
    def clips(self) -> Clips:
        """Splits, labels and factors of the clips."""
        return clip_arrays(self.corpus, FactorTable.load(self.run.folder.factors), self.run.config)

    @cached_property
    def chosen(self) -> list[LatentChoice]:
        """Latents of the gallery."""
        return _choose(self)

    @property
    def gallery_inputs(self) -> list[object]:
        """Settings that decide the latents of the gallery."""
        report = self.run.config.report
        return [report.factors, report.classes, self.run.config.evaluate.labels]

    @property
    def latents(self) -> list[int]:
        """Explained latents: those of the gallery, then those of the configuration."""
        listed = self.run.config.explain.latents
        return list(dict.fromkeys([*(choice.latent for choice in self.chosen), *listed]))

    @property
    def silent_latents(self) -> list[int]:
        """Latents of the configuration that never fire: their tables are empty or undefined."""
        rows = self.index.statistics["rows"]
        return [latent for latent in self.run.config.explain.latents if rows[latent] == 0]

    @cached_property
    def changed_layer(self) -> ChangedLayer:
        """The layer of the dictionary shown, and the readouts of the last layer."""
        return ChangedLayer(self.run, self.member, self.index, self.store, self.corpus, self.clips)

    @property
    def splice_inputs(self) -> list[object]:
        """Content that scores of splices depend on: activations, clips and words."""
        settings = self.run.config
        root = settings.corpus.annotation_folder(self.run.folder.sound)
        return [self.inputs, self.store.content_id(), settings.explain.splice_clips, annotation_files(root)]

    def cards_of(self, members: Sequence[GridMember]) -> list[tuple[str, str]]:
        """Return the checksums of the cards of dictionaries."""
        return [(member.sae_id, digest(self.run.folder.saes / member.sae_id / CARD)) for member in members]

    def times_of(self, clip_id: str) -> Frames:
        """Return the times of the frames of a clip."""
        return self._times(clip_id)

    @cached_property
    def _times(self) -> Callable[[str], Frames]:
        return cache(self.store.times_of)

    def codes_over_time(self, clip_id: str) -> TimedCodes:
        """Return the codes of a clip with the times of its frames."""
        times = self.times_of(clip_id)
        return TimedCodes(self.index.codes_of(clip_id), times.start_s, times.end_s)

    def sound(self, clip_id: str, rate_hz: int) -> Float32[np.ndarray, " samples"]:
        """Return the samples of a clip."""
        return load_clip(self.corpus.root, self._rows[clip_id], rate_hz=rate_hz)

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return {row["clip_id"]: row for row in self.corpus.clips.iter_rows(named=True)}


def prepare(run: Context) -> ExplainedRun:
    """Open the artifacts that the steps read, and choose the dictionary shown."""
    folder = run.folder
    store = open_activations(folder, run.config)
    results = read_table(folder.results)
    compared = read_reappearing_latents(folder, results)
    grid = training_grid(run.config, store.layers)
    member = choose_member(results, grid, compared)
    if unknown := [latent for latent in run.config.explain.latents if latent >= member.latents]:
        raise ConfigError(
            f"explain.latents: {unknown[0]} does not exist; {member.sae_id} has latents 0 to {member.latents - 1}"
        )
    corpus = load_corpus(folder).select(store.clip_ids)
    inputs = fingerprint(
        digest(folder.results),
        digest(folder.factors),
        corpus.fingerprint,
        store.content_id(member.layer),
        digest(folder.saes / member.sae_id / CARD),
        code_version("otoscope.explain"),
    )
    return ExplainedRun(run, store, results, corpus, compared, grid, member, inputs)


def choose_member(
    results: pl.DataFrame, grid: list[GridMember], compared: ReappearingLatents | None = None
) -> GridMember:
    """Choose the dictionary that the gallery shows, by validation groups.

    The dictionary that the strict protocol compared in full comes first, because the seed stability of its latents is
    known. Otherwise it is the dictionary of the report's charts: same preset, seed, width and layer, at the sparsity
    nearest to 90 %. Frame-level dictionaries are preferred because their activations have a time course.
    """
    if compared is not None and (same := [member for member in grid if member.sae_id == compared.sae_id]):
        return same[0]
    charts = Results(results)
    return min(
        grid,
        key=lambda m: (
            m.pooling != "encode_then_pool",
            m.preset != charts.preset,
            m.seed != charts.seed,
            m.latents != charts.latents,
            abs(m.sparsity - REFERENCE_SPARSITY),
            m.sparsity,
            m.layer != charts.codes_layer.layer,
            m.layer,
        ),
    )


def _choose(stage: ExplainedRun) -> list[LatentChoice]:
    """Return the latents of classes, then those of the best-predicted factors; each latent once."""
    config, compared = stage.run.config, stage.compared
    clips, means = stage.clips, stage.index.clip_means()
    masks: dict[str, Any] = {"train_mask": clips.split != "test", "test_mask": clips.split == "test"}
    masks |= {"groups": stage.groups, "allowed": None if compared is None else compared.stable}
    classes = choose_class_latents(means, clips.labels, top=config.report.classes, **masks)
    r2 = stage.results.filter(
        (pl.col("sae_id") == stage.member.sae_id) & (pl.col("metric") == "factor_r2") & (pl.col("split") == "valid")
    )
    if compared is not None:
        r2 = r2.filter(pl.col("protocol") == strict.NAME)
    score = dict(r2.select("target", "value").iter_rows())
    unreliable = unreliable_functionals(clips.factor_names, clips.factors, stage.corpus.true_factors, stage.groups)
    factors = choose_latents(
        means,
        clips.factors,
        list(clips.factor_names),
        scores=[math.nan if name in unreliable else score.get(name, math.nan) for name in clips.factor_names],
        labels=clips.labels,
        top=config.report.factors,
        **masks,
    )
    chosen = {choice.latent: choice for choice in classes}
    for choice in factors:
        first = chosen.get(choice.latent)
        also = () if first is None else (*first.also, choice.factor, *choice.also)
        chosen[choice.latent] = choice if first is None else replace(first, also=also)
    return list(chosen.values())


def _open_index(folder: Path) -> ActivationIndex | None:
    """Return an index with all of its files; None if it was never finished or files are gone."""
    try:
        index = ActivationIndex.open(folder)
        return index if all(path.is_file() for path in index.files) else None
    except ArtifactError:
        return None


def annotation_files(root: Path | None) -> list[tuple[str, str]]:
    """Return the path below `root` and the checksum of each file with annotations."""
    if root is None:
        return []
    found = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in READERS and path.is_file()]
    return [(path.relative_to(root).as_posix(), digest(path)) for path in found]
