"""The claim, examined: numbers gathered from a table alone, and every verdict that they can come to."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from otoscope.artifacts import write_table
from otoscope.metrics.record import Record, to_table
from otoscope.protocols.comparing import Number
from otoscope.report.claims.numbers import Claims, Compact, Kept, Order, Sides, compat_claims, published_claims
from otoscope.report.claims.page import PAGE, examine, write_claims
from otoscope.report.claims.strict_numbers import strict_claims
from otoscope.report.claims.verdicts import compact, kept, ordered
from otoscope.report.figures.claims import SOURCES, task_figure
from otoscope.report.run_data import read_run


def number(
    value: float, low: float = math.nan, high: float = math.nan, null_high: float = math.nan, *, groups: int = 5
) -> Number:
    """Return a number that rests on enough groups."""
    return Number(value, low, high, null_high, groups=groups)


def row(metric: str, value: float, representation: str, **more: Any) -> Record:
    backed = {"split": "test", "layer": 1, "encoder": "ear", "protocol": "mariotte2025"}
    return Record(**{**backed, "metric": metric, "value": value, "representation": representation, **more})


def strictly(metric: str, value: float, representation: str, **more: Any) -> Record:
    return row(metric, value, representation, **{"protocol": "strict", "groups": 5, **more})


def small_study() -> list[Record]:
    """Two opened layers in the study's way, at two sparsities."""
    records: list[Record] = []
    for layer, dense in ((1, 0.8), (3, 0.6)):
        at = {"layer": layer}
        records += [row("probe_accuracy", dense, "dense", target="technique", **at)]
        records += [row("top_completeness", 0.5 + layer / 100, "dense", **at)]
        for sparsity, loss in ((0.75, 0.0), (0.95, 0.1)):
            codes = {"sparsity": sparsity, "sae_id": f"l{layer}-k{int(100 * sparsity)}-seed0", "seed": 0, **at}
            records += [row("probe_accuracy", dense - loss, "sae", target="technique", **codes)]
            records += [row("top_completeness", 0.7, "sae", **codes)]
            records += [row("category_count", 4.0 - layer, "sae", target="pitch", **codes)]
            records += [row("category_count", 1.0 * layer, "sae", target="formants", **codes)]
    # a layer that was probed and not opened counts for nothing
    records.append(row("probe_accuracy", 0.1, "dense", target="technique", layer=2))
    return records


def strict_study() -> list[Record]:
    """One compared layer, three sparsities, two seeds."""
    records = [
        strictly("task_balanced_accuracy", 0.8, "dense", target="technique", low=0.795, high=0.805, null_high=0.2)
    ]
    for seed in (0, 1):
        for sparsity in (0.75, 0.95, 0.99):
            codes = {"sparsity": sparsity, "seed": seed, "sae_id": f"layer01-k{int(100 * sparsity)}-seed{seed}"}
            value = 0.79 - seed / 1000
            records.append(
                strictly(
                    "task_balanced_accuracy",
                    value,
                    "sae",
                    target="technique",
                    low=value - 0.005,
                    high=value + 0.005,
                    **codes,
                )
            )
        codes = {"seed": seed, "sae_id": f"layer01-k95-seed{seed}", "sparsity": 0.95}
        records.append(strictly("completeness", 0.6, "sae", n=12, **codes))
        records.append(strictly("effective_latents", 5.0 + seed, "sae", low=4.0, high=6.0, n=12, **codes))
        records.append(strictly("sparse_r2", 0.5, "sae", low=0.4, high=0.6, null_high=0.1, **codes, dimensions=4))
    records += [
        strictly("completeness", 0.4, "dense", n=12),
        strictly("effective_latents", 20.0, "dense", low=15.0, high=25.0, n=12),
        strictly("sparse_r2", 0.3, "dense", low=0.2, high=0.4, dimensions=4),
        strictly("sparse_r2", 0.9, "dense", dimensions=64),
        strictly("layer_lead", 1.2, "dense", target="pitch before formants", low=0.4, high=2.0, null_high=0.3),
    ]
    records += [
        strictly("category_r2", 0.5 - layer / 10, "dense", target=name, layer=layer, low=0.1, high=0.6)
        for layer in (1, 2, 3)
        for name in ("pitch", "formants")
    ]
    return records


