"""What a card of the gallery says of a latent, and which latents have one."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.artifacts import read_json, read_table, write_json, write_table
from otoscope.report import read_run, write_report
from otoscope.report.sections.gallery import gallery
from tests.report.conftest import Made
from tests.support.finished_run import make_run
from tests.support.page_reader import Reading, read_page


def remade(folder: Path, **parts: object) -> Reading:
    """Write a run's page once more, after its top clips were changed."""
    rows = read_table(folder / "explain" / "top_clips.parquet")
    write_table(folder / "explain" / "top_clips.parquet", rows.with_columns(**parts))  # type: ignore[arg-type]
    return read_page(write_report(folder, figures=False).read_text(encoding="utf-8"))


def small(folder: Path) -> Path:
    return make_run(folder, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})


def test_the_gallery_names_its_dictionary_and_says_that_the_charts_show_it(made: Made) -> None:
    said = made.reading.section("gallery").replace("\u00a0", " ")
    assert "of the dictionary layer3-topk-204 (layer 3, 90 % sparsity, shown in the charts)" in said
    assert "Strength is the latent's mean code over the clip's frames" in said


def test_a_dictionary_that_no_chart_shows_is_said_to_be_one(tmp_path: Path) -> None:
    made = small(tmp_path)
    card = read_json(made / "explain" / "card.json")
    write_json(made / "explain" / "card.json", {**card, "sae_id": "layer3-other-204"})
    said = remade(made).section("gallery").replace("\u00a0", " ")
    assert "layer3-other-204 (layer 3, 90 % sparsity, not shown in the charts)" in said


@pytest.mark.parametrize(("group_r", "said"), [([0.05, 0.92], "0.05 and 0.92"), ([0.4, None], "0.40 and undefined")])
def test_gallery_lists_the_correlations_of_few_test_groups(
    tmp_path: Path, group_r: list[float | None], said: str
) -> None:
    made = small(tmp_path)
    page = remade(made, group_r=pl.lit(group_r), test_groups=pl.lit(2, pl.Int64)).section("gallery")
    assert f"by group {said}, chance |r|" in page
    assert "by group" not in remade(made, group_r=pl.lit([0.5] * 6), test_groups=pl.lit(6, pl.Int64)).section("gallery")


def test_gallery_sets_no_score_of_all_codes_beside_the_correlation_of_a_latent(made: Made) -> None:
    """The score is of other clips, groups and values."""
    assert "from all codes" not in made.reading.section("gallery")


def test_gallery_warns_where_differences_between_groups_turn_the_sign(tmp_path: Path) -> None:
    made = small(tmp_path)
    numbers = {"within": pl.lit(True), "test_r": pl.lit(0.202), "null_high": pl.lit(0.198), "overall_r": pl.lit(-0.3)}
    said = remade(made, **numbers).section("gallery").replace("\u00a0", " ")
    assert "0.202, chance |r| up to 0.198" in said
    assert "of the opposite sign over all clips, because groups differ (−0.30)" in said
    assert "opposite sign" not in remade(made, **{**numbers, "overall_r": pl.lit(0.3)}).section("gallery")


@pytest.mark.parametrize(
    ("overall_r", "said"),
    [
        (-0.05, "near 0 over all clips, because groups differ (−0.05)"),
        (0.15, "at most half as large over all clips, because groups differ (0.15)"),
        (0.3, ""),
    ],
)
def test_latents_to_hear_say_where_differences_between_groups_hide_the_correlation(
    tmp_path: Path, overall_r: float, said: str
) -> None:
    made = small(tmp_path)
    numbers = {"within": pl.lit(True), "test_r": pl.lit(0.34), "overall_r": pl.lit(overall_r)}
    page = remade(made, **numbers)
    for section in ("listen", "gallery"):
        shown = page.section(section)
        assert said in shown if said else "because groups differ" not in shown


