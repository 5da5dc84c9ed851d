"""MPEG audio (MP3): frames, and the tags and headers around them.

A frame states its own length, so walking the frames gives the exact number of samples, which no header needs to state.
"""

from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from otoscope.corpus.containers.beyond import after_padding, after_tags, note_of_rest
from otoscope.corpus.containers.layout import ByteSpan, Layout, Part, read_at, size_of
from otoscope.errors import AudioError
from otoscope.formatting import count

DECODER_DELAY = 529
"""Samples that mpg123 removes from the start of a file with a Xing header, the delay of an MP3 decoder."""

PREROLL = 32 * 1152
"""Samples decoded before a segment: a frame may begin in the bytes of the 511 before it (its bit reservoir)."""

BITRATES: dict[tuple[bool, int], tuple[int, ...]] = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Kilobits per second by (MPEG 1, layer) and index from 1 (ISO 11172-3, 13818-3)."""

RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sample rates by version bits: MPEG 1, 2 and 2.5."""

MAX_JUNK = 65_536
"""Bytes before the first frame that are searched for it."""


class MpegFrame(NamedTuple):
    """Fields of a frame's header."""

    length: int
    samples: int
    rate_hz: int
    channels: int
    layer: int
    side_info: int
    """Bytes between the header and the main data, after which a Xing header is stored."""

    @property
    def kind(self) -> tuple[int, int, int]:
        """Fields that all frames of a stream share."""
        return self.layer, self.rate_hz, self.samples


class _Xing(NamedTuple):
    """MpegFrame without sound that states the number of those that follow, and the samples to remove at both ends."""

    frames: int | None
    trimmed: int


class _Stream(NamedTuple):
    """Frames of one encoder: the bytes of its Xing header, if any, and of its frames, and their number."""

    header: ByteSpan
    sound: ByteSpan
    frames: int
    first: MpegFrame
    xing: _Xing | None


