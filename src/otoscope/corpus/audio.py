"""Audio input and output: any file that can be decoded becomes mono float32, or an `AudioError` with the reason."""

import io
import math
from collections.abc import Generator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from otoscope.artifacts import atomic, digest
from otoscope.corpus.decoding import OpenSound, open_sound
from otoscope.corpus.ffmpeg import LONGEST_S
from otoscope.corpus.health import SignalProfile
from otoscope.corpus.validation import SignalCheck
from otoscope.errors import AudioError
from otoscope.formatting import count
from otoscope.paths import user_path

EXTENSIONS = frozenset(
    [
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".mp2",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".w64",
        ".rf64",
        ".nist",
        ".sph",
        ".voc",
    ]
)
"""Lower-case file extensions that count as audio when a folder is searched."""


SEGMENT_SLACK_S = 0.010
"""A segment may end later than its recording by this, as rounded times do; it is shortened."""

BLOCK = 1 << 20
"""Samples read at a time."""


class Recording(NamedTuple):
    """One mono recording: `wave` float32 [samples] with full scale at 1, and its sample rate."""

    wave: Float32[np.ndarray, " samples"]
    rate_hz: int


def decode(
    path: Path, *, start_s: float = 0.0, duration_s: float | None = None, channel: int | None = None
) -> Recording:
    """Decode a recording, or a segment of it, at its own rate: one channel, counted from 1, or the mean of all.

    Raises `AudioError` with the reason if the file is missing, empty, not audio, truncated, silent or too short
    (`validation.SILENCE_DBFS`, `SHORTEST_S`), contains NaN or infinity, lacks the channel, or if the segment exceeds
    the recording.
    """
    with open_sound(path) as sound:
        segment = find_segment(sound, start_s, duration_s)
        blocks = list(mono_blocks(sound, segment, BLOCK, channel=channel))
        return Recording(blocks[0] if len(blocks) == 1 else np.concatenate(blocks), sound.rate_hz)


class Segment(NamedTuple):
    """Samples of a clip in its file; `samples` is None to the end of a file of unknown length."""

    first: int
    samples: int | None


def find_segment(sound: OpenSound, start_s: float, duration_s: float | None) -> Segment:
    """Return the samples of a segment; raise `AudioError` if it is not within the file."""
    if not (math.isfinite(start_s) and start_s >= 0.0):
        raise AudioError(f"a segment starts at 0 s or later; got start_s={start_s:g}")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0.0):
        raise AudioError(f"a segment lasts more than 0 s; got duration_s={duration_s:g}")
    length, rate_hz = sound.samples, sound.rate_hz
    if length is None:
        longest = LONGEST_S if duration_s is None else start_s + duration_s
        if max(start_s, longest) > LONGEST_S:
            raise _outside(start_s, duration_s, LONGEST_S, rate_hz)
        return Segment(round(start_s * rate_hz), None if duration_s is None else round(duration_s * rate_hz))
    # compared in seconds: a time such as 1e308 has no sample number
    late_s = 0.0 if duration_s is None else start_s + duration_s - length / rate_hz
    if late_s > SEGMENT_SLACK_S or (start_s and start_s * rate_hz >= length):
        raise _outside(start_s, duration_s, length / rate_hz, rate_hz)
    first = min(round(start_s * rate_hz), length)
    samples = length - first if duration_s is None else round(duration_s * rate_hz)
    return Segment(first, min(samples, length - first))


