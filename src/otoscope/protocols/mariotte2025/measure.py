"""All records of the study on one representation: probes, factors and reconstruction.

Factors have R2 and completeness, means over the ten best, and counts by category.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.errors import EvaluationError
from otoscope.factors.readable_names import CATEGORIES, category
from otoscope.linear.gram import live_columns
from otoscope.linear.lasso import lasso_weights
from otoscope.metrics.record import Record
from otoscope.protocols.mariotte2025.metrics import completeness, disentanglement, fit_probe

TOP = 10
ENTROPY_BINS = 10
DEGENERATE_BITS = 0.3


class FactorScores(NamedTuple):
    """Factor scores of one representation."""

    r2: Float[np.ndarray, " factors"]
    completeness: Float[np.ndarray, " factors"]
    disentanglement: float


class TopFactors(NamedTuple):
    """Mean and standard deviation over the highest-ranked factors, and their indices."""

    mean: float
    deviation: float
    members: Int[np.ndarray, " top"]


def score_factors(
    features: Float[np.ndarray, "rows p"],
    factors: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    settings: Mariotte2025Settings,
    *,
    width: int,
) -> FactorScores:
    """Fit each factor on all rows at one penalty and score it under the switches; rows must have no missing factor."""
    if len(features) < 2:
        raise EvaluationError(f"{len(features)} row(s): factors need at least 2 test clips without a gap")
    weights, r2 = lasso_weights(features, factors, alpha=settings.alpha)
    if settings.lasso_r2 == "unseen_singers":
        r2 = _unseen_r2(features, factors, groups, settings.alpha)
    importance = np.abs(weights)
    average = disentanglement(importance).average
    if settings.disentanglement_average == "sum":
        average *= len(importance)
    return FactorScores(r2, _completeness(features, importance, settings, width), average)


def entropy_bits(factors: Float[np.ndarray, "rows factors"]) -> Float[np.ndarray, " factors"]:
    """Return the entropy in bits of each factor's histogram with ten bins of equal width.

    >>> entropy_bits(np.arange(10.0)[:, None]).round(3).tolist()
    [3.322]
    """
    found = np.empty(factors.shape[1])
    for j, column in enumerate(factors.T):
        share = np.histogram(column, bins=ENTROPY_BINS)[0] / len(column)
        share = share[share > 0]
        found[j] = abs(float((share * np.log2(share)).sum()))
    return found


def included_factors(
    factors: Float[np.ndarray, "rows factors"], settings: Mariotte2025Settings
) -> Bool[np.ndarray, " factors"]:
    """Return the mask of included factors: all, or those that are not nearly constant."""
    if settings.degenerate_factors == "keep":
        return np.ones(factors.shape[1], dtype=bool)
    return entropy_bits(factors) >= DEGENERATE_BITS


def mean_over_top(
    values: Float[np.ndarray, " factors"], *, by: Float[np.ndarray, " factors"], settings: Mariotte2025Settings
) -> TopFactors:
    """Average `values` over the ten factors that rank highest by `by` (or over all), ignoring NaN."""
    order = np.flip(np.argsort(np.where(np.isnan(by), -np.inf, by), kind="stable"))
    members = order[~np.isnan(by[order])]
    members = members if settings.factors_averaged == "all" else members[:TOP]
    chosen = values[members]
    chosen = chosen[~np.isnan(chosen)]
    if not len(chosen):
        return TopFactors(float("nan"), float("nan"), members)
    return TopFactors(float(chosen.mean()), float(chosen.std()), members)


def count_categories(names: Sequence[str], settings: Mariotte2025Settings) -> dict[str, int]:
    """Return the number of factors per category, in report order.

    >>> count_categories(["logRelF0-H1-H2_sma3nz_amean"], Mariotte2025Settings())["pitch"]
    1
    >>> count_categories(["logRelF0-H1-H2_sma3nz_amean"], Mariotte2025Settings(categories="egemaps"))["voice quality"]
    1
    """
    found = Counter(
        _category_by_substring(name) if settings.categories == "substring" else category(name) for name in names
    )
    return {name: found[name] for name in CATEGORIES if name != "other" or found[name]}


def _category_by_substring(factor: str) -> str:
    """Return the category as the study does: names with "F0" count as pitch, names with "loudness" as loudness."""
    if factor.startswith("logRelF0"):
        return "pitch"
    return "loudness" if factor.startswith("loudness") else category(factor)


def _completeness(
    features: Float[np.ndarray, "rows p"],
    importance: Float[np.ndarray, "p factors"],
    settings: Mariotte2025Settings,
    width: int,
) -> Float[np.ndarray, " factors"]:
    found = completeness(importance)
    others = {"all": len(importance), "live": int(live_columns(features).sum()), "width": width}
    # 1 - H / log(p) with a different p
    found = 1 - (1 - found) * np.log(len(importance)) / np.log(max(others[settings.completeness_normaliser], 2))
    if settings.completeness_of_unpredicted == "nan":
        found = np.where(importance.any(axis=0), found, np.nan)
    return found


def _unseen_r2(
    features: Float[np.ndarray, "rows p"],
    factors: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    alpha: float,
) -> Float[np.ndarray, " factors"]:
    """Return leave-one-singer-out R2; the reference is the mean of the fitted rows."""
    error, spread = np.zeros(factors.shape[1]), np.zeros(factors.shape[1])
    for singer in np.unique(groups):
        out = groups == singer
        x, y = features[~out].astype(np.float64), factors[~out]
        weights, _ = lasso_weights(x, y, alpha=alpha)
        scale, y_scale = (np.where(s > 0, s, 1) for s in (x.std(axis=0), y.std(axis=0)))
        away = (factors[out] - y.mean(axis=0)) / y_scale
        error += ((away - (features[out] - x.mean(axis=0)) / scale @ weights) ** 2).sum(axis=0)
        spread += (away**2).sum(axis=0)
    return 1 - np.divide(error, spread, out=np.full(len(error), np.nan), where=spread > 0)


class SplitFeatures(NamedTuple):
    """One representation by split: `train` holds several crops per file, `whole` the rows for fitting factors."""

    train: Float[np.ndarray, "crops files width"]
    valid: Float[np.ndarray, "valid width"]
    test: Float[np.ndarray, "test width"]
    whole: Float[np.ndarray, "measured width"]


@dataclass(frozen=True)
class ClipTargets:
    """Labels by name, singers and factors, in the row order of `SplitFeatures`; factors belong to `whole`."""

    train_labels: dict[str, Shaped[np.ndarray, " files"]]
    valid_labels: dict[str, Shaped[np.ndarray, " valid"]]
    test_labels: dict[str, Shaped[np.ndarray, " test"]]
    test_groups: Shaped[np.ndarray, " test"]
    whole_groups: Shaped[np.ndarray, " measured"]
    factors: Float[np.ndarray, "measured factors"]
    factor_names: tuple[str, ...]


def measure_probes(
    views: SplitFeatures, known: ClipTargets, settings: Mariotte2025Settings, about: Record
) -> Iterator[Record]:
    """Yield the accuracy of the study's probe per label, on test clips and on validation clips (best epoch)."""
    for label, train in known.train_labels.items():
        valid, test = known.valid_labels[label], known.test_labels[label]
        # an unknown label is the empty string; exclude such clips
        on = [side != "" for side in (train, valid, test)]
        codes = _class_indices([side[chosen] for side, chosen in zip((train, valid, test), on, strict=True)])
        if not all(map(len, codes)):
            continue
        probe = fit_probe(
            np.ascontiguousarray(views.train[:, on[0]]),
            codes[0],
            np.ascontiguousarray(views.valid[on[1]]),
            codes[1],
            epochs=settings.probe_epochs,
            seed=settings.seed,
        )
        groups = len(np.unique(known.test_groups[on[2]]))
        shared = replace(about, metric="probe_accuracy", target=label)
        accuracy = probe.accuracy(np.ascontiguousarray(views.test[on[2]]), codes[2])
        yield replace(shared, split="test", value=accuracy, n=len(codes[2]), groups=groups)
        accuracy = probe.accuracy(np.ascontiguousarray(views.valid[on[1]]), codes[1])
        yield replace(shared, split="valid", value=accuracy, n=len(codes[1]))


