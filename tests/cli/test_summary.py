"""The table of dictionaries at the end of a run."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from otoscope.artifacts import write_table
from otoscope.cli.summary import clip_lines, probe_table, sparsity_tables, summary_tables
from otoscope.metrics.record import SCHEMA
from otoscope.metrics.results import ResultsTable
from otoscope.runs.cards import RunSummary
from otoscope.runs.training import GridMember
from tests.support.activations import write_corpus


def results(grid: list[GridMember]) -> pl.DataFrame:
    rows: list[dict[str, object]] = []
    for number, member in enumerate(grid):
        common: dict[str, object] = {
            **member.columns(), "representation": "sae", "layer": member.layer,
            "target": "singer", "low": 0.1, "high": 0.9, "null_mean": 0.2,
        }  # fmt: skip
        value = 0.5 + number / 100
        rows += [
            {**common, "metric": "probe_accuracy", "split": "test", "value": value},
            {**common, "metric": "probe_balanced_accuracy", "split": "valid", "value": value},
        ]
    return pl.DataFrame(rows, schema=SCHEMA)


def shown(grid: list[GridMember]) -> list[list[str]]:
    """Return the table's lines in words, its head first."""
    (table,) = sparsity_tables(ResultsTable(results(grid)))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines()[1:]]


def member(preset: str, latents: int, sparsity: float = 0.9) -> GridMember:
    return GridMember(3, "encode_then_pool", preset, latents, sparsity, 0)


def test_dictionaries_of_several_recipes_and_sizes_are_told_apart():
    grid = [member(preset, latents) for preset in ("frozen_decoder", "default") for latents in (128, 64)]
    head, *lines = shown(grid)
    assert head[:3] == ["preset", "latents", "sparsity"]
    assert [line[:2] for line in lines] == [
        ["default", "64"], ["default", "128"], ["frozen_decoder", "64"], ["frozen_decoder", "128"]
    ]  # fmt: skip
    assert [line[4] for line in lines] == ["53.0%", "52.0%", "51.0%", "50.0%"]


@pytest.mark.parametrize(
    ("grid", "first"),
    [
        ([member("default", 64), member("default", 64, 0.95)], "sparsity"),
        ([member("default", 64), member("default", 128)], "latents"),
        ([member("default", 64), member("mariotte2025", 64)], "preset"),
    ],
)
def test_what_all_have_in_common_has_no_column(grid: list[GridMember], first: str):
    assert shown(grid)[0][0] == first


def test_sparsity_tables_show_every_pooling_of_the_chosen_layer():
    grid = [GridMember(3, pooling, "default", 64, 0.9, 0) for pooling in ("pool_then_encode", "encode_then_pool")]
    tables = sparsity_tables(ResultsTable(results([*grid, replace(grid[0], layer=4, sparsity=0.5)])))
    assert [str(table.title) for table in tables] == ["Sparse codes of layer 4 (pool then encode), singer"]
    tables = sparsity_tables(ResultsTable(results(grid)))
    words = ["encode then pool", "pool then encode"]
    assert [str(table.title) for table in tables] == [f"Sparse codes of layer 3 ({text}), singer" for text in words]


@pytest.mark.parametrize(("clips", "groups", "warns"), [(3, 1, True), (60, 3, False)])
def test_numbers_on_too_little_are_printed_under_a_warning(tmp_path: Path, clips: int, groups: int, warns: bool):
    rows = results([member("default", 64)]).with_columns(
        pl.lit(clips, pl.Int64).alias("n"), pl.lit(groups, pl.Int64).alias("groups")
    )
    write_table(tmp_path / "results.parquet", rows.select(list(SCHEMA)))
    found = RunSummary(tmp_path, None, tmp_path / "results.parquet", 1.0, 1.0, 0, 12, {})
    said = summary_tables(found)
    assert ("warning: a test split of 3 clips of 1 group supports no claim" in said) is warns
    if warns:
        assert said.index("warning") < said.index("Sparse codes of layer")


def test_a_protocol_without_groups_nulls_or_baselines_leaves_cells_empty(tmp_path: Path) -> None:
    probe = {"metric": "probe_accuracy", "split": "test", "representation": "dense", "layer": 1, "target": "digit"}
    task = {**probe, "protocol": "strict", "metric": "task_balanced_accuracy", "value": 0.8, "n": 30}
    codes = {**task, "representation": "sae", "sae_id": "layer01-frames-default-m8-k2-seed0", "value": 0.7, "seed": 0}
    full = {**codes, "metric": "explained_variance", "target": "", "latents": 8, "k": 2, "sparsity": 0.75}
    rows = [{**probe, "value": 0.5, "null_mean": float("nan"), "low": float("nan"), "groups": 0, "n": 30}, task]
    rows += [{**codes, "latents": 8, "k": 2, "sparsity": 0.75}, full]
    write_table(tmp_path / "results.parquet", pl.DataFrame(rows, schema=SCHEMA))
    said = summary_tables(RunSummary(tmp_path, None, tmp_path / "results.parquet", 1.0, 1.0, 0, 30, {}))
    assert "nan" not in said.replace(str(tmp_path), "")
    assert "0 unseen group" not in said
    assert "0.800" in said
    assert "0.700" in said


def test_a_null_that_needs_more_clips_has_its_reason(tmp_path: Path) -> None:
    probe = {"metric": "probe_accuracy", "split": "test", "representation": "dense", "layer": 1, "target": "digit"}
    rows = [{**probe, "protocol": "held_out", "value": 0.5, "n": 30, "groups": 3, "null_high": 1.0}]
    table = probe_table(ResultsTable(pl.DataFrame(rows, schema=SCHEMA)))
    assert table is not None
    assert [list(column.cells) for column in table.columns if column.header == "permuted labels"] == [["too few"]]


