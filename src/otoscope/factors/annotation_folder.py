"""Annotation files of a corpus: a folder whose files are found by the names of the recordings."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

import polars as pl

from otoscope.corpus.audio import EXTENSIONS
from otoscope.errors import CorpusError, quote, suggest
from otoscope.factors.annotations import READERS, AnnotatedInterval, read_annotations, read_ctm
from otoscope.formatting import count, first_few, printable

MAX_SHOWN = 5
"""Recordings and files named in a line."""

_RAVEN_NAME = re.compile(r"\.table\.\d+\.selections$")


class AnnotationFolder:
    """Annotation files of a folder, found by the name of the recording.

    The file of `sung/ann_01.wav` is `sung/ann_01` or `ann_01` with an extension of `READERS`, or Raven's
    `ann_01.Table.1.selections.txt`, in the folder or the only one in the same sub-folder of any; a CTM file holds lines
    of any recording. Upper and lower case are alike. Beside other formats, a `.txt` file without a tab is a transcript
    without times, which is not read.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise CorpusError(f"the folder of annotations {root} does not exist; correct corpus.annotations")
        self.root = root
        self._by_name: dict[str, list[Path]] = {}
        self._tables: list[Path] = []
        self._transcripts: list[str] = []
        present = sorted(path for path in root.rglob("*") if path.is_file())
        files = [path for path in present if path.suffix.lower() in READERS]
        is_mixed = any(path.suffix.lower() != ".txt" for path in files)
        for path in files:
            if is_mixed and path.suffix.lower() == ".txt" and _has_no_tab(path):
                self._transcripts.append(path.name)
                continue
            if path.suffix.lower() == ".ctm":
                self._tables.append(path)
                continue
            name = path.relative_to(root).with_suffix("").as_posix().lower()
            self._by_name.setdefault(_RAVEN_NAME.sub("", name), []).append(path)
        if not self._by_name and not self._tables:
            others = Counter(path.suffix.lower() or "no extension" for path in present).most_common(MAX_SHOWN)
            found = ", ".join(f"{number:,} {printable(extension)}" for extension, number in others)
            raise CorpusError(
                f"no annotations under {root}: looked for {' '.join(sorted(READERS))}; found {found or 'nothing'};"
                " correct corpus.annotations, or convert them"
            )
        stems = Counter(PurePosixPath(key).name for key in self._by_name)
        self._only = {name: key for key in self._by_name if stems[name := PurePosixPath(key).name] == 1}

    def of(self, recording: str, *, rate_hz: int, channel: int | None = None) -> list[AnnotatedInterval]:
        """Return the intervals of a recording by its path relative to the corpus; empty if it has no file.

        Of the lines of a CTM file, those of the channel are returned, which may be a number or a letter.
        """
        name = PurePosixPath(recording).stem
        wanted = (str(channel), chr(64 + channel)) if channel else ()
        lines = self._of_tables.get(name.lower(), [])
        found = [one for of_channel, one in lines if not wanted or of_channel.upper() in wanted]
        for path in self._by_name.get(self._key(recording), []):
            found += read_annotations(path, recording=name, rate_hz=rate_hz)
        return sorted(found)

    def of_clips(self, clips: pl.DataFrame, tiers: Sequence[str]) -> Iterator[list[AnnotatedInterval]]:
        """Yield the intervals of the tiers, or of all, in the recording of each clip; neighbours share one reading."""
        of = lru_cache(maxsize=1)(self.of)
        for path, rate_hz, *channel in clips.select("path", "rate_hz", "^channel$").iter_rows():
            found = of(path, rate_hz=rate_hz, channel=channel[0] if channel else None)
            yield [one for one in found if not tiers or one.tier in tiers]

    def check(self, recordings: Sequence[str], tiers: Sequence[str]) -> None:
        """Read all files of the recordings; raise `CorpusError` if one cannot be read, or a tier has no label."""
        if not recordings:  # none is possible, which has a reason of its own
            return
        if not any(self._has(one) for one in recordings):
            files = [path for paths in self._by_name.values() for path in paths] or self._tables
            raise CorpusError(
                f"no annotations for any recording, such as {recordings[0]}, under {self.root}, which has"
                f" {files[0].relative_to(self.root)}; name each file like its recording"
            )
        known: set[str] = set()
        faults: list[CorpusError] = []
        for recording in recordings:
            try:
                known |= {one.tier for one in self.of(recording, rate_hz=1)}
            except CorpusError as error:
                faults.append(error)
        if faults:
            more = count(len(faults) - 1, "more recording")
            others = f"; annotations of {more} cannot be read either" if len(faults) > 1 else ""
            raise CorpusError(f"{faults[0]}{others}")
        if missing := [tier for tier in tiers if tier not in known]:
            others = suggest(missing[0], known) if known else "nor has any other tier"
            raise CorpusError(f"tier {quote(missing[0])} has no label in any file under {self.root}; {others}")
        if not known:
            raise CorpusError(f"no file under {self.root} has a label for the recordings; label the intervals")

    def notes(self, recordings: Sequence[str], *, left_out: Iterable[str]) -> list[str]:
        """Return notes about files without a recording, used or left out, and files that several recordings share."""
        of_key: dict[str, list[str]] = {}
        for recording in recordings:
            of_key.setdefault(self._key(recording), []).append(recording)
        known = of_key.keys() | set(map(self._key, left_out))
        lines: list[str] = []
        if self._transcripts:
            lines.append(
                f"annotations: {count(len(self._transcripts), '.txt file')} without times, such as transcripts, not"
                f" read: {first_few(self._transcripts, MAX_SHOWN)}"
            )
        unused = [path.name for key, paths in self._by_name.items() if key not in known for path in paths]
        if unused:
            lines.append(
                f"annotations: {count(len(unused), 'file')} without a recording in the corpus:"
                f" {first_few(unused, MAX_SHOWN)}"
            )
        shared = {key: sharing for key, sharing in of_key.items() if len(sharing) > 1 and key in self._by_name}
        for key, sharing in list(shared.items())[:1]:
            several = f"{count(len(shared), 'name')} of annotation files, such as {key}"
            lines.append(
                f"warning: {several}, each stand for several recordings ({first_few(sharing, MAX_SHOWN)}); put the"
                " files into sub-folders named like those of their recordings"
            )
        return lines

    def _has(self, recording: str) -> bool:
        return PurePosixPath(recording).stem.lower() in self._of_tables or self._key(recording) in self._by_name

    def _key(self, recording: str) -> str:
        """Return the name by which the files of a recording are found: with its folder if there are such files."""
        path = PurePosixPath(recording.lower()).with_suffix("")
        only = self._only.get(path.name, "")
        is_same = f"/{only}".endswith(f"/{path}") or f"/{path}".endswith(f"/{only}")
        return next((key for key in (str(path), path.name) if key in self._by_name), only if is_same else path.name)

    @cached_property
    def _of_tables(self) -> dict[str, list[tuple[str, AnnotatedInterval]]]:
        """Channels and intervals of the CTM files by the name of the recording; each file is read once for all."""
        found: dict[str, list[tuple[str, AnnotatedInterval]]] = {}
        for path in self._tables:
            for name, channel, interval in read_ctm(path):
                known = PurePosixPath(name.lower())
                key = known.stem if known.suffix in EXTENSIONS else str(known)
                found.setdefault(key, []).append((channel, interval))
        return found


def _has_no_tab(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\t" not in file.read(1 << 16)
    except OSError:
        return False  # reading names the reason
