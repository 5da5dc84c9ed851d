"""Clips before decoding: the interface of a corpus kind, the table that it lists, and the search for audio files."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, ClassVar, NamedTuple

import polars as pl
from pydantic import AfterValidator, BaseModel, Field, model_validator

from otoscope.corpus.audio import EXTENSIONS
from otoscope.corpus.containers import sniff
from otoscope.corpus.ffmpeg import FFMPEG_EXTENSIONS, REMEDY, find_ffmpeg
from otoscope.errors import ConfigError, CorpusError
from otoscope.formatting import count, first_few, is_clean, printable
from otoscope.paths import user_path

ProgressCallback = Callable[[int, int], None]
"""Called as `on_progress(done, total)` in clips, always from the calling thread."""


def _expand(path: Path) -> Path:
    try:
        return user_path(path)
    except ConfigError as error:
        raise ValueError(str(error)) from error


UserPath = Annotated[Path, AfterValidator(_expand)]
"""A path in a configuration; `load_config` resolves relative ones against the folder of the file."""

LISTING_COLUMNS: dict[str, pl.DataType] = {
    "path": pl.String(),
    "start_s": pl.Float64(),
    "duration_s": pl.Float64(),
    "group": pl.String(),
    "split": pl.String(),
}
"""Columns of every listing; `label_*` (strings, null if unknown) and `factor_*` (floats) follow."""

EACH = 0
"""Channel of a listed clip that stands for every channel of its file, as a clip of its own."""

SET_ASIDE_COLUMNS: dict[str, pl.DataType] = {"path": pl.String(), "reason": pl.String()}


class Listing(NamedTuple):
    """Clips before decoding: the columns of `LISTING_COLUMNS`, then any `channel`, `label_*` and `factor_*`.

    `path` is relative to `root`. Null `duration_s`: to the end of the file; null `split`: to be assigned; null label:
    unknown; null `channel`: the mean of all, `EACH`: a clip per channel. `set_aside` names files that cannot be listed
    (`path, reason`). `group_source` and `notes` are shown by the corpus stage: the origin of the groups, and what was
    unusual about the input.
    """

    name: str
    root: Path
    licence: str
    citation: str
    clips: pl.DataFrame
    set_aside: pl.DataFrame = pl.DataFrame(schema=SET_ASIDE_COLUMNS)
    group_source: str = ""
    notes: tuple[str, ...] = ()


class CorpusSpec(BaseModel, ABC, frozen=True, extra="forbid", allow_inf_nan=False):
    """Base class of a corpus kind: its validated settings, and the listing of its clips.

    A subclass narrows `kind` to its name in a configuration and may set `group_noun`, the reader's word for a group.
    """

    group_noun: ClassVar[str] = "group"
    sets_length: ClassVar[bool] = False
    """True if the settings fix the length of all clips."""

    kind: str
    annotations: UserPath | None = Field(
        default=None,
        description="folder with annotations in time, one file per recording: TextGrid, Audacity, Raven, JAMS, ELAN,"
        " CTM, TIMIT",
    )
    tiers: tuple[str, ...] = Field(default=(), description="tiers of the annotations to use; default: all")

    @property
    def annotated(self) -> bool:
        """True if there are annotations in time, given or generated with the clips."""
        return self.annotations is not None

    def annotation_folder(self, cache: Path) -> Path | None:  # noqa: ARG002
        """Return the folder of the annotations; a generated corpus has them in `cache`."""
        return self.annotations

    @model_validator(mode="after")
    def _tiers_of_annotations(self) -> "CorpusSpec":
        if self.tiers and not self.annotated:
            raise ValueError("tiers chooses among annotations; set annotations to their folder, or remove tiers")
        return self

    @abstractmethod
    def listing(self, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:
        """List the clips; a generated corpus writes its audio into the folder `cache` and reports to `on_progress`."""


class AudioFiles(NamedTuple):
    """Audio files of a folder: sorted relative paths with forward slashes, files with unusable names, and notes.

    The notes count the files that are not read, by extension.
    """

    paths: list[str]
    set_aside: pl.DataFrame
    notes: tuple[str, ...] = ()


def find_audio(root: Path) -> AudioFiles:
    """Return every file with sound under a folder; follow links, skip hidden names.

    Files with an extension of audio (any case) are found, and others that begin as sound does (`containers.sniff`),
    unless their extension marks a copy or an unfinished file (`PARTIAL`). What needs ffmpeg is not read where it is not
    installed. Videos are read only where there is nothing else, because recordings often lie beside theirs. Raises
    `CorpusError` if the folder does not exist or holds no audio; the message counts what it holds instead.
    """
    if not root.is_dir():
        state = "is a file, not a folder" if root.is_file() else "does not exist"
        raise CorpusError(f"the corpus folder {root} {state}; set `root` to the folder that holds the recordings")
    readable = EXTENSIONS | FFMPEG_EXTENSIONS if find_ffmpeg() else EXTENSIONS
    found: list[str] = []
    videos: list[str] = []
    others: Counter[str] = Counter()
    by_content: Counter[str] = Counter()
    passed_over: dict[str, list[str]] = {kind: [] for kind in PASSED_OVER}
    for relative in _walk(root, passed_over):
        extension, is_known = PurePosixPath(relative).suffix.lower(), is_sound_name(PurePosixPath(relative))
        if not is_known and not (root / relative).exists():
            passed_over["broken"].append(relative)
        elif not is_known and not extension.endswith(PARTIAL) and sniff(root / relative):
            by_content[extension or "no extension"] += 1
            found.append(relative)
        elif extension in readable:
            found.append(relative)
        else:
            others[extension or "no extension"] += 1
            videos += [relative] * (extension in FFMPEG_VIDEOS)
    notes: list[str] = []
    if not found and videos and find_ffmpeg():
        found = videos
        read = {extension: others.pop(extension) for extension in sorted(FFMPEG_VIDEOS & others.keys())}
        notes.append(f"no files of sound alone: that of {_counted(read.items())} is read")
    notes += [*_notes_of_passed_over(passed_over), *_notes_of_others(others)]
    folders = {path.name for path in root.iterdir() if path.is_dir() and not _is_hidden(path.name)}
    if silent := sorted(folders - {PurePosixPath(path).parts[0] for path in found}):
        shown = ", ".join(printable(name, lines=False) for name in silent[:MAX_SHOWN])
        notes.insert(0, f"no sound in {count(len(silent), 'folder')}: {shown}")
    if by_content:
        notes.insert(0, f"read as sound by their content: {_counted(by_content.most_common(MAX_SHOWN))}")
    if not found:
        looked_for = f"looked for {' '.join(sorted(readable))}"
        raise CorpusError(f"no audio under {root}: {looked_for}; {'; '.join(notes) or 'found nothing'}")
    unnamed = [(printable(path, lines=False), _problem_of(path)) for path in found if not is_clean(path)]
    return AudioFiles(sorted(filter(is_clean, found)), set_aside_table(sorted(unnamed)), tuple(notes))


def _problem_of(name: str) -> str:
    is_text = not any("\ud800" <= character <= "\udfff" for character in name)
    problem = "has a control character, such as a line break" if is_text else "is not valid UTF-8"
    return f"the file's name {problem}; rename it"


PASSED_OVER = {
    "unread": ("warning: {}", "folder that cannot be read", "folders that cannot be read"),
    "broken": ("warning: {}", "link to nothing", "links to nothing"),
    "hidden": ("not read: {}", "hidden file with a name of sound", "hidden files with names of sound"),
    "hidden_folders": ("not read: {}", "hidden folder", "hidden folders"),
    "runs": ("not read: {}", "folder of a run", "folders of runs"),
    "repeated": ("read once: {}", "folder that a link leads to again", "folders that links lead to again"),
}
"""Names that are passed over, by kind: form of the note, and nouns."""


def _notes_of_passed_over(passed_over: Mapping[str, list[str]]) -> list[str]:
    """Return a note on each kind of names that are passed over."""
    return [
        f"{form.format(count(len(names), *nouns))}: "
        + first_few([printable(name, lines=False) for name in sorted(names)], MAX_SHOWN)
        for kind, (form, *nouns) in PASSED_OVER.items()
        if (names := passed_over[kind])
    ]


def _notes_of_others(others: Counter[str]) -> tuple[str, ...]:
    """Return the numbers of files that are not read: sound that needs ffmpeg, then all others."""
    sound = {extension: n for extension, n in others.items() if extension in FFMPEG_EXTENSIONS}
    videos = {extension: n for extension, n in others.items() if extension in VIDEO_EXTENSIONS}
    rest = [(extension, n) for extension, n in others.most_common() if extension not in sound | videos]
    notes: list[str] = []
    if videos:
        extract = "extract their sound with ffmpeg -i VIDEO -vn SOUND.wav, or list them in a table (kind: manifest)"
        notes.append(f"warning: {_counted(videos.items())} not read: videos; {extract}")
    if sound:
        notes.append(f"warning: {_counted(sound.items())} not read: {REMEDY}")
    if rest:
        more = f" and {sum(n for _, n in rest[MAX_SHOWN:]):,} others" if len(rest) > MAX_SHOWN else ""
        notes.append(f"not read, no sound: {_counted(rest[:MAX_SHOWN])}{more}")
    return tuple(notes)


def _counted(extensions: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{n:,} {printable(extension)}" for extension, n in extensions)


VIDEO_EXTENSIONS = frozenset((".mp4", ".mkv", ".mov", ".m4v", ".avi", ".mpg", ".mpeg", ".mts", ".wmv"))
"""Lower-case extensions of videos."""

FFMPEG_VIDEOS = frozenset((".mp4", ".mkv", ".mov", ".m4v", ".wmv"))
"""Videos whose sound ffmpeg decodes, and whose length is checked."""

MAX_SHOWN = 8
"""Extensions named in a note."""

RUN_FILES = {"run.json", "config.yaml"}
"""Files by which a folder is known as that of a run, which has sounds of its own."""

PARTIAL = (".bak", ".old", ".orig", ".part", ".tmp", ".crdownload", ".download", "~")
"""Ends of names of copies and unfinished files, which are not read whatever they hold."""


def listing_table(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Return rows as a table with the columns of `LISTING_COLUMNS`, then labels and factors in the first row's order.

    >>> listing_table([{"path": "a.wav", "group": "ann", "label_digit": "7"}]).columns
    ['path', 'start_s', 'duration_s', 'group', 'split', 'label_digit']
    """
    extra = [name for name in (rows[0] if rows else {}) if name not in LISTING_COLUMNS]
    schema = LISTING_COLUMNS | {name: pl.String() if name.startswith("label_") else pl.Float64() for name in extra}
    filled = [{"start_s": 0.0, "duration_s": None, "split": None, **row} for row in rows]
    return pl.DataFrame(filled, schema=schema)


