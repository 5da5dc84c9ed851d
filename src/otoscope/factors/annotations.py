"""Annotations in time: labelled intervals per tier, from Praat, Audacity, Raven, JAMS, ELAN, CTM and TIMIT files.

The format follows from the extension, and for `.txt` from the content. Times are in seconds from the start of the
recording; points have equal start and end. Empty labels are skipped.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar
from xml.etree import ElementTree

from otoscope.errors import CorpusError, quote, suggest
from otoscope.formatting import is_clean, one_line
from otoscope.tables import decode_text

LARGEST_BYTES = 64 * 2**20
"""Size above which a file is refused: an hour of phones takes about 2 MB in the longest of these formats."""

LONGEST_LABEL, MAX_COLUMNS, MAX_DEPTH = 10_000, 1000, 50
"""Characters of a label, columns of a selection table, and levels of an ELAN file above which a file is refused."""

LATE_S = 0.05
"""Time by which an interval may end after its recording, from rounding in other programs; it is cut without a note."""


class AnnotatedInterval(NamedTuple):
    """A label of a tier from `start_s` to `end_s`, in seconds from the start of the recording."""

    tier: str
    start_s: float
    end_s: float
    label: str


Reader = Callable[[str, str, int], Iterator[AnnotatedInterval]]
"""Reads a text, given the recording's name without extension and its sample rate in Hz."""


def read_annotations(path: Path, *, recording: str, rate_hz: int) -> list[AnnotatedInterval]:
    """Return the labelled intervals of a file, in order of tier and time.

    Args:
        path: the file; its extension names the format, one of `READERS`.
        recording: name of the recording without extension; selects its lines in a CTM file.
        rate_hz: sample rate of the recording, in which TIMIT counts.

    Raises `CorpusError` for another format, text that does not fit its format, times that are negative, not finite or
    reversed.
    """
    reader, _ = READERS.get(path.suffix.lower(), (None, ""))
    if reader is None:
        raise CorpusError(f"{path} has no known annotation format; {suggest(path.suffix.lower(), READERS)}")
    found = [one for one in _parse(path, lambda text: reader(text, recording, rate_hz)) if one.label]
    _require_valid(path, found)
    return sorted(found)


Row = TypeVar("Row")

FAULTS = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, ElementTree.ParseError)
"""Errors of a reader at text that does not fit its format."""


def _parse(path: Path, read: Callable[[str], Iterable[Row]]) -> list[Row]:
    """Return what `read` finds in the text of a file; raise `CorpusError` if it does not fit the format."""
    text = _decode(path)
    try:
        return list(read(text))
    except FAULTS as error:
        raise CorpusError(
            f"{path} is not a {READERS[path.suffix.lower()][1]} ({_fault(error)}); correct or remove it"
        ) from error


def _fault(error: Exception) -> str:
    """Return an error of a reader without words of Python."""
    if isinstance(error, KeyError):
        return f"{one_line(error, 120)} is missing"
    if isinstance(error, TypeError | AttributeError):
        return "a value is missing, or of another kind"
    return one_line(error, 120).replace("could not convert string to float:", "no number:")


def _require_valid(path: Path, intervals: Iterable[AnnotatedInterval]) -> None:
    """Raise `CorpusError` for times that are negative, not finite or reversed, and for labels that are too long."""
    for interval in intervals:
        if not (math.isfinite(interval.end_s) and 0 <= interval.start_s <= interval.end_s):
            raise CorpusError(
                f"{path}: {quote(interval.label)} of tier {quote(interval.tier)} lasts from {interval.start_s:g} to "
                f"{interval.end_s:g} s; expected 0 <= start <= end"
            )
        if len(interval.label) > LONGEST_LABEL or len(interval.tier) > LONGEST_LABEL:
            raise CorpusError(
                f"{path}: a label of tier {quote(interval.tier)} has {len(interval.label):,} characters; at most "
                f"{LONGEST_LABEL:,} are read"
            )
        if not (is_clean(interval.label) and is_clean(interval.tier)):
            raise CorpusError(f"{path}: {quote(interval.label)} of tier {quote(interval.tier)} has a control character")


