"""Factor scores of the study: R2 and completeness, means over the ten best factors, and counts by category."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.errors import EvaluationError
from otoscope.factors.user_table import CATEGORIES, category
from otoscope.linear.gram import live_columns
from otoscope.linear.lasso import lasso_weights
from otoscope.protocols.mariotte2025.metrics import completeness, disentanglement

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
