"""Correlations of a latent, and decisions of test groups."""

import numpy as np
import pytest

from otoscope.explain import LatentChoice, LatentOutcome
from otoscope.explain.latent_choice import correlations


@pytest.mark.parametrize(
    ("numbers", "outcome"),
    [
        ({"test_r": 0.5, "null_high": 0.2}, LatentOutcome.CONFIRMED),
        ({"train_r": -0.6, "test_r": -0.5, "null_high": 0.2}, LatentOutcome.CONFIRMED),
        ({"test_r": 0.5, "null_high": np.nan}, LatentOutcome.CONFIRMED),
        # 0.09 where shuffled factors reach 0.43
        ({"test_r": 0.09, "null_high": 0.43}, LatentOutcome.CHANCE),
        ({"test_r": -0.09, "null_high": 0.43}, LatentOutcome.CHANCE),
        ({"test_r": 0.43, "null_high": 0.43}, LatentOutcome.CHANCE),
        ({"test_r": np.nan, "null_high": 0.43}, LatentOutcome.CHANCE),
        ({"test_r": -0.5, "null_high": 0.2}, LatentOutcome.OPPOSITE),
        ({"test_r": 0.1, "null_high": 0.25, "overall_r": 0.65, "test_r_high": 0.25}, LatentOutcome.BETWEEN_GROUPS),
        # an interval up to a correlation of 0.5 does not exclude a relation within groups
        ({"test_r": 0.1, "null_high": 0.25, "overall_r": 0.65, "test_r_high": 0.5}, LatentOutcome.CHANCE),
        ({"test_r": 0.1, "null_high": 0.25, "overall_r": 0.65, "within": False}, LatentOutcome.CHANCE),
        ({"test_r": 0.5, "null_high": 1.0}, LatentOutcome.NOT_TESTABLE),
        ({"test_r": np.nan, "test_clips": 3, "test_groups": 1}, LatentOutcome.TOO_FEW_CLIPS),
        ({"test_r": 0.5, "null_high": 0.2, "test_groups": 2}, LatentOutcome.TOO_FEW_GROUPS),
        # of three groups, one makes up the correlation
        ({"test_r": 0.5, "null_high": 0.2, "group_r": (0.9, 0.05, 0.3)}, LatentOutcome.TOO_FEW_GROUPS),
        ({"test_r": 0.5, "null_high": 0.2, "group_r": (0.9, np.nan, 0.3)}, LatentOutcome.TOO_FEW_GROUPS),
        # of many groups, three agree by chance
        ({"test_r": 0.3, "null_high": 0.2, "group_r": (0.9, 0.2, 0.3, *[0.0] * 9)}, LatentOutcome.TOO_FEW_GROUPS),
        ({"test_r": 0.3, "null_high": 0.2, "group_r": (0.9, 0.2, 0.3, 0.0, 0.0, 0.0)}, LatentOutcome.TOO_FEW_GROUPS),
        ({"test_r": 0.3, "null_high": 0.2, "group_r": (0.9, 0.2, 0.3, 0.0, 0.0, np.nan)}, LatentOutcome.CONFIRMED),
        ({"test_r": 0.5, "null_high": 0.2, "group_r": (0.9, 0.11, 0.3)}, LatentOutcome.CONFIRMED),
        ({"test_r": 0.08, "null_high": 0.05, "group_r": (0.08, 0.08, 0.09)}, LatentOutcome.CONFIRMED),
    ],
)
def test_outcome_of_a_latent_needs_size_sign_clips_and_groups(
    numbers: dict[str, float], outcome: LatentOutcome
) -> None:
    shared = {"train_r": 0.6, "null_high": np.nan, "overall_r": 0.0, "within": True, "test_clips": 24}
    choice = LatentChoice(
        factor="F0", score=0.9, latent=1, p_value=0.01, firing=0.5, **{**shared, "test_groups": 3, **numbers}
    )
    assert choice.outcome is outcome
    assert choice.outcome.refutes == (outcome.value in ("not beyond chance", "opposite sign", "between groups only"))


def test_correlations_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    codes, factors = np.maximum(rng.normal(size=(300, 50)) - 0.5, 0), rng.normal(size=(300, 3))
    expected = np.corrcoef(codes.T, factors.T)[:50, 50:]
    np.testing.assert_allclose(correlations(codes, factors), expected, atol=1e-12)
