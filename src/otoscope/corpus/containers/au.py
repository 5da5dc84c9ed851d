"""Sun AU and NIST Sphere, whose headers state everything in fixed fields."""

import re
from typing import BinaryIO

from otoscope.corpus.containers.beyond import Order, end_of_sound, note_of_rest
from otoscope.corpus.containers.layout import WIDTHS, ByteSpan, Layout, Part, pcm, read_at, size_of
from otoscope.errors import AudioError

AU_ENCODINGS = {1: "ULAW", 2: "PCM_S8", 3: "PCM_16", 4: "PCM_24", 5: "PCM_32", 6: "FLOAT", 7: "DOUBLE", 27: "ALAW"}

STREAM = 0x7F00_0000
"""Sizes from this value up that exceed the file: written before the length of a stream was known."""


def au_layout(file: BinaryIO) -> Layout:
    """Return the layout of an AU file; raise `AudioError` if it is truncated."""
    head, size = read_at(file, 0, 24), size_of(file)
    if len(head) < 24:
        raise AudioError("truncated: the header is incomplete")
    order: Order = "little" if head[:4] == b"dns." else "big"
    start, declared, encoding, rate_hz, channels = (int.from_bytes(head[at : at + 4], order) for at in range(4, 24, 4))
    if not rate_hz or not channels:
        raise AudioError(f"cannot be decoded as audio (its header declares {channels} channels at {rate_hz} Hz)")
    stop = start + declared
    if (stop > size and declared >= STREAM) or declared == 0:
        stop = size
    if stop > size:
        raise AudioError(f"truncated: the header declares {stop} bytes, the file has {size}")
    subtype = AU_ENCODINGS.get(encoding)
    if subtype is None:
        part = Part((ByteSpan(0, stop),), rate_hz, channels, None)
        return Layout("AU", (part,), direct=False, demuxer="au", note=note_of_rest(file, stop, size))
    note = ""
    if stop < size:
        stop, note = end_of_sound(file, ByteSpan(min(start, stop), stop), subtype, channels=channels, order=order)
    part = pcm(ByteSpan(min(start, stop), stop), subtype, endian=order.upper(), rate_hz=rate_hz, channels=channels)
    return Layout("AU", (part,), note=note)


def sphere_layout(file: BinaryIO) -> Layout:
    """Return the layout of a NIST Sphere file; raise `AudioError` if it is truncated."""
    text, size = read_at(file, 0, 1024).decode("ascii", "replace"), size_of(file)
    length = re.match(r"NIST_1A\n\s*(\d{1,9})\n", text)
    fields = dict(re.findall(r"^(\w+) -[is]\d* (\S+)", text, re.MULTILINE))
    try:
        rate_hz, samples = int(fields["sample_rate"]), int(fields["sample_count"])
        width, channels = int(fields["sample_n_bytes"]), int(fields.get("channel_count", "1"))
    except (KeyError, ValueError) as error:
        raise AudioError(f"cannot be decoded as audio (a Sphere header without {error})") from error
    if length is None or rate_hz <= 0 or channels <= 0:
        raise AudioError(f"cannot be decoded as audio (its header declares {channels} channels at {rate_hz} Hz)")
    coding = fields.get("sample_coding", "pcm").lower()
    subtype = {"ulaw": "ULAW", "mu-law": "ULAW", "alaw": "ALAW"}.get(coding)
    if coding == "pcm":
        subtype = {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}.get(width)
    if subtype is None or width != WIDTHS[subtype]:
        return Layout(f"NIST Sphere ({coding})", demuxer="nistsphere")
    start = int(length[1])
    stop = start + samples * width * channels
    if stop > size:
        raise AudioError(f"truncated: the header declares {stop} bytes, the file has {size}")
    order: Order = "little" if fields.get("sample_byte_format", "01").startswith("0") else "big"
    note = ""
    if stop < size:
        stop, note = end_of_sound(file, ByteSpan(start, stop), subtype, channels=channels, order=order)
    part = pcm(ByteSpan(start, stop), subtype, endian=order.upper(), rate_hz=rate_hz, channels=channels)
    return Layout("NIST Sphere", (part,), note=note)
