"""Paired differences between the codes of an SAE and its layer or a baseline, as records.

Scores of tasks and factors are paired by test group, measures of structure by factor. Codes are means over seeds. The
records name the other representation in `representation` and the first seed's SAE in `sae_id`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otoscope.metrics.latent_metrics import mean_of_known
from otoscope.metrics.record import Record
from otoscope.metrics.registry import METRICS, STRUCTURE
from otoscope.metrics.structure import FactorMask
from otoscope.protocols.strict.structure import CommonFactors, RepresentationScores, clipped_mean_r2, vary_factors
from otoscope.protocols.strict.tasks import TASK_METRICS, Task, score_from_sums
from otoscope.resampling.intervals import Interval
from otoscope.resampling.paired import answer_interval, paired_difference, spread_over_seeds, student_interval

Sums = Float[np.ndarray, "groups ..."]


class TaskScores(NamedTuple):
    """Sums per test group of one representation's score, and the parts of the score that its clips make up (or 0)."""

    sums: Sums
    shares: Float[np.ndarray, " clips"]


def task_difference(task: Task, codes: Sequence[TaskScores], other: TaskScores, about: Record) -> Record:
    """Return the difference of a task's score on the same clips; see `answer_interval` for that of accuracies."""
    found = paired_difference([one.sums for one in codes], other.sums, lambda sums: score_from_sums(task.kind, sums))
    if task.kind != "continuous":
        change = np.mean([one.shares for one in codes], axis=0) - other.shares
        found = answer_interval(found, change, other.sums.sum(axis=0)[:, 1::2].ravel())
    metric = METRICS[TASK_METRICS[task.kind]].difference
    return about.with_score(metric, found, target=task.name, groups=len(other.sums))


def factor_difference(codes: Sequence[Sums], other: Sums, common: CommonFactors, about: Record) -> Iterator[Record]:
    """Yield the difference of the mean ridge R2 of factors on the same clips; none without factors."""
    if common.mask.any():
        kept = [part[:, common.mask] for part in (*codes, other)]
        found = paired_difference(kept[:-1], kept[-1], clipped_mean_r2)
        metric = METRICS["mean_factor_r2"].difference
        yield about.with_score(metric, found, n=int(common.mask.sum()), groups=len(other))


def structure_differences(
    codes: Sequence[RepresentationScores],
    other: RepresentationScores,
    common: CommonFactors,
    about: Record,
) -> Iterator[Record]:
    """Yield differences of structure over the common factors, paired by factor; a ratio of dimensions."""
    about = replace(about, n=int(common.mask.sum()), groups=int(other.lasso.groups.max(initial=0)))
    for metric, of in STRUCTURE.items():
        if not (name := METRICS[metric].difference):
            continue
        if METRICS[metric].logarithmic:
            found = _paired(lambda s, mask, of=of: float(np.log(of(s, mask))), codes, other, common)
            found = Interval(*(float(np.exp(end)) for end in found))
        else:
            found = _paired(of, codes, other, common)
        yield about.with_score(name, found)


def curve_differences(
    codes: Sequence[RepresentationScores],
    other: RepresentationScores,
    factors: CommonFactors,
    sizes: Sequence[int],
    about: Record,
) -> Iterator[Record]:
    """Yield the difference of the mean R2 from few dimensions, by their number, paired by factor."""
    about = replace(about, n=int(factors.mask.sum()), groups=int(other.lasso.groups.max(initial=0)))
    for i, size in enumerate(sizes):
        found = _paired(lambda s, mask, i=i: _mean_r2(s.curve[mask, i]), codes, other, factors)
        yield about.with_score(METRICS["sparse_r2"].difference, found, dimensions=size)


def _mean_r2(r2: NDArray[np.float64]) -> float:
    return mean_of_known(np.maximum(np.nan_to_num(r2), 0))


def _paired(
    of: Callable[[RepresentationScores, FactorMask], float],
    codes: Sequence[RepresentationScores],
    other: RepresentationScores,
    common: CommonFactors,
) -> Interval:
    """Return the mean over seeds minus the other representation, with the jackknife over factors of the difference."""
    if not common.mask.any():
        return Interval(*[float("nan")] * 3)
    differences = [of(seed, common.mask) - of(other, common.mask) for seed in codes]

    def difference(mask: FactorMask) -> float:
        return float(np.mean([of(seed, mask) for seed in codes])) - of(other, mask)

    found = vary_factors(difference, common)
    return student_interval(found.value, [found.variance, *spread_over_seeds(differences)])
