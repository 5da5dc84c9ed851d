"""Signs of broken data in clips that can be decoded: suspects are listed, and never set aside.

Levels are measured in windows of 50 ms. Each rule is stated in `FINDINGS`; the thresholds are below.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32

from otoscope.formatting import count, first_few

FINDINGS = {
    "header": "a header that contradicts the sound",
    "noise": "noise at full scale in a fifth of the clip or more, as after a lost byte",
    "anti-phase": "channels that cancel each other in their mean, by 10 dB or more; `channel: 1` reads one",
    "speakers": "two channels that take turns, as with a microphone per speaker; `channel: each` reads each alone",
    "dead channel": "a channel that is 60 dB softer than the loudest; `channel: 1` or `channel: 2` reads one",
    "offset": "a constant offset of more than a fifth of the level",
    "silence": "at least 1 s, and half of the clip, that are 60 dB softer than its loudest part",
    "loud": "a peak above full scale (lossy formats: above twice full scale)",
    "clipped": "flat tops: at least ten, and one per second, of three samples or more at the peak of a channel",
    "cut": "no fade at the end: the last 10 ms are as loud as the whole clip, within 6 dB",
    "copy": "the same sound under another name",
}
"""Kinds of findings, most severe first, and their rules."""

ALWAYS_LISTED = ("noise", "copy")
"""Findings that no recorder or collection explains, and that no setting of the corpus remedies."""

MIN_CLIPS, PROPERTY_SHARE = 10, 0.25
"""Fewest clips, and the share of them above which a finding is a property of the corpus; its clips are not listed."""

SAME_LENGTH_SHARE = 0.9
"""Share of at least `MIN_CLIPS` files of one length that is a property of the corpus."""

WINDOW_S, END_S = 0.050, 0.010
LEAST_OFFSET = 0.005
NOISE_LEVEL, NOISE_ROUGHNESS, NOISE_SHARE = 0.4, 1.2, 0.2
"""Uniform noise at full scale has a level of 0.58, and differences 1.41 times its level; music is far smoother."""

QUIET = 1e-3
"""60 dB as a ratio of levels."""

FLAT_SAMPLES, FLAT_TOPS, FLAT_TOLERANCE, FLAT_STEP = 3, 10, 1e-4, 2e-3
"""Samples of a flat top and fewest flat tops; relative distances from the peak: of the top, and of a sample beside it.

