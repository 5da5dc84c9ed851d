"""What a sound file's header promises: libsndfile quietly shortens a cut file, this does not."""

from pathlib import Path
from typing import BinaryIO

STREAMED = 0x7FFF_0000
"""Encoders that write to a pipe put sizes from here up: they did not know the length."""


def promised_bytes(path: Path) -> int | None:
    """Return how long the header says the file is, up to the end of its sound, in bytes.

    Knows WAV (RIFF, RIFX, RF64), AIFF and AU, whose headers state the size of the sound; None for
    every other format, for a header cut before it says, and for a stream of unstated length.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic in (b"RIFF", b"RIFX", b"RF64"):
            return _chunked(file, wanted=b"data", order="big" if magic == b"RIFX" else "little")
        if magic == b"FORM":
            return _chunked(file, wanted=b"SSND", order="big")
        if magic == b".snd":
            start, size = (int.from_bytes(file.read(4), "big") for _ in range(2))
            return start + size if 0 < size < STREAMED else None
    return None


def _chunked(file: BinaryIO, *, wanted: bytes, order: str) -> int | None:
    """Walk the chunks of an IFF-like file (identifier, size, body, padded to even) to the one wanted."""
    byteorder = "big" if order == "big" else "little"
    long_size: int | None = None
    file.seek(12)
    while len(head := file.read(8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], byteorder)
        body = file.tell()
        if name == b"ds64":  # RF64 keeps 64-bit sizes here: the whole file's, then the sound's
            file.seek(body + 8)
            long_size = int.from_bytes(file.read(8), byteorder)
        if name == wanted:
            if long_size is not None and size == 0xFFFF_FFFF:
                return body + long_size
            return body + size if 0 < size < STREAMED else None
        file.seek(body + size + size % 2)
    return None
