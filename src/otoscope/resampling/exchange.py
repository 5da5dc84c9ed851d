r"""Permutation tests of held-out predictions, with the groups kept.

Codes and targets that are independent of each other still agree when both have an effect of the group: singers differ
in pitch and in every latent. Rows are therefore permuted within their groups, which keeps such agreement in the null. A
target that is constant within groups (a singer's sex) has no other values there, so that its groups are permuted. The
model stays as fitted; targets of the test rows are permuted against its predictions, which is an exact test of whether
the two are related (Phipson and Smyth, *Stat. Appl. Genet. Mol. Biol.* 9, 2010): $p = (1 + b) / (1 + m)$ with $b$ of
$m$ permutations at least as large. Factors are tested as one family (`otoscope.resampling.nulls`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.resampling.groups import group_sums, missing_patterns, null_summary, number_groups, r2_from_sums
from otoscope.resampling.intervals import R2_SCALE, jackknife_sums
from otoscope.resampling.nulls import compare_with_maximum

PERMUTATIONS = 999
"""Permutations of a test: the least p is 0.001, and the standard error of a p of 0.05 is 0.007."""

LEVEL = 0.05


@dataclass(frozen=True)
class Exchange:
    """Rows that may be exchanged under the null: within groups, or whole groups.

    `testable` is False where so few arrangements differ that no p of 0.05 or less can be reached.
    """

    numbers: Int[np.ndarray, " rows"]
    within: bool
    testable: bool

    def orders(self, *, permutations: int = PERMUTATIONS, seed: int = 0) -> Iterator[Int[np.ndarray, " rows"]]:
        """Yield the row from which each row takes its target; nothing where a test is impossible."""
        if not self.testable:
            return
        rng = np.random.default_rng(seed)
        by_group = np.argsort(self.numbers, kind="stable")
        first = by_group[np.searchsorted(self.numbers[by_group], np.arange(self.numbers.max() + 1))]
        order = np.empty(len(self.numbers), dtype=np.int64)
        for _ in range(permutations):
            if self.within:
                # two sorts by group, the second with a random key within groups, have the same group at each position
                order[by_group] = np.lexsort((rng.random(len(order)), self.numbers))
                yield order
            else:
                yield first[rng.permutation(len(first))[self.numbers]]


def exchange(
    targets: Shaped[np.ndarray, " rows"] | Shaped[np.ndarray, "rows outputs"], groups: Shaped[np.ndarray, " rows"]
) -> Exchange:
    """Return the exchange of the rows of a target: within groups, or of groups where it is constant in each.

    >>> exchange(np.array(["f", "f", "m", "m"]), np.array([0, 0, 1, 1]))
    Exchange(numbers=array([0, 0, 1, 1]), within=False, testable=False)
    """
    numbers, n_groups = number_groups(groups)
    if not len(targets):
        return Exchange(numbers, within=False, testable=False)
    values = np.unique(targets.reshape(len(targets), -1), axis=0, return_inverse=True)[1].reshape(-1)
    counts = np.zeros((n_groups, int(values.max()) + 1))
    np.add.at(counts, (numbers, values), 1)
    within = bool(((counts > 0).sum(axis=1) > 1).any())
    cells = counts if within else (counts > 0).sum(axis=0)[None]
    arrangements = sum(math.lgamma(row.sum() + 1) - sum(math.lgamma(n + 1) for n in row[row > 1]) for row in cells)
    return Exchange(numbers, within=within, testable=arrangements > math.log(1 / LEVEL) + 1e-9)


class ExchangeScores(NamedTuple):
    """R2 of held-out predictions per factor, with its interval and null, and the R2 within groups with its interval.

    `null_mean` is the mean of R2 after exchange: what the groups alone give; `null_high` is the 95 % point. Both are at
    least 0; `null_mean` is NaN and `null_high` is 1 where too few rows or groups can be exchanged. `family_high` is the
    largest R2 with a `p_value` above 0.05 in the test of all factors as one family, 1 where a test is impossible.
    `within` compares deviations from the mean of each group; NaN for factors that are constant within groups.
    """

    r2: Float[np.ndarray, " factors"]
    low: Float[np.ndarray, " factors"]
    high: Float[np.ndarray, " factors"]
    null_mean: Float[np.ndarray, " factors"]
    null_high: Float[np.ndarray, " factors"]
    family_high: Float[np.ndarray, " factors"]
    p_value: Float[np.ndarray, " factors"]
    within: Float[np.ndarray, " factors"]
    within_low: Float[np.ndarray, " factors"]
    within_high: Float[np.ndarray, " factors"]


def score_factors(
    truth: Float[np.ndarray, "rows factors"],
    predicted: Float[np.ndarray, "rows factors"],
    centre: Float[np.ndarray, " factors"] | Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    *,
    seed: int = 0,
) -> ExchangeScores:
    """Return the scores of predictions; `centre` is the mean of the rows that were fitted.

    A factor is scored on the rows on which both its value and its prediction are known (not NaN), and is NaN without
    such rows. The predictions of one fold of groups take their centre from the rows that this fold was predicted from.
    """
    middle = np.broadcast_to(np.asarray(centre, dtype=np.float64), truth.shape)
    n_factors = truth.shape[1]
    scores = ExchangeScores(*np.full((len(ExchangeScores._fields), n_factors), math.nan))
    null = np.full((PERMUTATIONS, n_factors), math.nan)
    for members, present in missing_patterns(~np.isnan(truth) & ~np.isnan(predicted)):
        if not present.any():
            continue
        y, guess, of, here = *(x[np.ix_(present, members)] for x in (truth, predicted, middle)), groups[present]
        sums = group_sums(np.stack([(y - guess) ** 2, (y - of) ** 2], axis=-1), here)
        found = (*jackknife_sums(sums, r2_from_sums, scale=R2_SCALE), *within_r2(y, guess, here, strata=here))
        for values, kept in zip(found, (*scores[:3], *scores[-3:]), strict=True):
            kept[members] = values
        null[:, members] = _null(y, guess, of, here, seed)
    tested = ~np.isnan(null).all(axis=0)
    # predicting the mean needs no features and has an R2 of 0
    mean, high = (np.maximum(each, 0) for each in null_summary(null, most=1.0))
    family = compare_with_maximum(np.where(tested, scores.r2, math.nan), null)
    known = ~np.isnan(scores.r2)
    scores.null_mean[:], scores.p_value[:] = mean, family.p_value
    scores.null_high[known] = np.where(tested, high, 1.0)[known]
    scores.family_high[known] = np.where(tested, np.clip(family.high, 0, 1), 1.0)[known]
    return scores


def within_r2(
    truth: Float[np.ndarray, "rows factors"],
    predicted: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    *,
    strata: Shaped[np.ndarray, " rows"],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return R2 of deviations from the mean of each stratum (a group, or a class of a covariate), low and high.

    The interval is over groups. NaN for factors that are constant within strata.
    """
    errors, away = (deviations(values, strata) for values in (truth - predicted, truth))
    scale = np.abs(truth).max(axis=0, initial=0)
    varies: Bool[np.ndarray, " factors"] = np.abs(away).max(axis=0, initial=0) > 1e-9 * np.maximum(scale, 1e-300)
    sums = group_sums(np.stack([errors**2, np.where(varies, away, 0.0) ** 2], axis=-1), groups)
    return jackknife_sums(sums, r2_from_sums, scale=R2_SCALE)


