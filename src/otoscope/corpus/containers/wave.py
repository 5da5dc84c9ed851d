"""WAV in its variants: RIFF, RIFX (big-endian), RF64 (64-bit sizes) and Wave64."""

from dataclasses import replace
from typing import BinaryIO, NamedTuple

from otoscope.corpus.containers.beyond import Order, after_chunks, end_of_sound, is_chunk, later_chunk, note_of_rest
from otoscope.corpus.containers.layout import MAX_CHUNKS, WIDTHS, ByteSpan, Layout, Part, pcm, read_at, size_of
from otoscope.corpus.containers.mpeg import mpeg_layout
from otoscope.errors import AudioError, quote

PLACEHOLDER = 0x7F00_0000
"""Sizes from this value up that exceed the file: written before the length of a stream was known."""

UNSTATED_SIZES = ((1 << 63) - 25, (1 << 64) - 25)
"""Sizes of the sound of a Wave64 file that was written to a pipe, without the head of its chunk."""

EXTENSIBLE = 0xFFFE
COMPRESSED = {0x02: "MS_ADPCM", 0x11: "IMA_ADPCM", 0x31: "GSM610", 0x40: "G721_32"}
"""Format tags that libsndfile decodes in blocks."""

MPEG_TAGS = (0x50, 0x55)


class _Format(NamedTuple):
    """Chunk `fmt `: `tag` is the encoding, of an extensible header that of its sub-format."""

    tag: int
    channels: int
    rate_hz: int
    block: int
    bits: int
    block_samples: int
    """Samples per block of a compressed encoding."""

    @property
    def subtype(self) -> str | None:
        """Name of an uncompressed encoding in libsndfile; None for others."""
        width = self.block // self.channels if self.channels else 0
        name = {
            1: {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}.get(width),
            3: {4: "FLOAT", 8: "DOUBLE"}.get(width),
            6: "ALAW",
            7: "ULAW",
        }.get(self.tag)
        return name if name and WIDTHS[name] * self.channels == self.block else None


class _Chunk(NamedTuple):
    start: int
    size: int
    """Size as declared; the file may end before."""


RIFF_FORMS = (b"RIFF", b"RIFX", b"RF64")


def riff_layout(file: BinaryIO) -> Layout:
    """Return the layout of a RIFF, RIFX or RF64 file, or of several in a row.

    Raises `AudioError` if it is truncated or contradicts itself, and for files that differ in rate or channels.
    """
    layouts: list[Layout] = []
    start: int | None = 0
    while start is not None:
        layout, start = _riff_file(file, start)
        layouts.append(layout)
    if len(layouts) == 1:
        return layouts[0]
    parts = tuple(part for layout in layouts for part in layout.parts)
    if not all(layout.parts for layout in layouts):
        raise AudioError(f"joined from {len(layouts)} WAV files, not all of which libsndfile reads; split it")
    if len({(part.rate_hz, part.channels) for part in parts}) > 1:
        raise AudioError("joined from WAV files of different sample rates or numbers of channels; split it")
    return Layout("WAV", parts, direct=False, note=f"joined from {len(layouts)} WAV files, all were read")


def _riff_file(file: BinaryIO, start: int) -> tuple[Layout, int | None]:
    """Return the layout of the RIFF file that starts at a position, and the position of another one after it."""
    order: Order = "big" if read_at(file, start, 4) == b"RIFX" else "little"
    if (kind := read_at(file, start + 8, 4)) != b"WAVE":
        name = kind.decode("ascii", "replace").strip()
        raise AudioError(f"cannot be decoded as audio (its content is RIFF of the kind {quote(name)}, not WAVE)")
    chunks = _riff_chunks(file, order, start + 12)
    if b"data" not in chunks:
        raise AudioError("cannot be decoded as audio (a WAV header without sound: no chunk `data`)")
    form = _format(file, chunks, order)
    data, size = chunks[b"data"], size_of(file)
    rest = size - data.start
    declared = data.size
    if b"ds64" in chunks and declared == 0xFFFF_FFFF:
        declared = int.from_bytes(read_at(file, chunks[b"ds64"].start + 8, 8), order)
    stop, note = data.start + declared, ""
    following = later_chunk(file, stop + declared % 2, (*RIFF_FORMS, b"data"), order)
    if declared > rest:
        if declared < PLACEHOLDER or b"ds64" in chunks:
            raise AudioError(f"truncated: the header declares {stop} bytes, the file has {size}")
        stop = size
    elif following is not None:
        if read_at(file, following, 4) == b"data":
            raise AudioError("contradicts itself: it has two chunks `data`, and readers stop after the first")
    elif rest - declared > 1 and is_chunk(read_at(file, stop + declared % 2, 8), size - stop, order):
        note = note_of_rest(file, after_chunks(file, stop, order), size)
    elif rest - declared > 1:
        declared_sound = ByteSpan(data.start, stop)
        stop, note = end_of_sound(
            file, declared_sound, form.subtype, channels=form.channels, order=order, reads_on=True
        )
    stated = _stated_samples(file, chunks, order)
    return _layout(file, form, ByteSpan(data.start, stop), stated, order, note, start), following


