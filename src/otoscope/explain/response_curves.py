"""Response of a latent to one quantity: activation against pitch, level, formants, ... over frames of unseen groups."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import number_groups
from otoscope.resampling.intervals import jackknife_sums
from otoscope.resampling.nulls import compare_with_maximum

BINS = 10
PAIR_BINS = 6
"""Bins per quantity when two quantities are used together."""
MIN_ROWS = 100
"""Minimum number of rows with a known value for a curve."""
ROTATIONS = 50
"""Curves of rotated values, for the null."""


@dataclass(frozen=True, kw_only=True)
class ResponseCurve:
    """Mean activation of a latent in bins of a quantity.

    `edges` bound the bins, which hold equally many rows; `low` and `high` are 95 % intervals over groups. `width` is
    the distance between the points around the maximum at which the curve passes half of its rise, `centre` the mean of
    the values between them, weighted by what exceeds half. `selectivity` is
    `(1 - mean(m)^2 / mean(m^2)) / (1 - 1 / bins)` of the bin means m: 0 for a flat curve, 1 for a single bin (Vinje and
    Gallant 2000). `r2` is the share of the activation's variance that the curve of all other groups predicts, `null`
    the same for values of other clips of the group, rotated in time. `null_high` is the largest value of `r2` with a
    `p_value` above 0.05, in the test of a family of curves against the largest value of each rotation
    (`tested_as_family`); `response_curve` returns a family of one.
    """

    edges: Float[np.ndarray, " bins_and_end"]
    medians: Float[np.ndarray, " bins"]
    mean: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    rows: int
    groups: int
    centre: float
    width: float
    selectivity: float
    r2: float
    null: Float[np.ndarray, " rotations"]
    null_high: float = math.inf
    p_value: float = math.nan

    @property
    def responds(self) -> bool:
        """True if the curve predicts unseen groups beyond its null."""
        return self.r2 > max(self.null_high, 0.0)


def response_curve(
    activations: Float[np.ndarray, " rows"],
    values: Float[np.ndarray, " rows"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    clips: Int[np.ndarray, " rows"],
    bins: int = BINS,
    rotations: int = ROTATIONS,
    seed: int = 0,
) -> ResponseCurve | None:
    """Return the response of a latent to a quantity; None with fewer than `MIN_ROWS` known values or two groups.

    Rows are frames in order of time, clip after clip; rows with NaN as value are excluded. Ties in the values reduce
    the number of bins. Raises `EvaluationError` if lengths differ.

    >>> rng = np.random.default_rng(0)
    >>> pitch = rng.uniform(0, 48, 4000)
    >>> tuned = np.exp(-0.5 * ((pitch - 20) / 3) ** 2)
    >>> curve = response_curve(tuned, pitch, groups=np.arange(4000) // 1000, clips=np.arange(4000) // 100)
    >>> abs(curve.centre - 20) < 1, curve.responds
    (True, True)
    """
    curves = response_curves(
        {0: activations}, {"": values}, groups=groups, clips=clips, bins=bins, rotations=rotations, seed=seed
    )
    return tested_as_family(list(curves.values()))[0] if curves else None


def response_curves(
    activations: Mapping[int, Float[np.ndarray, " rows"]],
    quantities: Mapping[str, Float[np.ndarray, " rows"]],
    *,
    groups: Shaped[np.ndarray, " rows"],
    clips: Int[np.ndarray, " rows"],
    bins: int = BINS,
    rotations: int = ROTATIONS,
    seed: int = 0,
) -> dict[tuple[int, str], ResponseCurve]:
    """Return the curves of latents and quantities, as `response_curve`, but not tested; the family is the caller's.

    Curves that `response_curve` leaves out are missing. The rotations are the same for all latents and quantities.
    """
    found: dict[tuple[int, str], ResponseCurve] = {}
    for name, values in quantities.items():
        for one in activations.values():
            if not len(one) == len(values) == len(groups) == len(clips):
                raise EvaluationError(
                    f"{len(one)} activations, {len(values)} values, {len(groups)} groups and {len(clips)} clips; give "
                    "one of each per row"
                )
        known = np.isfinite(values)
        codes, n_groups = number_groups(groups[known])
        if known.sum() < MIN_ROWS or n_groups < 2:
            continue
        x = values[known].astype(np.float64)
        edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
        if len(edges) < 3:
            continue
        place, n_bins = _bins(x, edges), len(edges) - 1
        medians = np.array([np.median(x[place == b]) if (place == b).any() else np.nan for b in range(n_bins)])
        responses = {latent: one[known].astype(np.float64) for latent, one in activations.items()}
        null = {latent: np.empty(rotations) for latent in responses}
        clip, members = clips[known], group_members(codes, n_groups)
        for turn in range(rotations):
            moved = move_within_groups(place, clip, members, np.random.default_rng([seed, turn]))
            for latent, a in responses.items():
                null[latent][turn] = BinSums.of(a, moved, n_bins, codes, n_groups).r2()
        for latent, a in responses.items():
            sums = BinSums.of(a, place, n_bins, codes, n_groups)
            mean, low, high = sums.interval()
            centre, width = centre_and_width(mean, medians)
            found[latent, name] = ResponseCurve(
                edges=edges,
                medians=medians,
                mean=mean,
                low=low,
                high=high,
                rows=len(a),
                groups=n_groups,
                centre=centre,
                width=width,
                selectivity=selectivity(mean),
                r2=sums.r2(),
                null=null[latent],
            )
    return found


def tested_as_family(curves: Sequence[ResponseCurve]) -> list[ResponseCurve]:
    """Return curves of several latents and quantities, tested as one family (`otoscope.resampling.nulls`).

    By chance, any curve of the family responds in 5 % of families. The curves need equally many rotations. A curve
    of a latent that does not vary is not tested: nothing exceeds its null.
    """
    if not curves:
        return []
    null = np.stack([curve.null for curve in curves], axis=1)
    found = compare_with_maximum(np.array([curve.r2 for curve in curves]), null)
    return [
        replace(curve, null_high=float(high), p_value=float(p))
        for curve, high, p in zip(curves, found.high, found.p_value, strict=True)
    ]


def selectivity(mean: Float[np.ndarray, " bins"]) -> float:
    """Return the selectivity of bin means: 0 for a flat curve, 1 for a single bin (Vinje and Gallant 2000).

    >>> selectivity(np.array([0.0, 0.0, 2.0, 0.0])), selectivity(np.ones(4))
    (1.0, 0.0)
    """
    square = float(np.square(mean).mean())
    return 0.0 if square == 0 else float((1 - mean.mean() ** 2 / square) / (1 - 1 / len(mean)))


def explained_shares(
    activations: Float[np.ndarray, " rows"],
    quantities: Mapping[str, Float[np.ndarray, " rows"]],
    *,
    groups: Shaped[np.ndarray, " rows"],
) -> dict[tuple[str, ...], float]:
    """Return the share of a latent's variance that each quantity and each pair explains on unseen groups.

    The prediction for a row is the mean activation, over all other groups, of the rows in the same bin (`BINS` bins, or
    `PAIR_BINS` per quantity of a pair). All shares use the rows on which every quantity is known. NaN if the latent
    does not vary.
    """
    known = np.all([np.isfinite(values) for values in quantities.values()], axis=0)
    codes, n_groups = number_groups(groups[known])
    if known.sum() < MIN_ROWS or n_groups < 2:
        return {}
    a = activations[known].astype(np.float64)
    fine = {name: _quantile_bins(values[known], BINS) for name, values in quantities.items()}
    coarse = {name: _quantile_bins(values[known], PAIR_BINS) for name, values in quantities.items()}
    shares: dict[tuple[str, ...], float] = {
        (name,): BinSums.of(a, place, BINS, codes, n_groups).r2() for name, place in fine.items()
    }
    for one, other in combinations(quantities, 2):
        place = coarse[one] * PAIR_BINS + coarse[other]
        shares[one, other] = BinSums.of(a, place, PAIR_BINS**2, codes, n_groups).r2()
    return shares


def band_bins(spectra: Float[np.ndarray, "rows bands"]) -> Int[np.ndarray, "bands rows"]:
    """Return the quantile bin of each row's level in each mel band, for `best_band_r2`."""
    return np.stack([_quantile_bins(band, BINS) for band in spectra.T])


def best_band_r2(
    activations: Float[np.ndarray, " rows"], bins: Int[np.ndarray, "bands rows"], *, groups: Shaped[np.ndarray, " rows"]
) -> float:
    """Return the largest share of variance on unseen groups that the level of one mel band explains, a control.

    `bins` is what `band_bins` returned for the same rows.
    """
    codes, n_groups = number_groups(groups)
    if len(groups) < MIN_ROWS or n_groups < 2:
        return math.nan
    scores = [BinSums.of(activations.astype(np.float64), band, BINS, codes, n_groups).r2() for band in bins]
    return float(np.nanmax(scores)) if np.isfinite(scores).any() else math.nan


@dataclass(frozen=True)
class BinSums:
    """Sums over rows by group and bin, from which curves, resamples and predictions of unseen groups follow."""

    counts: Float[np.ndarray, "groups bins"]
    first: Float[np.ndarray, "groups bins"]
    second: float
    by_group: Float[np.ndarray, " groups"]

    @classmethod
    def of(
        cls,
        activations: Float[np.ndarray, " rows"],
        place: Int[np.ndarray, " rows"],
        bins: int,
        codes: Int[np.ndarray, " rows"],
        groups: int,
    ) -> "BinSums":
        """Return the sums of activations; `place` is the bin of each row, `codes` its group."""
        cells = codes * bins + place
        counts = np.bincount(cells, minlength=groups * bins).reshape(groups, bins).astype(np.float64)
        first = np.bincount(cells, activations, minlength=groups * bins).reshape(groups, bins)
        return cls(counts, first, float(np.square(activations).sum()), first.sum(axis=1))

    def interval(self) -> tuple[Float[np.ndarray, " bins"], ...]:
        """Return the mean of each bin and the ends of its interval over groups."""

        def means(sums: Float[np.ndarray, "groups bins 2"]) -> Float[np.ndarray, "groups bins"]:
            known = sums[..., 1] > 0
            return np.divide(sums[..., 0], sums[..., 1], out=np.full(known.shape, math.nan), where=known)

        return jackknife_sums(np.stack([self.first, self.counts], axis=-1), means)

    def r2(self) -> float:
        """Return 1 - SSE / SST, where each group is predicted from the bin means of the others."""
        others = self.counts.sum(axis=0) - self.counts
        rest = self.first.sum(axis=0) - self.first
        overall = rest.sum(axis=1) / np.maximum(others.sum(axis=1), 1)
        predicted = np.where(others > 0, rest / np.maximum(others, 1), overall[:, None])
        sse = self.second - 2 * (predicted * self.first).sum() + (np.square(predicted) * self.counts).sum()
        flat = overall[:, None]
        sst = self.second - 2 * (flat * self.first).sum() + (np.square(flat) * self.counts).sum()
        return float(1 - sse / sst) if sst > 1e-12 * max(self.second, 1e-300) else math.nan


def _bins(values: Float[np.ndarray, " rows"], edges: Float[np.ndarray, " edges"]) -> Int[np.ndarray, " rows"]:
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _quantile_bins(values: Float[np.ndarray, " rows"], bins: int) -> Int[np.ndarray, " rows"]:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
    return _bins(values, edges) if len(edges) > 1 else np.zeros(len(values), dtype=np.int64)


def move_within_groups(
    values: Shaped[np.ndarray, " rows"],
    clips: Int[np.ndarray, " rows"],
    members: Sequence[Int[np.ndarray, " _members"]],
    rng: np.random.Generator,
) -> Shaped[np.ndarray, " rows"]:
    """Return the values of one clip in place of another's, rotated in time: same contours, other moments.

    `members` are the rows of each group; clips take values of clips of their group, which keeps the effects of groups.
    """
    moved = np.empty_like(values)
    for rows in members:
        starts = np.flatnonzero(np.diff(clips[rows], prepend=clips[rows[0]] - 1))
        parts = np.split(values[rows], starts[1:])
        order = rng.permutation(len(parts))
        shuffled = np.concatenate([np.roll(parts[i], int(rng.integers(len(parts[i])))) for i in order])
        moved[rows] = np.roll(shuffled, int(rng.integers(len(shuffled))))
    return moved


def group_members(codes: Int[np.ndarray, " rows"], n_groups: int) -> list[Int[np.ndarray, " _members"]]:
    """Return the rows of each group, in order.

    >>> [rows.tolist() for rows in group_members(np.array([1, 0, 1]), 2)]
    [[1], [0, 2]]
    """
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.searchsorted(codes[order], np.arange(1, n_groups)))


