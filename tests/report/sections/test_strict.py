"""What the page says of the strict protocol follows from the rows, whichever way they point."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from otoscope.artifacts import read_json, write_json, write_table
from otoscope.cli.summary import strict_table
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.metrics.record import Record, to_table
from otoscope.metrics.representation import CODES, DENSE
from otoscope.protocols.strict.layers_and_limits import within_layers
from otoscope.protocols.strict.results import StrictResults
from otoscope.report.figures import strict
from otoscope.report.figures.charts import by_representation, by_size
from otoscope.report.figures.probes import overview_figure
from otoscope.report.page import write_report
from otoscope.report.results import Results
from otoscope.report.run_data import read_run
from otoscope.report.sections.strict_factors import compactness_findings, factor_findings
from otoscope.report.sections.strict_findings import (
    AGREEMENT,
    describe_layers,
    layer_findings,
    limit_findings,
    seed_findings,
    setting_findings,
    strict_findings,
    task_findings,
)
from tests.support.page_reader import read_page
from tests.support.strict_rows import SHARED, against, codes, row, rows_of


@pytest.mark.parametrize(
    ("recipes", "legend"),
    [
        (["mariotte2025", "default"], ["SAE, the study's preset", "SAE codes"]),
        (["mariotte2025", "default", "mine"], ["SAE, the study's preset", "SAE, default", "SAE, mine"]),
    ],
)
def test_recipes_whose_limit_is_looked_for_are_told_apart(recipes: list[str], legend: list[str]):
    records: list[Record] = []
    for place, preset in enumerate(recipes):
        of = {"sae_id": f"layer03-frames-{preset}-m64-k6-seed0", "preset": preset}
        records += [codes("explained_variance", 0.9 - place / 10, **of), codes("mig", 0.1, **of)]
        records += [replace(codes("sparsity_limit", 0.9), sae_id="", preset=preset, target=f"{preset}: task")]
    figure = strict.limits(rows_of(*records))
    assert figure is not None
    assert list(figure.legend) == legend
    colour = figure.panels[0].spec["layer"][0]["encoding"]["color"]["scale"]
    assert colour["domain"] == legend
    assert len(set(colour["range"])) == len(legend)
    assert set(figure.table["preset"]) == set(recipes)


def test_other_protocols_are_not_looked_at():
    assert not StrictResults.of(to_table([replace(SHARED, protocol="held_out")]))


@pytest.mark.parametrize(
    ("value", "change", "said"),
    [
        (0.9, (0.1, 0.3), "exceed every baseline beyond the interval"),
        # beyond the best baseline, but not beyond another
        (0.8, (0.1, 0.3), "within the interval of the paired difference"),
        (0.75, (-0.1, 0.2), "within the interval of the paired difference"),
        (0.5, (-0.3, -0.1), "do not reach more"),
    ],
)
def test_a_task_says_whether_codes_beat_all_the_others(value: float, change: tuple[float, float], said: str):
    accuracy = "task_balanced_accuracy"
    rows = rows_of(
        row(accuracy, DENSE, 0.8, target="digit"),
        codes(accuracy, value, target="digit"),
        row(accuracy, "logmel", 0.7, target="digit"),
        against(accuracy, *change, "logmel", target="digit"),
        row(accuracy, "pca", 0.65, target="digit"),
        against(accuracy, 0.1 if value > 0.8 else -0.1, 0.3, "pca", target="digit"),
        row(accuracy, "permuted", 0.99, target="digit"),
    )
    (finding,) = task_findings(rows)
    assert "log-mel statistics" in finding.text
    assert said in finding.text
    middle, ends = f"{50 * sum(change):+.1f}", f"{100 * change[0]:+.1f} to {100 * change[1]:+.1f}"
    decided = f"Codes minus log-mel statistics: {middle} points ({ends}), not corrected for the choice of the best."
    assert decided.replace("-", "−") in finding.text.replace("-", "−")
    assert "The best of 2 baselines, log-mel statistics, reaches 70.0" in finding.text


def test_strict_table_of_the_terminal_names_the_factors_of_a_mean():
    table = strict_table(rows_of(row("mean_factor_r2", DENSE, 0.8), codes("mean_factor_r2", 0.7)))
    assert table is not None
    assert list(table.columns[0].cells) == ["mean R² of factors either predicts"]


def test_strict_table_of_the_terminal_names_factors_in_words():
    factor = "F0semitoneFrom27.5Hz_sma3nz_amean"
    table = strict_table(rows_of(row("task_r2", DENSE, 0.8, target=factor), codes("task_r2", 0.7, target=factor)))
    assert table is not None
    assert list(table.columns[0].cells) == ["pitch (mean, semitones)"]


def test_order_of_layers_and_limits_are_spelled_out():
    lead = row("layer_lead", DENSE, -0.5, target="pitch before formants", low=-0.8, high=-0.6, null_high=0.3)
    rows = rows_of(lead, row("sparsity_limit", CODES, 0.95, target="default: factors", low=0.9, high=0.99))
    (order,), (limit,) = layer_findings(rows), limit_findings(rows)
    assert (
        "0.50 layers after that of formants (0.60 to 0.80 after; categories permuted: up to 0.30 either way)"
        in order.text
    )
    assert order.text.endswith("beyond half a layer over the whole interval.")
    blocks = row("layer_lead_of_blocks", DENSE, -0.1, target="pitch before formants", low=-0.3, high=0.2, null_high=0.3)
    (resting,) = layer_findings(rows_of(lead, blocks))
    assert resting.text.endswith(
        " (for formants, chance reaches as far without layer 0, the input of the first block)."
    )
    mfcc = replace(lead, target="pitch before mfcc")
    p = [replace(lead, metric="layer_lead_p", value=0.036), replace(mfcc, metric="layer_lead_p", value=0.4)]
    (both,) = layer_findings(rows_of(lead, mfcc, blocks, *p))
    assert "categories permuted: up to 0.30 either way; p .036, .072 after Holm's correction for 2 leads)" in both.text
    assert both.text.count("without layer 0") == 1
    assert "factors 95\xa0% (90\xa0% to 99\xa0%)" in limit.text
    few = row("sparsity_limit", CODES, 0.95, target="default: factors", low=0.9, high=0.99, groups=2)
    assert "factors 95\xa0%. Margins" in limit_findings(rows_of(few))[0].text


def test_layer_findings_give_centres_and_leads_beyond_the_null():
    lead = row("layer_lead", DENSE, -0.5, target="pitch before formants", low=-0.8, high=-0.6, null_high=0.3)
    centres = [
        row("centre_layer", DENSE, value, target=name, low=value - 0.1, high=value + 0.1)
        for name, value in (("pitch", 1.5), ("formants", 1.0))
    ]
    curves = [
        row("category_r2", DENSE, value, target=name, layer=layer, null_mean=null)
        for name, layer, value, null in (
            ("pitch", 0, 0.5, 0.4),
            ("pitch", 2, 0.5, 0.2),
            ("formants", 0, 0.3, 0.0),
            ("formants", 2, 0.3, 0.0),
        )
    ]
    (order,) = layer_findings(rows_of(lead, *centres, *curves))
    assert (
        "Centres: pitch 1.50 (1.40 to 1.60) and formants 1.00 (0.90 to 1.10); a curve that is the same in all layers "
        "has its centre at 1.00. R² includes differences between groups; with the means of the nulls subtracted, the "
        "centre of pitch lies 0.50 layers after that of formants."
    ) in order.text


def agreement(value: float, null_high: float, *, representation: str = CODES) -> list[Record]:
    """Return agreement between seeds at one value."""
    shared: dict[str, Any] = {"split": "all", "null_mean": 0.1, "null_high": null_high, "n": 3}
    if representation == CODES:
        return [codes(metric, value, **shared) for metric in AGREEMENT]
    return [row(metric, representation, value, **shared) for metric in AGREEMENT]


@pytest.mark.parametrize(("start", "nothing"), [(0.98, True), (0.3, False)])
def test_agreement_between_seeds_is_told_beside_that_of_starts(start: float, nothing: bool):
    records = [*agreement(0.95, max(start, 0.2)), *agreement(start, 0.2, representation="start")]
    (finding,) = seed_findings(StrictResults.of(to_table(records)))
    assert f"Pairs of SAEs before training: cosine {start:.2f}, correlation {start:.2f}" in finding.text
    assert ("no evidence of learning" in finding.text) is nothing
    high = max(start, 0.2)
    assert f"(clips shuffled 10.0\xa0%; pairs that learned nothing up to {100 * high:.1f}\xa0%)" in finding.text
    assert f"0.95 on average (clips shuffled 0.10; pairs that learned nothing up to {high:.2f})." in finding.text
    (alone,) = seed_findings(StrictResults.of(to_table(agreement(0.95, 0.2))))
    assert "(clips shuffled 0.10, up to 0.20)" in alone.text
    several = [replace(record, n=5) if record.representation == CODES else record for record in records]
    (unlike,) = seed_findings(StrictResults.of(to_table(several)))
    assert "which is easier than 4" in unlike.text
    assert "no evidence of learning" not in unlike.text
    assert ("The correlation lies within its null" in finding.text) is nothing


def test_seed_findings_state_that_a_pair_asks_less_than_several_seeds():
    pair = [replace(record, n=2) for record in agreement(0.1, 0.0, representation="start")]
    (finding,) = seed_findings(StrictResults.of(to_table([*agreement(0.95, 0.2), *pair])))
    assert "reappear in at least 2 of the 2 other seeds" in finding.text
    assert finding.text.endswith("10.0\xa0% reappear in 1 of 1, which is easier than 2.")


def test_codes_that_are_their_start_are_told_as_not_learned(tmp_path: Path):
    write_table(tmp_path / "results.parquet", to_table([codes("reappearing_share", 0.4, split="all")]))
    name = "layer03-frames-default-m64-k6-seed0"
    changed = {"best_step": 7, "start": "principal axes"}
    unlearned, kept = "principal axes, not learned: no step improved", "principal axes, hardly changed: 97\xa0% of the"
    for training, said in (
        ({"best_step": 0}, unlearned),
        ({"best_step": 7}, ""),
        ({**changed, "unchanged_share": 0.97}, kept),
        ({**changed, "unchanged_share": 0.2}, ""),
    ):
        card = {"training": training, "config": {"init": "principal"}}
        write_json(tmp_path / "saes" / name / "card.json", card)
        run = read_run(tmp_path)
        (finding,) = setting_findings(StrictResults.of(run.results.rows), run)
        assert ("The codes are" in finding.text) is bool(said)
        assert not said or f"The codes are {said}" in finding.text


@pytest.mark.parametrize("folds", [False, True])
def test_a_page_of_the_strict_protocol_alone_states_its_classes(tmp_path: Path, folds: bool):
    write_table(tmp_path / "results.parquet", to_table([codes("task_balanced_accuracy", 0.4, target="call")]))
    groups = [
        (split, f"{split}{g}") for split, number in (("train", 4), ("valid", 2), ("test", 3)) for g in range(number)
    ]
    kinds = {"train": ["song", "bark"], "valid": ["song", "bark", "trill"], "test": ["song", "bark", "trill", "purr"]}
    of = [(split, group, kind) for split, group in groups for kind in kinds[split]]
    names = pl.DataFrame(of, schema=["split", "group", "label_call"], orient="row")
    empty = {name: pl.lit(None, dtype=kind).alias(name) for name, kind in COLUMNS.items() if name not in names.columns}
    clips = names.with_row_index("clip_id").with_columns(
        pl.col("clip_id").cast(pl.String), pl.lit("x").alias("label_all")
    )
    clips = clips.with_columns(one for name, one in empty.items() if name != "clip_id").with_columns(
        path=pl.lit("a.wav"), rate_hz=pl.lit(16_000), duration_s=pl.lit(1.0)
    )
    if folds:
        clips = clips.with_columns(fold=pl.col("group").rank("dense") % 3)
    Corpus("made", tmp_path, clips, pl.DataFrame({"path": [], "reason": []})).save(tmp_path / "corpus.parquet")
    page = read_page(write_report(tmp_path, figures=False).read_text("utf-8"))
    read = page.section("methods").replace("\u00a0", " ")
    assert "bark (9; 9), song" in read if folds else "bark (9; 9: 4/2/3), song" in read
    said = "No training or validation clip has purr (call): their clips are left out of the strict scores."
    assert (said in page.section("strict")) is not folds
    assert ("Cross-fitted over 3 folds" in read) is folds


def test_setting_states_rows_and_groups_that_trained_dictionaries(tmp_path: Path):
    write_table(tmp_path / "results.parquet", to_table([codes("reappearing_share", 0.4, split="all")]))
    name = "layer03-frames-default-m64-k6-seed0"
    for one, pooling, rows in ((name, "encode_then_pool", 80), ("study", "pool_then_encode", 16)):
        card = {"training": {"train_rows": rows}, "latents": 64, "preset": one[:5], "pooling": pooling}
        write_json(tmp_path / "saes" / one / "card.json", card)
    run = read_run(tmp_path)
    clips = pl.DataFrame({"split": ["train", "train", "test"], "group": ["a", "b", "c"], "fold": [0, 1, 2]})
    for shown, said in ((clips.drop("fold"), "; of 2 of the 3 groups"), (clips, "only readers are tested on unseen")):
        of = replace(
            run, clips=shown, cards={n: read_json(tmp_path / "saes" / n / "card.json") for n in (name, "study")}
        )
        (finding,) = setting_findings(StrictResults.of(run.results.rows), of)
        assert (
            "Training of dictionaries: 80 frames (1.2 per latent); preset study: 16 pooled clips (0.25" in finding.text
        )
        assert said in finding.text
        assert ("which are tested too" in finding.text) is ("fold" in shown.columns)


@pytest.mark.parametrize(("width", "said"), [(24, True), (25, False)])
def test_codes_with_many_active_latents_are_told_with_a_caution(tmp_path: Path, width: int, said: bool):
    records = [codes("reappearing_share", 0.4, split="all", seed=seed) for seed in (0, 1)]
    write_table(tmp_path / "results.parquet", to_table(records))
    name = "layer03-frames-default-m64-k6-seed0"
    write_json(tmp_path / "saes" / name / "card.json", {"model": {"width": width}})
    run = read_run(tmp_path)
    (finding,) = setting_findings(StrictResults.of(run.results.rows), run)
    assert (f"Caution: k=6 is 25\xa0% of the {width} dimensions" in finding.text) is said
    assert "and of the mean R² from few dimensions, cover factors and seeds, not groups." in finding.text


@pytest.mark.parametrize(("low", "high", "said"), [(-0.106, 0.016, True), (0.01, 0.1, False)])
def test_codes_are_compared_with_the_dictionary_before_training(low: float, high: float, said: bool):
    accuracy = "task_balanced_accuracy"
    shared: dict[str, Any] = {"target": "emotion", "groups": 12}
    change = against(accuracy, low, high, "start", **shared)
    rows = rows_of(
        row(accuracy, DENSE, 0.5, low=0.4, high=0.6, null_high=0.2, **shared),
        codes(accuracy, 0.476, low=0.4, high=0.6, null_high=0.2, **shared),
        row(accuracy, "logmel", 0.6, low=0.5, high=0.7, **shared),
        row(accuracy, "start", 0.52, low=0.4, high=0.6, **shared),
        change,
    )
    (finding,) = task_findings(rows)
    sentence = "The SAE before training reaches 52.0\xa0% (codes minus it: −4.5 points (−10.6 to +1.6)"
    assert (sentence in finding.text) is said
    assert ("no sign that training the dictionary helped" in finding.text) is said


def test_codes_are_told_as_the_mean_over_seeds():
    accuracy = "task_balanced_accuracy"
    rows = rows_of(
        row(accuracy, DENSE, 0.8, target="digit", low=0.7, high=0.9),
        codes(accuracy, 0.6, target="digit", low=0.5, high=0.7),
        codes(accuracy, 0.8, target="digit", low=0.7, high=0.9, seed=1),
        row(accuracy, "untrained", 0.9, target="digit"),
        against(accuracy, -0.3, -0.1, "untrained", target="digit", groups=8),
    )
    (finding,) = task_findings(rows)
    assert "70.0\xa0% from the codes (48.0\xa0% to 92.0\xa0%; mean of 2 seeds, ranging" in finding.text
    assert "An untrained encoder reaches 90.0\xa0% (codes minus it: −20.0 points (−30.0 to −10.0)): " in finding.text


def _listed_limits(*records: Record) -> dict[str, float | None]:
    """Return the sparsity limits in the figure's table."""
    figure = strict.limits(rows_of(*records))
    assert figure is not None
    return dict(figure.table.filter(metric="sparsity_limit").select("target", "value").iter_rows())


