"""Findings of the strict protocol as sentences."""

import math
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

from otoscope.factors.readable_names import readable_name
from otoscope.formatting import NBSP, backed, comma_list, count, decimal, ends, known, percent, sparsity
from otoscope.metrics.registry import METRICS
from otoscope.metrics.representation import (
    BASELINES,
    CODES,
    DENSE,
    REPRESENTATIONS,
    UNINFORMATIVE,
    representation_label,
)
from otoscope.metrics.stability import SHARE
from otoscope.protocols.comparison import Advantage, Comparison, Estimate, Relation
from otoscope.protocols.strict.layers_and_limits import MARGINS
from otoscope.protocols.strict.results import FEW, FewDimensions, LeadDecision, StrictResults, compare_few_dimensions
from otoscope.report.estimates import (
    capitalised,
    caution_of_codes,
    describe_lead_with_p,
    describe_readers,
    dimensions,
    interval,
    seed_range,
)
from otoscope.report.evidence import CHOOSING, choices
from otoscope.report.run_data import RunData
from otoscope.report.sections.findings import Finding
from otoscope.report.tables import FoldedTable, folded, result_rows
from otoscope.resampling.intervals import MIN_GROUPS
from otoscope.runs.training import learned_nothing

UNITS = {"explained variance": "explained variance", "factors": "R²", "task": "accuracy (or R²)"}
"""Unit of each quantity's margin."""


def limit_findings(results: StrictResults) -> list[Finding]:
    """Return the sparsity up to which each preset keeps what its densest level has."""
    by_preset: dict[str, list[str]] = {}
    densest = ""
    for limit in results.limits:
        densest = sparsity(min(limit.levels)) if limit.levels else densest
        if limit.quantity == "task" and any(one.at_chance for one in results.task_comparisons[:1]):
            text = "task undetermined (permuted targets give as much)"
        elif (better := limit.better_sparsity) is not None:
            base, top = percent(limit.levels[min(limit.levels)]), percent(limit.levels[better])
            text = f"{limit.quantity} undetermined (densest {base}, sparser {top} at {sparsity(better)})"
        elif not limit.estimate.measured:
            text = f"{limit.quantity} undetermined (a sparser level exceeds the densest)"
        else:
            ends_of_limit = "" if limit.estimate.too_few_groups else interval(limit.estimate, sparsity)
            text = f"{limit.quantity} {sparsity(limit.estimate.value)}{ends_of_limit}"
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
            f"Sparsest level that loses no more than the margin against the densest{base}, as do all levels below, in "
            f"{seed}: {'; '.join(parts)}. Margins, fixed beforehand: {margin_list()}.",
        )
    ]


def margin_list() -> str:
    """Return the margins in words.

    >>> margin_list().split(", ", 1)[0]
    '5 points of explained variance'
    """
    return comma_list(f"{100 * margin:.0f} points of {UNITS[name]}" for name, margin in MARGINS.items())


Row = dict[str, Any]

LEARNED_LESS = ("start", "frozen_decoder", "soft_frozen_decoder", "untrained_sae", "random_topk", "untrained", "logmel")
"""Representations without learned atoms, without a trained encoder, or without either."""

TOLD_BY_GROUPS = 0.5
"""Mean R² of permuted clips from which on a value is mostly a property of the group."""

ADVANTAGES: dict[Advantage, str] = {
    Advantage.BEYOND_INTERVALS: "On the same clips the codes exceed every baseline beyond the interval.",
    Advantage.WITHIN_INTERVALS: "The codes exceed it, but within the interval of the paired difference.",
    Advantage.NONE: "The codes do not exceed it.",
}

COMPACTNESS: dict[Relation, str] = {
    Relation.LOWER: "The codes are more compact than the layer, paired by factor beyond the interval{ratio}.",
    Relation.HIGHER: "The codes are less compact than the layer, paired by factor beyond the interval{ratio}.",
    Relation.UNCLEAR: "Undecided: paired by factor, the interval includes no difference{ratio}.",
}

