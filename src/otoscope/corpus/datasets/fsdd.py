"""The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, 8 kHz."""

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

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

LICENCE = "CC BY-SA 4.0"
CITATION = (
    "Z. Jackson et al., Free Spoken Digit Dataset (FSDD), https://github.com/Jakobovski/free-spoken-digit-dataset"
)

NAME = re.compile(r"(?:^|/)(?P<digit>\d)_(?P<speaker>[^_/]+)_(?P<take>\d+)\.wav$", re.IGNORECASE)


class FsddCorpus(CorpusSpec, frozen=True, extra="forbid"):
    """Spoken digits named `{digit}_{speaker}_{index}.wav`: label `digit`, group the speaker."""

    group_noun: ClassVar[str] = "speaker"

    kind: Literal["fsdd"] = "fsdd"
    root: UserPath = Field(description="folder of the recordings")
    takes: int | None = Field(default=None, ge=1, description="keep only recordings with an index below this")
    speakers: tuple[str, ...] | None = Field(default=None, description="keep only these speakers")

    def listing(self, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:  # noqa: ARG002
        """List the recordings; set aside files with other names."""
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
        return Listing(
            "fsdd",
            self.root,
            LICENCE,
            CITATION,
            listing_table(rows),
            files.set_aside.vstack(unnamed),
            notes=files.notes,
        )

    def _keeps(self, speaker: str, take: int) -> bool:
        return (self.takes is None or take < self.takes) and (self.speakers is None or speaker in self.speakers)
