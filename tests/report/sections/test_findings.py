"""Sentences on probes and factors: differences, choices of layers, and groups of a single clip."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from otoscope.artifacts import read_table, write_table
from otoscope.metrics.predictions import recall_by_class
from otoscope.metrics.record import Record, to_table
from otoscope.report import read_run, write_report
from otoscope.report.results import Results
from otoscope.report.sections.findings import against_layer, factor_findings, unread_classes
from otoscope.report.sections.gallery import introduction
from tests.support.finished_run import make_run
from tests.support.page_reader import read_page


def small(folder: Path, layers: tuple[int, ...] = (3,)) -> Path:
    return make_run(folder, layers=layers, sae_layers=(3,), sizes={"pitch": 5})


@pytest.mark.parametrize(
    ("predicted", "value", "said"),
    [
        ("belt", 0.6, "20.0 points less than layer 3 (80.0 %): 95 % interval of the difference "),
        (None, 0.8, "not distinguishable from layer 3 (80.0 %): no difference (95 % interval of the difference −"),
        (None, 0.81, "not distinguishable from layer 3 (80.0 %): 1.0 points more (95 % interval of the difference −"),
    ],
)
def test_codes_are_said_to_differ_only_beyond_the_interval(
    tmp_path: Path, predicted: str | None, value: float, said: str
) -> None:
    folder = small(tmp_path)
    rows = read_table(folder / "predictions.parquet")
    guess = pl.lit(predicted) if predicted else pl.col("true_class")
    of_codes = pl.when(pl.col("representation") == "sae").then(guess).otherwise(pl.col("true_class"))
    write_table(folder / "predictions.parquet", rows.with_columns(of_codes.alias("predicted_class")))
    run = read_run(folder)
    codes, dense = run.results.codes_of("technique", 0.9), run.results.one("probe_accuracy", "dense", layer=3)
    assert codes is not None
    assert dense is not None
    sentence = against_layer(run, "technique", {**codes, "value": value}, {**dense, "value": 0.8})
    assert sentence.replace("\u00a0", " ").startswith(said)


@pytest.mark.parametrize(
    ("layers", "chosen", "place"),
    [
        ((1, 2), 2, "layers 1 and 2 tie for the highest balanced accuracy of the dense probe on the validation groups"),
        ((1, 2), 2, "and it is the later of the two"),
        ((1, 2, 3), 2, "and it is the middle one"),
        ((0, 1, 2, 3), 2, "and it is the later of the two in the middle"),
        ((3,), 3, "no other was probed"),
    ],
)
def test_a_tie_is_resolved_in_true_words(tmp_path: Path, layers: tuple[int, ...], chosen: int, place: str) -> None:
    rows = read_table(small(tmp_path, layers) / "results.parquet")
    tied = (pl.col("split") == "valid") & (pl.col("representation") == "dense")
    results = Results(rows.with_columns(pl.when(tied).then(0.5).otherwise("value").alias("value")))
    assert results.best_layer.layer == chosen
    assert results.best_layer.reason.endswith(place) or results.best_layer.reason.startswith(place)


def add_r2_within(folder: Path) -> None:
    """Add an R² within groups to every R² of a factor."""
    rows = read_table(folder / "results.parquet")
    within = rows.filter(metric="factor_r2").with_columns(metric=pl.lit("factor_r2_within"))
    write_table(folder / "results.parquet", pl.concat([rows, within]))


def test_factors_are_said_to_be_positive_within_groups_only_where_that_was_measured(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for measured in (False, True):
        page = read_page(write_report(folder, figures=False).read_text("utf-8"))
        said = {name: page.section(name).replace("\u00a0", " ") for name in ("overview", "summary", "methods")}
        assert ("factors within groups" in said["overview"]) is measured
        inside = ", above its null and positive within groups." if measured else " and above its null."
        assert f"if its held-out R² is at least 0.1{inside}" in said["summary"]
        inside = ", above the upper end of its null and positive within groups." if measured else " and above the upper"
        assert f"if its R² is at least 0.1{inside}" in said["methods"]
        add_r2_within(folder)


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        (0, "The 5 factors predicted from both take "),
        (2, "Of the 5 factors predicted from both, the 3 with a value take "),
    ],
)
def test_compactness_counts_the_factors_that_its_medians_cover(tmp_path: Path, unknown: int, said: str) -> None:
    rows = read_table(small(tmp_path) / "results.parquet")
    r2 = pl.col("metric") == "factor_r2"
    names = rows.filter(r2)["target"].unique().sort()
    lost = (pl.col("metric") == "effective_latents") & pl.col("target").is_in(names.head(unknown).to_list())
    value = pl.when(r2).then(0.5).when(lost & (pl.col("representation") == "sae")).then(float("nan")).otherwise("value")
    (*_, compactness) = factor_findings(Results(rows.with_columns(value.alias("value"))))
    assert compactness.text.startswith(said)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [((3,), "no other has SAEs"), ((3, 4), "the dense layer's median R² over factors is highest on the test groups")],
)
def test_a_layer_without_an_alternative_is_not_said_to_be_the_best(layers: tuple[int, ...], reason: str) -> None:
    shared: dict[str, Any] = {"metric": "factor_r2", "split": "test", "target": "pitch", "protocol": "strict"}
    found = [Record(**shared, value=1 / layer, representation="dense", layer=layer) for layer in layers]
    found.append(
        Record(**shared, value=0.4, representation="sae", layer=3, latents=64, sparsity=0.9, sae_id="a", seed=0)
    )
    # other layers have scores of a task alone
    found.append(replace(found[0], metric="task_r2", layer=1))
    best = Results(to_table(found)).best_layer
    assert (best.layer, best.reason) == (3, reason)


def test_unread_classes_name_their_predictions_and_undecided_classes(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, labels=("technique",), layers=(3,), sae_layers=(3,)))
    row = run.results.one("probe_accuracy", "dense", target="technique", layer=3)
    assert row is not None
    probe = read_table(tmp_path / "predictions.parquet").filter(representation="dense", label="technique").head(1)
    # of each of five groups, four clips per class; "straight" is right in the first group alone
    truth = ["belt", "straight", "trill"] * 20
    predicted = [
        {"belt": "belt", "straight": "straight" if i < 12 else "trill", "trill": "belt" if i % 4 else "straight"}[name]
        for i, name in enumerate(truth)
    ]
    clips = pl.DataFrame(
        {
            "clip_id": [f"{i}.wav" for i in range(60)],
            "group": [f"singer{i // 12}" for i in range(60)],
            "true_class": truth,
            "predicted_class": predicted,
        }
    )
    rows = probe.drop(clips.columns).join(clips, how="cross").select(probe.columns)
    write_table(tmp_path / "predictions.parquet", rows)
    said = unread_classes(read_run(tmp_path), "technique", row).replace("\u00a0", " ")
    assert said == (
        " Recall is no higher than by chance for trill (0 %, chance 27 %, predicted as belt and straight); "
        "undecided (interval includes chance) for straight."
    )


def test_undecided_classes_are_named_beside_unread_ones_only(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, labels=("technique",), layers=(3,), sae_layers=(3,)))
    row = run.results.one("probe_accuracy", "dense", target="technique", layer=3)
    assert row is not None
    probe = run.predicted_by("technique", row)
    assert probe is not None
    recalls = recall_by_class(probe)
    assert recalls.filter(pl.col("low") <= pl.col("chance")).height
    assert not recalls.filter(pl.col("recall") <= pl.col("chance")).height
    assert unread_classes(run, "technique", row) == ""


def test_groups_of_a_single_clip_are_never_said_to_be_compared_within(tmp_path: Path) -> None:
    folder = small(tmp_path)
    clips = read_table(folder / "corpus.parquet").with_columns(pl.col("clip_id").alias("group"))
    write_table(folder / "corpus.parquet", clips)
    run = read_run(folder)
    assert run.single_clip_groups
    page = read_page(write_report(folder, figures=False).read_text("utf-8"))
    said = {name: page.section(name).replace("\u00a0", " ") for name in ("overview", "summary", "factors", "methods")}
    findings = said["summary"].split("Glossary")[1]
    assert " of 5 factors." in said["overview"]
    assert "within groups" not in said["overview"] + said["factors"]
    assert "Every group has a single clip: probes, factors and latents compare groups only" in findings
    assert "For the null, groups are permuted" in findings
    assert "within each group" not in findings + introduction(run)
    assert "For the null, groups, of one clip each, are permuted" in said["methods"]


@pytest.mark.parametrize("asked", [None, ["sex"], []])
def test_a_page_states_what_is_beyond_groups_and_covariates(tmp_path: Path, asked: list[str] | None) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5}, labels=("technique", "sex"))
    clips = read_table(folder / "corpus.parquet")
    odd = pl.col("group").str.ends_with("1") | pl.col("group").str.ends_with("3")
    technique = pl.when(pl.int_range(pl.len()).over("group") % 2 == 0).then(pl.lit("belt")).otherwise(pl.lit("trill"))
    sex = pl.when(odd).then(pl.lit("f")).otherwise(pl.lit("m"))
    write_table(folder / "corpus.parquet", clips.with_columns(label_technique=technique, label_sex=sex))
    if asked is not None:
        text = (folder / "config.yaml").read_text("utf-8")
        (folder / "config.yaml").write_text(f"{text}evaluate: {{covariates: {asked}}}\n", "utf-8")
    rows = read_table(folder / "results.parquet")
    given = rows.filter(metric="factor_r2").with_columns(metric=pl.lit("factor_r2_given"), value=pl.lit(0.123))
    write_table(folder / "results.parquet", pl.concat([rows, given]) if asked != [] else rows)
    page = read_page(write_report(folder, figures=False).read_text("utf-8"))
    said = {name: page.section(name).replace("\u00a0", " ") for name in ("summary", "factors", "methods")}
    dense = read_run(folder).results.one("probe_accuracy", "dense", target="technique")
    assert dense is not None
    assert f"; {100 * (dense['value'] - 0.1):.1f} points beyond groups and chance). Layer 3" in said["summary"]
    # technique: the layer and codes at two sparsities; sex is constant within groups
    assert said["summary"].count("beyond groups and chance") == 3
    assert "sex is constant within each group" in said["summary"]
    assert ("“Given sex” is the R² of deviations from the mean of each class of sex" in said["factors"]) is (
        asked != []
    )
    assert ("0.123" in said["factors"]) is (asked != [])
    why = "named by evaluate.covariates" if asked else "constant within groups, with several groups per class"
    assert (f"R² given sex ({why}): only clips of one class are compared." in said["methods"]) is (asked != [])


@pytest.mark.parametrize(
    ("weak", "said"), [(1, "; 1 more is too weak to tell."), (2, "; 2 more are too weak to tell.")]
)
def test_the_overview_counts_weak_factors_in_grammar(tmp_path: Path, weak: int, said: str) -> None:
    folder = small(tmp_path)
    rows = read_table(folder / "results.parquet")
    names = rows.filter(metric="factor_r2")["target"].unique().sort().head(weak).to_list()
    is_weak = (pl.col("metric") == "factor_r2") & pl.col("target").is_in(names)
    changed = [pl.when(is_weak).then(v).otherwise(c).alias(c) for c, v in (("value", 0.2), ("null_high", 0.3))]
    write_table(folder / "results.parquet", rows.with_columns(changed))
    assert said in read_page(write_report(folder, figures=False).read_text("utf-8")).section("overview")
