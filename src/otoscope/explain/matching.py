"""Matching of the latents of two dictionaries by activations on shared clips, and families of latents of one."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from otoscope.errors import EvaluationError
from otoscope.explain.activation_index import ActivationIndex
from otoscope.linear.gram import live_columns
from otoscope.metrics.stability import match_latents

MIXTURES = 19
"""Random mixtures of the code: a latent is beyond all of them with p = 1/20."""
RECTIFIED = (0.5, 0.75, 0.9)
"""Quantiles above which the mixtures are also kept, as sparsifiers keep the large values of a direction."""
MIN_PHI = 0.5
"""Mean correlation of firing within a family."""
MIN_CONDITIONAL = 0.9
"""Share of the rows of a latent in which its parent fires too."""
MAX_LATENTS = 8192
"""Latents whose pairs are held in memory at once."""


@dataclass(frozen=True)
class LatentMatches:
    """Match of each latent of one code in another, with the null of random mixtures and of other clips.

    `partner` and `correlation` are one to one (`match_latents`); `nearest` and `nearest_correlation` many to one: the
    latent of the other code with the largest correlation, which several may share. `null_high` is the largest
    correlation of the latent with the columns of `MIXTURES` random mixtures of its own code, as they are and rectified,
    and with the columns of the other code for as many shuffles of the rows. -1 and NaN for latents that do not vary.
    """

    partner: Int[np.ndarray, " latents"]
    correlation: Float[np.ndarray, " latents"]
    nearest: Int[np.ndarray, " latents"]
    nearest_correlation: Float[np.ndarray, " latents"]
    null_high: Float[np.ndarray, " latents"]

    @property
    def reappears(self) -> Bool[np.ndarray, " latents"]:
        """True for latents whose one-to-one partner is closer than any column of the null."""
        return np.nan_to_num(self.correlation, nan=-1.0) > np.nan_to_num(self.null_high, nan=1.0)

    @property
    def share(self) -> float:
        """Share of the live latents that reappear; 0.05 or less by chance."""
        live = np.isfinite(self.correlation)
        return float(self.reappears[live].mean()) if live.any() else math.nan

    def summary(self) -> dict[str, Any]:
        """Return number and share of reappearing latents, and mean correlations, with the columns `SUMMARY`."""
        live = np.isfinite(self.correlation)
        number = int(live.sum())
        means = [float(each[live].mean()) if number else math.nan for each in (self.correlation, self.null_high)]
        counted = (number, int(self.reappears.sum()), self.share, *means, len(np.unique(self.nearest[live])))
        return dict(zip(SUMMARY, counted, strict=True))

    def table(self) -> pl.DataFrame:
        """Return one row per live latent, with the columns `MATCHES`."""
        live = np.isfinite(self.correlation)
        sharing = np.bincount(self.nearest[live], minlength=1)
        return pl.DataFrame(
            {
                "latent": np.flatnonzero(live),
                "partner": self.partner[live],
                "correlation": self.correlation[live],
                "nearest": self.nearest[live],
                "nearest_correlation": self.nearest_correlation[live],
                "sharing": sharing[self.nearest[live]],
                "null_high": self.null_high[live],
                "reappears": self.reappears[live],
            },
            schema=MATCHES,
        )


SUMMARY: dict[str, pl.DataType] = {
    "latents": pl.Int64(),
    "reappearing": pl.Int64(),
    **{name: pl.Float64() for name in ("share", "correlation", "null")},
    "nearest": pl.Int64(),
}
"""Columns of `LatentMatches.summary`; `nearest` counts the latents of the other code that are nearest to any."""

MATCHES: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "partner": pl.Int64(),
    "correlation": pl.Float64(),
    "nearest": pl.Int64(),
    "nearest_correlation": pl.Float64(),
    "sharing": pl.Int64(),
    "null_high": pl.Float64(),
    "reappears": pl.Boolean(),
}
"""Columns of `LatentMatches.table`; `sharing` counts the latents with the same `nearest`, `partner` is -1 for none."""


def match_codes(
    one: Float[np.ndarray, "rows latents"],
    other: Float[np.ndarray, "rows others"],
    *,
    mixtures: int = MIXTURES,
    seed: int = 0,
) -> LatentMatches:
    """Match the latents of two codes of the same rows, one to one and many to one.

    The null is a dictionary that holds the same information and no latent of this one: random Gaussian mixtures of its
    columns, as many as the other code has, as they are and above three quantiles. Without the latter, a rotation that a
    sparsifier follows would be rewarded: it keeps what stands out, which correlates with sparse latents more than the
    mixture does. A second null shuffles the rows. Raises `EvaluationError` for codes of different rows.

    >>> codes = np.random.default_rng(0).exponential(size=(200, 12))
    >>> matches = match_codes(codes, codes[:, ::-1])
    >>> matches.partner[:3].tolist(), matches.share
    ([11, 10, 9], 1.0)
    """
    matching = match_latents(one, other)
    live = live_columns(one)
    own = _standard(one[:, live])
    nearest, nearest_correlation = _nearest(own, live, other)
    rng = np.random.default_rng(seed)
    live_other = other[:, live_columns(other)].astype(np.float32)
    centred = (one[:, live] - one[:, live].mean(axis=0)).astype(np.float32)
    null_high = np.full(one.shape[1], math.nan)
    for _ in range(mixtures if live.any() and live_other.shape[1] else 0):
        mixed = centred @ rng.standard_normal((centred.shape[1], live_other.shape[1]), dtype=np.float32)
        rectified = (np.maximum(mixed - level, 0.0) for level in np.quantile(mixed, RECTIFIED, axis=0))
        # columns of mixtures are nearly Gaussian; those of other clips have the heavy tails of sparse codes
        for null in (mixed, *rectified, rng.permutation(live_other)):
            null_high = np.fmax(null_high, _nearest(own, live, null)[1])
    return LatentMatches(matching.partner, matching.correlation, nearest, nearest_correlation, null_high)


def match_indices(one: ActivationIndex, other: ActivationIndex) -> LatentMatches:
    """Match the latents of two dictionaries by their mean codes on the clips that both indices hold.

    The dictionaries may be of other seeds, presets, layers or encoders. Raises `EvaluationError` with fewer than three
    shared clips.

    Example::

        index = ActivationIndex.open("runs/one/explain/index/ID")
        match_indices(index, ActivationIndex.open("runs/two/explain/index/ID")).table()
    """
    position = {clip: i for i, clip in enumerate(other.clip_ids)}
    mine = [i for i, clip in enumerate(one.clip_ids) if clip in position]
    if len(mine) < 3:
        raise EvaluationError(
            f"{one.folder.name} and {other.folder.name} share {len(mine)} clips; index both on the same corpus"
        )
    theirs = [position[one.clip_ids[i]] for i in mine]
    return match_codes(one.clip_means()[mine], other.clip_means()[theirs])


def _nearest(
    own: Float[np.ndarray, "rows live"], live: Bool[np.ndarray, " latents"], other: Float[np.ndarray, "rows others"]
) -> tuple[Int[np.ndarray, " latents"], Float[np.ndarray, " latents"]]:
    """Return the column with the largest correlation, and the correlation; -1 and NaN for columns that do not vary.

    `own` are the standardised `live` columns of the code.
    """
    live_other = live_columns(other)
    nearest, correlation = np.full(len(live), -1), np.full(len(live), math.nan)
    if live.any() and live_other.any():
        alike = own.T @ _standard(other[:, live_other]) / len(own)
        nearest[live] = np.flatnonzero(live_other)[alike.argmax(axis=1)]
        correlation[live] = np.clip(alike.max(axis=1), -1.0, 1.0)
    return nearest, correlation


def _standard(codes: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    centred = codes - codes.mean(axis=0, dtype=np.float64)
    return (centred / centred.std(axis=0)).astype(np.float32)


@dataclass(frozen=True)
class LatentFamilies:
    """Families of latents that fire together, and the parent of each latent.

    `family` numbers families from the largest, -1 for latents in none. `parent` is the rarest latent that fires in
    `MIN_CONDITIONAL` of the rows of another and at least twice as often, -1 for none; `conditional` is that share.
    """

    latents: Int[np.ndarray, " latents"]
    family: Int[np.ndarray, " latents"]
    parent: Int[np.ndarray, " latents"]
    conditional: Float[np.ndarray, " latents"]

    def table(self) -> pl.DataFrame:
        """Return one row per latent: `latent, family, parent, conditional`."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in FAMILIES if name != "latent"}
        return pl.DataFrame({"latent": self.latents, **columns}, schema=FAMILIES)


