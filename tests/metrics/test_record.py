"""The table of results."""

import polars as pl
import pytest

from otoscope.errors import EvaluationError
from otoscope.metrics.record import SCHEMA, Record, completed, to_table

NAMES = {
    "layer03-frames-default-m2048-k102-seed0": "default",
    "layer12-pooled-my-own.v2-m64-k6-seed11": "my-own.v2",
    "untrained-layer03-frames-default-m64-k6-seed0": "default",
    "k102": None,
    "": None,
}


def about(sae_id: str, preset: str | None) -> Record:
    shared = {"metric": "mse", "value": 1.0, "split": "test", "layer": 3}
    return Record(**shared, representation="sae" if sae_id else "dense", sae_id=sae_id, preset=preset)


def test_a_table_has_every_column_in_order() -> None:
    assert dict(to_table([]).schema) == dict(to_table([about("", None)]).schema) == SCHEMA


def test_record_refuses_an_unknown_metric() -> None:
    with pytest.raises(EvaluationError, match=r"unknown metric 'msee'; did you mean mse"):
        Record(metric="msee", value=1.0, split="test", representation="dense", layer=0)


def test_a_table_without_recipes_gets_them_from_the_names_of_the_dictionaries() -> None:
    whole = to_table([about(name, preset) for name, preset in NAMES.items()])
    assert completed(whole.drop("preset")).equals(whole)
    assert completed(whole).equals(whole)


def test_what_is_no_table_of_results_stays_as_it_is() -> None:
    assert completed(pl.DataFrame({"a": [1]})).columns == ["a"]
