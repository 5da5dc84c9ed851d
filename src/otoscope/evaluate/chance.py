"""What chance tells: tables of bins when the rows of one side are shuffled, from the bin sizes alone."""

import math
from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int
from scipy.special import chdtrc, gammaincc, gammaln


class Margin(NamedTuple):
    """What the moments of chi-square need of one side's bins (Dawson's v and w), and how many there are."""

    bins: Float[np.ndarray, " columns"]
    even: Float[np.ndarray, " columns"]
    uneven: Float[np.ndarray, " columns"]

    @classmethod
    def of(cls, sizes: Int[np.ndarray, "columns bins"], n: int) -> "Margin":
        """Return them for columns of `n` rows, from the number of rows in each bin; bins without rows count as none."""
        bins = (sizes > 0).sum(axis=1).astype(np.float64)
        inverse = np.divide(float(n), sizes, out=np.zeros(sizes.shape), where=sizes > 0).sum(axis=1)
        return cls(bins, (bins - 1) * (n - bins) / (n - 1), (inverse - bins**2) / (n - 2))


def rarity_of_nats(
    nats: Float[np.ndarray, "latents factors"],
    expected: Float[np.ndarray, "latents factors"],
    codes: Margin,
    factors: Margin,
) -> Float[np.ndarray, "latents factors"]:
    """Return the share of orders that tell as much, by the chi-square law scaled to the exact mean."""
    degrees = np.outer(codes.bins - 1, factors.bins - 1)
    defined = (degrees > 0) & (expected > 0)
    scaled = np.divide(nats * degrees, expected, out=np.zeros(nats.shape), where=defined)
    return np.where(defined, chdtrc(np.maximum(degrees, 1), scaled), 1.0)


def rarity_of_chi_square(
    chi_square: Float[np.ndarray, "latents factors"], codes: Margin, factors: Margin, n: int
) -> Float[np.ndarray, "latents factors"]:
    """Return the share of orders of the rows whose chi-square is as large, by a gamma law of the same two moments."""
    mean = np.outer(codes.bins - 1, factors.bins - 1) * n / (n - 1)
    variance = 2 * n / (n - 3) * np.outer(codes.even - codes.uneven, factors.even - factors.uneven)
    variance += n**2 / (n - 1) * np.outer(codes.uneven, factors.uneven)
    defined = (mean > 0) & (variance > 1e-12)
    mean, variance = np.where(defined, mean, 1.0), np.where(defined, variance, 1.0)
    return np.where(defined, gammaincc(mean**2 / variance, np.maximum(chi_square, 0) * mean / variance), 1.0)


def expected_nats(
    code_sizes: Int[np.ndarray, "latents a"], factor_sizes: Int[np.ndarray, "factors b"], n: int
) -> Float[np.ndarray, "latents factors"]:
    """Return the mean mutual information over all orders of the rows.

    It is a sum over pairs of bins of a term that depends on the two sizes only, so each pair of
    sizes that occurs is worked out once.
    """
    sizes_a, place_a = np.unique(code_sizes, return_inverse=True)
    sizes_b, place_b = np.unique(factor_sizes, return_inverse=True)
    terms = _expected_cells(sizes_a, sizes_b, n, gammaln(np.arange(n + 2, dtype=np.float64)))
    of_a, of_b = np.zeros((len(code_sizes), len(sizes_a))), np.zeros((len(factor_sizes), len(sizes_b)))
    np.add.at(of_a, (np.arange(len(code_sizes))[:, None], place_a.reshape(code_sizes.shape)), 1)
    np.add.at(of_b, (np.arange(len(factor_sizes))[:, None], place_b.reshape(factor_sizes.shape)), 1)
    return np.maximum(of_a @ terms @ of_b.T, 0)


@numba.njit(cache=True)
def _expected_cells(
    sizes_a: Int[np.ndarray, " a"], sizes_b: Int[np.ndarray, " b"], n: int, log_gamma: Float[np.ndarray, " n2"]
) -> Float[np.ndarray, "a b"]:
    """Return the mean of c/n log(n c / ab) with c hypergeometric: a cell of bins of a and b rows."""
    terms = np.zeros((len(sizes_a), len(sizes_b)))
    for i, a in enumerate(sizes_a):
        for j, b in enumerate(sizes_b):
            if a == 0 or b == 0:
                continue
            low = max(1, a + b - n)
            chosen = (
                log_gamma[a + 1] + log_gamma[b + 1] + log_gamma[n - a + 1] + log_gamma[n - b + 1] - log_gamma[n + 1]
            )
            log_share = chosen - log_gamma[low + 1] - log_gamma[a - low + 1] - log_gamma[b - low + 1]
            log_share -= log_gamma[n - a - b + low + 1]
            for c in range(low, min(a, b) + 1):
                terms[i, j] += math.exp(log_share) * c / n * math.log(n * c / (a * b))
                if c < min(a, b):
                    log_share += math.log((a - c) * (b - c) / ((c + 1.0) * (n - a - b + c + 1.0)))
    return terms