FAMILIES: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "family": pl.Int64(),
    "parent": pl.Int64(),
    "conditional": pl.Float64(),
}
"""Columns of `LatentFamilies.table`."""


def latent_families(index: ActivationIndex) -> LatentFamilies:
    """Group the latents of a dictionary by the rows in which they fire.

    Families are those of average linkage on Pearson's correlation of firing (phi), cut at `MIN_PHI`. Only latents that
    fire are grouped. Raises `EvaluationError` if more than `MAX_LATENTS` fire.
    """
    counts = index.statistics["rows"].to_numpy()
    latents = np.flatnonzero(counts > 0)
    if len(latents) > MAX_LATENTS:
        raise EvaluationError(
            f"{len(latents):,} latents fire, and families compare all pairs; at most {MAX_LATENTS:,} are allowed"
        )
    together = np.zeros((len(latents), len(latents)), dtype=np.float32)
    for part in index.parts():
        fires = sparse.csr_matrix(
            (np.ones(len(part.latents), dtype=np.float32), part.latents.astype(np.int64), part.row_offsets),
            shape=(len(part.row_offsets) - 1, index.latents),
        )[:, latents]
        together += (fires.T @ fires).toarray()
    count = counts[latents].astype(np.float64)
    return LatentFamilies(latents, _families(together, count, index.rows), *_parents(latents, together, count))


