"""Creative Voice: blocks of sound, silence, text and markers."""

from typing import BinaryIO, NamedTuple

from otoscope.corpus.containers.beyond import note_of_rest
from otoscope.corpus.containers.layout import MAX_CHUNKS, WIDTHS, ByteSpan, Layout, Part, read_at, size_of
from otoscope.errors import AudioError

ENCODINGS = {0: "PCM_U8", 4: "PCM_16", 6: "ALAW", 7: "ULAW"}
"""libsndfile's names of the codecs that are uncompressed; 1 to 3 are 4, 2.6 and 2-bit ADPCM."""

SOUND, CONTINUED, SILENCE, MARKER, TEXT, EXTENDED, NEW_SOUND = 1, 2, 3, 4, 5, 8, 9

MAGIC = b"Creative Voice File"

MAX_SILENCE_S = 3600


class _Sound(NamedTuple):
    subtype: str
    rate_hz: int
    channels: int


def voc_layout(file: BinaryIO) -> Layout:
    """Return the layout of a VOC file: the samples of its blocks, without their headers.

    Raises `AudioError` if it is truncated, if its blocks differ in encoding or rate, or for loops.
    """
    size = size_of(file)
    position = int.from_bytes(read_at(file, 20, 2), "little")
    pieces: list[bytes | ByteSpan] = []
    sound: _Sound | None = None
    extended: tuple[int, int] | None = None
    note = ""
    for _ in range(MAX_CHUNKS):
        head = read_at(file, position, 4)
        if not head or head[0] == 0:
            note = _note_of_end(file, position + 1)
            break
        start, stop = position + 4, position + 4 + int.from_bytes(head[1:], "little")
        if len(head) < 4 or stop > size:
            raise AudioError(f"truncated: a block ends at byte {stop}, the file has {size}")
        kind, body, position = head[0], read_at(file, start, 12).ljust(12, b"\0"), stop
        if kind in (SOUND, NEW_SOUND):
            block, first = _sound(kind, start, body, extended)
            if sound not in (None, block):
                raise AudioError("cannot be decoded: its blocks differ in encoding or sample rate; export it again")
            sound, extended = block, None
            pieces.append(ByteSpan(min(first, stop), stop))
        elif kind == EXTENDED:
            extended = _extended(body)
        elif kind in (CONTINUED, SILENCE) and sound is not None:
            pieces.append(ByteSpan(start, stop) if kind == CONTINUED else _silence(sound, body))
        elif kind not in (SILENCE, MARKER, TEXT):
            raise AudioError("cannot be decoded: its sound is repeated or in an unknown block; export it again")
    if sound is None:
        raise AudioError("cannot be decoded as audio (a VOC header without sound)")
    return Layout("VOC", (_part(sound, pieces),), direct=False, note=note)


def _note_of_end(file: BinaryIO, end: int) -> str:
    """Return a note on text after the last block; raise `AudioError` for another VOC file, and for unknown bytes."""
    if read_at(file, end, len(MAGIC)) == MAGIC:
        raise AudioError("joined from several VOC files, and readers stop after the first; split it")
    size = size_of(file)
    while (head := read_at(file, end, 4)) and head[0] in (MARKER, TEXT):
        if (stop := end + 4 + int.from_bytes(head[1:], "little")) > size:
            break
        end = stop
    return note_of_rest(file, end, size)


def _part(sound: _Sound, pieces: list[bytes | ByteSpan]) -> Part:
    length = sum(len(p) if isinstance(p, bytes) else p.stop - p.start for p in pieces)
    samples = length // (WIDTHS[sound.subtype] * sound.channels)
    return Part(tuple(pieces), sound.rate_hz, sound.channels, samples, subtype=sound.subtype, endian="LITTLE")


def _extended(body: bytes) -> tuple[int, int]:
    """Return the sample rate and the number of channels of a block that precedes a block of sound."""
    channels = 1 + (body[3] > 0)
    return 256_000_000 // (65_536 - int.from_bytes(body[:2], "little")) // channels, channels


def _sound(kind: int, start: int, body: bytes, extended: tuple[int, int] | None) -> tuple[_Sound, int]:
    """Return the encoding of a block of sound, and the position of its first sample."""
    if kind == NEW_SOUND:
        rate_hz, channels, codec = int.from_bytes(body[:4], "little"), body[5], int.from_bytes(body[6:8], "little")
        first = start + 12
    else:
        rate_hz, channels = extended or (1_000_000 // (256 - body[0]), 1)
        codec, first = body[1], start + 2
    if codec not in ENCODINGS or not rate_hz or channels not in (1, 2):
        raise AudioError(f"cannot be decoded: codec {codec} of VOC, {channels} channels at {rate_hz} Hz")
    return _Sound(ENCODINGS[codec], rate_hz, channels), first


def _silence(sound: _Sound, body: bytes) -> bytes:
    samples = (int.from_bytes(body[:2], "little") + 1) * sound.channels
    if samples > MAX_SILENCE_S * sound.rate_hz * sound.channels:
        raise AudioError("cannot be decoded: a block of silence is longer than an hour")
    zero = {"PCM_U8": b"\x80", "PCM_16": b"\0\0", "ALAW": b"\xd5", "ULAW": b"\xff"}[sound.subtype]
    return zero * samples