def test_the_published_numbers_are_means_over_the_eight_opened_layers() -> None:
    found = published_claims()
    assert found.kept is not None
    assert found.kept.cells == 8
    assert found.kept.dense.value == pytest.approx((81.8 + 82 + 72.5 + 55 + 73 + 59.8 + 72.5 + 76.2) / 800)
    at_95 = (80 + 82.25 + 72.25 + 53.75 + 69.75 + 56.25 + 69.75 + 68.5) / 800
    assert found.kept.codes[0.95].value == pytest.approx(at_95)
    assert found.compact is not None
    assert found.compact.completeness.codes.value == pytest.approx(0.6935)
    assert found.order is not None
    assert found.order.early["pitch"] == pytest.approx((4.8 + 3.7 + 3.7 + 3.5) / 4)
    assert found.order.late["formants"] == pytest.approx((2.0 + 2.7 + 0.7 + 3.0) / 4)


def test_numbers_in_the_studys_way_are_means_over_opened_layers() -> None:
    found = compat_claims(to_table(small_study()))
    assert found.kept is not None
    assert (found.kept.dense.value, found.kept.cells) == (pytest.approx(0.7), 2)
    assert found.kept.losses == pytest.approx({0.75: 0.0, 0.95: -0.1})
    assert found.kept.sparsity == 0.95
    assert found.compact is not None
    assert found.compact.completeness.dense.value == pytest.approx(0.52)
    assert found.order is not None
    assert (found.order.early["pitch"], found.order.late["pitch"]) == (3.0, 1.0)


def test_strict_numbers_are_of_one_dictionary_a_sparsity_and_means_over_seeds_where_there_are_several() -> None:
    found = strict_claims(to_table(strict_study()))
    assert found.kept is not None
    assert {s: n.value for s, n in found.kept.codes.items()} == {
        0.75: 0.79,
        0.95: pytest.approx(0.7895),
        0.99: 0.79,
    }
    assert found.compact is not None
    assert found.compact.dimensions is not None
    assert found.compact.dimensions.codes.value == 5.5
    assert found.compact.seeds == (5.0, 6.0)
    assert (found.compact.few_k, found.compact.factors) == (4, 12)
    assert found.order is not None
    assert found.order.leads["pitch before formants"].null_high == 0.3


def test_other_recipes_do_not_enter_what_was_made_in_the_studys_way() -> None:
    theirs = [replace(r, preset="mariotte2025") if r.representation == "sae" else r for r in small_study()]
    ours = [replace(r, preset="default", value=0.0) for r in small_study() if r.representation == "sae"]
    assert compat_claims(to_table([*ours, *theirs])) == compat_claims(to_table(theirs))
    alone = compat_claims(to_table([r for r in [*theirs, *ours] if r.preset != "mariotte2025"]))
    assert alone.kept is not None
    assert alone.kept.high.value == 0.0


def test_what_was_asked_and_cannot_be_measured_says_what_it_takes() -> None:
    found = examine(to_table([strictly("task_balanced_accuracy", 0.8, "dense", target="technique")]))
    assert [v.outcome for v in found.verdicts] == ["not measured"] * 3
    assert "at least two `extract.layers`" in found.verdicts[2].sentence


def test_the_page_of_claims_warns_of_too_few_groups(tmp_path: Path) -> None:
    few = [replace(r, n=30, groups=1) for r in [*strict_study(), strictly("factor_r2", 0.5, "dense", target="f0")]]
    write_table(tmp_path / "results.parquet", to_table(few))
    page = write_claims(read_run(tmp_path), figures=False)
    assert page is not None
    assert "Nothing can be claimed from these numbers." in page.read_text(encoding="utf-8")


def test_numbers_in_the_studys_way_claim_no_unseen_clips(tmp_path: Path) -> None:
    write_table(tmp_path / "results.parquet", to_table([replace(r, n=20, groups=1) for r in small_study()]))
    page = write_claims(read_run(tmp_path), figures=False)
    assert page is not None
    text = page.read_text(encoding="utf-8")
    assert "no fit and no choice has seen" not in text.split("<main")[1].split("<summary>Glossary")[0]
    assert "factors are fitted and scored on the same clips" in text


@pytest.mark.parametrize("records", [[], small_study()[:1], strict_study()[:1]])
def test_a_table_that_lacks_numbers_gives_none(records: list[Record]) -> None:
    table = to_table(records)
    assert compat_claims(table) == strict_claims(table) == Claims(None, None, None)