def _families(
    together: Float[np.ndarray, "latents latents"], counts: Float[np.ndarray, " latents"], rows: int
) -> Int[np.ndarray, " latents"]:
    spread = np.sqrt(counts * (rows - counts))
    scale = spread[:, None] * spread[None]
    phi = np.divide(rows * together - counts[:, None] * counts, scale, out=np.zeros_like(scale), where=scale > 0)
    if len(counts) < 2:
        return np.full(len(counts), -1)
    np.fill_diagonal(phi, 1.0)
    tree = linkage(squareform(1 - phi, checks=False), method="average")
    found = fcluster(tree, 1 - MIN_PHI, criterion="distance")
    sizes = np.bincount(found)
    order = [name for name in np.argsort(-sizes, kind="stable").tolist() if sizes[name] > 1]
    number = np.full(len(sizes), -1)
    number[order] = np.arange(len(order))
    return number[found]


def _parents(
    latents: Int[np.ndarray, " latents"],
    together: Float[np.ndarray, "latents latents"],
    counts: Float[np.ndarray, " latents"],
) -> tuple[Int[np.ndarray, " latents"], Float[np.ndarray, " latents"]]:
    conditional = together / np.maximum(counts[:, None], 1)
    is_parent = (conditional >= MIN_CONDITIONAL) & (counts[None] >= 2 * counts[:, None])
    rarest = np.where(is_parent, counts[None], math.inf).argmin(axis=1) if len(counts) else np.empty(0, dtype=np.int64)
    has = is_parent.any(axis=1)
    share = conditional[np.arange(len(counts)), rarest]
    return np.where(has, latents[rarest], -1), np.where(has, share, math.nan)
