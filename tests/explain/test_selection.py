"""Which latent stands for a factor."""

import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.explain import choose_latents
from otoscope.explain.selection import correlations

CLIPS, LATENTS = 300, 50
GROUPS = [f"singer{i % 10}" for i in range(CLIPS)]
TEST = np.array([i % 10 >= 7 for i in range(CLIPS)])


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sparse codes in which latent 7 follows factor 0, latent 9 follows minus factor 1, nothing follows factor 2."""
    rng = np.random.default_rng(seed)
    codes = np.maximum(rng.normal(size=(CLIPS, LATENTS)) - 0.5, 0)
    factors = rng.normal(size=(CLIPS, 3))
    codes[:, 7] = np.maximum(factors[:, 0] + 0.3 * rng.normal(size=CLIPS), 0)
    codes[:, 9] = np.maximum(-factors[:, 1] + 0.3 * rng.normal(size=CLIPS), 0)
    return codes, factors


def choose(codes: np.ndarray, factors: np.ndarray, scores: list[float], **more: object) -> list:
    names = [f"factor{i}" for i in range(factors.shape[1])]
    settings = {"train_mask": ~TEST, "test_mask": TEST, "groups": GROUPS, **more}
    return choose_latents(codes, factors, names, scores=scores, **settings)  # type: ignore[arg-type]


def test_planted_latents_are_found_with_their_sign() -> None:
    codes, factors = planted()
    first, second = choose(codes, factors, [0.9, 0.8, 0.0])
    assert (first.factor, first.latent) == ("factor0", 7)
    assert (second.factor, second.latent) == ("factor1", 9)
    assert first.test_r > 0.7 > first.null_high
    assert second.test_r < -0.7
    assert (first.test_clips, first.test_groups) == (90, 3)


def test_the_reported_correlation_is_pearsons_over_the_test_clips_alone() -> None:
    codes, factors = planted()
    (choice,) = choose(codes, factors, [0.9, np.nan, np.nan])
    expected = np.corrcoef(codes[TEST, 7], factors[TEST, 0])[0, 1]
    assert choice.test_r == pytest.approx(expected)
    spoiled = factors.copy()
    spoiled[TEST] = np.random.default_rng(1).normal(size=spoiled[TEST].shape)
    (same,) = choose(codes, spoiled, [0.9, np.nan, np.nan])
    assert same.latent == choice.latent
    assert same.train_r == choice.train_r
    assert abs(same.test_r) < 0.3


def test_a_factor_that_nothing_follows_stays_within_its_null() -> None:
    inside = 0
    for seed in range(20):
        codes, factors = planted(seed)
        (choice,) = choose(codes, factors, [np.nan, np.nan, 0.5], permutations=100)
        inside += abs(choice.test_r) <= choice.null_high
    assert inside >= 16


def test_a_latent_is_listed_once_with_all_its_factors() -> None:
    codes, factors = planted()
    doubled = np.column_stack([factors, 2 * factors[:, 0] + 1])
    choices = choose(codes, doubled, [0.9, 0.8, 0.0, 0.7])
    assert [(c.latent, c.also) for c in choices] == [(7, ("factor3",)), (9, ())]
    assert [c.latent for c in choose(codes, doubled, [0.9, 0.8, 0.0, 0.7], top=1)] == [7]


def test_unknown_values_dead_latents_and_unpredicted_factors_are_passed_over() -> None:
    codes, factors = planted()
    codes[:, 3] = 0.0
    codes[:, 4] = 1.0
    factors[::5, 0] = np.nan
    factors[:, 1] = np.nan
    choices = choose(codes, factors, [0.9, 0.9, 0.05])
    assert [(c.factor, c.latent) for c in choices] == [("factor0", 7)]
    assert choices[0].test_clips == int((TEST & np.isfinite(factors[:, 0])).sum())


def test_the_choice_is_the_same_each_time() -> None:
    codes, factors = planted()
    assert choose(codes, factors, [0.9, 0.8, 0.7]) == choose(codes, factors, [0.9, 0.8, 0.7])


def test_correlations_agree_with_numpy() -> None:
    codes, factors = planted()
    expected = np.corrcoef(codes.T, factors.T)[:LATENTS, LATENTS:]
    np.testing.assert_allclose(correlations(codes, factors), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_mask": np.ones(CLIPS, bool)}, "share clips"),
        ({"groups": ["a"]}, "groups has 1 rows"),
        ({"train_mask": np.zeros(3, bool)}, "train_mask has 3 rows"),
    ],
)
def test_clips_that_do_not_match_are_refused(change: dict[str, object], message: str) -> None:
    codes, factors = planted()
    with pytest.raises(EvaluationError, match=message):
        choose(codes, factors, [0.9, 0.8, 0.7], **change)


def test_scores_must_match_factors() -> None:
    codes, factors = planted()
    with pytest.raises(EvaluationError, match="2 scores for 3 factors"):
        choose(codes, factors, [0.9, 0.8])
