"""Codes and factors that are independent but share effects of the group: how often a page would state a relation."""

from typing import NamedTuple

import numpy as np
import pytest

from otoscope.explain import LatentOutcome, choose_latents
from otoscope.linear.lasso import fit_factors
from otoscope.resampling.exchange import exchange

FACTORS, LATENTS, CLIPS = 12, 30, 16


class Statements(NamedTuple):
    """Shares of data sets with any false statement, and of factors and latents with one."""

    predicted: float
    factors: float
    confirmed: float
    latents: float


def simulate(data_sets: int, *, singers: int, effect: float, first: int = 0) -> Statements:
    """Return the shares for `singers` test singers among three times as many, whose effects deviate by `effect`."""
    predicted, confirmed = np.zeros((2, data_sets, FACTORS))
    for number in range(data_sets):
        rng = np.random.default_rng(first + number)
        singer = np.repeat(np.arange(3 * singers), CLIPS)
        split = np.where(singer < singers, "test", np.where(singer < 2 * singers, "valid", "train"))
        shared = effect * rng.normal(size=(3 * singers, 4))
        codes, factors = (
            (shared @ rng.normal(size=(4, n)) / 2)[singer] + rng.normal(size=(len(singer), n))
            for n in (LATENTS, FACTORS)
        )
        codes = np.maximum(codes, 0)
        fits = fit_factors(codes, factors, groups=singer, split=split, seed=number, workers=1)
        predicted[number] = (fits.r2 > 0.05) & (fits.r2 > fits.null_high)
        test = split == "test"
        choices = choose_latents(
            codes,
            factors,
            [str(j) for j in range(FACTORS)],
            scores=[0.5] * FACTORS,
            train_mask=~test,
            test_mask=test,
            groups=[str(s) for s in singer],
            top=FACTORS,
            seed=number,
        )
        for choice in choices:
            confirmed[number, int(choice.factor)] = choice.outcome is LatentOutcome.CONFIRMED
    return Statements(*(float(x) for each in (predicted, confirmed) for x in (each.any(axis=1).mean(), each.mean())))


def test_few_data_sets_without_relation_have_a_false_statement() -> None:
    found = simulate(20, singers=4, effect=1.5)
    assert found.predicted <= 0.15
    assert found.confirmed <= 0.15


@pytest.mark.slow
@pytest.mark.parametrize(("singers", "effect"), [(4, 1.5), (10, 1.5), (4, 0.0)])
def test_at_most_five_percent_of_data_sets_without_relation_have_a_false_statement(singers: int, effect: float) -> None:
    found = simulate(150, singers=singers, effect=effect)
    # 150 data sets: standard error 1.8 % at 5 %
    assert found.predicted <= 0.09
    assert found.confirmed <= 0.09


@pytest.mark.parametrize(("singers", "stated"), [(6, False), (8, True)])
def test_few_groups_leave_no_statement_on_a_label_of_the_group(singers: int, *, stated: bool) -> None:
    rng = np.random.default_rng(0)
    singer = np.repeat(np.arange(3 * singers), 10)
    split = np.where(singer < singers, "test", np.where(singer < 2 * singers, "valid", "train"))
    sex = (singer % 2).astype(float)
    codes = np.stack([sex + 0.01 * rng.random(len(sex)), rng.random(len(sex))], axis=1)
    fits = fit_factors(codes, sex[:, None], groups=singer, split=split, workers=1)
    assert fits.r2[0] > 0.9
    assert (fits.r2[0] > fits.null_high[0]) == stated
    assert exchange(sex[split == "test"], singer[split == "test"]).testable == stated
    assert np.isnan(fits.p_value[0]) != stated
    assert not fits.p_value[0] > 0.05
