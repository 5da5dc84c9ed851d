"""What a stranger reads first: what was asked of whom, the words used, and what the columns of a table are."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.artifacts import write_table
from otoscope.corpus.health import SUSPECT_COLUMNS
from otoscope.report.evidence import Evidence
from otoscope.report.run_data import read_run
from otoscope.report.sections.opening import opening
from otoscope.report.tables import metric_notes
from tests.report.conftest import Made
from tests.support.finished_run import make_run


def test_a_table_of_results_says_what_its_metrics_are_and_any_other_says_nothing() -> None:
    said = metric_notes(pl.DataFrame({"metric": ["mig", "sap", "mig"], "n": [1, 1, 1]}))
    assert said.count("mig: ") == said.count("sap: ") == 1
    assert "n: number of clips" in said
    assert metric_notes(pl.DataFrame({"layer": [1]})) == ""


def test_the_words_of_the_page_are_explained_once(made: Made) -> None:
    assert made.text.count("<summary>Glossary</summary>") == 1
    assert all(f"<b>{term}</b>" in made.text for term in ("layer", "group", "R²", "null, chance", "points"))


def test_the_page_opens_with_what_was_asked_of_whom(made: Made) -> None:
    first = made.reading.section("summary")
    assert first.startswith("Findings with intervalsThis page shows, for openai/whisper-tiny.en, layers 0 to 4, on ")
    assert "how well its layers and their sparse codes predict the technique and 88 factors" in first
    assert "Scores are computed on 480 clips of 6 groups that were not used for any fit or choice" in first


@pytest.mark.parametrize(("groups", "warned"), [(2, False), (3, True), (5, True), (6, False)])
def test_few_groups_are_told_where_they_decide_at_all(tmp_path: Path, groups: int, warned: bool) -> None:
    run = read_run(make_run(tmp_path, gallery=False))
    answers = [("Codes keep the task", "undecided"), ("Pitch early, formants late", "holds")]
    lead = opening(run, Evidence(60, groups), answers)
    assert (f"Only {groups} groups" in lead.caveat) == warned
    assert lead.answer == "codes keep the task – undecided; pitch early, formants late – holds"
    assert "arXiv 2509.24793" in lead.study
    assert opening(run, Evidence(60, groups)).study == ""


def test_opening_cautions_about_properties_of_the_corpus(tmp_path: Path) -> None:
    folder = make_run(tmp_path, gallery=False)
    assert "Caution" not in opening(read_run(folder), None).question
    found = pl.DataFrame([(None, "cut", "30 of 40 clips")], schema=SUSPECT_COLUMNS, orient="row")
    write_table(folder / "suspects.parquet", found)
    said = "Caution: 30 of 40 clips with no fade at the end: the last 10 ms are as loud as the whole clip, within 6 dB."
    assert said in opening(read_run(folder), None).question
    assert said in opening(read_run(folder), None, [("Codes keep the task", "undecided")]).question


def test_a_run_without_dictionaries_or_labels_opens_all_the_same(tmp_path: Path) -> None:
    make_run(tmp_path / "dense", sae_layers=(), sizes={})
    assert "how well its layers predict the technique." in opening(read_run(tmp_path / "dense"), None).question
    make_run(tmp_path / "bare", labels=(), sizes={})
    assert "the numbers in the results." in opening(read_run(tmp_path / "bare"), None).question
