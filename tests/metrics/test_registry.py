"""Tests of the registry of metrics."""

from pathlib import Path

import pytest

from otoscope.errors import EvaluationError
from otoscope.metrics.registry import METRICS, SHARE, STRUCTURE, Metric, describe_rows, find_metric

METHODS = Path(__file__).parents[2] / "docs" / "methods.md"


def test_registry_is_documented_in_methods() -> None:
    page = METHODS.read_text(encoding="utf-8")
    assert not [name for name in METRICS if f"`{name}`" not in page]


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_metric_description_is_complete(metric: Metric) -> None:
    assert METRICS[metric.name] is metric
    assert metric.description
    assert not metric.description.endswith(".")
    assert metric.bounds[0] < metric.bounds[1]
    if metric.unit == "fraction":
        assert metric.higher_is_better is not None
        assert metric.bounds[1] == SHARE[1] or metric.name == "relative_size"
    if metric.axis or not metric.has_null:
        assert metric.name in STRUCTURE


def test_find_metric_refuses_an_unknown_name() -> None:
    with pytest.raises(EvaluationError, match=r"unknown metric 'msee'; did you mean mse\? Known: "):
        find_metric("msee")


@pytest.mark.parametrize(
    ("metric", "pooling", "text"),
    [
        ("probe_accuracy", "encode_then_pool", "60 clips of 3 groups"),
        ("explained_variance", "encode_then_pool", "60 frames of 3 groups"),
        ("explained_variance", "pool_then_encode", "60 clips of 3 groups"),
        ("explained_variance", "", "60 rows of 3 groups"),
    ],
)
def test_describe_rows_names_the_rows(metric: str, pooling: str, text: str) -> None:
    assert describe_rows({"n": 60, "groups": 3, "pooling": pooling, "metric": metric}) == text