def within_clip(
    intervals: Sequence[AnnotatedInterval], *, start_s: float, duration_s: float
) -> tuple[list[AnnotatedInterval], int]:
    """Return the intervals that overlap a clip, cut to it and relative to its start, and the number beyond its end.

    An interval counts as beyond only if it starts after the end of the clip, or ends later than `LATE_S` after it.

    >>> word = AnnotatedInterval("words", 1.0, 1.5, "one")
    >>> within_clip([word], start_s=0.5, duration_s=0.8)
    ([AnnotatedInterval(tier='words', start_s=0.5, end_s=0.8, label='one')], 1)
    """
    end_s = start_s + duration_s
    kept = [
        one._replace(start_s=max(one.start_s - start_s, 0.0), end_s=min(one.end_s, end_s) - start_s)
        for one in intervals
        if one.start_s < end_s and (one.end_s > start_s or one.start_s == one.end_s >= start_s)
    ]
    return kept, sum(one.end_s > end_s + LATE_S for one in intervals)


def count_overlaps(intervals: Sequence[AnnotatedInterval]) -> int:
    """Return how many intervals of a recording start before an earlier one of their tier ends; points do not count.

    >>> one, two = AnnotatedInterval("words", 0.0, 0.5, "one"), AnnotatedInterval("words", 0.4, 0.9, "two")
    >>> count_overlaps([one, two]), count_overlaps([one, two._replace(tier="other")])
    (1, 0)
    """
    overlaps = 0
    last_end_s: dict[str, float] = {}
    for one in sorted(intervals, key=lambda interval: interval.start_s):
        if one.end_s > one.start_s:
            overlaps += one.start_s < last_end_s.get(one.tier, 0.0)
            last_end_s[one.tier] = max(one.end_s, last_end_s.get(one.tier, 0.0))
    return overlaps


def _decode(path: Path) -> str:
    try:
        if not path.is_file():
            raise CorpusError(f"{path} is not a file; annotations are read from files")
        if path.stat().st_size > LARGEST_BYTES:
            raise CorpusError(f"{path} has {path.stat().st_size:,} bytes; annotation files up to 64 MiB are read")
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); correct its permissions or remove it") from error
    if data.startswith(b"ooBinaryFile"):
        raise CorpusError(f"{path} is a binary file of Praat; save it as a text file")
    return decode_text(data, path)[0]


_PRAAT_TOKEN = re.compile(
    r'"([^"]*(?:""[^"]*)*)"|<(\w+)>|(?<!\S)([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)|![^\n]*'
)


def _textgrid(text: str, recording: str, rate_hz: int) -> Iterator[AnnotatedInterval]:
    """Read both text forms by Praat's rule: quoted texts, <flags> and free-standing numbers; the rest is comment."""
    del recording, rate_hz
    tokens: list[str | float] = []
    for match in _PRAAT_TOKEN.finditer(text):
        quoted, flag, number = match.groups()
        if quoted is not None:
            tokens.append(quoted.replace('""', '"'))
        elif number is not None:
            tokens.append(float(number))
        elif flag is not None:
            tokens.append(f"<{flag}>")
    parts = iter(tokens)
    if [next(parts, None), next(parts, None)] != ["ooTextFile", "TextGrid"]:
        raise ValueError("it does not begin with ooTextFile and TextGrid")
    _skip_span(parts)
    if not _has_tiers(parts):
        return
    for _ in range(int(_number(parts))):
        kind, tier = _string(parts), _string(parts).strip()
        _skip_span(parts)
        if kind not in ("IntervalTier", "TextTier"):
            raise ValueError(f"{kind!r} is no kind of tier")
        for _ in range(int(_number(parts))):
            start_s = _number(parts)
            end_s = _number(parts) if kind == "IntervalTier" else start_s
            yield AnnotatedInterval(tier, start_s, end_s, _string(parts).strip())


def _has_tiers(parts: Iterator[str | float]) -> bool:
    """Return the value of the flag that precedes the tiers."""
    flag = _string(parts)
    if flag not in ("<exists>", "<absent>"):
        raise ValueError(f"{flag!r} stands in the place of <exists> or <absent>")
    return flag == "<exists>"


def _skip_span(parts: Iterator[str | float]) -> None:
    """Skip the start and the end of a file or tier."""
    for _ in range(2):
        _number(parts)