def test_a_task_at_chance_has_no_sparsity_limit():
    accuracy = "task_balanced_accuracy"
    limit = row("sparsity_limit", "sae", 0.9, target="default: task", low=0.75, high=0.95, n=4, split="test")
    records = [
        row(accuracy, DENSE, 0.3, target="digit", low=0.2, high=0.4, null_high=0.35),
        codes(accuracy, 0.3, target="digit", low=0.2, high=0.4, null_high=0.35),
    ]
    (finding,) = limit_findings(rows_of(limit, *records))
    assert "task undetermined (permuted targets give as much)" in finding.text
    levels = [replace(record, preset="default") for record in records]
    assert _listed_limits(replace(limit, preset="default"), *levels) == {"default: task": None}
    records[0] = row(accuracy, DENSE, 0.5, target="digit", low=0.4, high=0.6, null_high=0.35)
    (finding,) = limit_findings(rows_of(limit, *records))
    assert "task 90" in finding.text


def test_a_limit_whose_interval_covers_the_levels_is_undetermined():
    limit = row("sparsity_limit", "sae", 0.95, target="default: factors", low=0.75, high=0.95, split="test")
    of = {s: {"sparsity": s, "preset": "default", "sae_id": f"x-k{s}-seed0"} for s in (0.75, 0.9, 0.95)}
    levels = [codes("mean_factor_r2", 0.3, **named) for named in of.values()]
    (finding,) = limit_findings(rows_of(limit, *levels))
    assert _listed_limits(limit, *levels) == {"default: factors": None}
    assert "factors undetermined (the interval covers 75\xa0% to 95\xa0%)" in finding.text
    assert "against the densest codes of the same preset (75\xa0% sparsity), not against the layer" in finding.text


