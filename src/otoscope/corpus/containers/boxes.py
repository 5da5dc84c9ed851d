"""Containers of other codecs, which ffmpeg decodes: MP4 and its relatives, Matroska and WebM, ASF (WMA).

Only their declared size is checked, because ffmpeg does not report a file that was cut between two packets.
"""

import re
from typing import BinaryIO

from otoscope.corpus.containers.beyond import note_of_rest
from otoscope.corpus.containers.layout import MAX_CHUNKS, Layout, read_at, size_of
from otoscope.errors import AudioError

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
CLUSTER, AUDIO_TRACK = bytes.fromhex("1f43b675"), bytes.fromhex("838102")
"""Start of the sound of a Matroska file, and the element that declares a track of sound before it."""

MAX_INDEX, MAX_TRACKS = 1 << 26, 1 << 20
"""Bytes of an MP4 index, and of a Matroska file, that are searched for streams of sound."""

EBML = bytes.fromhex("1a45dfa3")


def mp4_layout(file: BinaryIO) -> Layout:
    """Return the layout of an MP4, M4A or 3GP file; raise `AudioError` if a box exceeds the file."""
    size, position = size_of(file), 0
    kinds: list[bytes] = []
    streams = 0
    for _ in range(MAX_CHUNKS):
        head = read_at(file, position, 16)
        if len(head) < 8:
            break
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        kinds.append(head[4:8])
        if length == 0:
            break  # to the end of the file
        if position + length > size or length < 8:
            raise AudioError(f"truncated: the header declares {position + length} bytes, the file has {size}")
        if head[4:8] == b"moov":
            streams += len(re.findall(rb"hdlr.{8}soun", read_at(file, position, min(length, MAX_INDEX)), re.DOTALL))
        position += length
    if b"moov" not in kinds:
        raise AudioError("truncated: it has no index (box `moov`)")
    if kinds.count(b"moov") > 1:
        raise AudioError("joined from several MP4 files, and readers stop after the first; split it")
    return Layout("MP4", demuxer="mov", note=_note_of_streams(streams))


def matroska_layout(file: BinaryIO) -> Layout:
    """Return the layout of a Matroska or WebM file.

    Raises `AudioError` if its segment exceeds the file, or if another file or unknown bytes follow it.
    """
    size, position = size_of(file), 0
    for _ in range(2):  # the header, then the segment
        data = read_at(file, position, 12)
        identifier = _leading_zeros(data[:1]) + 1
        width = _leading_zeros(data[identifier : identifier + 1]) + 1
        field = data[identifier : identifier + width]
        length = int.from_bytes(field, "big") & (1 << 7 * width) - 1
        if length == (1 << 7 * width) - 1:
            return Layout("WebM", demuxer="matroska")  # a stream of unstated length
        position += identifier + width + length
    if position > size:
        raise AudioError(f"truncated: the header declares {position} bytes, the file has {size}")
    if read_at(file, position, 4) == EBML:
        raise AudioError("joined from several WebM files, and readers may stop after the first; split it")
    tracks = read_at(file, 0, MAX_TRACKS).partition(CLUSTER)[0].count(AUDIO_TRACK)
    notes = (_note_of_streams(tracks), note_of_rest(file, position, size))
    return Layout("WebM", demuxer="matroska", note="; ".join(filter(None, notes)))


def _note_of_streams(streams: int) -> str:
    return f"it has {streams} audio streams, of which the first was read" if streams > 1 else ""


def asf_layout(file: BinaryIO) -> Layout:
    """Return the layout of an ASF file (WMA); raise `AudioError` if it is shorter than it declares."""
    size = size_of(file)
    head = read_at(file, 0, 4096)
    at = head.find(ASF_FILE_PROPERTIES)
    declared = int.from_bytes(head[at + 40 : at + 48], "little") if at >= 0 else 0
    if declared > size:
        raise AudioError(f"truncated: the header declares {declared} bytes, the file has {size}")
    note = note_of_rest(file, declared, size) if declared else ""
    return Layout("WMA", demuxer="asf", note=note)


def _leading_zeros(byte: bytes) -> int:
    return 8 - byte[0].bit_length() if byte else 0
