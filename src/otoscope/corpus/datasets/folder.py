"""A folder of recordings: labels and groups come from sub-folders, or from a pattern in the names.

A pattern is a regular expression with named groups. The engine of Rust's `regex` (through Polars) takes linear time for
every pattern and path; it has no look-around and no back-references.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import polars as pl
from pydantic import Field, ValidationInfo, field_validator, model_validator

from otoscope.corpus.listing import (
    Listing,
    ProgressCallback,
    UserPath,
    find_audio,
    is_sound_name,
    listing_table,
    set_aside_table,
)
from otoscope.corpus.selection import SelectableCorpus
from otoscope.errors import CorpusError, quote, suggest
from otoscope.formatting import comma_list, count, first_few, one_line

MAX_NAMED = 5
"""Paths, codes and words named in a message."""

MAX_PATTERN = 10_000
"""Longest pattern, in characters."""

SPLIT_FOLDERS = frozenset(("train", "training", "valid", "validation", "val", "dev", "test", "testing", "eval"))
"""Folders of a collection that are no classes."""

_PREFIXES = ("label_", "factor_")


class FolderCorpus(SelectableCorpus, frozen=True, extra="forbid"):
    """Every audio file under `root`; labels, factors and groups come from sub-folders or from a pattern in the names.

    >>> FolderCorpus(root="recordings", group_pattern=r"(?P<group>[^_/]+)_[^/]*$").class_of("sung/ann_01.wav")
    'sung'
    """

    kind: Literal["folder"] = "folder"
    root: UserPath = Field(description="folder that is searched for audio, sub-folders included")
    pattern: str | None = Field(
        default=None,
        description="regular expression, searched in the path relative to root, with named groups `group`, `label_NAME`"
        " and `factor_NAME`; no look-around, no back-references",
    )
    names: dict[str, dict[str, str]] = Field(
        default={}, description="words for the codes of a label, such as {emotion: {'01': neutral, '02': calm}}"
    )
    class_from: Literal["top", "parent", "none"] | None = Field(
        default=None,
        description="source of the label `class`: the first folder under root (top), the folder of the file, or none;"
        " default: top, and none if `pattern` has labels",
    )
    group_from: Literal["file", "parent", "top"] | None = Field(
        default=None,
        description="source of the group, which stays in one split: file (default), its folder, or the first folder",
    )
    group_pattern: str | None = Field(
        default=None,
        description="regular expression with a named group `group`, searched in the path relative to root",
    )
    licence: str = Field(default="unknown", description="licence of the recordings, carried into the report")
    citation: str = Field(default="", description="how to cite the recordings, carried into the report")

    @field_validator("pattern", "group_pattern")
    @classmethod
    def _names_fields(cls, pattern: str | None, info: ValidationInfo) -> str | None:
        names = ["group"] if pattern is None else check_pattern(pattern)
        if info.field_name == "group_pattern" and names != ["group"]:
            if "group" not in names:
                raise ValueError("needs a named group, such as (?P<group>[^_/]+)_")
            raise ValueError("has other named groups than `group`; use `pattern`, which makes them labels and factors")
        return pattern

    @model_validator(mode="after")
    def _one_rule(self) -> "FolderCorpus":
        if self.group_pattern is not None and self.group_from is not None:
            raise ValueError("give group_pattern or group_from, not both")
        fields = [] if self.pattern is None else check_pattern(self.pattern)
        if "group" in fields and (self.group_pattern is not None or self.group_from is not None):
            raise ValueError("`pattern` has a group; remove group_pattern and group_from")
        labels = [name.removeprefix("label_") for name in fields if name.startswith("label_")]
        if unknown := [name for name in self.names if name not in labels]:
            missing = f"names.{unknown[0]}: `pattern` has no group label_{unknown[0]}"
            raise ValueError(f"{missing}; {suggest(unknown[0], labels)}")
        if "class" in labels and self.class_from not in (None, "none"):
            raise ValueError("`pattern` has label_class; remove class_from")
        return self

    @property
    def class_source(self) -> Literal["top", "parent", "none"]:
        """Source of the label `class`."""
        labelled = self.pattern is not None and any(name.startswith("label_") for name in check_pattern(self.pattern))
        return self.class_from or ("none" if labelled else "top")

    def class_of(self, path: str) -> str | None:
        """Return the class of a relative path by its folders; None for a file directly in `root`."""
        folders = PurePosixPath(path).parts[:-1]
        if not folders or self.class_source == "none":
            return None
        return folders[0] if self.class_source == "top" else folders[-1]

    def listing(self, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:  # noqa: ARG002
        """List the audio files under `root`; set aside files that `pattern` or `group_pattern` does not match."""
        files = find_audio(self.root)
        paths = [path for path in files.paths if self.is_chosen(path)]
        unused = self.require_chosen(files.paths)
        fields = self._fields(paths)
        groups, reasons = self._groups(paths, fields), self._reasons(len(paths), fields)
        unmatched = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}
        if paths and len(unmatched) == len(paths):
            rule = "pattern" if self.group_pattern is None else "group_pattern"
            raise CorpusError(
                f"{rule} {quote(self.group_pattern or self.pattern)} matches none of {count(len(paths), 'path')} under"
                f" {self.root}, such as {paths[0]}"
            )
        extra, notes = self._labels_and_factors(paths, fields)
        notes += [*notes_of_accents(paths, fields), *notes_of_formats(paths)]
        rows = [
            {"path": path, "group": group, **{name: values[at] for name, values in extra.items()}}
            for at, (path, group) in enumerate(zip(paths, groups, strict=True))
            if path not in unmatched
        ]
        return Listing(
            self.root.name,
            self.root,
            self.licence,
            self.citation,
            listing_table(rows),
            files.set_aside.vstack(set_aside_table(unmatched.items())),
            group_source=self._group_source(fields),
            notes=(*files.notes, *notes, *unused),
        )

    def _fields(self, paths: list[str]) -> pl.DataFrame:
        """Return the named groups of the patterns, one row per path; no column without a pattern."""
        patterns = [pattern for pattern in (self.pattern, self.group_pattern) if pattern is not None]
        return pl.concat([pl.DataFrame(), *(find_fields(pattern, paths) for pattern in patterns)], how="horizontal")

    def _groups(self, paths: list[str], fields: pl.DataFrame) -> list[str | None]:
        if "group" in fields.columns:
            return fields["group"].to_list()
        return [self._group_by_folder(path) for path in paths]

    def _group_by_folder(self, path: str) -> str:
        folders = PurePosixPath(path).parts[:-1]
        if self.group_from == "top" and folders:
            return folders[0]
        if self.group_from == "parent" and folders:
            return "/".join(folders)
        return path

    def _group_source(self, fields: pl.DataFrame) -> str:
        if "group" in fields.columns:
            return "pattern" if self.group_pattern is None else "group_pattern"
        return f"group_from: {self.group_from}" if self.group_from else "each file"

    def _reasons(self, paths: int, fields: pl.DataFrame) -> list[str | None]:
        """Return the reason why a path does not fit the patterns; None if it does."""
        if not fields.width:
            return [None] * paths
        rule = "pattern" if self.group_pattern is None else "group_pattern"
        no_match = pl.all_horizontal(pl.all().is_null())
        no_group = pl.col("group").is_null() if "group" in fields.columns else pl.lit(False)
        reason = pl.when(no_group).then(pl.lit(f"{rule} finds no group in its path"))
        return fields.select(reason.when(no_match).then(pl.lit("pattern does not match its path")))[:, 0].to_list()

    def _labels_and_factors(self, paths: list[str], fields: pl.DataFrame) -> tuple[dict[str, pl.Series], list[str]]:
        """Return the labels and factors of paths, and notes on codes without a word."""
        extra: dict[str, pl.Series] = {}
        notes: list[str] = []
        for name in fields.columns:
            if name.startswith("label_"):
                words = self.names.get(name.removeprefix("label_"))
                extra[name], remarks = (fields[name], []) if words is None else apply_names(name, fields[name], words)
                notes += remarks
            elif name.startswith("factor_"):
                extra[name] = as_factor(name, fields[name], paths)
        classes = [self.class_of(path) for path in paths]
        if any(classes):
            extra["label_class"] = pl.Series(classes, dtype=pl.String())
        if (found := {name.lower() for name in classes if name}) and found <= SPLIT_FOLDERS:
            notes.append(
                f"warning: the classes are {comma_list(sorted(found))}, which are splits; set class_from: parent, or"
                " take labels from names with pattern"
            )
        return extra, notes


def check_pattern(pattern: str) -> list[str]:
    """Return the named groups of a pattern: `group`, `label_NAME` and `factor_NAME`; raise `ValueError` for others."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN:,} characters")
    try:
        names = [field for field in _extract(pattern, [""]).columns if not field.isdigit()]
    except (pl.exceptions.PolarsError, UnicodeEncodeError) as error:
        problem = str(error).rpartition("error: ")[2].partition("This error occurred")[0].strip()
        raise ValueError(f"not a regular expression ({one_line(problem, 200)})") from error
    for name in names:
        if name != "group" and not any(name.startswith(p) and len(name) > len(p) for p in _PREFIXES):
            raise ValueError(
                f"the named group {quote(name)} has no meaning; use group, label_{name[:40]} or factor_{name[:40]}"
            )
    if not names:
        raise ValueError("needs a named group, such as (?P<group>[^_/]+)_")
    return names