def test_all_that_do_best_are_named():
    rows = rows_of(
        row("task_balanced_accuracy", DENSE, 0.8, target="digit"),
        codes("task_balanced_accuracy", 0.8, target="digit"),
        row("task_balanced_accuracy", "frozen_decoder", 0.75, target="digit"),
        row("task_balanced_accuracy", "ica", 0.75, target="digit"),
        row("task_balanced_accuracy", "pca", 0.7, target="digit"),
    )
    (finding,) = task_findings(rows)
    assert "independent components and SAE with random atoms, reach 75.0" in finding.text


def test_chance_names_the_layer_and_those_above_permuted_targets():
    of = {"target": "pitch", "null_mean": 0.0, "null_high": 0.0}
    records = [
        row("task_r2", DENSE, -0.35, low=-1.5, high=0.8, **of),
        codes("task_r2", -0.08, low=-0.3, high=0.14, **of),
        row("task_r2", DENSE, 0.33, low=0.1, high=0.5, **(of | {"layer": 1})),
        row("task_r2", DENSE, -0.1, **(of | {"layer": 2})),
    ]
    rows = rows_of(*records)
    unsure = rows_of(*(replace(record, low=-0.1) for record in records))
    undecided = "Layer 1 (0.330; −0.100 to 0.500; permuted up to 0.000) exceeds permuted targets, but the interval"
    assert undecided in task_findings(unsure)[0].text
    kept = rows_of(*(replace(record, null_mean=0.1, null_high=0.19) for record in records))
    assert "permuted within groups, which keeps differences between groups." in task_findings(kept)[0].text
    (finding,) = task_findings(rows)
    assert "null" not in finding.text
    assert finding.text.endswith("Layer 1 (0.330; 0.100 to 0.500; permuted up to 0.000) exceeds permuted targets.")
    assert describe_layers(rows) == (
        "From the dense layers: pitch, R² 0.330 (layer 1; 0.100 to 0.500; permuted up to 0.000), −0.100 (layer 2; no "
        "interval; permuted up to 0.000) and −0.350 (layer 3; −1.500 to 0.800; permuted up to 0.000)."
    )
    unclear = rows_of(*(replace(record, low=-0.5, high=0.4) for record in records))
    assert describe_layers(unclear).endswith("permuted up to 0.000), each with an interval that includes 0.")


