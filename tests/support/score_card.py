"""Every metric of disentanglement on the same codes and factors: what laws and truth tests ask about."""

from collections.abc import Callable

import numpy as np

from otoscope.linear.lasso import LassoSettings, fit_factors
from otoscope.metrics.dci import completeness, disentanglement, explicitness
from otoscope.metrics.latent_metrics import infomec, information_gap, predictability_gap
from otoscope.metrics.mutual_information import measure_halves
from otoscope.metrics.sparse_regression import SparseSettings, sparse_regression

Card = dict[str, np.ndarray]
"""Numbers by metric: the mean first, then one a factor where there is one."""

NAMES = (
    *("mig", "infom", "infoc", "infoe", "sap"),
    *("explicitness", "completeness", "disentanglement", "sparse_r2"),
)


def score_card(codes: np.ndarray, factors: np.ndarray, *, groups: np.ndarray, split: np.ndarray) -> Card:
    """Return every metric; those fitted on some rows are fitted on train, chosen on valid, scored on test."""
    halves = measure_halves(codes, factors)
    gap = information_gap(halves)
    easy = explicitness(codes, factors, groups=groups, split=split, capacities=(0, 8, 16))
    mec = infomec(halves)
    apart = predictability_gap(codes, factors, split=split)
    few = LassoSettings(alphas=8, tolerance=1e-10, choice_tolerance=1e-8)
    fits = fit_factors(codes, factors, groups=groups, split=split, settings=few, workers=1)
    importance, predicted = np.abs(fits.weights), np.nan_to_num(fits.r2) > 0.05
    whole = completeness(importance, live=fits.live, predicted=predicted)
    brief = SparseSettings(sizes=(1, 2, 4))
    curves = sparse_regression(codes, factors, groups=groups, split=split, settings=brief)
    return {
        "mig": np.append(gap.value, gap.factors),
        "infom": np.array([mec.modularity]),
        "infoc": np.array([mec.compactness]),
        "infoe": np.array([_mean(np.maximum(easy.linear.r2, 0))]),
        "sap": np.append(apart.value, apart.factors),
        "explicitness": np.append(easy.value, easy.factors),
        "completeness": np.append(_mean(whole.completeness), whole.completeness),
        "disentanglement": np.array([disentanglement(importance, predicted=predicted).value]),
        "sparse_r2": np.append(_mean(curves.r2[:, 0]), curves.r2[:, 0]),
    }


def top(card: Card) -> dict[str, float]:
    """Return the first number of every metric."""
    return {name: float(values[0]) for name, values in card.items()}


def one_hot_bins(factors: np.ndarray, bins: int = 5) -> np.ndarray:
    """Return one column a fifth of each factor."""
    edges = np.nanquantile(factors, np.linspace(0, 1, bins + 1)[1:-1], axis=0)
    number = (factors[:, :, None] > edges.T[None]).sum(axis=2)
    return np.concatenate([(number == b) * 1.0 for b in range(bins)], axis=1)


def rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return an even mix: rows of a Hadamard-like rotation, so that no entry dominates."""
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


Change = Callable[[np.ndarray], np.ndarray]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
