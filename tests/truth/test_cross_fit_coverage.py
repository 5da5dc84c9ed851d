"""Coverage of the intervals of cross-fitted scores: planted groups, and many new groups for the truth.

Choices are included: the layer is chosen in each fold alone, or on the mean of the folds, as the sparsity is.
"""

import math
from typing import NamedTuple

import numpy as np
import pytest

from otoscope.linear.ridge import fit_group_ridge
from otoscope.metrics.robust_factors import effective_rank
from otoscope.protocols.strict.run import HeldOutScores, best_layers, sparsest_within_error
from otoscope.protocols.strict.structure import clipped_mean_r2
from otoscope.resampling.groups import fold_splits, group_folds, group_sums, r2_from_sums
from otoscope.resampling.intervals import (
    R2_SCALE,
    fold_overlap,
    independent_units,
    jackknife_sums,
    recall_interval,
    widen,
)

NEW, EACH, WIDTH, DRAWS = 60, 25, 6, 400


def planted(rng: np.random.Generator, groups: int, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, a value and groups; features and value differ between groups beyond what features tell."""
    number = np.repeat(np.arange(groups), EACH)
    features = rng.standard_normal((len(number), WIDTH)) + effect * rng.standard_normal((groups, WIDTH))[number]
    own = effect * rng.standard_normal(groups)[number]
    return features, 0.6 * features[:, :3].sum(axis=1) + rng.standard_normal(len(number)) + own, number


def recalls(value: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hits and the rows of the classes below and above 0."""
    classes = np.stack([value > 0, value <= 0], axis=1).astype(float)
    return classes * np.stack([guess > 0, guess <= 0], axis=1), classes


def covered(rng: np.random.Generator, groups: int, effect: float) -> list[bool]:
    """Return whether the intervals of R2 and of balanced accuracy hold the mean score of the folds on new groups."""
    features, value, number = planted(rng, groups, effect)
    new, new_value, _ = planted(rng, NEW, effect)
    splits = fold_splits(rng.permutation(np.arange(groups) % 5)[number])
    guess, centre, truths = np.zeros_like(value), np.zeros_like(value), list[tuple[float, float]]()
    for split in splits:
        fitted, test = split != "test", split == "test"
        folds = group_folds(number[fitted], 4)
        rows = np.concatenate([features[test], new])
        found = fit_group_ridge(features[fitted], rows, value[fitted][None, :, None], folds=folds).others[0, :, 0]
        guess[test], unseen = found[: test.sum()], found[test.sum() :]
        centre[test] = value[fitted].mean()
        hits, of_class = recalls(new_value, unseen)
        away = ((new_value - value[fitted].mean()) ** 2).sum()
        truths.append((1 - ((new_value - unseen) ** 2).sum() / away, (hits.sum(axis=0) / of_class.sum(axis=0)).mean()))
    sums = group_sums(np.stack([(value - guess) ** 2, (value - centre) ** 2], axis=-1), number)
    hits, rows = (group_sums(part, number) for part in recalls(value, guess))
    intervals = [
        (jackknife_sums(sums, r2_from_sums, scale=R2_SCALE), (-math.inf, 1.0)),
        (recall_interval(hits, rows, independent_units(rows)), (0.0, 1.0)),
    ]
    ends = [widen(*interval, factor=fold_overlap(len(splits)), bounds=bounds) for interval, bounds in intervals]
    return [bool(low <= truth <= high) for (low, high), truth in zip(ends, np.mean(truths, axis=0), strict=True)]


@pytest.mark.parametrize(
    ("groups", "effect", "draws", "least"),
    [
        (5, 1.0, 60, 0.85),
        *(pytest.param(groups, 0.5, DRAWS, 0.92, marks=pytest.mark.slow) for groups in (5, 6, 10)),
        # a group differs from others as much as its own clips do
        *(pytest.param(groups, 1.0, DRAWS, 0.85, marks=pytest.mark.slow) for groups in (5, 6)),
    ],
)
def test_interval_of_a_cross_fit_covers_scores_on_new_groups(
    groups: int, effect: float, draws: int, least: float
) -> None:
    # 400 draws have a standard error of 1.4 %
    found = np.mean([covered(np.random.default_rng((groups, draw)), groups, effect) for draw in range(draws)], axis=0)
    assert (found >= least).all(), found


class Choice(NamedTuple):
    """Of a chosen layer: estimated R2 minus that on new groups, and whether the interval holds the latter."""

    optimism: float
    covered: bool


def choose_layer(rng: np.random.Generator, groups: int, layers: int) -> tuple[Choice, Choice]:
    """Choose among layers that are equally good, once on the mean of all folds, and in each fold alone.

    Layers of equal quality are the worst case: whichever is chosen owes it to chance.
    """
    base, value, number = planted(rng, groups, 0.5)
    new_base, new_value, new_number = planted(rng, NEW, 0.5)
    features, new = (
        rows[:, None] + 0.7 * rng.standard_normal((len(rows), layers, WIDTH))
        + 0.5 * rng.standard_normal((int(which.max()) + 1, layers, WIDTH))[which]
        for rows, which in ((base, number), (new_base, new_number))
    )  # fmt: skip
    splits = fold_splits(rng.permutation(np.arange(groups) % 5)[number])
    guess, centre = np.zeros((layers, len(value))), np.zeros(len(value))
    held, truths = np.zeros((2, len(splits), layers))
    for fold, split in enumerate(splits):
        fitted, test = split != "test", split == "test"
        folds, known = group_folds(number[fitted], 4), value[fitted]
        centre[test] = known.mean()
        for layer in range(layers):
            rows = np.concatenate([features[test, layer], new[:, layer]])
            found = fit_group_ridge(features[fitted, layer], rows, known[None, :, None], folds=folds)
            guess[layer, test], unseen = found.others[0, : test.sum(), 0], found.others[0, test.sum() :, 0]
            held[fold, layer] = 1 - ((known - found.held[0, :, 0]) ** 2).sum() / ((known - known.mean()) ** 2).sum()
            truths[fold, layer] = 1 - ((new_value - unseen) ** 2).sum() / ((new_value - known.mean()) ** 2).sum()

    def scored(of_fold: np.ndarray) -> Choice:
        chosen = np.zeros_like(value)
        for fold, split in enumerate(splits):
            chosen[split == "test"] = guess[of_fold[fold], split == "test"]
        sums = group_sums(np.stack([(value - chosen) ** 2, (value - centre) ** 2], axis=-1), number)
        interval = jackknife_sums(sums, r2_from_sums, scale=R2_SCALE)
        low, high = widen(*interval, factor=fold_overlap(len(splits)), bounds=(-math.inf, 1.0))
        truth = float(truths[np.arange(len(splits)), of_fold].mean())
        return Choice(float(interval[0]) - truth, bool(low <= truth <= high))

    found = {layer: HeldOutScores(held[:, layer, None], np.zeros((len(splits), 0))) for layer in range(layers)}
    return scored(np.full(len(splits), held.mean(axis=0).argmax())), scored(np.asarray(best_layers(found)))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [5, 10])