@pytest.mark.parametrize(
    ("of_layer", "of_codes", "said"),
    [
        ((-0.5, -0.2), (-0.3, -0.1), "Layer 3 and its codes predict it worse than the mean of the training rows does."),
        ((-1.5, 0.8), (-0.3, 0.1), "From layer 3 and from its codes, R² is not distinguishable from 0."),
        ((-0.5, -0.2), (-0.3, 0.1), "Neither layer 3 nor its codes exceed permuted targets: there is no sign that"),
    ],
)
def test_chance_states_a_value_below_0_only_beyond_the_interval(
    of_layer: tuple[float, float], of_codes: tuple[float, float], said: str
):
    of = {"target": "pitch", "null_high": 0.0}
    scores = [
        row("task_r2", DENSE, sum(of_layer) / 2, low=of_layer[0], high=of_layer[1], **of),
        codes("task_r2", sum(of_codes) / 2, low=of_codes[0], high=of_codes[1], **of),
    ]
    assert said in task_findings(rows_of(*scores))[0].text
    assert "Neither layer 3" in task_findings(rows_of(*(replace(score, groups=2) for score in scores)))[0].text


@pytest.mark.parametrize(("null_mean", "told"), [(0.9, True), (0.1, False)])
def test_a_value_that_groups_differ_in_is_said_to_tell_groups_apart(null_mean: float, told: bool):
    of = {"target": "pitch", "null_mean": null_mean, "null_high": null_mean + 0.02}
    (finding,) = task_findings(rows_of(row("task_r2", DENSE, 0.95, **of), codes("task_r2", 0.94, **of)))
    assert f"null {null_mean:.2f}" in finding.text
    assert ("mostly tells groups apart" in finding.text) is told


