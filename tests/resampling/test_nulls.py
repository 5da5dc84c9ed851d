import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.resampling.nulls import (
    permute_rows,
    permuted_order,
    random_dictionary,
    random_sparse_codes,
)


def sparse(rows: int = 60, latents: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.gamma(2.0, size=(rows, latents)) * rng.gamma(1.0, size=latents)
    kept = codes >= np.partition(codes, -8, axis=1)[:, -8][:, None]
    return np.where(kept, codes, 0)


def test_random_codes_keep_the_l0_of_every_row_and_the_values_of_every_latent() -> None:
    codes = sparse()
    found = random_sparse_codes(codes, seed=1)
    np.testing.assert_array_equal((found != 0).sum(axis=1), (codes != 0).sum(axis=1))
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(codes, axis=0))


def test_random_codes_forget_which_rows_were_alike() -> None:
    kinds = np.repeat(np.arange(6), 20)
    codes = np.zeros((120, 60))
    for row, kind in enumerate(kinds):
        codes[row, 10 * kind : 10 * kind + 5] = 1 + np.random.default_rng(row).random(5)

    def likeness(c: np.ndarray) -> float:
        unit = c / np.linalg.norm(c, axis=1, keepdims=True)
        same = (kinds[:, None] == kinds) & ~np.eye(120, dtype=bool)
        return float((unit @ unit.T)[same].mean())

    assert likeness(codes) > 0.9
    assert likeness(random_sparse_codes(codes, seed=0)) < 0.3


def test_random_codes_are_seeded() -> None:
    codes = sparse()
    np.testing.assert_array_equal(random_sparse_codes(codes, seed=1), random_sparse_codes(codes, seed=1))
    assert (random_sparse_codes(codes, seed=1) != random_sparse_codes(codes, seed=2)).any()


def test_permuting_within_groups_keeps_every_row_in_its_group() -> None:
    groups = np.random.default_rng(0).integers(0, 5, 200)
    order = permuted_order(200, seed=0, groups=groups)
    assert sorted(order) == list(range(200))
    np.testing.assert_array_equal(groups[order], groups)
    assert (order != np.arange(200)).mean() > 0.9


def test_permuting_freely_moves_rows_and_keeps_them_whole() -> None:
    codes = sparse()
    found = permute_rows(codes, seed=3)
    assert sorted(map(tuple, found)) == sorted(map(tuple, codes))
    assert (found != codes).any()


def test_random_directions_have_length_one_and_no_preferred_direction() -> None:
    directions = random_dictionary(4000, 8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-5)
    # the mean of n unit vectors of width d has entries of standard deviation 1 / sqrt(n d) = 0.0056
    assert np.abs(directions.mean(axis=0)).max() < 0.025


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(EvaluationError, match="3 rows but 2 groups"):
        permuted_order(3, seed=0, groups=np.array([0, 1]))
