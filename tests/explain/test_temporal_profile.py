"""Temporal profile of planted events."""

import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.explain.temporal_profile import sound_onsets, temporal_profile

FRAME_S = 0.02


def clips_with_events(lag_s: float, duration_s: float) -> tuple[list[np.ndarray], list[list[float]]]:
    rng = np.random.default_rng(0)
    activations, onsets = [], []
    for _ in range(12):
        at = [float(t + rng.uniform(0, 0.2)) for t in (0.5, 1.5, 2.5)]
        centre = np.arange(200) * FRAME_S
        activation = sum(((centre >= t + lag_s) & (centre < t + lag_s + duration_s)).astype(float) for t in at)
        activations.append(np.asarray(activation))
        onsets.append(at)
    return activations, onsets


@pytest.mark.parametrize("lag_s", [0.0, 0.035, 0.1, 0.21])
@pytest.mark.parametrize("duration_s", [0.06, 0.2])
def test_temporal_profile_recovers_lag_within_a_frame_and_duration(lag_s: float, duration_s: float) -> None:
    activations, onsets = clips_with_events(lag_s, duration_s)
    profile = temporal_profile(activations, frame_s=FRAME_S, onsets_s=onsets)
    assert (profile.onsets, profile.lag_onsets) == (36, 36)
    assert profile.lag_s == pytest.approx(lag_s, abs=FRAME_S)
    assert profile.duration_s == pytest.approx(duration_s, abs=FRAME_S)


def test_lag_rests_on_delays_that_half_of_the_onsets_last_to() -> None:
    rng = np.random.default_rng(0)
    onsets = [[0.2]] * 40
    frames = [20] * 34 + [40] * 6  # most clips end 0.2 s after the onset
    noise = [0.1 * rng.random(length) for length in frames]
    late = [np.where(np.arange(len(a)) * FRAME_S > 0.6, a + 1, a) for a in noise]
    few = temporal_profile(late, frame_s=FRAME_S, onsets_s=onsets)
    assert np.isnan(few.lag_s)
    early = [np.where(np.arange(len(a)) * FRAME_S > 0.3, a + 1, a) for a in late]
    most = temporal_profile(early, frame_s=FRAME_S, onsets_s=onsets)
    assert most.lag_s == pytest.approx(0.1, abs=FRAME_S)
    assert (most.onsets, most.lag_onsets) == (40, 40)


@pytest.mark.parametrize(("every", "rises"), [(8, True), (10, False)])
def test_lag_needs_a_rise_of_three_standard_errors_of_the_onsets_at_its_maximum(every: int, rises: bool) -> None:
    late = np.arange(30) * FRAME_S > 0.4
    lasting = [np.where(late & (i % every == 0), 1.0, 0.0) for i in range(60)]
    profile = temporal_profile([*lasting, *[np.zeros(16)] * 40], frame_s=FRAME_S, onsets_s=[[0.2]] * 100)
    assert profile.lag_onsets == 60
    # 8 of 60 are 3.04 standard errors; 6 of 60 are 2.58, and would be 3.33 with 100 onsets
    assert np.isfinite(profile.lag_s) == rises


@pytest.mark.parametrize("rate_hz", [3.0, 5.5, 7.0, 12.0])
def test_modulation_spectrum_finds_vibrato(rate_hz: float) -> None:
    time_s = np.arange(200) * FRAME_S
    activations = [1 + np.sin(2 * np.pi * rate_hz * time_s + phase) for phase in range(5)]
    profile = temporal_profile(activations, frame_s=FRAME_S)
    assert profile.modulation_hz == pytest.approx(rate_hz, abs=0.5)
    assert (profile.syllable_share > 0.8) == (4 <= rate_hz <= 8)
    assert np.isnan(profile.lag_s)


@pytest.mark.parametrize("decay_s", [0.05, 0.2])
def test_persistence_is_the_decay_of_the_autocorrelation(decay_s: float) -> None:
    rng, keep = np.random.default_rng(0), np.exp(-FRAME_S / decay_s)
    activations = []
    for _ in range(40):
        noise, state = rng.normal(size=400), 0.0
        states = []
        for value in noise:
            state = keep * state + value
            states.append(state)
        activations.append(np.array(states))
    profile = temporal_profile(activations, frame_s=FRAME_S)
    assert profile.persistence_s == pytest.approx(decay_s, rel=0.2)


def test_persistence_ignores_differences_between_clips() -> None:
    rng = np.random.default_rng(0)
    shuffled = [level * (1 + 0.1 * rng.random(100)) for level in (0.0, 1.0, 5.0, 9.0)]
    assert temporal_profile(shuffled, frame_s=FRAME_S).persistence_s <= FRAME_S
    constant = [np.full(100, level, dtype=np.float32) for level in (0.1, 0.3)]
    assert np.isnan(temporal_profile(constant, frame_s=FRAME_S).persistence_s)


def test_modulation_slower_than_the_lowest_rate_has_no_strongest_rate() -> None:
    time_s = np.arange(400) * FRAME_S
    slow = [1 + np.sin(2 * np.pi * 0.25 * time_s + phase) for phase in range(5)]
    assert np.isnan(temporal_profile(slow, frame_s=FRAME_S).modulation_hz)
    assert np.isnan(temporal_profile(slow, frame_s=1.0).modulation_hz)


def test_sound_onsets_are_rises_after_quiet() -> None:
    levels = np.full(200, -70.0)
    levels[40:80] = levels[120:] = -20.0
    levels[60] = -70.0  # one quiet frame ends no sound
    assert sound_onsets(levels, frame_s=FRAME_S) == pytest.approx([0.8, 2.4], abs=FRAME_S)
    assert sound_onsets(np.full(50, -20.0), frame_s=FRAME_S).size == 0
    assert sound_onsets(np.full(5, np.nan), frame_s=FRAME_S).size == 0


def test_temporal_profile_of_silence_is_undefined_and_bad_arguments_are_refused() -> None:
    profile = temporal_profile([np.zeros(50), np.zeros(0)], frame_s=FRAME_S, onsets_s=[[0.1], []])
    assert np.isnan([profile.lag_s, profile.duration_s, profile.persistence_s, profile.modulation_hz]).all()
    with pytest.raises(EvaluationError, match="frame_s must be positive"):
        temporal_profile([np.zeros(3)], frame_s=0.0)
    with pytest.raises(EvaluationError, match="1 clips have activations, 2 have onsets"):
        temporal_profile([np.zeros(3)], frame_s=FRAME_S, onsets_s=[[], []])
