"""Findings of the strict protocol on factors: how many are predicted, and over how many dimensions each spreads."""

import math
from functools import partial
from statistics import fmean
from typing import NamedTuple

import polars as pl

from otoscope.factors.readable_names import readable_name
from otoscope.formatting import NBSP, comma_list, count, decimal, ends, known, percent
from otoscope.metrics.registry import METRICS
from otoscope.metrics.representation import CODES, DENSE, UNINFORMATIVE, representation_label
from otoscope.metrics.results import Row
from otoscope.protocols.comparison import MARGIN, Comparison, Estimate, Relation
from otoscope.protocols.strict.results import FEW, FewDimensions, StrictResults, compare_few_dimensions
from otoscope.report.estimates import (
    RANDOM_DIRECTIONS,
    decimal_with_interval,
    describe_lower_from,
    dimensions,
    predicted_by_either,
    seed_range,
    too_few,
    with_interval_and_null,
)
from otoscope.report.sections.findings import Finding
from otoscope.resampling.intervals import MIN_GROUPS

LEARNED_LESS = ("start", "frozen_decoder", "soft_frozen_decoder", "untrained_sae", "random_topk", "untrained", "logmel")
"""Representations without learned atoms, without a trained encoder, or without either."""

COMPACTNESS: dict[Relation, str] = {
    Relation.LOWER: "The codes are more compact than the layer, paired by factor beyond the interval{ratio}.",
    Relation.HIGHER: "The codes are less compact than the layer, paired by factor beyond the interval{ratio}.",
    Relation.UNCLEAR: "Undecided: paired by factor, the interval includes no difference{ratio}.",
}

FEW_ON_TASKS = "sparse_probe_balanced_accuracy"

LOW_BAR = "their ranks, above the low bar of R² in Methods"
"""Meaning of a predicted factor in counts."""

DIRECTIONS = {Relation.HIGHER: "more", Relation.LOWER: "less"}

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


def factor_findings(results: StrictResults) -> list[Finding]:
    """Return the number of factors that layer and codes predict."""
    dense, codes = results.one("predicted_share", DENSE), results.one("predicted_share", CODES)
    if dense is None or codes is None:
        return []
    verb = "have a good R² on these clips" if (dense["groups"] or 0) < MIN_GROUPS else "are predicted well"
    counts = results.comparison("predicted_share")
    said = (
        f"{_share(dense)} factors {verb} from the dense layer by LASSO ({LOW_BAR}), "
        f"{_share(codes)} from the codes"
        f"{describe_counts(counts) if counts is not None else ''}. Counts have no interval and "
        f"do not rank. Permuted factors: none in 95{NBSP}% of cases."
        f"{describe_told_by_groups(results)}"
    )
    common = results.comparison("mean_factor_r2")
    if common is not None:
        both = results.one("completeness", CODES)
        said += f" {both['n']} are predicted by both and every seed." if both is not None else ""
        change = common.change
        difference = f" (difference {decimal_with_interval(change, 2)})" if change.measured else ""
        covered = f"Over the {common.dense.n} {predicted_by_either(len(results.sae_ids))}, losses included"
        said += (
            f" {covered}, the mean R² of ridge regression (below 0 counts as 0) is {decimal(common.dense.value, 2)} "
            f"from the dense layer and {decimal(common.codes.value, 2)} from the codes{difference}"
            f"{describe_readers_of_factors(results)}.{_either_rule(results)}{_mean_of_baselines(common)}"
            f"{_better_baselines(results)}"
        )
    return [Finding("Factors", said)]


def describe_told_by_groups(results: StrictResults) -> str:
    """Return how many factors of the layer mostly distinguish groups, as a sentence after a blank; empty for none."""
    rows = results.where(metric="factor_r2", layer=results.layer, representation=DENSE, split="test").measured.rows
    null_mean = pl.col("null_mean").fill_nan(None)
    mostly = rows.filter((null_mean > pl.col("value") / 2) & (pl.col("value") > pl.col("null_high")))
    if mostly.is_empty():
        return ""
    number = mostly["target"].n_unique()
    verb = "tells" if number == 1 else "tell"
    return (
        f" {number} of those predicted from the layer mostly {verb} groups apart: clips permuted within groups keep "
        "more than half of the R²."
    )


