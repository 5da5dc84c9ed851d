import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from otoscope.artifacts import read_json, read_table, write_json, write_table
from otoscope.metrics.record import Record, to_table
from otoscope.metrics.representation import DENSE
from otoscope.report import write_report
from otoscope.report.run_data import read_run
from otoscope.report.sections.gallery import ClipCard, Gallery, LatentCard
from otoscope.report.sections.overview import MAX_SENTENCES, overview, previews
from otoscope.report.sections.strict_findings import strict_findings
from tests.report.conftest import Made, report
from tests.support.finished_run import make_run
from tests.support.page_reader import read_page
from tests.support.strict_rows import against, codes, row


def _card(factor: str, *, confirmed: bool = True, clips: int = 2, kind: str = "") -> LatentCard:
    clip = ClipCard("a.wav", "data:", "data:", "", "", "", 1.0, 8000.0)
    return LatentCard(
        factor,
        "",
        "",
        "",
        "",
        [clip] * clips,
        status="Clips with a higher value contain more of it",
        confirmed=confirmed,
        kind=kind,
        evidence="correlation within groups 0.61",
    )


def test_previews_are_the_first_confirmed_latents_with_clips() -> None:
    cards = [_card("a", confirmed=False), _card("b"), _card("c", clips=0), _card("d"), _card("e"), _card("f")]
    assert [one.factor for one in previews(Gallery(cards=cards))] == ["b", "d", "e"]


def test_previews_show_a_latent_of_each_label_and_of_a_factor_before_a_second() -> None:
    kinds = ["technique", "technique", "technique", "vowel", ""]
    cards = [_card(name, kind=kind) for name, kind in zip("abcde", kinds, strict=True)]
    assert [one.factor for one in previews(Gallery(cards=cards))] == ["a", "d", "e"]
    assert [one.factor for one in previews(Gallery(cards=cards[:3]))] == ["a", "b", "c"]


def test_the_page_opens_with_few_sentences_one_chart_and_latents(made: Made) -> None:
    sections = [tag.attributes["id"] for tag in made.reading.all("section")]
    assert sections[:3] == ["overview", "listen", "summary"]
    assert "overview-0" in made.reading.specs
    assert "overview-1" in made.reading.specs
    said = made.reading.section("overview").replace("\u00a0", " ")
    probe = r"A linear probe on layer 3, the one with dictionaries, predicts the technique of \d+ % of 480 clips"
    assert re.search(probe + r" of 6 unseen groups \(.*?\); the layers range from \d+ % to \d+ %\.", said)
    assert "On the codes of that layer at 90 % sparsity it reaches" in said
    # the interval of the difference, from predictions.parquet
    assert re.search(
        r"not distinguishable from layer \d \(\d+\.\d %\): \d+\.\d points less \(95 % interval of the difference −\d",
        said,
    )
    assert re.search(r"The codes predict \d+ of 88 factors\.", said)
    assert "of the variance of layer 3 at 90 % sparsity (k=204)" in said
    # the predictions of the codes are wrong in every trill
    of_trill = "no higher than by chance for trill (0 %, chance 0 %, predicted as belt)"
    assert f"Recall is {of_trill}; undecided (interval includes chance) for vibrato." in said
    overview = made.text.split('<section id="overview"')[1].split("</section>")[0]
    assert 1 <= overview.count("<li>") <= MAX_SENTENCES + 2  # the legend has two entries
    assert "(correlation within groups 0.71, chance |r| up to 0.20)" in made.reading.section("listen")


def test_the_overview_and_the_findings_list_the_accuracies_of_few_groups(tmp_path: Path) -> None:
    make_run(tmp_path, labels=("technique",), layers=(3,), sae_layers=(3,))
    dense = (pl.col("metric") == "probe_accuracy") & (pl.col("representation") == "dense")
    wide = pl.when(dense).then(0.1).otherwise(pl.col("low")).alias("low")
    write_table(tmp_path / "results.parquet", read_table(tmp_path / "results.parquet").with_columns(wide))
    made = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    for section in ("overview", "summary"):
        text = made.section(section).replace("\u00a0", " ")
        assert re.search(r"; per \w+ [\d, ]+ and 100 %, few \w+s for an interval", text)


