"""Mutual information between latents and factors, corrected for chance.

Estimated from binned values (`otoscope.metrics.binning`) and corrected by its exact expectation under shuffled rows,
which depends on the bin sizes alone (Vinh, Epps and Bailey, JMLR 11, 2010). Without the correction, a latent that fires
on 30 rows seems informative about every factor. A pair that chance explains counts as 0, so that the noise of 2,000
latents does not add up.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.errors import EvaluationError
from otoscope.metrics.binning import (
    BINS,
    SMALLEST,
    Margin,
    bin_columns,
    bin_factors,
    expected_nats,
    rarity_of_chi_square,
    rarity_of_nats,
)
from otoscope.resampling.groups import missing_patterns

LEVEL = 0.05


class Information(NamedTuple):
    """Result of `measure_information`.

    `adjusted` is the share of a factor's entropy that a latent explains beyond chance, 0 to 1, and 0 if chance explains
    it; NaN for a factor that is constant or always missing. `nats` is the plain estimate and `expected` its mean under
    shuffled rows. `live` latents vary over the rows.
    """

    adjusted: Float[np.ndarray, "latents factors"]
    nats: Float[np.ndarray, "latents factors"]
    expected: Float[np.ndarray, "latents factors"]
    entropy: Float[np.ndarray, " factors"]
    live: Bool[np.ndarray, " latents"]

    def only(self, predicted: Bool[np.ndarray, " factors"] | None) -> Float[np.ndarray, "latents factors"]:
        """Return `adjusted` with NaN for factors that are not predicted; raise for a mask of another shape."""
        if predicted is None:
            return self.adjusted
        if predicted.shape != self.entropy.shape or predicted.dtype != np.bool_:
            raise EvaluationError(f"`predicted` must hold one boolean a factor ({len(self.entropy)})")
        return np.where(predicted, self.adjusted, math.nan)


def measure_information(
    codes: Float[np.ndarray, "rows latents"],
    factors: Float[np.ndarray, "rows factors"],
    *,
    classes: Bool[np.ndarray, " factors"] | None = None,
    bins: int = BINS,
    smallest: int = SMALLEST,
    level: float = LEVEL,
) -> Information:
    """Return the mutual information of every latent with every factor.

    With I the mutual information of the bins, E its mean over all orders of the rows and H the factor's entropy,
    `adjusted` is (I - E) / (H - E). It is 0 unless both of two tests at level `level` / (live latents * factors) are
    significant, so that uninformative codes get NaN instead of noise from every metric. The first compares I with the
    chi-square law of its degrees of freedom scaled to the mean E (Wilks); it is too lenient for latents that fire on
    few rows. The second compares Pearson's chi-square with the gamma law of its exact mean and variance over all orders
    of the rows (Dawson, Biometrika 41, 1954); it is too lenient if many bins are small.

    Args:
        codes: one row per clip; any sign, any unit.
        factors: factor values; rows with NaN are excluded for that factor.
        classes: factors whose values are class numbers, with one bin per value.
        bins: maximum number of bins per column.
        smallest: minimum number of rows per bin.
        level: maximum probability that uninformative codes get any information at all (Bonferroni).

    Rows count as independent; for grouped rows, the null of permuted codes decides. Raises `EvaluationError` for codes
    that are not finite or arrays of different lengths.
    """
    _check(codes, factors, level)
    code_bins = bin_columns(codes, bins=bins, smallest=smallest)
    factor_bins = bin_factors(factors, classes=classes, bins=bins, smallest=smallest)
    shape = (codes.shape[1], factors.shape[1])
    nats, expected, surprise = np.zeros(shape), np.zeros(shape), np.ones(shape)
    entropy = np.full(factors.shape[1], math.nan)
    for members, present in missing_patterns(factor_bins >= 0):
        if present.sum() > 3:
            found = _tell(code_bins[present], factor_bins[present][:, members])
            nats[:, members], expected[:, members], surprise[:, members], entropy[members] = found
    live = code_bins.max(axis=0, initial=0) > 0
    entropy[~(entropy > 0)] = math.nan
    room = entropy - expected
    adjusted = np.divide(nats - expected, room, out=np.zeros(shape), where=room > 1e-9)
    told = (surprise <= level / max(int(live.sum()) * int((entropy > 0).sum()), 1)) & live[:, None]
    adjusted = np.where(told, np.clip(adjusted, 0, 1), 0.0)
    adjusted[:, np.isnan(entropy)] = math.nan
    return Information(adjusted, nats, expected, entropy, live)


class InformationHalves(NamedTuple):
    """Result of `measure_halves`: the share of a factor's entropy that a latent explains, on two halves of the clips.

    Shares are corrected for chance and may be negative, so that sums over latents without information are near 0.
    `chance_deviation` is the standard deviation of the share of one latent without information on half of the clips.
    `live` latents vary over the rows.
    """

    first: Float[np.ndarray, "latents factors"]
    second: Float[np.ndarray, "latents factors"]
    chance_deviation: Float[np.ndarray, " factors"]
    live: Bool[np.ndarray, " latents"]

    def only(self, predicted: Bool[np.ndarray, " factors"] | None) -> "InformationHalves":
        """Return the columns of the factors that are predicted and vary; raise for a mask of another shape."""
        kept = np.isfinite(self.chance_deviation)
        if predicted is not None:
            if predicted.shape != kept.shape or predicted.dtype != np.bool_:
                raise EvaluationError(f"`predicted` must hold one boolean a factor ({len(kept)})")
            kept &= predicted
        return InformationHalves(self.first[:, kept], self.second[:, kept], self.chance_deviation[kept], self.live)


def measure_halves(
    codes: Float[np.ndarray, "rows latents"], factors: Float[np.ndarray, "rows factors"], *, seed: int = 0
) -> InformationHalves:
    """Return the information of every latent on every factor on two random halves of the rows.

    Which factor a latent informs on most is chosen on one half and measured on the other, so that a choice among many
    values without information does not look like information. No pair is set to 0 by a test: a test favours the codes
    with the least power. Both sides have two bins (a sparse latent: active or not; a factor: below or above its
    median), because the correction for chance is exact for independent pairs only, and with more bins it becomes
    negative for weakly dependent ones.

    Raises `EvaluationError` as `measure_information` does.
    """
    halves = np.array_split(np.random.default_rng(seed).permutation(len(codes)), 2)
    first, second = (measure_information(codes[half], factors[half], bins=2, level=1.0) for half in halves)
    # 2 n I has a chi-square distribution with one degree of freedom
    known = (~np.isnan(factors)).sum(axis=0) / 2
    nats = np.divide(math.sqrt(0.5), known, out=np.full(len(known), math.nan), where=known > 0)
    deviation = nats / np.minimum(first.entropy, second.entropy)
    return InformationHalves(_signed_share(first), _signed_share(second), deviation, first.live | second.live)


def _signed_share(found: Information) -> Float[np.ndarray, "latents factors"]:
    """Return the share of entropy beyond chance, negative where there is less information than by chance."""
    room = found.entropy - found.expected
    defined = (room > 1e-9) & found.live[:, None]
    return np.divide(found.nats - found.expected, room, out=np.zeros(room.shape), where=defined)


class _Told(NamedTuple):
    nats: Float[np.ndarray, "latents factors"]
    expected: Float[np.ndarray, "latents factors"]
    surprise: Float[np.ndarray, "latents factors"]
    entropy: Float[np.ndarray, " factors"]


def _tell(code_bins: Int[np.ndarray, "rows latents"], factor_bins: Int[np.ndarray, "rows factors"]) -> _Told:
    """Return mutual information, its mean over orders, its rarity among them, and entropy; no value may be missing."""
    n = len(code_bins)
    code_sizes, factor_sizes = _sizes(code_bins), _sizes(factor_bins)
    counts = np.arange(n + 1, dtype=np.float64)
    n_log_n = counts * np.log(np.maximum(counts, 1))
    logs, squares = _sum_over_cells(
        np.ascontiguousarray(code_bins.T), np.ascontiguousarray(factor_bins), code_sizes, factor_sizes, n_log_n
    )
    of_codes, of_factors = n_log_n[code_sizes].sum(axis=1), n_log_n[factor_sizes].sum(axis=1)
    nats = math.log(n) + (logs - of_codes[:, None] - of_factors) / n
    nats, expected = np.maximum(nats, 0), expected_nats(code_sizes, factor_sizes, n)
    margins = Margin.of(code_sizes, n), Margin.of(factor_sizes, n)
    surprise = np.maximum(
        rarity_of_nats(nats, expected, *margins), rarity_of_chi_square(n * (squares - 1), *margins, n)
    )
    return _Told(nats, expected, surprise, math.log(n) - of_factors / n)


def _sizes(bins: Int[np.ndarray, "rows columns"]) -> Int[np.ndarray, "columns bins"]:
    """Return the number of rows in each bin of each column."""
    sizes = np.zeros((bins.shape[1], int(bins.max(initial=0)) + 1), dtype=np.int64)
    for column in range(bins.shape[1]):
        sizes[column] = np.bincount(bins[:, column], minlength=sizes.shape[1])
    return sizes


@numba.njit(cache=True)
def _sum_over_cells(
    code_bins: Int[np.ndarray, "latents rows"],
    factor_bins: Int[np.ndarray, "rows factors"],
    code_sizes: Int[np.ndarray, "latents a"],
    factor_sizes: Int[np.ndarray, "factors b"],
    n_log_n: Float[np.ndarray, " counts"],
) -> tuple[Float[np.ndarray, "latents factors"], Float[np.ndarray, "latents factors"]]:
    """Return the sums of c log c and of c^2 / ab over the cells of every table of latent by factor.

    Only rows outside bin 0 are counted (in a sparse code: those on which the latent fires); the cells of bin 0 are the
    remainders of the factor's bins.
    """
    n_latents, n_rows = code_bins.shape
    n_factors = factor_bins.shape[1]
    logs, squares = np.zeros((n_latents, n_factors)), np.zeros((n_latents, n_factors))
    inverse = 1.0 / np.maximum(factor_sizes, 1)
    cells = np.zeros((code_sizes.shape[1], n_factors, factor_sizes.shape[1]), dtype=np.int64)
    for latent in range(n_latents):
        cells[:] = 0
        cells[0] = factor_sizes
        for row in range(n_rows):
            where = code_bins[latent, row]
            if where > 0:
                for factor in range(n_factors):
                    cells[where, factor, factor_bins[row, factor]] += 1
                    cells[0, factor, factor_bins[row, factor]] -= 1
        for where in range(code_sizes.shape[1]):
            if code_sizes[latent, where] > 0:
                for factor in range(n_factors):
                    for b in range(factor_sizes.shape[1]):
                        count = cells[where, factor, b]
                        logs[latent, factor] += n_log_n[count]
                        squares[latent, factor] += count * count * inverse[factor, b] / code_sizes[latent, where]
    return logs, squares


def _check(codes: Float[np.ndarray, "rows latents"], factors: Float[np.ndarray, "rows factors"], level: float) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise EvaluationError(
            f"codes {codes.shape} and factors {factors.shape} must be [rows, latents] and [rows, factors] of equal rows"
        )
    if not np.isfinite(codes).all():
        raise EvaluationError("codes hold NaN or infinity; drop such rows first")
    if not 0 < level <= 1:
        raise EvaluationError(f"level must lie above 0 and up to 1, got {level}; 0.05 is usual")
