"""Findings of the page's first section: sentences with intervals, nulls and groups, next to the key numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from otoscope import formatting
from otoscope.corpus.table import is_constant_within_groups
from otoscope.formatting import NBSP, backed, comma_list, count, decimal, known, percent, sparsity
from otoscope.metrics.predictions import accuracy_difference, confusion, recall_by_class
from otoscope.metrics.registry import describe_rows
from otoscope.metrics.representation import CODES, DENSE, WITHOUT_MODEL, representation_label
from otoscope.metrics.results import Row
from otoscope.report.estimates import caution_of_codes, describe_unlearned, read_from
from otoscope.report.evidence import Evidence, count_folds
from otoscope.report.figures.factors import factor_layer
from otoscope.report.results import (
    PREDICTED_R2,
    Results,
    between_only,
    median_of,
    predicted,
    too_weak,
    untestable,
    without_null,
)
from otoscope.report.run_data import RunData
from otoscope.report.sections.key_numbers import Tile, number_tiles
from otoscope.resampling.groups import labelled_splits
from otoscope.runs.inputs import reader_split


class Finding(NamedTuple):
    """A sentence with its topic."""

    topic: str
    text: str


class Summary(NamedTuple):
    """Key numbers and sentences; both empty where the results hold no number."""

    tiles: Sequence[Tile]
    findings: Sequence[Finding]


def summary(run: RunData, evidence: Evidence | None = None) -> Summary:
    """Return key numbers as tiles, then sentences with intervals, nulls and groups.

    Where the evidence is too thin for a claim there are no tiles, and the sentences only state what was measured.
    """
    results, thin = run.results, evidence is not None and evidence.thin
    noun = str(run.corpus.get("group_noun") or "group")
    findings = [
        *(f for label in results.labels for f in probe_findings(run, label, thin=thin)),
        *between_findings(run, noun),
        *left_out_findings(run, run.results.labels),
        *variance_findings(run, thin=thin),
        *factor_findings(results, noun=noun, thin=thin, single=run.single_clip_groups),
    ]
    return Summary([] if thin else number_tiles(run, folds=count_folds(run.clips)), findings)


def probe_findings(run: RunData, label: str, *, thin: bool = False) -> list[Finding]:
    """Return the probe scores of the dense layers and the loss of the codes; short for all labels but the first."""
    results = run.results
    if label != results.labels[0]:
        return _brief(run, label, thin=thin)
    best = results.best_layer
    dense = results.one("probe_accuracy", "dense", target=label, layer=best.layer)
    findings: list[Finding] = []
    if dense:
        findings.append(
            Finding(
                f"A probe for the {label}" if thin else f"Probing the layers for the {label}",
                f"A linear probe on the dense activations of layer {best.layer} reaches an accuracy of "
                f"{percent(dense['value'])}{read_from(dense)} on {_where(thin)} ({_backed(run, label, dense)}). "
                f"Layer {best.layer} was chosen because {best.because(count_folds(run.clips))}."
                f"{unread_classes(run, label, dense)}"
                f"{_without_model(run, label, dense)}",
            )
        )
    rows_of_codes = [codes for at in results.headline_sparsities if (codes := results.codes_of(label, at))]
    if rows_of_codes:
        topic = f"Probes on codes for the {label}" if thin else f"Probing sparse codes for the {label}"
        findings.append(
            Finding(topic, " ".join(_loss_sentence(run, label, codes, thin=thin) for codes in rows_of_codes))
        )
    return findings


def between_findings(run: RunData, noun: str) -> list[Finding]:
    """Return the labels that are constant within groups, whose probes compare groups only.

    Where every group has a single clip, nothing else is compared either.
    """
    if run.single_clip_groups:
        return [
            Finding(
                f"Between {noun}s only",
                f"Every {noun} has a single clip: probes, factors and latents compare {noun}s only, and any property "
                f"shared by similar {noun}s predicts a target. The null permutes {noun}s.",
            )
        ]
    labels = [name for name in run.labels if run.clips is not None and f"label_{name}" in run.clips.columns]
    constant = [name for name in labels if run.clips is not None and is_constant_within_groups(run.clips, name)]
    if not constant:
        return []
    is_are = "is" if len(constant) == 1 else "are"
    return [
        Finding(
            f"Between {noun}s only",
            f"{comma_list(constant)} {is_are} constant within each {noun}: a probe compares {noun}s only, and any "
            f"property shared by the {noun}s of a class predicts it. The null permutes {noun}s.",
        )
    ]


def left_out_findings(run: RunData, labels: Sequence[str], *, strict: bool = False) -> list[Finding]:
    """Return the classes without clips to learn from (in a fold of a cross-fit): training clips.

    The readers of the `strict` protocol learn from validation clips too.
    """
    if run.clips is None:
        return []
    fitted = ["train", "valid"] if strict else ["train"]
    parts: list[str] = []
    for label in (name for name in labels if f"label_{name}" in run.clips.columns):
        column, absent = run.clips[f"label_{label}"], set[str]()
        for _, split in labelled_splits(reader_split(run.clips), column.is_not_null().to_numpy()):
            # of one split, validation clips are left out too
            tested = column.filter(split == "test") if "fold" in run.clips.columns else column
            absent |= set(tested.drop_nulls()) - set(column.filter(np.isin(split, fitted)).drop_nulls())
        if absent:
            parts.append(f"{comma_list(sorted(absent))} ({label})")
    if not parts:
        return []
    clip, readers = ("training or validation clip", "strict scores") if strict else ("training clip", "probes")
    return [
        Finding("Classes left out", f"No {clip} has {comma_list(parts)}: their clips are left out of the {readers}.")
    ]


def _where(thin: bool) -> str:
    return "these test clips" if thin else "unseen groups"


def _brief(run: RunData, label: str, *, thin: bool) -> list[Finding]:
    results = run.results
    best = results.best_layer_for(label)
    dense = results.one("probe_accuracy", "dense", target=label, layer=best.layer)
    parts: list[str] = []
    if dense:
        reached = f"{percent(dense['value'])}{read_from(dense)} ({_backed(run, label, dense)})"
        reason = best.because(count_folds(run.clips))
        parts.append(f"Layer {best.layer}, chosen because {reason}, reaches an accuracy of {reached}.")
        parts += filter(None, [unread_classes(run, label, dense).strip()])
        parts += filter(None, [_without_model(run, label, dense).strip()])
    if codes := results.codes_of(label, results.reference_sparsity):
        parts.append(_loss_sentence(run, label, codes, thin=thin))
    return [Finding(f"The {label}", " ".join(parts))] if parts else []


def _backed(run: RunData, label: str, row: Row) -> str:
    return "; ".join(filter(None, (backed(row), run.few_groups(label, row), _beyond_groups(run, label, row))))


def _beyond_groups(run: RunData, label: str, row: Row) -> str:
    """Return the part of an accuracy that groups and chance do not give; empty for labels that compare groups only."""
    column = f"label_{label}"
    if run.clips is None or column not in run.clips.columns or is_constant_within_groups(run.clips, label):
        return ""
    if not known(row["null_mean"]):
        return ""
    points = 100 * (row["value"] - row["null_mean"])
    return f"{points:.1f} points beyond groups and chance" if points > 0 else "nothing beyond groups and chance"


def _without_model(run: RunData, label: str, dense: Row) -> str:
    """Return the accuracies without any model as a sentence with a blank before it; empty without them."""
    rows = {name: run.results.one("probe_accuracy", name, target=label) for name in WITHOUT_MODEL}
    each = [
        f"{representation_label(name)} {percent(row['value'])}{read_from(row)} ({_backed(run, label, row)}), "
        f"{against_layer(run, label, row, dense)}"
        for name, row in rows.items()
        if row
    ]
    return f" Without any model: {comma_list(each)}." if each else ""


def _loss_sentence(run: RunData, label: str, codes: Row, *, thin: bool) -> str:
    return f"{_loss(run, label, codes, thin=thin)}.{unread_classes(run, label, codes)}"


def _loss(run: RunData, label: str, codes: Row, *, thin: bool) -> str:
    dense = run.results.one("probe_accuracy", "dense", target=label, layer=codes["layer"])
    reached = f"{percent(codes['value'])}{read_from(codes)} ({_backed(run, label, codes)})"
    where = f"(k={codes['k']}) the codes of layer {codes['layer']}"
    start = f"At {sparsity(codes['sparsity'])} sparsity {where} reach {reached}"
    if dense is None:
        return start
    if thin:
        return f"{start}; that layer's dense activations reach {percent(dense['value'])}{read_from(dense)}"
    return f"{start}, {against_layer(run, label, codes, dense)}"


MAX_UNREAD = 5
"""Classes without recall beyond chance that a sentence names."""
MAX_PREDICTED = 3
"""Most frequent predictions for the clips of such a class that a sentence names."""


def unread_classes(run: RunData, label: str, row: Row, *, source: str = "") -> str:
    """Return the classes whose recall is no higher than by chance, as a sentence after a blank; empty without any.

    Chance is the share of all test clips with this prediction. An accuracy over all classes hides such a class. The
    sentence also names the undecided classes, whose recall is higher and has an interval that includes chance.
    """
    predicted_classes = run.predicted_by(label, row)
    if predicted_classes is None:
        return ""
    recalls, cells = recall_by_class(predicted_classes), confusion(predicted_classes)
    unread = recalls.filter(pl.col("recall") <= pl.col("chance")).sort("recall", "class")
    if unread.is_empty():
        return ""
    undecided = recalls.filter(pl.col("recall") > pl.col("chance"), pl.col("low") <= pl.col("chance"))
    named = [
        f"{one['class']} ({percent(one['recall'], 0)}, chance {percent(one['chance'], 0)}, "
        f"predicted as {_mostly_predicted(cells.filter(true_class=one['class']))})"
        for one in unread.iter_rows(named=True)
    ]
    of = f" from {source}" if source else ""
    more = (
        f"; undecided (interval includes chance) for {_first_classes(undecided['class'].to_list())}"
        if undecided.height
        else ""
    )
    return f" Recall{of} is no higher than by chance for {_first_classes(named)}{more}."


def _first_classes(classes: Sequence[str]) -> str:
    more = [f"{len(classes) - MAX_UNREAD} more"] if len(classes) > MAX_UNREAD else []
    return comma_list([*classes[:MAX_UNREAD], *more])


def _mostly_predicted(cells: pl.DataFrame) -> str:
    """Return the most frequent predictions for the clips of one class, from its cells of the confusion matrix."""
    most = cells.filter(pl.col("clips") > 0).sort("clips", "predicted_class", descending=[True, False])
    return comma_list(most["predicted_class"].head(MAX_PREDICTED))


def against_layer(run: RunData, label: str, codes: Row, dense: Row) -> str:
    """Return the difference of an accuracy, of codes or without a model, to a layer's, with its interval on its clips.

    Where the interval includes 0, no direction is claimed.
    """
    change = 100 * (codes["value"] - dense["value"])
    layer = f"layer {dense['layer']} ({percent(dense['value'])})"
    measured, points = "no difference", f"as much as {layer}"
    if abs(change) >= 0.05:
        measured = f"{abs(change):.1f} points {'more' if change > 0 else 'less'}"
        points = f"{measured} than {layer}"
    rows = run.predicted_by(label, codes), run.predicted_by(label, dense)
    if rows[0] is None or rows[1] is None:
        return points
    found = accuracy_difference(rows[0], rows[1])
    if not formatting.known(found.low):
        return f"{points} (no interval)"
    low, high = (decimal(100 * end, 1) for end in (found.low, found.high))
    span = f"95{NBSP}% interval of the difference {low} to {high} points"
    if found.low <= 0 <= found.high:
        return f"not distinguishable from {layer}: {measured} ({span})"
    return f"{points}: {span}"


def variance_findings(run: RunData, *, thin: bool = False) -> list[Finding]:
    """Return the share of the layers' variance that the dictionaries explain, with a caution about dense codes."""
    results = run.results
    parts: list[str] = []
    cautions: dict[str, None] = {}
    shown: set[str] = set()
    for at in results.headline_sparsities:
        rows = results.of("explained_variance", "sae", sparsity=at).filter(pl.col("value").is_not_nan())
        if rows.is_empty():
            continue
        ordered = rows.sort("value")
        low, high = ordered.row(0, named=True), ordered.row(-1, named=True)
        span = _explained_at(results, high)
        if low["layer"] != high["layer"]:
            span = f"{_explained_at(results, low)} to {span}"
        parts.append(f"at {sparsity(at)} sparsity {span} of the variance on {_where(thin)} ({describe_rows(high)})")
        shown |= set(rows["sae_id"])
        cautions |= dict.fromkeys(filter(None, (caution_of_codes(row, run.cards) for row in (low, high))))
    if not parts:
        return []
    text = f"The dictionaries explain {comma_list(parts)}; predicting the training mean explains 0{NBSP}%."
    not_learned = describe_unlearned({sae_id: run.cards.get(sae_id, {}) for sae_id in sorted(shown)})
    return [Finding("Reconstruction", " ".join(filter(None, [text, not_learned, *cautions])))]


