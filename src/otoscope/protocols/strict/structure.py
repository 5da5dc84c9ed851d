"""Compactness and separation of a representation, over factors that dense activations and codes both predict.

All representations are scored on the same factors: completeness of an unpredicted factor is 1 (PAPER), so scores over
different factors are not comparable. The common factors are known only after dense activations and codes have been
measured, so `RepresentationScores` covers all factors. Means over factors have a jackknife interval, widened because
factors depend on each other, and a null from codes permuted within groups. Curves give the score from 1, 2, 4, ...
dimensions.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray

from otoscope.config.strict import StrictSettings
from otoscope.linear.gram import varies_in_training
from otoscope.metrics.dci import completeness, explicitness
from otoscope.metrics.latent_metrics import mean_of_known, predictability_gap
from otoscope.metrics.mutual_information import InformationHalves, measure_halves
from otoscope.metrics.record import Record
from otoscope.metrics.registry import METRICS, STRUCTURE
from otoscope.metrics.sparse_regression import SparseProbeSettings, SparseSettings, sparse_probe, sparse_regression
from otoscope.metrics.structure import FactorMask
from otoscope.protocols.strict.regression import LassoScores, RidgeScores, fit_lasso_scores, predicted_factors
from otoscope.protocols.strict.tasks import FactorTargets
from otoscope.resampling.groups import each_fold, mean_known, r2_from_sums
from otoscope.resampling.intervals import Interval, Score, bounded, jackknife_sums
from otoscope.resampling.paired import Variance, jackknife_variance, student_interval

UNPREFIXED = ("gaps", "explicitness", "curve", "curve_null")


class RepresentationScores(NamedTuple):
    """Scores of every factor for one representation: regression, single latents, and few dimensions."""

    lasso: LassoScores
    halves: InformationHalves
    gaps: Float[np.ndarray, " factors"]
    explicitness: Float[np.ndarray, " factors"]
    curve: Float[np.ndarray, "factors sizes"]
    curve_null: Float[np.ndarray, "factors sizes"]

    @property
    def importance(self) -> Float[np.ndarray, "p factors"]:
        """Absolute weights of the sparse regression of each factor."""
        return np.abs(self.lasso.weights).astype(np.float64)

    @property
    def live(self) -> Bool[np.ndarray, " p"]:
        """Dimensions that vary on the training rows."""
        return self.lasso.live

    @property
    def r2(self) -> Float[np.ndarray, " factors"]:
        """Held-out R2 of the sparse regression of each factor."""
        return self.lasso.r2

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all fields as arrays by name, for storage."""
        kept = {f"reading.{name}": np.asarray(value) for name, value in self.lasso._asdict().items()}
        kept |= {f"halves.{name}": _as_float32(value) for name, value in self.halves._asdict().items()}
        return kept | {name: getattr(self, name) for name in UNPREFIXED}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "RepresentationScores":
        """Return the scores from the arrays of `to_arrays`."""

        def part(prefix: str) -> dict[str, NDArray[Any]]:
            return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

        rest = {name: arrays[name] for name in UNPREFIXED}
        return cls(
            LassoScores(**part("reading.")),
            InformationHalves(**part("halves.")),
            **rest,
        )


def score_representation(
    units: Float[np.ndarray, "*folds clips p"], targets: FactorTargets, settings: StrictSettings
) -> RepresentationScores:
    """Score every factor from one representation; weights and information are those of the first fold's units."""
    split, groups = targets.split, targets.groups
    few = SparseSettings(sizes=settings.sizes)
    curves = sparse_regression(units, targets.values, groups=groups, split=split, settings=few)
    return RepresentationScores(
        lasso=fit_lasso_scores(units, targets, settings),
        halves=measure_halves(next(each_fold(units, split))[0], targets.values),
        gaps=_mean_over_folds(
            lambda own, one: predictability_gap(own, targets.values, split=one).factors, units, split
        ),
        explicitness=_mean_over_folds(
            lambda own, one: explicitness(own, targets.values, groups=groups, split=one).factors, units, split
        ),
        curve=curves.r2,
        curve_null=curves.null_high,
    )