def test_layer_chosen_on_the_mean_of_the_folds_is_more_optimistic_than_one_chosen_in_each(groups: int) -> None:
    draws = [choose_layer(np.random.default_rng((groups, draw)), groups, 6) for draw in range(60)]
    once, per_fold = (np.mean([both[i] for both in draws], axis=0) for i in (0, 1))
    # 60 draws have a standard error of 3 to 4 %
    assert per_fold[1] >= 0.85
    # what pages and docs/methods.md state of the choice on the mean of all folds
    assert 0.78 <= once[1] <= 0.96
    assert once[0] > per_fold[0] + 0.02


FACTORS = 12


def choose_sparsity(rng: np.random.Generator, groups: int, levels: int) -> Choice:
    """Choose among equally good sparsities whose errors are independent, by the rule of one standard error."""

    def planted_factors(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = 0.5 * rng.standard_normal((int(number.max()) + 1, levels + 1, max(WIDTH, FACTORS)))[number]
        base = rng.standard_normal((len(number), WIDTH)) + own[:, levels, :WIDTH]
        noise = 0.7 * rng.standard_normal((len(number), levels, WIDTH)) + own[:, :levels, :WIDTH]
        value = base @ mixing + rng.standard_normal((len(number), FACTORS)) + own[:, 0, :FACTORS]
        return base[:, None] + noise, value

    mixing = 0.6 * rng.standard_normal((WIDTH, FACTORS))
    number = np.repeat(np.arange(groups), EACH)
    (features, value), (new, new_value) = planted_factors(number), planted_factors(np.repeat(np.arange(NEW), EACH))
    splits = fold_splits(rng.permutation(np.arange(groups) % 5)[number])
    guess, centre = np.zeros((levels, *value.shape)), np.zeros(value.shape)
    held, truths = np.zeros((2, len(splits), levels, FACTORS))
    for fold, split in enumerate(splits):
        fitted, test = split != "test", split == "test"
        folds, known = group_folds(number[fitted], 4), value[fitted]
        centre[test] = known.mean(axis=0)
        for level in range(levels):
            rows = np.concatenate([features[test, level], new[:, level]])
            found = fit_group_ridge(features[fitted, level], rows, known.T[:, :, None], folds=folds)
            guess[level, test], unseen = np.split(found.others[:, :, 0].T, [test.sum()])
            away = ((known - known.mean(axis=0)) ** 2).sum(axis=0)
            held[fold, level] = 1 - ((known - found.held[:, :, 0].T) ** 2).sum(axis=0) / away
            spread = ((new_value - known.mean(axis=0)) ** 2).sum(axis=0)
            truths[fold, level] = np.maximum(1 - ((new_value - unseen) ** 2).sum(axis=0) / spread, 0)
    scores = {float(level): HeldOutScores(held[:, level], np.zeros((len(splits), 0))) for level in range(levels)}
    chosen = int(sparsest_within_error(scores, independent=effective_rank(value)))
    sums = group_sums(np.stack([(value - guess[chosen]) ** 2, (value - centre) ** 2], axis=-1), number)
    interval = jackknife_sums(sums, clipped_mean_r2, scale=R2_SCALE)
    low, high = widen(*interval, factor=fold_overlap(len(splits)), bounds=(-math.inf, 1.0))
    truth = float(truths[:, chosen].mean())
    return Choice(float(interval[0]) - truth, bool(low <= truth <= high))


@pytest.mark.slow
def test_sparsity_chosen_within_one_error_is_hardly_optimistic() -> None:
    optimism, held = np.mean([choose_sparsity(np.random.default_rng((5, draw)), 5, 6) for draw in range(50)], axis=0)
    assert optimism <= 0.05
    assert held >= 0.85
