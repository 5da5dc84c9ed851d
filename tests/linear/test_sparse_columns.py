import numpy as np
import pytest

from otoscope.linear.gram import Gramian
from otoscope.linear.sparse_descent import SparseColumns, compute_residual, make_sparse_columns
from tests.linear.test_gram import rows_with


def dense(columns: SparseColumns, n: int) -> np.ndarray:
    """Return the centred columns over the root of n."""
    x = np.zeros((n, len(columns.mean)))
    for j in range(len(columns.mean)):
        held = slice(columns.starts[j], columns.starts[j + 1])
        x[columns.rows[held], j] = columns.values[held]
    return x - columns.mean / np.sqrt(n)


@pytest.fixture
def any_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep sparse columns however long they are: their numbers do not hang on what is faster."""
    monkeypatch.setattr("otoscope.linear.gram.MAX_NONZERO_RATIO", np.inf)


@pytest.mark.usefixtures("any_shape")
@pytest.mark.parametrize("left_out", [0, 40, 150])
def test_columns_of_a_subset_have_its_gram_matrix(left_out: int) -> None:
    rows = rows_with(0.1)
    rows[:2] = 1 + np.arange(60).reshape(2, 30) % 7
    inside = np.arange(200) >= left_out
    held = Gramian(rows)
    moments = held.moments(inside)
    columns = held.columns(moments)
    assert columns is not None
    x = dense(columns, int(inside.sum()))
    # The Gram matrix is a difference of sums over all rows, whose columns have variance 1: each sum may be off by
    # rows^2 * eps, and dividing by n and by the deviations within the subset (most near 1, some 1e-3) magnifies that.
    magnified = np.finfo(float).eps * len(rows) ** 2 / inside.sum() / np.outer(moments.scale, moments.scale)
    assert (np.abs(x.T @ x - moments.gram) <= magnified).all()
    assert np.median(magnified) < 1e-12
    silent = moments.gram.diagonal() == 0
    assert len(columns.values) == np.count_nonzero(rows[inside][:, ~silent])


@pytest.mark.usefixtures("any_shape")
def test_values_that_are_tiny_beside_their_column_stay() -> None:
    rows = rows_with(0.1)
    rows[:2] = 1 + np.arange(60).reshape(2, 30) % 7
    rows[2:30, 0] = 1e-14 * rows[:, 0].max()
    held = Gramian(rows)
    columns = held.columns(held.moments(np.ones(200, dtype=bool)))
    assert columns is not None
    assert columns.starts[1] - columns.starts[0] == np.count_nonzero(rows[:, 0])
    assert len(columns.values) == np.count_nonzero(rows)


def test_what_weights_leave_is_what_dense_arithmetic_leaves() -> None:
    rng = np.random.default_rng(4)
    scaled = rng.gamma(2, size=(50, 8)) * (rng.random((50, 8)) < 0.2)
    silent = np.arange(8) == 3
    columns = make_sparse_columns(scaled, scaled.mean(axis=0), silent)
    y = rng.normal(size=(50, 5))
    y -= y.mean(axis=0)
    weights = rng.normal(size=(8, 5)) * ~silent[:, None]
    rest, shift = compute_residual(columns, y / np.sqrt(50), weights)
    left = y - (scaled - scaled.mean(axis=0)) @ weights
    np.testing.assert_allclose(rest * np.sqrt(50) + shift, left, atol=1e-12)
    np.testing.assert_allclose((rest**2).sum(axis=0) - shift**2, (left**2).mean(axis=0), atol=1e-12)


def test_rows_that_are_mostly_not_zero_or_far_from_it_have_no_sparse_columns() -> None:
    rng = np.random.default_rng(5)
    full, far = Gramian(rng.normal(size=(60, 4))), rng.gamma(2, size=(60, 4)) * (rng.random((60, 4)) < 0.2)
    assert full.columns(full.moments(np.ones(60, dtype=bool))) is None
    far[:, 0] = 1e6 + rng.random(60)
    held = Gramian(far)
    assert held.columns(held.moments(np.ones(60, dtype=bool))) is None


@pytest.mark.parametrize(("width", "kept"), [(16, False), (160, True)])
def test_long_columns_of_which_there_are_few_are_not_kept(width: int, kept: bool) -> None:
    rng = np.random.default_rng(6)
    rows = rng.gamma(2, size=(200, width)) * (rng.random((200, width)) < 0.1)
    held = Gramian(rows)
    assert (held.columns(held.moments(np.ones(200, dtype=bool))) is not None) == kept
