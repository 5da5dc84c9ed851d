"""The layer of a dictionary that steps of the stage `explain` change, and the last layer with its readouts."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy.typing import NDArray

from otoscope.activations.store import ActivationStore
from otoscope.corpus.audio import load_clip
from otoscope.corpus.table import Corpus
from otoscope.encoders.batched import BatchedEncoder
from otoscope.explain.activation_index import ActivationIndex
from otoscope.explain.firing import diverse, draw_clips
from otoscope.explain.frame_descriptors import unreliable_functionals
from otoscope.explain.interventions import ReadoutExperiment
from otoscope.explain.readouts import Readouts, Targets, concept_targets, fit_readouts
from otoscope.explain.splice import require_replaceable
from otoscope.runs.context import Context
from otoscope.runs.inputs import Clips
from otoscope.runs.training import GridMember
from otoscope.sae.model import SparseAutoencoder, load_sae

MIN_READOUT_R = 0.3
"""Correlation over the validation clips from which on a concept counts as read out."""
TRAIN_FRAMES = 20_000
"""Training frames for the mean ablation, principal components and the gain of random atoms."""


class TrainFrames(NamedTuple):
    """Frames of training clips, and the position of the clip of each."""

    rows: Float[np.ndarray, "rows width"]
    clips: Int[np.ndarray, " rows"]


@dataclass(frozen=True)
class ChangedLayer:
    """A dictionary's layer, the last layer with its readouts, and the clips of a run."""

    run: Context
    member: GridMember
    index: ActivationIndex
    store: ActivationStore
    corpus: Corpus
    clips: Clips

    @cached_property
    def encoder(self) -> BatchedEncoder:
        """The loaded encoder; raise `EncoderError` if its states cannot be replaced."""
        return require_replaceable(self.run.encoder.load())

    @property
    def later(self) -> int:
        """The layer that is read out."""
        return max(self.store.layers)

    @cached_property
    def sae(self) -> SparseAutoencoder:
        """The dictionary, on the encoder's device."""
        return self.load(self.member)

    def load(self, member: GridMember) -> SparseAutoencoder:
        """Return a dictionary of the run, on the encoder's device."""
        return load_sae(self.run.folder.saes / member.sae_id).sae.to(self.encoder.runtime.device)

    def split(self, name: str) -> Bool[np.ndarray, " clips"]:
        """Return the mask of the clips of a split."""
        return np.asarray(self.clips.split == name)

    @cached_property
    def targets(self) -> Targets:
        """Concepts: classes of the labels, and factors; measured formants only where they follow known true ones."""
        clips, names = self.clips, np.array(self.clips.factor_names, dtype=np.str_)
        groups = clips.groups.tolist()
        left_out = unreliable_functionals(names.tolist(), clips.factors, self.corpus.true_factors, groups)
        kept = ~np.isin(names, list(left_out))
        return concept_targets(clips.labels, clips.factors[:, kept], names[kept].tolist(), train=self.split("train"))

    @cached_property
    def readouts(self) -> Readouts:
        """Readouts of the concepts from the last layer."""
        pooled = self.store.pooled(self.later, self.store.clip_ids)
        return fit_readouts(pooled, self.targets, train=self.split("train"), valid=self.split("valid"))

    @cached_property
    def pooled(self) -> Float[np.ndarray, "clips width"]:
        """Pooled frames of the changed layer."""
        return self.store.pooled(self.member.layer, self.store.clip_ids)

    @cached_property
    def frames(self) -> TrainFrames:
        """Training frames of the changed layer."""
        return self.frames_of(self.split("train"))

    def frames_of(self, allowed: Bool[np.ndarray, " clips"]) -> TrainFrames:
        """Return up to `TRAIN_FRAMES` frames of some clips of the changed layer, an equal share of each."""
        clips = np.flatnonzero(allowed)
        share = max(TRAIN_FRAMES // max(len(clips), 1), 1)
        rows: list[NDArray[np.float32]] = []
        for _, frames in self.store.iter_clips(self.member.layer, [self.store.clip_ids[i] for i in clips]):
            chosen = np.linspace(0, len(frames) - 1, min(share, len(frames))).astype(int)
            rows.append(frames[chosen])
        return TrainFrames(np.concatenate(rows), np.repeat(clips, [len(part) for part in rows]))

    @cached_property
    def norm(self) -> float:
        """Mean norm of the centred training frames."""
        rows = self.frames.rows
        return float(np.linalg.norm(rows - rows.mean(axis=0), axis=1).mean())

    @cached_property
    def clip_means(self) -> Float[np.ndarray, "clips latents"]:
        """Mean code of each clip."""
        return self.index.clip_means()

    def read_concepts(self, limit: int) -> list[int]:
        """Return the concepts that are read out best, one per label and one factor before a second of any."""
        r = np.nan_to_num(self.readouts.valid_r, nan=-1.0)
        order = [int(i) for i in np.argsort(-r, kind="stable") if r[i] >= MIN_READOUT_R]
        return diverse(order, [concept.kind for concept in self.targets.concepts])[:limit]

    def choose(self, split: str, limit: int, *, allowed: Bool[np.ndarray, " clips"]) -> list[int]:
        """Return up to `limit` clips of a split, drawn at random, one per group before a second of any."""
        return draw_clips(self.split(split) & allowed, self.clips.groups.tolist(), limit)

    def experiment(self, clips: list[int]) -> ReadoutExperiment:
        """Return the experiment on these clips."""
        waves = [self.wave(i) for i in clips]
        advance = self.run.progress.advance
        return ReadoutExperiment(
            self.encoder, self.member.layer, self.later, self.readouts, waves, on_pass=lambda: advance(1)
        )

    def wave(self, clip: int) -> Float32[np.ndarray, " samples"]:
        """Return the sound of a clip, cut to the model's window."""
        wave = load_clip(self.corpus.root, self.corpus.clips.row(clip, named=True), rate_hz=self.encoder.rate_hz)
        return wave if self.encoder.window_s is None else wave[: int(self.encoder.window_s * self.encoder.rate_hz)]

    def silence(self) -> Float[np.ndarray, " width"]:
        """Return the mean frame of the layer for a second of noise at -80 dB, which no front end divides by zero."""
        noise = 1e-4 * np.random.default_rng(0).standard_normal(max(self.encoder.rate_hz, self.encoder.min_samples))
        encoded = self.encoder.encode([noise.astype(np.float32)], [self.member.layer])
        return encoded.layers[self.member.layer][0].numpy().mean(axis=0)
