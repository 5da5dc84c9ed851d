"""Paired differences: two representations compared on the same groups, or on the same factors.

Clips that are hard for one representation are mostly hard for the other. Two separate intervals count that shared
variation twice, and real differences go unnoticed. Here one group (or factor) is left out of both at a time, and the
interval is that of the difference.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import optimize, stats

from otoscope.errors import EvaluationError
from otoscope.resampling.intervals import CONFIDENCE, Interval, Z, jackknife_error, unseen_error


class Variance(NamedTuple):
    """Variance of an estimate from one source, with its degrees of freedom."""

    value: float
    freedom: float


def student_interval(value: float, sources: Sequence[Variance], *, confidence: float = CONFIDENCE) -> Interval:
    r"""Return the interval $v \pm t_\nu \sqrt{\sum_i s_i^2}$ of an estimate whose error has independent sources.

    $\nu = (\sum s_i^2)^2 / \sum s_i^4 / \nu_i$ (Satterthwaite, Biometrics Bulletin 2, 1946). The ends are NaN without
    sources or with an undefined one.

    >>> found = student_interval(1.0, [Variance(0.04, 4)])
    >>> round(found.low, 3), round(found.high, 3)
    (0.445, 1.555)
    """
    total = math.fsum(source.value for source in sources)
    if not sources or not math.isfinite(total) or math.isnan(value):
        return Interval(value, math.nan, math.nan)
    if total == 0:
        return Interval(value, value, value)
    freedom = total**2 / math.fsum(source.value**2 / source.freedom for source in sources)
    error = float(stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(total)
    return Interval(value, value - error, value + error)


def jackknife_variance(left_out: Float[np.ndarray, " units"]) -> float:
    """Return the variance of a statistic from its values without each of the units (Efron and Stein 1981).

    >>> jackknife_variance(np.array([1.0, 2.0, 3.0]))
    1.3333333333333333
    """
    return float(jackknife_error(left_out)) ** 2


def spread_over_seeds(values: Sequence[float]) -> list[Variance]:
    """Return the variance of the mean over seeds; nothing for a single seed."""
    if len(values) < 2:
        return []
    return [Variance(float(np.var(values, ddof=1)) / len(values), len(values) - 1)]


def paired_difference(
    codes: Sequence[Float[np.ndarray, "groups ..."]],
    other: Float[np.ndarray, "groups ..."],
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean over seeds of a statistic of the codes, minus that of another representation.

    `codes` holds the sums per group of each seed, `other` those of the other representation over the same groups;
    `statistic` maps sums `[draws, ...]` to `[draws]`. The error combines the jackknife over groups of the difference
    with the spread over seeds. The ends are NaN with fewer than two groups, or where the statistic is undefined without
    one of them (a class that a single group has). Raises `EvaluationError` for different groups.

    >>> hits = [np.array([[8.0, 10], [9, 10], [7, 10]])]
    >>> found = paired_difference(hits, hits[0] - [1, 0], lambda sums: sums[:, 0] / sums[:, 1])
    >>> round(found.value, 3), round(found.high - found.low, 3)
    (0.1, 0.0)
    """
    if not codes or any(part.shape != other.shape for part in codes):
        shapes = [part.shape for part in codes]
        raise EvaluationError(f"sums of codes {shapes} and {other.shape} disagree; measure both on the same groups")

    def of(sums: Float[np.ndarray, "groups ..."]) -> tuple[float, NDArray[Any]]:
        total = sums.sum(axis=0)
        return float(statistic(total[None])[0]), statistic(total[None] - sums)

    base, base_without = of(other)
    each = [of(part) for part in codes]
    differences = [value - base for value, _ in each]
    # without rounding errors: a loss of four of 200 clips is 0.02, and no more than a margin of it
    value = round(float(np.mean(differences)), 12)
    if len(other) < 2:
        return Interval(value, math.nan, math.nan)
    without = np.mean([left for _, left in each], axis=0) - base_without
    sources = [Variance(jackknife_variance(without), len(other) - 1), *spread_over_seeds(differences)]
    return student_interval(value, sources, confidence=confidence)


