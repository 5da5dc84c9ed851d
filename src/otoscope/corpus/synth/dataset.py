"""Corpus of synthesised singing: its settings, and rendering into a folder in threads."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import polars as pl
from pydantic import Field, field_validator

from otoscope.artifacts import atomic, environment, fingerprint, read_json_as, read_table, write_json, write_table
from otoscope.corpus.audio import write_audio
from otoscope.corpus.listing import CorpusSpec, Listing, ProgressCallback, listing_table
from otoscope.corpus.synth.melody import PATTERNS
from otoscope.corpus.synth.singer import TECHNIQUES, Singer, draw_singers
from otoscope.corpus.synth.source import VOWELS
from otoscope.corpus.synth.synthesis import SPEECH, SungInterval, SynthClip, synthesise
from otoscope.errors import CorpusError, suggest
from otoscope.hardware import available_cores

SOUND_VERSION = 1
"""Incremented when the same settings give different samples; part of the cache key of rendered files."""

LICENCE = "CC0 1.0 (made by otoscope's singing synthesiser)"
CITATION = "otoscope's built-in source-filter singing synthesiser"


class ClipTask(NamedTuple):
    """One clip to synthesise; `path` follows VocalSet's layout."""

    who: Singer
    technique: str
    vowel: str
    pattern: str
    seed: int
    path: str


class SynthCorpus(CorpusSpec, frozen=True, extra="forbid"):
    """Singing with known factors: `takes` clips of each technique by each singer.

    Labels are technique, vowel, context and gender, as in VocalSet; the group is the singer. In spoken clips the vowel
    is that of every second syllable. Takes cycle through vowels and patterns, so that five takes contain each vowel
    once.
    """

    group_noun: ClassVar[str] = "singer"
    sets_length: ClassVar[bool] = True

    kind: Literal["synth"] = "synth"
    singers: int = Field(default=12, ge=1, le=200, description="number of singers, alternating women and men")
    takes: int = Field(default=5, ge=1, le=1000, description="clips of each technique by each singer")
    duration_s: float = Field(default=2.0, ge=0.3, le=600.0, description="length of every clip")
    rate_hz: int = Field(default=16_000, ge=8_000, le=96_000, description="sample rate of the files")
    seed: int = Field(default=0, ge=0, description="seed of the singers and of all their clips")
    techniques: tuple[str, ...] = Field(default=tuple(TECHNIQUES), description="techniques to sing")
    vowels: tuple[str, ...] = Field(default=tuple(VOWELS), description="vowels to sing on")
    patterns: tuple[str, ...] = Field(default=tuple(PATTERNS), description="note patterns to sing")

    @field_validator("techniques", "vowels", "patterns")
    @classmethod
    def _check_names(cls, names: tuple[str, ...], info: object) -> tuple[str, ...]:
        field = str(getattr(info, "field_name", ""))
        allowed = {"techniques": TECHNIQUES, "vowels": VOWELS, "patterns": PATTERNS}[field]
        for name in names:
            if name not in allowed:
                raise ValueError(f"no such name {name!r}; {suggest(name, allowed)}")
        if not names or len(set(names)) < len(names):
            raise ValueError("name at least one, and none twice")
        return names

    @property
    def fingerprint(self) -> str:
        """Identity of the sound: settings and `SOUND_VERSION`."""
        return fingerprint(SOUND_VERSION, self.model_dump(mode="json", exclude={"annotations", "tiers"}))

    def tasks(self) -> list[ClipTask]:
        """Return every clip to synthesise, sorted by path."""
        singers = draw_singers(self.singers, seed=self.seed)
        tasks = [
            self._task(who, technique, start=s + t, take=take)
            for s, who in enumerate(singers)
            for t, technique in enumerate(self.techniques)
            for take in range(self.takes)
        ]
        return sorted(tasks, key=lambda task: task.path)

    def listing(
        self, cache: Path, *, on_progress: ProgressCallback | None = None, threads: int | None = None
    ) -> Listing:
        """Render missing clips into `cache/synth-FINGERPRINT` and list the corpus.

        The folder also contains a TextGrid beside each clip (`sung_intervals`), `truth.parquet` (path, time_s, f0_hz
        with 0 where unvoiced, loudness_db) and a card.
        """
        root = self._folder(cache)
        clips = render_corpus(self, root, on_progress=on_progress, threads=threads)
        return Listing("synth", root, LICENCE, CITATION, clips)

    @property
    def annotated(self) -> bool:
        """True: every clip is written with its annotations."""
        return True

    def annotation_folder(self, cache: Path) -> Path:
        """Return the folder of the annotations: that of the clips, if none is given."""
        return super().annotation_folder(cache) or self._folder(cache)

    def _folder(self, cache: Path) -> Path:
        return cache / f"synth-{self.fingerprint}"

    def _task(self, who: Singer, technique: str, *, start: int, take: int) -> ClipTask:
        vowels, patterns = self.vowels, self.patterns
        cycle, step = divmod(take, len(vowels) * len(patterns))
        # vowel and pattern advance together; the extra step per cycle of vowels keeps pairs distinct
        # if their numbers share a divisor
        vowel = vowels[(start + step) % len(vowels)]
        shift = step // len(vowels) if len(vowels) % len(patterns) == 0 else 0
        pattern = patterns[(start + step + shift) % len(patterns)]
        pattern = SPEECH if technique == "spoken" else pattern
        number = take if technique == "spoken" else cycle
        path = f"{who.name}/{pattern}/{technique}/{file_name(who, technique, vowel, pattern, number=number)}"
        return ClipTask(who, technique, vowel, pattern, self.seed * 1_000_003 + take, path)


