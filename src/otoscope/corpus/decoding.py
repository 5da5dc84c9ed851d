"""Opening a sound file: the decoder that delivers what the container holds.

libsndfile decodes the file if it reads the same rate, channels and length from it as the walk through its container. If
not, it gets the parts of the file that hold the sound, with a corrected header. ffmpeg decodes what neither covers.
"""

import io
import stat
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast, runtime_checkable

import numpy as np
import soundfile
from jaxtyping import Float32

from otoscope.artifacts import is_exhausted
from otoscope.corpus.containers import ByteSpan, Layout, Part, find_layout
from otoscope.corpus.ffmpeg import REMEDY, FfmpegSound, find_ffmpeg
from otoscope.errors import AudioError, OtoscopeError, quote
from otoscope.formatting import one_line

UNSTATED = 1 << 40
"""libsndfile reports more samples than this if a stream does not state its length."""

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 100, 10_000_000
"""Range of sample rates; a wrong rate of 4 Hz would make hours of a second."""


@runtime_checkable
class OpenSound(Protocol):
    """A sound file that is open: its rate, channels and samples, and the samples themselves in blocks.

    `samples` is None until the end is decoded, if no header and no walk states it; it is accurate to `slack`. `note`
    says what is unusual about the file. Decoding a lossy encoding (`is_lossy`) may exceed full scale.
    """

    rate_hz: int
    channels: int
    samples: int | None
    slack: int
    note: str
    is_lossy: bool

    def blocks(self, first: int, count: int | None, block: int) -> Generator[Float32[np.ndarray, "samples channels"]]:
        """Yield the samples from `first` on, at most `count`, in blocks of at most `block`."""
        ...


