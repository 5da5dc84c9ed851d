"""Findings of the strict protocol as sentences: setting, tasks, agreement between seeds, layers, and limits."""

import math
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

import polars as pl

from otoscope.factors.readable_names import readable_name
from otoscope.formatting import backed, comma_list, decimal, ends, known, percent, sparsity
from otoscope.metrics.representation import BASELINES, CODES, DENSE, REPRESENTATIONS, representation_label
from otoscope.metrics.results import Row
from otoscope.metrics.stability import SHARE
from otoscope.protocols.comparison import TOLD_BY_GROUPS, Advantage, Comparison, Estimate, Relation
from otoscope.protocols.strict.layers_and_limits import MARGINS
from otoscope.protocols.strict.results import LeadDecision, StrictResults
from otoscope.report.claim_factors import describe_formants, describe_pitch
from otoscope.report.estimates import (
    capitalised,
    caution_of_codes,
    decimal_with_interval,
    describe_lead_with_p,
    describe_leads_beyond_null,
    describe_readers,
    interval,
    points,
    seed_range,
    too_few,
    undetermined_limits,
)
from otoscope.report.evidence import CHOOSING, choices, describe_training
from otoscope.report.run_data import RunData
from otoscope.report.sections.findings import Finding, left_out_findings
from otoscope.report.sections.strict_factors import compactness_findings, factor_findings, few_dimension_findings
from otoscope.report.tables import FoldedTable, folded, result_rows
from otoscope.runs.training import unlearned

ADVANTAGES: dict[Advantage, str] = {
    Advantage.BEYOND_INTERVALS: "On the same clips the codes exceed every baseline beyond the interval.",
    Advantage.WITHIN_INTERVALS: "The codes reach more, but within the interval of the paired difference.",
    Advantage.NONE: "The codes do not reach more.",
}


class StrictSummary(NamedTuple):
    """Introduction, findings, the representations compared (label, name, description), and a table of counts."""

    introduction: str
    findings: Sequence[Finding]
    representations: Sequence[tuple[str, str, str]]
    counts: FoldedTable | None


def strict_findings(run: RunData) -> StrictSummary | None:
    """Return the content of the section; None if the run did not use the strict protocol."""
    results = StrictResults.of(run.results.rows)
    if not results:
        return None
    findings = [
        *setting_findings(results, run),
        *task_findings(results),
        *left_out_findings(run, run.labels, strict=True),
        *factor_findings(results),
        *compactness_findings(results),
        *few_dimension_findings(results),
        *seed_findings(results),
        *layer_findings(results),
        *_categories(results, run),
        *limit_findings(results),
    ]
    present = set(results.unique("representation"))
    shown = [(entry.label, name, entry.description) for name, entry in REPRESENTATIONS.items() if name in present]
    return StrictSummary(_introduction(results, present), findings, shown, _counts(results))


def _introduction(results: StrictResults, present: Set[str]) -> str:
    """Return the reasons why these are the numbers for claims."""
    means = "codes are means over seeds, " if len(results.sae_ids) > 1 else ""
    labels = [REPRESENTATIONS[name].label for name in BASELINES if name in present]
    baselines = f"and every comparison includes baselines ({comma_list(labels)})"
    return (
        "These numbers support claims: penalties are chosen by leaving whole groups out, accuracy is balanced over "
        "classes, each factor (but no task) is replaced by the rank of its value among the clips, near duplicates "
        "count once, "
        f"{means}{baselines if labels else 'but no baseline was computed'}."
    )


def _counts(results: StrictResults) -> FoldedTable | None:
    """Return the table of the numbers that the sentences quote and no figure draws.

    Ends of the agreement between seeds are those over pairs. Those of a count are counted by the ends of the factors'
    own intervals, which is no interval of the count.
    """
    metrics = ("predicted_share", "effective_rank", "mean_max_cosine", "matched_correlation", "reappearing_share")
    title = "Table: factors selected and predicted, and agreement between seeds"
    ends = pl.when(pl.col("metric") != "predicted_share").then(pl.col("low", "high"))
    rows = result_rows(results.where(metric=metrics).rows.with_columns(ends))
    return folded(title, rows.rename({"low": "lowest_pair", "high": "highest_pair"}, strict=False), "strict-counts")


