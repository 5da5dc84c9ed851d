"""FLAC: frames that number themselves, after a header that may disagree with them."""

import re
from typing import BinaryIO, NamedTuple

from otoscope.corpus.containers.beyond import after_padding, note_of_rest
from otoscope.corpus.containers.layout import ByteSpan, Layout, Part, read_at, size_of
from otoscope.errors import AudioError

TAIL = 131_072
"""Bytes before the end of the sound that are searched for its last frame; a frame is rarely longer than 64 KiB."""

BLOCK = 1 << 22

MAX_HEADER = 1 << 25
"""Bytes of a damaged header, which may hold a picture, that are searched for the first frame."""

MAX_FRAME = 1 << 21
"""Bytes of a frame of 65,535 samples of 8 channels of 32 bits."""

MAX_BLOCK = 0xFFFF
"""Samples per frame that a header can state."""

BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
"""Bits per sample by their code in a frame's header."""

RATES_HZ = {
    1: 88_200,
    2: 176_400,
    3: 192_000,
    4: 8_000,
    5: 16_000,
    6: 22_050,
    7: 24_000,
    8: 32_000,
    9: 44_100,
    10: 48_000,
    11: 96_000,
}
"""Sample rates by their code in a frame's header (RFC 9639)."""


class StreamInfo(NamedTuple):
    """The first metadata block, and the position of the first frame."""

    rate_hz: int
    channels: int
    bits: int
    samples: int
    blocks: tuple[int, int]
    """Smallest and largest number of samples per frame."""
    sound: int
    """Position of the first frame."""


class FlacFrame(NamedTuple):
    """Fields of a frame's header; `number` counts samples if the size of blocks varies, else frames."""

    rate_hz: int | None
    number: int
    samples: int
    channels: int
    bits: int | None
    is_variable: bool

    def start(self, block: int) -> int:
        """Return the first sample of a frame in a stream of `block` samples per frame."""
        return self.number if self.is_variable else self.number * block


def flac_layout(file: BinaryIO) -> Layout:
    """Return the layout of a FLAC file; its frames decide where they contradict its header, or where it is lost."""
    size = size_of(file)
    starts = [_skip_id3(file), *_later_files(file, _skip_id3(file))]
    parts: list[Part] = []
    notes: list[str] = []
    direct = len(starts) == 1 and starts[0] == 0
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        part, note = _part(file, ByteSpan(start, stop))
        direct &= part.pieces == (ByteSpan(start, stop),)
        parts.append(part)
        notes += [note] if note else []
    if len({(part.rate_hz, part.channels) for part in parts}) > 1:
        raise AudioError("joined from FLAC files of different sample rates or numbers of channels; split it")
    if len(parts) > 1:
        notes = [f"joined from {len(parts)} FLAC files, all were read", *notes]
    return Layout("FLAC", tuple(parts), direct=direct, demuxer="flac", note="; ".join(notes))