def test_probe_table_lists_the_accuracies_of_few_groups() -> None:
    probe = {"metric": "probe_accuracy", "split": "test", "representation": "dense", "layer": 1, "target": "digit"}
    row = {
        **probe,
        "protocol": "held_out",
        "sae_id": "",
        "value": 29 / 30,
        "n": 30,
        "groups": 3,
        "low": 0.5,
        "high": 1.0,
    }
    truth = ["one", *["two"] * 29]
    of_probe = {"protocol": "held_out", "representation": "dense", "layer": 1, "sae_id": "", "label": "digit"}
    of_clip = {"group": [g for g in "abc" for _ in range(10)], "true_class": truth, "predicted_class": ["two"] * 30}
    predictions = pl.DataFrame({**{name: [value] * 30 for name, value in of_probe.items()}, **of_clip})
    results = ResultsTable(pl.DataFrame([row], schema=SCHEMA))
    table = probe_table(results, predictions)
    assert table is not None
    assert table.columns[-1].header == "% per group"
    assert list(table.columns[-1].cells) == ["90 100 100"]
    plain = probe_table(results)
    assert plain is not None
    assert plain.columns[-1].header == "permuted labels"


def test_tables_of_probes_name_the_dimensions_read() -> None:
    probe = {"metric": "probe_accuracy", "split": "test", "representation": "dense", "target": "digit", "value": 0.5}
    every = {**probe, "protocol": "held_out", "n": 30, "groups": 3, "layer": 1, "reader": "all dimensions"}
    few = {**every, "layer": 2, "reader": "8 dimensions or all dimensions"}
    one, both = (probe_table(ResultsTable(pl.DataFrame(rows, schema=SCHEMA))) for rows in ([every], [every, few]))
    assert one is not None
    assert both is not None
    assert str(one.title) == "Linear probes on dense layers, 3 unseen groups, all dimensions read"
    assert (both.columns[-1].header, list(both.columns[-1].cells)) == ("reads", ["all", "8–all"])
    grid = [member("default", 64), member("default", 64, 0.95)]
    read = pl.Series("reader", ["8 dimensions"] * 2 + ["all dimensions"] * 2)
    (table,) = sparsity_tables(ResultsTable(results(grid).with_columns(read)))
    assert "reads" in [column.header for column in table.columns]


def test_probe_table_fits_into_80_columns() -> None:
    probe = {"metric": "probe_accuracy", "split": "test", "representation": "dense", "value": 1.0, "n": 30}
    known = {**probe, "protocol": "held_out", "target": "technique", "groups": 3, "low": 0.5, "high": 1.0}
    known["reader"] = "64 dimensions or all dimensions"
    rows = [{**known, "layer": 1, "null_mean": 0.1}, {**known, "layer": 2, "null_high": 1.0}]
    table = probe_table(ResultsTable(pl.DataFrame(rows, schema=SCHEMA)))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    _, heading, first, second = capture.get().splitlines()
    assert heading.split() == ["label", "layer", "accuracy", "95", "%", "interval", "permuted", "labels", "reads"]
    assert first.split() == ["technique", "1", "100.0%", "50.0%", "to", "100.0%", "10.0%", "64–all"]
    assert second.split() == ["technique", "2", "100.0%", "50.0%", "to", "100.0%", "too", "few", "64–all"]


def test_probe_table_names_the_protocols_where_there_are_several() -> None:
    probe = {"metric": "probe_accuracy", "split": "test", "representation": "dense", "layer": 1, "target": "digit"}
    rows = [{**probe, "protocol": name, "value": 0.5, "n": 30, "groups": 3} for name in ("mariotte2025", "held_out")]
    table = probe_table(ResultsTable(pl.DataFrame(rows, schema=SCHEMA)))
    assert table is not None
    assert [column.header for column in table.columns][:3] == ["protocol", "label", "layer"]
    assert list(table.columns[0].cells) == ["held_out", "mariotte2025"]


def test_clip_lines_show_missing_values_as_missing(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [0.1] * 2)
    labels = pl.Series("label_species", ["unknown", None], dtype=pl.String())
    clips = corpus.clips.with_columns(labels, factor_age=pl.lit(None, dtype=pl.Float64()))
    first, second = clip_lines(replace(corpus, clips=clips), 2)
    assert "species: unknown, " in first
    assert second.endswith("species: (missing), age: (missing)")


@pytest.mark.parametrize("asked", [1, 2, 3, 5, 6, 7, 20])
def test_clip_lines_are_as_many_as_asked_or_all(tmp_path: Path, asked: int) -> None:
    corpus = write_corpus(tmp_path, [0.1] * 6)
    lines = clip_lines(corpus, asked)
    assert len(set(lines)) == min(asked, corpus.clips.height)
    assert lines[0].startswith(corpus.clips["clip_id"][0])


@pytest.mark.parametrize(
    ("evaluate", "reason"),
    [("{labels: []}", "evaluate.labels is empty"), ("{}", "no label of the corpus can be probed")],
)
def test_summary_tables_state_why_there_is_no_table(tmp_path: Path, evaluate: str, reason: str) -> None:
    (tmp_path / "config.yaml").write_text(f"name: mine\nevaluate: {evaluate}\n")
    row = {"metric": "explained_variance", "split": "test", "representation": "sae", "layer": 1, "value": 0.9}
    write_table(tmp_path / "results.parquet", pl.DataFrame([row], schema=SCHEMA))
    said = summary_tables(RunSummary(tmp_path, None, tmp_path / "results.parquet", 1.0, 1.0, 0, 30, {}))
    assert said == f"no table of accuracies: {reason}; other numbers are in the results and the report\n"
