"""The section of annotated labels: scores with controls, sounds, and statements that follow from p and groups."""

import numpy as np
import polars as pl
import pytest

from otoscope.artifacts import write_table
from otoscope.errors import DamagedArtifact
from otoscope.explain import Sound, write_sound
from otoscope.explain.annotated_labels import UNIT_COLUMNS
from otoscope.explain.annotation_tables import EXAMPLE_COLUMNS, UNSCORED_COLUMNS
from otoscope.report.figures.probes import all_figures
from otoscope.report.page import render
from otoscope.report.run_data import read_run
from otoscope.report.sections.annotated_labels import annotated_labels, label_statement
from tests.support.finished_run import make_run

NAME = 'say "s" <b>&'


def unit(label: str, kind: str, f1: float, p: float) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(UNIT_COLUMNS, 0.5)
    numbers = {"number": 3, "events_fit": 30, "events_test": 20, "groups": 4}
    return {**row, "tier": "phones", "label": label, "unit": kind, "f1": f1, "p_value": p, "place": "start", **numbers}


@pytest.fixture
def folder(tmp_path):
    run = make_run(tmp_path / "run", layers=(0, 1), sae_layers=(1,))
    rows = [unit(NAME, "latent", 0.8, 0.04), unit(NAME, "dense", 0.6, 0.04), unit(NAME, "cluster", 0.4, 0.04)]
    rows += [unit("z", "latent", 0.2, 0.4), unit("z", "dense", 0.3, 0.4), unit("z", "cluster", 0.1, 0.9)]
    write_table(run / "explain" / "annotated_labels.parquet", pl.DataFrame(rows, schema=UNIT_COLUMNS))
    write_sound(run / "explain" / "annotated000.flac", Sound(np.zeros(1600, np.float32), 16000))
    example = ("phones", NAME, 3, "clip", 0.1, 0.2, 1.0, "annotated000.flac")
    write_table(
        run / "explain" / "annotated_examples.parquet", pl.DataFrame([example], schema=EXAMPLE_COLUMNS, orient="row")
    )
    return run


def test_annotated_labels_are_listed_by_f1_with_controls_and_sounds(folder):
    shown = annotated_labels(read_run(folder))
    assert shown is not None
    assert [row.label for row in shown.rows] == [NAME, "z"]
    assert "With 20 repetitions, the least p is 1/21: all labels beyond" in shown.introduction
    assert shown.rows[0].f1 == "0.80 (0.50 to 0.50)"
    assert [len(row.sounds) for row in shown.rows] == [1, 0]
    assert [row.statement for row in shown.rows] == ["beyond chance", "not beyond chance"]


def test_annotated_labels_have_the_chance_of_each_kind_of_unit(folder):
    path = folder / "explain" / "annotated_labels.parquet"
    chance = pl.when(unit="latent").then(0.72).when(unit="dense").then(0.52).otherwise(1.0)
    write_table(path, pl.read_parquet(path).with_columns(f1_null_high=chance))
    shown = annotated_labels(read_run(folder))
    assert shown is not None
    first = shown.rows[0]
    assert (first.chance, first.unit, first.cluster) == ("0.72", "0.60, chance 0.52", "0.40, too few to test")
    assert "Beyond chance, of 2 labels: 1 by a latent, 1 by a single unit and 1 by a cluster." in shown.introduction


def test_f1_and_chance_that_round_alike_have_another_digit(folder):
    path = folder / "explain" / "annotated_labels.parquet"
    write_table(path, pl.read_parquet(path).with_columns(f1=0.5421, f1_null_high=0.5406))
    shown = annotated_labels(read_run(folder))
    assert shown is not None
    assert (shown.rows[0].f1, shown.rows[0].chance) == ("0.542 (0.50 to 0.50)", "0.541")
    assert shown.rows[0].unit == "0.542, chance 0.541"


def test_labels_not_beyond_chance_are_named_beyond_twelve_rows(folder):
    rows = [unit(f"n{i:02d}", kind, 0.9, 0.4) for i in range(13) for kind in ("latent", "dense", "cluster")]
    path = folder / "explain" / "annotated_labels.parquet"
    write_table(path, pl.concat([pl.read_parquet(path), pl.DataFrame(rows, schema=UNIT_COLUMNS)]))
    shown = annotated_labels(read_run(folder))
    assert shown is not None
    assert [row.label for row in shown.rows] == [NAME, *(f"n{i:02d}" for i in range(11))]
    assert shown.introduction.endswith("Not beyond chance, and in the file only: phones n11, phones n12, phones z.")


def test_labels_with_too_few_intervals_are_named(folder):
    rows = [("phones", "x", 4, 0), ("words", "Yes", 9, 2)]
    table = pl.DataFrame(rows, schema=UNSCORED_COLUMNS, orient="row")
    write_table(folder / "explain" / "annotated_unscored.parquet", table)
    shown = annotated_labels(read_run(folder))
    assert shown is not None
    assert shown.introduction.endswith(
        " Not scored, with fewer than 5 intervals in test groups or in the others: phones x, words Yes (2)."
    )
    write_table(folder / "explain" / "annotated_labels.parquet", pl.DataFrame(schema=UNIT_COLUMNS))
    none = annotated_labels(read_run(folder))
    assert none is not None
    assert none.introduction.endswith("in the others: phones x, words Yes (2).")


def test_annotated_labels_of_users_are_text_on_the_page(folder):
    run = read_run(folder)
    page = render(run, all_figures(run))
    assert "say &#34;s&#34; &lt;b&gt;&amp;" in page
    assert NAME not in page


def test_annotated_labels_outside_the_folder_are_refused(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    path = folder / "explain" / "annotated_examples.parquet"
    write_table(path, pl.read_parquet(path).with_columns(audio=pl.lit("../../secret.txt")))
    with pytest.raises(DamagedArtifact):
        annotated_labels(read_run(folder))


def test_annotated_labels_that_could_not_be_scored_are_one_sentence(folder):
    for name in ("annotated_labels", "annotated_examples"):
        path = folder / "explain" / f"{name}.parquet"
        write_table(path, pl.read_parquet(path).clear())
    run = read_run(folder)
    page = render(run, all_figures(run))
    assert "Annotated labels are not scored: no annotated label has 5 intervals in the test groups" in page
    assert 'aria-label="Annotated labels"' not in page


def test_runs_without_annotations_have_no_section(tmp_path):
    assert annotated_labels(read_run(make_run(tmp_path / "run"))) is None


@pytest.mark.parametrize(
    ("p", "groups", "null_high", "statement"),
    [
        (0.2, 9, 0.99, "not beyond chance"),
        (0.2, 9, 1.0, "too few to test"),
        (0.04, 2, 0.3, "beyond chance in 2 test groups, too few for a claim"),
        (0.04, 3, 0.3, "beyond chance"),
    ],
)
def test_label_statement_follows_from_p_groups_and_null(p, groups, null_high, statement):
    assert label_statement(p, groups, null_high) == statement