def describe_counts(counts: Comparison) -> str:
    """Return the range over seeds of the predicted factors, in brackets after a blank; empty for one seed."""

    def text_of(share: float) -> str:
        return str(round(share * counts.codes.n))

    return f" ({text})" if (text := seed_range(counts.seeds, text_of)) else ""


def _either_rule(results: StrictResults) -> str:
    """State that the rule of the covered factors asks more of several seeds than of the layer."""
    if len(results.sae_ids) < 2:
        return ""
    return " The layer adds factors by one fit, the codes only by all seeds, which favours the layer."


def _mean_of_baselines(comparison: Comparison) -> str:
    """Return the means of the best baseline and of the dictionary before training, each with the codes minus it."""
    best, start = comparison.best_baseline, comparison.others.get("start")
    of = (
        {best.representations[0]: f"The {best.noun}, {best.label}, reaches {decimal(best.estimate.value, 2)}"}
        if best
        else {}
    )
    if start is not None and start.measured and "start" not in of:
        of["start"] = f"SAE before training reaches {decimal(start.value, 2)}"
    each = [
        f" {text} (codes minus it {decimal_with_interval(comparison.against(name), 2)})." for name, text in of.items()
    ]
    return "".join(each)


class FactorReaders(NamedTuple):
    """Relation of the codes to a representation by ridge regression, and the means of R² by LASSO over all factors."""

    ridge: Relation
    codes: float
    other: float

    @property
    def relation(self) -> Relation:
        """Relation by ridge regression where the LASSO agrees with it; otherwise the reader decides, not the codes."""
        agrees = {Relation.HIGHER: self.codes > self.other, Relation.LOWER: self.codes < self.other}
        return self.ridge if agrees.get(self.ridge, True) else Relation.UNCLEAR

    @property
    def by_lasso(self) -> str:
        """Means by LASSO, as a clause."""
        return f"by LASSO over all factors {decimal(self.codes, 2)} against {decimal(self.other, 2)}"


def readers_of_factors(results: StrictResults, representation: str = DENSE) -> FactorReaders | None:
    """Compare the R² of the codes with that of a representation by both readers; None without a difference by ridge.

    Ridge regression reads wide codes with idle latents badly, and the LASSO reads dense activations badly.
    """
    common = results.comparison("mean_factor_r2")
    if common is None or not common.against(representation).measured:
        return None
    lasso = results.where(metric="factor_r2", layer=results.layer, split="test").measured
    tables = lasso.where(representation=CODES, sae_id=results.sae_ids), lasso.where(representation=representation)
    means = [fmean(max(value, 0.0) for value in table.values()) if table else math.nan for table in tables]
    return FactorReaders(common.relation_to(representation), *means)


def describe_readers_of_factors(results: StrictResults) -> str:
    """Return the direction of the difference to the layer if both readers agree, or the other means, as a clause.

    Where ridge regression decides nothing, the clause states whether it excludes a loss.
    """
    found, common = readers_of_factors(results), results.comparison("mean_factor_r2")
    if found is None or common is None or found.ridge is Relation.TOO_FEW_GROUPS or not common.change.bounded:
        return ""
    if found.ridge not in DIRECTIONS:
        margin = f"a loss above the margin of {decimal(MARGIN, 2)}"
        excluded = common.change.low >= -MARGIN
        return f", which excludes {margin}" if excluded else f", undecided: {margin} is not excluded"
    if found.relation in DIRECTIONS:
        return f", so the codes predict {DIRECTIONS[found.relation]} ({found.by_lasso})"
    return f", but {found.by_lasso}: this depends on the reader"


def _better_baselines(results: StrictResults) -> str:
    """Return the numbers of baselines that predict factors better, worse and neither, with the differences."""
    rows = results.where(metric=METRICS["mean_factor_r2"].difference)
    names = dict.fromkeys(row["representation"] for row in rows)
    names = [name for name in names if name not in (DENSE, *UNINFORMATIVE)]
    compared = {name: found for name in names if (found := readers_of_factors(results, name))}
    common = results.comparison("mean_factor_r2")
    if common is None or not compared:
        return ""
    parts: list[str] = []
    for noun, relation in (("higher", Relation.LOWER), ("lower", Relation.HIGHER)):
        each = [
            f"{representation_label(name)}, codes minus this {decimal_with_interval(common.against(name), 2)}"
            f"{'' if found.relation is relation else ', but not by LASSO'}"
            for name, found in compared.items()
            if found.ridge is relation
        ]
        in_brackets = f" ({'; '.join(each)})" if each else ""
        parts.append(f"{len(each)} {'is' if len(each) == 1 else 'are'} {noun}{in_brackets}")
    open_ones = sum(found.ridge not in DIRECTIONS for found in compared.values())
    return (
        f" By ridge regression on the same clips, of {count(len(compared), 'baseline')} {comma_list(parts)} than the "
        f"codes beyond the interval, which is not corrected for their number; {open_ones} undecided."
    )


