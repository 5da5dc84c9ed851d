import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.errors import EvaluationError
from otoscope.metrics.emergence import compare_order, emergence

LAYERS, GROUPS = 9, 8


def squares(profiles: list[np.ndarray], seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """Squares of one factor per profile of R2 over layers, with the same deviation in every layer."""
    rng = np.random.default_rng(seed)
    away = np.broadcast_to(rng.uniform(1, 2, (1, GROUPS, len(profiles))), (LAYERS, GROUPS, len(profiles)))
    r2 = np.stack(profiles, axis=1)[:, None] + noise * rng.normal(size=away.shape)
    return np.stack([away * np.maximum(1 - r2, 0), away], axis=-1)


def hump(at: float) -> np.ndarray:
    return 0.8 * np.exp(-((np.arange(LAYERS) - at) ** 2) / 4)


def test_emergence_profile_is_mean_over_factors_clipped_at_zero() -> None:
    found = emergence(squares([np.full(LAYERS, 0.6), np.full(LAYERS, -5.0)]), ["pitch", "pitch"])[0]
    np.testing.assert_allclose(found.r2, 0.3)
    assert found.factors == 2
    assert found.centre.value == pytest.approx(4)


def test_emergence_earliest_and_centre_of_a_peak() -> None:
    both = emergence(squares([hump(2)] * 4 + [hump(6)] * 4, noise=0.02), ["pitch"] * 4 + ["formants"] * 4)
    early, late = both
    assert (early.category, late.category) == ("pitch", "formants")
    assert early.earliest.value == 2
    assert late.earliest.value == 6
    assert early.centre.value == pytest.approx(2.2, abs=0.2)
    assert late.centre.value == pytest.approx(5.8, abs=0.2)
    for one in both:
        assert one.centre.low <= one.centre.value <= one.centre.high
        assert ((one.low <= one.r2) & (one.r2 <= one.high)).all()


def test_emergence_accepts_any_layer_numbers() -> None:
    numbers = [0, 1, 2, 3, 4, 6, 8, 10, 12]
    found = emergence(squares([hump(8)]), ["pitch"], layers=numbers)[0]
    assert found.earliest.value == 12


def test_compare_order_detects_true_order_only() -> None:
    kinds = ["pitch"] * 6 + ["formants"] * 6
    there = compare_order(squares([hump(2)] * 6 + [hump(6)] * 6, noise=0.05), kinds, first="pitch", then="formants")
    assert there.value > 3
    assert there.low > 2.5
    assert there.p < 0.01
    assert there.value > there.null_high
    back = compare_order(squares([hump(2)] * 6 + [hump(6)] * 6, noise=0.05), kinds, first="formants", then="pitch")
    assert back.value == pytest.approx(-there.value)
    mixed = [hump(2), hump(6)] * 6
    none = compare_order(squares(mixed, noise=0.05), kinds, first="pitch", then="formants")
    assert none.low < 0 < none.high
    assert none.p > 0.2


@settings(max_examples=20)
@given(st.integers(0, 2**31 - 1))
def test_emergence_ignores_order_and_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = squares([hump(rng.uniform(0, 8)) for _ in range(7)], seed=seed, noise=0.2)
    kinds = np.array(["pitch", "formants"])[np.arange(7) % 2]
    order, groups = rng.permutation(7), rng.permutation(GROUPS)
    changed = table[:, groups][:, :, order] * rng.uniform(0.1, 10, (1, 1, 7, 1))
    plain = {one.category: one for one in emergence(table, list(kinds))}
    again = {one.category: one for one in emergence(changed, list(kinds[order]))}
    for name, one in plain.items():
        np.testing.assert_allclose(again[name].r2, one.r2)
        assert again[name].centre.value == pytest.approx(one.centre.value)
        assert 0 <= one.centre.low <= one.centre.high <= LAYERS - 1
        assert (one.r2 >= 0).all()
        assert (one.r2 <= 1).all()


def test_compare_order_false_positive_rate_matches_level() -> None:
    small = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        table = squares([hump(rng.uniform(0, 8)) for _ in range(10)], seed=seed)
        lead = compare_order(table, ["a"] * 5 + ["b"] * 5, first="a", then="b", permutations=199)
        small += lead.p <= 0.1
    # of 60 tests at a level of .1, more than 10 are as small in 3.4 % of cases
    assert 1 <= small <= 10


def test_emergence_of_unpredicted_category_is_nan() -> None:
    found = emergence(squares([np.full(LAYERS, -0.1)]), ["pitch"])[0]
    assert np.isnan(found.centre.value)
    assert np.isnan(found.earliest.value)
    table = squares([hump(3), hump(3)])
    table[:, :, 1] = 0
    absent = emergence(table, ["pitch", "formants"])[1]
    assert absent.factors == 0
    assert np.isnan(absent.r2).all()
    assert np.isnan(compare_order(table, ["pitch", "formants"], first="pitch", then="formants").p)


def test_emergence_of_one_group_has_no_interval() -> None:
    found = emergence(squares([hump(3)])[:, :1], ["pitch"])[0]
    assert np.isnan([found.centre.low, found.earliest.high]).all()
    assert np.isnan(found.low).all()


def test_emergence_bad_input_is_refused() -> None:
    table = squares([hump(3)])
    with pytest.raises(EvaluationError, match="a category a factor"):
        emergence(table, ["a", "b"])
    with pytest.raises(EvaluationError, match="finite and 0 or more"):
        emergence(-table, ["a"])
    with pytest.raises(EvaluationError, match="layers must increase"):
        emergence(table, ["a"], layers=[3] * LAYERS)
    with pytest.raises(EvaluationError, match="no factor of category 'formant'; did you mean formants"):
        compare_order(squares([hump(1)] * 2), ["pitch", "formants"], first="pitch", then="formant")