@contextmanager
def open_sound(path: Path) -> Generator[OpenSound]:
    """Open a sound file; raise `AudioError` with the reason if it is missing, empty, no sound, or truncated.

    Any other exception while it is open, which one file causes, becomes an `AudioError` with its type; faults of the
    machine (`is_exhausted`) do not.
    """
    try:
        _check_file(path)
        layout = find_layout(path)
        with ExitStack() as stack:
            for part in layout.parts if layout else ():
                _check_rate(part.rate_hz)
            sound = _open(path, layout, stack)
            _check_rate(sound.rate_hz)
            yield sound
    except OtoscopeError:
        raise
    except Exception as error:
        if is_exhausted(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise AudioError(f"cannot be read ({error.strerror})") from error
        raise AudioError(f"cannot be decoded ({type(error).__name__}: {one_line(error, 200)})") from error


def _check_rate(rate_hz: int) -> None:
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise AudioError(
            f"its header declares a sample rate of {rate_hz} Hz; allowed: {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz"
        )


def _check_file(path: Path) -> None:
    """Raise `AudioError` if a path is no regular file, or an empty one."""
    try:
        state = path.stat()
    except FileNotFoundError as error:
        raise AudioError(_absent(path)) from error
    if stat.S_ISDIR(state.st_mode):
        raise AudioError("is a folder, not a file")
    if not stat.S_ISREG(state.st_mode):  # a pipe would block
        raise AudioError("is no regular file, but a pipe, a socket or a device")
    if state.st_size == 0:
        raise AudioError("empty file (0 bytes)")


def _absent(path: Path) -> str:
    """Return that a file does not exist, and a file beside it whose name differs in case or extension only."""
    if path.is_symlink():
        return "broken link (its file does not exist)"
    folder = path.parent
    names = _names_in(folder, folder.stat().st_mtime_ns) if folder.is_dir() else {}
    near = names.get(path.name.casefold()) or names.get(path.stem.casefold())
    return f"no such file: its folder has {quote(near)}" if near else "no such file"


@lru_cache(maxsize=16)
def _names_in(folder: Path, changed_ns: int) -> dict[str, str]:  # noqa: ARG001 - a changed folder is read again
    """Return the names in a folder by their lower-case form, with and without extension."""
    names = sorted(entry.name for entry in folder.iterdir())
    return {Path(name).stem.casefold(): name for name in names} | {name.casefold(): name for name in names}


def _open(path: Path, layout: Layout | None, stack: ExitStack) -> OpenSound:
    """Return the first decoder that agrees with the layout."""
    if layout is None:
        file = stack.enter_context(_open_file(path, None))
        return SndfileSound([file], [Part((), file.samplerate, file.channels, file.frames)])
    reason = f"{layout.form} is not read by libsndfile"
    if layout.parts:
        try:
            return _open_with_sndfile(path, layout, stack)
        except AudioError as error:
            reason = str(error)
    if not layout.demuxer:
        raise AudioError(reason)
    if find_ffmpeg() is None:
        raise AudioError(f"{reason}; {REMEDY}")
    sound = FfmpegSound(path, layout.demuxer)
    stack.callback(sound.close)
    sound.note = layout.note
    return sound


def _open_with_sndfile(path: Path, layout: Layout, stack: ExitStack) -> OpenSound:
    """Open a file with libsndfile, or its parts; raise `AudioError` if what it reads differs from the layout."""
    if layout.direct:
        try:
            file = _open_file(path, None)
        except AudioError:
            pass  # the part, with its corrected header, may be readable
        else:
            stack.callback(file.close)
            if not _difference(file, layout.parts[0]):
                return SndfileSound([file], layout.parts, layout.note)
    files: list[soundfile.SoundFile] = []
    for part in layout.parts:
        source = stack.enter_context(PiecedFile(path, part.pieces))
        files.append(stack.enter_context(_open_file(source, part)))
        if difference := _difference(files[-1], part):
            raise AudioError(difference)
    return SndfileSound(files, layout.parts, layout.note)


def _difference(file: soundfile.SoundFile, part: Part) -> str:
    """Return in which way libsndfile reads a part differently from the walk; an empty string if it does not."""
    if (file.samplerate, file.channels) != (part.rate_hz, part.channels):
        read = f"{file.channels} channels at {file.samplerate} Hz"
        return f"contradicts itself: libsndfile reads {read}, its container has {part.channels} at {part.rate_hz} Hz"
    if part.subtype not in (None, file.subtype):
        return f"contradicts itself: libsndfile reads {file.subtype}, its container has {part.subtype}"
    is_stated = part.samples is not None and file.frames <= UNSTATED
    if part.samples is not None and is_stated and abs(file.frames - part.samples) > part.slack:
        return f"contradicts itself: libsndfile reads {file.frames} samples, its container has {part.samples}"
    return ""


class _SequentialFile(soundfile.SoundFile):
    """A sound file without seeks between blocks; soundfile seeks after every block by default.

    After a seek, an MP3 decoder lacks the bit reservoir of the preceding frames, and its samples are wrong.
    """

    def seekable(self) -> bool:
        return False


def _open_file(source: "Path | PiecedFile", part: Part | None) -> soundfile.SoundFile:
    """Open a file with libsndfile; a part with a byte order has no header."""
    readable = cast("BinaryIO", source)
    try:
        if part is None or part.endian is None:
            return _SequentialFile(readable)
        return _SequentialFile(
            readable,
            samplerate=part.rate_hz,
            channels=part.channels,
            subtype=part.subtype,
            endian=part.endian,
            format="RAW",
        )
    # soundfile raises TypeError for a headerless .raw file
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise AudioError(f"cannot be decoded as audio ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the message of an error of soundfile without the name of the file, which differs between machines."""
    return str(error).strip().rpartition(": ")[2]


LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER")
"""Beginnings of libsndfile's names of lossy encodings that may exceed full scale."""


class SndfileSound:
    """Sound that libsndfile decodes, from one file or from several parts in a row."""

    def __init__(self, files: Sequence[soundfile.SoundFile], parts: Sequence[Part], note: str = "") -> None:
        self._files, self._parts = files, parts
        self.rate_hz, self.channels, self.note = parts[0].rate_hz, parts[0].channels, note
        lengths = [part.samples for part in parts]
        self.samples = None if None in lengths else sum(length for length in lengths if length is not None)
        self.slack = sum(part.slack for part in parts)
        self.is_lossy = any(file.subtype.startswith(LOSSY) for file in files)

    def blocks(self, first: int, count: int | None, block: int) -> Generator[Float32[np.ndarray, "samples channels"]]:
        """Yield the samples from `first` on, at most `count`, in blocks of at most `block`."""
        position = 0
        for file, part in zip(self._files, self._parts, strict=True):
            length = part.samples
            if length is not None and position + length <= first:
                position += length
                continue
            start = max(0, first - position)
            if start:
                file.seek(max(0, start - part.preroll))
                for _ in _read(file, min(start, part.preroll), block):
                    pass
            left = None if length is None else length - start
            if count is not None:
                left = count if left is None else min(left, count)
            for decoded in _read(file, left, block):
                if count is not None:
                    count -= len(decoded)
                yield decoded
            position += length or 0


def _read(
    file: soundfile.SoundFile, count: int | None, block: int
) -> Generator[Float32[np.ndarray, "samples channels"]]:
    """Yield at most `count` samples; blocks keep a wrong header from a huge allocation."""
    while count is None or count > 0:
        try:
            decoded = file.read(block if count is None else min(count, block), dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise AudioError(f"cannot be decoded as audio ({_reason(error)})") from error
        if not len(decoded):
            return
        if count is not None:
            count -= len(decoded)
        yield decoded


class PiecedFile(io.RawIOBase):
    """A file of literal bytes and spans of another file, read-only."""

    def __init__(self, path: Path, pieces: Sequence[bytes | ByteSpan]) -> None:
        self._file = path.open("rb")
        self._pieces = pieces
        sizes = [len(piece) if isinstance(piece, bytes) else piece.stop - piece.start for piece in pieces]
        self._ends = np.cumsum(sizes)
        self._position = 0

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, int(self._ends[-1]))
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:  # libsndfile's buffers are of no public type
        """Read into a buffer; return the number of bytes, 0 at the end."""
        filled = 0
        while filled < len(buffer) and self._position < self._ends[-1]:
            at = int(np.searchsorted(self._ends, self._position, side="right"))
            piece, left = self._pieces[at], int(self._ends[at]) - self._position
            count = min(left, len(buffer) - filled)
            if isinstance(piece, bytes):
                data = piece[len(piece) - left :][:count]
            else:
                self._file.seek(piece.stop - left)
                data = self._file.read(count)
            if not data:
                break  # the file has become shorter
            buffer[filled : filled + len(data)] = data
            filled += len(data)
            self._position += len(data)
        return filled

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
