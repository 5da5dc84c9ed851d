"""Cutting a long clip into windows, and knowing which frames of each to keep.

An encoder that hears at most `window` samples at once (or that would need too much memory for more) gets a long clip
in pieces. Each piece starts at a multiple of the hop, so its frames fall where the whole clip's frames would: exactly,
or within half a sample where the hop is no whole number of samples (CLAP stretches its spectrogram). Where two pieces
overlap, the seam runs through the middle of the overlap: every frame is kept once, from the window in which it lies
further from an edge. The last window is moved back until it is full, so no frame is encoded from a scrap of sound.

Decoded clips in, stored-ready pieces out: the only place where the encoder runs.
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
from otoscope.errors import ConfigError, EncoderError

ROUNDING = 0.02
"""Samples that a hop may be off a whole number by the rounding of times alone."""


class Window(NamedTuple):
    """Samples `start` to `stop` of a clip, of which the time steps `keep_from` to `keep_to` are kept.

    Steps are counted from the window's own first; its step i is the clip's step `first_step + i`.
    """

    start: int
    stop: int
    first_step: int
    keep_from: int
    keep_to: int


def plan_windows(
    samples: int, *, window: int, hop: float, steps: Callable[[int], int], overlap: int = 0
) -> list[Window]:
    """Cut a clip so that the kept steps of its windows tile the clip's own, none twice and none missing.

    Args:
        samples: length of the clip.
        window: longest piece, in samples.
        hop: samples between two time steps.
        steps: number of time steps that the encoder gives for a number of samples.
        overlap: least number of time steps that neighbouring windows share.

    >>> [(w.start, w.stop, w.keep_from, w.keep_to) for w in cut(25, window=10, hop=2, steps=lambda n: n // 2)]
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
    """Where the frames of one piece of sound lie among its time steps: `step` [frames], and how many steps there are.

    Encoders that keep frequency apart have several frames a step.
    """

    step: Int[np.ndarray, " frames"]
    steps: int


def time_steps(frames: Frames) -> TimeSteps:
    """Count time steps by the frames' ends, which no encoder clips at the start of the sound."""
    ends, step = np.unique(np.round(frames.end_s, 6), return_inverse=True)
    return TimeSteps(step, len(ends))


def hop_samples(frames: Frames, rate_hz: int) -> float:
    """Return the samples between two time steps: a whole number, but for encoders that stretch time.

    >>> from otoscope.encoders.base import frame_spans
    >>> hop_samples(frame_spans(3, rate_hz=50.0, offset_s=0.0), 16000)
    320
    """
    located = time_steps(frames)
    if located.steps < 2:
        raise EncoderError("a window must hold at least two time steps; allow a longer one")
    hop = float(np.max(frames.end_s) - np.min(frames.end_s)) / (located.steps - 1) * rate_hz
    return round(hop) if abs(hop - round(hop)) < ROUNDING else hop


class Placed(NamedTuple):
    """Which frames of a window are kept `[frames of the window]`, and where the kept ones lie in the clip."""

    keep: Bool[np.ndarray, " frames"]
    frames: Frames


def place_frames(frames: Frames, window: Window, *, rate_hz: int) -> Placed:
    """Choose the frames of a window that are kept and move their times to the clip's.

    A frame that begins before its sound is clipped at 0 by the encoder; inside a clip that sound exists, so the frame
    gets its full length back and touches the last frame of the window before.
    """
    located = time_steps(frames)
    keep = (located.step >= window.keep_from) & (located.step < window.keep_to)
    shift_s = window.start / rate_hz
    start_s = frames.start_s
    if window.start > 0:
        length_s = float(np.max(frames.end_s - frames.start_s, initial=0.0))
        start_s = np.where(start_s <= 0.0, frames.end_s - length_s, start_s)
    low_hz, high_hz = (None if hz is None else hz[keep] for hz in (frames.low_hz, frames.high_hz))
    return Placed(keep, Frames(_moved(start_s[keep], shift_s), _moved(frames.end_s[keep], shift_s), low_hz, high_hz))


def _moved(times_s: Float[np.ndarray, " frames"], shift_s: float) -> Float[np.ndarray, " frames"]:
    return times_s + shift_s if shift_s else times_s


class EncodedWindow(NamedTuple):
    """The kept frames of one window of a clip: `layers[i]` is [frames, width], `tokens[i]` [tokens, width].

    `clip` is the position among the clips given; `last` says whether the clip ends with this piece.
    """

    clip: int
    frames: Frames
    layers: Mapping[int, Float[Tensor, "frames width"]]
    tokens: Mapping[int, Float[Tensor, "tokens width"]]
    last: bool


@dataclass(frozen=True)
class Windower:
    """How an encoder's long clips are cut: the window in samples, and the overlap in seconds."""

    encoder: Encoder
    window_s: float
    overlap_s: float

    @property
    def window(self) -> int:
        """Longest piece in samples: what is allowed or what the encoder takes, whichever is less."""
        longest_s = self.encoder.window_s
        return round((self.window_s if longest_s is None else min(self.window_s, longest_s)) * self.encoder.rate_hz)

    @property
    def padded_s(self) -> float:
        """Seconds that the encoder spends on a clip however short it is."""
        fixed = self.encoder.window_s is not None and getattr(self.encoder, "context", None) != "short"
        return (self.encoder.window_s or 0.0) if fixed else 0.0

    def windows(self, samples: int) -> list[Window]:
        """Cut a clip of that many samples."""
        if samples <= self.window:
            return plan_windows(samples, window=self.window, hop=1, steps=self._steps)
        hop = hop_samples(self.encoder.frames(self.window), self.encoder.rate_hz)
        overlap = round(self.overlap_s * self.encoder.rate_hz / hop)
        return plan_windows(samples, window=self.window, hop=hop, steps=self._steps, overlap=overlap)

    def _steps(self, samples: int) -> int:
        return time_steps(self.encoder.frames(samples)).steps if samples >= self.encoder.min_samples else 0


def encode_windows(
    cutter: Windower,
    waves: Sequence[Float32[np.ndarray, " samples"] | StreamedClip],
    layers: Sequence[int],
    *,
    batch_s: float,
) -> Iterator[EncodedWindow]:
    """Encode clips of at least `min_samples`, in order, as many windows a call as fit into `batch_s` padded seconds."""
    encoder = cutter.encoder
    windows = [(clip, window) for clip, wave in enumerate(waves) for window in cutter.windows(len(wave))]
    ends = {clip: place for place, (clip, _) in enumerate(windows)}
    for first, stop in _calls([window for _, window in windows], cutter, batch_s=batch_s):
        part = windows[first:stop]
        encoded = encoder.encode(
            [torch.from_numpy(waves[clip][window.start : window.stop]) for clip, window in part], layers
        )
        for row, (clip, window) in enumerate(part):
            yield _piece(encoded, row, clip, window, encoder=encoder, last=ends[clip] == first + row)


def _calls(windows: Sequence[Window], cutter: Windower, *, batch_s: float) -> Iterator[tuple[int, int]]:
    """Yield ranges of windows whose padded length stays within `batch_s`, at least one window each."""
    first, longest_s = 0, 0.0
    for place_, window in enumerate(windows):
        this_s = max((window.stop - window.start) / cutter.encoder.rate_hz, cutter.padded_s)
        if place_ > first and (place_ + 1 - first) * max(longest_s, this_s) > batch_s:
            yield first, place_
            first, longest_s = place_, 0.0
        longest_s = max(longest_s, this_s)
    if windows:
        yield first, len(windows)


def _piece(encoded: Encoded, row: int, clip: int, window: Window, *, encoder: Encoder, last: bool) -> EncodedWindow:
    frames = encoder.frames(window.stop - window.start)
    valid = encoded.mask[row]
    if int(valid.sum()) != len(frames.end_s):
        raise EncoderError(
            f"{encoder.name} places {len(frames.end_s)} frames in {window.stop - window.start} samples "
            f"but encodes {int(valid.sum())}; its adapter is wrong"
        )
    placed = place_frames(frames, window, rate_hz=encoder.rate_hz)
    kept = valid.clone()
    kept[valid] = torch.from_numpy(placed.keep).to(valid.device)
    count = int(kept.sum())
    chosen = slice(count) if bool(kept[:count].all()) else kept  # a slice copies nothing
    states: dict[int, Any] = {layer: state[row, chosen].float() for layer, state in encoded.layers.items()}
    tokens: dict[int, Any] = {layer: token[row].float() for layer, token in encoded.tokens.items()}
    return EncodedWindow(clip, placed.frames, states, tokens, last)