def wave64_layout(file: BinaryIO) -> Layout:
    """Return the layout of a Wave64 file, whose chunks have 16-byte names and 64-bit sizes."""
    chunks: dict[bytes, _Chunk] = {}
    position, size = 40, size_of(file)
    for _ in range(MAX_CHUNKS):
        head = read_at(file, position, 24)
        length = int.from_bytes(head[16:24], "little")
        if len(head) < 24:
            break
        chunks.setdefault(head[:4], _Chunk(position + 24, length - 24))
        if length < 24 or head[:4] == b"data":
            break
        position += (length + 7) // 8 * 8
    if b"data" not in chunks:
        raise AudioError("cannot be decoded as audio (a Wave64 header without sound: no chunk `data`)")
    data = chunks[b"data"]
    stop = data.start + data.size
    if data.size <= 0 or data.size in UNSTATED_SIZES:
        stop = size  # a recorder that stopped before it wrote the size
    if stop > size:
        raise AudioError(f"truncated: the header declares {stop} bytes, the file has {size}")
    form, note = _format(file, chunks, "little"), ""
    head = read_at(file, (stop + 7) // 8 * 8, 24)
    if head[:4] == b"riff":
        raise AudioError("joined from several Wave64 files, and readers stop after the first; split it")
    is_chunk = len(head) == 24 and 24 <= int.from_bytes(head[16:], "little") <= size - stop
    if size - stop >= 8 and not is_chunk:
        stop, note = end_of_sound(
            file, ByteSpan(data.start, stop), form.subtype, channels=form.channels, order="little"
        )
    return _layout(file, form, ByteSpan(data.start, stop), _stated_samples(file, chunks, "little"), "little", note)


def _riff_chunks(file: BinaryIO, order: Order, position: int) -> dict[bytes, _Chunk]:
    """Return the chunks from a position up to the sound, by name; bodies are padded to even."""
    chunks: dict[bytes, _Chunk] = {}
    for _ in range(MAX_CHUNKS):
        head = read_at(file, position, 8)
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], order)
        chunks.setdefault(head[:4], _Chunk(position + 8, length))
        if head[:4] == b"data":
            break
        position += 8 + length + length % 2
    return chunks


def _format(file: BinaryIO, chunks: dict[bytes, _Chunk], order: Order) -> _Format:
    if b"fmt " not in chunks:
        raise AudioError("cannot be decoded as audio (its header has no chunk `fmt `)")
    chunk = chunks[b"fmt "]
    body = read_at(file, chunk.start, min(chunk.size, 40))
    tag, channels, rate_hz, _, block, bits = (
        int.from_bytes(body[at : at + width], order) for at, width in ((0, 2), (2, 2), (4, 4), (8, 4), (12, 2), (14, 2))
    )
    if tag == EXTENSIBLE and len(body) >= 26:
        tag = int.from_bytes(body[24:26], order)
    if len(body) < 14 or not channels or not rate_hz:
        raise AudioError(f"cannot be decoded as audio (its header declares {channels} channels at {rate_hz} Hz)")
    return _Format(tag, channels, rate_hz, block, bits, int.from_bytes(body[18:20], order))


def _stated_samples(file: BinaryIO, chunks: dict[bytes, _Chunk], order: Order) -> int | None:
    """Return the number of samples in the chunk `fact`, which compressed encodings have."""
    if b"fact" not in chunks:
        return None
    body = read_at(file, chunks[b"fact"].start, 4)
    return int.from_bytes(body, order) or None


def _layout(
    file: BinaryIO, form: _Format, span: ByteSpan, stated: int | None, order: Order, note: str, start: int = 0
) -> Layout:
    endian = "LITTLE" if order == "little" else "BIG"
    width = form.block // form.channels
    if form.tag == 1 and form.bits and not 8 * width - 8 < form.bits <= 8 * width:
        raise AudioError(f"contradicts itself: samples of {form.bits} bits in {width} bytes; export it again")
    if subtype := form.subtype:
        part = pcm(span, subtype, endian=endian, rate_hz=form.rate_hz, channels=form.channels)
        return Layout("WAV", (part,), note=note)
    if form.tag in MPEG_TAGS:
        return replace(mpeg_layout(file, span), form="MP3 in WAV", direct=False, demuxer="wav")
    if form.tag in COMPRESSED:
        # the last block is padded; the chunk `fact` states the length of the sound
        name = COMPRESSED[form.tag]
        part = Part(
            (ByteSpan(start, span.stop),), form.rate_hz, form.channels, stated, slack=form.block_samples, subtype=name
        )
        return Layout("WAV", (part,), demuxer="wav", note=note)
    return Layout(f"WAV of format 0x{form.tag:04x}", demuxer="wav", note=note)
