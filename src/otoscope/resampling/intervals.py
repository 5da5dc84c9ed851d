r"""Intervals over groups: the jackknife of whole groups with Student's t.

Clips of one singer resemble each other, so a confidence interval over clips is too narrow. Every interval leaves out
one whole group at a time. With $\theta_g$ the statistic without group $g$ of $G$, on a scale on which it is about
normal,

$$ s^2 = \frac{G - 1}{G} \sum_g \bigl(\theta_g - \bar\theta\bigr)^2 ,
   \qquad \theta \pm t_{G - 1}\, s $$

(Efron and Stein, *Ann. Stat.* 9, 1981; Tukey, *Ann. Math. Stat.* 29, 1958). Percentile intervals of a bootstrap of few
groups are too narrow (`docs/methods.md` has the coverage of both). In a cross-fit the interval is wider by the factor
of `fold_overlap`. Statistics that depend on the rows only through sums
(means, ratios of sums, confusion matrices) need one vectorised pass over the groups.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import special

from otoscope.errors import EvaluationError

CONFIDENCE = 0.95

MIN_GROUPS = 3
"""Test groups needed for a decision: with two, the interval of the jackknife has one degree of freedom."""

TAIL = (1 - CONFIDENCE) / 2

Z = float(special.ndtri(1 - TAIL))
"""Standard errors to either end of an interval where the error itself is known well."""


class Interval(NamedTuple):
    """A value and its 95 % interval; the ends are NaN with fewer than two groups."""

    value: float
    low: float
    high: float


class Score(NamedTuple):
    """A value, its interval over groups, and the null of the same procedure on permuted targets.

    `p_value` is (1 + b) / (1 + m) with b of m permutations at least as large; of a family of targets, at least as large
    anywhere in the family.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    null_mean: float = math.nan
    null_high: float = math.nan
    p_value: float = math.nan


class Scale(NamedTuple):
    """A monotonic map on which a statistic is about normal, and its inverse."""

    forward: Callable[[NDArray[Any]], NDArray[Any]]
    back: Callable[[NDArray[Any]], NDArray[Any]]


def _same(x: NDArray[Any]) -> NDArray[Any]:
    return x


def _fisher(r: NDArray[Any]) -> NDArray[Any]:
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))


PLAIN = Scale(_same, _same)

FISHER = Scale(_fisher, np.tanh)
"""For correlations."""


def bounded(least: float, most: float) -> Scale:
    """Return the plain scale with ends clipped to the bounds of a statistic."""

    def clip(x: NDArray[Any]) -> NDArray[Any]:
        return np.clip(x, least, most)

    return Scale(_same, clip)


R2_SCALE = bounded(-math.inf, 1.0)


def t_quantile(n_groups: int) -> float:
    """Return the two-sided 95 % point of Student's t with `n_groups` - 1 degrees of freedom.

    >>> round(t_quantile(5), 3)
    2.776
    """
    return float(special.stdtrit(n_groups - 1, 1 - TAIL))