def deviations(
    values: Float[np.ndarray, "rows factors"], strata: Shaped[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows factors"]:
    """Return values minus the mean of their stratum."""
    numbers, n_strata = number_groups(strata)
    means = group_sums(values, strata) / np.bincount(numbers, minlength=n_strata)[:, None]
    return values - means[numbers]


def left_by_classes(
    values: Float[np.ndarray, "rows columns"],
    groups: Shaped[np.ndarray, " rows"],
    *classes: Shaped[np.ndarray, " rows"],
) -> tuple[Float[np.ndarray, "rows columns"], int]:
    """Return what the means of groups and classes, added up, leave of values, and its degrees of freedom.

    Residuals below a billionth of the values' deviation are 0: the classes determine the value.
    """
    left, freedom = deviations(values, groups), len(values) - len(np.unique(groups))
    if classes:
        members = np.concatenate([one[:, None] == np.unique(one) for one in classes], axis=1).astype(np.float64)
        basis, sizes, _ = np.linalg.svd(deviations(members, groups), full_matrices=False)
        basis = basis[:, sizes > 1e-9 * math.sqrt(len(values))]
        left, freedom = left - basis @ (basis.T @ left), freedom - basis.shape[1]
    return np.where(left.std(axis=0) > 1e-9 * values.std(axis=0), left, 0.0), freedom


def _null(
    truth: Float[np.ndarray, "rows factors"],
    predicted: Float[np.ndarray, "rows factors"],
    middle: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    seed: int,
) -> Float[np.ndarray, "permutations factors"]:
    """Return the R2 of every factor after each exchange of its rows; NaN where no test is possible."""
    n_factors = truth.shape[1]
    null = np.full((PERMUTATIONS, n_factors), math.nan)
    kinds = [exchange(truth[:, j], groups) for j in range(n_factors)]
    for within in (True, False):
        members = np.flatnonzero([kind.testable and kind.within == within for kind in kinds])
        if not len(members):
            continue
        y, guess, of = truth[:, members], predicted[:, members], middle[:, members]
        norm = (guess**2).sum(axis=0)
        for turn, order in enumerate(kinds[members[0]].orders(seed=seed)):
            dealt = y[order]
            errors = norm + (dealt**2).sum(axis=0) - 2 * np.einsum("rf,rf->f", guess, dealt)
            null[turn, members] = r2_from_sums(np.stack([errors, ((dealt - of) ** 2).sum(axis=0)], axis=-1))
    return null
