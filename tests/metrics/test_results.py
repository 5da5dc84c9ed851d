"""Tests of results tables."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import otoscope
from otoscope.artifacts import write_table
from otoscope.errors import ArtifactError, EvaluationError
from otoscope.metrics.record import Record, to_table
from otoscope.metrics.results import ResultsTable, load_results


def record(value: float, **about: Any) -> Record:
    shared = {"metric": "task_r2", "split": "test", "representation": "sae", "layer": 1, "protocol": "strict"}
    return Record(**{**shared, **about}, value=value)


TABLE = ResultsTable(
    to_table(
        [
            record(0.1, layer=1, sparsity=0.9, seed=0),
            record(0.2, layer=2, sparsity=0.95, seed=1),
            record(0.3, layer=2, representation="dense"),
            record(float("nan"), layer=3, representation="dense", target="<f0>"),
        ]
    )
)


@pytest.mark.parametrize(
    ("conditions", "values"),
    [
        ({}, [0.1, 0.2, 0.3]),
        ({"layer": 2}, [0.2, 0.3]),
        ({"layer": [1, 2], "representation": "sae"}, [0.1, 0.2]),
        ({"seed": None}, [0.3]),
        ({"seed": (None, 0)}, [0.1, 0.3]),
        ({"sparsity": 0.9 + 1e-12}, [0.1]),
        ({"sparsity": (0.9, 0.95)}, [0.1, 0.2]),
        ({"layer": []}, []),
        ({"target": "vowel"}, []),
    ],
)
def test_where_selects_rows_that_meet_all_conditions(conditions: dict[str, Any], values: list[float]):
    assert TABLE.where(**conditions).measured.values() == values


def test_where_rejects_an_unknown_column():
    with pytest.raises(EvaluationError, match="no column 'layers'; did you mean layer"):
        TABLE.where(**{"layers": 3})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_where_rejects_unknown_metrics_and_representations_with_the_nearest() -> None:
    with pytest.raises(EvaluationError, match="no metric 'task_r3'; did you mean task_r2"):
        TABLE.where(metric="task_r3")
    with pytest.raises(EvaluationError, match="no representation 'saes'; did you mean sae"):
        TABLE.where(representation=("dense", "saes"))
    with pytest.raises(EvaluationError, match="no metric 'mean_factor'; did you mean mean_factor_r2"):
        ResultsTable(TABLE.rows.clear()).where(metric="mean_factor")
    assert not TABLE.where(metric="mig", representation="pca")
    own = ResultsTable(TABLE.rows.with_columns(metric=pl.lit("mine")))
    assert len(own.where(metric="mine")) == 4


def test_results_table_returns_rows_values_and_entries():
    assert (len(TABLE), len(TABLE.measured), bool(TABLE.where(layer=9))) == (4, 3, False)
    assert TABLE.unique("layer") == [1, 2, 3]
    assert TABLE.unique("seed") == [0, 1]
    assert TABLE.where(layer=9).first() is None
    assert [row["value"] for row in TABLE.measured] == [0.1, 0.2, 0.3]


def test_results_table_repr_shows_content_and_selection():
    text = repr(TABLE)
    assert text.startswith("ResultsTable: 4 rows")
    assert "layer: 1, 2, 3" in text
    assert ".where(metric=..., layer=...)" in text
    html = TABLE._repr_html_()
    assert "4 results" in html
    assert "<f0>" not in html


def test_load_results_accepts_folder_file_or_summary(tmp_path: Path):
    write_table(tmp_path / "results.parquet", TABLE.rows)

    class Summary:
        results = tmp_path / "results.parquet"

    for run in (tmp_path, str(tmp_path), tmp_path / "results.parquet", Summary()):
        assert otoscope.load_results(run).where(layer=1).values() == [0.1]
    with pytest.raises(ArtifactError, match="run `otoscope evaluate"):
        load_results(tmp_path / "absent")


def test_repr_of_few_rows_shows_their_numbers() -> None:
    text = repr(TABLE.where(representation="sae"))
    assert "0.95" in text
    assert "0.2 " in text
    assert "│" not in repr(ResultsTable(to_table([record(0.1, layer=layer) for layer in range(20)])))
