import numpy as np
import pytest

from otoscope.linear.gram import Gramian


def direct(rows: np.ndarray) -> np.ndarray:
    scale = rows.std(axis=0)
    standard = (rows - rows.mean(axis=0)) / np.where(scale > 0, scale, 1)
    return standard.T @ standard / len(rows)


def rows_with(fire: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return ((rng.random((200, 30)) < fire) * rng.gamma(2, size=(200, 30)) * 10.0 ** rng.integers(-3, 4, 30)).astype(
        "f4"
    )


@pytest.mark.parametrize("fire", [0.04, 0.5, 1.0])
@pytest.mark.parametrize("left_out", [0, 3, 40, 150])
def test_the_moments_of_a_subset_are_those_of_its_rows(fire: float, left_out: int) -> None:
    rows = rows_with(fire)
    rows[:2] = 1 + np.arange(60).reshape(2, 30) % 7  # every column varies over all rows
    inside = np.arange(200) >= left_out
    held = Gramian(rows)
    found = held.moments(inside)
    chosen = rows[inside].astype(np.float64)
    np.testing.assert_allclose(found.gram, direct(chosen), atol=1e-11)
    y = np.random.default_rng(1).normal(size=(inside.sum(), 2))
    y -= y.mean(axis=0)
    live = chosen.std(axis=0) > 0
    standard = (chosen - chosen.mean(axis=0)) / np.where(live, chosen.std(axis=0), 1)
    np.testing.assert_allclose(held.cross(found, y), y.T @ standard / len(y), atol=1e-12)
    np.testing.assert_allclose(
        ((held.apply(rows[:5]) - found.mean) / found.scale)[:, live],
        ((rows[:5] - chosen.mean(axis=0)) / np.where(live, chosen.std(axis=0), 1))[:, live],
        rtol=1e-9,
        atol=1e-9,
    )


def test_a_feature_that_lives_on_the_rows_left_out_keeps_its_digits() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(100, 4))
    rows[:10, 0] *= 1e7
    inside = np.arange(100) >= 10
    np.testing.assert_allclose(Gramian(rows).moments(inside).gram, direct(rows[inside]), atol=1e-9)


def test_what_is_constant_or_a_copy_within_the_subset_is_silent() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(50, 4))
    rows[10:, 1] = 2.0
    rows[10:, 3] = -3 * rows[10:, 0] + 1
    gram = Gramian(rows).moments(np.arange(50) >= 10).gram
    np.testing.assert_array_equal(gram.diagonal() > 0, [True, False, True, False])
    assert not gram[:, [1, 3]].any()
