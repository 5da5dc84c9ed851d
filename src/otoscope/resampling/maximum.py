"""Tests of a family of targets or latents against the largest value that permutation gives in the whole family.

A family of 88 factors has four below p = 0.05 by chance. Here the null of each member is the maximum over the family in
the same permutation, so that at most 5 % of families have any member with p of 0.05 or less (Westfall and Young,
*Resampling-Based Multiple Testing*, 1993). Members differ in the scale of their null: a factor with strong effects of
the group reaches a higher R2 by chance. Each is therefore measured in distances of the 95 % point of its null from the
median. Few permutations suffice: with 20, one member or all of them can reach 1 / 21.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otoscope.resampling.groups import null_summary


class MaximumTest(NamedTuple):
    """Result of `compare_with_maximum`, per member of the family.

    `p_value` is (1 + b) / (1 + m) with b of m permutations in which any member is as large; NaN for members without a
    null. `high` is the least value with p above 0.05: a member is significant if it is larger. It is infinite for
    members without a null.
    """

    p_value: Float[np.ndarray, " members"]
    high: Float[np.ndarray, " members"]


def compare_with_maximum(
    values: Float[np.ndarray, " members"], null: Float[np.ndarray, "permutations members"]
) -> MaximumTest:
    """Compare values with the maximum of the family under permutation.

    `null` holds the values after each permutation, the same one for all members of a row; NaN for members that cannot
    be tested. Median and 95 % point of a member include the value itself, which makes the test exact: under the null,
    values and permutations are exchangeable.

    >>> null = np.random.default_rng(0).normal(size=(999, 50))
    >>> found = compare_with_maximum(np.array([2.2, 9.0] + 48 * [0.0]), null)
    >>> (found.p_value[:2] <= 0.05).tolist(), float(np.mean(null[:, 0] >= 2.2).round(2))
    ([False, True], 0.01)
    """
    p_value, high = np.full(len(values), math.nan), np.full(len(values), math.inf)
    tested = ~np.isnan(values) & ~np.isnan(null).any(axis=0) if len(null) else np.zeros(len(values), dtype=bool)
    if not tested.any():
        return MaximumTest(p_value, high)
    rows = np.concatenate([values[None, tested], null[:, tested]])
    middle, scale = _middle_and_scale(rows)
    scaled = (rows - middle) / scale
    largest = scaled[1:].max(axis=1)
    p_value[tested] = (1 + (largest[:, None] >= scaled[0]).sum(axis=0)) / (1 + len(largest))
    high[tested] = middle + scale * null_summary(largest)[1]
    return MaximumTest(p_value, high)


def permutation_p(
    values: Float[np.ndarray, " statistics"], null: Float[np.ndarray, "permutations statistics"]
) -> Float[np.ndarray, " statistics"]:
    """Return p of each statistic alone, (1 + b) / (1 + m) with b of m permutations as large; NaN without permutations.

    >>> permutation_p(np.array([2.0]), np.array([[1.0], [3.0], [2.0]]))
    array([0.75])
    """
    if not len(null):
        return np.full(len(values), math.nan)
    return (1 + (null >= values).sum(axis=0)) / (1 + len(null))


def _middle_and_scale(rows: Float[np.ndarray, "rows members"]) -> tuple[NDArray[Any], NDArray[Any]]:
    middle, upper = np.quantile(rows, [0.5, 0.95], axis=0, method="higher")
    spread = rows.std(axis=0)
    scale = np.where(upper > middle, upper - middle, spread)
    return middle, np.where(scale > 0, scale, 1.0)
