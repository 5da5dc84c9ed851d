"""A long clip's sound at any rate, in order, without ever holding more than a stretch of it.

The same samples as `load_clip` gives: libsndfile decodes block by block, soxr resamples as a stream, and what can only
be known at the end (silence, a file cut short) is told when the last sample is asked for.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from otoscope.corpus.audio import check_file, open_audio, seek_to, segment_samples, to_mono, truncation_message
from otoscope.corpus.validation import SignalCheck
from otoscope.errors import AudioError

BLOCK_S = 10.0
"""Seconds decoded at a time."""


class ClipLength(NamedTuple):
    """Length and rate of a clip that can be used."""

    samples: int
    rate_hz: int


def measure_clip(path: Path, *, start_s: float = 0.0, duration_s: float | None = None) -> ClipLength:
    """Decode a clip block by block and keep none of it; raises what `decode` raises."""
    check_file(path)
    with open_audio(path) as file:
        rate_hz = file.samplerate
        first, wanted = segment_samples(file, start_s, duration_s)
    return ClipLength(sum(len(block) for block in _decoded(path, first, wanted)), rate_hz)


def _as_they_come(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    return blocks


class StreamedClip:
    """The wave of one clip, `[samples]` at `rate_hz`, to be sliced from its start to its end.

    A slice may begin where an earlier one began, or later: what lies before the newest slice's start is forgotten.
    Raises `AudioError` as `load_clip` does, for what the header shows at once and for the rest when it is met.
    `through` may pass blocks on in another way than as they come, such as ahead of time.
    """

    def __init__(
        self,
        root: Path,
        clip: Mapping[str, Any],
        *,
        rate_hz: int,
        wrap_blocks: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]] = _as_they_come,
    ) -> None:
        self._through = wrap_blocks
        self._path, self._name = root / str(clip["path"]), str(clip["path"])
        self._rate_hz = rate_hz
        try:
            check_file(self._path)
            with open_audio(self._path) as file:
                self._from_hz = file.samplerate
                self._first, self._wanted = segment_samples(file, clip["start_s"], clip["duration_s"])
        except AudioError as error:
            raise AudioError(f"{self._name}: {error}") from error
        self._samples = round(self._wanted * rate_hz / self._from_hz)
        self._blocks: Iterator[np.ndarray] | None = None
        self._held = np.empty(0, dtype=np.float32)
        self._start = 0

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, wanted: slice) -> Float32[np.ndarray, " samples"]:
        start, stop, _ = wanted.indices(self._samples)
        if start < self._start:
            raise ValueError(f"samples before {self._start} are forgotten; asked for {start} to {stop}")
        self._forget(start)
        parts, end = [self._held], self._start + len(self._held)
        while end < stop:
            block = self._next()
            parts.append(block)
            end += len(block)
        self._held = np.concatenate(parts)
        self._forget(start)
        found = self._held[: stop - start].copy()
        if stop == self._samples:
            self._exhaust()
        return found

    def _forget(self, start: int) -> None:
        dropped = min(start - self._start, len(self._held))
        self._held = self._held[dropped:]
        self._start += dropped

    def _next(self) -> np.ndarray:
        if self._blocks is None:
            self._blocks = self._through(self._resampled())
        try:
            block = next(self._blocks, None)
        except AudioError as error:
            raise AudioError(f"{self._name}: {error}") from error
        if block is None:
            raise AudioError(f"{self._name}: truncated: fewer samples can be decoded than the header promises")
        return block

    def _exhaust(self) -> None:
        """Decode what is left, so that the checks at the end are made."""
        try:
            for _ in self._blocks or ():
                pass
        except AudioError as error:
            raise AudioError(f"{self._name}: {error}") from error

    def _resampled(self) -> Generator[np.ndarray]:
        """Yield the whole wave, block by block, and as many samples as the whole has."""
        decoded = _decoded(self._path, self._first, self._wanted)
        left = self._samples
        if self._from_hz == self._rate_hz:
            for block in decoded:
                left -= len(block)
                yield block
            if left:  # within the slack of an MP3's estimate
                yield np.zeros(left, dtype=np.float32)
            return
        stream = soxr.ResampleStream(self._from_hz, self._rate_hz, 1, dtype="float32", quality="HQ")
        for block in decoded:
            made = stream.resample_chunk(block)[:left]
            left -= len(made)
            yield made
        made = stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)[:left]
        yield made
        if left := left - len(made):  # soxr rounds the length of a stream down by a sample at times
            yield np.zeros(left, dtype=np.float32)


def _decoded(path: Path, first: int, wanted: int) -> Generator[np.ndarray]:
    """Yield mono blocks at the file's own rate; the checks of the whole are made after the last."""
    peaks = SignalCheck()
    with open_audio(path) as file:
        rate_hz = file.samplerate
        seek_to(file, first)
        left = wanted
        while left > 0:
            channels = _read(file, min(left, round(BLOCK_S * rate_hz)))
            if not len(channels):
                break
            block = to_mono(channels)
            peaks.add(block, channels)
            left -= len(channels)
            yield block
        if cut := truncation_message(file, first=first, wanted=wanted, found=wanted - left):
            raise AudioError(cut)
    peaks.check(rate_hz)


def _read(file: soundfile.SoundFile, samples: int) -> np.ndarray:
    try:
        return file.read(samples, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"cannot be decoded as audio ({str(error).strip()})") from error
