"""Bytes after the declared end of the sound: more of it, tags, text, or an undecidable rest."""

import re
from typing import BinaryIO, Literal

import numpy as np

from otoscope.corpus.containers.layout import MAX_CHUNKS, WIDTHS, ByteSpan, read_at, size_of
from otoscope.errors import AudioError

Order = Literal["little", "big"]

MAX_TAIL = 65_536
"""Bytes that are compared to tell sound from other data."""

SANE = 2.0**32
"""No sample is larger, whatever its encoding; bytes that are no floats often are, or are NaN."""

ROUGHNESS = 1.0
"""Largest ratio of the level of differences to the level of samples that counts as sound; white noise has 1.41."""

KINDS = {"FLOAT": "f", "DOUBLE": "f", "PCM_S8": "i", "PCM_16": "i", "PCM_32": "i"}
"""NumPy's kinds of samples; unsigned for all others."""


def end_of_sound(
    file: BinaryIO, declared: ByteSpan, subtype: str | None, *, channels: int, order: Order, reads_on: bool = False
) -> tuple[int, str]:
    """Return the end of the sound of a file that goes on after its declared end, and a note.

    A size of 0 was never filled in; a size short by a multiple of 4 GiB overflowed. Otherwise the bytes beyond
    must look like the sound before, and are read with `reads_on`; zeros, tags and text are no sound. Raises
    `AudioError` for sound that is not read on, and if it cannot be decided.
    """
    (start, stop), size = declared, size_of(file)
    overflow = 1 << 32
    note = f"its header declares {stop - start:,} bytes of sound, {size - start:,} were read"
    if stop == start or (size - stop >= overflow and (size - stop) % overflow < MAX_TAIL):
        return size, note
    tail = read_at(file, stop, MAX_TAIL)
    zeros = not tail.strip(b"\0") and not read_at(file, max(stop, size - MAX_TAIL), MAX_TAIL).strip(b"\0")
    if zeros or tail[:3] in (b"TAG", b"ID3", b"APE"):
        return stop, ""
    if subtype is not None:
        if _looks_like_sound(read_at(file, start, min(MAX_TAIL, stop - start)), tail, subtype, channels, order):
            if not reads_on:
                raise AudioError(f"contradicts itself: {note.replace('were read', 'are there')}; export it again")
            return size, note
        if size - stop < MAX_TAIL and re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff\0]*", tail):
            return stop, f"{size - stop:,} bytes of text after the sound were not read"
    raise AudioError(
        f"contradicts itself: the header declares {stop - start:,} bytes of sound, {size - stop:,} more follow that are"
        " no chunk; export it again"
    )


def is_chunk(head: bytes, rest: int, order: Order) -> bool:
    """Return whether bytes are the head of a chunk that fits the rest of a file: a printable name, then its size."""
    name = re.fullmatch(rb"[ -~]{4}", head[:4])
    return name is not None and int.from_bytes(head[4:], order) <= rest


def later_chunk(file: BinaryIO, position: int, names: tuple[bytes, ...], order: Order) -> int | None:
    """Return the position of the next chunk with one of these names, from a chunk's position on; None without one."""
    size = size_of(file)
    for _ in range(MAX_CHUNKS):
        head = read_at(file, position, 8)
        if head[:4] in names:  # its size may never have been filled in
            return position
        if len(head) < 8 or not is_chunk(head, size - position, order):
            return None
        length = int.from_bytes(head[4:], order)
        position += 8 + length + length % 2
    return None


def _looks_like_sound(before: bytes, tail: bytes, subtype: str, channels: int, order: Order) -> bool:
    """Return whether bytes continue a signal: finite, at most 40 dB louder or softer, and as smooth as before."""
    (rms, rough), (tail_rms, tail_rough) = (_level(data, subtype, channels, order) for data in (before, tail))
    return 0.01 * rms <= tail_rms <= 100 * rms and tail_rough <= max(ROUGHNESS, 1.1 * rough)


def _level(data: bytes, subtype: str, channels: int, order: Order) -> tuple[float, float]:
    """Return the level of samples, and the roughness of the first channel."""
    width = WIDTHS[subtype]
    mark = "<" if order == "little" else ">"
    data = data[: len(data) // (width * channels) * width * channels]
    if subtype == "PCM_24":
        skipped = 1 if order == "little" else 0
        samples = np.frombuffer(data, np.uint8).reshape(-1, 3)[:, skipped : skipped + 2].copy().view(f"{mark}i2")
    else:
        samples = np.frombuffer(data, f"{mark}{KINDS.get(subtype, 'u')}{width}")
    with np.errstate(invalid="ignore"):
        wave = samples.reshape(-1, channels)[:, 0].astype(np.float64)
    if len(wave) < 2 or not np.abs(wave).max() < SANE:
        return np.nan, np.nan
    wave -= wave.mean()
    rms = float(np.sqrt(np.mean(wave**2)))
    return rms, float(np.sqrt(np.mean(np.diff(wave) ** 2))) / rms if rms else np.nan
