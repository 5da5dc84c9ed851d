"""Streaming of long clips at any rate, with bounded memory.

The samples equal those of `load_clip`: libsndfile decodes block by block, soxr resamples as a stream. Errors that only
the end reveals (silence, a truncated file) are raised with the last sample.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from jaxtyping import Float32

from otoscope.corpus.audio import Segment, check_digest, find_segment, mono_blocks
from otoscope.corpus.decoding import open_sound
from otoscope.corpus.health import HealthFinding, SignalProfile
from otoscope.errors import AudioError

BLOCK_S = 10.0
"""Seconds decoded at a time."""


class MeasuredClip(NamedTuple):
    """Length, rate and channels of a usable clip, what is suspicious about it, and the identity of its sound."""

    samples: int
    rate_hz: int
    channels: int
    findings: list[HealthFinding]
    content: str


def measure_clip(
    path: Path, *, start_s: float = 0.0, duration_s: float | None = None, channel: int | None = None
) -> MeasuredClip:
    """Decode a clip block by block and measure it; raises the errors of `decode`."""
    with open_sound(path) as sound:
        segment = find_segment(sound, start_s, duration_s)
        profile = SignalProfile(sound.rate_hz)
        blocks = mono_blocks(sound, segment, round(BLOCK_S * sound.rate_hz), channel=channel, profile=profile)
        samples = sum(len(block) for block in blocks)
        is_whole_file = start_s == 0.0 and duration_s is None
        findings = profile.findings(is_whole_file=is_whole_file, is_lossy=sound.is_lossy, note=sound.note)
        return MeasuredClip(samples, sound.rate_hz, sound.channels, findings, profile.content)


def _unchanged(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    return blocks


class StreamedClip:
    """The wave of one clip, `[samples]` at `rate_hz`, sliced from its start to its end.

    Slices must not start before the previous one: earlier samples are discarded. Raises the errors of `load_clip`:
    those of the header immediately, the others on decoding. `wrap_blocks` may wrap the iterator of blocks, for
    example to prefetch.
    """

    def __init__(
        self,
        root: Path,
        clip: Mapping[str, Any],
        *,
        rate_hz: int,
        wrap_blocks: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]] = _unchanged,
    ) -> None:
        self._wrap_blocks = wrap_blocks
        self._path, self._name = root / str(clip["path"]), str(clip["path"])
        self._rate_hz, self._digest, self._channel = rate_hz, clip.get("digest"), clip.get("channel")
        try:
            check_digest(self._path, self._digest)
            with open_sound(self._path) as sound:
                self._from_hz = sound.rate_hz
                first, count = find_segment(sound, clip["start_s"], clip["duration_s"])
            if count is None:
                count = measure_clip(self._path, start_s=clip["start_s"], channel=self._channel).samples
        except AudioError as error:
            raise AudioError(f"{self._name}: {error}") from error
        self._segment = Segment(first, count)
        self._samples = round(count * rate_hz / self._from_hz)
        self._blocks: Iterator[np.ndarray] | None = None
        self._buffer = np.empty(0, dtype=np.float32)
        self._start = 0

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: slice) -> Float32[np.ndarray, " samples"]:
        start, stop, _ = index.indices(self._samples)
        if start < self._start:
            raise ValueError(f"samples before {self._start} are discarded; got a slice from {start} to {stop}")
        self._discard(start)
        parts, end = [self._buffer], self._start + len(self._buffer)
        while end < stop:
            block = self._next()
            parts.append(block)
            end += len(block)
        self._buffer = np.concatenate(parts)
        self._discard(start)
        wave = self._buffer[: stop - start].copy()
        if stop == self._samples:
            self._exhaust()
        return wave

    def _discard(self, start: int) -> None:
        dropped = min(start - self._start, len(self._buffer))
        self._buffer = self._buffer[dropped:]
        self._start += dropped

    def _next(self) -> np.ndarray:
        if self._blocks is None:
            self._blocks = self._wrap_blocks(self._resampled())
        try:
            block = next(self._blocks, None)
        except AudioError as error:
            raise AudioError(f"{self._name}: {error}") from error
        if block is None:
            raise AudioError(f"{self._name}: truncated: fewer samples can be decoded than the header declares")
        return block

    def _exhaust(self) -> None:
        """Decode the rest, so that the final checks run."""
        try:
            for _ in self._blocks or ():
                pass
            check_digest(self._path, self._digest)
        except AudioError as error:
            raise AudioError(f"{self._name}: {error}") from error

    def _resampled(self) -> Generator[np.ndarray]:
        """Yield the wave in blocks, exactly `len(self)` samples in total."""
        decoded = self._decoded()
        remaining = self._samples
        if self._from_hz == self._rate_hz:
            for block in decoded:
                remaining -= len(block)
                yield block
            if remaining:  # within the tolerance of an MP3's estimate
                yield np.zeros(remaining, dtype=np.float32)
            return
        stream = soxr.ResampleStream(self._from_hz, self._rate_hz, 1, dtype="float32", quality="HQ")
        for block in decoded:
            resampled = stream.resample_chunk(block)[:remaining]
            remaining -= len(resampled)
            yield resampled
        resampled = stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)[:remaining]
        yield resampled
        if remaining := remaining - len(resampled):  # soxr may round the length of a stream down by a sample
            yield np.zeros(remaining, dtype=np.float32)

    def _decoded(self) -> Generator[np.ndarray]:
        """Yield mono blocks at the file's own rate; the whole signal is checked after the last."""
        with open_sound(self._path) as sound:
            block = round(BLOCK_S * sound.rate_hz)
            yield from mono_blocks(sound, self._segment, block, channel=self._channel)