def test_the_overview_shows_baselines_beside_what_they_are_compared_with(tmp_path: Path) -> None:
    make_run(tmp_path, labels=("technique",))
    results = read_table(tmp_path / "results.parquet")
    dense = results.filter(metric="probe_accuracy", representation="dense", layer=0)
    logmel = dense.with_columns(representation=pl.lit("logmel"), value=0.4, low=0.31, high=0.52)
    rebuilt = results.filter(metric="explained_variance", representation="sae")
    none = {name: pl.lit(None, dtype=rebuilt.schema[name]) for name in ("latents", "seed")}
    components = rebuilt.with_columns(representation=pl.lit("pca"), sae_id=pl.lit(""), value=0.625, **none)
    write_table(tmp_path / "results.parquet", pl.concat([results, logmel, components]))
    made = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    page = made.section("overview").replace("\u00a0", " ")
    assert "As many principal components reconstruct 62 %." in page
    assert "204 principal components: 62.5 %" in made.section("summary").replace("\u00a0", " ")
    assert len(made.specs["explained-variance-0"]["datasets"]) == 2
    assert "Without any model, log-mel statistics reach 40 % (95 % interval 31 % to 52 %; chance up to 14 %)." in page
    predictions = read_table(tmp_path / "predictions.parquet")
    guessed = predictions.filter(representation="dense", layer=0).with_columns(
        representation=pl.lit("logmel"), predicted_class=pl.lit("belt")
    )
    write_table(tmp_path / "predictions.parquet", pl.concat([predictions, guessed]))
    again = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    paired = (
        "reach 40 %, not distinguishable from layer 3 (90.3 %): 50.3 points less (95 % interval of the difference −"
    )
    assert paired in again.section("overview").replace("\u00a0", " ")


def test_the_overview_and_the_findings_name_dictionaries_that_are_principal_axes(tmp_path: Path) -> None:
    make_run(tmp_path, labels=("technique",), layers=(3,), sae_layers=(3,))
    cards = sorted(tmp_path.glob("saes/*/card.json"))
    for path in cards:
        kept = {"best_step": 7, "start": "principal axes", "unchanged_share": 0.97}
        write_json(path, {**read_json(path), "training": kept})
    made = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    of_one, of_all = (made.section(name).replace("\u00a0", " ") for name in ("overview", "summary"))
    reason = "principal axes, hardly changed (97 % of the active atoms have a cosine of at least"
    assert f"The dictionary is {reason}" in of_one
    assert f"are {reason}" in of_all


def test_the_overview_and_the_findings_name_the_dimensions_that_probes_read(tmp_path: Path) -> None:
    make_run(tmp_path, labels=("technique",), layers=(3,), sae_layers=(3,))
    of_codes = pl.when(pl.col("representation") == "sae").then(pl.lit("8 dimensions or all dimensions"))
    reader = of_codes.otherwise(pl.lit("all dimensions")).alias("reader")
    write_table(tmp_path / "results.parquet", read_table(tmp_path / "results.parquet").with_columns(reader))
    made = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    read = "The probe reads the best 8 or all dimensions of the codes and all dimensions of the layer, chosen on"
    assert read in made.section("overview")
    summary = made.section("summary").replace("\u00a0", " ")
    assert "% from all dimensions on unseen groups" in summary
    assert "% from the best 8 or all dimensions (" in summary


def test_the_overview_of_the_strict_protocol_has_intervals_and_names_unread_classes(tmp_path: Path) -> None:
    make_run(tmp_path, labels=("technique",), layers=(3,), sae_layers=(3,))
    sae = {"sae_id": "layer3-topk-204", "sparsity": 0.9, "seed": 0, "latents": 64, "k": 6}
    found: dict[str, tuple[float, dict[str, Any]]] = {"dense": (0.8, {}), "sae": (0.6, sae), "logmel": (0.4, {})}
    records = [
        Record(
            metric=metric, value=value, low=value - 0.1, high=value + 0.1, split="test", protocol="strict",
            target=target, representation=name, layer=3, n=40, groups=4, **more,
        )
        for metric, target in (("task_balanced_accuracy", "technique"), ("explained_variance", ""))
        for name, (value, more) in found.items()
    ]  # fmt: skip
    wide: dict[str, tuple[float, dict[str, Any]]] = {"dense": (9.0, {}), "sae": (5.0, sae), "start": (6.0, {})}
    records += [
        replace(records[0], metric="effective_latents", target="", representation=name, value=value, **more)
        for name, (value, more) in wide.items()
    ]
    write_table(tmp_path / "results.parquet", to_table(records))
    predictions = read_table(tmp_path / "predictions.parquet").with_columns(protocol=pl.lit("strict"))
    write_table(tmp_path / "predictions.parquet", predictions)
    page = read_page(write_report(tmp_path, figures=False).read_text("utf-8"))
    said = page.section("overview").replace("\u00a0", " ")
    assert "balanced accuracy 80.0 % (95 % interval 70.0 % to 90.0 %) from layer 3" in said
    assert "60.0 % (50.0 % to 70.0 %) from its codes at 90 % sparsity" in said
    assert "40.0 % (30.0 % to 50.0 %) from log-mel statistics, the best baseline" in said
    of_trill = "no higher than by chance for trill (0 %, chance 0 %, predicted as belt)"
    assert f"Recall from the codes is {of_trill}; undecided (interval includes chance) for vibrato." in said
    assert "The codes do not take fewer, beyond the interval, than SAE before training." in said
    for section in ("layers", "sparsity"):
        assert "The protocol held_out, which fits these probes, was not run" in page.section(section)
    assert "the scores of technique." in page.section("layers")
    assert "the scores of technique." not in page.section("sparsity")
    assert "Numbers of the strict protocol for the codes of the first seed alone." in page.section("plain")