def task(codes: Number, dense: Number) -> Kept:
    return Kept(dense, {0.95: codes}, "technique")


@pytest.mark.parametrize(
    ("codes", "dense", "outcome", "said"),
    [
        # the whole interval of the difference lies above -2 points, then above 0
        (number(0.80, 0.79, 0.81, 0.2), number(0.8, 0.79, 0.81), "holds", "excludes a loss of 2 points"),
        (number(0.81, 0.80, 0.82, 0.2), number(0.8, 0.79, 0.81), "holds", "a gain in this sample, and the interval"),
        (number(0.85, 0.84, 0.86, 0.2), number(0.8, 0.79, 0.81), "holds", "a gain, and the whole interval"),
        # a good point estimate alone decides nothing
        (
            number(0.79, 0.7, 0.88, 0.2),
            number(0.8, 0.7, 0.9),
            "undecided",
            "points), but the interval does not exclude",
        ),
        (number(0.85, 0.75, 0.95, 0.2), number(0.8, 0.7, 0.9), "undecided", "a gain in this sample, but"),
        (number(0.7, 0.6, 0.85, 0.2), number(0.8, 0.7, 0.9), "undecided", "but the interval allows for less"),
        (number(0.8), number(0.8), "undecided", "without an interval"),
        (number(0.8, 0.8, 0.8, 0.2, groups=2), number(0.8, 0.8, 0.8), "undecided", "2 groups are too few"),
        (number(0.5, 0.5, 0.5, 0.2, groups=1), number(0.8, 0.8, 0.8), "undecided", "1 group is too few"),
        (number(0.5, 0.45, 0.55, 0.2), number(0.8, 0.75, 0.85), "does not hold", "over the whole interval"),
        # no better than chance is no knowledge, whatever the layer has
        (number(0.19, 0.1, 0.3, 0.2), number(0.2, 0.1, 0.3), "does not hold", "permuted targets"),
    ],
)
def test_verdicts_on_the_task(codes: Number, dense: Number, outcome: str, said: str) -> None:
    found = kept(task(codes, dense))
    assert found.outcome == outcome
    assert "At 95" in found.sentence
    assert said in found.sentence


def test_every_other_target_that_loses_and_the_best_baseline_are_named() -> None:
    codes: dict[str, Any] = {"sparsity": 0.95, "seed": 0, "sae_id": "layer01-k95-seed0"}
    accuracy = "task_balanced_accuracy"
    records = [
        *strict_study(),
        strictly(accuracy, 0.9, "dense", target="vowel", low=0.89, high=0.91, null_high=0.3),
        strictly(accuracy, 0.8, "sae", target="vowel", low=0.79, high=0.81, **codes),
        strictly(accuracy, 0.9, "dense", target="gender", null_high=0.6),
        strictly(accuracy, 0.89, "sae", target="gender", **codes),
        strictly("task_r2", 0.5, "dense", target="f0", null_high=0.1),
        strictly("task_r2", 0.4, "sae", target="f0", **codes),
        # what the layer does not tell better than its null cannot be lost
        strictly(accuracy, 0.3, "dense", target="take", null_high=0.35),
        strictly(accuracy, 0.1, "sae", target="take", **codes),
        strictly(accuracy, 0.85, "pca", target="technique", low=0.84, high=0.86, sparsity=0.99),
        strictly(accuracy, 0.7, "logmel", target="technique", low=0.6, high=0.8),
        strictly(accuracy, 0.99, "permuted", target="technique"),
    ]
    said = " ".join(kept(strict_claims(to_table(records)).kept).notes)
    assert "What the codes reach is the mean of 2 seeds, which reach 78.9\xa0% to 79.0\xa0%." in said
    assert "Of 3 other targets the same codes lose more than 2 points on 2: " in said
    assert "vowel 10.0 points less (−11.4 to −8.6); f0 (R²) 10.0 points less" in said
    assert "gender" not in said
    beaten = (
        "principal components (beside codes at 99\xa0% sparsity), 85.0\xa0% (84.0\xa0% to 86.0\xa0%); the intervals lie"
    )
    assert beaten in said
    alone = " ".join(kept(strict_claims(to_table(strict_study())).kept).notes)
    assert "baseline" not in alone
    assert "other target" not in alone
    kept_all = [r for r in records if r.target not in ("vowel", "f0")]
    assert "Of 1 other target the same codes lose more than 2 points on none" in (
        " ".join(kept(strict_claims(to_table(kept_all)).kept).notes)
    )
    worse = [replace(r, value=0.6, low=0.59, high=0.61) if r.representation == "pca" else r for r in records]
    best = "The best baseline is log-mel statistics, 70.0\xa0% (60.0\xa0% to 80.0\xa0%)"
    assert any(note.startswith(best) for note in kept(strict_claims(to_table(worse)).kept).notes)