def find_fields(pattern: str, paths: Sequence[str]) -> pl.DataFrame:
    """Return one row per path and one column of text per named group, null where the pattern does not match.

    >>> find_fields(r"(?P<group>[^_/]+)_(?P<label_take>[0-9]+)", ["sung/ann_01.wav", "b.wav"]).rows()
    [('ann', '01'), (None, None)]
    """
    found = _extract(pattern, [unicodedata.normalize("NFC", path) for path in paths])
    return found.select(
        pl.when(pl.col(name).str.strip_chars() == "").then(None).otherwise(pl.col(name)).alias(name)
        for name in found.columns
        if not name.isdigit()
    )


def notes_of_accents(paths: Sequence[str], fields: pl.DataFrame) -> list[str]:
    """Return a note on each field with values that occur with composed and with decomposed accents.

    >>> notes_of_accents(["Zo\u00eb1", "Zoe\u03082"], pl.DataFrame({"group": ["Zo\u00eb", "Zo\u00eb"]}))
    ['group: composed and decomposed accents unified (Zoë)']
    """
    composed = pl.Series([unicodedata.is_normalized("NFC", path) for path in paths], dtype=pl.Boolean())
    notes: list[str] = []
    for name in [] if composed.all() else fields.columns:
        both = set(fields[name].filter(composed)) & set(fields[name].filter(~composed))
        if accented := sorted(value for value in both if value and not value.isascii()):
            notes.append(f"{name}: composed and decomposed accents unified ({first_few(accented, MAX_NAMED)})")
    return notes