FEW_DIMENSIONS: dict[FewDimensions, str] = {
    FewDimensions.HIGHER: (
        "The codes start higher than the layer, paired by factor beyond the intervals: fewer of their dimensions "
        "predict the same."
    ),
    FewDimensions.LOWER: (
        "The codes start lower than the layer, paired by factor beyond the intervals: they need more dimensions for "
        "the same."
    ),
    FewDimensions.HIGHER_WITHIN_INTERVALS: ("The codes start higher than the layer, within the intervals: undecided."),
    FewDimensions.NOT_HIGHER: (
        f"At no number of dimensions up to {FEW} do the codes predict more beyond the interval: no evidence that fewer "
        "of theirs suffice."
    ),
    FewDimensions.MIXED: (
        "The codes predict more at some numbers of dimensions only: no evidence that fewer of theirs suffice."
    ),
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
        *factor_findings(results),
        *compactness_findings(results),
        *few_dimension_findings(results),
        *seed_findings(results),
        *layer_findings(results),
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
        "classes, each factor is replaced by the rank of its value among the clips, near duplicates count once, "
        f"{means}{baselines if labels else 'but no baseline was computed'}."
    )


def _counts(results: StrictResults) -> FoldedTable | None:
    """Return the table of the numbers that the sentences quote and no figure draws."""
    metrics = ("predicted_share", "effective_rank", "mean_max_cosine", "matched_correlation", "reappearing_share")
    title = "Table: factors selected and predicted, and agreement between seeds"
    return folded(title, result_rows(results.where(metric=metrics).rows), "strict-counts")


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
    if starts := _not_learned(results, run):
        text += f" {capitalised(starts)}: no step improved on the start for unseen groups."
    if caution := caution_of_codes(main, run.cards):
        text += f" {caution}"
    if (seeds := len(results.sae_ids)) > 1:
        text += (
            f" Numbers of codes are means over {seeds} seeds; intervals of scores cover groups and seeds, those of "
            "dimensions factors and seeds, not groups."
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


def _not_learned(results: StrictResults, run: RunData) -> str:
    """State that the codes compared were not learned; empty if every seed was."""
    starts = [start for name in results.sae_ids if (start := learned_nothing(run.cards.get(name, {})))]
    if not starts:
        return ""
    seeds = f" ({len(starts)} of {len(results.sae_ids)} seeds)" if len(results.sae_ids) > 1 else ""
    return f"the codes are {starts[0]}, not learned{seeds}"


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
            f" Clips permuted within groups still give {text_of(codes.null_mean)}: groups differ in it, and this R² "
            "mostly tells groups apart."
        )
    if {DENSE, CODES} <= comparison.readers.keys():
        said += f" {capitalised(describe_readers(comparison.readers))}."
    if comparison.at_chance:
        said += f" {describe_chance(comparison, results, text_of)}"
    elif best := comparison.best_baseline:
        subject = "baseline" if len(best.representations) == 1 else "baselines"
        verb = "reaches" if len(best.representations) == 1 else "reach"
        said += f" The best {subject}, {best.label}, {verb} {text_of(best.estimate.value)}."
        said += f" {describe_advantage(comparison)}{_untrained(comparison, text_of)}"
    return Finding(f"The {readable_name(target)} ({kind})", said)


def _below_mean(estimate: Estimate, regression: bool) -> bool:
    return regression and estimate.value < 0