def compactness_findings(results: StrictResults) -> list[Finding]:
    """Return the number of dimensions over which a factor spreads."""
    comparison = results.comparison("effective_latents")
    if comparison is None or not (comparison.dense.measured and comparison.codes.measured):
        return []
    dense, codes = comparison.dense, comparison.codes
    seeds = f"; {text}" if (text := seed_range(comparison.seeds, dimensions)) else ""
    ratio = comparison.change
    of_ratio = f" (ratio {decimal_with_interval(ratio, 2)})" if ratio.measured else ""
    decision = describe_compactness(comparison, ratio=of_ratio)
    said = (
        f"A factor takes {dimensions(dense.value)} effective dimensions of the dense layer "
        f"({ends(vars(dense), dimensions)}) and {dimensions(codes.value)} of the codes "
        f"({ends(vars(codes), dimensions)}{seeds}), the geometric mean over the {codes.n} common factors. {decision}"
    )
    said += _predict_less(results)
    less = {name: estimate for name in LEARNED_LESS if (estimate := comparison.others.get(name)) and estimate.measured}
    each = [
        f"{representation_label(name)} {dimensions(estimate.value)} ({_share(share)} factors predicted)"
        for name, estimate in less.items()
        if (share := results.one("predicted_share", name, "common")) is not None
    ]
    if each:
        said += (
            f" Representations that learned less or nothing: {comma_list(each)}. Dimensions are those of all {codes.n} "
            "common factors: what predicts fewer of them may take few because it predicts little."
        )
    if compact := more_compact(comparison):
        each = [f"{representation_label(name)} (ratio {decimal_with_interval(r, 2)})" for name, r in compact.items()]
        said += f" The codes take more, beyond the interval, than {comma_list(each)}."
    if fewer := less_compact(comparison):
        said += f" They take fewer, beyond the interval, than {comma_list(map(representation_label, fewer))}."
    if equal := unlearned_as_compact(comparison):
        said += f" They do not take fewer, beyond the interval, than {comma_list(equal)}."
    random = comparison.against(RANDOM_DIRECTIONS)
    if comparison.relation is Relation.HIGHER and random.measured and random.low <= 1:
        said += (
            f" As many random directions as latents take no fewer (ratio {decimal_with_interval(random, 2)}): more "
            "dimensions than the layer's need no training. Sparser codes were not compared in this way."
        )
    if equal or compact.keys() & set(LEARNED_LESS):
        said += " Compactness alone does not show learning."
    return [Finding("Compactness", said)]


def describe_compactness(comparison: Comparison, *, ratio: str = "") -> str:
    """Return the decision on the dimensions that a factor takes; `ratio` is inserted into it."""
    groups = min(comparison.dense.groups, comparison.codes.groups)
    return COMPACTNESS.get(comparison.relation, f"Compactness: {too_few(groups)}.").format(ratio=ratio)


def unlearned_as_compact(comparison: Comparison) -> list[str]:
    """Return the labels of baselines that take neither more nor fewer dimensions, those that learned less first."""
    decided = (Relation.LOWER, Relation.HIGHER)
    names = [*LEARNED_LESS, *(name for name in comparison.others if name not in (*LEARNED_LESS, *UNINFORMATIVE))]
    measured = [name for name in names if (other := comparison.others.get(name)) and other.measured]
    return [representation_label(name) for name in measured if comparison.relation_to(name) not in decided]


def more_compact(comparison: Comparison) -> dict[str, Estimate]:
    """Return the baselines that take fewer dimensions than the codes beyond the interval, with the ratio."""
    return _compact(comparison, Relation.HIGHER)


