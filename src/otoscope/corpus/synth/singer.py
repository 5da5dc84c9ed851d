"""Singers drawn from a seed, and the voice settings of one clip, which are known factors."""

import re
import zlib
from dataclasses import dataclass

import numpy as np

from otoscope.errors import ConfigError

NAME = re.compile(r"(female|male)([1-9]\d*)")


@dataclass(frozen=True)
class Singer:
    """Constant properties of a singer.

    `tonic_low_hz..tonic_high_hz` bound the note that a pattern starts from; `jitter` is a share of the
    period, `rd` the shape of the glottal pulse (Fant 1995: 0.4 pressed, 1 modal, 2.7 breathy), `tilt` a slope
    added to the pulse's own, `ring_db` the singer's formant near 3 kHz. `wobble_semitones` is the
    unintended vibrato of straight notes; `skill` (0..1) the degree to which techniques are carried out.
    """

    name: str
    gender: str
    tract_length_cm: float
    tonic_low_hz: float
    tonic_high_hz: float
    speech_hz: float
    rd: float
    tilt_db_per_octave: float
    jitter: float
    shimmer_db: float
    aspiration_db: float
    vibrato_rate_hz: float
    vibrato_extent_semitones: float
    wobble_semitones: float
    ring_db: float
    loudness_db: float
    accent: tuple[float, float, float]
    skill: float

    @property
    def code(self) -> str:
        """Prefix of VocalSet's file names, such as `f1`."""
        return self.name[0] + self.name.removeprefix(self.gender)


def draw_singer(name: str, *, seed: int = 0) -> Singer:
    """Return the singer of this name (`female1`, `male3`, ...); the same name and seed give the same voice.

    Tract lengths follow Goldstein (1980): about 14.5 cm for women, 17 cm for men.

    >>> draw_singer("female2").code, draw_singer("female2") == draw_singer("female2")
    ('f2', True)
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"invalid singer name {name!r}; use female1, female2, ... or male1, male2, ...")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    female = match[1] == "female"
    voice = rng.normal(0.0, 1.0)  # high, light voices go with short tracts
    tonic_hz = (240.0 if female else 135.0) * 2.0 ** (voice * 0.16)
    return Singer(
        name=name,
        gender=match[1],
        tract_length_cm=(14.6 if female else 17.2) * (1.0 - 0.035 * np.clip(voice, -2.0, 2.0) + rng.normal(0.0, 0.015)),
        tonic_low_hz=tonic_hz * 0.84,
        tonic_high_hz=tonic_hz * 1.19,
        speech_hz=(195.0 if female else 108.0) * 2.0 ** (voice * 0.1 + rng.normal(0.0, 0.08)),
        rd=float(np.clip(rng.normal(1.15 if female else 0.95, 0.2), 0.6, 1.7)),
        tilt_db_per_octave=float(np.clip(rng.normal(-0.5, 0.7), -2.0, 1.0)),
        jitter=float(np.exp(rng.normal(np.log(0.004), 0.35))),
        shimmer_db=float(np.exp(rng.normal(np.log(0.2), 0.35))),
        aspiration_db=float(rng.normal(-24.0, 2.5)),
        vibrato_rate_hz=float(np.clip(rng.normal(5.5, 0.5), 4.3, 7.0)),
        vibrato_extent_semitones=float(np.exp(rng.normal(np.log(0.85), 0.25))),
        wobble_semitones=float(np.exp(rng.normal(np.log(0.08), 0.6))),
        ring_db=float(rng.uniform(0.0, 6.0)),
        loudness_db=float(rng.normal(-24.0, 2.5)),
        accent=(float(rng.normal(1.0, 0.05)), float(rng.normal(1.0, 0.04)), float(rng.normal(1.0, 0.03))),
        skill=float(rng.uniform(0.65, 1.0)),
    )


def draw_singers(count: int, *, seed: int = 0) -> list[Singer]:
    """Return `count` singers, alternating women and men: female1, male1, female2, ...

    >>> [s.name for s in draw_singers(3)]
    ['female1', 'male1', 'female2']
    """
    return [draw_singer(f"{('female', 'male')[i % 2]}{i // 2 + 1}", seed=seed) for i in range(count)]


@dataclass(frozen=True)
class Voice:
    """Settings of larynx and tract for one clip; a technique is a change of them.

    Rates are 0 without the modulation. `aspiration_db` is the level of the breath noise relative to the tone, both at
    the mouth. `pulse_*` is the opening and closing of the glottis in a trillo, `lip_*` that of the lips; depths are
    shares of the amplitude, 0..1. `open_share` is the part of a period that a pulse takes, `melody_share` scales the
    intervals of the score.
    `formant_shift` scales all formants, `jaw` F1 alone. `unsteady` is the share of unvoiced time.
    `instability_semitones` is slow random variation of the pitch.
    """

    tonic_hz: float
    loudness_db: float
    rd: float
    tilt_db_per_octave: float
    jitter: float
    shimmer_db: float
    aspiration_db: float
    vibrato_rate_hz: float = 0.0
    vibrato_extent_semitones: float = 0.0
    vibrato_onset_s: float = 0.0
    trill_rate_hz: float = 0.0
    trill_interval_semitones: float = 0.0
    pulse_rate_hz: float = 0.0
    pulse_depth: float = 0.0
    lip_rate_hz: float = 0.0
    lip_depth: float = 0.0
    subharmonics: float = 0.0
    open_share: float = 1.0
    melody_share: float = 1.0
    formant_shift: float = 1.0
    jaw: float = 1.0
    damping: float = 1.0
    ring_db: float = 0.0
    unsteady: float = 0.0
    instability_semitones: float = 0.0
    ingressive: bool = False