def describe_chance(comparison: Comparison, results: StrictResults, text_of: Callable[[float], str]) -> str:
    """Return the result for a layer and codes that do not exceed permuted targets, and the layers that do."""
    regression, layer = comparison.metric == "task_r2", f"layer {results.layer}"
    if _below_mean(comparison.dense, regression) and _below_mean(comparison.codes, regression):
        said = f"{capitalised(layer)} and its codes predict it worse than the mean of the training rows does."
    else:
        said = f"Neither {layer} nor its codes exceed permuted targets: there is no sign that either predicts it."
    beyond = [row for row in layer_scores(results, comparison) if not Estimate.from_row(row).at_chance]
    if not beyond:
        return said
    each = comma_list(f"layer {row['layer']} ({text_of(row['value'])}; {ends(row, text_of)})" for row in beyond)
    within = all(not row["low"] > row["null_high"] for row in beyond)
    return f"{said} Above permuted targets{', within the interval' if within else ''}: {each}."


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
            scores = comma_list(f"{text_of(row['value'])} (layer {row['layer']})" for row in rows)
            each.append(f"{readable_name(comparison.target)}, {'R²' if regression else 'balanced accuracy'} {scores}")
    return f"From the dense layers: {'; '.join(each)}." if each else ""


def describe_advantage(comparison: Comparison) -> str:
    """Return the decision on the codes against the best baseline."""
    advantage = comparison.advantage
    if advantage is None or advantage is Advantage.TOO_FEW_GROUPS:
        return f"Advantage of the codes: {too_few(comparison.codes.groups)}."
    return ADVANTAGES[advantage]


def _untrained(comparison: Comparison, text_of: Callable[[float], str]) -> str:
    """Return a remark where an untrained encoder reaches more than the trained layer."""
    if not comparison.untrained_is_better:
        return ""
    value = text_of(comparison.others["untrained"].value)
    return f" An untrained encoder reaches {value}: there is no sign that training the encoder helped."


def factor_findings(results: StrictResults) -> list[Finding]:
    """Return the number of factors that layer and codes predict."""
    dense, codes = results.one("predicted_share", DENSE), results.one("predicted_share", CODES)
    if dense is None or codes is None:
        return []
    verb = "have a good R² on these clips" if (dense["groups"] or 0) < MIN_GROUPS else "are predicted well"
    counts = results.comparison("predicted_share")
    said = (
        f"{_share(dense)} factors {verb} from the dense layer, {_share(codes)} from the codes"
        f"{describe_counts(counts) if counts is not None else ''}. Permuted factors: none in 95{NBSP}% of cases."
    )
    common = results.comparison("mean_factor_r2")
    if common is not None:
        both = results.one("completeness", CODES)
        said += f" {both['n']} are predicted by both and every seed." if both is not None else ""
        change = common.change
        difference = f" (difference {_two(change.value)}{interval(change, _two)})" if change.measured else ""
        said += (
            f" Over the {common.dense.n} {predicted_by_either(results)}, losses included, the mean R² of a linear map "
            f"(below 0 counts as 0) is {_two(common.dense.value)} from the dense layer and {_two(common.codes.value)} "
            f"from the codes{difference}.{_better_baselines(results)}"
        )
    return [Finding("Factors", said)]


def describe_counts(counts: Comparison) -> str:
    """Return the range over seeds of the predicted factors, and the count of the best baseline."""

    def text_of(share: float) -> str:
        return str(round(share * counts.codes.n))

    seeds = f" ({text})" if (text := seed_range(counts.seeds, text_of)) else ""
    best = counts.best_baseline
    if best is None:
        return seeds
    one = len(best.representations) == 1
    most = f", {text_of(best.estimate.value)} from {best.label}, the best baseline{'' if one else 's'}"
    more = ": the codes do not exceed it" if counts.codes.value <= best.estimate.value else ""
    return f"{seeds}{most}{more}"


def predicted_by_either(results: StrictResults) -> str:
    """Return the rule of the factors that means of R² cover, as a clause."""
    seeds = len(results.sae_ids)
    return (
        f"that the layer predicts, or all {seeds} seeds of the codes"
        if seeds > 1
        else "that the layer or the codes predict"
    )


