"""A run on few voices is cross-fitted without being asked, and says so wherever it shows numbers."""

import polars as pl
import pytest

from otoscope.cli.summary import summary_tables
from otoscope.config import load_config
from otoscope.corpus.table import Corpus
from otoscope.pipeline.run import run
from otoscope.runs.up_to_date import RunSummary
from tests.support.small_runs import FOLDER, VOICES, Tiny, write_config, write_voices

NOTE = "Cross-fitted over 5 folds: each of the 5 groups is tested once"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> RunSummary:
    root = tmp_path_factory.mktemp("cross")
    write_voices(root / "voices")
    train = {"latents": 64, "sparsities": [0.75], "layers": [1]}
    config = write_config(root / "c.yaml", tiny("wav2vec2"), FOLDER, train=train, splits={"cross": None})
    return run(load_config(config), root / "out")


def test_run_on_few_voices_tests_every_voice_once(summary: RunSummary) -> None:
    clips = Corpus.load(summary.run / "corpus.parquet").clips
    assert clips.group_by("group").agg(pl.col("fold").n_unique())["fold"].to_list() == [1] * len(VOICES)
    results = pl.read_parquet(summary.run / "results.parquet").filter(pl.col("split") == "test")
    probes = results.filter(pl.col("metric").str.starts_with("probe_"))
    assert set(probes["groups"]) == {len(VOICES)}
    assert set(probes["n"]) == {clips.height}
    # dictionaries keep one split
    rebuilt = results.filter(pl.col("metric") == "explained_variance")
    assert set(rebuilt["groups"]) == {clips.filter(pl.col("split") == "test")["group"].n_unique()}


def test_run_on_few_voices_says_which_numbers_are_cross_fitted(summary: RunSummary) -> None:
    assert any(NOTE in line for line in summary.notes["corpus"])
    assert NOTE in summary_tables(summary)
    assert summary.report is not None
    page = summary.report.read_text(encoding="utf-8")
    assert page.count(NOTE) >= 2
    assert "The dictionaries were trained once, without labels" in page
    assert "1.50 times as wide as those of one split" in page