def setting_findings(results: StrictResults, run: RunData) -> list[Finding]:
    """Return the layer, codes and factors compared."""
    main = results.main
    if main is None:
        return []
    strict = ((run.config.get("evaluate") or {}).get("strict")) or {}
    asked = {name: strict.get(name, "chosen") == "chosen" for name in ("layer", "sparsity")}
    how = choices(results.where(metric=CHOOSING).rows, run.clips, **asked)
    how = f" ({how})" if how else ""
    text = (
        f"Layer {results.layer} and its codes at {sparsity(main['sparsity'])} sparsity (k={main['k']} of "
        f"{main['latents']} latents) are compared in full{how}."
    )
    for found in unlearned({name: run.cards.get(name, {}) for name in results.sae_ids}):
        seeds = f" ({len(found.names)} of {len(results.sae_ids)} seeds)" if len(results.sae_ids) > 1 else ""
        text += f" The codes are {found.label}{seeds}: {found.reason}."
    if training := describe_training(run, results.sae_ids):
        text += f" Training of dictionaries: {training}."
    if caution := caution_of_codes(main, run.cards):
        text += f" {caution}"
    and_seeds = ""
    if (seeds := len(results.sae_ids)) > 1:
        and_seeds = " and seeds"
        text += f" Numbers of codes are means over {seeds} seeds; baselines have one seed each."
    text += (
        f" Intervals of tasks and of the mean R² of linear maps cover groups{and_seeds}; those of dimensions, and of "
        f"the mean R² from few dimensions, cover factors{and_seeds}, not groups."
    )
    ranks = {row["target"]: row for row in results.where(metric="effective_rank")}
    if len(ranks) == 2:
        given, used = ranks["as given"], ranks["as asked"]
        text += (
            f" Of {given['n']} factors {used['n']} are used, each as the rank of its value among the "
            "clips: factors dominated by a few clips are dropped and near duplicates count once. Many still depend "
            f"on each other; together they vary in about {used['value']:.0f} independent directions (effective rank)."
        )
    return [Finding("Setting", text)]


def task_findings(results: StrictResults) -> list[Finding]:
    """Return the comparison on each task."""
    return [_task_finding(comparison, results) for comparison in results.task_comparisons]


def _task_finding(comparison: Comparison, results: StrictResults) -> Finding:
    target, dense, codes = comparison.target, comparison.dense, comparison.codes
    regression = comparison.metric == "task_r2"
    text_of = decimal if regression else percent
    kind = "one label"
    if regression or " + " in target:
        kind = "a value" if regression else "several labels at once, each class present or not"
    seeds = f"; {text}" if (text := seed_range(comparison.seeds, text_of)) else ""
    null = f"; null {text_of(codes.null_mean)}" if known(codes.null_mean) and not _below_mean(codes, regression) else ""
    # a null floored at 0 says nothing of a value below 0
    of_layer = vars(dense) | ({"null_mean": None} if _below_mean(dense, regression) else {})
    said = (
        f"{'R²' if regression else 'Balanced accuracy'} {text_of(dense.value)} from the dense layer "
        f"({backed(of_layer, as_percent=not regression)}), {text_of(codes.value)} from the codes "
        f"({ends(vars(codes), text_of)}{null}{seeds})."
    )
    if regression and known(codes.null_mean) and codes.null_mean > TOLD_BY_GROUPS:
        said += (
            f" From the codes, clips permuted within groups still give {text_of(codes.null_mean)}: groups differ in "
            "it, and this R² mostly tells groups apart."
        )
    if {DENSE, CODES} <= comparison.readers.keys():
        said += f" {capitalised(describe_readers(comparison.readers))}."
    if comparison.at_chance or comparison.untestable:
        said += f" {describe_chance(comparison, results, text_of)}"
    elif best := comparison.best_baseline:
        verb = "reaches" if len(best.representations) == 1 else "reach"
        said += f" The {best.noun}, {best.label}, {verb} {text_of(best.estimate.value)}."
        said += f" {describe_advantage(comparison)}{_untrained(comparison, text_of)}"
        said += _before_training(comparison, text_of)
    return Finding(f"The {readable_name(target)} ({kind})", said)


