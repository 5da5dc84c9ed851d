"""A sung corpus as settings: who sings what, how often and how long."""

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from otoscope.artifacts import fingerprint
from otoscope.corpus.listing import Listing, Progress
from otoscope.corpus.synth.melody import PATTERNS
from otoscope.corpus.synth.sing import SPEECH
from otoscope.corpus.synth.singer import Singer, choir
from otoscope.corpus.synth.techniques import TECHNIQUES
from otoscope.corpus.synth.vowels import VOWELS
from otoscope.errors import suggest

SOUND_VERSION = 1
"""Raised whenever the same settings would sound different: sung files are kept by it."""

LICENCE = "CC0 1.0 (made by otoscope's singing synthesiser)"
CITATION = "otoscope's built-in source-filter singing synthesiser"


class Task(NamedTuple):
    """One clip to sing. `path` is where VocalSet would keep it."""

    who: Singer
    technique: str
    vowel: str
    pattern: str
    seed: int
    path: str


class SynthCorpus(BaseModel):
    """Singing with known factors: `takes` clips of each technique by each singer.

    Labels are technique, vowel, context and gender, as in VocalSet; the group is the singer. In spoken clips
    the vowel is that of every second syllable. Takes walk through vowels and patterns, so that five takes
    hold each vowel once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["synth"] = "synth"
    singers: int = Field(default=12, ge=1, le=200, description="how many singers, women and men in turn")
    takes: int = Field(default=5, ge=1, le=1000, description="clips of each technique by each singer")
    duration_s: float = Field(default=2.0, ge=0.3, le=600.0, description="length of every clip")
    rate_hz: int = Field(default=16_000, ge=8_000, le=96_000, description="sample rate of the files")
    seed: int = Field(default=0, ge=0, description="draws the singers and everything they do")
    techniques: tuple[str, ...] = Field(default=tuple(TECHNIQUES), description="techniques to sing")
    vowels: tuple[str, ...] = Field(default=tuple(VOWELS), description="vowels to sing on")
    patterns: tuple[str, ...] = Field(default=tuple(PATTERNS), description="note patterns to sing")

    @field_validator("techniques", "vowels", "patterns")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: object) -> tuple[str, ...]:
        field = str(getattr(info, "field_name", ""))
        known = {"techniques": TECHNIQUES, "vowels": VOWELS, "patterns": PATTERNS}[field]
        for name in names:
            if name not in known:
                raise ValueError(f"no such name {name!r}; {suggest(name, known)}")
        if not names or len(set(names)) < len(names):
            raise ValueError("name at least one, and none twice")
        return names

    @property
    def fingerprint(self) -> str:
        """Identity of the sound: settings and `SOUND_VERSION`."""
        return fingerprint(SOUND_VERSION, self.model_dump(mode="json"))

    def tasks(self) -> list[Task]:
        """Return every clip that is to be sung, sorted by path."""
        voices = choir(self.singers, seed=self.seed)
        tasks = [
            self._task(who, technique, start=s + t, take=take)
            for s, who in enumerate(voices)
            for t, technique in enumerate(self.techniques)
            for take in range(self.takes)
        ]
        return sorted(tasks, key=lambda task: task.path)

    def listing(self, cache: Path, *, on_progress: Progress | None = None, threads: int | None = None) -> Listing:
        """Sing what is not there yet into `cache/synth-FINGERPRINT` and list it.

        Beside the WAV files lie `truth.parquet` (path, time_s, f0_hz with 0 for no voice, loudness_db) and a card.
        """
        from otoscope.corpus.synth.chorus import sing_all

        root = cache / f"synth-{self.fingerprint}"
        clips = sing_all(self, root, on_progress=on_progress, threads=threads)
        return Listing("synth", root, LICENCE, CITATION, clips)

    def _task(self, who: Singer, technique: str, *, start: int, take: int) -> Task:
        vowels, patterns = self.vowels, self.patterns
        lap, step = divmod(take, len(vowels) * len(patterns))
        # vowel and pattern advance together; the extra step per lap of vowels keeps pairs distinct
        # when their numbers share a divisor
        vowel = vowels[(start + step) % len(vowels)]
        shift = step // len(vowels) if len(vowels) % len(patterns) == 0 else 0
        pattern = patterns[(start + step + shift) % len(patterns)]
        pattern = SPEECH if technique == "spoken" else pattern
        number = take if technique == "spoken" else lap
        path = f"{who.name}/{pattern}/{technique}/{file_name(who, technique, vowel, pattern, number=number)}"
        return Task(who, technique, vowel, pattern, self.seed * 1_000_003 + take, path)


def file_name(who: Singer, technique: str, vowel: str, pattern: str, *, number: int) -> str:
    """Name a clip as VocalSet does: `f1_long_vibrato_a.wav`, a second one `f1_long_vibrato_2_a.wav`."""
    exercise = {"long_tones": "long", SPEECH: "row"}.get(pattern, pattern)
    ending = "spoken" if pattern == SPEECH else f"{technique}_{vowel}"
    if number:
        ending = f"{number + 1}_spoken" if pattern == SPEECH else f"{technique}_{number + 1}_{vowel}"
    return f"{who.code}_{exercise}_{ending}.wav"