def test_a_limit_that_cannot_be_determined_has_no_number_in_the_table():
    limits = [
        replace(codes("sparsity_limit", 0.99, preset="default", target=f"default: {quantity}"), sae_id="")
        for quantity in ("explained variance", "factors")
    ]
    records = [codes("mean_factor_r2", v, sparsity=s, preset="default") for s, v in {0.75: 0.3, 0.99: 0.6}.items()]
    records += [
        codes("explained_variance", v, sparsity=s, preset="default") for s, v in {0.75: 0.9, 0.99: 0.88}.items()
    ]
    assert _listed_limits(*limits, *records) == {"default: explained variance": 0.99, "default: factors": None}


def test_a_limit_against_codes_that_sparser_ones_beat_is_not_told():
    shared = {"target": "default: factors", "low": 0.9, "high": 0.99}
    limit = replace(codes("sparsity_limit", 0.99, preset="default", **shared), sae_id="")
    levels = {0.75: 0.3, 0.9: 0.6, 0.99: 0.55}
    records = [codes("mean_factor_r2", value, sparsity=s, preset="default") for s, value in levels.items()]
    (finding,) = limit_findings(rows_of(limit, *records))
    assert "factors undetermined (densest 30.0\xa0%, sparser 60.0\xa0% at 90\xa0%)" in finding.text
    fallen = [replace(r, value=0.7) if r.sparsity == 0.75 else r for r in records]
    (finding,) = limit_findings(rows_of(limit, *fallen))
    assert "not against the layer, as do all levels below, in a single seed: preset" in finding.text
    assert "preset default: factors 99\xa0% (90\xa0% to 99\xa0%)" in finding.text
    assert "2 points of R²" in finding.text