def mono_blocks(
    sound: OpenSound,
    segment: Segment,
    block: int,
    *,
    channel: int | None = None,
    profile: SignalProfile | None = None,
) -> Generator[Float32[np.ndarray, " samples"]]:
    """Yield one channel, or the mean of all, of a segment in blocks; check its length and its signal after the last.

    `profile` measures the blocks too.
    """
    if channel is not None and channel > sound.channels:
        raise AudioError(f"has no channel {channel}: it has {count(sound.channels, 'channel')}")
    signal, decoded = SignalCheck(), 0
    for decoded_channels in sound.blocks(segment.first, segment.samples, max(1, block // sound.channels)):
        channels = decoded_channels if channel is None else decoded_channels[:, channel - 1 : channel]
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are counted, and refused at the end
            wave = to_mono(channels)
            signal.add(wave, channels)
            if profile is not None:
                profile.add(wave, channels)
        decoded += len(wave)
        yield wave
    if segment.samples is not None and sound.samples is None:
        if decoded + SEGMENT_SLACK_S * sound.rate_hz < segment.samples:
            start_s, length_s = segment.first / sound.rate_hz, (segment.first + decoded) / sound.rate_hz
            raise _outside(start_s, segment.samples / sound.rate_hz, length_s, sound.rate_hz)
    elif segment.samples is not None and decoded + sound.slack < segment.samples:
        raise AudioError(
            f"truncated: the header declares {sound.samples} samples, {segment.first + decoded} can be decoded"
        )
    signal.check(sound.rate_hz)


def _outside(start_s: float, duration_s: float | None, length_s: float, rate_hz: int) -> AudioError:
    end = "its end" if duration_s is None else f"{start_s + duration_s:g} s"
    unit = likely_unit(start_s + (duration_s or 0.0), length_s, rate_hz=rate_hz)
    hint = f"; are its times in {unit}?" if unit else ""
    return AudioError(
        f"exceeds the recording: the segment lasts from {start_s:g} s to {end}, the recording {length_s:g} s{hint}"
    )


def likely_unit(end_s: float, length_s: float, *, rate_hz: int) -> str | None:
    """Return the unit in which a time far beyond a recording would lie in it; None if there is none.

    >>> [likely_unit(end_s, 0.5, rate_hz=8000) for end_s in (450.0, 4000.0, 0.6)]
    ['milliseconds', 'samples', None]
    """
    units = {"milliseconds": 1000, "samples": rate_hz} if end_s > 5 * length_s else {}
    return next((unit for unit, per_s in units.items() if end_s <= per_s * length_s), None)


def resample(wave: Float32[np.ndarray, " samples"], *, from_hz: int, to_hz: int) -> Float32[np.ndarray, " resampled"]:
    """Return the wave at another sample rate (soxr, quality HQ: linear phase, 20-bit precision).

    Content above half the lower rate is removed. The length is `samples * to_hz / from_hz`, rounded.
    """
    if min(from_hz, to_hz) <= 0:
        raise AudioError(f"sample rates must be positive; got {from_hz} Hz to {to_hz} Hz")
    if from_hz == to_hz:
        return wave
    return np.asarray(soxr.resample(wave, from_hz, to_hz, quality="HQ"), dtype=np.float32)


def load_clip(root: Path, clip: Mapping[str, object], *, rate_hz: int) -> Float32[np.ndarray, " samples"]:
    """Decode one row of `Corpus.clips` and resample it to `rate_hz`; errors as `decode`, with the clip's path.

    Raises `AudioError` too if the file differs from the clip's `digest`: it was changed after the corpus stage.
    """
    start_s, duration_s, channel = clip["start_s"], clip["duration_s"], clip.get("channel")
    if not isinstance(start_s, float) or not isinstance(duration_s, float | None):
        raise AudioError(
            f"{clip['path']}: start_s and duration_s must be seconds as floats; got {start_s!r}, {duration_s!r}"
        )
    if not isinstance(channel, int | None):
        raise AudioError(f"{clip['path']}: channel must be a number from 1 on; got {channel!r}")
    path, expected = root / str(clip["path"]), clip.get("digest")
    try:
        check_digest(path, expected)
        sound = decode(path, start_s=start_s, duration_s=duration_s, channel=channel)
        check_digest(path, expected)
    except AudioError as error:
        raise AudioError(f"{clip['path']}: {error}") from error
    return resample(sound.wave, from_hz=sound.rate_hz, to_hz=rate_hz)


def check_digest(path: Path, expected: object) -> None:
    """Raise `AudioError` if the SHA-256 of a file is not the expected one; None and an empty one accept any file.

    A file that has not changed since the last call, by its size and times, is not read again.
    """
    if not expected:
        return
    try:
        state = path.stat()
        actual = _digest(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    except OSError:
        return  # decoding names the reason
    if actual != expected:
        raise AudioError("changed after the corpus stage (its SHA-256 differs); run `otoscope corpus` again")


@lru_cache(maxsize=10_000)
def _digest(path: Path, *_state: int) -> str:
    """Return the SHA-256 of a file in a state; the change time cannot be set back, unlike the modification time."""
    return digest(path)


def load_audio(path: str | Path, *, rate_hz: int) -> Float32[np.ndarray, " samples"]:
    """Decode a whole file, mono, at `rate_hz`; errors as `decode`, with the file's path."""
    try:
        sound = decode(user_path(path))
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    return resample(sound.wave, from_hz=sound.rate_hz, to_hz=rate_hz)


def write_audio(path: Path, wave: Float32[np.ndarray, " samples"], rate_hz: int) -> None:
    """Write a mono WAV of 16-bit integers atomically, without dither: the same wave gives the same bytes.

    Values are rounded to `i / 32768`, an error of at most half a step (`2 ** -16`). Raises `AudioError` for NaN,
    infinity or a peak above 1 (nothing is clipped silently) and `StorageFull` if the device is full.
    """
    if path.suffix.lower() != ".wav":
        raise AudioError(f"sound is written as .wav only; got {path.name}")
    peak = float(np.max(np.abs(wave), initial=0.0))
    if not peak <= 1.0:
        raise AudioError(f"{path.name}: values must be finite and within -1 to 1; the peak is {peak:g}")
    steps = np.clip(np.rint(np.asarray(wave, dtype=np.float64) * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, steps, rate_hz, format="WAV", subtype="PCM_16")
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def to_mono(channels: Float32[np.ndarray, "samples channels"]) -> Float32[np.ndarray, " samples"]:
    """Return the mean of the channels."""
    if channels.shape[1] == 1:
        return channels[:, 0]
    return channels.mean(axis=1, dtype=np.float64).astype(np.float32)
