"""How well each factor is read from a representation, on groups that nothing was fitted on or chosen by."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.linear.lasso import LassoSettings, fit_factors
from otoscope.metrics.record import Record
from otoscope.protocols.strict.factors import Asked
from otoscope.protocols.strict.settings import StrictSettings


class Reading(NamedTuple):
    """Per factor: held-out R2, its interval over groups, its null, and the regression's weights.

    `held_r2` is R2 on fitted groups that were left out while the penalty was chosen; `weights` are in
    standard deviations of factor over unit; `live` units vary; `n` and `groups` count test rows and groups.
    """

    r2: Float[np.ndarray, " factors"]
    low: Float[np.ndarray, " factors"]
    high: Float[np.ndarray, " factors"]
    null_mean: Float[np.ndarray, " factors"]
    null_high: Float[np.ndarray, " factors"]
    held_r2: Float[np.ndarray, " factors"]
    weights: Float[np.ndarray, "p factors"]
    live: Bool[np.ndarray, " p"]
    n: Int[np.ndarray, " factors"]
    groups: Int[np.ndarray, " factors"]


def read_factors(
    units: Float[np.ndarray, "clips p"], asked: Asked, settings: StrictSettings, *, resamples: int
) -> Reading:
    """Fit every factor from a representation by a LASSO whose penalty is chosen on groups left out."""
    fits = fit_factors(
        units,
        asked.values,
        groups=asked.groups,
        split=asked.split,
        settings=LassoSettings(folds=settings.folds, permutations=settings.permutations, resamples=resamples),
        workers=1,
    )
    return Reading(
        fits.r2, fits.low, fits.high, fits.null_mean, fits.null_high, fits.valid_r2,
        fits.weights, fits.live, fits.n, fits.groups,
    )  # fmt: skip


def well_read(reading: Reading, min_r2: float) -> Bool[np.ndarray, " factors"]:
    """Say which factors are predicted well: held-out R2 above a threshold and above its null's 95 % point."""
    above = np.isnan(reading.null_high) | (reading.r2 > reading.null_high)
    return (reading.r2 >= min_r2) & above


def factor_records(reading: Reading, asked: Asked, about: Record) -> Iterator[Record]:
    """Yield each factor's R2 on test groups, with interval and null, and on fitted groups that were left out."""
    fitted = asked.split != "test"
    for j, name in enumerate(asked.names):
        shared = replace(about, metric="factor_r2", target=name)
        yield replace(
            shared,
            value=float(reading.r2[j]),
            low=float(reading.low[j]),
            high=float(reading.high[j]),
            null_mean=float(reading.null_mean[j]),
            null_high=float(reading.null_high[j]),
            n=int(reading.n[j]),
            groups=int(reading.groups[j]),
        )
        known = fitted & ~np.isnan(asked.values[:, j])
        n_groups = len(np.unique(asked.groups[known]))
        yield replace(shared, split="valid", value=float(reading.held_r2[j]), n=int(known.sum()), groups=n_groups)


def predicted_share(
    reading: Reading, min_r2: float, about: Record, *, among: Bool[np.ndarray, " factors"], target: str = ""
) -> Iterator[Record]:
    """Yield the share of some factors that is predicted well.

    The interval counts factors by the ends of their own intervals, the null those whose permuted
    targets are predicted as well as that.
    """
    if not among.any():
        return
    n_groups = int(reading.groups.max(initial=0))

    def share(r2: Float[np.ndarray, " factors"]) -> float:
        return float(well_read(reading._replace(r2=np.nan_to_num(r2, nan=-np.inf)), min_r2)[among].mean())

    yield replace(
        about,
        metric="predicted_share",
        target=target,
        value=share(reading.r2),
        low=share(reading.low) if n_groups > 1 else float("nan"),
        high=share(reading.high) if n_groups > 1 else float("nan"),
        null_mean=float((reading.null_mean[among] >= min_r2).mean()),
        null_high=float((reading.null_high[among] >= min_r2).mean()),
        n=int(among.sum()),
        groups=n_groups,
    )
