"""What is said where the test split carries no claim, and of factors that were never measured."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.artifacts import read_table, write_table
from otoscope.metrics.results import load_results
from otoscope.report import write_report
from otoscope.report.evidence import (
    Evidence,
    coinciding_classes,
    containing_classes,
    evidence_of_clips,
    evidence_of_results,
    thin_classes,
    warning,
)
from tests.report.conftest import Made
from tests.support.finished_run import make_run
from tests.support.page_reader import Reading, read_page


def page_of(folder: Path, *changed: pl.Expr) -> Reading:
    """Make a run, change its results, and read its page."""
    made = make_run(folder, layers=(2, 3), sae_layers=(3,), sizes={"pitch": 5, "rhythm": 3})
    rows = read_table(made / "results.parquet")
    write_table(made / "results.parquet", rows.with_columns(*changed))
    return read_page(write_report(made, figures=False).read_text(encoding="utf-8"))


def resting_on(clips: int, groups: int) -> list[pl.Expr]:
    none = pl.lit(float("nan"))
    ends = [none.alias("low"), none.alias("high")] if groups < 2 else []
    return [pl.lit(clips).alias("n"), pl.lit(groups).alias("groups"), *ends]


@pytest.mark.parametrize(
    ("evidence", "thin"),
    [
        (Evidence(3, 1), True),
        (Evidence(1000, 2), True),
        (Evidence(19, 5), True),
        (Evidence(20, 3), False),
        (Evidence(60, 3), False),
    ],
)
def test_evidence_is_thin_below_three_groups_or_twenty_clips(evidence: Evidence, thin: bool) -> None:
    said = warning(evidence)
    assert evidence.thin is thin
    assert (said is not None) is thin
    if said:
        assert evidence.description in said
        assert "at least 3 groups and about 20 clips" in said
        assert "\n" not in said


def test_what_makes_evidence_thin_is_said() -> None:
    assert "with a single group no number has an interval" in (warning(Evidence(90, 1)) or "")
    assert "an interval over 2 groups is too wide to decide anything" in (warning(Evidence(90, 2)) or "")
    assert "one clip more or less moves an accuracy by 20 points" in (warning(Evidence(5, 4)) or "")


def test_the_warning_fits_the_split_and_the_numbers_that_are_used() -> None:
    one_split = warning(Evidence(12, 4)) or ""
    assert "a test split of 12 clips of 4 groups" in one_split
    assert "splits.test_groups), or test every group once (splits.cross=5)" in one_split
    crossed = warning(Evidence(12, 4, folds=4)) or ""
    assert "a cross-fit over 4 folds of 12 clips of 4 groups" in crossed
    assert "splits." not in crossed
    assert "an accuracy" in crossed
    unlabelled = warning(Evidence(12, 4, labels=False)) or ""
    assert "accuracy" not in unlabelled
    assert "an R² on 12 clips is too uncertain" in unlabelled


def test_coinciding_classes_are_the_same_clips_of_two_labels() -> None:
    clips = pl.DataFrame({"label_a": ["x", "x", "y", None], "label_b": ["u", "u", "v", "v"], "label_c": ["w"] * 4})
    assert coinciding_classes(clips, ["a", "b", "c"]) == [
        "a x and b u are the same 2 clips: what is found of one may be due to the other"
    ]
    assert coinciding_classes(clips, ["a", "c"]) == []
    twins = pl.DataFrame({"label_a": list("xxyzz"), "label_b": list("uuvww"), "label_c": list("ppqqq")})
    assert coinciding_classes(twins, ["a", "b", "c"]) == [
        "a and b divide the clips into the same 3 classes: what is found of one may be due to the other",
        "a x and c p are the same 2 clips: what is found of one may be due to the other",
    ]


def test_containing_classes_are_those_of_few_other_clips() -> None:
    emotion = ["neutral"] * 2 + ["sad"] * 4 + ["happy"] * 4
    strength = ["normal"] * 2 + ["normal", "strong"] * 4
    clips = pl.DataFrame({"label_emotion": emotion, "label_strength": strength})
    phrase = "all of strength normal, as are 50\u00a0% of the others"
    assert containing_classes(clips, ["emotion", "strength"]) == {"emotion neutral": [phrase]}
    assert coinciding_classes(clips, ["emotion", "strength"]) == [
        f"the clips of emotion neutral are {phrase}: what is found of one may be due to the other"
    ]
    most = ["normal"] * 2 + [*["normal"] * 4, "strong"] * 2
    mostly = pl.DataFrame({"label_emotion": ["neutral"] * 2 + ["sad"] * 5 + ["happy"] * 5, "label_strength": most})
    assert containing_classes(mostly, ["emotion", "strength"]) == {}
    digits = pl.DataFrame({"label_digit": list("0123") * 3, "label_even": ["yes", "no"] * 6})
    assert containing_classes(digits, ["digit", "even"]) == {}


def test_thin_classes_are_named_unless_a_cross_fit_tests_every_group() -> None:
    parts = ["train"] * 4 + ["valid"] * 2 + ["test"] * 4
    clips = pl.DataFrame({"split": parts, "group": list("abcdefghij"), "label_sex": list("ffmmffffmf")})
    assert thin_classes(clips, "sex", noun="singer") == (
        "1 class of sex with at most one singer in train or test, or none in valid "
        "(singers in train/valid/test: m 2/0/1): scores of such a class may not hold for other singers"
    )
    assert thin_classes(clips, "sex", unscored=["m"]) == ""
    assert thin_classes(clips.with_columns(fold=pl.lit(0)), "sex") == ""


def test_evidence_of_clips_counts_what_the_readers_are_tested_on() -> None:
    clips = pl.DataFrame({"group": list("aabbccdd"), "split": ["train"] * 4 + ["valid"] * 2 + ["test"] * 2})
    assert evidence_of_clips(clips) == Evidence(2, 1)
    folds = clips.with_columns(fold=pl.Series([0, 0, 1, 1, 2, 2, 3, 3]))
    assert evidence_of_clips(folds, labels=False) == Evidence(8, 4, folds=4, labels=False)


@pytest.mark.parametrize(("clips", "groups"), [(3, 1), (400, 2), (12, 4)])
def test_thin_evidence_has_a_banner_and_no_sentence_that_reads_like_a_verdict(
    tmp_path: Path, clips: int, groups: int
) -> None:
    page = page_of(tmp_path, *resting_on(clips, groups))
    (banner,) = page.all("p", role="note")
    assert banner.text.startswith("Nothing can be claimed from these numbers.")
    assert Evidence(clips, groups).description in banner.text
    assert "A claim needs at least 3 test groups" in banner.text
    said = page.section("overview") + page.section("summary")
    assert said.index(banner.text) < said.index("A linear probe")
    assert said.startswith("What was measured")
    for verdict in ("predicted from", "Probing the layers", "Probing sparse codes", "Compactness", "points less"):
        assert verdict not in said
    assert page.all("dl", class_="tiles") == []
    assert page.mistakes == []


def test_enough_evidence_has_no_banner(made: Made) -> None:
    assert made.reading.all("p", role="note") == []
    assert made.reading.section("overview").startswith("What was found")


def test_the_banner_counts_what_the_results_rest_on(made: Made) -> None:
    assert evidence_of_results(load_results(made.folder)) == Evidence(480, 6)
    assert evidence_of_results(load_results(made.folder).where(metric="mse")) is None


def test_a_factor_without_a_value_anywhere_has_no_part_in_a_count(tmp_path: Path) -> None:
    unmeasured = (pl.col("metric") == "factor_r2") & pl.col("target").str.starts_with("rhythm")
    page = page_of(tmp_path, pl.when(unmeasured).then(float("nan")).otherwise(pl.col("value")).alias("value"))
    said = page.section("summary").replace("\u00a0", " ")
    assert " of 5 factors are predicted from the dense activations" in said
    assert "3 further factors have no value on the test clips and are not counted" in said
    (tiles,) = page.all("dl", class_="tiles")
    assert " of 5" in tiles.text
    assert "without a test value: 3 further factors" in tiles.text
    assert page.csv("categories-by-layer")["category"].unique().to_list() == ["pitch"]


def test_a_factor_that_one_dictionary_cannot_read_stays_in_its_count(tmp_path: Path) -> None:
    dead = (pl.col("metric") == "factor_r2") & (pl.col("representation") == "sae")
    page = page_of(tmp_path, pl.when(dead).then(float("nan")).otherwise(pl.col("value")).alias("value"))
    said = page.section("summary").replace("\u00a0", " ")
    assert "0 of 8 factors are predicted from the codes" in said
    assert "not counted" not in said
