"""Containers of sound: which bytes of a file hold sound, and how many samples they must decode to.

One module per family walks the structure of a file without decoding it. `find_layout` chooses it by the content, never
by the file's name. A walker raises `AudioError` for a file that is truncated or contradicts itself.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from otoscope.corpus.containers import boxes, mpeg
from otoscope.corpus.containers.aiff import aiff_layout
from otoscope.corpus.containers.au import au_layout, sphere_layout
from otoscope.corpus.containers.beyond import after_tags, note_of_rest
from otoscope.corpus.containers.caf import caf_layout
from otoscope.corpus.containers.flac import flac_layout
from otoscope.corpus.containers.layout import ByteSpan as ByteSpan
from otoscope.corpus.containers.layout import Layout as Layout
from otoscope.corpus.containers.layout import Part as Part
from otoscope.corpus.containers.layout import read_at, size_of
from otoscope.corpus.containers.ogg import ogg_layout
from otoscope.corpus.containers.voc import voc_layout
from otoscope.corpus.containers.wave import riff_layout, wave64_layout
from otoscope.errors import AudioError

WALKERS: tuple[tuple[int, bytes, Callable[[BinaryIO], Layout]], ...] = (
    (0, b"RIFF", riff_layout),
    (0, b"RIFX", riff_layout),
    (0, b"RF64", riff_layout),
    (0, b"riff\x2e\x91\xcf\x11", wave64_layout),
    (8, b"AIFF", aiff_layout),
    (8, b"AIFC", aiff_layout),
    (0, b".snd", au_layout),
    (0, b"dns.", au_layout),
    (0, b"caff", caf_layout),
    (0, b"NIST_1A", sphere_layout),
    (0, b"Creative Voice File", voc_layout),
    (0, b"fLaC", flac_layout),
    (0, b"OggS", ogg_layout),
    (4, b"ftyp", boxes.mp4_layout),
    (4, b"moov", boxes.mp4_layout),
    (0, boxes.EBML, boxes.matroska_layout),
    (0, boxes.ASF_HEADER, boxes.asf_layout),
)
"""Bytes at a position that identify a family, and its walker."""

DEMUXERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"#!AMR", "AMR", "amr"),
    (0, b"wvpk", "WavPack", "wv"),
    (0, b"MAC ", "Monkey's Audio", "ape"),
    (0, b"TTA1", "True Audio", "tta"),
    (0, b"\x0b\x77", "AC-3", "ac3"),
)
"""Formats that ffmpeg decodes, without a walker: bytes at a position, name, demuxer."""

OTHERS = (b"\x64\xa3", b"\xa3\x64", b" paf", b"fap ", b"PVF1", b"2BIT")
"""First bytes of rare formats that libsndfile decodes: IRCAM, Paris, PVF, AVR."""


def sniff(path: Path) -> bool:
    """Return whether the first bytes of a file are those of sound that libsndfile reads; false if it cannot be read.

    Containers of video (AVI, MP4, Matroska, ASF) are left out.
    """
    try:
        if not path.is_file():  # a pipe would block
            return False
        with path.open("rb") as file:
            head = file.read(64)
            if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
                return head[8:12] == b"WAVE"
            if head[:4] == b"OggS":
                return any(mark in head for mark in (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex"))
            if (walker := _walker(head)) is not None and walker not in VIDEO:
                return True
            size = size_of(file)
            start = after_tags(file, 0, size)
            return read_at(file, start, 4) == b"fLaC" or mpeg.find_frame(file, start, size, junk=0) is not None
    except OSError:
        return False


VIDEO = (boxes.mp4_layout, boxes.matroska_layout, boxes.asf_layout)
"""Walkers of containers that mostly hold video."""


def find_layout(path: Path) -> Layout | None:
    """Return the layout of a sound file; None for rare formats of libsndfile, which no walker knows.

    Raises `AudioError` if it is no sound, is truncated, or contradicts itself, and `OSError` if it cannot be read.
    """
    with path.open("rb") as file:
        head = read_at(file, 0, 64)
        if (walker := _walker(head)) is not None:
            return walker(file)
        for at, mark, form, demuxer in DEMUXERS:
            if head[at : at + len(mark)] == mark:
                return Layout(form, demuxer=demuxer)
        if head.startswith(OTHERS) or (head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV")):
            return None
        start = after_tags(file, 0, size_of(file))
        if read_at(file, start, 4) == b"fLaC":
            return flac_layout(file)
        if _adts_frame(file, start) and _adts_frame(file, start + _adts_frame(file, start)):
            return _adts_layout(file, start)
        if mpeg.find_frame(file, start, size_of(file)) is not None:
            return mpeg.mpeg_layout(file)
    raise AudioError(f"cannot be decoded as audio ({_content(head)})")


NO_SOUND: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file with `git lfs pull`"),
    (b"/annex/objects/", "a pointer of git-annex; fetch the file with `git annex get`"),
    (b"MThd", "MIDI, which holds notes and no sound"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x93NUMPY", "a NumPy array; write it as WAV"),
    (b"\x89HDF", "an HDF5 file; write its sound as WAV"),
    *((mark, "a web page or XML, as a server sends that refuses a download") for mark in (b"<!", b"<?", b"<html")),
)
"""First bytes of files that are often named as sound."""


def _content(head: bytes) -> str:
    """Return a description of a file that is no known sound, from its first bytes."""
    if kind := next((kind for mark, kind in NO_SOUND if head.lstrip().startswith(mark)), None):
        return f"its content is {kind}"
    if not head.strip(b"\0"):
        return "it begins with zeros; copy or download it again"
    if head.isascii() and head.decode("ascii").replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return "its content is text"
    return "its content is in no known format"


def _walker(head: bytes) -> Callable[[BinaryIO], Layout] | None:
    """Return the walker of a file that begins with these bytes; None for other formats."""
    return next((walker for at, mark, walker in WALKERS if head[at : at + len(mark)] == mark), None)


def _adts_layout(file: BinaryIO, position: int) -> Layout:
    """Return the layout of AAC frames; raise `AudioError` if the last one is cut, and for bytes between or after."""
    size = size_of(file)
    while length := _adts_frame(file, position):
        if position + length > size:
            raise AudioError(f"truncated: the last AAC frame has {length} bytes, {size - position} are left")
        position += length
    return Layout("AAC", demuxer="aac", note=note_of_rest(file, position, size))


def _adts_frame(file: BinaryIO, position: int) -> int:
    """Return the length of the AAC frame at a position; 0 if there is none."""
    head = read_at(file, position, 7)
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length >= 7 else 0