def file_name(who: Singer, technique: str, vowel: str, pattern: str, *, number: int) -> str:
    """Return a file name in VocalSet's style: `f1_long_vibrato_a.wav`, for a second take `f1_long_vibrato_2_a.wav`."""
    exercise = {"long_tones": "long", SPEECH: "row"}.get(pattern, pattern)
    ending = "spoken" if pattern == SPEECH else f"{technique}_{vowel}"
    if number:
        ending = f"{number + 1}_spoken" if pattern == SPEECH else f"{technique}_{number + 1}_{vowel}"
    return f"{who.code}_{exercise}_{ending}.wav"


CARD, CLIPS, TRUTH = "synth.json", "clips.parquet", "truth.parquet"
IN_PROGRESS = ".synth.json"
"""Marks the settings of an unfinished folder, so that an interrupted run can resume."""


class _RenderedClip(NamedTuple):
    row: dict[str, object]
    truth: pl.DataFrame


def render_corpus(
    spec: SynthCorpus, root: Path, *, on_progress: ProgressCallback | None = None, threads: int | None = None
) -> pl.DataFrame:
    """Render every clip of `spec` under `root`; return the listing's table.

    The card is written last. If it exists, only clips without sound or TextGrid are synthesised; otherwise (an
    interrupted run) all are, and missing files written. The files are the same either way, and for any `threads`.
    """
    tasks = spec.tasks()
    complete = _is_complete(spec, root)
    pending = [task for task in tasks if not (complete and all(path.is_file() for path in _files(root, task)))]
    if not complete:
        write_json(root / IN_PROGRESS, {"fingerprint": spec.fingerprint})
    rendered = _render_in_threads(pending, spec, root, on_progress=on_progress, threads=threads)
    if complete:
        return read_table(root / CLIPS)
    clips = listing_table([clip.row for clip in rendered])
    write_table(root / TRUTH, pl.concat([clip.truth for clip in rendered]))
    write_table(root / CLIPS, clips)
    card = {"fingerprint": spec.fingerprint, "spec": spec.model_dump(mode="json"), "clips": clips.height}
    write_json(root / CARD, {**card, "environment": environment()})
    (root / IN_PROGRESS).unlink(missing_ok=True)
    return clips


def check_output_folder(spec: SynthCorpus, root: Path) -> None:
    """Raise `CorpusError` unless a folder is new, empty, or was rendered from the same `spec`.

    Other recordings would be mixed with synthesised ones, and clips of other settings would be reused.
    """
    if root.exists() and not root.is_dir():
        raise CorpusError(f"{root} is a file; name a new folder")
    for name in (CARD, IN_PROGRESS):
        if (root / name).is_file():
            if _fingerprint(root / name) == spec.fingerprint:
                return
            raise CorpusError(f"{root} holds a corpus with other settings; name a new or an empty folder")
    others = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    if others:
        names = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise CorpusError(f"{root} holds files that synth did not write ({names}); name a new or an empty folder")