def set_aside_table(rows: Iterable[tuple[str, str]]) -> pl.DataFrame:
    """Return pairs of path and reason as a table of clips that are set aside."""
    return pl.DataFrame(list(rows), schema=SET_ASIDE_COLUMNS, orient="row")


def _walk(root: Path, passed_over: Mapping[str, list[str]]) -> Iterable[str]:
    """Yield the relative path of every file that is not hidden; every real folder is entered once.

    Folders that cannot be read, are runs or are hidden, hidden files, and links to folders that are entered anyway are
    added to `passed_over`. Links to folders outside `root` and to hidden ones are followed. Links to other folders
    inside are not: those are entered by their own name.
    """
    real_root = root.resolve()
    entered: set[Path] = set()
    hidden: list[Path] = []

    def on_error(error: OSError) -> None:
        passed_over["unread"].append(f"{os.path.relpath(error.filename, root)} ({error.strerror})")

    for folder, below, files in os.walk(root, followlinks=True, onerror=on_error):
        current = Path(folder)
        real = current.resolve()
        again = {path for name in below if _leads_back(path := current / name, real_root)}
        passed_over["repeated"].extend(
            str(path.relative_to(root)) for path in ({current} if real in entered else again)
        )
        if real in entered:
            below.clear()
            continue
        entered.add(real)
        if set(files) >= RUN_FILES and current != root:
            passed_over["runs"].append(current.relative_to(root).as_posix())
            below.clear()
            continue
        hidden += [current / name for name in (*below, *files) if _is_hidden(name) and name != ".git"]
        below[:] = sorted(name for name in below if not _is_hidden(name) and current / name not in again)
        for name in sorted(files):
            if not _is_hidden(name):
                yield (current / name).relative_to(root).as_posix()
    for path in hidden:  # a hidden folder may hold very many files, and is not entered
        if not path.is_dir():
            passed_over["hidden"].extend([path.relative_to(root).as_posix()] if is_sound_name(path) else [])
        elif path.resolve() not in entered:
            passed_over["hidden_folders"].append(path.relative_to(root).as_posix())


def is_sound_name(path: PurePath) -> bool:
    """Return whether a name has an extension of audio."""
    return path.suffix.lower() in EXTENSIONS | FFMPEG_EXTENSIONS


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _leads_back(folder: Path, real_root: Path) -> bool:
    if not folder.is_symlink() or not (real := folder.resolve()).is_relative_to(real_root):
        return False
    return not any(map(_is_hidden, real.relative_to(real_root).parts))
