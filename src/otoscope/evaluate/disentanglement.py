"""Over how many latents a factor spreads, and over how many factors a latent does.

Completeness and disentanglement of Eastwood and Williams (ICLR 2018), with four repairs that the
strict protocol needs. A factor that nothing predicts scores NaN (an empty column has entropy 0 and
would score 1). Latents that never fire are left out of the normaliser, so that appending dead
latents changes nothing. The effective number of latents, exp of the entropy, stands beside
completeness, because the same number of latents scores higher in a wider code. And the average
disentanglement is the sum of D weighted by importance, which is 1 for the identity; the code
published with arXiv:2509.24793 takes the mean of the weighted terms and so divides once more by
the number of latents.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from otoscope.errors import EvaluationError


class Completeness(NamedTuple):
    """Per factor: 1 - H / log(live latents), and exp(H); NaN where the factor is not predicted."""

    completeness: Float[np.ndarray, " factors"]
    effective_latents: Float[np.ndarray, " factors"]


class Disentanglement(NamedTuple):
    """The average weighted by importance, D of each latent (NaN where unused), and each latent's share."""

    value: float
    latents: Float[np.ndarray, " latents"]
    share: Float[np.ndarray, " latents"]


def completeness(
    importance: Float[np.ndarray, "latents factors"],
    *,
    live: Bool[np.ndarray, " latents"],
    predicted: Bool[np.ndarray, " factors"] | None = None,
) -> Completeness:
    """Return how few latents carry each factor.

    With p the importances of a factor scaled to sum 1 and H = -sum p log p over live latents,
    completeness is 1 - H / log(live latents): 1 for one latent, 0 for all alike.

    Args:
        importance: importances, 0 or more; absolute LASSO weights of standardised codes, say.
        live: latents that vary on the rows the importances were fitted on. Others must carry none.
        predicted: factors to score, those whose held-out R2 exceeds a threshold, say; all if absent.

    A factor that is not predicted, or whose importances are all zero, is NaN in both; completeness
    is NaN as well with fewer than two live latents. Raises `EvaluationError` for negative or
    non-finite importances, for shapes that disagree, and for importance on a latent that is not live.

    >>> completeness(np.array([[1.0, 1.0], [0.0, 1.0]]), live=np.array([True, True]))
    Completeness(completeness=array([1., 0.]), effective_latents=array([1., 2.]))
    """
    _check(importance, live=live, predicted=predicted)
    n_live = int(live.sum())
    entropy = _entropy(importance[live].astype(np.float64))
    if predicted is not None:
        entropy = np.where(predicted, entropy, math.nan)
    scaled = 1 - entropy / math.log(n_live) if n_live > 1 else np.full_like(entropy, math.nan)
    # rounding may leave the bounds by an ulp
    return Completeness(np.clip(scaled, 0, 1), np.exp(entropy))


def disentanglement(
    importance: Float[np.ndarray, "latents factors"], *, predicted: Bool[np.ndarray, " factors"] | None = None
) -> Disentanglement:
    """Return how few factors each latent serves, and the average weighted by importance.

    D of a latent is 1 - H(row) / log(factors) with the row scaled to sum 1; the average is
    sum over latents of share * D with share = row sum / sum of all. Only `predicted` factors count.
    NaN when fewer than two factors count or no latent carries anything.

    >>> disentanglement(np.eye(3)).value
    1.0
    """
    _check(importance, live=np.ones(len(importance), dtype=bool), predicted=predicted)
    counted = importance if predicted is None else importance[:, predicted]
    rows = counted.astype(np.float64)
    total = rows.sum()
    undefined = np.full(len(rows), math.nan)
    if rows.shape[1] < 2 or total == 0:
        return Disentanglement(math.nan, undefined, np.zeros(len(rows)))
    # scaled first, so that a sum of huge importances cannot overflow
    share = (rows / rows.max()).sum(axis=1)
    share /= share.sum()
    scores = np.clip(1 - _entropy(rows.T) / math.log(rows.shape[1]), 0, 1)
    used = share > 0
    return Disentanglement(float(np.clip((share[used] * scores[used]).sum(), 0, 1)), scores, share)


def _entropy(columns: Float[np.ndarray, "parts columns"]) -> Float[np.ndarray, " columns"]:
    """Return the entropy in nats of each column scaled to sum 1, NaN where the column is zero."""
    peak = columns.max(axis=0, initial=0)
    empty = peak == 0
    scaled = columns / np.where(empty, 1, peak)
    share = scaled / np.where(empty, 1, scaled.sum(axis=0))
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.where(empty, math.nan, np.maximum(-(share * logs).sum(axis=0), 0))


def _check(
    importance: Float[np.ndarray, "latents factors"],
    *,
    live: Bool[np.ndarray, " latents"],
    predicted: Bool[np.ndarray, " factors"] | None,
) -> None:
    if importance.ndim != 2:
        raise EvaluationError(f"importances must be [latents, factors], got shape {importance.shape}")
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise EvaluationError("importances must be finite and 0 or more; take absolute values first")
    if live.shape != (importance.shape[0],) or live.dtype != np.bool_:
        raise EvaluationError(f"`live` must hold one boolean a latent ({importance.shape[0]}), got {live.shape}")
    if predicted is not None and (predicted.shape != (importance.shape[1],) or predicted.dtype != np.bool_):
        raise EvaluationError(f"`predicted` must hold one boolean a factor ({importance.shape[1]})")
    if (importance[~live] > 0).any():
        raise EvaluationError("a latent that is not live carries importance; pass the mask of the fitting rows")