def test_the_limit_is_told_where_it_is_known() -> None:
    limited = Kept(number(0.8), {0.9: number(0.8), 0.95: number(0.79)}, "technique", limit=number(0.95, 0.9, 0.99))
    assert "lost up to 95\xa0% sparsity (90\xa0% to 99\xa0%)" in " ".join(kept(limited).notes)
    steep = replace(limited, limit=number(0.9, 0.9, 0.95))
    assert "Already the next level asked loses more than 2 points" in " ".join(kept(steep).notes)
    beaten = replace(limited, codes={0.75: number(0.6), 0.9: number(0.8)})
    assert "(75\xa0% sparsity, 60.0\xa0%) are beaten by sparser ones (80.0\xa0% at 90\xa0%)" in " ".join(
        kept(beaten).notes
    )
    assert not kept(task(number(0.8), number(0.8))).notes


def sides(codes: Number, dense: Number, few: tuple[Number, Number] | None = None, factors: int = 9) -> Compact:
    of = Sides(number(0.5), number(0.6))
    return Compact(of, dimensions=Sides(dense, codes), few=None if few is None else Sides(*few), factors=factors)


NARROW, WIDE = number(5.0, 4.0, 6.0), number(20.0, 15.0, 25.0)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (sides(NARROW, WIDE), "holds"),
        (sides(WIDE, NARROW), "does not hold"),
        (sides(number(5.0, 4.0, 16.0), WIDE), "undecided"),
        (sides(number(5.0), number(20.0)), "undecided"),
        (sides(NARROW, WIDE, factors=0), "undecided"),
        # few dimensions (of the layer, of codes) must tell as much
        (sides(NARROW, WIDE, (number(0.3, 0.2, 0.4), number(0.5, 0.45, 0.6))), "holds"),
        (sides(NARROW, WIDE, (number(0.5, 0.4, 0.6), number(0.45, 0.3, 0.55))), "undecided"),
        (sides(NARROW, WIDE, (number(0.5, 0.45, 0.6), number(0.3, 0.2, 0.4))), "does not hold"),
    ],
)
def test_verdicts_on_dimensions(found: Compact, outcome: str) -> None:
    assert compact(found).outcome == outcome


def test_compactness_without_learning_shows_nothing_learned() -> None:
    for value, said in (
        (5.5, "does not show that anything was learned"),
        (9.0, "more than of codes that were learned"),
    ):
        beside = replace(sides(NARROW, WIDE), unlearned={"codes of an untrained encoder": number(value)})
        assert compact(beside).outcome == "holds"
        (learned,) = (note for note in compact(beside).notes if "learned" in note)
        assert f"{value} dimensions of codes of an untrained encoder" in learned
        assert said in learned
    assert not any("learned" in note for note in compact(sides(NARROW, WIDE)).notes)


@pytest.mark.parametrize(
    ("leads", "outcome"),
    [
        ([number(1.2, 0.4, 2.0, 0.3)], "holds"),
        ([number(1.2, 0.4, 2.0, 0.3), number(0.9, 0.1, 2.0, 0.3)], "holds"),
        ([number(1.2, 0.4, 2.0, 0.3), number(0.2, -0.1, 2.0, 0.3)], "undecided"),
        # above 0, but permuted layers lead as far
        ([number(1.2, 0.4, 2.0, 1.5)], "undecided"),
        ([number(1.2, 0.4, 2.0, 0.3), number(-1.0, -2.0, -0.1, 0.3)], "does not hold"),
        ([number(-0.1, -1.0, 1.0, 0.3)], "undecided"),
    ],
)
def test_verdicts_on_the_order(leads: list[Number], outcome: str) -> None:
    names = ("pitch before formants", "pitch before mfcc")
    found = ordered(Order(leads=dict(zip(names, leads, strict=False))))
    assert found.outcome == outcome
    assert found.sentence.startswith("The centre of pitch lies")


