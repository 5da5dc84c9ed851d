"""Singers drawn from a seed, the voice settings of one clip (known factors), and the ten techniques of VocalSet.

A technique is a change of a neutral voice.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

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


Technique = Callable[[Voice, Singer, float, np.random.Generator], Voice]
"""Changes a neutral voice; the number (0..1) is the degree to which the technique is carried out."""


def neutral_voice(who: Singer, rng: np.random.Generator) -> Voice:
    """Return the singer's neutral voice on a random tonic, with small random variation.

    A louder voice is more pressed and brighter, a soft one laxer and darker.
    """
    effort = float(rng.normal(0.0, 1.0))
    return Voice(
        tonic_hz=float(np.exp(rng.uniform(np.log(who.tonic_low_hz), np.log(who.tonic_high_hz)))),
        loudness_db=who.loudness_db + 3.0 * effort,
        rd=float(np.clip(who.rd - 0.12 * effort + rng.normal(0.0, 0.08), 0.75, 2.4)),
        tilt_db_per_octave=who.tilt_db_per_octave + 0.7 * effort + float(rng.normal(0.0, 0.3)),
        jitter=who.jitter * float(np.exp(rng.normal(0.0, 0.25))),
        shimmer_db=who.shimmer_db * float(np.exp(rng.normal(0.0, 0.25))),
        aspiration_db=min(who.aspiration_db - 1.5 * effort + float(rng.exponential(5.0)), -9.0),
        vibrato_rate_hz=who.vibrato_rate_hz + float(rng.normal(0.0, 0.3)),
        vibrato_extent_semitones=who.wobble_semitones * float(np.exp(rng.normal(0.0, 0.4))),
        vibrato_onset_s=float(rng.uniform(0.1, 0.5)),
        ring_db=who.ring_db + float(rng.normal(0.0, 1.5)),
        instability_semitones=float(rng.uniform(0.03, 0.12)),
        damping=1.25 * float(np.exp(rng.normal(0.0, 0.12))),
    )


def belt(voice: Voice, _who: Singer, degree: float, rng: np.random.Generator) -> Voice:
    """Pressed and loud, strong upper harmonics, the jaw open so that F1 rises, higher notes."""
    return replace(
        voice,
        tonic_hz=voice.tonic_hz * 2.0 ** (rng.uniform(0.0, 4.0) * degree / 12.0),
        rd=max(voice.rd * (1.0 - 0.35 * degree), 0.55),
        tilt_db_per_octave=voice.tilt_db_per_octave + 1.0 * degree,
        aspiration_db=voice.aspiration_db - 8.0 * degree,
        loudness_db=voice.loudness_db + 6.0 * degree,
        jaw=1.0 + 0.14 * degree,
        vibrato_extent_semitones=voice.vibrato_extent_semitones + float(rng.uniform(0.0, 0.3)),
        ring_db=voice.ring_db + 1.0 * degree,
    )


def breathy(voice: Voice, _who: Singer, degree: float, _rng: np.random.Generator) -> Voice:
    """A lax, incompletely closing glottis: strong first harmonic, weak upper ones, audible air."""
    return replace(
        voice,
        rd=min(voice.rd + 1.1 * degree, 2.65),
        tilt_db_per_octave=voice.tilt_db_per_octave - 2.5 * degree,
        aspiration_db=min(voice.aspiration_db + 7.0 + 14.0 * degree, -8.0),
        loudness_db=voice.loudness_db - 5.0 * degree,
        damping=voice.damping * (1.0 + 0.5 * degree),
    )


def inhaled(voice: Voice, _who: Singer, degree: float, rng: np.random.Generator) -> Voice:
    """Ingressive voice: reversed pulses, more air than tone, breaks, an unsteady high pitch."""
    return replace(
        voice,
        tonic_hz=voice.tonic_hz * 2.0 ** (rng.uniform(0.0, 7.0) * degree / 12.0),
        rd=min(voice.rd + 0.9 * degree, 2.65),
        tilt_db_per_octave=voice.tilt_db_per_octave - 1.5 * degree,
        jitter=voice.jitter + 0.02 * degree,
        shimmer_db=voice.shimmer_db + 0.6 * degree,
        aspiration_db=min(voice.aspiration_db + 8.0 + 18.0 * degree, -5.0),
        loudness_db=voice.loudness_db - 6.0 * degree,
        subharmonics=float(rng.uniform(0.0, 0.35)) * degree,
        unsteady=float(rng.uniform(0.1, 0.35)) * degree,
        instability_semitones=voice.instability_semitones + 0.8 * degree,
        formant_shift=1.0 + 0.04 * degree,
        damping=voice.damping * (1.0 + 0.4 * degree),
        ingressive=True,
    )


def lip_trill(voice: Voice, _who: Singer, degree: float, rng: np.random.Generator) -> Voice:
    """Lips that vibrate 18 to 30 times per second and damp high partials."""
    return replace(
        voice,
        tilt_db_per_octave=voice.tilt_db_per_octave - 4.0 * degree,
        lip_rate_hz=float(rng.uniform(18.0, 30.0)),
        lip_depth=0.35 + 0.6 * degree,
        shimmer_db=voice.shimmer_db + 0.3 * degree,
        loudness_db=voice.loudness_db - 3.0 * degree,
        jaw=1.0 - 0.15 * degree,
        damping=voice.damping * (1.0 + 1.2 * degree),
        ring_db=0.0,
    )


def spoken(voice: Voice, who: Singer, degree: float, rng: np.random.Generator) -> Voice:
    """Speech: the speaking pitch, no vibrato, rougher and less resonant than singing."""
    return replace(
        voice,
        tonic_hz=who.speech_hz * 2.0 ** float(rng.normal(0.0, 0.12)),
        vibrato_extent_semitones=0.0,
        jitter=voice.jitter + 0.006 * degree,
        shimmer_db=voice.shimmer_db + 0.2 * degree,
        tilt_db_per_octave=voice.tilt_db_per_octave - 0.7 * degree,
        loudness_db=voice.loudness_db - 3.0 * degree,
        ring_db=0.0,
        instability_semitones=voice.instability_semitones + 0.2,
    )


def straight(voice: Voice, _who: Singer, degree: float, _rng: np.random.Generator) -> Voice:
    """Steady tone: the remaining vibrato is reduced."""
    return replace(voice, vibrato_extent_semitones=voice.vibrato_extent_semitones * (1.0 - 0.7 * degree))


def trill(voice: Voice, _who: Singer, degree: float, rng: np.random.Generator) -> Voice:
    """Two neighbouring notes in quick alternation."""
    return replace(
        voice,
        trill_rate_hz=float(rng.uniform(4.0, 7.0)),
        trill_interval_semitones=float(rng.choice([1.0, 2.0, 2.0])) * (0.7 + 0.3 * degree),
        vibrato_extent_semitones=0.0,
    )


def trillo(voice: Voice, _who: Singer, degree: float, rng: np.random.Generator) -> Voice:
    """One note repeated by the glottis, accelerating, each time with a little air."""
    return replace(
        voice,
        pulse_rate_hz=float(rng.uniform(4.5, 9.0)),
        pulse_depth=0.35 + 0.6 * degree,
        vibrato_extent_semitones=voice.vibrato_extent_semitones * 0.5,
        aspiration_db=voice.aspiration_db + 3.0 * degree,
    )


def vibrato(voice: Voice, who: Singer, degree: float, rng: np.random.Generator) -> Voice:
    """The singer's own vibrato at full extent."""
    extent = who.vibrato_extent_semitones * (0.35 + 0.65 * degree) * float(np.exp(rng.normal(0.0, 0.2)))
    return replace(voice, vibrato_extent_semitones=extent, ring_db=voice.ring_db + 2.0)


def vocal_fry(voice: Voice, _who: Singer, degree: float, rng: np.random.Generator) -> Voice:
    """Short irregular pulses 30 to 70 times per second, heavily damped, almost independent of the score."""
    return replace(
        voice,
        tonic_hz=float(rng.uniform(32.0, 62.0)),
        rd=max(voice.rd * 0.8, 0.45),
        jitter=voice.jitter + 0.02 + 0.1 * degree,
        shimmer_db=voice.shimmer_db + 0.6 + 1.2 * degree,
        subharmonics=float(rng.uniform(0.0, 0.6)) * degree,
        open_share=float(rng.uniform(0.3, 0.45)),
        melody_share=0.15,
        vibrato_extent_semitones=0.0,
        loudness_db=voice.loudness_db - 4.0 * degree,
        instability_semitones=0.8,
    )


TECHNIQUES: dict[str, Technique] = {
    "belt": belt,
    "breathy": breathy,
    "inhaled": inhaled,
    "lip_trill": lip_trill,
    "spoken": spoken,
    "straight": straight,
    "trill": trill,
    "trillo": trillo,
    "vibrato": vibrato,
    "vocal_fry": vocal_fry,
}
"""The techniques in alphabetical order."""