def less_compact(comparison: Comparison) -> dict[str, Estimate]:
    """Return the baselines that take more dimensions than the codes beyond the interval, with the ratio."""
    return _compact(comparison, Relation.LOWER)


def _compact(comparison: Comparison, relation: Relation) -> dict[str, Estimate]:
    return {
        name: comparison.against(name)
        for name, other in comparison.others.items()
        if name not in UNINFORMATIVE and other.measured and comparison.relation_to(name) is relation
    }


def _predict_less(results: StrictResults) -> str:
    """State that the codes predict less by both readers, or by ridge regression alone; empty if not by that."""
    found, r2 = readers_of_factors(results), results.comparison("mean_factor_r2")
    if found is None or r2 is None or found.ridge is not Relation.LOWER:
        return ""
    text = f"{decimal(r2.codes.value, 2)} against {decimal(r2.dense.value, 2)}"
    if found.relation is Relation.LOWER:
        return f" They also predict less (mean R² by ridge {text}, {found.by_lasso})."
    return f" By ridge alone, their mean R² is lower ({text}; {found.by_lasso}): this depends on the reader."


def few_dimension_findings(results: StrictResults) -> list[Finding]:
    """Return the mean R² from the best dimension and the best eight with the decision, and the accuracies of tasks."""
    compared, on_tasks = results.few_dimensions, describe_few_on_tasks(results)
    text_of = partial(decimal, digits=2)
    said: list[str] = []
    for size in (size for size in (results.sizes[0] if results.sizes else 0, FEW) if size in compared):
        comparison = compared[size]
        dense, codes, best = comparison.dense, comparison.codes, comparison.best_baseline
        parts = [
            f"{with_interval_and_null(codes, text_of)} from the codes",
            f"{with_interval_and_null(dense, text_of)} from the dense layer",
            *([f"{with_interval_and_null(best.estimate, text_of)} from {best.label}, the {best.noun}"] if best else []),
        ]
        change = comparison.change
        difference = f" (codes minus layer {decimal_with_interval(change, 2)})" if change.measured else ""
        said.append(f"{count(size, 'dimension')}: {comma_list(parts)}{difference}")
    if not said:
        return [Finding("A few dimensions", on_tasks)] if on_tasks else []
    comparisons = list(compared.values())
    groups = min(min(c.dense.groups, c.codes.groups) for c in comparisons)
    decision = FEW_DIMENSIONS.get(compare_few_dimensions(comparisons), f"Comparison: {too_few(groups)}.")
    each = "; from ".join(dict.fromkeys(said))
    of_factors = f"Mean R² (below 0 counts as 0) of the factors {predicted_by_either(len(results.sae_ids))}"
    text = f"{of_factors}, from the best {each} (intervals over factors). {decision}"
    text += describe_lower_from(results.lower_from)
    return [Finding("A few dimensions", f"{text} {on_tasks}".strip())]


def describe_few_on_tasks(results: StrictResults) -> str:
    """Return the balanced accuracy of each task from few dimensions as a sentence; empty if none was measured."""
    size = max((size for size in results.sizes if size <= FEW), default=0)
    text_of = partial(percent, digits=0)
    said: list[str] = []
    for target in results.targets(FEW_ON_TASKS):
        comparison = results.comparison(FEW_ON_TASKS, target, dimensions=size)
        if comparison is None or not (comparison.codes.measured and comparison.dense.measured):
            continue
        parts = [
            f"{with_interval_and_null(comparison.codes, text_of)} from the codes",
            f"{with_interval_and_null(comparison.dense, text_of)} from the dense layer",
        ]
        start, best = comparison.others.get("start"), comparison.best_baseline
        if best is not None:
            if start is not None and start.measured and "start" not in best.representations:
                parts.append(f"{text_of(start.value)} from {representation_label('start')}")
            parts.append(f"{text_of(best.estimate.value)} from {best.label}, the {best.noun}")
        said.append(f"{readable_name(target)} {comma_list(parts)}")
    if not said:
        return ""
    return (
        f"Balanced accuracy of tasks from the best {count(size, 'dimension')} (intervals over groups; differences "
        f"were not paired, so they are undecided): {'; '.join(said)}."
    )


def _share(row: Row) -> str:
    """Return a share as a count of all."""
    return f"{round(row['value'] * row['n'])} of {row['n']}" if known(row["value"]) else "–"
