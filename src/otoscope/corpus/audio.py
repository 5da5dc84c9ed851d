"""The sole decoder: any file that libsndfile reads becomes mono float32, or a reason why not."""

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
"""Lower-case file extensions that are taken for audio when a folder is searched."""


UNSTATED = 1 << 40
"""libsndfile gives a larger count of samples than this where a stream does not state its length."""

MPEG_SLACK = 1152
"""Samples of one MP3 frame: without a Xing header the promised length is an estimate to within a frame."""

BLOCK = 1 << 20
"""Samples read at a time."""


class Recording(NamedTuple):
    """One mono recording: `wave` float32 [samples] with full scale at 1, and its sample rate."""

    wave: Float32[np.ndarray, " samples"]
    rate_hz: int


def decode(path: Path, *, start_s: float = 0.0, duration_s: float | None = None) -> Recording:
    """Decode a recording, or a segment of it, at its own rate; channels are averaged to mono.

    Raises `AudioError` with the reason when the file is missing, empty, no audio, cut short, holds
    NaN or infinity, is silent or too short (`peaks.SILENCE_DBFS`, `SHORTEST_S`), or when the segment
    reaches beyond its end.
    """
    check_file(path)
    with open_audio(path) as file:
        rate_hz = file.samplerate
        first, wanted = segment_samples(file, start_s, duration_s)
        seek_to(file, first)
        channels = _read(file, wanted)
        if cut := truncation_message(file, first=first, wanted=wanted, found=len(channels)):
            raise AudioError(cut)
    wave = to_mono(channels)
    peaks = SignalCheck()
    peaks.add(wave, channels)
    peaks.check(rate_hz)
    return Recording(wave, rate_hz)


class _Straight(soundfile.SoundFile):
    """A sound file that is read from one place on; soundfile seeks after every block otherwise.

    After a seek an MP3 decoder lacks the bits that frames before it lent to the next ones, and its samples are wrong.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def open_audio(path: Path) -> Generator[soundfile.SoundFile]:
    """Open a sound file; what libsndfile has against it becomes an `AudioError`."""
    try:
        with _Straight(path) as file:
            yield file
    # soundfile answers a headerless .raw file with TypeError
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise AudioError(f"cannot be decoded as audio ({str(error).strip()})") from error


def segment_samples(file: soundfile.SoundFile, start_s: float, duration_s: float | None) -> tuple[int, int]:
    """Return the first sample and the number of samples of a segment; raise `AudioError` where it does not lie within.

    A file that does not state its length is refused.
    """
    if file.frames > UNSTATED:
        raise AudioError("states no length (a stream); write it again with an encoder that does")
    return _segment(start_s, duration_s, frames=file.frames, rate_hz=file.samplerate)


def seek_to(file: soundfile.SoundFile, sample: int) -> None:
    """Move to a sample, and not at all where reading begins there anyway."""
    if sample:
        file.seek(sample)


def truncation_message(file: soundfile.SoundFile, *, first: int, wanted: int, found: int) -> str:
    """Say that fewer samples were found than wanted, beyond what an MP3's estimate allows; else nothing."""
    if found + MPEG_SLACK * (file.format == "MP3") >= wanted:
        return ""
    return f"truncated: the header promises {file.frames} samples, {first + found} can be decoded"


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
    """Decode one row of `Corpus.clips` and bring it to `rate_hz`; raises what `decode` raises, with the clip's name."""
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
    """Decode a whole file, mono, at `rate_hz`; raises what `decode` raises, with the file's name."""
    try:
        sound = decode(Path(path))
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    return resample(sound.wave, from_hz=sound.rate_hz, to_hz=rate_hz)


def write_audio(path: Path, wave: Float32[np.ndarray, " samples"], rate_hz: int) -> None:
    """Write a mono WAV of 16-bit integers atomically, without dither: the same wave gives the same bytes.

    Values lie on the grid `i / 32768`, so reading gives the wave back to half a step (`2 ** -16`).
    Raises `AudioError` for NaN, infinity or a peak above 1 (nothing is clipped in silence) and
    `StorageFull` when the device has no room.
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
    """Raise `AudioError` when a file is not there, cannot be read, is empty, or shorter than its header promises."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise AudioError("is a folder, not a file")
        if size == 0:
            raise AudioError("empty file (0 bytes)")
        promised = declared_bytes(path)
    except FileNotFoundError as error:
        raise AudioError("no such file") from error
    except OSError as error:
        raise AudioError(f"cannot be read ({error.strerror})") from error
    if promised is not None and promised > size:
        raise AudioError(f"truncated: the header promises {promised} bytes, the file has {size}")


def _segment(start_s: float, duration_s: float | None, *, frames: int, rate_hz: int) -> tuple[int, int]:
    """Return the first sample and the number of samples of a segment; it must lie within the file."""
    if not (math.isfinite(start_s) and start_s >= 0.0):
        raise AudioError(f"a segment starts at 0 s or later; got start_s={start_s:g}")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0.0):
        raise AudioError(f"a segment lasts more than 0 s; got duration_s={duration_s:g}")
    first = round(start_s * rate_hz)
    wanted = frames - first if duration_s is None else round(duration_s * rate_hz)
    # a file no longer than a segment's rounding is left to the check of the shortest clip
    if first + wanted > frames + 1 or (first and first >= frames):
        end = "its end" if duration_s is None else f"{start_s + duration_s:g} s"
        raise AudioError(f"the segment {start_s:g} s to {end} reaches beyond the recording ({frames / rate_hz:g} s)")
    return first, min(wanted, frames - first)


def _read(file: soundfile.SoundFile, wanted: int) -> Float32[np.ndarray, "samples channels"]:
    """Read at most that many samples, block by block: a false header never makes a huge allocation."""
    blocks: list[np.ndarray] = []
    while wanted > 0:
        block = file.read(min(wanted, BLOCK), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        wanted -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros((0, file.channels), dtype=np.float32)


def to_mono(channels: Float32[np.ndarray, "samples channels"]) -> Float32[np.ndarray, " samples"]:
    """Return the mean of the channels."""
    if channels.shape[1] == 1:
        return channels[:, 0]
    return channels.mean(axis=1, dtype=np.float64).astype(np.float32)