def _is_complete(spec: SynthCorpus, root: Path) -> bool:
    if not all((root / name).is_file() for name in (CARD, CLIPS, TRUTH)):
        return False
    return _fingerprint(root / CARD) == spec.fingerprint


def _fingerprint(card: Path) -> object:
    """Return the fingerprint of a card; raise `DamagedArtifact` if it has another shape."""
    return read_json_as(card, dict[str, Any]).get("fingerprint")


def _render_in_threads(
    tasks: Sequence[ClipTask],
    spec: SynthCorpus,
    root: Path,
    *,
    on_progress: ProgressCallback | None,
    threads: int | None,
) -> list[_RenderedClip]:
    rendered: list[_RenderedClip] = []

    def render(task: ClipTask) -> _RenderedClip:
        return _render_one(task, spec, root)

    # the kernels, the FFT and the random number generator release the GIL
    with ThreadPoolExecutor(threads or min(8, available_cores())) as pool:
        for done, clip in enumerate(pool.map(render, tasks), start=1):
            rendered.append(clip)
            if on_progress is not None:
                on_progress(done, len(tasks))
    return rendered


def render_task(task: ClipTask, spec: SynthCorpus) -> SynthClip:
    """Synthesise one clip of a corpus."""
    return synthesise(
        task.who,
        task.technique,
        task.vowel,
        task.pattern,
        duration_s=spec.duration_s,
        rate_hz=spec.rate_hz,
        seed=task.seed,
    )


def _files(root: Path, task: ClipTask) -> tuple[Path, Path]:
    """Return the paths of the sound and of the annotations of a clip."""
    return root / task.path, (root / task.path).with_suffix(".TextGrid")


def _textgrid(intervals: Sequence[SungInterval], duration_s: float) -> Iterator[str]:
    """Yield the lines of a TextGrid of Praat in its short form, in which empty intervals fill the gaps of a tier."""
    tiers = sorted({one.tier for one in intervals})
    span = ["0", f"{duration_s:.4f}"]
    yield from ('File type = "ooTextFile"', 'Object class = "TextGrid"', "", *span, "<exists>", str(len(tiers)))
    for tier in tiers:
        filled: list[tuple[float, float, str]] = []
        end_s = 0.0
        for one in sorted(one for one in intervals if one.tier == tier):
            if one.start_s > end_s:
                filled.append((end_s, one.start_s, ""))
            filled.append((one.start_s, one.end_s, one.label))
            end_s = one.end_s
        if end_s < duration_s:
            filled.append((end_s, duration_s, ""))
        yield from ('"IntervalTier"', f'"{tier}"', *span, str(len(filled)))
        for start_s, stop_s, label in filled:
            yield from (f"{start_s:.4f}", f"{stop_s:.4f}", f'"{label}"')


def _render_one(task: ClipTask, spec: SynthCorpus, root: Path) -> _RenderedClip:
    clip = render_task(task, spec)
    sound, annotations = _files(root, task)
    if not sound.is_file():
        write_audio(sound, clip.wave, clip.rate_hz)
    if not annotations.is_file():
        with atomic(annotations) as temporary:
            temporary.write_text("\n".join(_textgrid(clip.intervals, spec.duration_s)) + "\n", encoding="utf-8")
    row: dict[str, object] = {
        "path": task.path,
        "group": task.who.name,
        "label_technique": task.technique,
        "label_vowel": task.vowel,
        "label_context": task.pattern,
        "label_gender": task.who.gender,
        **{f"factor_{name}": value for name, value in clip.factors.items()},
    }
    truth = pl.DataFrame(
        {
            "path": [task.path] * len(clip.f0_hz),
            "time_s": clip.frame_times_s,
            "f0_hz": clip.f0_hz,
            "loudness_db": clip.loudness_db,
        }
    )
    return _RenderedClip(row, truth)
