"""Sentences on splices."""

import math
from pathlib import Path

import polars as pl
import pytest

from otoscope.artifacts import read_table, write_table
from otoscope.explain.splice_scores import SCORES
from otoscope.report import read_run, write_report
from otoscope.report.figures.latents import splice
from otoscope.report.sections.splice import splice_sentences
from tests.support.finished_run import make_run
from tests.support.page_reader import read_page


def row(substitute: str, quantity: str, recovered: float, **changed: object) -> dict[str, object]:
    values = {"target": "vowel", "value": 0.8, "untouched": 0.9, "ablated": 0.2, "low": 0.7, "high": 0.95}
    own = {"substitute": substitute, "quantity": quantity, "recovered": recovered, "clips": 20, "groups": 3}
    return {**values, "sae_id": "shown", "k": 20, **own, **changed}


def test_page_says_what_is_recovered_and_where_the_share_is_undefined(tmp_path: Path) -> None:
    make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    assert splice_sentences(read_run(tmp_path)) == []
    rows = [
        row("sae", "cosine", 0.9, target=""),
        row("random_atoms", "cosine", 0.25, target="", low=math.nan, high=math.nan),
        row("sae", "probe_accuracy", math.nan, low=math.nan, high=math.nan),
        row(
            "sae",
            "probe_accuracy",
            math.nan,
            target="emotion",
            untouched=0.15,
            ablated=0.3,
            low=math.nan,
            high=math.nan,
        ),
        row("sae", "probe_accuracy", 1.0, target="word", value=0.9, low=0.84, high=1.0),
    ]
    write_table(tmp_path / "explain" / "splice.parquet", pl.DataFrame(rows, schema=SCORES))
    page = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    said = page.section("splice").replace("\u00a0", " ")
    assert "In 20 clips of 3 test groups, layer 3 was replaced" in said
    assert "Recovered of the cosine between frames" in said
    assert "(untouched 0.90, mean-ablated 0.20): reconstruction 90 % (cosine 0.80, " in said
    assert "95 % interval 70 % to 95 %); random atoms, encoder untrained 25 % (cosine 0.80, no interval)." in said
    assert (
        "mean-ablated 0.20, one clip is 5.0 points): reconstruction 100 % (accuracy 0.90, 18 of 20 clips, 95 %" in said
    )
    assert "(not the baseline with random atoms, whose encoder is trained)" in said
    assert "The accuracy of a probe for vowel on the last layer" in said
    assert "is 0.90 untouched and 0.20 mean-ablated, but the interval of this difference over 3 test groups" in said
    assert "includes 0. No share is defined: reconstruction 0.80." in said
    assert "is 0.15 untouched and 0.30 mean-ablated: on these clips, the mean frame does no harm" in said
    assert page.mistakes == []


@pytest.mark.parametrize(("ablated", "below"), [(0.2, True), (0.4, False)])
def test_a_zero_point_below_guessing_is_stated(tmp_path: Path, ablated: float, below: bool) -> None:
    make_run(tmp_path, labels=("technique",), layers=(3,), sae_layers=(3,))
    clips = read_table(tmp_path / "corpus.parquet")
    three = pl.Series("label_technique", ["belt", "trill", "vibrato"] * clips.height).head(clips.height)
    write_table(tmp_path / "corpus.parquet", clips.with_columns(three))
    rows = [
        row("sae", "cosine", 0.9, target=""),
        row("sae", "probe_accuracy", 0.8, target="technique", ablated=ablated),
    ]
    write_table(tmp_path / "explain" / "splice.parquet", pl.DataFrame(rows, schema=SCORES))
    _, cosine, probe = splice_sentences(read_run(tmp_path))
    caution = " The mean-ablated accuracy is below guessing among 3 classes (0.33): part of each share is guessing."
    assert probe.endswith(caution) == below
    assert "guessing" not in cosine


def test_an_interval_over_two_groups_is_not_printed(tmp_path: Path) -> None:
    make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    rows = pl.DataFrame([row("sae", "cosine", 0.9, target="", groups=2, low=-4.0, high=6.0)], schema=SCORES)
    write_table(tmp_path / "explain" / "splice.parquet", rows)
    _, shown = (said.replace("\u00a0", " ") for said in splice_sentences(read_run(tmp_path)))
    assert "reconstruction 90 % (cosine 0.80, too few groups for an interval)." in shown
    figure = splice(rows)
    assert figure is not None
    assert "-4" not in str(figure.panels[0].chart.to_dict()["layer"])
    assert figure.table.select("low", "high").row(0) == (None, None)
    assert all(layer["encoding"]["xOffset"]["field"] == "series" for layer in figure.panels[0].chart.to_dict()["layer"])


def test_principal_components_that_are_the_layer_itself_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    rows = [
        row(substitute, quantity, 1.0, value=value, k=512)
        for quantity in ("cosine", "probe_accuracy")
        for substitute, value in (("sae", 0.98), ("principal_components", 1 - 3e-13), ("random_atoms", 0.7))
    ]
    for shown in (False, True):
        table = pl.DataFrame(rows, schema=SCORES).with_columns(value=pl.col("value") - (0.01 if shown else 0.0))
        write_table(tmp_path / "explain" / "splice.parquet", table)
        said = " ".join(splice_sentences(read_run(tmp_path)))
        figure = splice(table)
        assert figure is not None
        assert ("k principal components" in figure.legend) == shown
        assert said.count("k principal components 100") == (2 if shown else 0)
        assert ("by as many principal components as it has active latents" in said) == shown
        assert ("As many principal components as active latents would be the layer itself." in said) != shown


def test_page_says_what_other_sparsities_recover(tmp_path: Path) -> None:
    make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    rows = [
        row("sae", "word_error_rate", 0.4, target="words"),
        row("sae_with_error", "word_error_rate", 1.0, target="words"),
        row("sae", "word_error_rate", 0.8, target="words", sae_id="denser", k=80),
        row("random_atoms", "word_error_rate", 0.1, target="words", sae_id="denser", k=80),
    ]
    write_table(tmp_path / "explain" / "splice.parquet", pl.DataFrame(rows, schema=SCORES))
    _, shown, others = (said.replace("\u00a0", " ") for said in splice_sentences(read_run(tmp_path)))
    assert "reconstruction 40 % (word error rate 0.80, 95 % interval 70 % to 95 %)." in shown  # and nothing else
    assert others == (
        "Recovered of the word error rate of transcripts by the dictionaries of this layer: 40 % at k = 20 and 80 % at "
        "k = 80."
    )
