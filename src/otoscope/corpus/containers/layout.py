"""Layout of a sound file: which bytes hold sound, in which encoding, and how many samples they must decode to."""

import os
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple


class ByteSpan(NamedTuple):
    """Bytes `start` to `stop` of a file."""

    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """A stretch of a file that one decoder reads: literal bytes and spans of the file, one after the other.

    `samples` per channel must be decoded, within `slack`; None if the container does not state them. A segment is exact
    only if `preroll` samples before it are decoded too. `subtype` is
    libsndfile's name of the encoding; with `endian`, the pieces are samples without a header.
    """

    pieces: tuple[bytes | ByteSpan, ...]
    rate_hz: int
    channels: int
    samples: int | None
    slack: int = 0
    preroll: int = 0
    subtype: str | None = None
    endian: str | None = None


@dataclass(frozen=True)
class Layout:
    """Sound of a file in one or several parts, in order.

    `form` names the format in messages. `direct`: libsndfile may open the file itself if it agrees with the only part.
    `demuxer` is ffmpeg's name of the format. A layout without parts is decoded by ffmpeg alone. `note` says what is
    unusual about the file.
    """

    form: str
    parts: tuple[Part, ...] = ()
    direct: bool = True
    demuxer: str = ""
    note: str = ""


WIDTHS = {
    "PCM_U8": 1,
    "PCM_S8": 1,
    "ULAW": 1,
    "ALAW": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}
"""Bytes per sample of uncompressed encodings, by libsndfile's names."""


MAX_CHUNKS = 10_000
"""Chunks of a container that are walked before its sound; more are damage."""


def pcm(span: ByteSpan, subtype: str, *, endian: str, rate_hz: int, channels: int) -> Part:
    """Return uncompressed samples in a span; an incomplete last sample is dropped."""
    frame = WIDTHS[subtype] * channels
    samples = (span.stop - span.start) // frame
    span = ByteSpan(span.start, span.start + samples * frame)
    return Part((span,), rate_hz, channels, samples, subtype=subtype, endian=endian)


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Return `count` bytes at a position; fewer at the end of the file."""
    if not 0 <= position < size_of(file):  # a damaged header may point beyond any file
        return b""
    file.seek(position)
    return file.read(count)
