"""Causal response curves: activation of latents while the synthesiser changes one factor and keeps the others fixed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int

from otoscope.corpus.audio import resample
from otoscope.encoders.base import Encoder, Wave, check_layers
from otoscope.encoders.batched import side_by_side
from otoscope.errors import EvaluationError
from otoscope.explain.frame_descriptors import log_mel
from otoscope.explain.response_curves import BinSums, band_bins, best_band_r2, centre_and_width, selectivity
from otoscope.explain.splice import require_trained_on
from otoscope.explain.swept_voices import (
    SWEPT,
    VoiceSetting,
    check_factors,
    crossed_settings,
    sing,
    swept_settings,
)
from otoscope.factors.logmel import RATE_HZ
from otoscope.resampling.intervals import jackknife_sums
from otoscope.sae.model import SparseAutoencoder

SINGERS = 6
CROSSED_CLIPS = 240
PAIR_VALUES = 4
"""Values per factor in the shares of pairs: neighbouring ones are joined."""
PERMUTATIONS = 999
BATCH = 16
"""Clips per call of the encoder."""


@dataclass(frozen=True, kw_only=True)
class CausalCurve:
    """Mean activation of a latent at each value of a factor that the synthesiser changed.

    `low` and `high` are 95 % intervals over singers; centre, width and selectivity are those of `ResponseCurve`, the
    first two NaN for classes. `r2` is the share of the activation's variance over singers and values that the curve of
    the other singers predicts. `p_value` is $(1 + b) / (1 + m)$ with b of m shuffles of the values within singers in
    which any latent and factor of the family reaches this `r2`.
    """

    values: Float[np.ndarray, " values"]
    mean: Float[np.ndarray, " values"]
    low: Float[np.ndarray, " values"]
    high: Float[np.ndarray, " values"]
    singers: int
    centre: float
    width: float
    selectivity: float
    r2: float
    p_value: float

    @property
    def responds(self) -> bool:
        """True if the factor moves the latent beyond chance, at 5 % for the whole family."""
        return self.p_value <= 0.05


def causal_curves(
    responses: Mapping[str, Float[np.ndarray, "singers _values latents"]],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[tuple[int, str], CausalCurve]:
    """Return the curve of each latent (by its position) and factor.

    `responses` holds, for keys of `SWEPT`, the activation per singer, value and latent. Raises `EvaluationError` for
    fewer than two singers.

    >>> tuned = np.exp(-0.5 * ((np.array(SWEPT["f0"].values) - 35) / 3) ** 2)
    >>> curve = causal_curves({"f0": np.tile(tuned[None, :, None], (4, 1, 1))})[0, "f0"]
    >>> round(curve.centre), curve.responds
    (35, True)
    """
    if any(each.shape[0] < 2 for each in responses.values()):
        raise EvaluationError("a curve is tested on singers that it was not drawn from; give responses of two or more")
    rng = np.random.default_rng(seed)
    r2 = {name: _r2(each) for name, each in responses.items()}
    largest = np.full(permutations, -math.inf)
    for each in responses.values():
        for turn in range(permutations):
            order = rng.permuted(np.tile(np.arange(each.shape[1]), (each.shape[0], 1)), axis=1)
            largest[turn] = np.fmax(largest[turn], _r2(np.take_along_axis(each, order[:, :, None], axis=1))).max()
    curves: dict[tuple[int, str], CausalCurve] = {}
    for name, each in responses.items():
        values = np.asarray(SWEPT[name].values, dtype=np.float64)
        for latent in range(each.shape[2]):
            a = each[:, :, latent].astype(np.float64)
            mean, low, high = jackknife_sums(np.stack([a, np.ones_like(a)], axis=-1), lambda s: s[..., 0] / s[..., 1])
            own = float(r2[name][latent])
            centre, width = (math.nan, math.nan) if SWEPT[name].classes else centre_and_width(mean, values)
            p_value = (1 + int((largest >= own).sum())) / (1 + permutations) if math.isfinite(own) else math.nan
            curves[latent, name] = CausalCurve(
                values=values, mean=mean, low=low, high=high, singers=len(a), centre=centre, width=width,
                selectivity=selectivity(mean), r2=own, p_value=p_value,
            )  # fmt: skip
    return curves


def _r2(responses: Float[np.ndarray, "singers values latents"]) -> Float[np.ndarray, " latents"]:
    """Return 1 - SSE / SST per latent, each singer predicted from the mean of the others; NaN if it does not vary."""
    a = responses.astype(np.float64)
    others = (a.sum(axis=0) - a) / (len(a) - 1)
    sse = np.square(a - others).sum(axis=(0, 1))
    sst = np.square(a - others.mean(axis=1, keepdims=True)).sum(axis=(0, 1))
    varies = sst > 1e-12 * np.maximum(np.square(a).sum(axis=(0, 1)), 1e-300)
    return np.where(varies, 1 - sse / np.where(varies, sst, 1.0), math.nan)


def crossed_shares(
    activations: Float[np.ndarray, " clips"], settings: Sequence[VoiceSetting], factors: Sequence[str]
) -> dict[tuple[str, ...], float]:
    """Return the share of a latent's variance that each factor and each pair explains on unseen singers.

    `settings` are those of `crossed_settings`. The prediction for a clip is the mean activation, over all other
    singers, of the clips with the same value (of pairs: the same `PAIR_VALUES` parts of the range). NaN if the latent
    does not vary.
    """
    singers = np.array([setting.singer for setting in settings])
    place: dict[str, Int[np.ndarray, " clips"]] = {}
    for column, (name, factor) in enumerate(SWEPT.items()):
        if name in factors:
            place[name] = np.searchsorted(factor.values, [setting.values[column] for setting in settings])
    sizes = {name: len(SWEPT[name].values) for name in factors}
    parts = {name: size if SWEPT[name].classes else min(size, PAIR_VALUES) for name, size in sizes.items()}
    coarse = {name: place[name] * parts[name] // sizes[name] for name in factors}
    a = np.asarray(activations, dtype=np.float64)

    def share(cells: Int[np.ndarray, " clips"], number: int) -> float:
        return BinSums.of(a, cells, number, singers, int(singers.max()) + 1).r2()

    alone = {(name,): share(place[name], sizes[name]) for name in factors}
    pairs = {
        (one, other): share(coarse[one] * parts[other] + coarse[other], parts[one] * parts[other])
        for one, other in combinations(factors, 2)
    }
    return alone | pairs


def curve_agreement(
    values: Float[np.ndarray, " values"],
    mean: Float[np.ndarray, " values"],
    observed_values: Float[np.ndarray, " bins"],
    observed_mean: Float[np.ndarray, " bins"],
) -> float:
    """Return Pearson's correlation of an observed curve and the causal one, at the observed values in its range.

    NaN with fewer than three shared values, or if a curve is flat there.

    >>> x = np.arange(5.0)
    >>> round(curve_agreement(x, x**2, np.array([1.0, 2.0, 3.0, 9.0]), np.array([1.0, 4.0, 9.0, 0.0])), 6)
    1.0
    """
    shared = (observed_values >= values[0]) & (observed_values <= values[-1]) & np.isfinite(observed_mean)
    if shared.sum() < 3:
        return math.nan
    expected, found = np.interp(observed_values[shared], values, mean), observed_mean[shared]
    return float(np.corrcoef(expected, found)[0, 1]) if np.ptp(expected) > 0 and np.ptp(found) > 0 else math.nan


class SweepTables(NamedTuple):
    """`sweeps`: one row per latent, factor and value; `sweep_shares`: per latent, factor and pair."""

    sweeps: pl.DataFrame
    sweep_shares: pl.DataFrame


SWEEPS: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "factor": pl.String(),
    "value": pl.Float64(),
    "class": pl.String(),
    **{name: pl.Float64() for name in ("mean", "low", "high")},
    "singers": pl.Int64(),
    **{name: pl.Float64() for name in ("centre", "width", "selectivity", "r2", "p_value")},
    "responds": pl.Boolean(),
}
"""Columns of `sweeps.parquet`; from `singers` on they are facts of the whole curve."""

SWEEP_SHARES: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "factor": pl.String(),
    "other": pl.String(),
    "share": pl.Float64(),
}
"""Columns of `sweep_shares.parquet`; `other` is null for a factor alone; `mel_band` is the best mel band."""


def sweep_latents(
    encoder: Encoder,
    sae: SparseAutoencoder,
    layer: int,
    latents: Sequence[int],
    *,
    factors: Sequence[str] = tuple(SWEPT),
    singers: int = SINGERS,
    crossed_clips: int = CROSSED_CLIPS,
    duration_s: float = 1.0,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    on_clip: Callable[[], object] | None = None,
) -> SweepTables:
    """Return causal response curves of latents, and the shares of variance while all factors vary.

    A response is the mean activation over the frames of a sung clip. `crossed_clips` clips vary all factors
    independently (0: no shares). `on_clip` is called after each clip (`number_of_clips`). Raises `EvaluationError` for
    an unknown latent or factor and for fewer than two singers, `EncoderError` for an SAE of pooled clips, of another
    encoder or of another layer.

    Example::

        sae = otoscope.SparseAutoencoder.from_pretrained("runs/demo/saes/ID")
        tables = sweep_latents(otoscope.load_encoder(for_=sae), sae, 3, [17, 23])
    """
    check_factors(factors)
    check_layers([layer], encoder.layers, encoder.name)
    require_trained_on(sae, encoder, layer)
    if unknown := [latent for latent in latents if not 0 <= latent < sae.latents]:
        raise EvaluationError(f"latent {unknown[0]} does not exist; the SAE has latents 0 to {sae.latents - 1}")
    if singers < 2:
        raise EvaluationError(f"singers is {singers}; give 2 or more, each is predicted from the others")
    swept = swept_settings(factors, singers)
    crossed = crossed_settings(factors, singers, crossed_clips, seed=seed)
    every = _distinct(swept, crossed)
    waves = {setting: sing(setting, rate_hz=encoder.rate_hz, duration_s=duration_s, seed=seed) for setting in every}
    found = dict(zip(every, _mean_codes(encoder, sae, layer, latents, list(waves.values()), on_clip), strict=True))
    responses = {
        name: np.stack([[found[setting] for setting in row] for row in by_singer]) for name, by_singer in swept.items()
    }
    curves = causal_curves(responses, permutations=permutations, seed=seed)
    rows = [row for (at, name), curve in curves.items() for row in _curve_rows(latents[at], name, curve)]
    shares: list[dict[str, Any]] = []
    if crossed:
        voices = np.array([setting.singer for setting in crossed])
        bands = band_bins(np.stack([_mean_spectrum(waves[setting], encoder.rate_hz) for setting in crossed]))
        for at, latent in enumerate(latents):
            a = np.array([found[setting][at] for setting in crossed])
            found_shares = crossed_shares(a, crossed, factors) | {("mel_band",): best_band_r2(a, bands, groups=voices)}
            for (factor, *other), share in found_shares.items():
                shares.append({"latent": latent, "factor": factor, "other": next(iter(other), None), "share": share})
    return SweepTables(pl.DataFrame(rows, schema=SWEEPS), pl.DataFrame(shares, schema=SWEEP_SHARES))


def number_of_clips(
    *, factors: Sequence[str] = tuple(SWEPT), singers: int = SINGERS, crossed_clips: int = CROSSED_CLIPS
) -> int:
    """Return the number of clips that `sweep_latents` encodes; equal settings share a clip."""
    return len(_distinct(swept_settings(factors, singers), crossed_settings(factors, singers, crossed_clips)))


def _distinct(
    swept: Mapping[str, Sequence[Sequence[VoiceSetting]]], crossed: Sequence[VoiceSetting]
) -> list[VoiceSetting]:
    each = [setting for by_singer in swept.values() for row in by_singer for setting in row]
    return list(dict.fromkeys([*each, *crossed]))


def _mean_codes(
    encoder: Encoder,
    sae: SparseAutoencoder,
    layer: int,
    latents: Sequence[int],
    waves: Sequence[Wave],
    on_clip: Callable[[], object] | None,
) -> list[Float[np.ndarray, " latents"]]:
    """Return the mean codes of some latents over the frames of each clip."""
    means: list[Float[np.ndarray, " latents"]] = []
    encoder = side_by_side(encoder)
    for start in range(0, len(waves), BATCH):
        encoded = encoder.encode(waves[start : start + BATCH], [layer])
        for state, mask in zip(encoded.layers[layer], encoded.mask, strict=True):
            with torch.inference_mode():
                codes = sae.encode(state[mask].to(sae.device))[:, list(latents)]
            means.append(codes.mean(dim=0).cpu().numpy().astype(np.float64))
            if on_clip is not None:
                on_clip()
    return means


def _mean_spectrum(wave: Float[np.ndarray, " samples"], rate_hz: int) -> Float[np.ndarray, " bands"]:
    return log_mel(wave if rate_hz == RATE_HZ else resample(wave, from_hz=rate_hz, to_hz=RATE_HZ)).mean(axis=0)


def _curve_rows(latent: int, name: str, curve: CausalCurve) -> list[dict[str, Any]]:
    facts = {key: getattr(curve, key) for key in ("singers", "centre", "width", "selectivity", "r2", "p_value")}
    classes = list(SWEPT[name].classes)
    return [
        {
            **{"latent": latent, "factor": name, "value": curve.values[i], "class": classes[i] if classes else None},
            **{"mean": curve.mean[i], "low": curve.low[i], "high": curve.high[i]},
            **facts,
            "responds": curve.responds,
        }
        for i in range(len(curve.values))
    ]