def paired_error(change: Float[np.ndarray, " clips"]) -> float:
    r"""Return the least standard error of a mean change of right and wrong answers: that of independent clips.

    It is $\sqrt{1 + \sum_i d_i^2} / n$ of the changes $d_i$ of $n$ clips, each -1, 0 or 1 for two accuracies (McNemar,
    *Psychometrika* 12, 1947).

    >>> paired_error(np.array([1.0, 0.0, 0.0, -1.0, 0.0, 1.0]))
    0.3333333333333333
    """
    return math.sqrt(np.square(change).sum() + 1) / len(change)


def answer_interval(
    over_groups: Interval, change: Float[np.ndarray, " clips"], sizes: Sequence[float] | Float[np.ndarray, " classes"]
) -> Interval:
    r"""Return the interval of a difference of two accuracies on the same clips.

    Near 100 % few clips differ. The interval over groups is then too narrow, and has no width if all groups have as
    many of them. With $u_i$ the change of clip $i$ (the change of its answer times its weight), $b$ and $c$ the sums of
    the positive and negative ones in size and $\Delta = b - c$, the difference is as uncertain as that of
    $n^* = (b + c - \Delta^2) / s^2$ independent clips (Korn and Graubard, *Survey Methodology* 24, 1998). $s$ is the
    half-width over groups divided by $z$, at least the error of $n$ independent clips,
    $\sqrt{\sum_i u_i^2 - \Delta^2 / n}$. The ends are those of the score interval for $n^* b$ and $n^* c$ of $n^*$
    clips (Tango, *Statistics in Medicine* 17, 1998). If no clip differs, they are the error rate that this number of
    clips per class can hide (`unseen_error`).

    Args:
        over_groups: the difference and its interval over groups; without ends, neither has the result.
        change: change of the score by each clip, as a mean over seeds; the sum is the difference.
        sizes: number of clips of each class.

    >>> each = Interval(-0.05, -0.05, -0.05)  # three groups of 20, of which one more is wrong in each
    >>> found = answer_interval(each, np.repeat([-1 / 60, 0.0], [3, 57]), [60])
    >>> round(found.low, 3), round(found.high, 3)
    (-0.137, 0.013)
    """
    value, half = over_groups.value, (over_groups.high - over_groups.low) / 2
    if math.isnan(half):
        return over_groups
    if not change.any():
        bound = unseen_error(sizes)
        return Interval(value, value - bound, value + bound)
    gained, lost = float(np.maximum(change, 0).sum()), float(np.maximum(-change, 0).sum())
    spread, of_clips = gained + lost - value**2, np.square(change).sum() - value**2 / len(change)
    size = spread / max((half / Z) ** 2, float(of_clips)) if spread > 1e-12 else len(change)
    return Interval(value, *score_interval(gained, lost, size))


def score_interval(gained: float, lost: float, size: float) -> tuple[float, float]:
    """Return the 95 % score interval of a difference of paired shares (Tango, *Statistics in Medicine* 17, 1998).

    `gained` and `lost` are the shares of rows that one of two answers alone has right, of `size` rows. The ends are the
    differences whose score statistic, with the share lost at its maximum likelihood, is the normal quantile.

    >>> low, high = score_interval(14 / 200, 26 / 200, 200)
    >>> round(low, 3), round(high, 3)
    (-0.124, 0.002)
    """

    def above(difference: float, quantile: float) -> float:
        # the most likely share q that only the other answer has right solves 2 q^2 + linear q + constant = 0
        linear = (2 - gained + lost) * difference - gained - lost
        constant = -lost * difference * (1 - difference)
        likely = (math.sqrt(max(linear**2 - 8 * constant, 0.0)) - linear) / 4
        variance = (2 * likely + difference * (1 - difference)) / size
        away = gained - lost - difference
        statistic = away / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, away) if away else 0.0
        return statistic - quantile

    value, edge = gained - lost, 1 - 1e-9
    low = cast(float, optimize.brentq(above, -edge, value, args=(Z,))) if above(-edge, Z) > 0 else -1.0
    high = cast(float, optimize.brentq(above, value, edge, args=(-Z,))) if above(edge, -Z) < 0 else 1.0
    return low, high