def _below_mean(estimate: Estimate, regression: bool) -> bool:
    return regression and estimate.value < 0


def _includes_0(r2: Estimate) -> bool:
    return r2.low <= 0 <= r2.high and not r2.too_few_groups


def describe_chance(comparison: Comparison, results: StrictResults, text_of: Callable[[float], str]) -> str:
    """Return the result for a layer and codes that do not exceed permuted targets, and the layers that do."""
    regression, layer = comparison.metric == "task_r2", f"layer {results.layer}"
    if comparison.untestable:
        return f"Too few clips or groups can be permuted to tell {layer} and its codes from chance."
    both = comparison.dense, comparison.codes
    said = f"Neither {layer} nor its codes exceed permuted targets: there is no sign that either predicts it."
    if regression and all(one.high < 0 and not one.too_few_groups for one in both):
        said = f"{capitalised(layer)} and its codes predict it worse than the mean of the training rows does."
    elif regression and all(map(_includes_0, both)):
        said = f"From {layer} and from its codes, R² is not distinguishable from 0."
    beyond = [row for row in layer_scores(results, comparison) if not Estimate.from_row(row).at_chance]
    if not beyond:
        return said
    sure = [row for row in beyond if row["low"] > row["null_high"]]
    for rows, end in ((sure, ""), ([row for row in beyond if row not in sure], UNSURE)):
        each = comma_list(f"layer {row['layer']} ({text_of(row['value'])}; {_backed(row, text_of)})" for row in rows)
        verb = "exceeds" if len(rows) == 1 else "exceed"
        said += f" {capitalised(each)} {verb} permuted targets{end}." if rows else ""
    if regression and any(row["null_high"] > 0 for row in beyond):
        said += " Targets are permuted within groups, which keeps differences between groups."
    return said


UNSURE = ", but the interval reaches down to these: undecided"
"""Decision on a score above its null whose interval includes the null."""


def _backed(row: Row, text_of: Callable[[float], str]) -> str:
    null = f"; permuted up to {text_of(row['null_high'])}" if known(row["null_high"]) else ""
    return f"{ends(row, text_of)}{null}"


def layer_scores(results: StrictResults, comparison: Comparison) -> list[Row]:
    """Return the test rows of a task from every dense layer, by layer."""
    table = results.where(metric=comparison.metric, target=comparison.target, representation=DENSE, split="test")
    return list(table.measured.rows.sort("layer").iter_rows(named=True))


def describe_layers(results: StrictResults) -> str:
    """Return the scores of every task from every dense layer as a sentence; empty for a single layer."""
    each: list[str] = []
    for comparison in results.task_comparisons:
        regression = comparison.metric == "task_r2"
        rows, text_of = layer_scores(results, comparison), decimal if regression else percent
        if len(rows) > 1:
            scores = comma_list(
                f"{text_of(row['value'])} (layer {row['layer']}; {_backed(row, text_of)})" for row in rows
            )
            unclear = regression and all(_includes_0(Estimate.from_row(row)) for row in rows)
            said = f"{readable_name(comparison.target)}, {'R²' if regression else 'balanced accuracy'} {scores}"
            each.append(f"{said}, each with an interval that includes 0" if unclear else said)
    return f"From the dense layers: {'; '.join(each)}." if each else ""


def describe_advantage(comparison: Comparison) -> str:
    """Return the decision on the codes against the best baseline."""
    advantage = comparison.advantage
    if advantage is None or advantage is Advantage.TOO_FEW_GROUPS:
        return f"Advantage of the codes: {too_few(comparison.codes.groups)}."
    best = comparison.best_baseline
    difference = _difference(comparison, best.representations[0]) if best is not None else ""
    if best is None or not difference:
        return ADVANTAGES[advantage]
    chosen = ", not corrected for the choice of the best" if best.among > 1 else ""
    return f"{ADVANTAGES[advantage]} Codes minus {representation_label(best.representations[0])}: {difference}{chosen}."


def _difference(comparison: Comparison, representation: str) -> str:
    """Return the difference of the codes to a representation with its interval; empty without one."""
    change = comparison.against(representation)
    if not change.bounded:
        return ""
    return decimal_with_interval(change) if comparison.metric == "task_r2" else points(change)


