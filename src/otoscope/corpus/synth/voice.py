"""How it is sung: the settings of one clip, all of them known factors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Voice:
    """Settings of larynx and tract for one clip; a technique is a change of them.

    Rates are 0 where the motion is absent. `aspiration_db` is the level of the breath noise against the
    tone, both as they leave the mouth. `pulse_*` is the opening and closing of a trillo, `lip_*` that of the lips;
    depths are shares of the amplitude, 0..1. `open_share` is the part of a period that a pulse takes,
    `melody_share` how much of the score's intervals is sung.
    `formant_shift` scales all formants, `jaw` F1 alone. `unsteady` is the share of time without voice.
    `instability_semitones` is slow random motion of the pitch.
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
