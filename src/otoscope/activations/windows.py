"""Cutting a long clip into windows, and knowing which frames of each to keep.

An encoder that hears at most `window` samples at once (or that would need too much memory for more) gets a long clip
in pieces. Each piece starts at a multiple of the hop, so its frames fall where the whole clip's frames would: exactly,
or within half a sample where the hop is no whole number of samples (CLAP stretches its spectrogram). Where two pieces
overlap, the seam runs through the middle of the overlap: every frame is kept once, from the window in which it lies
further from an edge. The last window is moved back until it is full, so no frame is encoded from a scrap of sound.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.encoders.base import Frames
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


def cut(samples: int, *, window: int, hop: float, steps: Callable[[int], int], overlap: int = 0) -> list[Window]:
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


class Grid(NamedTuple):
    """Where the frames of one piece of sound lie among its time steps: `step` [frames], and how many steps there are.

    Encoders that keep frequency apart have several frames a step.
    """

    step: Int[np.ndarray, " frames"]
    steps: int


def grid(frames: Frames) -> Grid:
    """Count time steps by the frames' ends, which no encoder clips at the start of the sound."""
    ends, step = np.unique(np.round(frames.end_s, 6), return_inverse=True)
    return Grid(step, len(ends))


def hop_samples(frames: Frames, rate_hz: int) -> float:
    """Return the samples between two time steps: a whole number, but for encoders that stretch time.

    >>> from otoscope.encoders.base import frame_spans
    >>> hop_samples(frame_spans(3, rate_hz=50.0, offset_s=0.0), 16000)
    320
    """
    located = grid(frames)
    if located.steps < 2:
        raise EncoderError("a window must hold at least two time steps; allow a longer one")
    hop = float(np.max(frames.end_s) - np.min(frames.end_s)) / (located.steps - 1) * rate_hz
    return round(hop) if abs(hop - round(hop)) < ROUNDING else hop


class Placed(NamedTuple):
    """Which frames of a window are kept `[frames of the window]`, and where the kept ones lie in the clip."""

    keep: Bool[np.ndarray, " frames"]
    frames: Frames


def place(frames: Frames, window: Window, *, rate_hz: int) -> Placed:
    """Choose the frames of a window that are kept and move their times to the clip's.

    A frame that begins before its sound is clipped at 0 by the encoder; inside a clip that sound exists, so the frame
    gets its full length back and touches the last frame of the window before.
    """
    located = grid(frames)
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