def _number(parts: Iterator[str | float]) -> float:
    token = next(parts, None)
    if isinstance(token, float):
        return token
    raise ValueError("it ends early" if token is None else f"{token!r} stands in the place of a number")


def _string(parts: Iterator[str | float]) -> str:
    token = next(parts, None)
    if isinstance(token, str):
        return token
    raise ValueError("it ends early" if token is None else f"{token:g} stands in the place of a text")


def _audacity(text: str, recording: str, rate_hz: int) -> Iterator[AnnotatedInterval]:
    """Read lines of start, end and label between tabs; lines that begin with a backslash hold frequencies."""
    del recording, rate_hz
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("\\"):
            continue
        fields = line.split("\t")
        if len(fields) < 2:
            raise ValueError(f"line {number} has no tab; expected start, end and label")
        start_s, end_s = (float(field.replace(",", ".")) for field in fields[:2])
        yield AnnotatedInterval("labels", start_s, end_s, "\t".join(fields[2:]).strip())


RAVEN_START, RAVEN_END = "begin time (s)", "end time (s)"
RAVEN_MEASURES = re.compile(
    r"selection|view|channel|begin |end |low freq|high freq|delta |file |.*\((s|hz|db|u|ms|khz|%|samples|bits)\)", re.I
)
"""Columns of a selection table that Raven fills itself; the others are annotations."""


def _raven(text: str, recording: str, rate_hz: int) -> Iterator[AnnotatedInterval]:
    """Read one row per selection; every column that Raven does not fill itself is a tier.

    In a table over several files, `Begin File` names the one of a row, `File Offset` is the start in it, and other
    times count from the start of the first file.
    """
    del rate_hz
    header, *lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    names = [name.strip() for name in header]
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"it has {len(names):,} columns; at most {MAX_COLUMNS:,} are read")
    rows = [
        dict(zip(map(str.lower, names), map(str.strip, [*line, *[""] * len(names)]), strict=False)) for line in lines
    ]
    tiers = [name for name in names if name and not RAVEN_MEASURES.match(name)]
    files = {PurePath(row.get("begin file", "")).stem.lower() for row in rows}
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        start_s, end_s = (float(row[name].replace(",", ".")) for name in (RAVEN_START, RAVEN_END))
        key = (row.get("selection", ""), row[RAVEN_START], row[RAVEN_END])
        if key in seen and "selection" in row:  # one row per view of the same selection
            continue
        seen.add(key)
        if len(files) > 1 and PurePath(row["begin file"]).stem.lower() not in ("", recording.lower()):
            continue
        if offset := row.get("file offset (s)"):
            start_s, end_s = (time_s - start_s + float(offset.replace(",", ".")) for time_s in (start_s, end_s))
        if not tiers:
            yield AnnotatedInterval("selections", start_s, end_s, "selection")
        for tier in tiers:
            yield AnnotatedInterval(tier, start_s, end_s, row[tier.lower()])


def _text_table(text: str, recording: str, rate_hz: int) -> Iterator[AnnotatedInterval]:
    """Read a `.txt` file: Raven's if its first line names a begin time, else Audacity's."""
    first = text.partition("\n")[0].lower()
    return (_raven if RAVEN_START in first else _audacity)(text, recording, rate_hz)


def _jams(text: str, recording: str, rate_hz: int) -> Iterator[AnnotatedInterval]:
    """Read every annotation as a tier named by its namespace; a value that is no text is its JSON."""
    del recording, rate_hz
    for annotation in json.loads(text)["annotations"]:
        data: Any = annotation["data"]
        if isinstance(data, dict):  # the dense form: one list per field
            fields = ("time", "duration", "value")
            data = [dict(zip(fields, row, strict=True)) for row in zip(*(data[name] for name in fields), strict=True)]
        for row in data:
            value, start_s = row["value"], float(row["time"])
            label = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            yield AnnotatedInterval(
                str(annotation["namespace"]), start_s, start_s + float(row["duration"]), label.strip()
            )


