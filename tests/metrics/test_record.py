"""Tests of result records."""

import pytest

from otoscope.errors import EvaluationError
from otoscope.metrics.record import SCHEMA, Record, to_table


def about(sae_id: str, preset: str | None) -> Record:
    shared = {"metric": "mse", "value": 1.0, "split": "test", "layer": 3}
    return Record(**shared, representation="sae" if sae_id else "dense", sae_id=sae_id, preset=preset)


def test_to_table_has_every_column_in_order() -> None:
    assert dict(to_table([]).schema) == dict(to_table([about("", None)]).schema) == SCHEMA


def test_record_refuses_an_unknown_metric() -> None:
    with pytest.raises(EvaluationError, match=r"unknown metric 'msee'; did you mean mse"):
        Record(metric="msee", value=1.0, split="test", representation="dense", layer=0)
