import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from otoscope.errors import EvaluationError
from otoscope.metrics.mutual_information import bin_columns, measure_halves, measure_information


def test_bin_columns_puts_zeros_in_one_bin_and_cuts_the_rest() -> None:
    column = np.concatenate([np.zeros(60), np.arange(1, 91)])[:, None]
    sizes = np.bincount(bin_columns(column, bins=10)[:, 0])
    np.testing.assert_array_equal(sizes, [60, *[10] * 9])


def test_bin_columns_gives_rarely_active_latent_few_bins() -> None:
    column = np.concatenate([np.zeros(90), np.arange(1, 11)])[:, None]
    np.testing.assert_array_equal(np.bincount(bin_columns(column)[:, 0]), [90, 5, 5])
    column[93:] = 0
    np.testing.assert_array_equal(np.bincount(bin_columns(column)[:, 0]), [97, 3])


def test_bin_columns_gives_frequent_value_its_own_bin() -> None:
    column = np.concatenate([np.linspace(-1, 0.4, 40), np.full(40, 0.5), np.linspace(0.6, 1, 20)])[:, None]
    bins = bin_columns(column, bins=5, smallest=1)[:, 0]
    assert set(bins[40:80]) == {0}
    assert 0 not in set(bins[:40]) | set(bins[80:])


def test_bin_columns_keeps_ties_together_and_missing_unbinned() -> None:
    column = np.array([1.0, 1, 2, 2, 3, 3, np.nan])[:, None]
    bins = bin_columns(column, bins=4, smallest=1)[:, 0]
    assert bins[6] == -1
    for i in (0, 2, 4):
        assert bins[i] == bins[i + 1]
    assert set(bin_columns(np.full((9, 1), 4.0))[:, 0]) == {0}
    np.testing.assert_array_equal(bin_columns(np.full((3, 1), np.nan))[:, 0], [-1] * 3)


@given(st.integers(0, 2**31 - 1), st.floats(1e-3, 1e3), st.integers(2, 12))
def test_bin_columns_ignores_scale(seed: int, scale: float, bins: int) -> None:
    rng = np.random.default_rng(seed)
    column = np.maximum(rng.normal(size=(80, 2)), rng.choice([-9, 0, 0.5]))
    found = bin_columns(column, bins=bins)
    np.testing.assert_array_equal(found, bin_columns(scale * column, bins=bins))
    for values, where in zip(column.T, found.T, strict=True):
        assert where.max() < bins
        assert set(where) == set(range(where.max() + 1))
        rest = np.argsort(values)[where[np.argsort(values)] > 0]
        assert (np.diff(where[rest]) >= 0).all()


def test_information_and_expectation_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    codes = np.stack([np.maximum(rng.normal(size=300) - t, 0) for t in (-9, 0, 1, 2)], axis=1)
    factors = codes[:, :3] + rng.normal(size=(300, 3))
    factors[::7, 1] = np.nan
    found = measure_information(codes, factors)
    a, b = bin_columns(codes), bin_columns(factors)
    for i in range(4):
        for j in range(3):
            known = b[:, j] >= 0
            one, other = a[known, i], b[known, j]
            assert found.nats[i, j] == pytest.approx(mutual_info_score(one, other), abs=1e-12)
            expected = expected_mutual_information(contingency_matrix(one, other), int(known.sum()))
            assert found.expected[i, j] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(found.entropy, [mutual_info_score(x[x >= 0], x[x >= 0]) for x in b.T])


def test_information_expectation_is_mean_over_shuffled_rows() -> None:
    rng = np.random.default_rng(1)
    code, factor = np.maximum(rng.normal(size=(120, 1)), 0), rng.normal(size=(120, 1))
    shuffled = [measure_information(code[rng.permutation(120)], factor).nats[0, 0] for _ in range(400)]
    expected = measure_information(code, factor).expected[0, 0]
    assert np.mean(shuffled) == pytest.approx(expected, abs=float(np.std(shuffled)) / 5)


def test_information_of_copy_is_one_and_of_noise_about_zero() -> None:
    rng = np.random.default_rng(2)
    factors = rng.normal(size=(500, 3))
    found = measure_information(np.concatenate([np.exp(factors), rng.normal(size=(500, 40))], axis=1), factors)
    np.testing.assert_allclose(found.share[:3].diagonal(), 1.0)
    noise = np.concatenate([found.share[3:].ravel(), found.share[:3][~np.eye(3, dtype=bool)]])
    assert np.abs(noise).max() < 0.03
    # corrected for chance: as often below as above
    assert abs(noise.mean()) < 0.002


def test_information_of_constant_or_missing_factor_is_nan() -> None:
    codes = np.random.default_rng(0).normal(size=(50, 2))
    factors = np.stack([np.full(50, 3.0), np.full(50, np.nan), codes[:, 0]], axis=1)
    found = measure_information(codes, factors)
    np.testing.assert_array_equal(np.isnan(found.entropy), [True, True, False])
    np.testing.assert_allclose(found.share[0], [0, 0, 1])


def test_information_bad_input_is_refused() -> None:
    codes = np.zeros((4, 2))
    with pytest.raises(EvaluationError, match="of equal rows"):
        measure_information(codes, np.zeros((3, 1)))
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        measure_information(np.full((4, 2), np.nan), codes)
    with pytest.raises(EvaluationError, match="bins must be 2 or more"):
        bin_columns(codes, bins=1)
    with pytest.raises(EvaluationError, match="hold infinity"):
        bin_columns(np.full((2, 1), np.inf))
    with pytest.raises(EvaluationError, match="one boolean a factor"):
        measure_halves(codes, codes).only(np.array([True]))