The samples beside the flat top of a low sine at 16 bits differ from it by 0.02 %; those of a clipped sound by 1 %.
"""

LOSSY_PEAK = 2.0
"""Peak that lossy formats rarely exceed: full-scale recordings decode to 1.14, recordings clipped by 12 dB to 2.0."""

SUSPECT_COLUMNS: dict[str, pl.DataType] = {"clip_id": pl.String(), "finding": pl.String(), "detail": pl.String()}


class HealthFinding(NamedTuple):
    """One reason to look at a clip."""

    finding: str
    detail: str = ""


class SignalProfile:
    """Levels of a clip in windows, accumulated block by block; blocks are whole windows except the last."""

    def __init__(self, rate_hz: int) -> None:
        self._window = max(1, round(WINDOW_S * rate_hz))
        self._end_samples = max(1, round(END_S * rate_hz))
        self._end = np.zeros(0, dtype=np.float32)
        self._samples, self._sum, self._peak, self._last = 0, 0.0, 0.0, np.float32(0)
        self._rate_hz = rate_hz
        self._tops: dict[int, tuple[float, int]] = {}
        self._powers: list[np.ndarray] = []
        self._differences: list[np.ndarray] = []
        self._channel_powers: list[np.ndarray] = []

    def add(self, wave: Float32[np.ndarray, " samples"], channels: Float32[np.ndarray, "samples channels"]) -> None:
        """Add a block: its mono mean, and the channels."""
        self._samples += len(wave)
        self._sum += float(wave.sum(dtype=np.float64))
        self._peak = max(self._peak, float(wave.max()), -float(wave.min()))
        differences = np.empty_like(wave)
        differences[0] = wave[0] - self._last
        np.subtract(wave[1:], wave[:-1], out=differences[1:])
        starts = np.arange(0, len(wave), self._window)
        self._powers.append(np.add.reduceat(wave * wave, starts))
        self._differences.append(np.add.reduceat(differences * differences, starts))
        for at, channel in enumerate(channels.T):
            self._tops[at] = _more_tops(np.abs(channel), *self._tops.get(at, (0.0, 0)))
        if channels.shape[1] > 1:
            self._channel_powers.append(np.add.reduceat(channels * channels, starts, axis=0))
        self._last = wave[-1]
        self._end = wave[-self._end_samples :]

    @property
    def content(self) -> str:
        """Identity of the sound: the levels of all windows, whatever the file format."""
        return hashlib.sha256(np.concatenate(self._powers).tobytes()).hexdigest()

    def findings(self, *, is_whole_file: bool, is_lossy: bool = False, note: str = "") -> list[HealthFinding]:
        """Return what is suspicious about the clip."""
        powers = np.concatenate(self._powers).astype(np.float64)
        differences = np.concatenate(self._differences).astype(np.float64)
        level = math.sqrt(float(powers.sum()) / self._samples)
        found = [HealthFinding("header", note)] if note else []
        window_levels = np.sqrt(powers / self._window)
        loudest = float(window_levels.max())
        if loudest > NOISE_LEVEL:
            is_noise = (window_levels > NOISE_LEVEL) & (differences > NOISE_ROUGHNESS**2 * powers)
            noise = np.count_nonzero(is_noise) / len(powers)
            if noise >= NOISE_SHARE:
                found.append(HealthFinding("noise", f"{noise:.0%}"))
        found += self._channel_findings(powers)
        mean = abs(self._sum / self._samples)
        if mean > max(LEAST_OFFSET, 0.2 * level):
            found.append(HealthFinding("offset", f"{self._sum / self._samples:+.3f}"))
        quiet = int(np.count_nonzero(window_levels < QUIET * loudest))
        if quiet >= 0.5 * len(powers) and quiet * WINDOW_S >= 1.0:
            found.append(HealthFinding("silence", f"{quiet / len(powers):.0%}"))
        if self._peak > (LOSSY_PEAK if is_lossy else 1.0):
            found.append(HealthFinding("loud", f"{self._peak:.2f}"))
        tops = max(number for _, number in self._tops.values())
        if tops >= max(FLAT_TOPS, self._samples / self._rate_hz):
            found.append(HealthFinding("clipped", f"{tops:,} flat tops"))
        end_level = math.sqrt(float(np.dot(self._end, self._end)) / len(self._end))
        if is_whole_file and end_level > 0.5 * level:
            found.append(HealthFinding("cut", f"{round(20 * math.log10(end_level / level)):+d} dB"))
        return found

    def _channel_findings(self, mono: np.ndarray) -> list[HealthFinding]:
        if not self._channel_powers:
            return []
        powers = np.concatenate(self._channel_powers).astype(np.float64)
        totals = powers.sum(axis=0)
        number = len(totals)
        if totals.min() < QUIET**2 * totals.max():
            dead = [str(at + 1) for at in np.flatnonzero(totals < QUIET**2 * totals.max())]
            return [HealthFinding("dead channel", f"{', '.join(dead)} of {number}")]
        found: list[HealthFinding] = []
        # uncorrelated channels have a mean of this power
        expected = totals.sum() / number**2
        if mono.sum() < 0.1 * expected:
            found.append(HealthFinding("anti-phase", f"{10 * np.log10(max(mono.sum(), 1e-30) / expected):.0f} dB"))
        if number == 2:
            active = powers.max(axis=1) > QUIET * powers.max()
            shares = [float((100 * powers[active, 1 - at] < powers[active, at]).mean()) for at in (0, 1)]
            if min(shares) > 0.1 and sum(shares) > 0.5:
                found.append(HealthFinding("speakers", f"{shares[0]:.0%} and {shares[1]:.0%} of the time"))
        return found


def _more_tops(levels: Float32[np.ndarray, " samples"], peak: float, flat_tops: int) -> tuple[float, int]:
    """Return the peak of a channel and its flat tops after a block of absolute values."""
    highest = float(levels.max())
    if highest < (1 - FLAT_TOLERANCE) * peak:
        return peak, flat_tops
    if highest > (1 + FLAT_TOLERANCE) * peak:
        flat_tops = 0
    peak = max(highest, peak)
    rows = np.flatnonzero(levels >= (1 - FLAT_TOLERANCE) * peak)
    first = rows[np.diff(rows, prepend=-2) > 1]
    last = rows[np.diff(rows, append=len(levels) + 1) > 1]
    beside = np.minimum(levels[np.maximum(first - 1, 0)], levels[np.minimum(last + 1, len(levels) - 1)])
    is_flat = (last - first >= FLAT_SAMPLES - 1) & (beside < (1 - FLAT_STEP) * peak)
    return peak, flat_tops + int(np.count_nonzero(is_flat))


def suspects_table(clips: Sequence[tuple[str, str]], findings: Iterable[tuple[str, HealthFinding]]) -> pl.DataFrame:
    """Return the findings as a table, with those on clips of the same sound.

    A property of the corpus (`PROPERTY_SHARE`) has one row without a clip, and its number of clips as detail.

    Args:
        clips: pairs of clip and the identity of its sound.
        findings: pairs of clip and finding.
    """
    rows: list[tuple[str | None, str, str]] = [(clip_id, found.finding, found.detail) for clip_id, found in findings]
    for finding, of_clips in Counter(finding for _, finding, _ in rows).items():
        is_property = len(clips) >= MIN_CLIPS and of_clips > PROPERTY_SHARE * len(clips)
        if is_property and finding not in ALWAYS_LISTED:
            rows = [row for row in rows if row[1] != finding]
            rows.append((None, finding, f"{of_clips:,} of {count(len(clips), 'clip')}"))
    copies: dict[str, list[str]] = defaultdict(list)
    for clip_id, content in clips:
        copies[content].append(clip_id)
    for same in copies.values():
        rows += [(clip_id, "copy", same[0] if clip_id != same[0] else same[1]) for clip_id in same if len(same) > 1]
    order = {finding: at for at, finding in enumerate(FINDINGS)}
    rows.sort(key=lambda row: (row[0] is None, order[row[1]], row[0] or ""))
    return pl.DataFrame(rows, schema=SUSPECT_COLUMNS, orient="row")


def health_summary(suspects: pl.DataFrame, clips: pl.DataFrame, *, lengths: bool = True) -> list[str]:
    """Return one line per kind of finding; no line for healthy clips.

    With `lengths`, almost all files of one length are named too.
    """
    listed = suspects.drop_nulls("clip_id")
    lines: list[str] = []
    for finding, rule in FINDINGS.items():
        ids = listed.filter(pl.col("finding") == finding)["clip_id"].to_list()
        if ids:
            lines.append(f"suspect: {count(len(ids), 'clip')} with {rule} ({first_few(ids, 3)})")
    properties = corpus_properties(suspects, clips, lengths=lengths)
    return [*lines, *(f"property of the corpus: {text}" for text in properties)]


def corpus_properties(suspects: pl.DataFrame, clips: pl.DataFrame, *, lengths: bool = True) -> list[str]:
    """Return findings on so many clips that these are not listed; with `lengths`, also almost all files of one length.

    >>> found = pl.DataFrame([(None, "cut", "30 of 40 clips")], schema=SUSPECT_COLUMNS, orient="row")
    >>> corpus_properties(found, pl.DataFrame({"clip_id": ["a"], "path": ["a"]}))
    ['30 of 40 clips with no fade at the end: the last 10 ms are as loud as the whole clip, within 6 dB']
    """
    properties = suspects.filter(pl.col("clip_id").is_null()).select("finding", "detail").iter_rows()
    lines = [f"{of_clips} with {FINDINGS[finding]}" for finding, of_clips in properties]
    whole = clips.filter(pl.col("clip_id") == pl.col("path"))
    if lengths and whole.height >= MIN_CLIPS:
        duration_s, same = whole["duration_s"].value_counts(sort=True).row(0)
        if same >= SAME_LENGTH_SHARE * whole.height:
            files = f"{same:,} of {count(whole.height, 'file')}"
            lines.append(f"{files} last exactly {duration_s:.4g} s, as if cut or padded")
    return lines


def count_suspects(suspects: pl.DataFrame) -> str:
    """Return the number of clips that are listed, and of findings if some have several; empty without any.

    >>> count_suspects(pl.DataFrame({"clip_id": ["a", "a", "b", None], "finding": ["loud", "cut", "cut", "offset"]}))
    '2 suspects with 3 findings'
    """
    listed = suspects.drop_nulls("clip_id")
    if listed.is_empty():
        return ""
    of_clips = listed["clip_id"].n_unique()
    return count(of_clips, "suspect") + (f" with {listed.height:,} findings" if listed.height > of_clips else "")
