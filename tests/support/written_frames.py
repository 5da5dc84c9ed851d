"""Stores whose frames are given: an encoder that reads its frames from the samples of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from otoscope.activations.extract import extract
from otoscope.activations.store import ActivationStore
from otoscope.corpus.audio import write_audio
from otoscope.encoders.base import Encoded, Frames, Layer, Wave, frame_spans
from tests.support.activations import RATE_HZ, corpus_of


@dataclass(frozen=True)
class WrittenFrames:
    """Each `width` samples are a frame of layer 0."""

    width: int
    name: str = "written"
    revision: str = "0"
    rate_hz: int = RATE_HZ
    window_s: float | None = None

    @property
    def min_samples(self) -> int:
        return self.width

    @property
    def layers(self) -> tuple[Layer, ...]:
        step_s = self.width / RATE_HZ
        return (Layer(0, self.width, 1 / step_s, step_s, step_s / 2, attends=False),)

    def frames(self, samples: int) -> Frames:
        step_s = self.width / RATE_HZ
        return frame_spans(samples // self.width, rate_hz=1 / step_s, offset_s=step_s / 2)

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        counts = [len(wave) // self.width for wave in waves]
        states = torch.zeros(len(waves), max(counts), self.width)
        for row, (wave, count) in enumerate(zip(waves, counts, strict=True)):
            states[row, :count] = torch.as_tensor(np.asarray(wave))[: count * self.width].reshape(count, self.width)
        mask = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
        return Encoded(dict.fromkeys(layers, states), mask, {})


def written_store(folder: Path, clips: Sequence[np.ndarray]) -> ActivationStore:
    """Return a store whose layer 0 holds these frames `[frames, width]`, between -1 and 1, rounded to 16 bits."""
    sound = folder / "sound"
    sound.mkdir(parents=True)
    for i, frames in enumerate(clips):
        write_audio(sound / f"clip{i:03d}.wav", frames.reshape(-1).astype(np.float32), RATE_HZ)
    encoder = WrittenFrames(clips[0].shape[1])
    return extract(corpus_of(sound), encoder, folder / "store", layers=[0], progress=False)
