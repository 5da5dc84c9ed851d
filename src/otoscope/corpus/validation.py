"""Validation of audio files: the length that the header declares, and checks of the whole signal.

libsndfile shortens a truncated file silently; the declared length reveals it. A clip is unusable if it is too short,
silent, or contains NaN or infinity.
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
"""Encoders that write to a pipe use sizes from this value up, because the length is unknown."""

OGG_PAGE = 65_307
"""Longest page of an Ogg stream in bytes: 27 of header, 255 lengths, 255 x 255 of content (RFC 3533)."""


def declared_bytes(path: Path) -> int | None:
    """Return the length of the file up to the end of its audio, in bytes, as declared by the header.

    Supports WAV (RIFF, RIFX, RF64), AIFF, AU, CAF, Wave64 and NIST Sphere, whose headers state the size of the audio,
    and Ogg by its last page. None for other formats, for a truncated header, and for a stream of unstated length.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        match magic:
            case b"RIFF" | b"RF64":
                return _iff(file, chunk=b"data", order="little")
            case b"RIFX":
                return _iff(file, chunk=b"data", order="big")
            case b"FORM":
                return _iff(file, chunk=b"SSND", order="big")
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


def _iff(file: BinaryIO, *, chunk: bytes, order: Literal["little", "big"]) -> int | None:
    """Find the audio among chunks of (name, 32-bit size, body padded to even)."""
    long_size: int | None = None
    file.seek(12)
    while len(head := file.read(8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], order)
        body = file.tell()
        if name == b"ds64":  # RF64 stores 64-bit sizes here: the file, then the audio
            file.seek(body + 8)
            long_size = int.from_bytes(file.read(8), order)
        if name == chunk:
            if long_size is not None and size == 0xFFFF_FFFF:
                return body + long_size
            return body + size if 0 < size < UNKNOWN_SIZE else None
        file.seek(body + size + size % 2)
    return None


def _caf(file: BinaryIO) -> int | None:
    """Find the audio among chunks of (name, 64-bit size, body); -1 is a stream of unstated length."""
    file.seek(8)
    while len(head := file.read(12)) == 12:
        size = int.from_bytes(head[4:], "big", signed=True)
        if head[:4] == b"data" or size < 0:
            return file.tell() + size if size > 0 else None
        file.seek(size, os.SEEK_CUR)
    return None


def _wave64(file: BinaryIO) -> int | None:
    """Find the audio among chunks of (16-byte name, 64-bit size including the header, body padded to eight)."""
    file.seek(40)
    while len(head := file.read(24)) == 24:
        start, size = file.tell() - 24, int.from_bytes(head[16:], "little")
        if head[:4] == b"data" or size < 24:
            return start + size if size > 24 else None
        file.seek(start + (size + 7) // 8 * 8)
    return None


def _nist(file: BinaryIO) -> int | None:
    """Return the product of a Sphere header's fields; None for compressed audio, whose size they do not state."""
    file.seek(0)
    text = file.read(1024).decode("ascii", "replace")
    length = re.match(r"NIST_1A\n\s*(\d+)\n", text)
    counts = [re.search(rf"^{name} -i (\d+)", text, re.MULTILINE) for name in ("sample_count", "sample_n_bytes")]
    channels = re.search(r"^channel_count -i (\d+)", text, re.MULTILINE)
    if length is None or None in counts or "embedded" in text:
        return None
    samples, width = (int(field[1]) for field in counts if field)
    return int(length[1]) + samples * width * (int(channels[1]) if channels else 1)


def _ogg(file: BinaryIO) -> int | None:
    """Return the end of the last page that starts within the file."""
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
"""A recording counts as silent if its peak around the mean is below this (about one step of 16 bits)."""

SHORTEST_S = 0.010
"""Shortest accepted clip; every supported encoder needs more for one frame."""


class SignalCheck:
    """Length, peak and invalid samples of a clip, accumulated block by block.

    The peak is measured around the mean, so a constant offset counts as silence.
    """

    def __init__(self) -> None:
        self._samples, self._bad = 0, 0
        self._low = self._high = self._sum = np.zeros(0)

    def add(self, wave: Float32[np.ndarray, " samples"], channels: Float32[np.ndarray, "samples channels"]) -> None:
        """Add a block: its mono mean, and the channels."""
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
        """Raise `AudioError` if the clip is too short, contains NaN or infinity, or is silent."""
        if self._samples < SHORTEST_S * rate_hz:
            raise AudioError(
                f"too short: {self._samples} samples at {rate_hz} Hz; at least {SHORTEST_S * 1000:g} ms are required"
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