@pytest.mark.parametrize(
    ("low", "high", "by_lasso", "end"),
    [
        (
            -0.3,
            0.1,
            0.3,
            "is −0.10 (−0.30 to 0.10) by ridge regression, undecided: a loss above the margin of 0.02 is not excluded.",
        ),
        (
            -0.01,
            0.1,
            0.3,
            "is −0.10 (−0.01 to 0.10) by ridge regression, which excludes a loss above the margin of 0.02.",
        ),
        (
            -0.15,
            -0.05,
            0.3,
            "is −0.10 (−0.15 to −0.05) by ridge regression, so the codes predict less (by LASSO over all factors 0.30 "
            "against 0.40).",
        ),
        (
            -0.15,
            -0.05,
            0.5,
            "is −0.10 (−0.15 to −0.05) by ridge regression, but by LASSO over all factors 0.50 against 0.40: this "
            "depends on the reader.",
        ),
        (math.nan, math.nan, 0.3, "the codes. Counts have no interval and do not rank."),
    ],
)
def test_the_overview_of_the_strict_protocol_ranks_by_the_mean_r2_and_not_by_counts(
    tmp_path: Path, low: float, high: float, by_lasso: float, end: str
) -> None:
    records = [row("predicted_share", DENSE, 0.5), codes("predicted_share", 0.6), row("mean_factor_r2", DENSE, 0.4)]
    records += [codes("mean_factor_r2", 0.3), replace(against("mean_factor_r2", low, high), value=-0.1)]
    records += [row("factor_r2", DENSE, 0.4, target="f0"), codes("factor_r2", by_lasso, target="f0")]
    write_table(tmp_path / "results.parquet", to_table([codes("reappearing_share", 0.4, split="all"), *records]))
    (sentence,) = overview(read_run(tmp_path), "").sentences
    summary = strict_findings(read_run(tmp_path))
    assert summary is not None
    covered = "that the layer or the codes predict"
    assert any(covered in finding.text for finding in summary.findings)
    assert (covered in sentence) is math.isfinite(low)
    assert sentence.startswith(
        "20 of 40 factors are predicted from the layer by LASSO (their ranks, above the low bar of R² in "
        "Methods), 24 from the codes. Counts have no"
    )
    assert sentence.endswith(end)


def test_the_overview_of_a_run_without_labels_shows_the_reconstruction(tmp_path: Path) -> None:
    made = report(tmp_path, labels=())
    assert "overview-0" in made.reading.specs
    assert "overview-1" not in made.reading.specs


def test_the_overview_of_the_strict_protocol_says_how_dense_its_codes_are(tmp_path: Path) -> None:
    accuracy = "task_balanced_accuracy"
    records = [row(accuracy, DENSE, 0.8, target="digit"), codes(accuracy, 0.7, target="digit", sparsity=0.9, k=6)]
    write_table(tmp_path / "results.parquet", to_table([codes("reappearing_share", 0.4, split="all"), *records]))
    run = read_run(tmp_path)
    for width, said in ((12, "sparsity (k=6, 50\xa0% of the layer's dimensions)"), (64, "sparsity")):
        cards = {records[1].sae_id: {"model": {"width": width}}}
        (sentence,) = overview(replace(run, cards=cards), "").sentences
        assert sentence.endswith(f"70.0\xa0% from its codes at 90\xa0% {said}.")
