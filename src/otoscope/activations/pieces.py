"""Decoded clips in, stored-ready pieces out: the only place where the encoder runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from otoscope.activations.windows import Window, cut, grid, hop_samples, place
from otoscope.corpus.streaming import StreamedClip
from otoscope.encoders.base import Encoded, Encoder, Frames
from otoscope.errors import EncoderError


class Piece(NamedTuple):
    """The kept frames of one window of a clip: `layers[i]` is [frames, width], `tokens[i]` [tokens, width].

    `clip` is the position among the clips given; `last` says whether the clip ends with this piece.
    """

    clip: int
    frames: Frames
    layers: Mapping[int, Float[Tensor, "frames width"]]
    tokens: Mapping[int, Float[Tensor, "tokens width"]]
    last: bool


@dataclass(frozen=True)
class Cutter:
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
            return cut(samples, window=self.window, hop=1, steps=self._steps)
        hop = hop_samples(self.encoder.frames(self.window), self.encoder.rate_hz)
        overlap = round(self.overlap_s * self.encoder.rate_hz / hop)
        return cut(samples, window=self.window, hop=hop, steps=self._steps, overlap=overlap)

    def _steps(self, samples: int) -> int:
        return grid(self.encoder.frames(samples)).steps if samples >= self.encoder.min_samples else 0


def encode_pieces(
    cutter: Cutter,
    waves: Sequence[Float32[np.ndarray, " samples"] | StreamedClip],
    layers: Sequence[int],
    *,
    batch_s: float,
) -> Iterator[Piece]:
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


def _calls(windows: Sequence[Window], cutter: Cutter, *, batch_s: float) -> Iterator[tuple[int, int]]:
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


def _piece(encoded: Encoded, row: int, clip: int, window: Window, *, encoder: Encoder, last: bool) -> Piece:
    frames = encoder.frames(window.stop - window.start)
    valid = encoded.mask[row]
    if int(valid.sum()) != len(frames.end_s):
        raise EncoderError(
            f"{encoder.name} places {len(frames.end_s)} frames in {window.stop - window.start} samples "
            f"but encodes {int(valid.sum())}; its adapter is wrong"
        )
    placed = place(frames, window, rate_hz=encoder.rate_hz)
    kept = valid.clone()
    kept[valid] = torch.from_numpy(placed.keep).to(valid.device)
    count = int(kept.sum())
    chosen = slice(count) if bool(kept[:count].all()) else kept  # a slice copies nothing
    states: dict[int, Any] = {layer: state[row, chosen].float() for layer, state in encoded.layers.items()}
    tokens: dict[int, Any] = {layer: token[row].float() for layer, token in encoded.tokens.items()}
    return Piece(clip, placed.frames, states, tokens, last)