def measure_factors(
    views: SplitFeatures, known: ClipTargets, settings: Mariotte2025Settings, about: Record, *, width: int, dense: bool
) -> Iterator[Record]:
    """Yield R2 and completeness per factor, means over the ten best factors, category counts and entropies.

    Factors without any value are excluded, then clips with a missing factor.
    """
    rows, columns = complete_rows(known.factors)
    if not columns.any() or rows.sum() < 2:
        return
    factors, names = known.factors[np.ix_(rows, columns)], _select_names(known.factor_names, columns)
    included = included_factors(factors, settings)
    factors, names = factors[:, included], _select_names(names, included)
    if not names:
        return
    groups = known.whole_groups[rows]
    scores = score_factors(views.whole[rows], factors, groups, settings, width=width)
    entropy = entropy_bits(factors)
    about = replace(about, split="test", n=len(factors), groups=len(np.unique(groups)))
    for j, name in enumerate(names):
        one = replace(about, target=name)
        yield replace(one, metric="factor_r2_in_sample", value=float(scores.r2[j]))
        yield replace(one, metric="completeness", value=float(scores.completeness[j]))
        if dense:
            yield replace(one, metric="factor_entropy", value=float(entropy[j]))
    best = mean_over_top(scores.r2, by=scores.r2, settings=settings)
    yield from _mean_records("top_r2_in_sample", best, about)
    by = scores.r2 if dense and settings.reference_ranking == "r2" else scores.completeness
    yield from _mean_records("top_completeness", mean_over_top(scores.completeness, by=by, settings=settings), about)
    for group, number in count_categories([names[j] for j in best.members], settings).items():
        yield replace(about, metric="category_count", target=group, value=float(number))
    correlation = _correlation(scores.completeness, entropy)
    yield replace(about, metric="completeness_against_entropy", value=correlation)
    yield replace(about, metric="disentanglement", value=scores.disentanglement)


