"""AIFF and AIFF-C: chunks of a big-endian IFF file."""

import math
from typing import BinaryIO

from otoscope.corpus.containers.beyond import Order, after_chunks, end_of_sound, is_chunk, later_chunk, note_of_rest
from otoscope.corpus.containers.layout import MAX_CHUNKS, ByteSpan, Layout, Part, pcm, read_at, size_of
from otoscope.errors import AudioError

STREAM = 0x7F00_0000
"""Sizes from this value up that exceed the file: written to a pipe, before the length was known."""

ENCODINGS: dict[bytes, tuple[str, str]] = {
    b"sowt": ("PCM_16", "LITTLE"),
    b"in24": ("PCM_24", "BIG"),
    b"in32": ("PCM_32", "BIG"),
    b"fl32": ("FLOAT", "BIG"),
    b"FL32": ("FLOAT", "BIG"),
    b"fl64": ("DOUBLE", "BIG"),
    b"FL64": ("DOUBLE", "BIG"),
    b"ulaw": ("ULAW", "BIG"),
    b"ULAW": ("ULAW", "BIG"),
    b"alaw": ("ALAW", "BIG"),
    b"ALAW": ("ALAW", "BIG"),
    b"raw ": ("PCM_U8", "BIG"),
}
"""libsndfile's names of the uncompressed encodings of AIFF-C, and their byte order."""

INTEGERS = {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}


def aiff_layout(file: BinaryIO) -> Layout:
    """Return the layout of an AIFF file; raise `AudioError` if it is truncated or contradicts itself."""
    size, chunks = size_of(file), _chunks(file)
    comm = read_at(file, chunks[b"COMM"][0], min(chunks[b"COMM"][1], 22)).ljust(22, b"\0")
    channels, frames, bits = (int.from_bytes(comm[at:stop], "big") for at, stop in ((0, 2), (2, 6), (6, 8)))
    rate_hz = round(extended(comm[8:18]))
    if not channels or rate_hz <= 0:
        raise AudioError(f"cannot be decoded as audio (its header declares {channels} channels at {rate_hz} Hz)")
    kind = comm[18:22] if read_at(file, 8, 4) == b"AIFC" else b"NONE"
    body, declared = chunks[b"SSND"]
    start = body + 8 + int.from_bytes(read_at(file, body, 4), "big")
    stop = body + declared
    is_stream = declared == 0 or (declared >= STREAM and stop > size)
    if is_stream:
        stop = size
    elif stop > size:
        raise AudioError(f"truncated: the header declares {stop} bytes, the file has {size}")
    subtype, endian = _encoding(kind, bits)
    note = ""
    if later_chunk(file, stop + declared % 2, (b"FORM", b"SSND"), "big") is not None:
        raise AudioError("joined from several AIFF files, and readers stop after the first; split it")
    if size - stop > 1 and is_chunk(read_at(file, stop + declared % 2, 8), size - stop, "big"):
        note = note_of_rest(file, after_chunks(file, stop, "big"), size)
    elif size - stop > 1:
        order: Order = "little" if endian == "LITTLE" else "big"
        stop, note = end_of_sound(file, ByteSpan(min(start, stop), stop), subtype, channels=channels, order=order)
    if subtype is None:
        samples = None if kind in (b"ima4", b"GSM ") else frames
        return Layout("AIFF", (Part((ByteSpan(0, size),), rate_hz, channels, samples),), demuxer="aiff", note=note)
    part = pcm(ByteSpan(min(start, stop), stop), subtype, endian=endian, rate_hz=rate_hz, channels=channels)
    if part.samples != frames and not (is_stream or note):
        raise AudioError(f"contradicts itself: its header declares {frames} samples, its sound has {part.samples}")
    return Layout("AIFF", (part,), note=note)


def _chunks(file: BinaryIO) -> dict[bytes, tuple[int, int]]:
    """Return the position and size of the chunks by name, up to the sound; raise `AudioError` without the sound."""
    size, position = size_of(file), 12
    chunks: dict[bytes, tuple[int, int]] = {}
    for _ in range(MAX_CHUNKS):
        head = read_at(file, position, 8)
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], "big")
        chunks.setdefault(head[:4], (position + 8, length))
        if head[:4] == b"SSND" and (length > size or b"COMM" in chunks):
            break
        position += 8 + length + length % 2
    if not {b"COMM", b"SSND"} <= chunks.keys():
        missing = "COMM" if b"COMM" not in chunks else "SSND"
        raise AudioError(f"cannot be decoded as audio (its header has no chunk `{missing}`)")
    return chunks


def _encoding(kind: bytes, bits: int) -> tuple[str | None, str]:
    """Return libsndfile's name of the encoding (None if it is compressed) and the byte order."""
    integers = INTEGERS.get((bits + 7) // 8)
    if kind in (b"NONE", b"twos", b"sowt") and integers is not None:
        return integers, "LITTLE" if kind == b"sowt" else "BIG"
    return ENCODINGS.get(kind, (None, "BIG"))


def extended(data: bytes) -> float:
    """Return the value of an 80-bit extended float, big-endian; 0 if it is no finite positive number.

    >>> extended(bytes.fromhex("400eac44000000000000"))
    44100.0
    """
    exponent, mantissa = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:10], "big")
    if not 0 < exponent < 16_383 + 64:
        return 0.0
    return math.ldexp(mantissa, exponent - 16_383 - 63)
