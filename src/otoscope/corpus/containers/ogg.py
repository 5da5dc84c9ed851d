"""Ogg: pages with the position of their sound, in one or several streams one after the other (RFC 3533)."""

from typing import BinaryIO, NamedTuple

from otoscope.corpus.containers.beyond import note_of_rest
from otoscope.corpus.containers.layout import ByteSpan, Layout, Part, read_at, size_of
from otoscope.errors import AudioError

OPUS_HZ = 48_000
"""Unit of positions in an Opus stream (RFC 7845)."""

MAX_PAGES = 5_000_000


class _Page(NamedTuple):
    start: int
    body: int
    stop: int
    is_first: bool
    position: int
    """Samples up to the end of the last packet that ends on the page; -1 if none does."""
    serial: int
    sequence: int


class _Stream(NamedTuple):
    """One logical stream: its pages, encoding, samples to discard at the start, and the position of its last page."""

    pages: ByteSpan
    codec: str
    rate_hz: int
    channels: int
    discarded: int
    end: int


def ogg_layout(file: BinaryIO) -> Layout:
    """Return the layout of an Ogg file: one part per stream that follows another.

    Raises `AudioError` if it is truncated, if pages are missing, or if streams differ in rate or channels.
    """
    streams, text = _streams(file)
    codecs = {stream.codec for stream in streams}
    if not codecs <= {"Vorbis", "Opus"} or len(codecs) != 1:
        return Layout(f"Ogg {' and '.join(sorted(codecs))}", demuxer="ogg", note=text)
    if len({(stream.rate_hz, stream.channels) for stream in streams}) > 1:
        raise AudioError("joined from Ogg files of different sample rates or numbers of channels; split it")
    parts = tuple(_part(stream) for stream in streams)
    notes = [f"joined from {len(parts)} Ogg files, all were read"] if len(parts) > 1 else []
    note = "; ".join([*notes, text] if text else notes)
    return Layout(f"Ogg {streams[0].codec}", parts, direct=len(parts) == 1, demuxer="ogg", note=note)


def _part(stream: _Stream) -> Part:
    samples, rate_hz = max(stream.end - stream.discarded, 0), stream.rate_hz
    if stream.codec == "Opus":
        # libsndfile decodes at the rate of the original, if Opus has it
        rate_hz = rate_hz if rate_hz in (8_000, 12_000, 16_000, 24_000) else OPUS_HZ
        samples = samples * rate_hz // OPUS_HZ
    return Part((stream.pages,), rate_hz, stream.channels, samples)


def _streams(file: BinaryIO) -> tuple[list[_Stream], str]:
    """Return the streams of a file in order, and a note on text after them."""
    size = size_of(file)
    streams: list[_Stream] = []
    serial, sequence, position = -1, -1, 0
    for _ in range(MAX_PAGES):
        page = _read_page(file, position, size)
        if page is None:
            break
        if page.is_first:
            if streams and sequence == 0:
                streams[-1] = streams[-1]._replace(codec=f"{streams[-1].codec} beside other streams")
            else:
                streams.append(_open_stream(file, page))
            serial, sequence = page.serial, page.sequence
        elif streams and page.serial == serial:
            if page.sequence != sequence + 1:
                raise AudioError(f"damaged: Ogg pages are missing or repeated before byte {page.start}")
            sequence = page.sequence
        if streams:
            end = streams[-1].end if page.position < 0 else page.position
            streams[-1] = streams[-1]._replace(pages=ByteSpan(streams[-1].pages.start, page.stop), end=end)
        position = page.stop
    if not streams:
        raise AudioError("cannot be decoded as audio (an Ogg file without its first page, which states the encoding)")
    return streams, note_of_rest(file, position, size)


def _read_page(file: BinaryIO, position: int, size: int) -> _Page | None:
    """Return the page at a position; None at the end, or if no further page follows."""
    head = read_at(file, position, 282)
    if head[:4] != b"OggS":
        if b"OggS" in read_at(file, position, MAX_GAP):
            raise AudioError(f"damaged: the bytes at {position} are no Ogg page")
        return None
    lengths = head[27 : 27 + head[26]] if len(head) > 26 else b""
    body = position + 27 + len(lengths)
    stop = body + sum(lengths)
    if len(head) < 27 or len(lengths) < head[26] or stop > size:
        raise AudioError(f"truncated: the header declares {max(stop, position + 28)} bytes, the file has {size}")
    granule, serial, sequence = (
        int.from_bytes(head[at:to], "little", signed=at == 6) for at, to in ((6, 14), (14, 18), (18, 22))
    )
    return _Page(position, body, stop, bool(head[5] & 2), granule, serial, sequence)


MAX_GAP = 1 << 20
"""Bytes after a page that are searched for the next one."""


def _open_stream(file: BinaryIO, page: _Page) -> _Stream:
    """Return a stream with the encoding that its first packet states."""
    head = read_at(file, page.body, min(page.stop - page.body, 64))
    pages = ByteSpan(page.start, page.stop)
    if head[:8] == b"OpusHead" and len(head) >= 19:
        rate_hz, discarded = int.from_bytes(head[12:16], "little"), int.from_bytes(head[10:12], "little")
        return _Stream(pages, "Opus", rate_hz, head[9], discarded, 0)
    if head[:7] == b"\x01vorbis" and len(head) >= 16:
        return _Stream(pages, "Vorbis", int.from_bytes(head[12:16], "little"), head[11], 0, 0)
    known = {b"\x7fFLAC": "FLAC", b"Speex": "Speex", b"\x80theo": "Theora"}
    return _Stream(pages, known.get(head[:5], "of an unknown codec"), 0, 0, 0, 0)