def measure_reconstruction(
    rows: Float[np.ndarray, "rows width"],
    rebuilt: Float[np.ndarray, "rows width"],
    codes: Float[np.ndarray, "rows latents"],
    mean_train: Float[np.ndarray, " width"],
    about: Record,
) -> Iterator[Record]:
    """Yield the study's mean squared error in raw units, explained variance, and active and dead latents."""
    error = float(np.mean((rows - rebuilt) ** 2, dtype=np.float64))
    spread = float(np.mean((rows - mean_train) ** 2, dtype=np.float64))
    about = replace(about, split="test", n=len(rows))
    yield replace(about, metric="mse", value=error)
    yield replace(about, metric="explained_variance", value=1 - error / spread if spread > 0 else float("nan"))
    yield replace(about, metric="l0", value=float((codes > 0).sum(axis=1).mean()))
    yield replace(about, metric="dead_fraction", value=float((codes == 0).all(axis=0).mean()))


def complete_rows(
    factors: Float[np.ndarray, "rows factors"],
) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " factors"]]:
    """Return the mask of rows without a missing factor and that of factors with any value."""
    missing = np.isnan(factors)
    columns = np.logical_not(missing.all(axis=0))
    return np.logical_not(missing[:, columns].any(axis=1)), columns


def _mean_records(metric: str, found: TopFactors, about: Record) -> Iterator[Record]:
    yield replace(about, metric=metric, value=found.mean)
    yield replace(about, metric=metric, target="deviation", value=found.deviation)


def _select_names(names: Sequence[str], mask: Bool[np.ndarray, " factors"]) -> tuple[str, ...]:
    return tuple(name for name, taken in zip(names, mask, strict=True) if taken)


def _class_indices(sides: list[Shaped[np.ndarray, " rows"]]) -> list[Int[np.ndarray, " rows"]]:
    """Number the classes, training classes first, so that unseen classes exceed the outputs of the probe."""
    order: dict[str, int] = {}
    for side in sides:
        for name in sorted(set(side.tolist()) - order.keys()):
            order[name] = len(order)
    return [np.array([order[name] for name in side.tolist()], dtype=np.int64) for side in sides]


def _correlation(a: Float[np.ndarray, " factors"], b: Float[np.ndarray, " factors"]) -> float:
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return float("nan")
    return float(np.corrcoef(a[both], b[both])[0, 1])