def _explained_at(results: Results, row: Row) -> str:
    """Return explained variance with its layer, and that of as many principal components."""
    components = results.components_of(row)
    same = f"; as many principal components: {percent(components['value'])}" if components else ""
    return f"{percent(row['value'])} (layer {row['layer']}{same})"


def factor_findings(
    results: Results, *, noun: str = "group", thin: bool = False, single: bool = False
) -> list[Finding]:
    """Return the numbers of factors predicted from the layer and its codes, and of their dimensions.

    `single`: every group has one clip, so that the null permutes groups.
    """
    layer, at = factor_layer(results), results.reference_sparsity
    if layer is None:
        return []
    sources = {
        "the dense activations": results.of("factor_r2", "dense", layer=layer),
        f"the codes at {sparsity(at)} sparsity": results.of("factor_r2", "sae", layer=layer, sparsity=at),
    }
    by_source = {name: known for name, rows in sources.items() if (known := results.with_test_values(rows)).height}
    if not by_source:
        return []
    more = f"; {missing}" if (missing := results.unmeasured_note) else ""
    if thin:
        parts = [_reached(rows, name, noun) for name, rows in by_source.items()]
        return [Finding(f"Factors at layer {layer}", f"On {_where(thin)} {comma_list(parts)}{more}.")]
    parts = [_predicted(rows, name, noun) for name, rows in by_source.items()]
    permuted = f"{noun}s are permuted" if single else f"clips are permuted within each {noun}"
    beyond = f", above its null and positive within {noun}s"
    beyond = " and above its null" if single or not results.has_r2_within else beyond
    findings = [
        Finding(
            f"Factors at layer {layer}",
            f"{comma_list(parts)}{more}. A factor counts as predicted if its held-out R² is at least {PREDICTED_R2}"
            f"{beyond}. For the null, {permuted}, for all factors together: any factor counts by chance "
            f"in at most 5{NBSP}% of runs.",
        )
    ]
    return [*findings, *_compactness(results, layer)]