def _elan(text: str, recording: str, rate_hz: int) -> Iterator[AnnotatedInterval]:
    """Read tiers with times of their own, and tiers that refer to them; times are in milliseconds."""
    del recording, rate_hz
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares a document type, which ELAN does not write")
    parser = ElementTree.XMLParser(target=_ShallowTree())
    parser.feed(text)  # as text: its declared encoding is that of the file, which is decoded already
    root = parser.close()
    slots = {slot.attrib["TIME_SLOT_ID"]: slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    spans: dict[str, tuple[float, float] | None] = {}
    for one in root.iter("ALIGNABLE_ANNOTATION"):
        times = [slots[one.attrib[name]] for name in ("TIME_SLOT_REF1", "TIME_SLOT_REF2")]
        # a slot without a time lies somewhere between its neighbours
        known = [int(time) / 1000 for time in times if time is not None]
        spans[one.attrib["ANNOTATION_ID"]] = (known[0], known[1]) if len(known) == 2 else None
    parents = {one.attrib["ANNOTATION_ID"]: one.attrib["ANNOTATION_REF"] for one in root.iter("REF_ANNOTATION")}
    for identifier in parents:
        above = [identifier]
        while above[-1] in parents and above[-1] not in spans:
            above.append(parents[above[-1]])
            if len(above) > len(parents) + 1:
                raise ValueError(f"annotation {identifier} refers to itself")
        spans.update(dict.fromkeys(above, spans[above[-1]]))
    for tier in root.iter("TIER"):
        for one in (*tier.iter("ALIGNABLE_ANNOTATION"), *tier.iter("REF_ANNOTATION")):
            span = spans[one.attrib["ANNOTATION_ID"]]
            if span is not None:
                label = (one.findtext("ANNOTATION_VALUE") or "").strip()
                yield AnnotatedInterval(tier.attrib["TIER_ID"], *span, label)


class _ShallowTree(ElementTree.TreeBuilder):
    """Builder of a tree of at most `MAX_DEPTH` levels: deeper ones take minutes."""

    depth = 0

    def start(self, tag: Any, attrs: Any, /) -> ElementTree.Element:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_DEPTH} levels")
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def read_ctm(path: Path) -> list[tuple[str, str, AnnotatedInterval]]:
    """Return recording, channel and interval of every line of a CTM file; raise as `read_annotations` does."""
    rows = _parse(path, _ctm_lines)
    _require_valid(path, (interval for *_, interval in rows))
    return rows


def _ctm(text: str, recording: str, rate_hz: int) -> Iterator[AnnotatedInterval]:
    """Read the lines of one recording."""
    del rate_hz
    return (interval for name, _, interval in _ctm_lines(text) if name == recording)


def _ctm_lines(text: str) -> Iterator[tuple[str, str, AnnotatedInterval]]:
    """Read lines of recording, channel, start, duration, word and, if given, a confidence."""
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        if len(fields) < 5:
            raise ValueError(f"line {number} has {len(fields)} fields; expected name, channel, start, duration, word")
        start_s = float(fields[2])
        yield fields[0], fields[1], AnnotatedInterval("words", start_s, start_s + float(fields[3]), fields[4])


def _timit(tier: str) -> Reader:
    """Return the reader of lines of first sample, last sample and label."""

    def read(text: str, recording: str, rate_hz: int) -> Iterator[AnnotatedInterval]:
        del recording
        for number, line in enumerate(text.splitlines(), start=1):
            fields = line.split(maxsplit=2)
            if fields:
                if len(fields) < 3:
                    raise ValueError(
                        f"line {number} has {len(fields)} fields; expected first sample, last sample, label"
                    )
                yield AnnotatedInterval(tier, int(fields[0]) / rate_hz, int(fields[1]) / rate_hz, fields[2].strip())

    return read


READERS: dict[str, tuple[Reader, str]] = {
    ".textgrid": (_textgrid, "TextGrid of Praat"),
    ".txt": (_text_table, "label file of Audacity or selection table of Raven"),
    ".jams": (_jams, "JAMS file"),
    ".eaf": (_elan, "file of ELAN"),
    ".ctm": (_ctm, "CTM file"),
    ".phn": (_timit("phones"), "phone file of TIMIT"),
    ".wrd": (_timit("words"), "word file of TIMIT"),
}
"""Reader and name of the format of each extension, in lower case."""
