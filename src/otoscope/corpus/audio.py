"""Audio input and output: any file that libsndfile reads becomes mono float32, or an `AudioError` with the reason."""

import io
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from otoscope.artifacts import atomic
from otoscope.corpus.validation import SignalCheck, declared_bytes
from otoscope.errors import AudioError
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


UNSTATED = 1 << 40
"""libsndfile reports more samples than this if a stream does not state its length."""

MPEG_SLACK = 1152
"""Samples of one MP3 frame: without a Xing header the declared length is accurate to one frame."""

SEGMENT_SLACK_S = 0.010
"""A segment may end later than its recording by this, as rounded times do; it is shortened."""

BLOCK = 1 << 20
"""Samples read at a time."""


class Recording(NamedTuple):
    """One mono recording: `wave` float32 [samples] with full scale at 1, and its sample rate."""

    wave: Float32[np.ndarray, " samples"]
    rate_hz: int


def decode(path: Path, *, start_s: float = 0.0, duration_s: float | None = None) -> Recording:
    """Decode a recording, or a segment of it, at its own rate; channels are averaged to mono.

    Raises `AudioError` with the reason if the file is missing, empty, not audio, truncated, silent or too short
    (`validation.SILENCE_DBFS`, `SHORTEST_S`), contains NaN or infinity, or if the segment exceeds the recording.
    """
    check_file(path)
    with open_audio(path) as file:
        rate_hz = file.samplerate
        first, samples = segment_samples(file, start_s, duration_s)
        seek_to(file, first)
        channels = _read(file, samples)
        if message := truncation_message(file, first=first, expected=samples, decoded=len(channels)):
            raise AudioError(message)
    wave = to_mono(channels)
    signal = SignalCheck()
    signal.add(wave, channels)
    signal.check(rate_hz)
    return Recording(wave, rate_hz)


class _SequentialFile(soundfile.SoundFile):
    """A sound file without seeks between blocks; soundfile seeks after every block by default.

    After a seek, an MP3 decoder lacks the bit reservoir of the preceding frames, and its samples are wrong.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def open_audio(path: Path) -> Generator[soundfile.SoundFile]:
    """Open a sound file; errors of libsndfile become `AudioError`."""
    try:
        with _SequentialFile(path) as file:
            yield file
    # soundfile raises TypeError for a headerless .raw file
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise AudioError(f"cannot be decoded as audio ({str(error).strip()})") from error


def segment_samples(file: soundfile.SoundFile, start_s: float, duration_s: float | None) -> tuple[int, int]:
    """Return the first sample and the number of samples of a segment.

    Raises `AudioError` if the segment is not within the file, or if the file does not state its length.
    """
    if file.frames > UNSTATED:
        raise AudioError("states no length (a stream); write it again with an encoder that states it")
    return _segment(start_s, duration_s, frames=file.frames, rate_hz=file.samplerate)


def seek_to(file: soundfile.SoundFile, sample: int) -> None:
    """Seek to a sample; do nothing for the first, because an MP3 is exact only without seeks."""
    if sample:
        file.seek(sample)


def truncation_message(file: soundfile.SoundFile, *, first: int, expected: int, decoded: int) -> str:
    """Return a message if samples are missing beyond the tolerance of an MP3's estimate; otherwise an empty string."""
    if decoded + MPEG_SLACK * (file.format == "MP3") >= expected:
        return ""
    return f"truncated: the header declares {file.frames} samples, {first + decoded} can be decoded"


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
    """Decode one row of `Corpus.clips` and resample it to `rate_hz`; errors as `decode`, with the clip's path."""
    start_s, duration_s = clip["start_s"], clip["duration_s"]
    if not isinstance(start_s, float) or not isinstance(duration_s, float | None):
        raise AudioError(
            f"{clip['path']}: start_s and duration_s must be seconds as floats; got {start_s!r}, {duration_s!r}"
        )
    try:
        sound = decode(root / str(clip["path"]), start_s=start_s, duration_s=duration_s)
    except AudioError as error:
        raise AudioError(f"{clip['path']}: {error}") from error
    return resample(sound.wave, from_hz=sound.rate_hz, to_hz=rate_hz)


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


def check_file(path: Path) -> None:
    """Raise `AudioError` if a file is missing, unreadable, empty, or shorter than its header declares."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise AudioError("is a folder, not a file")
        if size == 0:
            raise AudioError("empty file (0 bytes)")
        declared = declared_bytes(path)
    except FileNotFoundError as error:
        raise AudioError("no such file") from error
    except OSError as error:
        raise AudioError(f"cannot be read ({error.strerror})") from error
    if declared is not None and declared > size:
        raise AudioError(f"truncated: the header declares {declared} bytes, the file has {size}")


def _segment(start_s: float, duration_s: float | None, *, frames: int, rate_hz: int) -> tuple[int, int]:
    """Return the first sample and the number of samples of a segment; it must be within the file."""
    if not (math.isfinite(start_s) and start_s >= 0.0):
        raise AudioError(f"a segment starts at 0 s or later; got start_s={start_s:g}")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0.0):
        raise AudioError(f"a segment lasts more than 0 s; got duration_s={duration_s:g}")
    # compared in seconds: a time such as 1e308 has no sample number
    late_s = 0.0 if duration_s is None else start_s + duration_s - frames / rate_hz
    if late_s > SEGMENT_SLACK_S or (start_s and start_s * rate_hz >= frames):
        end = "its end" if duration_s is None else f"{start_s + duration_s:g} s"
        raise AudioError(f"the segment {start_s:g} s to {end} exceeds the recording ({frames / rate_hz:g} s)")
    first = min(round(start_s * rate_hz), frames)
    samples = frames - first if duration_s is None else round(duration_s * rate_hz)
    return first, min(samples, frames - first)


def _read(file: soundfile.SoundFile, samples: int) -> Float32[np.ndarray, "samples channels"]:
    """Read at most `samples` samples in blocks, so that a wrong header causes no huge allocation."""
    blocks: list[np.ndarray] = []
    while samples > 0:
        block = file.read(min(samples, BLOCK), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        samples -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros((0, file.channels), dtype=np.float32)


def to_mono(channels: Float32[np.ndarray, "samples channels"]) -> Float32[np.ndarray, " samples"]:
    """Return the mean of the channels."""
    if channels.shape[1] == 1:
        return channels[:, 0]
    return channels.mean(axis=1, dtype=np.float64).astype(np.float32)