def test_a_latent_not_beyond_chance_is_folded_without_clips(tmp_path: Path) -> None:
    made = small(tmp_path)
    chosen = pl.when(pl.col("latent") == 137).then(pl.lit("not beyond chance")).otherwise(pl.col("outcome"))
    page = remade(made, outcome=chosen)
    assert "1 latent not confirmed on test groups" in page.section("gallery")
    assert len(page.all("audio")) == len(page.all("img")) == 12 + 3  # three latents at the top
    assert page.mistakes == []


def test_a_clips_value_stands_against_those_of_all_clips(tmp_path: Path) -> None:
    made = small(tmp_path)
    factor = read_table(made / "explain" / "top_clips.parquet")["factor"][0]
    values = np.array([1.0, 2.0, 3.0, 90.0, np.nan])
    clips = read_table(made / "corpus.parquet").sort("group")[: len(values)]
    assert clips["group"].n_unique() == 1
    write_table(made / "factors.parquet", pl.DataFrame({"clip_id": clips["clip_id"], factor: values}))
    said = remade(made, factor_value=pl.lit(2.5), within=pl.lit(False)).section("gallery").replace("\u00a0", " ")
    assert "over all clips the factor ranges from 1 to 90, median 2.5" in said
    assert f"{factor} = 2.5, higher than in 50 % of all clips" in said
    within = {"group": pl.lit(clips["group"][0]), "within": pl.lit(True), "train_r": pl.lit(-0.6)}
    said = remade(made, factor_value=pl.lit(3.5), **within).section("gallery").replace("\u00a0", " ")
    assert f"{factor} = 3.5, higher than in 75 % of the group's clips, an exception" in said
    assert "pitch, more of it where the value is low" in said


def test_gallery_titles_a_latent_with_the_class_of_training_clips_and_lists_those_of_test_clips(tmp_path: Path) -> None:
    made = small(tmp_path)
    classes = {"label": pl.lit("emotion"), "factor": pl.lit("fearful"), "other_classes": pl.lit(["angry"])}
    numbers = {"test_r": pl.lit(0.34), "null_high": pl.lit(0.32), "next_class": pl.lit("sad")}
    said = remade(made, **classes, **numbers, next_r=pl.lit(0.3)).section("gallery")
    assert "emotion: fearful latent" in said.replace("\u200b", "")
    assert "Clips of this class contain more of it than others" in said
    assert "chance |r| up to 0.32, also above chance on test clips: angry, next class sad 0.30" in said
    both = {"other_test_r": pl.lit([0.33]), "other_train_r": pl.lit([0.1])}
    said = remade(made, **classes, **numbers, **both, next_r=pl.lit(0.3)).section("gallery")
    assert "also above chance on test clips: angry (test 0.33, training 0.10), next class sad 0.30" in said
    assert "next class" not in remade(made, **classes, **numbers, next_r=pl.lit(-0.1)).section("gallery")


def test_a_latent_of_a_factor_that_follows_classes_only_says_so_and_is_not_shown_first(tmp_path: Path) -> None:
    made = small(tmp_path)
    clips = read_table(made / "corpus.parquet")
    results = read_table(made / "results.parquet")
    name = results.filter(metric="probe_accuracy")["target"][0]
    values = pl.Series(["fry", "straight"] * clips.height)[: clips.height]
    write_table(made / "corpus.parquet", clips.with_columns(values.alias(f"label_{name}"), values.alias("label_twin")))
    twin = results.filter(metric="probe_accuracy").with_columns(target=pl.lit("twin"))
    write_table(made / "results.parquet", pl.concat([results, twin]))
    own = "fry"
    parts = {"within_classes": pl.lit("between classes only"), "of_class": pl.lit(f"{name} {own}")}
    numbers = {"class_labels": pl.lit([name]), "class_r": pl.lit(0.05), "class_null_high": pl.lit(0.28)}
    page = remade(made, **parts, **numbers)
    said = page.section("gallery").replace("\u00a0", " ")
    assert f": between {name} classes only" in said
    assert f"Between the classes of {name} only (most in {name} {own}): within them the correlation is 0.05" in said
    assert f"The clips of {name} {own} are the same" in said
    assert "The clips of twin" not in said
    assert len(page.all("audio")) == 15  # none of the latents is shown at the top
    holds = remade(made, within_classes=pl.lit("holds"))
    assert "Within the classes of" in holds.section("gallery")
    assert len(holds.all("audio")) == 18


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"sizes": {}, "labels": ()}, "this run has no factors and no labels"),
        ({"gallery": False}, "no top-activating clips were written"),
    ],
)
def test_gallery_states_the_reason_for_its_absence(parts: dict[str, object], reason: str, tmp_path: Path) -> None:
    make_run(tmp_path, **parts)  # type: ignore[arg-type]
    assert reason in gallery(read_run(tmp_path)).missing


