"""Properties of every metric in the results: invariance to order, scale and dead latents; bounds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.metrics.registry import METRICS
from tests.support.all_metrics import CORRECTED, Key, every_metric, made_up, study_figures

SEEDS = st.integers(0, 2**31 - 1)

OF_ALL_LATENTS = {"dead_fraction", "always_on_fraction"}
"""Shares of all latents including dead ones: appending dead latents must change them."""

LIMITS_HERE = {
    "l0": (0.0, 12.0),
    "relative_size": (0.0, 1.0),
    "effective_latents": (1.0, 12.0),
    "effective_rank": (1.0, 6.0),
    "centre_layer": (0.0, 2.0),
    "earliest_layer": (0.0, 2.0),
    "layer_lead": (-2.0, 2.0),
    "layer_lead_of_blocks": (-2.0, 2.0),
}
"""Bounds for 12 latents, 6 factors and 3 layers, if tighter than those of the registry."""

ROUNDING = 1e-9

UNDEFINED = {name for name, metric in METRICS.items() if metric.undefined_without_factors}
HELD_OUT = {"completeness", "effective_latents", "disentanglement"}
"""Metrics of structure in the held-out protocol."""


@pytest.fixture(scope="module")
def plain() -> dict[Key, float]:
    return every_metric(*made_up(0))


def metric_of(key: Key) -> str:
    return key[1]


def test_every_metric_covers_the_registry(plain: dict[Key, float]) -> None:
    assert {metric_of(key) for key in plain} == set(METRICS)


@pytest.mark.parametrize("metric", METRICS)
def test_metric_of_informative_codes_is_within_bounds(plain: dict[Key, float], metric: str) -> None:
    values = np.array([value for key, value in plain.items() if metric_of(key) == metric])
    low, high = LIMITS_HERE.get(metric, METRICS[metric].bounds)
    assert not np.isnan(values).all()
    known = values[~np.isnan(values)]
    assert known.min() >= low - ROUNDING
    assert known.max() <= high + ROUNDING


@settings(max_examples=2)
@given(SEEDS)
def test_every_metric_ignores_order_scale_and_dead_latents(seed: int) -> None:
    encoded, clips = made_up(seed)
    rng = np.random.default_rng(seed)
    order, unit = rng.permutation(12), 10.0 ** rng.uniform(-2, 2, 12)
    plain = every_metric(encoded, clips)
    agree(plain, every_metric(encoded.changed(order, unit, dead=0), clips))
    longer = every_metric(encoded.changed(np.arange(12), np.ones(12), dead=5), clips)
    agree(without_shares(plain), without_shares(longer))
    shares = [(plain[key], longer[key]) for key in plain if metric_of(key) == "dead_fraction"]
    assert shares == [(0.0, pytest.approx(5 / 17))]


def test_every_metric_of_random_codes_is_nan_if_undefined() -> None:
    encoded, clips = made_up(1)
    rng = np.random.default_rng(4)

    def noise(codes: np.ndarray) -> np.ndarray:
        return np.maximum(rng.normal(size=codes.shape), 0)

    deaf = replace(encoded, layers=tuple(map(noise, encoded.layers)), again=noise(encoded.again))
    found = every_metric(deaf, clips)
    assert HELD_OUT < UNDEFINED
    for protocol, metrics in {"held_out": HELD_OUT, "strict": UNDEFINED}.items():
        values = {key: value for key, value in found.items() if key[0] == protocol and metric_of(key) in metrics}
        assert {metric_of(key) for key in values} == metrics
        assert np.isnan(list(values.values())).all(), values
    # without a common factor there is no mean and no sparsity limit
    assert not {"mean_factor_r2", "sparsity_limit", "sparsity_knee"} & {metric_of(key) for key in found}


@pytest.mark.parametrize(
    ("theirs", "put_right", "moved"),
    [
        ({"completeness_normaliser": "all"}, {"completeness_normaliser": "live"}, {"completeness", "top_completeness"}),
        ({"disentanglement_average": "mean"}, {"disentanglement_average": "sum"}, {"disentanglement"}),
    ],
)
def test_study_figures_depend_on_dead_latents_unless_corrected(
    theirs: dict[str, str], put_right: dict[str, str], moved: set[str]
) -> None:
    encoded, clips = made_up(2)
    longer = encoded.changed(np.arange(12), np.ones(12), dead=12)

    def changed(switches: dict[str, str]) -> set[str]:
        judged = Mariotte2025Settings.model_validate({**CORRECTED.model_dump(), **switches})
        one, other = (study_figures(given, clips, judged) for given in (encoded, longer))
        differs = {key for key in one if not math.isclose(one[key], other[key], rel_tol=1e-3, abs_tol=1e-4)}
        return {metric_of(key) for key in differs}

    # the correlation with entropy is invariant to the scale and offset of completeness
    assert changed(theirs) == moved
    assert not changed(put_right)


def without_shares(found: dict[Key, float]) -> dict[Key, float]:
    return {key: value for key, value in found.items() if metric_of(key) not in OF_ALL_LATENTS}


def agree(one: dict[Key, float], other: dict[Key, float]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_allclose(other[key], value, rtol=1e-3, atol=2e-4, err_msg=" ".join(key))