def read_info(file: BinaryIO, start: int) -> StreamInfo | None:
    """Return the stream information of a FLAC stream that starts at a position; None if it is lost or damaged."""
    position, body = start + 4, b""
    is_last = False
    while not is_last:
        head = read_at(file, position, 4)
        if len(head) < 4:
            return None
        is_last, kind, length = head[0] >= 0x80, head[0] & 0x7F, int.from_bytes(head[1:], "big")
        if kind == 0 and not body:
            body = read_at(file, position + 4, length)
        position += 4 + length
    if len(body) < 34:
        return None
    fields, blocks = (
        int.from_bytes(body[10:18], "big"),
        (int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")),
    )
    rate_hz, channels, bits = fields >> 44, (fields >> 41 & 7) + 1, (fields >> 36 & 31) + 1
    return StreamInfo(rate_hz, channels, bits, fields & (1 << 36) - 1, blocks, position)


def parse_frame(data: bytes, at: int) -> FlacFrame | None:
    """Return the header of a frame at a position in bytes; None if its checksum or a field is wrong."""
    head = data[at : at + 16]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    size_code, rate_code, channel_code, bits_code = head[2] >> 4, head[2] & 15, head[3] >> 4, head[3] >> 1 & 7
    if size_code == 0 or rate_code == 15 or channel_code > 10 or bits_code == 3 or head[3] & 1:
        return None
    extra = 8 - (head[4] ^ 0xFF).bit_length()  # leading ones of UTF-8's scheme
    if extra == 1 or extra > 7:
        return None
    length = max(extra, 1)
    number = head[4] & (0x7F >> extra)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    at_size = 4 + length
    at_rate = at_size + {6: 1, 7: 2}.get(size_code, 0)
    stop = at_rate + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if stop >= len(head) or _crc8(head[:stop]) != head[stop]:
        return None
    size_field, rate_field = int.from_bytes(head[at_size:at_rate], "big"), int.from_bytes(head[at_rate:stop], "big")
    samples = (
        size_field + 1
        if size_code in (6, 7)
        else 192
        if size_code == 1
        else (576 << size_code - 2 if size_code < 6 else 256 << size_code - 8)
    )
    rate_hz = (
        rate_field * {12: 1000, 13: 1, 14: 10}[rate_code] if rate_code in (12, 13, 14) else RATES_HZ.get(rate_code)
    )
    channels = channel_code + 1 if channel_code < 8 else 2  # the last codes are differences of two channels
    return FlacFrame(rate_hz, number, samples, channels, BITS.get(bits_code), bool(head[1] & 1))


def _part(file: BinaryIO, span: ByteSpan) -> tuple[Part, str]:
    """Return a FLAC stream as a part, with a header made from its frames if they contradict its own, and a note."""
    info = read_info(file, span.start)
    found = _first_frame(file, info, span)
    if found is None:
        reason = "a FLAC header without frames" if info else "a FLAC header without stream information, and no frame"
        raise AudioError(f"cannot be decoded as audio ({reason})")
    position, first = found
    ending = _last_frame(file, ByteSpan(position, span.stop), first)
    last = None if ending is None else ending[1]
    end, text = (span.stop, "") if ending is None else _end_of_frames(file, ending[0], span.stop)
    if info is not None and last is None:
        # libFLAC decides
        return Part((span,), info.rate_hz, info.channels, info.samples or None), ""
    rate_hz, bits = first.rate_hz or (info.rate_hz if info else 0), first.bits or (info.bits if info else 0)
    if not rate_hz or not bits:
        raise AudioError("cannot be decoded as audio (a FLAC header without stream information, which its frames need)")
    if first.samples > MAX_BLOCK:
        raise AudioError(
            f"cannot be decoded as audio (FLAC frames of {first.samples:,} samples, at most {MAX_BLOCK:,})"
        )
    samples = None if last is None else last.start(first.samples) + last.samples - first.start(first.samples)
    repaired = Part((_header(first, rate_hz, bits), ByteSpan(position, end)), rate_hz, first.channels, samples)
    if info is None or samples is None or position != info.sound:
        return repaired, "; ".join(filter(None, ("its header is damaged, and was made anew from its frames", text)))
    differences = [
        f"its header declares {declared:,} {unit}, its frames hold {actual:,}"
        for declared, actual, unit in (
            (info.samples or samples, samples, "samples"),
            (info.rate_hz, rate_hz, "Hz"),
            (info.channels, first.channels, "channels"),
            (info.bits, bits, "bits"),
        )
        if declared != actual
    ]
    if samples < info.samples and len(differences) == 1:
        raise AudioError(f"truncated: the header declares {info.samples} samples, its frames hold {samples}")
    # libFLAC takes the place of a frame from the size of blocks in the header
    blocks_differ = not first.is_variable and last != first and info.blocks != (first.samples, first.samples)
    if differences or blocks_differ or not info.samples:
        return repaired, "; ".join(filter(None, (*differences, text)))
    return Part((span,), rate_hz, first.channels, samples), text


def _header(first: FlacFrame, rate_hz: int, bits: int) -> bytes:
    """Return the start of a FLAC file of unknown length, so that libFLAC reads to its end, and without a checksum."""
    blocks = (16, MAX_BLOCK) if first.is_variable else (first.samples, first.samples)
    fields = rate_hz << 44 | first.channels - 1 << 41 | bits - 1 << 36
    body = b"".join(size.to_bytes(2, "big") for size in blocks) + bytes(6) + fields.to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80\x00\x00\x22" + body


def _first_frame(file: BinaryIO, info: StreamInfo | None, span: ByteSpan) -> tuple[int, FlacFrame] | None:
    """Return the frame after the header, and its position; if it begins no stream, the first one that does."""
    stated = None if info is None else parse_frame(read_at(file, info.sound, 16), 0)
    after_header = None if info is None or stated is None else (info.sound, stated)
    if after_header and not after_header[1].number:
        return after_header
    for position in range(span.start + 4, min(span.stop, span.start + MAX_HEADER), BLOCK):
        data = read_at(file, position, BLOCK + 16)
        for match in re.finditer(rb"\xff[\xf8\xf9]", data):
            frame = parse_frame(data, match.start())
            if frame is not None and not frame.number:
                return position + match.start(), frame
    return after_header  # a stream that was cut from a longer one


def _last_frame(file: BinaryIO, span: ByteSpan, first: FlacFrame) -> tuple[int, FlacFrame] | None:
    """Return the last frame of a stream and its position, found from its end."""
    sync = b"\xff\xf9" if first.is_variable else b"\xff\xf8"
    searched = TAIL
    while True:
        start = max(span.start, span.stop - searched)
        tail = read_at(file, start, span.stop - start)
        at = tail.rfind(sync)
        while at >= 0:
            frame = parse_frame(tail, at)
            if frame is not None and frame.rate_hz == first.rate_hz:
                return start + at, frame
            at = tail.rfind(sync, 0, at + 1)
        if start == span.start or searched >= MAX_HEADER:
            return None
        searched *= 4  # a long frame, or a long rest after it


def _end_of_frames(file: BinaryIO, last: int, stop: int) -> tuple[int, str]:
    """Return the end of the last frame, which starts at `last`, and a note on text after it.

    A frame with its checksum has the remainder 0. Raises `AudioError` for unknown bytes after it. If no end has that
    remainder the frame is damaged, and the decoder says so.
    """
    data = read_at(file, last, min(stop - last, MAX_FRAME))
    ends: list[int] = []
    crc = 0
    for at, byte in enumerate(data):
        before, crc = crc, (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
        if before and not crc:
            ends.append(last + at + 1)
    if (not crc and last + len(data) == stop) or not ends:
        return stop, ""
    if (end := next((end for end in ends if after_padding(file, end, stop) >= stop), None)) is not None:
        return end, ""
    # one in 65,536 bytes within the frame has the remainder 0 by chance, so that the last end is the likely one
    return ends[-1], note_of_rest(file, ends[-1], stop)


def _skip_id3(file: BinaryIO) -> int:
    head = read_at(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


MARK = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""Start of a FLAC stream: its name, and the head of its stream information."""


def _later_files(file: BinaryIO, start: int) -> list[int]:
    """Return the positions of further FLAC streams in a file."""
    found: list[int] = []
    info = read_info(file, start)
    position, kept = info.sound if info else start + 4, b""
    file.seek(position)
    while block := file.read(BLOCK):
        data = kept + block
        found += [position - len(kept) + match.start() for match in MARK.finditer(data)]
        kept, position = data[-7:], position + len(block)
    return found


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte << 1 ^ 0x07) & 0xFF if byte & 0x80 else byte << 1
    return byte


_CRC8 = bytes(_crc8_of(byte) for byte in range(256))
"""Remainders of x^8 + x^2 + x + 1 by byte."""


def _crc16_of(byte: int) -> int:
    crc = byte << 8
    for _ in range(8):
        crc = (crc << 1 ^ 0x8005) & 0xFFFF if crc & 0x8000 else crc << 1
    return crc


_CRC16 = [_crc16_of(byte) for byte in range(256)]
"""Remainders of x^16 + x^15 + x^2 + 1 by byte."""
