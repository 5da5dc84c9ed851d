"""The page of claims: verdicts, numbers and provenance."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from otoscope.artifacts import write_json, write_table
from otoscope.metrics.record import Record, to_table
from otoscope.metrics.representation import representation_label
from otoscope.protocols.claims import (
    FEW,
    HIGH_SPARSITY,
    REQUIRED_RIVALS,
    RIVALS,
    Claims,
    CompactnessClaim,
    OrderingClaim,
    TaskClaim,
)
from otoscope.protocols.comparison import MARGIN, Comparison, Estimate, Verdict
from otoscope.protocols.strict.results import LAYER_MARGIN, LEVEL, LayerLead
from otoscope.report.claims.page import CLAIMS, PAGE, examine, write_claims
from otoscope.report.figures.claims import SOURCES, STUDY_PRESET, layers_figure, task_figure
from otoscope.report.run_data import read_run
from otoscope.resampling.intervals import MIN_GROUPS
from tests.support.claim_studies import row, small_study, strict_study, strictly


def test_rules_of_the_claims_state_the_numbers_by_which_they_are_decided() -> None:
    points, groups = f"{100 * MARGIN:g}", f"{MIN_GROUPS}"
    numbers = [
        {f"{100 * HIGH_SPARSITY:g}", points, groups},
        {f"{FEW}", points, groups, "1", "0"},  # a ratio of 1, a difference of 0
        {f"{LAYER_MARGIN:g}", f"{LEVEL:g}", groups, "0"},  # layer 0
    ]
    assert [set(re.findall(r"\d+(?:\.\d+)?", claim.rule)) for claim in CLAIMS] == numbers
    required, measured = CLAIMS[1].rule.split("and against any measured")
    for name in RIVALS:
        assert representation_label(name) in (required if name in REQUIRED_RIVALS else measured)


def _task(low: float, high: float, *, null_high: float = 0.2, groups: int = MIN_GROUPS) -> TaskClaim:
    codes = {HIGH_SPARSITY: Estimate(0.8, null_high=null_high)}
    change = Estimate((low + high) / 2, low, high, groups=groups)
    return TaskClaim(Estimate(0.8, null_high=0.2), codes, "technique", {HIGH_SPARSITY: change})


def _attributes(ratio: tuple[float, float], few: tuple[float, float], **lost: tuple[float, float]) -> CompactnessClaim:
    """Return a claim by its intervals against the layer; `lost` replaces the difference of few dimensions to rivals."""

    def compared(metric: str, differences: dict[str, tuple[float, float]]) -> Comparison:
        found = {name: Estimate(sum(ends) / 2, *ends, groups=MIN_GROUPS) for name, ends in differences.items()}
        others = {name: Estimate(1.0) for name in found}
        return Comparison(metric, "", Estimate(1.0), Estimate(1.0), others=others, differences=found)

    ratios, differences = dict.fromkeys(REQUIRED_RIVALS, (0.2, 0.5)), dict.fromkeys(REQUIRED_RIVALS, (0.1, 0.2))
    return CompactnessClaim(
        Comparison("completeness", "", Estimate(0.5), Estimate(0.6)),
        dimensions=compared("effective_latents", {"dense": ratio, **ratios}),
        few=compared("sparse_r2", {"dense": few, **differences, **lost}),
        factors=9,
    )


def _layers(low: float, p: float, *, blocks: float = 2.0) -> OrderingClaim:
    without = Estimate(blocks, null_high=0.3)
    return OrderingClaim(leads=[LayerLead("pitch", "MFCC", Estimate(2.0, low, 3.0, groups=MIN_GROUPS), without, p=p)])


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (_task(-0.99 * MARGIN, 0.1), Verdict.HOLDS),
        (_task(-0.99 * MARGIN, 0.1, null_high=0.9), Verdict.UNDECIDED),
        (_task(-1.01 * MARGIN, 0.1), Verdict.UNDECIDED),
        (_task(-0.1, -0.99 * MARGIN), Verdict.UNDECIDED),
        (_task(-0.1, -1.01 * MARGIN), Verdict.FAILS),
        (_task(-0.1, -1.01 * MARGIN, groups=MIN_GROUPS - 1), Verdict.UNDECIDED),
        (_attributes((0.5, 0.99), (-0.1, 0.1)), Verdict.HOLDS),
        (_attributes((0.5, 1.01), (-0.1, 0.1)), Verdict.UNDECIDED),
        (_attributes((0.99, 2.0), (-0.1, 0.1)), Verdict.UNDECIDED),
        (_attributes((1.01, 2.0), (-0.1, 0.1)), Verdict.FAILS),
        (_attributes((0.5, 0.99), (-0.1, 0.1 - 1.98 * MARGIN)), Verdict.HOLDS),
        (_attributes((0.5, 0.99), (-0.1, 0.1 - 2.02 * MARGIN)), Verdict.UNDECIDED),
        (_attributes((0.5, 0.99), (-0.1, -0.001)), Verdict.FAILS),
        (_attributes((0.5, 0.99), (-0.1, 0.1), pca=(-0.1, -0.001)), Verdict.EQUALLY),
        (_layers(1.01 * LAYER_MARGIN, LEVEL), Verdict.HOLDS),
        (_layers(0.99 * LAYER_MARGIN, LEVEL), Verdict.UNDECIDED),
        (_layers(1.01 * LAYER_MARGIN, 1.01 * LEVEL), Verdict.UNDECIDED),
        (_layers(1.01 * LAYER_MARGIN, LEVEL, blocks=0.2), Verdict.UNDECIDED),
    ],
)
def test_claims_are_decided_at_the_numbers_that_their_rules_state(
    claim: TaskClaim | CompactnessClaim | OrderingClaim, verdict: Verdict
) -> None:
    judgement = claim.decide()
    assert judgement is not None
    assert judgement.verdict is verdict


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
    assert "not used for any fit or choice" not in text.split("<main")[1].split("<summary>Glossary")[0]
    assert "factors are fitted and scored on the same clips" in text


def test_the_chart_draws_the_interval_by_which_the_verdict_decides() -> None:
    found = TaskClaim(Estimate(0.8), {0.95: Estimate(0.7)}, "technique", {0.95: Estimate(-0.1, -0.14, -0.07)})
    figure = task_figure({SOURCES[-1]: Claims(found, None, None)})
    assert figure is not None
    ends = figure.table.select("difference_points", "low_points", "high_points").row(0)
    assert ends == pytest.approx((-10.0, -14.0, -7.0))


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({0.75: 5, 0.95: 1, 0.99: 1}, "one layer, mean over the seeds of a sparsity (5 at 75\xa0%, 1 elsewhere), with"),
        ({0.75: 2, 0.95: 2}, "one layer, mean over 2 seeds, with"),
        ({0.95: 1}, "one layer, with"),
    ],
)
def test_the_chart_of_the_task_counts_the_seeds_behind_its_points(seeds: dict[float, int], said: str) -> None:
    found = TaskClaim(Estimate(0.8), dict.fromkeys(seeds, Estimate(0.7)), "technique", seed_counts=seeds)
    figure = task_figure({SOURCES[-1]: Claims(found, None, None)})
    assert figure is not None
    assert said in figure.caption
    full, hollow = figure.panels[0].spec["layer"][-2:]
    assert (full["mark"]["filled"], hollow["mark"]["filled"]) == (True, False)
    assert hollow["transform"][0]["filter"] == "(datum.mean === '1 seed')"
    assert full["encoding"]["color"] == hollow["encoding"]["color"]  # one legend of sources
    assert "legend" not in full["encoding"]["color"]
    assert set(figure.table["mean"]) == {f"{n} seed{'s' if n > 1 else ''}" for n in seeds.values()}


def test_the_chart_of_the_task_names_the_pooling_of_the_studys_preset() -> None:
    claims = Claims(TaskClaim(Estimate(0.8), {0.95: Estimate(0.7)}, "technique"), None, None)
    pooled_first = "The study's preset encodes one mean per clip, so each clip has k active latents; codes of frames"
    for sources, said in (({SOURCES[-1]: claims}, False), ({SOURCES[-1]: claims, STUDY_PRESET: claims}, True)):
        figure = task_figure(sources)
        assert figure is not None
        assert (pooled_first in figure.caption) is said


def test_write_claims_states_every_difference_and_both_nulls(tmp_path: Path) -> None:
    measured = [replace(r, null_high=0.05) if r.metric == "sparse_r2" and r.value == 0.3 else r for r in strict_study()]
    write_table(tmp_path / "results.parquet", to_table(measured))
    page = write_claims(read_run(tmp_path), figures=False)
    assert page is not None
    text = page.read_text(encoding="utf-8")
    assert "codes minus layer: −1.1 points (−1.8 to −0.4)" in text
    assert "codes 0.500 (0.400 to 0.600), null up to 0.100, layer 0.300 (0.200 to 0.400), null up to 0.050" in text
    assert "codes minus layer: +20.0 points (+10.0 to +30.0)" in text


def test_layers_figure_shows_the_null_of_each_category() -> None:
    measured = [
        strictly("category_r2", 0.6, "dense", target=target, layer=layer, null_high=0.1 * (layer + 1))
        for target in ("pitch", "mfcc")
        for layer in (0, 1)
    ]
    figure = layers_figure({SOURCES[-1]: Claims(None, None, OrderingClaim(curves=to_table(measured)))})
    assert figure is not None
    assert figure.table["null_high"].to_list()[:4] == [0.1, 0.2, 0.1, 0.2]
    drawn = json.dumps(figure.panels[0].chart.to_dict())
    assert '"field": "null_high"' in drawn
    assert "dashed, the upper end of its null" in figure.caption


def test_two_groups_decide_none_of_the_claims() -> None:
    few = [replace(r, groups=2) for r in strict_study()]
    found = examine(to_table(few))
    assert [v.outcome for v in found.verdicts] == ["undecided"] * 3
    assert all("2 groups are too few" in v.sentence for v in found.verdicts)


def test_without_held_out_groups_nothing_is_decided() -> None:
    found = examine(to_table(small_study()))
    assert [v.outcome for v in found.verdicts] == ["not tested"] * 3
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
        "the centre of pitch lies 1.20 layers before that of formants (0.60 to 2.00 before; categories permuted: up "
        "to 0.30 either way; p",
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
    write_json(tmp_path / "saes" / "layer01-k95-seed0" / "card.json", {"model": {"width": 8}})
    (tmp_path / "corpus.json").write_text('{"name": "synth", "clips": 200}', encoding="utf-8")
    (tmp_path / "config.yaml").write_text("evaluate: {strict: {folds: 3}}", encoding="utf-8")
    page = write_claims(read_run(tmp_path), figures=False)
    assert page is not None
    text = page.read_text(encoding="utf-8")
    asked, verdicts = text.index("Setting</h2>"), text.index("Verdicts</h2>")
    assert asked < verdicts
    for wanted in (
        "synth; 200 clips",
        "60 clips of 5 independent groups",
        "layer 1, its codes with 64 latents at 95\xa0% sparsity (k=3)",
        "with 64 latents and 8 dimensions, k and its ratio to the dimensions are: 75\xa0% (k=16, 2.00)",
        "at 5 of the six at least a quarter",
        "Caution: k=3 is 38\xa0% of the 8 dimensions of the layer.",
        "2 seeds of the SAEs (0 and 1)",
        "nulls from test clips permuted within groups",
        "for leads in layers, from the categories permuted over the factors",
        "of a lead in layers, the lead with the categories permuted over the factors",
        "for dimensions and R² from few dimensions only factors",
        "intervals from leaving out one group at a time",
        "not computed in this run (add <code>mariotte2025</code> to <code>evaluate.protocols</code> with "
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
    assert "not computed in this run (add <code>strict</code> to <code>evaluate.protocols</code>)" in text
    assert "none: the run did not evaluate on held-out groups" in text
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