def leave_one_out(
    sums: Float[np.ndarray, "groups ..."], statistic: Callable[[NDArray[Any]], NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a statistic of all groups together, and without each of them, `[groups, ...]`.

    `statistic` maps sums `[n, ...]` to `[n, ...]`.
    """
    total = sums.sum(axis=0, keepdims=True)
    if len(sums) < 2:
        value = np.asarray(statistic(total)[0])
        return value, np.full((len(sums), *value.shape), math.nan)
    # exact zeros stay zeros: a difference of large sums leaves a rounding error where a class is absent
    left = total - sums
    without = np.where(np.abs(left) > 1e-12 * np.abs(total), left, 0.0)
    both = np.asarray(statistic(np.concatenate([total, without])))
    return np.asarray(both[0]), both[1:]


def jackknife_error(without: Float[np.ndarray, "groups ..."]) -> NDArray[Any]:
    """Return the jackknife standard error from a statistic without each group; NaN where one of them is."""
    n_groups = len(without)
    centred = without - without.mean(axis=0)
    return np.asarray(np.sqrt((n_groups - 1) / n_groups * (centred**2).sum(axis=0)))


def jackknife(
    value: NDArray[Any] | np.float64, without: Float[np.ndarray, "groups ..."], *, scale: Scale = PLAIN
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ends of the interval of a statistic from its values without each group.

    A statistic that is undefined (NaN) without some group has no interval, nor has one of fewer than two groups.
    """
    if len(without) < 2:
        undefined = np.full(np.shape(value), math.nan)
        return undefined, undefined
    whole = np.asarray(value)[None]  # a scale takes and returns arrays, also for a single statistic
    centre, half = scale.forward(whole), t_quantile(len(without)) * jackknife_error(scale.forward(without))
    low, high = scale.back(centre - half), scale.back(centre + half)
    # rounding of a scale and its inverse must not put the value outside its interval
    low, high = np.minimum(low, whole), np.maximum(high, whole)
    return np.asarray(low[0]), np.asarray(high[0])


def jackknife_sums(
    sums: Float[np.ndarray, "groups ..."],
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    scale: Scale = PLAIN,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return value, low and high of a statistic that depends on the rows only through sums per group.

    A paired difference of two representations on the same rows is a statistic of both sums side by side. Raises
    `EvaluationError` without groups.

    >>> sums = np.array([[1.0, 2.0], [3.0, 4.0], [2.0, 4.0]])  # hits and rows of three groups
    >>> [round(float(x), 3) for x in jackknife_sums(sums, lambda s: s[..., 0] / s[..., 1])]
    [0.6, 0.169, 1.031]
    """
    if len(sums) == 0:
        raise EvaluationError("no groups; an interval needs the sums of at least one")
    value, without = leave_one_out(sums, statistic)
    return value, *jackknife(value, without, scale=scale)


def fold_overlap(folds: int) -> float:
    r"""Return the factor by which the error over groups grows in a cross-fit; 1 for one split.

    Folds are predicted by models that were fitted on largely the same groups, so that their errors agree. With $K$
    folds the variance grows by $1 + K / (K - 1)$ (Nadeau and Bengio, *Machine Learning* 52, 2003).

    >>> fold_overlap(1), fold_overlap(5)
    (1.0, 1.5)
    """
    return math.sqrt(1 + folds / (folds - 1)) if folds > 1 else 1.0


def widen(
    value: NDArray[Any] | float,
    low: NDArray[Any] | float,
    high: NDArray[Any] | float,
    *,
    factor: float,
    bounds: tuple[float, float],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ends of an interval at `factor` times their distance from the value, within the bounds.

    >>> widen(0.5, 0.3, 0.9, factor=1.5, bounds=(0.0, 1.0))
    (array(0.2), array(1.))
    """
    if factor == 1:
        return np.asarray(low), np.asarray(high)
    value, low, high = (np.asarray(x, dtype=np.float64) for x in (value, low, high))
    ends = np.maximum(value - factor * (value - low), bounds[0]), np.minimum(value + factor * (high - value), bounds[1])
    return np.asarray(ends[0]), np.asarray(ends[1])


def share_interval(value: float, error: float, *, n_groups: int, n: float, least_error: float = 0.0) -> Interval:
    r"""Return the interval of a share of `n` rows with a standard error over groups.

    The share $p$ is as uncertain as that of $n^* = p (1 - p) / s^2$ independent rows, at most $n$, where $s$ is the
    error over groups times $t_{G-1} / z$. The ends are those of Clopper and Pearson (*Biometrika* 26, 1934) for $n^*$
    rows (Korn and Graubard, *Survey Methodology* 24, 1998). `least_error` bounds $s$ from below.

    >>> [round(x, 2) for x in share_interval(29 / 30, 1 / 30, n_groups=3, n=30)]  # groups with 90, 100 and 100 %
    [0.97, 0.5, 1.0]
    """
    if not math.isfinite(error):
        return Interval(value, math.nan, math.nan)
    spread = max(t_quantile(n_groups) / Z * error, least_error)
    size = min(value * (1 - value) / spread**2, n) if spread else n
    right, wrong = value * size, (1 - value) * size
    low = float(special.betaincinv(right, wrong + 1, TAIL)) if right > 0 else 0.0
    high = float(special.betaincinv(right + 1, wrong, 1 - TAIL)) if wrong > 0 else 1.0
    return Interval(value, low, high)


def independent_units(rows: Float[np.ndarray, "groups classes"]) -> Float[np.ndarray, " classes"]:
    """Return the number of independent units per class: groups where each has one class (a singer's sex), else rows.

    >>> independent_units(np.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])).tolist()
    [2.0, 1.0]
    """
    has = rows > 0
    return has.sum(axis=0).astype(np.float64) if (has.sum(axis=1) <= 1).all() else rows.sum(axis=0)


def recall_interval(
    hits: Float[np.ndarray, "groups classes"],
    rows: Float[np.ndarray, "groups classes"],
    units: Float[np.ndarray, " classes"],
) -> Interval:
    r"""Return the mean over classes of hits / rows, with its `share_interval`; for one column, an accuracy.

    Classes without rows are excluded. Three cases need more than the jackknife:

    - The standard error is at least that of independent rows, so that groups which agree by chance do not make it 0.
    - All rows right: the lower end is the least mean recall under which this has a probability of 2.5 % (for one class
      Clopper and Pearson, *Biometrika* 26, 1934), with the given number of independent units per class.
    - A class in a single group: nothing is known about its recall in others, so that it counts from 0 to 1.

    >>> eight = np.full((5, 1), 8.0)
    >>> found = recall_interval(eight, eight, units=np.array([40.0]))
    >>> round(found.low, 3), found.high
    (0.912, 1.0)
    """
    total = rows.sum(axis=0)
    present = total > 0
    hits, rows, total, units = hits[:, present], rows[:, present], total[present], units[present]
    if not len(total):
        return Interval(math.nan, math.nan, math.nan)
    recall = hits.sum(axis=0) / total
    value = float(recall.mean())
    occupied = rows.any(axis=1)
    hits, rows = hits[occupied], rows[occupied]
    if len(rows) < 2:
        return Interval(value, math.nan, math.nan)
    groups_of_class = (rows > 0).sum(axis=0)
    repeated = groups_of_class > 1
    low, high = np.where(repeated, recall, 0.0), np.where(repeated, recall, 1.0)
    if not repeated.any():
        return Interval(value, 0.0, 1.0)
    ends = _repeated_classes(hits[:, repeated], rows[:, repeated], units[repeated])
    weight = repeated.sum() / len(total)
    return Interval(
        value,
        float(weight * ends[0] + low[~repeated].sum() / len(total)),
        float(weight * ends[1] + high[~repeated].sum() / len(total)),
    )


def _repeated_classes(
    hits: Float[np.ndarray, "groups classes"],
    rows: Float[np.ndarray, "groups classes"],
    units: Float[np.ndarray, " classes"],
) -> tuple[float, float]:
    """Return the ends for classes that occur in at least two groups each."""
    total, n_classes = rows.sum(axis=0), rows.shape[1]
    recall = hits.sum(axis=0) / total
    value = float(recall.mean())
    if (hits == rows).all():
        return 1 - unseen_error(units), 1.0
    if not hits.any():
        return 0.0, unseen_error(units)
    _, without = leave_one_out(
        np.stack([hits, rows], axis=-1), lambda sums: (sums[..., 0] / sums[..., 1]).mean(axis=-1)
    )
    softened = (hits.sum(axis=0) + 0.5) / (total + 1)
    of_rows = math.sqrt(float((softened * (1 - softened) / total).sum())) / n_classes
    error = float(jackknife_error(without))
    found = share_interval(value, error, n_groups=len(rows), n=float(total.sum()), least_error=of_rows)
    return found.low, found.high


def unseen_error(sizes: Sequence[float] | Float[np.ndarray, " classes"], *, confidence: float = CONFIDENCE) -> float:
    r"""Return the largest mean error over classes that still leaves none in so many clips.

    With $n_c$ clips of class $c$, no clip is wrong with probability $\prod_c (1 - p_c)^{n_c}$. The bound is the largest
    mean of $p_c$ for which that is at least $(1 - \text{confidence}) / 2$: for one class the exact binomial bound,
    $1 - 0.025^{1/n}$. It takes clips as independent.

    >>> round(unseen_error([50]), 4), round(unseen_error([25, 25]), 4), round(unseen_error([5, 100]), 3)
    (0.0711, 0.0711, 0.261)
    """
    n = np.sort(np.asarray([size for size in sizes if size > 0], dtype=np.float64))
    if not len(n):
        return 1.0
    budget = -math.log((1 - confidence) / 2)
    # by Lagrange, 1 - p = mu n for the classes with errors, which are the smallest ones
    levels = (budget + np.cumsum(n * np.log(n))) / np.cumsum(n)
    level = next(level for level, limit in zip(levels, [*np.log(n[1:]), math.inf], strict=True) if level <= limit)
    return float(np.mean(1 - np.exp(-np.maximum(level - np.log(n), 0))))


def combined_half_width(group_error: NDArray[Any], other_error: NDArray[Any], n_groups: int) -> NDArray[Any]:
    """Return the half-width of an interval over groups (Student's t) and a second, independent source (normal)."""
    return np.asarray(np.hypot(t_quantile(n_groups) * group_error, Z * other_error))
