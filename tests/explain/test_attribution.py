"""Attribution with planted truth: decisions of known latents, and sounds whose cause is one cell or one moment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.encoders.base import Frames
from otoscope.errors import EvaluationError
from otoscope.explain.attribution import (
    MaskedSound,
    attribute,
    cell_energies,
    even_grid,
    flipped_by_ablation,
    occlude,
    occlusion_curves,
    retained,
    rotated_regions,
)

RATE_HZ = 16_000


def probe(seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    codes = np.maximum(rng.normal(size=(20, 30)), 0)
    atoms, offset = rng.normal(size=(30, 8)), rng.normal(size=8)
    return codes, atoms, offset, rng.normal(size=(8, 4)), rng.normal(size=4)


@given(st.integers(0, 50))
def test_contributions_add_up_to_the_margin_and_each_is_what_its_ablation_changes(seed: int) -> None:
    codes, atoms, offset, weights, bias = probe(seed)
    found = attribute(codes, atoms, offset, weights, bias)
    assert found.margins == pytest.approx(found.contributions.sum(axis=1) + found.rest)
    assert (found.margins >= 0).all()
    without = codes.copy()
    without[:, 7] = 0
    scores = (without @ atoms + offset) @ weights + bias
    rows = np.arange(len(codes))
    after = scores[rows, found.predicted] - scores[rows, found.runner_up]
    assert found.margins - after == pytest.approx(found.contributions[:, 7])


def test_ablating_the_planted_latent_flips_decisions_and_others_of_its_norm_do_not() -> None:
    """Latent 0 votes for class 0, latent 1 for class 1; the other 20 do not touch the probe."""
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.tile([3.0, 1.0], (40, 1)), rng.uniform(0.5, 1, (40, 20))], axis=1)
    atoms = np.eye(22)
    weights = np.zeros((22, 2))
    weights[0, 0] = weights[1, 1] = 1.0
    arguments = (codes, atoms, np.zeros(22), weights, np.zeros(2))
    flipped, by_others = flipped_by_ablation(*arguments, removed=1)
    assert flipped.all()
    assert by_others.max() <= 0.2  # latent 1 is drawn at times, and strengthens the decision
    with pytest.raises(EvaluationError, match="two classes"):
        attribute(codes, atoms, np.zeros(22), weights[:, :1], np.zeros(1))


def test_masked_sound_is_the_clip_with_nothing_silenced_and_its_parts_add_up() -> None:
    wave = np.random.default_rng(0).normal(size=RATE_HZ // 2).astype(np.float32)
    sound = MaskedSound(wave, RATE_HZ)
    grid = even_grid(0.5, RATE_HZ)
    everything = np.ones(grid.shape, dtype=bool)
    assert sound.keep(sound.cells(grid, everything)) == pytest.approx(wave, abs=1e-5)
    left = np.zeros(grid.shape, dtype=bool)
    left[:, :3] = True
    both = sound.keep(sound.cells(grid, left)) + sound.keep(sound.cells(grid, ~left))
    assert both == pytest.approx(wave, abs=1e-5)
    assert cell_energies(sound, grid).sum() == pytest.approx(1.0)
    assert sound.energy(sound.cells(grid, left)) + sound.energy(sound.cells(grid, ~left)) == pytest.approx(1.0)


def band_level(wave: np.ndarray, low_hz: float, high_hz: float, start_s: float, end_s: float) -> float:
    part = wave[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
    power = np.abs(np.fft.rfft(part)) ** 2
    frequencies = np.fft.rfftfreq(len(part), 1 / RATE_HZ)
    return float(np.sqrt(power[(frequencies >= low_hz) & (frequencies < high_hz)].sum()))


def test_occlusion_finds_the_planted_cell_although_another_is_louder() -> None:
    """A weak tone at 1 kHz from 0.5 to 0.6 s is the cause; a strong one at 200 Hz from 0 to 0.2 s is not."""
    time = np.arange(RATE_HZ) / RATE_HZ
    wave = 0.01 * np.random.default_rng(0).normal(size=RATE_HZ)
    wave[: RATE_HZ // 5] += np.sin(2 * np.pi * 200 * time[: RATE_HZ // 5])
    cause = slice(RATE_HZ // 2, RATE_HZ * 6 // 10)
    wave[cause] += 0.1 * np.sin(2 * np.pi * 1000 * time[cause])
    sound, grid = MaskedSound(wave, RATE_HZ), even_grid(1.0, RATE_HZ, times=10, bands=6)

    def score(heard: np.ndarray) -> float:
        return band_level(heard, 900, 1100, 0.5, 0.6)

    relevance = occlude(score, sound, grid)
    band = int(np.searchsorted(grid.frequencies_hz, 1000.0)) - 1
    assert np.unravel_index(relevance.argmax(), grid.shape) == (band, 5)
    curves = {
        name: occlusion_curves(score, sound, grid, order)
        for name, order in (("relevance", relevance), ("energy", cell_energies(sound, grid)))
    }
    assert curves["relevance"].deletion[0] == curves["relevance"].insertion[-1] == pytest.approx(1.0, abs=1e-4)
    assert curves["relevance"].deletion_area < 0.3
    assert curves["relevance"].insertion_area > 0.8
    assert curves["energy"].deletion_area >= curves["relevance"].deletion_area
    with pytest.raises(EvaluationError, match="untouched clip is 0"):
        occlusion_curves(lambda _: 0.0, sound, grid, relevance)


def burst() -> tuple[MaskedSound, Frames, np.ndarray]:
    """Noise with a tone from 0.4 to 0.6 s, in which ten of fifty frames fire."""
    rng = np.random.default_rng(0)
    wave = 0.3 * rng.normal(size=RATE_HZ)
    wave[RATE_HZ * 4 // 10 : RATE_HZ * 6 // 10] += np.sin(2 * np.pi * 3000 * np.arange(RATE_HZ // 5) / RATE_HZ)
    starts = np.arange(50) * 0.02
    firing = (starts >= 0.4 - 1e-9) & (starts < 0.6 - 1e-9)
    return MaskedSound(wave, RATE_HZ), Frames(starts, starts + 0.02), firing


def tone_activation(wave: np.ndarray) -> np.ndarray:
    """Level at 3 kHz per frame, above that of the noise."""
    return np.array([max(band_level(wave, 2900, 3100, t, t + 0.02) - 60, 0.0) for t in np.arange(50) * 0.02])


def test_playing_the_firing_region_retains_the_activation_and_random_regions_do_not() -> None:
    sound, frames, firing = burst()
    assert (tone_activation(sound.wave) > 0)[firing].all()
    region = sound.firing_region(frames, firing)
    others = rotated_regions(sound, region, draws=3)
    assert {int(mask.sum()) for mask in others} == {int(region.sum())}
    own, *random = retained(tone_activation, sound, [region, *others])
    assert own > 0.8
    assert max(random) < 0.6
    assert np.mean(random) < 0.3


def test_patch_models_mask_time_and_frequency() -> None:
    sound, _, _ = burst()
    patches = Frames(np.array([0.0, 0.5]), np.array([0.5, 1.0]), np.array([0.0, 4000.0]), np.array([4000.0, 8000.0]))
    region = sound.firing_region(patches, np.array([True, False]))
    assert region[sound.frequencies_hz < 3900][:, (sound.times_s > 0.01) & (sound.times_s < 0.49)].all()
    assert not region[sound.frequencies_hz > 4100].any()
    assert not region[:, sound.times_s > 0.51].any()


def test_silent_latents_and_regions_without_contrast_are_refused() -> None:
    sound, frames, firing = burst()
    with pytest.raises(EvaluationError, match="has 10 samples; at least 200 can be masked"):
        MaskedSound(np.zeros(10, dtype=np.float32), 16_000)
    with pytest.raises(EvaluationError, match="silent in this clip"):
        retained(np.zeros_like, sound, [])
    for mask in (np.zeros_like(firing), np.ones_like(firing)):
        with pytest.raises(EvaluationError, match="random masks of equal area need"):
            rotated_regions(sound, sound.firing_region(frames, mask))
