"""Windowed encoding of clips: the only module that runs the encoder.

Clips longer than the encoder's limit (or than memory allows) are encoded in windows. Each window starts at a multiple
of the hop, so its frames coincide with those of the whole clip: exactly, or within half a sample if the hop is not a
whole number of samples (CLAP stretches its spectrogram). The seam between two windows is the middle of their overlap:
every frame is kept once, from the window in which it is further from an edge. The last window is moved back until it
is full, so that no frame is encoded from a fragment of sound.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from otoscope.corpus.streaming import StreamedClip
from otoscope.encoders.base import Encoded, Encoder, Frames
from otoscope.encoders.batched import BatchedEncoder
from otoscope.errors import ConfigError, EncoderError

ROUNDING = 0.02
"""Deviation of a hop from a whole number of samples that rounding of times can cause."""


class Window(NamedTuple):
    """Samples `start` to `stop` of a clip, and its time steps `keep_from` to `keep_to` to keep.

    Steps count from the start of the window; step i of the window is step `first_step + i` of the clip.
    """

    start: int
    stop: int
    first_step: int
    keep_from: int
    keep_to: int


def plan_windows(
    samples: int, *, window: int, hop: float, steps: Callable[[int], int], overlap: int = 0
) -> list[Window]:
    """Divide a clip into windows whose kept steps cover each time step of the clip exactly once.

    Args:
        samples: length of the clip.
        window: maximum length of a window, in samples.
        hop: samples between time steps.
        steps: maps a number of samples to the encoder's number of time steps.
        overlap: minimum number of time steps shared by neighbouring windows.

    >>> [(w.start, w.stop, w.keep_from, w.keep_to) for w in plan_windows(25, window=10, hop=2, steps=lambda n: n // 2)]
    [(0, 10, 0, 5), (10, 20, 0, 4), (16, 25, 1, 4)]
    """
    if samples <= window:
        return [Window(0, samples, 0, 0, steps(samples))]
    full = steps(window)
    if not 0 <= overlap < full:
        raise ConfigError(f"windows of {full} time steps cannot overlap by {overlap}; allowed: 0 to {full - 1}")
    firsts = _first_steps(samples, window=window, hop=hop, stride=full - overlap)
    starts = [round(first * hop) for first in firsts]
    ends = [first + steps(min(window, samples - start)) for first, start in zip(firsts, starts, strict=True)]
    if len(ends) > 1 and ends[-1] <= ends[-2]:
        firsts, ends = firsts[:-1], ends[:-1]
    seams = [0, *((first + end) // 2 for first, end in zip(firsts[1:], ends[:-1], strict=True)), ends[-1]]
    return [
        Window(starts[i], min(starts[i] + window, samples), first, seams[i] - first, seams[i + 1] - first)
        for i, first in enumerate(firsts)
    ]


def _first_steps(samples: int, *, window: int, hop: float, stride: int) -> list[int]:
    last = math.ceil((samples - window) / hop)
    return [*range(0, last, stride), last]


class TimeSteps(NamedTuple):
    """Time step of each frame: `step` [frames], and the number of steps.

    Encoders with separate frequency bands have several frames per step.
    """

    step: Int[np.ndarray, " frames"]
    n_steps: int


def time_steps(frames: Frames) -> TimeSteps:
    """Number the time steps by the ends of frames, which no encoder clips at the start of the sound."""
    ends, step = np.unique(np.round(frames.end_s, 6), return_inverse=True)
    return TimeSteps(step, len(ends))


def hop_samples(frames: Frames, rate_hz: int) -> float:
    """Return the samples between time steps: a whole number, except for encoders that stretch time.

    >>> from otoscope.encoders.base import frame_spans
    >>> hop_samples(frame_spans(3, rate_hz=50.0, offset_s=0.0), 16000)
    320
    """
    steps = time_steps(frames)
    if steps.n_steps < 2:
        raise EncoderError("a window must hold at least two time steps; allow a longer one")
    hop = float(np.max(frames.end_s) - np.min(frames.end_s)) / (steps.n_steps - 1) * rate_hz
    return round(hop) if abs(hop - round(hop)) < ROUNDING else hop


class PlacedFrames(NamedTuple):
    """Mask of the kept frames of a window, and the times of the kept frames in the clip."""

    keep: Bool[np.ndarray, " frames"]
    frames: Frames


def place_frames(frames: Frames, window: Window, *, rate_hz: int) -> PlacedFrames:
    """Select the frames of a window to keep and shift their times to those of the clip.

    Encoders clip the start of a frame to 0. Within a clip the sound before a window exists, so such a frame gets its
    full length back and continues the previous window.
    """
    steps = time_steps(frames)
    keep = (steps.step >= window.keep_from) & (steps.step < window.keep_to)
    shift_s = window.start / rate_hz
    start_s = frames.start_s
    if window.start > 0:
        length_s = float(np.max(frames.end_s - frames.start_s, initial=0.0))
        start_s = np.where(start_s <= 0.0, frames.end_s - length_s, start_s)
    low_hz, high_hz = (None if hz is None else hz[keep] for hz in (frames.low_hz, frames.high_hz))
    return PlacedFrames(
        keep, Frames(_shifted(start_s[keep], shift_s), _shifted(frames.end_s[keep], shift_s), low_hz, high_hz)
    )


def _shifted(times_s: Float[np.ndarray, " frames"], shift_s: float) -> Float[np.ndarray, " frames"]:
    return times_s + shift_s if shift_s else times_s


class EncodedWindow(NamedTuple):
    """Kept frames of one window of a clip: `layers[i]` is [frames, width], `tokens[i]` [tokens, width].

    `clip` is the position in the batch; `last` marks the clip's last window.
    """

    clip: int
    frames: Frames
    layers: Mapping[int, Float[Tensor, "frames width"]]
    tokens: Mapping[int, Float[Tensor, "tokens width"]]
    last: bool


@dataclass(frozen=True)
class Windower:
    """An encoder with the window and overlap for long clips."""

    encoder: Encoder
    window_s: float
    overlap_s: float

    @property
    def window(self) -> int:
        """Maximum length of a window in samples: `window_s` or the encoder's limit, whichever is less."""
        longest_s = self.encoder.window_s
        return round((self.window_s if longest_s is None else min(self.window_s, longest_s)) * self.encoder.rate_hz)

    @property
    def padded_s(self) -> float:
        """Minimum seconds that the encoder processes per clip."""
        fixed = self.encoder.window_s is not None and getattr(self.encoder, "context", None) != "short"
        return (self.encoder.window_s or 0.0) if fixed else 0.0

    @property
    def passes(self) -> int:
        """Passes that the encoder runs at the same time."""
        return self.encoder.runtime.passes if isinstance(self.encoder, BatchedEncoder) else 1

    def windows(self, samples: int) -> list[Window]:
        """Return the windows of a clip with this number of samples."""
        if samples <= self.window:
            return plan_windows(samples, window=self.window, hop=1, steps=self._steps)
        hop = hop_samples(self.encoder.frames(self.window), self.encoder.rate_hz)
        overlap = round(self.overlap_s * self.encoder.rate_hz / hop)
        return plan_windows(samples, window=self.window, hop=hop, steps=self._steps, overlap=overlap)

    def _steps(self, samples: int) -> int:
        return time_steps(self.encoder.frames(samples)).n_steps if samples >= self.encoder.min_samples else 0


def encode_windows(
    windower: Windower,
    waves: Sequence[Float32[np.ndarray, " _samples"] | StreamedClip],
    layers: Sequence[int],
    *,
    batch_s: float,
) -> Iterator[EncodedWindow]:
    """Encode clips of at least `min_samples`, in order; a call takes at most `batch_s` padded seconds of windows."""
    encoder = windower.encoder
    windows = [(clip, window) for clip, wave in enumerate(waves) for window in windower.windows(len(wave))]
    last_window = {clip: position for position, (clip, _) in enumerate(windows)}
    for first, stop in _calls([window for _, window in windows], windower, batch_s=batch_s):
        batch = windows[first:stop]
        encoded = encoder.encode(
            [torch.from_numpy(waves[clip][window.start : window.stop]) for clip, window in batch], layers
        )
        for row, (clip, window) in enumerate(batch):
            yield _encoded_window(encoded, row, clip, window, encoder=encoder, last=last_window[clip] == first + row)


def _calls(windows: Sequence[Window], windower: Windower, *, batch_s: float) -> Iterator[tuple[int, int]]:
    """Yield ranges of at least one window whose padded length stays within `batch_s`."""
    first, longest_s = 0, 0.0
    for position, window in enumerate(windows):
        this_s = max((window.stop - window.start) / windower.encoder.rate_hz, windower.padded_s)
        if position > first and (position + 1 - first) * max(longest_s, this_s) > batch_s:
            yield first, position
            first, longest_s = position, 0.0
        longest_s = max(longest_s, this_s)
    if windows:
        yield first, len(windows)


def _encoded_window(
    encoded: Encoded, row: int, clip: int, window: Window, *, encoder: Encoder, last: bool
) -> EncodedWindow:
    frames = encoder.frames(window.stop - window.start)
    valid = encoded.mask[row]
    if int(valid.sum()) != len(frames.end_s):
        raise EncoderError(
            f"{encoder.name} places {len(frames.end_s)} frames in {window.stop - window.start} samples "
            f"but encodes {int(valid.sum())}; its adapter is inconsistent"
        )
    placed = place_frames(frames, window, rate_hz=encoder.rate_hz)
    kept = valid.clone()
    kept[valid] = torch.from_numpy(placed.keep).to(valid.device)
    count = int(kept.sum())
    chosen = slice(count) if bool(kept[:count].all()) else kept  # a slice avoids a copy
    states: dict[int, Any] = {layer: state[row, chosen].float() for layer, state in encoded.layers.items()}
    tokens: dict[int, Any] = {layer: token[row].float() for layer, token in encoded.tokens.items()}
    return EncodedWindow(clip, placed.frames, states, tokens, last)
