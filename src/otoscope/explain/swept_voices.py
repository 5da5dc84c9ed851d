"""Sung clips of the synthesiser in which one factor changes and everything else stays, or all factors change."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from otoscope.corpus.synth.singer import draw_singers, neutral_voice
from otoscope.corpus.synth.source import VOWELS
from otoscope.corpus.synth.synthesis import synthesise_voice
from otoscope.errors import EvaluationError, suggest
from otoscope.explain.frame_descriptors import pitch_hz


class SweptFactor(NamedTuple):
    """Factor of the voice: its values in order, the one it has while others are swept, and its measured counterpart.

    The values of a factor with `classes` are their positions. `descriptor` is the key of `DESCRIPTORS` that measures
    the factor in recordings, in the same unit.
    """

    label: str
    unit: str
    values: tuple[float, ...]
    base: float
    descriptor: str | None = None
    classes: tuple[str, ...] = ()


SWEPT: dict[str, SweptFactor] = {
    "f0": SweptFactor("pitch", "semitones above 27.5 Hz", tuple(range(20, 57, 3)), 35, "f0_semitones"),
    "vibrato_rate": SweptFactor("vibrato rate", "Hz", (3, 4, 5, 6, 7, 8, 9), 5),
    "vibrato_extent": SweptFactor("vibrato extent", "semitones", (0, 0.25, 0.5, 1, 1.5, 2), 0.5),
    "breathiness": SweptFactor("breath noise relative to the tone", "dB", tuple(range(-36, 1, 6)), -30),
    "level": SweptFactor("level", "dB", tuple(range(-54, -17, 6)), -30, "level_db"),
    "vowel": SweptFactor("vowel", "", tuple(range(len(VOWELS))), 0, classes=tuple(VOWELS)),
    "tract_length": SweptFactor("length of the vocal tract", "cm", (12, 13.5, 15, 16.5, 18, 19.5), 15),
}
"""Factors that are swept; pitch covers 87 to 698 Hz."""


class VoiceSetting(NamedTuple):
    """Singer of a clip, by number, and its value of every factor of `SWEPT`."""

    singer: int
    values: tuple[float, ...]


def check_factors(names: Sequence[str]) -> None:
    """Raise `EvaluationError` unless each is a key of `SWEPT`, and none is given twice."""
    for name in names:
        if name not in SWEPT:
            raise EvaluationError(f"no factor {name!r} is swept; {suggest(name, SWEPT)}")
    if not names or len(set(names)) < len(names):
        raise EvaluationError(f"factors are {list(names)}; name at least one, and none twice")


def swept_settings(factors: Sequence[str], singers: int) -> dict[str, list[list[VoiceSetting]]]:
    """Return the settings in which one factor takes each of its values, by factor, singer and value.

    The singers share the values of the other factors, which are their `base`.

    >>> (first, second) = swept_settings(["vowel"], singers=2)["vowel"]
    >>> len(first), {name for name, *values in zip(SWEPT, *(s.values for s in first)) if len(set(values)) > 1}
    (5, {'vowel'})
    """
    base = {name: factor.base for name, factor in SWEPT.items()}
    return {
        name: [
            [VoiceSetting(singer, tuple((base | {name: value}).values())) for value in SWEPT[name].values]
            for singer in range(singers)
        ]
        for name in factors
    }


def crossed_settings(factors: Sequence[str], singers: int, clips: int, *, seed: int = 0) -> list[VoiceSetting]:
    """Return settings in which the factors vary independently, each value of a factor equally often to within one."""
    rng = np.random.default_rng([seed, 1])
    columns = [
        rng.permutation(np.resize(factor.values, clips)) if name in factors else np.full(clips, factor.base)
        for name, factor in SWEPT.items()
    ]
    return [VoiceSetting(i % singers, tuple(map(float, row))) for i, row in enumerate(zip(*columns, strict=True))]


def sing(
    setting: VoiceSetting, *, rate_hz: int, duration_s: float = 1.0, seed: int = 0
) -> Float32[np.ndarray, " samples"]:
    """Return a sustained note with the values of a setting; singers differ in timbre and in nothing that is swept.

    Clips of a singer share their random numbers: intonation, jitter and the timbre of the voice. The first formant
    stays above the pitch, so that it rises with the highest notes.

    >>> sing(swept_settings(["f0"], singers=1)["f0"][0][0], rate_hz=16000, duration_s=0.5).shape
    (8000,)
    """
    value = dict(zip(SWEPT, setting.values, strict=True))
    rng = np.random.default_rng([seed, setting.singer])
    who = draw_singers(setting.singer + 1, seed=seed)[setting.singer]
    who = replace(who, tract_length_cm=value["tract_length"])
    voice = replace(
        neutral_voice(who, rng),
        tonic_hz=pitch_hz(value["f0"]),
        loudness_db=value["level"],
        aspiration_db=value["breathiness"],
        vibrato_rate_hz=value["vibrato_rate"],
        vibrato_extent_semitones=value["vibrato_extent"],
        vibrato_onset_s=0.0,
    )
    vowel = SWEPT["vowel"].classes[int(value["vowel"])]
    return synthesise_voice(who, voice, vowel, "long_tones", duration_s=duration_s, rate_hz=rate_hz, rng=rng).wave