@pytest.mark.parametrize(
    ("lead", "of_blocks", "outcome"),
    [
        (number(1.2, 0.4, 2.0, 0.3), number(0.5, -0.1, 1.0, 0.3), "holds"),
        (number(1.2, 0.4, 2.0, 0.3), number(0.2, -0.1, 1.0, 0.3), "undecided"),
        (number(-1.2, -2.0, -0.4, 0.3), number(-0.5, -1.0, 0.1, 0.3), "does not hold"),
        (number(-1.2, -2.0, -0.4, 0.3), number(-0.1, -0.5, 0.1, 0.3), "undecided"),
        # nothing was asked of the blocks alone, or nothing could be said of them
        (number(-1.2, -2.0, -0.4, 0.3), number(math.nan), "does not hold"),
    ],
)
def test_an_order_that_rests_on_the_input_of_the_first_block_decides_nothing(
    lead: Number, of_blocks: Number, outcome: str
) -> None:
    name = "pitch before formants"
    found = ordered(Order(leads={name: lead}, of_blocks={name: of_blocks}))
    assert found.outcome == outcome
    assert ("rests on layer 0" in found.sentence) == (outcome == "undecided")
    assert any(note.startswith("Without layer 0") for note in found.notes) == math.isfinite(of_blocks.value)


def test_the_chart_draws_the_interval_by_which_the_verdict_decides() -> None:
    found = task(number(0.7, 0.67, 0.74), number(0.8, 0.76, 0.83))
    figure = task_figure({SOURCES[-1]: Claims(found, None, None)})
    assert figure is not None
    low, high = figure.table.select("low", "high").row(0)
    assert (low, high) == (pytest.approx(-0.1 - math.hypot(0.03, 0.03)), pytest.approx(-0.1 + math.hypot(0.04, 0.04)))


def test_two_groups_decide_none_of_the_claims() -> None:
    few = [replace(r, groups=2) for r in strict_study()]
    found = examine(to_table(few))
    assert [v.outcome for v in found.verdicts] == ["undecided"] * 3
    assert all("2 groups are too few" in v.sentence for v in found.verdicts)


def test_without_held_out_groups_nothing_is_decided() -> None:
    found = examine(to_table(small_study()))
    assert [v.outcome for v in found.verdicts] == ["not asked"] * 3
    assert all("evaluate.protocols: [mariotte2025, strict]" in v.sentence for v in found.verdicts)


def test_the_page_holds_claims_numbers_charts_and_verdicts(tmp_path: Path) -> None:
    write_table(tmp_path / "results.parquet", to_table([*small_study(), *strict_study()]))
    page = write_claims(read_run(tmp_path))
    assert page == tmp_path / "report" / PAGE
    text = page.read_text(encoding="utf-8")
    for wanted in (
        "Codes keep the task: holds",
        "Attributes take fewer dimensions: holds",
        "Pitch early, formants late: holds",
        "even at 95 % sparsity",
        "mean over 8 layers: at 95\xa0% sparsity codes 69.1\xa0%",
        "mean over 2 layers: at 95\xa0% sparsity codes 60.0\xa0%",
        "on the same 12 factors",
        "the centre of pitch lies 1.20 layers before that of formants (0.40 to 2.00 before; by chance up to 0.30 "
        "either way)",
        '<a href="index.html">report</a>',
        "Glossary",
    ):
        assert wanted in text, wanted
    for number in (1, 2, 3):
        assert f'data-chart="claim-{number}-0"' in text
        assert (tmp_path / "report" / "figures" / f"claim-{number}.svg").is_file()


def test_the_page_can_be_read_alone(tmp_path: Path) -> None:
    seen = {"n": 60, "groups": 5}
    strict = [replace(r, **seen) if r.metric.startswith("task_") else r for r in strict_study()]
    main = strictly(
        "reappearing_share", 0.5, "sae", seed=0, sae_id="layer01-k95-seed0", sparsity=0.95, latents=64, k=3, split="all"
    )
    write_table(tmp_path / "results.parquet", to_table([*strict, main]))
    (tmp_path / "corpus.json").write_text('{"name": "synth", "clips": 200}', encoding="utf-8")
    (tmp_path / "config.yaml").write_text("evaluate: {resamples: 1000, strict: {permutations: 7}}", encoding="utf-8")
    page = write_claims(read_run(tmp_path), figures=False)
    assert page is not None
    text = page.read_text(encoding="utf-8")
    asked, verdicts = text.index("Setting</h2>"), text.index("Verdicts</h2>")
    assert asked < verdicts
    for wanted in (
        "synth; 200 clips",
        "60 clips of 5 independent groups",
        "layer 1, its codes with 64 latents at 95\xa0% sparsity (k=3)",
        "2 seeds of the dictionaries (0 and 1)",
        "nulls of 7 refits on permuted targets",
        "intervals of 1000 resamples of whole groups",
        "not computed in this run (<code>mariotte2025</code> in <code>evaluate.protocols</code> asks for it with "
        "<code>train.poolings: [pool_then_encode]</code>)",
    ):
        assert wanted in text, wanted


