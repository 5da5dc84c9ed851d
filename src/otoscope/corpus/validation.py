"""What a sound file's header promises: libsndfile quietly shortens a cut file, this does not.

What makes a clip as a whole unusable: too short, silent, or with samples that are no numbers.
"""

import math
import os
import re
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import Float32

from otoscope.errors import AudioError

UNKNOWN_SIZE = 0x7FFF_0000
"""Encoders that write to a pipe put sizes from here up: they did not know the length."""

OGG_PAGE = 65_307
"""Longest page of an Ogg stream in bytes: 27 of header, 255 lengths, 255 x 255 of content (RFC 3533)."""


def declared_bytes(path: Path) -> int | None:
    """Return how long the header says the file is, up to the end of its sound, in bytes.

    Knows WAV (RIFF, RIFX, RF64), AIFF, AU, CAF, Wave64 and NIST Sphere, whose headers state the size
    of the sound, and Ogg by its last page; None for every other format, for a header cut before it
    says, and for a stream of unstated length.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        match magic:
            case b"RIFF" | b"RF64":
                return _iff(file, wanted=b"data", order="little")
            case b"RIFX":
                return _iff(file, wanted=b"data", order="big")
            case b"FORM":
                return _iff(file, wanted=b"SSND", order="big")
            case b".snd":
                start, size = (int.from_bytes(file.read(4), "big") for _ in range(2))
                return start + size if 0 < size < UNKNOWN_SIZE else None
            case b"caff":
                return _caf(file)
            case b"riff":
                return _wave64(file)
            case b"NIST":
                return _nist(file)
            case b"OggS":
                return _ogg(file)
            case _:
                return None


def _iff(file: BinaryIO, *, wanted: bytes, order: Literal["little", "big"]) -> int | None:
    """Walk chunks of (name, 32-bit size, body padded to even) to the one that holds the sound."""
    long_size: int | None = None
    file.seek(12)
    while len(head := file.read(8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], order)
        body = file.tell()
        if name == b"ds64":  # RF64 keeps 64-bit sizes here: the whole file's, then the sound's
            file.seek(body + 8)
            long_size = int.from_bytes(file.read(8), order)
        if name == wanted:
            if long_size is not None and size == 0xFFFF_FFFF:
                return body + long_size
            return body + size if 0 < size < UNKNOWN_SIZE else None
        file.seek(body + size + size % 2)
    return None


def _caf(file: BinaryIO) -> int | None:
    """Walk chunks of (name, 64-bit size, body); -1 is a stream of unstated length."""
    file.seek(8)
    while len(head := file.read(12)) == 12:
        size = int.from_bytes(head[4:], "big", signed=True)
        if head[:4] == b"data" or size < 0:
            return file.tell() + size if size > 0 else None
        file.seek(size, os.SEEK_CUR)
    return None


def _wave64(file: BinaryIO) -> int | None:
    """Walk chunks of (16-byte name, 64-bit size that counts its own header, body padded to eight)."""
    file.seek(40)
    while len(head := file.read(24)) == 24:
        start, size = file.tell() - 24, int.from_bytes(head[16:], "little")
        if head[:4] == b"data" or size < 24:
            return start + size if size > 24 else None
        file.seek(start + (size + 7) // 8 * 8)
    return None


def _nist(file: BinaryIO) -> int | None:
    """Multiply the fields of a Sphere header; compressed sound has no size that they tell."""
    file.seek(0)
    text = file.read(1024).decode("ascii", "replace")
    length = re.match(r"NIST_1A\n\s*(\d+)\n", text)
    counts = [re.search(rf"^{name} -i (\d+)", text, re.MULTILINE) for name in ("sample_count", "sample_n_bytes")]
    channels = re.search(r"^channel_count -i (\d+)", text, re.MULTILINE)
    if length is None or None in counts or "embedded" in text:
        return None
    samples, width = (int(found[1]) for found in counts if found)
    return int(length[1]) + samples * width * (int(channels[1]) if channels else 1)


def _ogg(file: BinaryIO) -> int | None:
    """Return where the last page that begins in the file would end."""
    size = file.seek(0, os.SEEK_END)
    tail_start = max(0, size - OGG_PAGE)
    file.seek(tail_start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return None
    lengths = tail[page + 27 : page + 27 + tail[page + 26]] if len(tail) > page + 26 else b""
    return tail_start + page + max(27 + len(lengths) + sum(lengths), 28)


SILENCE_DBFS = -90.0
"""A recording whose peak around its mean stays below this holds no sound (about one step of 16 bits)."""

SHORTEST_S = 0.010
"""A clip shorter than this is refused: no encoder here makes a frame of less."""


class SignalCheck:
    """What is asked of a clip's sound as a whole, gathered block by block: its length, its loudest sample, bad samples.

    A peak is taken around the mean: a constant offset is no sound.
    """

    def __init__(self) -> None:
        self._samples, self._bad = 0, 0
        self._low = self._high = self._sum = np.zeros(0)

    def add(self, wave: Float32[np.ndarray, " samples"], channels: Float32[np.ndarray, "samples channels"]) -> None:
        """Take a block: its mono mean, and the channels that it is the mean of."""
        if not len(wave):
            return
        signals = (wave, *channels.T)
        low, high = (np.array([extreme(x) for x in signals], dtype=np.float64) for extreme in (np.min, np.max))
        total = np.array([x.sum(dtype=np.float64) for x in signals])
        self._bad += int(np.count_nonzero(~np.isfinite(wave)))
        if self._samples:
            low, high, total = np.minimum(low, self._low), np.maximum(high, self._high), total + self._sum
        self._low, self._high, self._sum = low, high, total
        self._samples += len(wave)

    def check(self, rate_hz: int) -> None:
        """Raise `AudioError` when the clip is too short, holds NaN or infinity, or is silent."""
        if self._samples < SHORTEST_S * rate_hz:
            raise AudioError(
                f"too short: {self._samples} samples at {rate_hz} Hz; at least {SHORTEST_S * 1000:g} ms are needed"
            )
        if self._bad:
            raise AudioError(f"holds NaN or infinity in {self._bad} of {self._samples} samples")
        mean = self._sum / self._samples
        peaks = [_dbfs(float(peak)) for peak in np.maximum(self._high - mean, mean - self._low)]
        if peaks[0] < SILENCE_DBFS:
            loudest = max(peaks[1:])
            cancel = "its channels cancel in the mono mean"
            cause = cancel if loudest >= SILENCE_DBFS else f"allowed: {SILENCE_DBFS:g} dBFS"
            raise AudioError(f"silent: the peak is {peaks[0]:.1f} dBFS ({cause})")


def _dbfs(peak: float) -> float:
    return 20.0 * math.log10(peak) if peak > 0.0 else -math.inf
