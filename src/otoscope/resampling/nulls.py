"""Null models: permuted rows, random sparse codes and dictionaries, and the largest value of a family.

A family of 88 factors has four below p = 0.05 by chance. In `compare_with_maximum` the null of each member is the
maximum over the family in the same permutation, so that at most 5 % of families have any member with p of 0.05 or less
(Westfall and Young, *Resampling-Based Multiple Testing*, 1993). Members differ in the scale of their null: a factor
with strong effects of the group reaches a higher R2 by chance. Each is therefore measured in distances of the 95 %
point of its null from the median. Few permutations suffice: with 20, one member or all of them can reach 1 / 21.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import null_summary, number_groups


def permuted_order(
    n_rows: int, *, seed: int, groups: Shaped[np.ndarray, " rows"] | None = None
) -> Int[np.ndarray, " rows"]:
    """Return a random permutation of the rows; with `groups`, one within each group.

    A free permutation destroys all dependence between codes and targets. A permutation within groups preserves the
    dependence on the group (singer, speaker) and destroys the rest.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.permutation(n_rows)
    if len(groups) != n_rows:
        raise EvaluationError(f"{n_rows} rows but {len(groups)} groups; give one group per row")
    codes, _ = number_groups(groups)
    order = np.arange(n_rows)
    # two sorts by group, the second with a random key within groups, have the same group at each position
    order[np.argsort(codes, kind="stable")] = np.lexsort((rng.random(n_rows), codes))
    return order


def permute_rows(
    codes: Float[np.ndarray, "rows latents"], *, seed: int, groups: Shaped[np.ndarray, " rows"] | None = None
) -> Float[np.ndarray, "rows latents"]:
    """Return the codes with their rows in random order; see `permuted_order`."""
    return codes[permuted_order(len(codes), seed=seed, groups=groups)]


def random_sparse_codes(
    codes: Float[np.ndarray, "rows latents"], *, seed: int, trades: float = 5.0
) -> Float[np.ndarray, "rows latents"]:
    """Return random codes with the same L0 in every row and the same values in every latent.

    Both margins of the firing pattern are preserved exactly: pairs of rows exchange latents that only one of them has
    (the curveball algorithm; Strona et al., Nature Communications 5:4114, 2014; five trades per row as there). Then
    the values of each latent are assigned at random to the rows on which it now fires. This removes dependence
    between latents, and between latents and targets.
    """
    rng = np.random.default_rng(seed)
    fires = codes != 0
    pairs = rng.integers(len(codes), size=(int(trades * len(codes)), 2))
    shuffled = _trade(fires.copy(), pairs, int(rng.integers(2**31)))
    result = np.zeros_like(codes)
    for latent in range(codes.shape[1]):
        values = codes[fires[:, latent], latent]
        result[shuffled[:, latent], latent] = rng.permutation(values)
    return result


@numba.njit(cache=True)
def _trade(
    fires: Bool[np.ndarray, "rows latents"], pairs: Int[np.ndarray, "trades 2"], seed: int
) -> Bool[np.ndarray, "rows latents"]:
    np.random.seed(seed)  # noqa: NPY002 - numba's own generator, private to compiled code
    n_latents = fires.shape[1]
    owned = np.empty(n_latents, dtype=np.int64)
    for t in range(len(pairs)):
        first, second = pairs[t, 0], pairs[t, 1]
        n_owned = 0
        n_first = 0
        for latent in range(n_latents):
            if fires[first, latent] != fires[second, latent]:
                owned[n_owned] = latent
                n_owned += 1
                n_first += fires[first, latent]
        # a partial Fisher-Yates shuffle: the first row gets as many of the exchanged latents as before
        for i in range(n_owned):
            if i < n_first:
                j = i + np.random.randint(n_owned - i)  # noqa: NPY002
                owned[i], owned[j] = owned[j], owned[i]
            fires[first, owned[i]] = i < n_first
            fires[second, owned[i]] = i >= n_first
    return fires


def random_dictionary(latents: int, width: int, *, seed: int) -> Float[np.ndarray, "latents width"]:
    """Return directions drawn uniformly from the unit sphere, one per latent, float32.

    >>> random_dictionary(3, 2, seed=0).shape
    (3, 2)
    """
    directions = np.random.default_rng(seed).standard_normal((latents, width))
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)


TIES = 1e-9
"""Distance within which a permuted value counts as large as the value: rounding depends on the order of sums."""


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
    p_value[tested] = (1 + (largest[:, None] >= scaled[0] - TIES).sum(axis=0)) / (1 + len(largest))
    high[tested] = middle + scale * null_summary(largest)[1]
    return MaximumTest(p_value, high)


def permutation_p(
    values: Float[np.ndarray, " statistics"], null: Float[np.ndarray, "permutations statistics"]
) -> Float[np.ndarray, " statistics"]:
    """Return p of each statistic alone, (1 + b) / (1 + m) with b of m permutations as large; NaN without permutations.

    >>> permutation_p(np.array([0.1 + 0.2]), np.array([[0.1], [0.5], [0.3]]))  # 0.1 + 0.2 and 0.3 are a tie
    array([0.75])
    """
    if not len(null):
        return np.full(len(values), math.nan)
    return (1 + (null >= values - TIES).sum(axis=0)) / (1 + len(null))


def _middle_and_scale(rows: Float[np.ndarray, "rows members"]) -> tuple[NDArray[Any], NDArray[Any]]:
    middle, upper = np.quantile(rows, [0.5, 0.95], axis=0, method="higher")
    spread = rows.std(axis=0)
    scale = np.where(upper > middle, upper - middle, spread)
    return middle, np.where(scale > 0, scale, 1.0)