def _compactness(results: Results, layer: int) -> list[Finding]:
    at, targets = results.reference_sparsity, _predicted_by_both(results, layer)
    dense = results.of("effective_latents", DENSE, layer=layer, target=targets)
    codes = results.of("effective_latents", CODES, layer=layer, target=targets, sparsity=at)
    dense, codes = (rows.filter(pl.col("value").is_not_nan()) for rows in (dense, codes))
    both = dense.select("target", "value").join(codes.select("target", of_codes="value"), on="target")
    if both.is_empty():
        return []
    of_layer, of_codes = (decimal(median_of(both, column), 1) for column in ("value", "of_codes"))
    factors = f"{count(len(targets), 'factor')} predicted from both"
    counted = f"The {factors}" if both.height == len(targets) else f"Of the {factors}, the {both.height} with a value"
    return [
        Finding(
            "Compactness",
            f"{counted} take {of_layer} effective dimensions of the dense layer and {of_codes} of the codes at "
            f"{sparsity(at)} sparsity (medians, layer {layer}). These have no interval; the strict protocol compares "
            "them.",
        )
    ]


def _predicted(rows: pl.DataFrame, source: str, noun: str) -> str:
    known = rows.filter(predicted()).height
    return f"{known} of {count(rows.height, 'factor')} are predicted from {source} ({_around(rows, noun)})"