def half_rise(mean: Float[np.ndarray, " bins"]) -> tuple[int, int]:
    """Return the first and the last of the bins around the maximum whose mean is above half of the curve's rise.

    >>> half_rise(np.array([0.0, 0.1, 0.9, 1.0, 0.6, 0.2, 0.9]))
    (2, 4)
    """
    half = (mean.max() + mean.min()) / 2
    first = last = int(mean.argmax())
    while first > 0 and mean[first - 1] >= half:
        first -= 1
    while last + 1 < len(mean) and mean[last + 1] >= half:
        last += 1
    return first, last


def centre_and_width(mean: Float[np.ndarray, " bins"], medians: Float[np.ndarray, " bins"]) -> tuple[float, float]:
    """Return centre and width at half of the rise, as `ResponseCurve` defines them; NaN for a flat curve.

    Ends of the range bound a curve that is above half of its rise there.
    """
    if not mean.max() > mean.min():
        return math.nan, math.nan
    first, last = half_rise(mean)
    half = (mean.max() + mean.min()) / 2
    weights = mean[first : last + 1] - half
    centre = float((weights * medians[first : last + 1]).sum() / weights.sum())

    def crossing(inside: int, outside: int) -> float:
        if not 0 <= outside < len(mean):
            return float(medians[inside])
        share = (mean[inside] - half) / (mean[inside] - mean[outside])
        return float(medians[inside] + share * (medians[outside] - medians[inside]))

    return centre, crossing(last, last + 1) - crossing(first, first - 1)
