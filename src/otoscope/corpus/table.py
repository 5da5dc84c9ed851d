"""The corpus: one row per clip, saved as Parquet with a small JSON card."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float
from typing_extensions import TypedDict

from otoscope.artifacts import check_name, fingerprint, read_json_as, read_table, write_json, write_table
from otoscope.corpus.health import SUSPECT_COLUMNS
from otoscope.errors import ConfigError, CorpusError, DamagedArtifact, suggest
from otoscope.formatting import count, first_few
from otoscope.paths import user_path

COLUMNS: dict[str, pl.DataType] = {
    "clip_id": pl.String(),
    "path": pl.String(),
    "start_s": pl.Float64(),
    "duration_s": pl.Float64(),
    "rate_hz": pl.Int64(),
    "group": pl.String(),
    "split": pl.String(),
    "digest": pl.String(),
}
"""Columns that every corpus has; `label_*` and `factor_*` columns follow them."""

OPTIONAL = ("channel", "channels", "fold")
"""Columns of some corpora: channel of the file that is read, its number of channels unless all files are mono, and fold
of a cross-fit in which the clip is tested."""


class CorpusCard(TypedDict):
    """Content of `corpus.json`."""

    name: str
    root: str
    licence: str
    citation: str
    group_noun: str


_LEADS_OUT = r"^$|^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\x00"
"""Paths that may lead out of the root; `check_name` decides."""

SPLITS = ("train", "valid", "test")


MAX_CLASSES = 10
"""Classes of a label whose groups a summary counts."""


@dataclass(frozen=True, repr=False)
class Corpus:
    """Audio clips with their groups, splits, labels and known factors.

    `clips` has the columns of `COLUMNS` (`path` relative to `root`; `digest`: SHA-256 of the file), then any `label_*`
    (strings) and `factor_*` (floats), sorted by `clip_id`. `set_aside` lists unusable clips: `path, reason`;
    `suspects` lists usable ones that may be broken: `clip_id, finding, detail` (see `otoscope.corpus.health`).
    `group_noun` is the word for a group, such as singer.
    """

    name: str
    root: Path
    clips: pl.DataFrame
    set_aside: pl.DataFrame
    licence: str = "unknown"
    citation: str = ""
    group_noun: str = "group"
    suspects: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SUSPECT_COLUMNS))

    def __post_init__(self) -> None:
        if missing := COLUMNS.keys() - set(self.clips.columns):
            raise CorpusError(f"corpus {self.name!r} lacks the columns {sorted(missing)}")
        if self.clips.is_empty():
            raise CorpusError(f"corpus {self.name!r} holds no usable clip under {self.root}")
        repeated = self.clips.filter(pl.col("clip_id").is_duplicated())["clip_id"].unique().sort()
        if len(repeated):
            raise CorpusError(f"clip_id must be unique; repeated: {', '.join(repeated[:3])}")
        leaking = self.clips.group_by("group").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
        if not leaking.is_empty():
            raise CorpusError(f"groups in more than one split: {', '.join(leaking['group'].sort()[:3])}")

    @property
    def labels(self) -> list[str]:
        """Names of the labels, without their prefix."""
        return [c.removeprefix("label_") for c in self.clips.columns if c.startswith("label_")]

    @property
    def factors(self) -> list[str]:
        """Names of the known factors, without their prefix."""
        return [c.removeprefix("factor_") for c in self.clips.columns if c.startswith("factor_")]

    @property
    def true_factors(self) -> dict[str, Float[np.ndarray, " clips"]]:
        """Known values of the clips by factor, NaN where unknown."""
        columns = {name: self.clips[f"factor_{name}"] for name in self.factors}
        return {name: column.cast(pl.Float64).fill_null(math.nan).to_numpy() for name, column in columns.items()}

    def label(self, name: str) -> pl.Series:
        """Return one label as a series of strings, in the order of `clips`."""
        if name not in self.labels:
            raise ConfigError(f"corpus {self.name!r} has no label {name!r}; {suggest(name, self.labels)}")
        return self.clips[f"label_{name}"]

    def path_of(self, relative: str) -> Path:
        """Return the current path of a clip's file."""
        return self.root / relative

    def select(self, clip_ids: Sequence[str]) -> "Corpus":
        """Return the corpus restricted to these clips, in its own order."""
        return replace(self, clips=self.clips.filter(pl.col("clip_id").is_in(list(clip_ids))))

    @property
    def fingerprint(self) -> str:
        """Identity of the content: name and every column; the root folder may move."""
        return fingerprint(self.name, self.clips.columns, self.clips.rows())

    def save(self, path: Path) -> None:
        """Write `corpus.parquet` (this path), and `corpus.json`, `set_aside.parquet`, `suspects.parquet` beside it."""
        path = user_path(path)
        write_table(path.with_name("set_aside.parquet"), self.set_aside)
        write_table(path.with_name("suspects.parquet"), self.suspects)
        write_table(path, self.clips)
        card = {"name": self.name, "root": str(self.root), "licence": self.licence, "citation": self.citation}
        card |= {"group_noun": self.group_noun}
        write_json(path.with_suffix(".json"), {**card, "clips": self.clips.height, "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        """Load a saved corpus; raise `DamagedArtifact` for a table of another shape or a path that leaves its root."""
        path = user_path(path)
        card = read_json_as(path.with_suffix(".json"), CorpusCard)
        root, clips = Path(card["root"]), read_table(path)
        stored = {name: clips.schema.get(name, pl.Null()) for name in COLUMNS}
        if any(
            kind != stored[name] and not (kind.is_numeric() and stored[name].is_numeric())
            for name, kind in COLUMNS.items()
        ):
            raise DamagedArtifact(f"{path} is damaged: it is no table of {', '.join(COLUMNS)}; delete it and run again")
        for name in clips.filter(pl.col("path").str.contains(_LEADS_OUT).fill_null(True))["path"]:
            check_name(root, name)
        return cls(
            name=card["name"],
            root=root,
            clips=clips,
            set_aside=read_table(path.with_name("set_aside.parquet")),
            suspects=read_table(path.with_name("suspects.parquet")),
            licence=card["licence"],
            citation=card["citation"],
            group_noun=card["group_noun"],
        )

    def __repr__(self) -> str:
        first, *details = self._summary()
        return "\n".join([f"Corpus({self.name!r}, {first}", *(f"  {line}" for line in details)]) + ")"

    def _repr_html_(self) -> str:
        first, *details = self._summary()
        lines = [f"<b>{html.escape(self.name)}</b>: {html.escape(first)}", *map(html.escape, details)]
        return "<br>".join(lines)

    def groups_per_class(self, label: str) -> str:
        """Return the groups of each class for a label of at most ten classes; empty for one of more.

        They are counted by split, unless a cross-fit tests every group.
        """
        numbers = groups_by_split(self.clips, label)
        if not 1 < len(numbers) <= MAX_CLASSES:
            return ""
        is_crossed = "fold" in self.clips.columns
        splits = "" if is_crossed else f" ({'/'.join(SPLITS)})"
        each = (f"{name}: {sum(of) if is_crossed else '/'.join(map(str, of))}" for name, of in numbers.items())
        return f"{self.group_noun}s per {label}{splits}: {', '.join(each)}"

    def _summary(self) -> list[str]:
        """Return the size, groups per split, labels, factors and clips set aside, one line each."""
        clips, noun = self.clips, self.group_noun
        lines = [f"{count(clips.height, 'clip')}, {float(clips['duration_s'].sum()) / 3600:.2f} h"]
        for split in SPLITS:
            part = clips.filter(pl.col("split") == split)
            lines.append(f"{split}: {count(part.height, 'clip')}, {count(part['group'].n_unique(), noun)}")
        classes = [count(clips[f"label_{name}"].drop_nulls().n_unique(), "class", "classes") for name in self.labels]
        labels = ", ".join(f"{name} ({number})" for name, number in zip(self.labels, classes, strict=True))
        lines.append(f"labels: {labels or 'none'}")
        lines += [line for name in self.labels if (line := self.groups_per_class(name))]
        factors = first_few(self.factors, 5)
        lines.append(f"factors: {len(self.factors)} ({factors})" if factors else "factors: none")
        return [*lines, f"set aside: {count(self.set_aside.height, 'clip')}"]


def is_constant_within_groups(clips: pl.DataFrame, label: str) -> bool:
    """Return whether a label has at most one class in each group, and a class in any.

    >>> is_constant_within_groups(pl.DataFrame({"group": ["a", "a", "b"], "label_sex": ["f", None, "m"]}), "sex")
    True
    """
    known = clips.select("group", name=f"label_{label}").drop_nulls("name")
    return known.group_by("group").agg(pl.col("name").n_unique())["name"].max() == 1


def groups_by_split(clips: pl.DataFrame, label: str) -> dict[str, tuple[int, ...]]:
    """Return the number of groups of each class of a label in train, valid and test; classes are sorted.

    >>> groups_by_split(pl.DataFrame({"split": ["train", "test"], "group": ["a", "b"], "label_x": ["u", "u"]}), "x")
    {'u': (1, 0, 1)}
    """
    known = clips.select("split", "group", name=f"label_{label}").drop_nulls("name")
    of_split = (pl.col("group").filter(pl.col("split") == split).n_unique().alias(split) for split in SPLITS)
    return {name: tuple(of) for name, *of in known.group_by("name").agg(*of_split).sort("name").iter_rows()}