def test_limit_findings_state_the_seed_that_a_limit_rests_on():
    limit = replace(codes("sparsity_limit", 0.9, preset="default", target="default: factors"), sae_id="")
    levels = [codes("mean_factor_r2", 0.5, sparsity=s, preset="default") for s in (0.75, 0.9)]
    seeds = [codes("explained_variance", 0.9, seed=seed) for seed in (0, 1, 2)]
    (finding,) = limit_findings(rows_of(limit, *levels, *seeds))
    assert "as do all levels below, in the first of 3 seeds, not their mean: preset default" in finding.text


def test_a_task_without_a_null_is_said_to_be_untested_and_not_at_chance():
    scores = [maker("task_balanced_accuracy", *more) for maker, *more in ((row, DENSE, 0.8), (codes, 0.7))]
    (finding,) = task_findings(rows_of(*(replace(score, target="digit", null_high=1.0) for score in scores)))
    assert "Too few clips or groups can be permuted to tell layer 3 and its codes from chance." in finding.text
    assert "Neither" not in finding.text


@pytest.mark.parametrize(("groups", "said"), [(1, "1 test group is too few"), (2, "2 test groups are too few")])
def test_too_few_groups_give_no_verdict(groups: int, said: str):
    rows = rows_of(
        row("task_balanced_accuracy", DENSE, 0.8, target="digit", low=0.7, high=0.9, groups=groups),
        codes("task_balanced_accuracy", 0.9, target="digit", low=0.85, high=0.95, groups=groups),
        row("task_balanced_accuracy", "logmel", 0.7, target="digit", low=0.6, high=0.8, groups=groups),
        row("effective_latents", DENSE, 5.0, low=4.0, high=6.0, groups=groups),
        codes("effective_latents", 2.0, low=1.0, high=3.0, groups=groups),
        against("effective_latents", 0.2, 0.6, groups=groups),
        row(
            "layer_lead", DENSE, -0.5, target="pitch before formants", low=-0.8, high=-0.1, null_high=0.3, groups=groups
        ),
        row("predicted_share", DENSE, 0.9, groups=groups),
        codes("predicted_share", 0.8, groups=groups),
    )
    for (finding,) in (task_findings(rows), compactness_findings(rows), layer_findings(rows)):
        assert f"{said} to decide (at least 3)" in finding.text
        for verdict in ("exceed every", "do not beat", "more compact than the layer", "beyond half"):
            assert verdict not in finding.text
    (factors,) = factor_findings(rows)
    assert "predicted well" not in factors.text


