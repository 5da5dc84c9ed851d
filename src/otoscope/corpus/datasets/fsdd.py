"""The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz, alone or joined to strings."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from pydantic import Field

from otoscope.artifacts import atomic, fingerprint
from otoscope.corpus.audio import load_audio, write_audio
from otoscope.corpus.listing import (
    CorpusSpec,
    Listing,
    ProgressCallback,
    UserPath,
    find_audio,
    listing_table,
    set_aside_table,
)
from otoscope.errors import AudioError, CorpusError, quote, suggest

LICENCE = "CC BY-SA 4.0"
CITATION = (
    "Z. Jackson et al., Free Spoken Digit Dataset (FSDD), https://github.com/Jakobovski/free-spoken-digit-dataset"
)

NAME = re.compile(r"(?:^|/)(?P<digit>\d)_(?P<speaker>[^_/]+)_(?P<take>\d+)\.wav$", re.IGNORECASE)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GAP_S = 0.15
"""Silence between the recordings of a string."""
JOINED_HZ = 8000
"""Sample rate of joined recordings, that of the dataset."""
WORDS = "words.ctm"
"""File with start, duration and word of every recording of the strings."""


class SpokenString(NamedTuple):
    """Recordings joined to one clip: samples, words, and start and end of each word in seconds."""

    wave: Float[np.ndarray, " samples"]
    words: tuple[str, ...]
    spans_s: tuple[tuple[float, float], ...]


def join_words(
    waves: Sequence[Float[np.ndarray, " samples"]], words: Sequence[str], *, rate_hz: int, gap_s: float = GAP_S
) -> SpokenString:
    """Join recordings of single words with silence between them.

    >>> joined = join_words([np.ones(800), np.ones(1600)], ["one", "two"], rate_hz=8000, gap_s=0.1)
    >>> joined.wave.shape, joined.spans_s
    ((4800,), ((0.1, 0.2), (0.3, 0.5)))
    """
    gap = np.zeros(round(gap_s * rate_hz), dtype=np.float32)
    pieces: list[Float[np.ndarray, " samples"]] = [gap]
    spans: list[tuple[float, float]] = []
    position = len(gap)
    for wave in waves:
        spans.append((position / rate_hz, (position + len(wave)) / rate_hz))
        pieces += [wave.astype(np.float32), gap]
        position += len(wave) + len(gap)
    return SpokenString(np.concatenate(pieces), tuple(words), tuple(spans))


class FsddCorpus(CorpusSpec, frozen=True, extra="forbid"):
    """Spoken digits named `{digit}_{speaker}_{index}.wav`: label `digit`, group the speaker.

    With `join`, each clip is a string of recordings of one speaker, whose words are its annotations.
    """

    group_noun: ClassVar[str] = "speaker"

    kind: Literal["fsdd"] = "fsdd"
    root: UserPath = Field(description="folder of the recordings")
    takes: int | None = Field(default=None, ge=1, description="keep only recordings with an index below this")
    speakers: tuple[str, ...] | None = Field(default=None, description="keep only these speakers")
    join: int | None = Field(
        default=None,
        ge=2,
        le=40,
        description="join this many recordings of one speaker into a clip, with 0.15 s between them and the words as "
        "annotations; each recording is used once",
    )

    @property
    def annotated(self) -> bool:
        """True if annotations are given, or recordings are joined to strings of words."""
        return super().annotated or self.join is not None

    def annotation_folder(self, cache: Path) -> Path | None:
        """Return the folder of the annotations: that of the joined clips, if none is given."""
        return super().annotation_folder(cache) or (self._joined_folder(cache) if self.join else None)

    def listing(self, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:
        """List the recordings, or write the joined ones into `cache`; set aside files with other names."""
        files = find_audio(self.root)
        matches = {path: NAME.search(path) for path in files.paths}
        unnamed = set_aside_table(
            (p, "not named {digit}_{speaker}_{index}.wav") for p, match in matches.items() if not match
        )
        speakers = {match["speaker"] for match in matches.values() if match}
        for speaker in self.speakers or ():
            if speaker not in speakers:
                raise CorpusError(f"no speaker {quote(speaker)} under {self.root}; {suggest(speaker, speakers)}")
        rows = [
            {"path": path, "group": match["speaker"], "label_digit": match["digit"]}
            for path, match in matches.items()
            if match and self._keeps(match["speaker"], int(match["take"]))
        ]
        if not rows:
            raise CorpusError(f"no recording named {{digit}}_{{speaker}}_{{index}}.wav is left under {self.root}")
        root, listed = self.root, listing_table(rows)
        if self.join is not None:
            root = self._joined_folder(cache)
            listed = _join_recordings(listed, self.root, root, number=self.join, on_progress=on_progress)
        return Listing("fsdd", root, LICENCE, CITATION, listed, files.set_aside.vstack(unnamed), notes=files.notes)

    def _joined_folder(self, cache: Path) -> Path:
        """Return the folder of the joined clips, another one for other settings or recordings."""
        states = {path: (self.root / path).stat() for path in find_audio(self.root).paths if NAME.search(path)}
        recordings = [(path, state.st_size, state.st_mtime_ns) for path, state in states.items()]
        return cache / f"fsdd-{fingerprint(self.model_dump(mode='json', exclude={'annotations', 'tiers'}), recordings)}"

    def _keeps(self, speaker: str, take: int) -> bool:
        return (self.takes is None or take < self.takes) and (self.speakers is None or speaker in self.speakers)


def _join_recordings(
    recordings: pl.DataFrame, source: Path, root: Path, *, number: int, on_progress: ProgressCallback | None
) -> pl.DataFrame:
    """Return strings of `number` recordings of one speaker, in random order; written unless they exist.

    The words are written last. Raises `CorpusError` for a recording that cannot be decoded.
    """
    strings = [
        (f"{speaker}_{turn:03d}", str(speaker), chosen.to_dicts())
        for (speaker,), own in recordings.sort("path").group_by("group", maintain_order=True)
        for turn in range(own.height // number)
        for chosen in (own[np.random.default_rng(0).permutation(own.height)[turn * number : (turn + 1) * number]],)
    ]
    if not strings:
        raise CorpusError(f"join is {number}, and no speaker has as many recordings; give a smaller number")
    if not all(path.is_file() for path in (root / WORDS, *(root / f"{name}.wav" for name, *_ in strings))):
        lines: list[str] = []
        for done, (name, _, chosen) in enumerate(strings, start=1):
            try:
                waves = [load_audio(source / row["path"], rate_hz=JOINED_HZ) for row in chosen]
            except AudioError as error:
                raise CorpusError(f"{error}; remove it, or join no recordings") from error
            joined = join_words(waves, [DIGITS[int(row["label_digit"])] for row in chosen], rate_hz=JOINED_HZ)
            write_audio(root / f"{name}.wav", joined.wave, JOINED_HZ)
            for word, (start_s, end_s) in zip(joined.words, joined.spans_s, strict=True):
                lines.append(f"{name} 1 {start_s:.4f} {end_s - start_s:.4f} {word}")
            if on_progress is not None:
                on_progress(done, len(strings))
        with atomic(root / WORDS) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return listing_table([{"path": f"{name}.wav", "group": speaker} for name, speaker, _ in strings])
