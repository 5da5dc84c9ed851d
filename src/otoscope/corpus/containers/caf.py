"""Core Audio Format: chunks with 64-bit sizes."""

import struct
from typing import BinaryIO

from otoscope.corpus.containers.beyond import Order, end_of_sound, is_chunk, note_of_rest
from otoscope.corpus.containers.layout import MAX_CHUNKS, WIDTHS, ByteSpan, Layout, Part, pcm, read_at, size_of
from otoscope.errors import AudioError

IS_FLOAT, IS_LITTLE = 1, 2
"""Flags of uncompressed samples."""


def caf_layout(file: BinaryIO) -> Layout:
    """Return the layout of a CAF file; raise `AudioError` if it is truncated."""
    size, position = size_of(file), 8
    chunks: dict[bytes, tuple[int, int]] = {}
    for _ in range(MAX_CHUNKS):
        head = read_at(file, position, 12)
        if len(head) < 12:
            break
        length = int.from_bytes(head[4:], "big", signed=True)
        chunks.setdefault(head[:4], (position + 12, length))
        if length < 0 or position + 12 + length > size:
            break
        position += 12 + length
    if not {b"desc", b"data"} <= chunks.keys():
        missing = "desc" if b"desc" not in chunks else "data"
        raise AudioError(f"cannot be decoded as audio (its header has no chunk `{missing}`)")
    body, declared = chunks[b"data"]
    if declared > size - body:
        raise AudioError(f"truncated: the header declares {body + declared} bytes, the file has {size}")
    stop = size if declared < 0 else body + declared
    desc = read_at(file, chunks[b"desc"][0], 32)
    if len(desc) < 32:
        raise AudioError("truncated: the header ends before the encoding")
    rate, kind, flags, packet, _, channels, bits = struct.unpack(">d4sIIIII", desc)
    if not (0 < rate < 1e9 and channels):
        raise AudioError(f"cannot be decoded as audio (its header declares {channels} channels at {rate:g} Hz)")
    if subtype := _encoding(kind, flags, bits):
        if packet not in (0, WIDTHS[subtype] * channels):
            raise AudioError(f"contradicts itself: {packet} bytes hold a sample of {channels} channels of {subtype}")
        order: Order = "little" if flags & IS_LITTLE else "big"
        # the sound follows a counter of edits
        span, note = _within(file, ByteSpan(min(body + 4, stop), stop), subtype, channels, order)
        part = pcm(span, subtype, endian=order.upper(), rate_hz=round(rate), channels=channels)
        return Layout("CAF", (part,), note=note)
    part = Part((ByteSpan(0, size),), round(rate), channels, _packet_samples(file, chunks))
    note = note_of_rest(file, max(stop, position), size)  # after the last chunk
    return Layout("CAF", (part,), demuxer="caf", note=note)


def _within(file: BinaryIO, span: ByteSpan, subtype: str, channels: int, order: Order) -> tuple[ByteSpan, str]:
    """Return the bytes of the sound and a note, if what follows their declared end is no chunk."""
    stop, size = span.stop, size_of(file)
    if stop == size or is_chunk(read_at(file, stop, 12), size - stop, "big"):
        return span, ""
    stop, note = end_of_sound(file, span, subtype, channels=channels, order=order)
    return ByteSpan(span.start, stop), note


def _packet_samples(file: BinaryIO, chunks: dict[bytes, tuple[int, int]]) -> int | None:
    """Return the number of samples of compressed sound, from its packet table."""
    if b"pakt" not in chunks:
        return None
    table = read_at(file, chunks[b"pakt"][0], 24)
    return int.from_bytes(table[8:16], "big") if len(table) == 24 else None


def _encoding(kind: bytes, flags: int, bits: int) -> str | None:
    if kind == b"lpcm" and flags & IS_FLOAT:
        return {32: "FLOAT", 64: "DOUBLE"}.get(bits)
    if kind == b"lpcm":
        return {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24", 32: "PCM_32"}.get(bits)
    return {b"ulaw": "ULAW", b"alaw": "ALAW"}.get(kind)