def parse_frame(head: bytes) -> MpegFrame | None:
    """Return the header of a frame; None if bytes are no frame's header.

    >>> parse_frame(bytes.fromhex("fffb90c4")).length
    417
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, bitrate, rate = (head[1] >> 3) & 3, 4 - ((head[1] >> 1) & 3), head[2] >> 4, (head[2] >> 2) & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    is_mpeg1, is_mono = version == 3, head[3] >> 6 == 3
    rate_hz, bits_per_s = RATES_HZ[version][rate], 1000 * BITRATES[is_mpeg1, layer][bitrate - 1]
    samples = 384 if layer == 1 else 1152 if layer == 2 or is_mpeg1 else 576
    padding = (head[2] >> 1) & 1
    length = (
        4 * (12 * bits_per_s // rate_hz + padding) if layer == 1 else samples // 8 * bits_per_s // rate_hz + padding
    )
    side_info = ((17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)) if layer == 3 else 0
    return MpegFrame(length, samples, rate_hz, 1 if is_mono else 2, layer, side_info)


def find_frame(file: BinaryIO, start: int, stop: int, *, junk: int = MAX_JUNK) -> int | None:
    """Return the position of the first of two frames in a row, at most `junk` bytes after `start`."""
    data = read_at(file, start, min(stop - start, junk) + 4)
    at = data.find(b"\xff")
    while 0 <= at < len(data) - 3:
        frame = parse_frame(data[at : at + 4])
        if frame is not None:
            after = start + at + frame.length
            following = parse_frame(read_at(file, after, 4))
            if after == stop or (following is not None and following.kind == frame.kind):
                return start + at
        at = data.find(b"\xff", at + 1)
    return None


def mpeg_layout(file: BinaryIO, span: ByteSpan | None = None) -> Layout:
    """Return the layout of MPEG frames in a file, or in a span of it: one part per encoder.

    Raises `AudioError` if it is truncated, damaged in its middle, or joined from parts of different rates.
    """
    span = span or ByteSpan(0, size_of(file))
    streams, text = _walk(file, span)
    if not streams:
        raise AudioError("cannot be decoded as audio (no MPEG frame)")
    rates_hz = sorted({stream.first.rate_hz for stream in streams})
    if len(rates_hz) > 1:
        raise AudioError(f"joined from parts of {' and '.join(f'{rate_hz} Hz' for rate_hz in rates_hz)}; split it")
    parts = tuple(_part(file, stream) for stream in streams)
    is_stated = streams[0].xing is not None and streams[0].xing.frames == streams[0].frames
    notes = [f"joined from {len(parts)} MP3 files, all were read"] if len(parts) > 1 else []
    note = "; ".join([*notes, text] if text else notes)
    return Layout("MP3", parts, direct=is_stated and len(parts) == 1, demuxer="mp3", note=note)


def _walk(file: BinaryIO, span: ByteSpan) -> tuple[list[_Stream], str]:
    """Return the streams of a span, and a note on bytes before and text after them.

    A Xing header, a tag or another kind of frame begins a new stream.
    """
    streams: list[_Stream] = []
    note = ""
    start = after_padding(file, span.start, span.stop)
    first = find_frame(file, start, span.stop)
    position = span.stop if first is None else first
    if position > start and first is not None:
        note = f"{count(position - start, 'byte')} before the first MPEG frame were not read"
    while position < span.stop:
        if (after := after_tags(file, position, span.stop)) > position:
            position = after
            continue
        frame = parse_frame(read_at(file, position, 4))
        if frame is None:
            note = "; ".join(filter(None, (note, _note_of_tail(file, position, span.stop))))
            break
        streams.append(stream := _walk_stream(file, ByteSpan(position, span.stop), frame))
        position = stream.sound.stop
    found = [stream for stream in streams if stream.frames]
    for number, stream in enumerate(found):
        _check_count(stream, found[number + 1 :])
    return found, note


def _check_count(stream: _Stream, following: Sequence[_Stream]) -> None:
    """Raise `AudioError` if frames are missing; a header of a joined file may count those of all its parts."""
    declared, counted = (None if stream.xing is None else stream.xing.frames), stream.frames
    if declared is None or declared <= counted + 1:
        return
    for part in following:
        counted += part.frames + (part.xing is not None)
        if abs(counted - declared) <= 1:
            return
    raise AudioError(f"truncated: the header declares {declared} MPEG frames, {stream.frames} are there")


def _walk_stream(file: BinaryIO, span: ByteSpan, frame: MpegFrame) -> _Stream:
    """Return the frames of one kind from the start of a span up to a tag, the next Xing header, or its end."""
    xing = _parse_xing(read_at(file, span.start, HEAD), frame)
    start = span.start if xing is None else span.start + frame.length
    first, position, frames = frame, start, 0
    declared, declared_end = None if xing is None else xing.frames, start
    while position < span.stop:
        head = read_at(file, position, HEAD)
        following = parse_frame(head)
        if following is None or following.kind != frame.kind:
            break
        if frames and _parse_xing(head, following) is not None:
            break
        if frames == declared:
            declared_end = position
        if declared is not None and frames > declared + 1:
            # the frames of another file, which has no header of its own
            position, frames = declared_end, declared
            break
        if position + following.length > span.stop:
            left = span.stop - position
            raise AudioError(
                f"truncated: the header declares {following.length} bytes for the last frame, {left} are left"
            )
        first = first if frames else following
        position, frames = position + following.length, frames + 1
    return _Stream(ByteSpan(span.start, start), ByteSpan(start, position), frames, first, xing)


HEAD = 192
"""Bytes of a frame up to the end of a Xing header."""


def _parse_xing(data: bytes, frame: MpegFrame) -> _Xing | None:
    """Return the Xing header (also named Info) of a frame, with LAME's extension; or the VBRI header of Fraunhofer."""
    if frame.layer != 3:
        return None
    if data[36:40] == b"VBRI":
        return _Xing(None, DECODER_DELAY)
    at = 4 + frame.side_info
    if data[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(data[at + 4 : at + 8], "big")
    if not flags & 1:
        return _Xing(None, DECODER_DELAY)
    frames = int.from_bytes(data[at + 8 : at + 12], "big")
    lame = at + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    delays = int.from_bytes(data[lame + 21 : lame + 24], "big")
    trimmed = (delays >> 12) + (delays & 0xFFF)
    return _Xing(frames, trimmed if data[lame : lame + 1].strip(b"\0") else DECODER_DELAY)


def _part(file: BinaryIO, stream: _Stream) -> Part:
    """Return the part of a stream; a Xing header with the number of its frames replaces a wrong or missing one."""
    frame, xing = stream.first, stream.xing
    samples = stream.frames * frame.samples
    if frame.layer != 3:
        pieces: tuple[bytes | ByteSpan, ...] = (stream.sound,)
    elif xing is not None and xing.frames == stream.frames:
        pieces, samples = (ByteSpan(stream.header.start, stream.sound.stop),), samples - xing.trimmed
    else:
        header = xing_frame(read_at(file, stream.sound.start, 4), stream.frames)
        pieces, samples = (header, stream.sound), samples - DECODER_DELAY
    return Part(pieces, frame.rate_hz, frame.channels, max(samples, 0), slack=frame.samples, preroll=PREROLL)


def xing_frame(head: bytes, frames: int) -> bytes:
    """Return a frame of the kind of `head` that states the number of frames after it, and holds no sound.

    >>> parse_frame(xing_frame(bytes.fromhex("fffb90c4"), 3)).length
    417
    """
    # no checksum; 128 kbit/s (MPEG 1) or 80 kbit/s leave room for the header
    head = bytes([head[0], head[1] | 1, 0x90 | (head[2] & 0x0C), head[3]])
    frame = parse_frame(head)
    if frame is None:
        raise AudioError("cannot be decoded as audio (no MPEG frame)")
    body = head + bytes(frame.side_info) + b"Info" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return body.ljust(frame.length, b"\0")


def _note_of_tail(file: BinaryIO, position: int, stop: int) -> str:
    """Return a note on text after the last frame; raise `AudioError` if frames follow, and for unknown bytes."""
    found = find_frame(file, position, stop)
    if found is not None:
        raise AudioError(f"damaged: {found - position} bytes at byte {position} are no MPEG frames")
    return note_of_rest(file, position, stop)