def _better_baselines(results: StrictResults) -> str:
    """Return the baselines that predict factors better than the codes beyond the interval, as a sentence."""
    better = [
        representation_label(row["representation"])
        for row in results.where(metric=METRICS["mean_factor_r2"].difference)
        if row["representation"] != DENSE and known(row["high"]) and row["high"] < 0 and row["groups"] >= MIN_GROUPS
    ]
    verb = "predicts" if len(better) == 1 else "predict"
    return f" On the same clips, {comma_list(better)} {verb} more, beyond the interval." if better else ""


def compactness_findings(results: StrictResults) -> list[Finding]:
    """Return the number of dimensions over which a factor spreads."""
    comparison = results.comparison("effective_latents")
    if comparison is None or not (comparison.dense.measured and comparison.codes.measured):
        return []
    dense, codes = comparison.dense, comparison.codes
    seeds = f"; {text}" if (text := seed_range(comparison.seeds, dimensions)) else ""
    ratio = comparison.change
    decision = describe_compactness(
        comparison, ratio=f" (ratio {_two(ratio.value)}{interval(ratio, _two)})" if ratio.measured else ""
    )
    said = (
        f"A factor takes {dimensions(dense.value)} effective dimensions of the dense layer "
        f"({ends(vars(dense), dimensions)}) and {dimensions(codes.value)} of the codes "
        f"({ends(vars(codes), dimensions)}{seeds}), the geometric mean over the {codes.n} common factors. {decision}"
    )
    r2 = results.comparison("mean_factor_r2")
    if r2 is not None:
        said += _predict_less(results, r2)
    less = {name: estimate for name in LEARNED_LESS if (estimate := comparison.others.get(name)) and estimate.measured}
    shares = {name: results.one("predicted_share", name, "common") for name in less}
    each = [
        f"{representation_label(name)} {dimensions(estimate.value)} ({_share(share)} factors predicted)"
        for name, estimate in less.items()
        if (share := shares[name]) is not None
    ]
    if each:
        said += f" Representations that learned less or nothing: {comma_list(each)}."
        said += (
            f" Dimensions are those of all {codes.n} common factors: what predicts fewer of them may take few because "
            "it predicts little."
        )
    if compact := more_compact(comparison):
        each = [
            f"{representation_label(name)} (ratio {_two(r.value)}{interval(r, _two)})" for name, r in compact.items()
        ]
        said += f" The codes take more, beyond the interval, than {comma_list(each)}."
    if equal := unlearned_as_compact(comparison):
        said += f" They do not take fewer, beyond the interval, than {comma_list(equal)}."
    if equal or compact.keys() & set(LEARNED_LESS):
        said += " Compactness alone does not show learning."
    return [Finding("Compactness", said)]


def describe_compactness(comparison: Comparison, *, ratio: str = "") -> str:
    """Return the decision on the dimensions that a factor takes; `ratio` is inserted into it."""
    groups = min(comparison.dense.groups, comparison.codes.groups)
    return COMPACTNESS.get(comparison.relation, f"Compactness: {too_few(groups)}.").format(ratio=ratio)


def unlearned_as_compact(comparison: Comparison) -> list[str]:
    """Return the labels of representations that learned less and take neither more nor fewer dimensions."""
    measured = [name for name in LEARNED_LESS if (other := comparison.others.get(name)) and other.measured]
    decided = (Relation.LOWER, Relation.HIGHER)
    return [representation_label(name) for name in measured if comparison.relation_to(name) not in decided]


def more_compact(comparison: Comparison) -> dict[str, Estimate]:
    """Return the baselines that take fewer dimensions than the codes beyond the interval, with the ratio."""
    return {
        name: comparison.against(name)
        for name, other in comparison.others.items()
        if name not in UNINFORMATIVE and other.measured and comparison.relation_to(name) is Relation.HIGHER
    }