def _mean_over_folds(
    of: Callable[[Float[np.ndarray, "clips p"], Shaped[np.ndarray, " clips"]], Float[np.ndarray, " factors"]],
    units: Float[np.ndarray, "*folds clips p"],
    split: Shaped[np.ndarray, "*folds clips"],
) -> Float[np.ndarray, " factors"]:
    return mean_known(np.stack([of(own, one) for own, one in each_fold(units, split)]))


def _as_float32(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.ndim == 2 else values


ALL = ""
"""Target of a record over all common factors."""

COMMON = "common"
"""Target of a share of the common factors."""


class CommonFactors(NamedTuple):
    """Factors that all representations are compared on, and their effective number."""

    mask: FactorMask
    names: tuple[str, ...]
    effective_rank: float


def common_factors(dense: RepresentationScores, codes: list[RepresentationScores], *, min_r2: float) -> FactorMask:
    """Return the mask of factors that dense activations and the codes of every seed predict."""
    masks = [predicted_factors(scores.lasso, min_r2) for scores in (dense, *codes)]
    return np.all(masks, axis=0)


DEFINED_BY_INFORMATION = ("mig", "infom", "infoc")
"""Measures that are undefined for codes without information, such as those of other clips without group effects."""


def structure_records(
    measured: RepresentationScores,
    common: CommonFactors,
    about: Record,
    *,
    null: RepresentationScores | None = None,
    random: RepresentationScores | None = None,
) -> Iterator[Record]:
    """Yield completeness and effective dimensions per common factor, and all structure metrics over them.

    `null` are codes of other clips of the group. They hold at most effects of the group, so that the null of
    `DEFINED_BY_INFORMATION` is the value of `random`, random directions of which the k largest are kept.
    """
    lasso = measured.lasso
    groups = int(lasso.groups.max(initial=0))
    spread = completeness(measured.importance, live=lasso.live, predicted=common.mask)
    for j in np.flatnonzero(common.mask):
        shared = replace(about, target=common.names[j], n=int(lasso.n[j]), groups=int(lasso.groups[j]))
        yield replace(shared, metric="completeness", value=float(spread.completeness[j]))
        yield replace(shared, metric="effective_latents", value=float(spread.effective_latents[j]))
    n_common = int(common.mask.sum())
    for metric, of in STRUCTURE.items():
        found = _interval(metric, lambda mask, of=of: of(measured, mask), common)
        score = Score(*found)
        baseline = random if metric in DEFINED_BY_INFORMATION else null
        if baseline is not None and METRICS[metric].has_null:
            floor = _interval(metric, lambda mask, of=of, scores=baseline: of(scores, mask), common)
            score = score._replace(null_mean=floor.value, null_high=floor.high)
        yield about.with_score(metric, score, target=ALL, n=n_common, groups=groups)


def _interval(metric: str, statistic: Callable[[FactorMask], float], common: CommonFactors) -> Interval:
    """Return a metric with its interval, computed on the logarithm or clipped to the bounds of the metric."""
    if METRICS[metric].logarithmic:
        found = jackknife(lambda mask: math.log(statistic(mask)), common)
        return Interval(*(math.exp(end) for end in found))
    least, most = METRICS[metric].bounds
    value, low, high = jackknife(statistic, common)
    return Interval(value, max(low, least) if low == low else low, min(high, most) if high == high else high)


class FactorVariance(NamedTuple):
    """Statistic of the common factors and its variance over factors."""

    value: float
    variance: Variance


def vary_factors(statistic: Callable[[FactorMask], float], common: CommonFactors) -> FactorVariance:
    """Return a statistic of the common factors with its jackknife variance over factors.

    With t_j the statistic without factor j and J factors, the variance is (J - 1) / J times the sum of squared
    deviations of t_j from their mean (Efron and Stein, Ann. Stat. 9, 1981), times J over the effective rank of the
    factors, of which one less are the degrees of freedom. It is NaN for fewer than three factors.
    """
    value = statistic(common.mask)
    without = np.asarray([statistic(_without(common.mask, j)) for j in np.flatnonzero(common.mask)])
    known = without[~np.isnan(without)]
    if len(known) < 3 or math.isnan(value):
        return FactorVariance(value, Variance(math.nan, 1.0))
    rank = min(common.effective_rank, float(len(known))) if common.effective_rank > 0 else float(len(known))
    return FactorVariance(value, Variance(jackknife_variance(known) * len(known) / rank, max(rank - 1, 1.0)))


def jackknife(statistic: Callable[[FactorMask], float], common: CommonFactors) -> Interval:
    """Return a statistic of the common factors with its interval over factors."""
    found = vary_factors(statistic, common)
    return student_interval(found.value, [found.variance])


def mean_r2_records(linear: RidgeScores, either: CommonFactors, about: Record) -> Iterator[Record]:
    """Yield the mean ridge R2, each at least 0, of the factors that either side predicts, with its interval."""
    if not either.mask.any():
        return
    nulls = (mean_of_known(np.maximum(null[either.mask], 0)) for null in (linear.null_mean, linear.null_high))
    found = jackknife_sums(linear.squares[:, either.mask], clipped_mean_r2, scale=bounded(0.0, 1.0))
    score = Score(*(float(x) for x in found), *nulls)
    yield about.with_score("mean_factor_r2", score, n=int(either.mask.sum()), groups=len(linear.squares))


def clipped_mean_r2(sums: NDArray[Any]) -> NDArray[Any]:
    """Return the mean R2 over factors, each at least 0, from sums of squared errors and deviations."""
    return np.maximum(np.nan_to_num(r2_from_sums(sums)), 0).mean(axis=-1)


def mean_curve(values: Float[np.ndarray, "factors sizes"], either: CommonFactors) -> list[Interval]:
    """Return the mean over the factors that either side predicts at each size; negative values count as 0."""
    clipped = np.nan_to_num(np.maximum(values, 0))
    return [jackknife(lambda mask, i=i: mean_of_known(clipped[mask, i]), either) for i in range(values.shape[1])]


def _without(mask: FactorMask, j: np.intp) -> FactorMask:
    fewer = mask.copy()
    fewer[j] = False
    return fewer


def label_curve_records(
    units: Float[np.ndarray, "*folds clips p"],
    targets: FactorTargets,
    settings: StrictSettings,
    about: Record,
) -> Iterator[Record]:
    """Yield balanced accuracy of each label from 1, 2, 4, ... dimensions."""
    if not varies_in_training(units, targets.split):
        return
    few = SparseProbeSettings(sizes=settings.sizes)
    for label, values in targets.clips.labels.items():
        curve = sparse_probe(units, values, groups=targets.groups, split=targets.split, settings=few)
        for size, score in zip(curve.sizes, curve.scores, strict=True):
            yield about.with_score(
                "sparse_probe_balanced_accuracy", score, target=label, dimensions=size, n=curve.n, groups=curve.groups
            )


def factor_curve_records(
    found: RepresentationScores, either: CommonFactors, settings: StrictSettings, about: Record
) -> Iterator[Record]:
    """Yield mean R2 of the factors that either side predicts from 1, 2, 4, ... dimensions."""
    real, null = mean_curve(found.curve, either), mean_curve(found.curve_null, either)
    groups = int(found.lasso.groups.max(initial=0))
    for size, point, floor in zip(settings.sizes, real, null, strict=True):
        score = Score(*point, null_mean=floor.value, null_high=floor.high)
        yield about.with_score("sparse_r2", score, dimensions=size, n=int(either.mask.sum()), groups=groups)