def _untrained(comparison: Comparison, text_of: Callable[[float], str]) -> str:
    """Return a remark where an untrained encoder reaches more than the trained layer."""
    if not comparison.untrained_is_better:
        return ""
    value = f"{text_of(comparison.others['untrained'].value)}{_codes_minus(comparison, 'untrained')}"
    return f" An untrained encoder reaches {value}: there is no sign that training the encoder helped in this layer."


def _codes_minus(comparison: Comparison, representation: str) -> str:
    """Return the difference of the codes to a representation in brackets after a blank; empty without an interval."""
    difference = _difference(comparison, representation)
    return f" (codes minus it: {difference})" if difference else ""


def _before_training(comparison: Comparison, text_of: Callable[[float], str]) -> str:
    """Return the score of the dictionary before training, unless the trained one is better or that is the baseline."""
    found, change = comparison.others.get("start"), comparison.against("start")
    best = comparison.best_baseline
    if found is None or not change.bounded or comparison.relation_to("start") is Relation.HIGHER:
        return ""
    helped = "there is no sign that training the dictionary helped"
    by_groups = known(comparison.codes.null_mean) and comparison.codes.null_mean > TOLD_BY_GROUPS
    if comparison.relation_to("start") is Relation.LOWER and not (comparison.metric == "task_r2" and by_groups):
        helped = "training the dictionary lost part of it, beyond the interval"
    if best is not None and "start" in best.representations:
        return f" {capitalised(helped)}."
    reached = f"{text_of(found.value)}{_codes_minus(comparison, 'start')}"
    return f" The SAE before training reaches {reached}: {helped}."


AGREEMENT = ("mean_max_cosine", "matched_correlation", "reappearing_share")
"""Measures of agreement between seeds."""

NOTHING_LEARNED = {"start": "SAEs before training", "frozen_decoder": "SAEs with random, frozen atoms"}
"""Pairs of SAEs without learned atoms, the null of agreement between seeds."""


def seed_findings(results: StrictResults) -> list[Finding]:
    """Return the agreement between SAEs of different seeds."""
    atoms, latents, share = (results.where(metric=m, representation=CODES).first() for m in AGREEMENT)
    if atoms is None or latents is None or share is None:
        return []
    others = max(share["n"] - 1, 1)
    needed = math.ceil(SHARE * others - 1e-9)
    nothing = bool(results.where(metric=AGREEMENT, representation=tuple(NOTHING_LEARNED)))

    def reached(high: str) -> str:
        """Return the upper end, the largest of the null's own and those of pairs that learned nothing."""
        return f"; pairs that learned nothing up to {high}" if nothing else f", up to {high}"

    cosines, correlations = (reached(decimal(row["null_high"], 2)) for row in (atoms, latents))
    text = (
        f"Over {share['n']} seeds the atoms of two SAEs have a mean largest cosine of {decimal(atoms['value'], 2)} "
        f"(random atoms {decimal(atoms['null_mean'], 2)}{cosines}); matched latents correlate at "
        f"{decimal(latents['value'], 2)} on average (clips shuffled {decimal(latents['null_mean'], 2)}{correlations}). "
        f"{percent(share['value'])} of the latents that fire reappear in at least {needed} of the {others} other seeds "
        f"(clips shuffled {percent(share['null_mean'])}{reached(percent(share['null_high']))}); the gallery names only "
        "such latents."
    )
    if latents["value"] <= latents["null_high"]:
        text += " The correlation lies within its null, so by itself it shows no agreement."
    alike = True  # a pair has one other SAE, in which latents reappear more easily than in several
    for name, subject in NOTHING_LEARNED.items():
        rows = [results.where(metric=m, representation=name).first() for m in AGREEMENT]
        values = [row["value"] for row in rows if row is not None]
        if len(values) == len(AGREEMENT):
            text += (
                f" Pairs of {subject}: cosine {decimal(values[0], 2)}, correlation {decimal(values[1], 2)}, "
                f"{percent(values[2])} reappear{(easier := _easier(rows[-1], needed))}."
            )
            alike = alike and not easier
    if alike and share["value"] <= share["null_high"]:
        text += (
            " The latents reappear no more often than without learning, so the agreement is no evidence of learning."
        )
    return [Finding("Agreement between seeds", text)]


