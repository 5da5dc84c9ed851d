"""Who sings: a throat drawn from a seed."""

import re
import zlib
from dataclasses import dataclass

import numpy as np

from otoscope.errors import ConfigError

NAME = re.compile(r"(female|male)([1-9]\d*)")


@dataclass(frozen=True)
class Singer:
    """A voice that stays the same from clip to clip.

    `tonic_low_hz..tonic_high_hz` bound the note that a pattern starts from; `jitter` is a share of the
    period, `rd` the shape of the glottal pulse (Fant 1995: 0.4 pressed, 1 modal, 2.7 breathy), `tilt` a slope
    added to the pulse's own, `ring_db` the singer's formant near 3 kHz. `wobble_semitones` is the vibrato
    that creeps into notes that should have none; `skill` (0..1) how far a technique is carried out.
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
        """The short name that VocalSet's files begin with, such as `f1`."""
        return self.name[0] + self.name.removeprefix(self.gender)


def singer(name: str, *, seed: int = 0) -> Singer:
    """Draw the singer of this name (`female1`, `male3`, ...); the same name and seed give the same voice.

    Tract lengths follow Goldstein (1980): about 14.5 cm for women, 17 cm for men.

    >>> singer("female2").code, singer("female2") == singer("female2")
    ('f2', True)
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"singer name {name!r} is not understood; use female1, female2, ... or male1, male2, ...")
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


def choir(count: int, *, seed: int = 0) -> list[Singer]:
    """Return `count` singers, women and men in turn: female1, male1, female2, ...

    >>> [s.name for s in choir(3)]
    ['female1', 'male1', 'female2']
    """
    return [singer(f"{('female', 'male')[i % 2]}{i // 2 + 1}", seed=seed) for i in range(count)]
