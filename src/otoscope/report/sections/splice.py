"""Sentences on splices: scores of later layers and transcripts with a layer replaced by its reconstruction."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from otoscope.artifacts import read_table
from otoscope.formatting import NBSP, comma_list, count, decimal, interval_text, known, percent
from otoscope.report.estimates import capitalised
from otoscope.report.figures.latents import SUBSTITUTES, compared_substitutes
from otoscope.report.run_data import RunData
from otoscope.report.tables import seed_sentence
from otoscope.resampling.intervals import MIN_GROUPS

QUANTITIES = {
    "cosine": "the cosine between frames of the last layer and those of the untouched encoder",
    "probe_accuracy": "the accuracy of a probe for {target} on the last layer",
    "word_error_rate": "the word error rate of transcripts",
    "words_found": "the share of spoken words that transcripts contain in their order",
}
VALUES = {
    "cosine": "cosine",
    "probe_accuracy": "accuracy",
    "word_error_rate": "word error rate",
    "words_found": "share of words",
}
"""Names of the values beside the recovered shares."""


def splice_sentences(run: RunData) -> list[str]:
    """Return one sentence per quantity after an introduction; empty if no splice was measured."""
    path = run.folder / "explain" / "splice.parquet"
    if not path.is_file() or (scores := read_table(path)).is_empty():
        return []
    layer = run.top_clips.card.get("layer") if run.top_clips else None
    place = f"layer {layer}" if layer is not None else "the layer"
    first = scores.row(0, named=True)
    compared = compared_substitutes(scores)
    has_components = "principal_components" in compared.filter(sae_id=first["sae_id"])["substitute"]
    components, whole = ", by as many principal components as it has active latents per frame (k),", ""
    if not has_components:
        components, whole = "", " As many principal components as active latents would be the layer itself."
    introduction = (
        f"In {count(first['clips'], 'clip')} of {count(first['groups'], 'test group')}, {place} was replaced by "
        f"the SAE's reconstruction{components} and by random atoms with the same sparsifier and these atoms as its "
        "encoder (not the baseline with random atoms, whose encoder is trained), and the layers after it were "
        f"run.{whole} The recovered share runs from 0{NBSP}% (as bad as the layer's mean frame) to 100{NBSP}% (as "
        "good as the untouched layer). It is undefined where the mean frame does no harm beyond noise. On so few "
        "clips, scores differ from those of all test clips."
    )
    seeds = seed_sentence("splice_cosine_share", "The recovered share of the cosine")
    of_probes = seed_sentence("splice_probe_share", "That of a probe")
    parts = compared.partition_by("quantity", "target", maintain_order=True)
    others = filter(None, map(_other_sparsities, parts))
    return [f"{introduction} {seeds} {of_probes}", *(_sentence(part, run) for part in parts), *others]


def _other_sparsities(rows: pl.DataFrame) -> str:
    """Return the recovered shares of the run's other sparsities; empty without any."""
    of_sae = rows.filter(substitute="sae").sort("k")
    if of_sae.height < 2 or not any(map(known, of_sae["recovered"])):
        return ""
    each = [
        f"{percent(row['recovered'], 0)} at k = {row['k']}"
        if known(row["recovered"])
        else f"undefined at k = {row['k']}"
        for row in of_sae.iter_rows(named=True)
    ]
    name = QUANTITIES[rows["quantity"][0]].format(target=rows["target"][0])
    return f"Recovered of {name} by the dictionaries of this layer: {comma_list(each)}."


def _sentence(of_layer: pl.DataFrame, run: RunData) -> str:
    rows = of_layer.filter(sae_id=of_layer["sae_id"][0])
    first = rows.row(0, named=True)
    name = QUANTITIES[first["quantity"]].format(target=first["target"])
    ends = f"untouched {decimal(first['untouched'], 2)}, mean-ablated {decimal(first['ablated'], 2)}"
    if first["quantity"] == "probe_accuracy":
        ends += f", one clip is {decimal(100 / first['clips'], 1)} points"
    if not any(map(known, rows["recovered"])):
        each = [f"{SUBSTITUTES[row['substitute']]} {decimal(row['value'], 2)}" for row in rows.iter_rows(named=True)]
        return f"{_undefined(name, first)} No share is defined: {comma_list(each)}."
    each = "; ".join(map(_recovered, rows.iter_rows(named=True)))
    return f"Recovered of {name} ({ends}): {each}.{_below_guessing(first, run)}"


def _below_guessing(row: Mapping[str, Any], run: RunData) -> str:
    """Return a caution after a blank if the zero point of a probe's share lies below the accuracy of guessing."""
    column = f"label_{row['target']}"
    if row["quantity"] != "probe_accuracy" or run.clips is None or column not in run.clips.columns:
        return ""
    classes = run.clips[column].drop_nulls().n_unique()
    if classes < 2 or row["ablated"] >= 1 / classes:
        return ""
    guessing = f"guessing among {classes} classes ({decimal(1 / classes, 2)})"
    return f" The mean-ablated accuracy is below {guessing}: part of each share is guessing."


def _undefined(name: str, row: Mapping[str, Any]) -> str:
    """Return the scores of both ends, and why their difference is no harm beyond noise."""
    harm = (row["untouched"] - row["ablated"]) * (-1 if row["quantity"] == "word_error_rate" else 1)
    ends = f"is {decimal(row['untouched'], 2)} untouched and {decimal(row['ablated'], 2)} mean-ablated"
    if harm <= 0:
        return f"{capitalised(name)} {ends}: on these clips, the mean frame does no harm."
    few = count(row["groups"], "test group")
    return f"{capitalised(name)} {ends}, but the interval of this difference over {few} includes 0."


def _recovered(row: Mapping[str, Any]) -> str:
    value, name = f"{VALUES[row['quantity']]} {decimal(row['value'], 2)}", SUBSTITUTES[row["substitute"]]
    right = row["value"] * row["clips"]
    if row["quantity"] == "probe_accuracy" and abs(right - round(right)) < 1e-6:
        value += f", {round(right)} of {count(row['clips'], 'clip')}"
    if not known(row["recovered"]):
        return f"{name}: no defined share ({value})"
    few = row["groups"] < MIN_GROUPS
    interval = "too few groups for an interval" if few else interval_text(row, lambda end: percent(end, 0))
    return f"{name} {percent(row['recovered'], 0)} ({value}, {interval or 'no interval'})"