def _predict_less(results: StrictResults, ridge: Comparison) -> str:
    """State that the codes predict less by ridge regression beyond the paired interval, and by the LASSO or not."""
    if ridge.relation is not Relation.LOWER:
        return ""
    text = f"mean R² by ridge {_two(ridge.codes.value)} against {_two(ridge.dense.value)}"
    lasso = {
        name: results.where(metric="factor_r2", representation=name, layer=results.layer, split="test").measured
        for name in (DENSE, CODES)
    }
    codes, dense = (
        [max(v, 0.0) for v in (table.where(sae_id=results.sae_ids) if name == CODES else table).values()]
        for name, table in ((CODES, lasso[CODES]), (DENSE, lasso[DENSE]))
    )
    if not codes or not dense:
        return ""
    means = sum(codes) / len(codes), sum(dense) / len(dense)
    if means[0] < means[1]:
        return f" They also predict less ({text}, by LASSO over all factors {_two(means[0])} against {_two(means[1])})."
    return f" They predict less by ridge ({text}) but not by LASSO: this depends on the reader."


def few_dimension_findings(results: StrictResults) -> list[Finding]:
    """Return the mean R² from the best dimension and the best eight, and the decision."""
    compared = results.few_dimensions
    said: list[str] = []
    for size in (size for size in (results.sizes[0] if results.sizes else 0, FEW) if size in compared):
        comparison = compared[size]
        dense, codes, best = comparison.dense, comparison.codes, comparison.best_baseline
        parts = [
            f"{_two(codes.value)}{interval(codes, _two)} from the codes",
            f"{_two(dense.value)}{interval(dense, _two)} from the dense layer",
            *([f"{_two(best.estimate.value)} from {best.label}, the best baseline"] if best else []),
        ]
        said.append(f"{count(size, 'dimension')}: {comma_list(parts)}")
    if not said:
        return []
    comparisons = list(compared.values())
    groups = min(min(c.dense.groups, c.codes.groups) for c in comparisons)
    decision = FEW_DIMENSIONS.get(compare_few_dimensions(comparisons), f"Comparison: {too_few(groups)}.")
    each = "; from ".join(dict.fromkeys(said))
    of_factors = f"Mean R² (below 0 counts as 0) of the factors {predicted_by_either(results)}"
    text = f"{of_factors}, from the best {each}. {decision}"
    return [Finding("A few dimensions", text)]


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
    text = (
        f"Over {share['n']} seeds the atoms of two SAEs have a mean largest cosine of {decimal(atoms['value'], 2)} "
        f"(random atoms {decimal(atoms['null_mean'], 2)}); matched latents correlate at {decimal(latents['value'], 2)} "
        f"on average (clips shuffled {decimal(latents['null_mean'], 2)}, up to {decimal(latents['null_high'], 2)}). "
        f"{percent(share['value'])} of the latents that fire reappear in at least {needed} of the {others} other seeds "
        f"(shuffled {percent(share['null_mean'])}, up to {percent(share['null_high'])} with pairs that learned "
        "nothing); the gallery names only such latents."
    )
    if latents["value"] <= latents["null_high"]:
        text += " The correlation lies within its null, so by itself it shows no agreement."
    for name, subject in NOTHING_LEARNED.items():
        rows = [results.where(metric=m, representation=name).first() for m in AGREEMENT]
        values = [row["value"] for row in rows if row is not None]
        if len(values) == len(AGREEMENT):
            text += (
                f" Pairs of {subject}: cosine {decimal(values[0], 2)}, correlation {decimal(values[1], 2)}, "
                f"{percent(values[2])} reappear{_easier(rows[-1], needed)}."
            )
    if share["value"] <= share["null_high"]:
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
    return [Finding("Pitch early, formants and phonemes late", f"{capitalised('; '.join(said))}.")]


def too_few(groups: int) -> str:
    """Return the text in place of a decision."""
    return f"{count(groups, 'test group is', 'test groups are')} too few to decide (at least {MIN_GROUPS})"


def _share(row: Row, column: str = "value") -> str:
    """Return a share as a count of all."""
    return f"{round(row[column] * row['n'])} of {row['n']}" if known(row[column]) else "–"


def _two(value: float) -> str:
    return decimal(value, 2)
