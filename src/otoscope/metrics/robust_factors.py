"""Robust factors: the regression targets of the strict protocol, insensitive to outlying clips.

What openSMILE writes for clips without voiced frames (a pitch of 0 semitones, level differences of -201 dB) is first
made missing (`without_sentinels`). Then, fitted on training rows and applied to all: (1) Constant columns and ratios to
a mean near zero are dropped: one clip in a thousand would hold most of their variance. (2) Near duplicates are grouped,
with one representative per group. (3) Values are replaced by the normal scores of their ranks (van der Waerden).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.special import ndtri
from scipy.stats import rankdata

from otoscope.errors import EvaluationError
from otoscope.linear.gram import live_columns

NO_LEVEL_DB = -200.0
LEVEL_DIFFERENCE = re.compile(r"(F[123]amplitudeLogRelF0|logRelF0-H1-(H2|A3))_sma3nz_amean")
PITCH = "F0semitoneFrom27.5Hz_sma3nz_amean"
VOICED = re.compile(r"(?<!UV)(?<!UV0-500)(?<!UV500-1500)_sma3nz_")
"""Functionals of voiced frames: `nz` leaves out zeros, `UV` marks those of unvoiced frames."""
RATIO = re.compile(r".*_stddevNorm")
DEVIATIONS = 10.0
TAIL = 0.005
FEWEST = 10
DUPLICATE = 0.95


@dataclass(frozen=True)
class RobustFactors:
    """Selection and scaling of factors, fitted on training rows.

    `names` are the factors kept, in input order; `dropped` gives the reason for each excluded factor; `stands_for`
    lists the near duplicates that each kept factor represents, itself first; `effective_rank` is that of the kept
    factors; `knots` are each kept factor's distinct training values and their scores.
    """

    names: tuple[str, ...]
    given: tuple[str, ...]
    dropped: dict[str, str]
    stands_for: dict[str, tuple[str, ...]]
    effective_rank: float
    knots: tuple[tuple[Float[np.ndarray, " _values"], Float[np.ndarray, " _values"]], ...]

    def apply(self, values: Float[np.ndarray, "rows given"]) -> Float[np.ndarray, "rows kept"]:
        """Return the kept factors of any rows as normal scores, NaN if missing.

        Scores are interpolated between training values and constant beyond them. Raises `EvaluationError` unless
        `values` has one column per factor of the fit.
        """
        if values.ndim != 2 or values.shape[1] != len(self.given):
            raise EvaluationError(f"expected {len(self.given)} factors a row, got shape {values.shape}")
        scores = np.full((len(values), len(self.names)), math.nan)
        for j, (name, (at, score)) in enumerate(zip(self.names, self.knots, strict=True)):
            column = values[:, self.given.index(name)]
            present = ~np.isnan(column)
            scores[present, j] = np.interp(column[present], at, score)
        return scores


def make_robust(
    values: Float[np.ndarray, "rows factors"],
    names: Sequence[str],
    *,
    train: Bool[np.ndarray, " rows"],
    duplicate: float = DUPLICATE,
) -> RobustFactors:
    """Fit the selection of factors and their scores on training rows.

    Dropped: factors with fewer than `FEWEST` training values or no variation, and factors named `*_stddevNorm`
    (deviation over mean) with more than 0.5 % of the training values beyond 10 robust deviations (1.4826 times the
    median absolute deviation) from the median, which indicates a mean that crosses zero. Grouped: factors whose
    absolute Spearman correlation exceeds `duplicate` for all pairs of a group (complete linkage); the factor most
    correlated with the others represents the group.

    Args:
        values: one column per factor, NaN if missing; openSMILE's columns as `without_sentinels` returns them.
        names: column names; the rule for ratios matches on them.
        train: training rows.
        duplicate: absolute rank correlation above which two factors count as one; 1 or more keeps all.

    Raises `EvaluationError` for infinite values, inconsistent arrays, and when no factor remains.
    """
    _check(values, names, train)
    known = values[train]
    dropped: dict[str, str] = {}
    for j, name in enumerate(names):
        if reason := _reason_to_drop(known[:, j], name):
            dropped[name] = reason
    left = [j for j, name in enumerate(names) if name not in dropped]
    if not left:
        raise EvaluationError(f"none of the {len(names)} factors can be used; the first: {next(iter(dropped.items()))}")
    ranked = normal_scores(known[:, left])
    members = _group(np.abs(_correlation(ranked)), duplicate)
    kept = sorted(left[group[0]] for group in members)
    stands_for = {names[left[group[0]]]: tuple(names[left[k]] for k in group) for group in members}
    chosen = known[:, kept]
    return RobustFactors(
        names=tuple(names[j] for j in kept),
        given=tuple(names),
        dropped=dropped,
        stands_for={names[j]: stands_for[names[j]] for j in kept},
        effective_rank=effective_rank(normal_scores(chosen)),
        knots=tuple(_knots(column) for column in chosen.T),
    )


def without_sentinels(
    values: Float[np.ndarray, "rows factors"], names: Sequence[str]
) -> Float[np.ndarray, "rows factors"]:
    """Return the values with NaN for what openSMILE cannot measure without voice.

    openSMILE writes -201 dB for the level differences of an unvoiced frame. A mean at or below -200 dB comes from
    (almost) only such frames, and the corresponding deviation is meaningless as well. Every descriptor of voiced frames
    is 0 in a clip that has none, which its mean pitch of exactly 0 semitones tells.

    >>> clips = np.array([[0.0, 0.0, 0.5], [31.5, 501.5, 0.5]])
    >>> without_sentinels(clips, [PITCH, "F1frequency_sma3nz_amean", "level"]).tolist()
    [[nan, nan, 0.5], [31.5, 501.5, 0.5]]
    """
    found = values.astype(np.float64)
    if PITCH in names:
        unvoiced = values[:, list(names).index(PITCH)] == 0
        found[np.ix_(unvoiced, [VOICED.search(name) is not None for name in names])] = math.nan
    for j, name in enumerate(names):
        if LEVEL_DIFFERENCE.fullmatch(name):
            silent = values[:, j] <= NO_LEVEL_DB
            pair = name.replace("_amean", "_stddevNorm")
            found[silent, j] = math.nan
            if pair in names:
                found[silent, list(names).index(pair)] = math.nan
    return found


def normal_scores(values: Float[np.ndarray, "rows factors"]) -> Float[np.ndarray, "rows factors"]:
    """Return the normal quantile of each value's rank / (n + 1) in its column; ties share their mean rank.

    >>> normal_scores(np.array([[10.0], [1000.0], [np.nan], [11.0]])).T.round(2)
    array([[-0.67,  0.67,   nan,  0.  ]])
    """
    ranks = rankdata(values, axis=0, nan_policy="omit")
    return ndtri(ranks / ((~np.isnan(values)).sum(axis=0) + 1))


def effective_rank(values: Float[np.ndarray, "rows columns"]) -> float:
    """Return exp of the entropy of the correlation matrix's eigenvalues scaled to sum 1 (Roy and Vetterli, 2007).

    Missing values are replaced by the column's mean. Constant columns are excluded; NaN if no column varies.

    >>> round(effective_rank(np.array([[1.0, 2, 0], [0, 0, 1], [1, 2, 1], [0, 0, 0]])), 3)
    1.89
    """
    centred = values - np.nanmean(values, axis=0)
    known = np.nan_to_num(centred)
    known = known[:, live_columns(known)]
    if not known.shape[1]:
        return math.nan
    standard = known / known.std(axis=0)
    share = np.maximum(np.linalg.eigvalsh(standard.T @ standard), 0)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _reason_to_drop(column: Float[np.ndarray, " rows"], name: str) -> str:
    known = column[~np.isnan(column)]
    if len(known) < FEWEST:
        return f"{len(known)} training values, fewer than {FEWEST}"
    if not live_columns(known[:, None])[0]:
        return "does not vary over the training rows"
    if RATIO.fullmatch(name):
        away = np.abs(known - np.median(known))
        # if more than half of the clips share one value, the median deviation is 0: use the mean deviation
        scale = 1.4826 * np.median(away) or away.mean()
        share = float((away > DEVIATIONS * scale).mean())
        if share > TAIL:
            return f"ratio to a mean near zero: {share:.1%} of the values beyond {DEVIATIONS:g} robust deviations"
    return ""


def _correlation(scores: Float[np.ndarray, "rows factors"]) -> Float[np.ndarray, "factors factors"]:
    """Return correlations, each over the rows without missing values in both columns."""
    here = ~np.isnan(scores)
    if here.all():
        return np.atleast_2d(np.corrcoef(scores, rowvar=False))
    n_factors = scores.shape[1]
    found = np.eye(n_factors)
    for i in range(n_factors):
        for j in range(i):
            both = here[:, i] & here[:, j]
            pair = scores[both][:, [i, j]]
            varies = len(pair) > 2 and bool(live_columns(pair).all())
            found[i, j] = found[j, i] = np.corrcoef(pair, rowvar=False)[0, 1] if varies else 0.0
    return found


def _group(alike: Float[np.ndarray, "factors factors"], duplicate: float) -> list[list[int]]:
    """Return groups of near-duplicate factors, the most typical of each first, the others in order."""
    n_factors = len(alike)
    if n_factors < 2 or duplicate >= 1:
        return [[j] for j in range(n_factors)]
    upper = np.triu_indices(n_factors, 1)
    which = fcluster(linkage(1 - np.minimum(alike[upper], 1), "complete"), 1 - duplicate, "distance")
    groups: list[list[int]] = []
    for number in np.unique(which):
        members = np.flatnonzero(which == number)
        typical = members[alike[np.ix_(members, members)].sum(axis=0).argmax()]
        groups.append([int(typical), *(int(j) for j in members if j != typical)])
    return groups


def _knots(column: Float[np.ndarray, " rows"]) -> tuple[Float[np.ndarray, " values"], Float[np.ndarray, " values"]]:
    known = column[~np.isnan(column)]
    at, first = np.unique(known, return_index=True)
    place: Int[np.ndarray, " values"] = first
    return at, normal_scores(known[:, None])[place, 0]


def _check(values: Float[np.ndarray, "rows factors"], names: Sequence[str], train: Bool[np.ndarray, " rows"]) -> None:
    if values.ndim != 2 or values.shape[1] != len(names) or len(set(names)) < len(names):
        raise EvaluationError(f"values {values.shape} need one name a column, none twice; got {len(names)} names")
    if train.shape != (len(values),) or train.dtype != np.bool_ or not train.any():
        raise EvaluationError(f"`train` must hold one boolean a row ({len(values)}), at least one True")
    if np.isinf(values).any():
        raise EvaluationError("factors hold infinity; mark such values as missing (NaN)")
