"""VocalSet: twenty professional singers, seventeen techniques, five vowels, and irregular file names."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from otoscope.corpus.listing import (
    CorpusSpec,
    Listing,
    ProgressCallback,
    UserPath,
    find_audio,
    listing_table,
    set_aside_table,
)
from otoscope.errors import CorpusError, quote, suggest

LICENCE = "CC BY 4.0"
CITATION = (
    "J. Wilkins, P. Seetharaman, A. Wahl, B. Pardo, VocalSet: A Singing Voice Dataset, ISMIR 2018,"
    " https://doi.org/10.5281/zenodo.1193957"
)

TECHNIQUES = (
    "belt",
    "breathy",
    "inhaled",
    "lip_trill",
    "spoken",
    "straight",
    "trill",
    "trillo",
    "vibrato",
    "vocal_fry",
)
"""The ten techniques that the literature classifies (Wilkins et al. 2018)."""

DYNAMICS = ("fast_forte", "fast_piano", "forte", "messa", "pp", "slow_forte", "slow_piano")
"""The other seven: tempo and loudness, not technique."""

CONTEXTS = ("arpeggios", "excerpts", "long_tones", "scales")
VOWELS = ("a", "e", "i", "o", "u")
ENDINGS = (*VOWELS, "c", "f", "spoken")
"""Last words of a name that pass the paper's filter; c and f are keys (C and F major), not vowels."""

TEST_SINGERS = ("female2", "female8", "male3", "male5", "male10")
"""Singers of the published test split; the other fifteen are the training split."""

ALIASES = {"vibrado": "vibrato", "liptrill": "lip_trill", "vocalfry": "vocal_fry", "sow_forte": "slow_forte"}
"""Spellings on disk that differ from the technique's name."""

CONTEXT_WORDS = {
    "arpeggios": "arpeggios",
    "arps": "arpeggios",
    "scales": "scales",
    "long": "long_tones",
    "long_tones": "long_tones",
    "excerpts": "excerpts",
    "row": "excerpts",
    "caro": "excerpts",
    "dona": "excerpts",
}
"""Folder names and words of a name that identify the exercise; row, caro and dona are the three excerpts."""

TREES = ("FULL", "data_by_singer", "data_by_technique", "data_by_vowel")
"""Folders of the published archive, each with every recording; the first that exists is read."""


class VocalSetName(NamedTuple):
    """Fields of a VocalSet path.

    `vowel` is None for excerpts and for the few names without one; `ending` is the last word of the name, which the
    paper filters on.
    """

    singer: str
    gender: str
    technique: str
    context: str | None
    vowel: str | None
    ending: str


def parse_name(relative_path: str) -> VocalSetName | None:
    """Return the singer, technique, exercise and vowel of a path; None without a singer or a technique.

    Folders take precedence over the file name, which may lack the singer or name a different one
    (`male8/excerpts/vibrato/m9_caro_vibrato.wav` is sung by male8).

    >>> parse_name("female1/arpeggios/belt/f1_arpeggios_belt_c_a.wav")
    VocalSetName(singer='female1', gender='female', technique='belt', context='arpeggios', vowel='a', ending='a')
    """
    path = PurePosixPath(relative_path)
    folders = [_plain(part) for part in path.parts[:-1]]
    name = _plain(path.stem)
    words = [word for word in name.split("_") if word]
    singer = _first(_singer(part) for part in [*reversed(folders), *words])
    technique = _first(_technique(part) for part in [*reversed(folders), name])
    if singer is None or technique is None or not words:
        return None
    context = _first(CONTEXT_WORDS.get(part) for part in [*reversed(folders), *words])
    ending = words[-1]
    vowel = ending if ending in VOWELS else None
    return VocalSetName(singer, singer.rstrip("0123456789"), technique, context, vowel, ending)


class VocalSetCorpus(CorpusSpec, frozen=True, extra="forbid"):
    """VocalSet as published, or any folder of its recordings: labels technique, vowel, context and gender."""

    group_noun: ClassVar[str] = "singer"

    kind: Literal["vocalset"] = "vocalset"
    root: UserPath = Field(description="the unpacked archive, its FULL folder, or any part of it")
    techniques: tuple[str, ...] = Field(default=TECHNIQUES, description="keep only these techniques")
    vowels: tuple[str, ...] | None = Field(
        default=None,
        description="keep only names that end in these; the paper's filter is a e i o u c f spoken. Default: all",
    )
    split: Literal["published", "by_group"] = Field(
        default="published",
        description="published: the five published test singers, the others train; by_group: as in any corpus",
    )

    @field_validator("techniques")
    @classmethod
    def _known_techniques(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, (*TECHNIQUES, *DYNAMICS), "technique")

    @field_validator("vowels")
    @classmethod
    def _known_vowels(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else _known(names, ENDINGS, "vowel")

    def listing(self, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:  # noqa: ARG002
        """List the recordings that pass the filters; set aside paths without a singer or technique."""
        root = next((self.root / tree for tree in TREES if (self.root / tree).is_dir()), self.root)
        files = find_audio(root)
        names = {path: parse_name(path) for path in files.paths}
        unnamed = set_aside_table(
            (p, "its path names no singer or no technique of VocalSet") for p, n in names.items() if not n
        )
        rows = [self._row(path, name) for path, name in names.items() if name and self._keeps(name)]
        if not rows:
            raise CorpusError(
                f"none of {len(names)} recordings under {root} passes the filters: {unnamed.height} name no singer or"
                " technique, `techniques` and `vowels` exclude the others"
            )
        return Listing(
            "vocalset", root, LICENCE, CITATION, listing_table(rows), files.set_aside.vstack(unnamed), notes=files.notes
        )

    def _keeps(self, name: VocalSetName) -> bool:
        return name.technique in self.techniques and (self.vowels is None or name.ending in self.vowels)

    def _row(self, path: str, name: VocalSetName) -> dict[str, object]:
        published = "test" if name.singer in TEST_SINGERS else "train"
        return {
            "path": path,
            "group": name.singer,
            "split": published if self.split == "published" else None,
            "label_technique": name.technique,
            "label_vowel": name.vowel,
            "label_context": name.context,
            "label_gender": name.gender,
        }


def _plain(part: str) -> str:
    """Return lower case with one underscore per run of blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "_", part.strip()).strip("_").lower()


def _singer(part: str) -> str | None:
    match = re.fullmatch(r"(f|m|female|male)_?(\d+)", part)
    if match is None:
        return None
    return f"{'female' if match[1].startswith('f') else 'male'}{int(match[2])}"


def _technique(part: str) -> str | None:
    """Return the longest technique that occurs in a folder or file name as whole words."""
    for spelling in sorted((*TECHNIQUES, *DYNAMICS, *ALIASES), key=len, reverse=True):
        if f"_{spelling}_" in f"_{part}_":
            return ALIASES.get(spelling, spelling)
    return None


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value is not None), None)


def _known(names: tuple[str, ...], allowed: tuple[str, ...], what: str) -> tuple[str, ...]:
    for name in names:
        if name not in allowed:
            raise ValueError(f"no {what} {quote(name)}; {suggest(name, allowed)}")
    if not names:
        raise ValueError(f"name at least one {what}")
    return names
