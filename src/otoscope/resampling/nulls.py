"""Null models: permuted rows, random sparse codes, random dictionaries."""

import numba
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import number_groups


def permuted_order(
    n_rows: int, *, seed: int, groups: Shaped[np.ndarray, " rows"] | None = None
) -> Int[np.ndarray, " rows"]:
    """Return a random permutation of the rows; with `groups`, one within each group.

    A free permutation destroys all dependence between codes and targets. A permutation within groups preserves the
    dependence on the group (singer, speaker) and destroys the rest.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        return rng.permutation(n_rows)
    if len(groups) != n_rows:
        raise EvaluationError(f"{n_rows} rows but {len(groups)} groups; give one group per row")
    codes, _ = number_groups(groups)
    order = np.arange(n_rows)
    # two sorts by group, the second with a random key within groups, have the same group at each position
    order[np.argsort(codes, kind="stable")] = np.lexsort((rng.random(n_rows), codes))
    return order


def permute_rows(
    codes: Float[np.ndarray, "rows latents"], *, seed: int, groups: Shaped[np.ndarray, " rows"] | None = None
) -> Float[np.ndarray, "rows latents"]:
    """Return the codes with their rows in random order; see `permuted_order`."""
    return codes[permuted_order(len(codes), seed=seed, groups=groups)]


def random_sparse_codes(
    codes: Float[np.ndarray, "rows latents"], *, seed: int, trades: float = 5.0
) -> Float[np.ndarray, "rows latents"]:
    """Return random codes with the same L0 in every row and the same values in every latent.

    Both margins of the firing pattern are preserved exactly: pairs of rows exchange latents that only one of them has
    (the curveball algorithm; Strona et al., Nature Communications 5:4114, 2014; five trades per row as there). Then
    the values of each latent are assigned at random to the rows on which it now fires. This removes dependence
    between latents, and between latents and targets.
    """
    rng = np.random.default_rng(seed)
    fires = codes != 0
    pairs = rng.integers(len(codes), size=(int(trades * len(codes)), 2))
    shuffled = _trade(fires.copy(), pairs, int(rng.integers(2**31)))
    result = np.zeros_like(codes)
    for latent in range(codes.shape[1]):
        values = codes[fires[:, latent], latent]
        result[shuffled[:, latent], latent] = rng.permutation(values)
    return result


@numba.njit(cache=True)
def _trade(
    fires: Bool[np.ndarray, "rows latents"], pairs: Int[np.ndarray, "trades 2"], seed: int
) -> Bool[np.ndarray, "rows latents"]:
    np.random.seed(seed)  # noqa: NPY002 - numba's own generator, private to compiled code
    n_latents = fires.shape[1]
    owned = np.empty(n_latents, dtype=np.int64)
    for t in range(len(pairs)):
        first, second = pairs[t, 0], pairs[t, 1]
        n_owned = 0
        n_first = 0
        for latent in range(n_latents):
            if fires[first, latent] != fires[second, latent]:
                owned[n_owned] = latent
                n_owned += 1
                n_first += fires[first, latent]
        # a partial Fisher-Yates shuffle: the first row gets as many of the exchanged latents as before
        for i in range(n_owned):
            if i < n_first:
                j = i + np.random.randint(n_owned - i)  # noqa: NPY002
                owned[i], owned[j] = owned[j], owned[i]
            fires[first, owned[i]] = i < n_first
            fires[second, owned[i]] = i >= n_first
    return fires


def random_dictionary(latents: int, width: int, *, seed: int) -> Float[np.ndarray, "latents width"]:
    """Return directions drawn uniformly from the unit sphere, one per latent, float32.

    >>> random_dictionary(3, 2, seed=0).shape
    (3, 2)
    """
    directions = np.random.default_rng(seed).standard_normal((latents, width))
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