def _easier(share: Row | None, needed: int) -> str:
    """Return the remark that a pair is compared with a single other SAE, which asks less of a latent."""
    others = share["n"] - 1 if share is not None else needed
    return f" in {others} of {others}, which is easier than {needed}" if others < needed else ""


LEADS: dict[LeadDecision, str] = {
    LeadDecision.DECIDED: "beyond half a layer over the whole interval",
    LeadDecision.UNDECIDED: "but not beyond both half a layer and chance over all leads",
}


def layer_findings(results: StrictResults) -> list[Finding]:
    """Return the order of categories over the layers."""
    said: list[str] = []
    for lead in results.leads:
        if lead.estimate.measured:
            rests = f" (for {lead.second}, chance reaches as far without layer 0, the input of the first block)"
            decision = LEADS.get(lead.decision, too_few(lead.estimate.groups))
            text = describe_lead_with_p(lead)
            said.append(f"{text}, {decision}{rests if lead.rests_on_input else ''}")
    if not said:
        return []
    text = f"{capitalised('; '.join(said))}.{_centres(results)}"
    return [Finding("Pitch early, formants and phonemes late", text)]


def _centres(results: StrictResults) -> str:
    """Return the centres of the compared categories, that of a flat curve, and leads beyond the null, as sentences."""
    curves = results.where(metric="category_r2")
    names = dict.fromkeys(name for lead in results.leads for name in (lead.first, lead.second))
    rows = {row["target"]: row for row in results.where(metric="centre_layer", representation=DENSE)}
    each = [f"{name} {decimal_with_interval(Estimate.from_row(rows[name]), 2)}" for name in names if name in rows]
    layers = curves.unique("layer")
    text = ""
    if each and layers:
        flat = decimal(sum(layers) / len(layers), 2)
        text = f" Centres: {comma_list(each)}; a curve that is the same in all layers has its centre at {flat}."
    if beyond := describe_leads_beyond_null(results.leads, curves.rows):
        text += f" R² includes differences between groups; with the means of the nulls subtracted, {beyond}."
    return text


def _categories(results: StrictResults, run: RunData) -> list[Finding]:
    """Return the factors of pitch and of formants that the order over the layers counts; none without an order."""
    factors = results.targets("factor_r2")
    members = {"Pitch": describe_pitch(run, factors), "Formants": describe_formants(run, factors)}
    each = [f"{name}: {text}." for name, text in members.items() if text]
    return [Finding("Factors of this order", " ".join(each))] if results.leads and each else []


UNITS = {"explained variance": "explained variance", "factors": "R²", "task": "accuracy (or R²)"}
"""Unit of each quantity's margin."""


def limit_findings(results: StrictResults) -> list[Finding]:
    """Return the sparsity up to which each preset keeps what its densest level has."""
    by_preset: dict[str, list[str]] = {}
    densest = ""
    for limit, reason in zip(results.limits, undetermined_limits(results), strict=True):
        densest = sparsity(min(limit.levels)) if limit.levels else densest
        ends_of_limit = "" if limit.estimate.too_few_groups else interval(limit.estimate, sparsity)
        text = f"{limit.quantity} {sparsity(limit.estimate.value)}{ends_of_limit}"
        if reason:
            text = f"{limit.quantity} undetermined ({reason})"
        by_preset.setdefault(limit.preset, []).append(text)
    if not by_preset:
        return []
    parts = [f"preset {preset}: {comma_list(limits)}" for preset, limits in by_preset.items()]
    base = f" ({densest} sparsity)" if densest else ""
    seeds = len(results.sae_ids)
    seed = f"the first of {seeds} seeds, not their mean" if seeds > 1 else "a single seed"
    return [
        Finding(
            "Sparsity limit",
            f"Sparsest level that loses no more than the margin against the densest codes of the same preset{base}, "
            f"not against the layer, as do all levels below, in {seed}: {'; '.join(parts)}. Margins, fixed beforehand: "
            f"{margin_list()}.",
        )
    ]


def margin_list() -> str:
    """Return the margins in words.

    >>> margin_list().split(", ", 1)[0]
    '5 points of explained variance'
    """
    return comma_list(f"{100 * margin:.0f} points of {UNITS[name]}" for name, margin in MARGINS.items())
