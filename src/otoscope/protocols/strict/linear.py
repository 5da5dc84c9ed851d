"""A first reading of every factor by ridge regression: cheap enough for every layer, sparsity and seed.

Layer and sparsity are chosen by it, limits and emergence are drawn from it; the LASSO, whose weights
say how many dimensions carry a factor, is kept for what is compared in full.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from otoscope.linear.group_ridge import fit_group_ridge
from otoscope.protocols.strict.factors import Asked
from otoscope.resampling.groups import group_folds, group_sums, null_summary, number_groups, patterns, r2_of


class Linear(NamedTuple):
    """Per factor: squared error and deviation by test group, R2 on groups left out of the fits, null of the test R2."""

    squares: Float[np.ndarray, "groups factors 2"]
    held_r2: Float[np.ndarray, " factors"]
    null_mean: Float[np.ndarray, " factors"]
    null_high: Float[np.ndarray, " factors"]


def read_linearly(
    units: Float[np.ndarray, "clips p"], asked: Asked, *, folds: int, permutations: int, seed: int = 0
) -> Linear:
    """Read every factor from a representation; a group or factor without clips counts 0 squares."""
    fitted_rows, test_rows = asked.split != "test", asked.split == "test"
    _, n_groups = number_groups(asked.groups[test_rows])
    n_factors = len(asked.names)
    found = Linear(np.zeros((n_groups, n_factors, 2)), *np.full((3, n_factors), math.nan))
    for members, present in patterns(~np.isnan(asked.values)):
        fitted, test = np.flatnonzero(fitted_rows & present), np.flatnonzero(test_rows & present)
        if len(np.unique(asked.groups[fitted])) < 2 or not len(test):
            continue
        rng = np.random.default_rng(seed)
        orders = [np.arange(len(fitted)), *(rng.permutation(len(fitted)) for _ in range(permutations))]
        wanted = asked.values[np.ix_(fitted, members)]
        problems = np.concatenate([wanted[order].T for order in orders])[:, :, None]
        read = fit_group_ridge(units[fitted], units[test], problems, folds=group_folds(asked.groups[fitted], folds))
        truth, centre = asked.values[np.ix_(test, members)], wanted.mean(axis=0)
        guesses = read.others[:, :, 0].T.reshape(len(test), len(orders), len(members))
        errors = (truth[:, None] - guesses) ** 2
        away = np.broadcast_to(((truth - centre) ** 2)[:, None], errors.shape)
        sums = np.stack([errors, away], axis=-1)
        # every test group has its row, whether or not it has these factors
        padded = np.zeros((int(test_rows.sum()), *sums.shape[1:]))
        padded[np.searchsorted(np.flatnonzero(test_rows), test)] = sums
        found.squares[:, members] = group_sums(padded[:, 0], asked.groups[test_rows])
        mean, high = null_summary(r2_of(sums[:, 1:].sum(axis=0)))
        found.null_mean[members], found.null_high[members] = mean, high
        held = ((read.held[: len(members), :, 0].T - wanted) ** 2).sum(axis=0)
        spread = ((wanted - centre) ** 2).sum(axis=0)
        found.held_r2[members] = 1 - held / np.where(spread > 0, spread, math.nan)
    return found