def test_the_table_of_counts_names_ranges_over_pairs_of_seeds_and_shows_no_interval_of_a_count(tmp_path: Path):
    matched = {"target": "0, 1", "split": "all", "low": 0.1, "high": 0.2}
    records = [codes("predicted_share", 0.6, low=0.2, high=0.9), codes("matched_correlation", 0.15, **matched)]
    write_table(tmp_path / "results.parquet", to_table(records))
    summary = strict_findings(read_run(tmp_path))
    assert summary is not None
    assert summary.counts is not None
    titles = [column.title for column in summary.counts.table.columns]
    shown = {row[titles.index("metric")].text: row for row in summary.counts.table.rows}
    ends = {
        name: [row[titles.index(f"{end} pair")].text for end in ("lowest", "highest")] for name, row in shown.items()
    }
    assert ends == {"predicted_share": ["–", "–"], "matched_correlation": ["0.100", "0.200"]}


def test_rows_keep_codes_of_the_first_seed_first_and_others_in_order():
    rows = rows_of(
        row("mig", "logmel", 0.1), row("mig", DENSE, 0.2), codes("mig", 0.4, seed=1), codes("mig", 0.3, seed=0)
    )
    found = rows.compared("mig")
    assert found["series"].to_list() == ["dense layer", "SAE codes", "SAE codes", "log-mel statistics"]
    assert found["value"].to_list() == [0.2, 0.3, 0.4, 0.1]
    assert (rows.comparison("mig") or pytest.fail("no comparison")).seeds == (0.3, 0.4)


def test_without_factors_and_further_seeds_the_dictionary_read_in_full_is_the_one_compared():
    of = {"k": 2, "sae_id": "layer03-frames-default-m64-k2-seed0", "sparsity": 0.95}
    read = codes("sparse_probe_balanced_accuracy", 0.4, target="digit", **of, dimensions=1)
    found = StrictResults.of(to_table([codes("explained_variance", 0.9), codes("explained_variance", 0.8, **of), read]))
    assert found.main is not None
    assert (found.main["sparsity"], found.main["k"]) == (0.95, 2)
    assert found.sae_ids == [of["sae_id"]]


def test_charts_draw_each_representation_once():
    rows = rows_of(row("mig", DENSE, 0.2, low=0.1, high=0.3), codes("mig", 0.3), codes("mig", 0.4, seed=1))
    spec = by_representation(rows.compared("mig"), x_title="MIG").to_dict(validate=False)
    assert any(len(rows) == 2 for rows in spec["datasets"].values())
    few = rows_of(*(row("sparse_r2", DENSE, 0.1 * k, dimensions=k) for k in (1, 2, 4)))
    drawn = by_size(few.compared("sparse_r2"), y_title="R²", sizes=few.sizes).to_dict(validate=False)
    assert few.sizes == [1, 2, 4]
    assert drawn["layer"]


@pytest.mark.parametrize(
    ("recipes", "study", "own"),
    [(["mariotte2025", "default"], True, True), (["default"], False, True), (["mariotte2025"], True, False)],
)
def test_the_caption_names_only_the_recipes_whose_limits_were_measured(recipes: list[str], study: bool, own: bool):
    said = strict.preset_list(recipes)
    assert ("the study's preset" in said, "this run's" in said) == (study, own)