def notes_of_formats(paths: Sequence[str]) -> list[str]:
    """Return a warning of names that differ in their extension of audio only: the same recording, most likely."""
    endings: dict[str, list[str]] = {}
    for path in paths:
        name = PurePosixPath(path)
        while is_sound_name(name):
            name = name.with_suffix("")
        endings.setdefault(str(name), []).append(path[len(str(name)) :])
    several = [(name, found) for name, found in endings.items() if len(found) > 1]
    if not several:
        return []
    name, found = several[0]
    verb = "recording has" if len(several) == 1 else "recordings have"
    return [
        f"warning: {len(several):,} {verb} several files that differ in their extension only"
        f" ({first_few((name + ending for ending in found), 3)}); each is a clip, and they may be in several splits;"
        f" leave out one kind, such as exclude: ['*{max(found, key=len)}']"
    ]


def as_factor(name: str, values: pl.Series, paths: Sequence[str]) -> pl.Series:
    """Return the texts of a factor as numbers; raise `CorpusError` for the first path without one."""
    numbers = values.cast(pl.Float64(), strict=False)
    wrong = (values.is_not_null() & (numbers.is_null() | ~numbers.is_finite())).arg_true()
    if len(wrong):
        row = int(wrong[0])
        raise CorpusError(f"pattern: {name} of {paths[row]} is {quote(values[row])}, not a number; use label_ for text")
    return numbers


def apply_names(column: str, codes: pl.Series, names: Mapping[str, str]) -> tuple[pl.Series, list[str]]:
    """Return codes as words, with notes on codes without a word, and on words without a code.

    Raises `CorpusError` if no code has a word.
    """
    label = column.removeprefix("label_")
    present = set(codes.drop_nulls())
    without = sorted(present - names.keys())
    if present and not present & names.keys():
        raise CorpusError(
            f"names.{label} has a word for none of the codes in the paths: it names"
            f" {first_few(sorted(names), MAX_NAMED)}; the paths have {first_few(without, MAX_NAMED)}"
        )
    notes = [f"names.{label} has no word for {first_few(without, MAX_NAMED)}: kept as they are"] if without else []
    if unused := sorted(names.keys() - present):
        notes.append(f"names.{label} has words for codes that are in no path: {first_few(unused, MAX_NAMED)}")
    return codes.replace(dict(names)), notes


def _extract(pattern: str, texts: Sequence[str]) -> pl.DataFrame:
    """Return the groups of the first match in each text; a group without a name is named by its number."""
    column = pl.Series("text", texts, dtype=pl.String())
    if not re.search(r"\((?!\?)|\(\?P?<", pattern):  # Polars refuses patterns without groups
        column.str.contains(pattern)
        return pl.DataFrame()
    return column.str.extract_groups(pattern).struct.unnest()
