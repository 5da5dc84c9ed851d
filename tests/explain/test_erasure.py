"""Erasure: LEACE against its defining properties, and effect matrices with planted truth."""

import numpy as np
import pytest
import torch

from otoscope.errors import EvaluationError
from otoscope.explain.erasure import diagonal_dominance, gain_before, gain_sums, leace, lost_gain, swap_pairs
from otoscope.explain.interventions import ReadoutExperiment, code_edit, latent_shift, shifted_by
from otoscope.explain.readouts import concept_targets, fit_readouts
from tests.support.planted_encoder import axis_sae, linear_encoder, planted_clips


def correlated(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = (rng.random((2000, 2)) < 0.4).astype(np.float64)
    x = rng.normal(size=(2000, 8)) @ rng.normal(size=(8, 8)) + z @ rng.normal(size=(2, 8)) + 3.0
    return x, z


def erased(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return leace(x, z)(torch.from_numpy(x)).numpy()


def test_leace_leaves_nothing_that_a_linear_readout_could_use() -> None:
    x, z = correlated()
    after = erased(x, z)
    covariance = (after - after.mean(0)).T @ (z - z.mean(0)) / len(x)
    assert np.abs(covariance).max() < 1e-4
    design = np.concatenate([after, np.ones((len(x), 1))], axis=1)
    fitted = design @ np.linalg.lstsq(design, z, rcond=1e-9)[0]
    assert ((z - fitted) ** 2).sum() == pytest.approx(((z - z.mean(0)) ** 2).sum(), rel=1e-5)


def test_leace_is_idempotent_keeps_the_mean_and_changes_less_than_orthogonal_projection() -> None:
    x, z = correlated(1)
    eraser = leace(x, z)
    after = eraser(torch.from_numpy(x))
    assert np.allclose(eraser(after), after, atol=1e-4)
    assert np.allclose(after.mean(0), x.mean(0), atol=1e-4)
    directions, _ = np.linalg.qr((x - x.mean(0)).T @ (z - z.mean(0)))
    projected = x - (x - x.mean(0)) @ directions @ directions.T  # the same guarantee, a larger change
    assert np.square(after.numpy() - x).sum() < np.square(projected - x).sum()


def test_leace_ignores_unknown_values_and_refuses_constant_ones() -> None:
    x, z = correlated(2)
    gaps = np.concatenate([z, np.full((50, 2), np.nan)])
    rows = np.concatenate([x, np.full((50, 8), 9.0)])
    assert np.allclose(leace(rows, gaps).right, leace(x, z).right)
    with pytest.raises(EvaluationError, match="nothing to erase"):
        leace(x, np.ones((len(x), 1)))


def planted_effects(*, leak: float = 0.0, groups: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three concepts; erasing one removes its readout, and `leak` of the others."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(groups), 12)
    truth = rng.normal(size=(len(names), 3))
    before = truth + 0.2 * rng.normal(size=truth.shape)
    kept = np.where(np.eye(3, dtype=bool), 0.0, 1 - leak)
    after = kept[:, None, :] * before + 0.1 * rng.normal(size=(3, *truth.shape))
    return np.concatenate([before[None], after]), truth, names


def test_lost_gain_recovers_a_planted_matrix_and_an_inverse_of_it() -> None:
    outputs, truth, groups = planted_effects(leak=0.25)
    sums = gain_sums(outputs, truth, np.arange(3), groups)
    assert gain_before(sums) == pytest.approx(np.ones(3), abs=0.1)
    lost = lost_gain(sums)
    assert lost.lost == pytest.approx(np.where(np.eye(3), 1.0, 0.25), abs=0.1)
    assert ((lost.low <= lost.lost) & (lost.lost <= lost.high)).all()
    inverted = gain_sums(np.stack([outputs[0], -outputs[0]]), truth, np.arange(3), groups)
    assert lost_gain(inverted).lost == pytest.approx(2 * gain_before(sums)[None], abs=1e-9)


def test_columns_of_one_concept_count_together_and_unknown_values_not_at_all() -> None:
    outputs, truth, groups = planted_effects()
    gaps = truth.copy()
    gaps[::7, 2] = np.nan
    sums = gain_sums(outputs, gaps, np.array([0, 0, 1]), groups)
    assert sums.shape == (6, 5, 2)
    assert gain_before(sums) == pytest.approx(np.ones(2), abs=0.1)
    alone = gain_sums(outputs, truth, np.arange(3), groups)
    assert sums[:, :, 0] == pytest.approx(alone[:, :, 0] + alone[:, :, 1])


def test_dominance_is_one_for_a_perfect_eraser_and_its_lead_over_a_control_is_paired() -> None:
    erased, others = np.arange(3), ~np.eye(3, dtype=bool)
    perfect, leaking = (gain_sums(*values[:2], np.arange(3), values[2]) for values in map_leaks(0.0, 1.0))
    assert diagonal_dominance(perfect, erased, others).dominance == pytest.approx(1.0, abs=0.1)
    nothing_own = diagonal_dominance(leaking, erased, others)
    assert nothing_own.dominance == pytest.approx(0.0, abs=0.1)
    lead = diagonal_dominance(perfect, erased, others, control=leaking)
    assert lead.low > 0.8
    none = diagonal_dominance(perfect, erased, others, control=perfect)
    assert none == (0.0, 0.0, 0.0)


def map_leaks(*leaks: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [planted_effects(leak=leak) for leak in leaks]


def test_swap_pairs_stay_within_a_group_differ_in_the_concept_and_agree_otherwise() -> None:
    values = np.array([-1.0, 1.0, 1.4, -1.0, -0.4])
    others = np.array([["a"], ["b"], ["a"], ["a"], ["a"]])
    groups = np.array(["g", "g", "g", "h", "h"])
    assert swap_pairs(values, others, groups, np.arange(5), limit=5) == [(0, 2), (3, 4)]
    assert swap_pairs(values, others, groups, np.arange(5), limit=1) == [(0, 2)]
    assert swap_pairs(values, others, groups, np.array([0, 4]), limit=5) == []


def test_erasing_planted_latents_dominates_random_ones_through_the_encoder() -> None:
    """A rotation lies between the erased layer and the readouts; concepts are planted on latents 0 and 1."""
    encoder, sae, clips = linear_encoder(), axis_sae(), planted_clips()
    train = np.isin(clips.groups, ["g0", "g1"])
    valid = clips.groups == "g2"
    targets = concept_targets(clips.labels, np.zeros((len(clips.waves), 0)), [], train=train)
    pooled = np.stack([encoder.encode([w], [2]).layers[2][0].numpy().mean(0) for w in clips.waves])
    readouts = fit_readouts(pooled, targets, train=train, valid=valid)
    test = np.flatnonzero(~train & ~valid)
    experiment = ReadoutExperiment(encoder, 0, 2, readouts, [clips.waves[i] for i in test])
    before = experiment.outputs()

    def sums(first: int, second: int) -> np.ndarray:
        shifts = [latent_shift(sae, code_edit([i], "ablate", n_latents=sae.latents)) for i in (first, second)]
        after = [experiment.outputs(lambda _, s=s: shifted_by(s)) for s in shifts]
        return gain_sums(np.stack([before, *after]), targets.values[test], np.arange(2), clips.groups[test])

    planted, random = sums(0, 1), sums(5, 6)
    others = ~np.eye(2, dtype=bool)
    assert diagonal_dominance(planted, np.arange(2), others).low > 0.8
    assert diagonal_dominance(planted, np.arange(2), others, control=random).low > 0.8