@pytest.mark.parametrize(("pooling", "said"), [("pool_then_encode", True), ("encode_then_pool", False)])
def test_limits_name_the_pooling_in_which_the_studys_preset_differs(pooling: str, said: bool):
    records = [
        record
        for preset, pooled in {"mariotte2025": pooling, "default": "encode_then_pool"}.items()
        for record in (
            codes("explained_variance", 0.9, preset=preset, pooling=pooled),
            replace(codes("sparsity_limit", 0.9, pooling=pooled, target=f"{preset}: task"), sae_id="", preset=preset),
        )
    ]
    figure = strict.limits(rows_of(*records))
    assert figure is not None
    pooled_first = "encodes one mean per clip, so each clip has k active latents; this run's encodes frames, and"
    assert (pooled_first in figure.caption) is said


@pytest.mark.parametrize(
    ("random", "said"),
    [
        (0.598, "; without learned atoms, it is no lower than the 0.60 of the codes (SAE with random atoms 0.60). "),
        (0.5, ""),
    ],
)
def test_structure_names_representations_without_learned_atoms_that_are_as_disentangled(random: float, said: str):
    values = {DENSE: 0.3, "frozen_decoder": random, "random_codes": 0.9}
    records = [row("disentanglement", name, value) for name, value in values.items()]
    records += [row("predicted_share", name, 1.0, target="common") for name in (*values, "start")]
    records += [codes("disentanglement", 0.6), codes("predicted_share", 1.0, target="common")]
    figure = strict.structure(rows_of(*records, row("disentanglement", "start", float("nan"))))
    assert figure is not None
    assert said in figure.caption
    assert ("without learned atoms" in figure.caption) is bool(said)
    assert "wide codes can spread a factor over more effective dimensions, also without learning" in figure.notes[0]


def test_panels_name_targets_in_words():
    f0 = "F0semitoneFrom27.5Hz_sma3nz_amean"
    records = [row("task_r2", DENSE, 0.5, target=f0), codes("task_r2", 0.4, target=f0, preset="default")]
    limit = replace(codes("sparsity_limit", 0.9, preset="default", target="default: task"), sae_id="")
    few = [row("sparse_probe_balanced_accuracy", DENSE, 0.5, target="tempo_hz", dimensions=1)]
    results = rows_of(*records, limit, *few)
    figures = [strict.tasks(results), strict.limits(results), strict.few_dimensions(results)]
    titles = [[panel.title for panel in figure.panels] for figure in figures if figure is not None]
    assert titles == [["pitch (mean, semitones)"], ["pitch (mean, semitones)"], ["tempo (Hz)"]]
    first = overview_figure(Results(results.rows), [], None)
    assert first is not None
    assert first.title == "The pitch (mean, semitones) from each representation"


def test_few_dimensions_draw_the_sae_before_training_and_list_every_task():
    targets, metric = ("a", "b", "c", "d"), "sparse_probe_balanced_accuracy"
    records = [row(metric, name, 0.5, target=t, dimensions=1) for t in targets for name in (DENSE, "start")]
    figure = strict.few_dimensions(rows_of(*records))
    assert figure is not None
    assert list(figure.legend) == ["dense layer", "SAE before training"]
    assert figure.panels[0].spec["layer"][-1]["encoding"]["color"]["scale"]["domain"] == list(figure.legend)
    assert [panel.title for panel in figure.panels] == ["a", "b", "c"]
    assert set(figure.table["target"]) == set(targets)
    assert figure.notes == ["The table also holds d."]


def test_positions_of_layers_end_within_the_layers_and_have_no_interval_of_a_point():
    curve = [row("category_r2", DENSE, 0.4, target="pitch", layer=layer) for layer in (0, 4)]
    moved = row("earliest_layer", DENSE, 1.0, target="pitch", low=0.0, high=5.5)  # as a cross-fit widens it
    point = row("earliest_layer", DENSE, 0.0, target="mfcc", low=0.0, high=0.0)
    figure = strict.layers(rows_of(*curve, moved, point))
    assert figure is not None
    ends = figure.table.filter(metric="earliest_layer").select("low", "high").rows()
    assert ends == [(0.0, 5.5), (None, None)]
    widened = within_layers(moved, [0, 1, 4])
    assert (widened.low, widened.high) == (0.0, 4.0)
    assert within_layers(curve[0], [0, 1]) == curve[0]