def formant_study(folder: Path, factors: dict[str, str], *, values: dict[str, list[float]] | None = None) -> str:
    """Write a study that asks the formants named, each of its source, and return its page of claims."""
    asked = [strictly("factor_r2", 0.5, "dense", target=name) for name in factors]
    write_table(folder / "results.parquet", to_table([*strict_study(), *asked]))
    listed = [{"name": name, "source": source, "category": "formants"} for name, source in factors.items()]
    (folder / "factors.json").write_text(json.dumps({"factors": listed}), encoding="utf-8")
    if values:
        write_table(folder / "factors.parquet", pl.DataFrame(values))
    page = write_claims(read_run(folder), figures=False)
    assert page is not None
    return page.read_text(encoding="utf-8")


def test_the_page_says_what_formants_are(tmp_path: Path) -> None:
    true, measured = {"f2_hz": "truth"}, {"F2frequency_sma3nz_amean": "eGeMAPSv02"}
    assert "1 factor (1 known to the synthesiser: f2_hz)</td>" in formant_study(tmp_path, true)
    assert "1 factor (1 of eGeMAPSv02); where true resonances are known" in formant_study(tmp_path, measured)
    hz = [900.0, 1200.0, 1500.0, 1800.0]
    for found, said in ((hz, "at 1.00 (F2)</td>"), (hz[::-1], "at −1.00 (F2): these are no reliable formants")):
        values = {"f2_hz": hz, "F2frequency_sma3nz_amean": found}
        assert said in formant_study(tmp_path, {**true, **measured}, values=values)


def test_what_to_run_is_code_and_no_backtick_is_left(tmp_path: Path) -> None:
    write_table(tmp_path / "results.parquet", to_table(small_study()))
    page = write_claims(read_run(tmp_path), figures=False)
    assert page is not None
    text = page.read_text(encoding="utf-8")
    assert "<code>otoscope run CONFIG.yaml</code>" in text
    assert "not computed in this run (<code>strict</code> in <code>evaluate.protocols</code> asks for it)" in text
    assert "none: nothing was asked of held-out groups" in text
    assert "`" not in text.split("<main")[1].split("<script")[0]


def test_the_same_table_gives_the_same_page(tmp_path: Path) -> None:
    write_table(tmp_path / "results.parquet", to_table([*small_study(), *strict_study()]))
    first = (write_claims(read_run(tmp_path), figures=False) or tmp_path).read_bytes()
    assert (write_claims(read_run(tmp_path), figures=False) or tmp_path).read_bytes() == first


def test_a_run_that_does_not_ask_has_no_page(tmp_path: Path) -> None:
    other = to_table([row("probe_accuracy", 0.5, "dense", protocol="held_out")])
    write_table(tmp_path / "results.parquet", other)
    assert write_claims(read_run(tmp_path)) is None
    assert not (tmp_path / "report").exists()


def without_common_factors() -> list[Record]:
    """A strict study none of whose factors both sides predict."""
    undefined = {"completeness", "effective_latents", "sparse_r2"}
    return [
        replace(r, value=math.nan, low=math.nan, high=math.nan, n=0) if r.metric in undefined else r
        for r in strict_study()
    ]


@pytest.mark.parametrize("strict", [[], without_common_factors()], ids=["compat alone", "no common factor"])
def test_what_is_undefined_is_left_out_and_never_drawn(tmp_path: Path, strict: list[Record]) -> None:
    records = [*small_study(), row("top_completeness", math.nan, "sae", sparsity=0.95, layer=1), *strict]
    write_table(tmp_path / "results.parquet", to_table(records))
    page = write_claims(read_run(tmp_path), figures=False)
    assert page is not None
    assert "NaN" not in page.read_text(encoding="utf-8").split('id="specs">')[1].split("</script>")[0]