def _reached(rows: pl.DataFrame, source: str, noun: str) -> str:
    """Return the same count for a test split that is too small to claim a prediction."""
    known = rows.filter(predicted()).height
    return (
        f"{source} give {known} of {count(rows.height, 'factor')} an R² of at least {PREDICTED_R2} above chance "
        f"({_around(rows, noun)})"
    )


def _around(rows: pl.DataFrame, noun: str) -> str:
    parts = [count(_most(rows, "groups"), "group")]
    median, null = median_of(rows, "value"), median_of(rows.filter(~without_null()), "null_high")
    if median is not None:
        parts.append(f"median R² {decimal(median, 2)}")
    if null is not None:
        parts.append(f"null up to {decimal(null, 2)}")
    elif rows.filter(without_null()).height:
        parts.append(f"no null: too few {noun}s to permute")
    if between := rows.filter(between_only()).height:
        parts.append(f"{between} more between {noun}s only")
    if weak := rows.filter(too_weak()).height:
        parts.append(f"{weak} more too weak to tell")
    if few := rows.filter(untestable()).height:
        parts.append(f"{few} more with too few {noun}s to test")
    return ", ".join(parts)


def _most(rows: pl.DataFrame, column: str) -> int:
    return max(rows[column].drop_nulls().to_list(), default=0)


def _predicted_by_both(results: Results, layer: int) -> list[str]:
    at = results.reference_sparsity
    rows = (results.of("factor_r2", "dense", layer=layer), results.of("factor_r2", "sae", layer=layer, sparsity=at))
    dense, codes = (results.with_test_values(some).filter(predicted())["target"] for some in rows)
    return sorted(set(dense) & set(codes))
