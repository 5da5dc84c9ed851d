"""Bytes after the declared end of the sound: more of it, tags, text, or an undecidable rest."""

import re
from typing import BinaryIO, Literal

import numpy as np

from otoscope.corpus.containers.layout import MAX_CHUNKS, WIDTHS, ByteSpan, read_at, size_of
from otoscope.errors import AudioError
from otoscope.formatting import count

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
    if after_padding(file, stop, size) >= size:
        return stop, ""
    if subtype is not None:
        before, tail = read_at(file, start, min(MAX_TAIL, stop - start)), read_at(file, stop, MAX_TAIL)
        if _looks_like_sound(before, tail, subtype, channels, order):
            if not reads_on:
                raise AudioError(f"contradicts itself: {note.replace('were read', 'are there')}; export it again")
            return size, note
        if text := _note_of_text(file, stop, size):
            return stop, text
    raise AudioError(
        f"contradicts itself: the header declares {stop - start:,} bytes of sound, {size - stop:,} more follow that are"
        " no chunk; export it again"
    )


def note_of_rest(file: BinaryIO, position: int, stop: int) -> str:
    """Return a note on text from the end of the sound to `stop`; empty for tags and zeros.

    Raises `AudioError` for other bytes, which may be lost sound.
    """
    position = after_padding(file, position, stop)
    if position >= stop:
        return ""
    if text := _note_of_text(file, position, stop):
        return text
    raise AudioError(
        f"{count(stop - position, 'byte')} of unknown meaning after the sound (no tag, text or zeros); export it again"
    )


def _note_of_text(file: BinaryIO, position: int, stop: int) -> str:
    """Return a note on bytes that are text; empty for others."""
    data = read_at(file, position, min(stop - position, MAX_TAIL))
    is_text = stop - position < MAX_TAIL and re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff\0]*", data)
    if not is_text or 5 * sum(byte < 0x80 for byte in data) < 4 * len(data):
        return ""
    return f"{count(stop - position, 'byte')} of text after the sound were not read"


def after_padding(file: BinaryIO, position: int, stop: int) -> int:
    """Return the position after tags and zeros."""
    while position < stop:
        after = after_tags(file, position, stop)
        if after == position:
            data = read_at(file, position, min(stop - position, MAX_TAIL))
            after += len(data) - len(data.lstrip(b"\0"))
        if after == position:
            break
        position = after
    return min(position, stop)


def after_tags(file: BinaryIO, position: int, stop: int) -> int:
    """Return the position after tags (ID3v2, ID3v1, APE, Lyrics3) at a position."""
    while position < stop:
        head = read_at(file, position, 16)
        if head[:3] == b"ID3" and len(head) >= 10:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:3] == b"TAG" and stop - position >= 128:
            position += 227 if head[3:4] == b"+" else 128
        elif head[:8] == b"APETAGEX":
            position += 32 + int.from_bytes(head[12:16], "little")
        elif head[:11] == b"LYRICSBEGIN":
            data = read_at(file, position, min(stop - position, MAX_LYRICS))
            end = re.search(rb"LYRICS(?:END|200)", data)
            if end is None:
                return position
            position += end.end()
        else:
            return position
    return stop


MAX_LYRICS = 1 << 20
"""Longest Lyrics3 tag; its size has six digits."""


def after_chunks(file: BinaryIO, position: int, order: Order) -> int:
    """Return the position after all chunks in a row from a position on; a byte of padding may be missing."""
    size = size_of(file)
    for _ in range(MAX_CHUNKS):
        for padding in (position % 2, 0):
            head = read_at(file, position + padding, 8)
            if len(head) == 8 and is_chunk(head, size - position - padding - 8, order):
                position += padding + 8 + int.from_bytes(head[4:], order)
                break
        else:
            break
    return min(position, size)


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
