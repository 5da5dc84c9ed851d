"""Coverage of the intervals of cross-fitted scores: planted groups, and many new groups for the truth."""

import math

import numpy as np
import pytest

from otoscope.linear.group_ridge import fit_group_ridge
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


@pytest.mark.slow
@pytest.mark.parametrize("groups", [5, 6, 10])
def test_interval_of_a_cross_fit_covers_scores_on_new_groups(groups: int) -> None:
    # 400 draws have a standard error of 1.4 %
    found = np.mean([covered(np.random.default_rng((groups, draw)), groups, 0.5) for draw in range(DRAWS)], axis=0)
    assert (found >= 0.92).all(), found