def test_gallery_and_tables_name_factors_in_words_with_the_original_as_tooltip(tmp_path: Path) -> None:
    made = small(tmp_path)
    shown = read_table(made / "explain" / "top_clips.parquet")["factor"][0]
    original = "F0semitoneFrom27.5Hz_sma3nz_percentile50.0"
    renamed = pl.col("target").replace({shown: original})
    write_table(made / "results.parquet", read_table(made / "results.parquet").with_columns(target=renamed))
    page = remade(made, factor=pl.col("factor").replace({shown: original}))
    named = page.all("span", title=original)
    assert {tag.text for tag in named} == {"pitch (median, semitones)"}
    assert [tag.attributes.get("class") for tag in named].count("factor") == 1
    assert len(named) >= 3  # the card, and the tables of R² and of effective dimensions
    assert original in page.csv("factor-r2")["factor"].to_list()
    assert page.mistakes == []


def test_a_latent_of_a_class_is_named_by_its_label_and_shows_the_labels_of_its_clips(tmp_path: Path) -> None:
    made = small(tmp_path)
    corpus = read_table(made / "corpus.parquet").with_columns(label_technique=pl.lit("trill"))
    write_table(made / "corpus.parquet", corpus)
    of_class = {"label": pl.lit("technique"), "factor": pl.lit("belt"), "clip_id": pl.lit(corpus["clip_id"][0])}
    page = remade(made, factor_value=pl.lit(None, dtype=pl.Float64), **of_class)
    said = page.section("gallery")
    assert "technique: belt" in said
    assert "Clips of this class contain more of it than others" in said
    assert "Clips of this class" in page.section("listen")
    assert "technique trill; group" in page.all("figcaption")[-1].text
    assert "belt =" not in said


def test_cards_show_the_correlation_beside_chance_and_fold_further_numbers(tmp_path: Path) -> None:
    made = small(tmp_path)
    page = remade(made)
    text = write_report(made, figures=False).read_text(encoding="utf-8")
    first = text.split('<article class="latent">')[-1]
    above, folded = first.split("<details", 1)
    assert "Clips with a higher value contain more of it (correlation within groups" in above
    assert "chance |r| up to 0.20)." in above
    assert "training correlation 0.82" not in above
    assert "raining correlation 0.82" in folded.split("</details>")[0]
    matched = remade(made, seeds_found=pl.lit(4, pl.Int64), seeds_asked=pl.lit(4, pl.Int64)).section("gallery")
    assert "found again in 4 of 4 other seeds, a condition for every latent shown" in matched
    assert matched.count("This alone is no sign of learning: without any training, dictionaries share latents") == 1
    assert "no sign of learning" not in page.section("gallery")
    untested = remade(
        made, test_r=pl.lit(float("nan")), outcome=pl.lit("too few clips"), test_clips=pl.lit(3, pl.Int64)
    )
    assert "contain more of it.More numbers" in untested.section("gallery")
    assert page.mistakes == untested.mistakes == []
