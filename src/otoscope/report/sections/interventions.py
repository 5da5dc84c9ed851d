"""Interventions and erased concepts: the effect on a concept and on the others, beside rivals."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from otoscope.explain.readouts import FACTOR, GROUP
from otoscope.factors.readable_names import readable_name
from otoscope.formatting import comma_list, count, decimal, ends, in_brackets, known, percent
from otoscope.report.figures.interventions import ENCODERS, ERASERS, TECHNIQUES
from otoscope.report.run_data import RunData
from otoscope.report.tables import TextAndTable, seed_sentence, table
from otoscope.resampling.intervals import MIN_GROUPS

DOSE = 0.5
"""Size of the added directions that the table compares."""
COMPARED = (("latent_by_output", "add", DOSE, 1), ("latent_by_activation", "ablate", 1.0, -1))
"""Latents that verdicts compare with their rivals, and the direction in which their operation moves the readout."""


def interventions(run: RunData) -> TextAndTable | None:
    """Return the section; None if no intervention was tested."""
    rows = run.explained("interventions")
    if rows is None:
        return None
    own = rows.filter(pl.col("readout") == pl.col("target"))
    first = own.row(0, named=True)
    introduction = (
        "A direction of half the mean norm of the layer's centred frames was added to every frame, or the codes of "
        "one latent were set to zero, and the layers after it were run. The columns show the change of a readout of "
        "the last layer, in standard deviations of the concept, and the root mean square change of the concepts that "
        "are not correlated with it (others). A direction was added in test clips without the concept; latents were "
        f"ablated in clips with it, the rivals at equal norm. Each value is of up to {count(first['clips'], 'clip')} "
        f"of {count(first['groups'], 'test group')}, with its 95 % interval over groups. A latent moves the readout "
        "more than a rival if the interval of their difference excludes 0, on the same clips and paired over groups."
    )
    chosen = (
        "The latent chosen by activation follows the concept most closely; the one chosen by output moves its readout "
        "most on validation clips. Random latents fire about as often as the former. "
        + seed_sentence("intervention_lead", "The effect of an added latent, less that on others,")
    )
    few = [] if first["groups"] >= MIN_GROUPS else ["There are too few test groups for a claim."]
    differences = run.explained("intervention_differences")
    targets = [] if differences is None else differences.partition_by("target", maintain_order=True)
    paragraphs = [introduction, chosen, *few, *(_verdict(part) for part in targets)]
    return TextAndTable(paragraphs, table(_compared(own), caption="Interventions", digits=2))


def _compared(own: pl.DataFrame) -> pl.DataFrame:
    """Return one row per concept and technique."""
    added = own.filter((pl.col("operation") == "add") & (pl.col("dose") == DOSE))
    ablated = own.filter(pl.col("operation") == "ablate")
    found: list[dict[str, object]] = []
    for (target, technique), _ in own.group_by("target", "technique", maintain_order=True):
        row: dict[str, object] = {"target": target, "direction": TECHNIQUES[str(technique)]}
        row["latent"] = None
        for name, part in (("added", added), ("ablated", ablated)):
            same = part.filter((pl.col("target") == target) & (pl.col("technique") == technique))
            if same.is_empty():
                row |= {name: "–", f"{name}: others": None}
                continue
            one = same.row(0, named=True)
            row["latent"] = one["latent"]
            row |= {name: decimal(one["effect"], 2) + in_brackets(one), f"{name}: others": one["side"]}
        found.append(row)
    schema = {"latent": pl.Int64(), "added: others": pl.Float64(), "ablated: others": pl.Float64()}
    return pl.DataFrame(found, schema_overrides=schema)


def _verdict(differences: pl.DataFrame) -> str:
    """Compare the chosen latents with each rival by the intervals of the paired differences."""
    each: list[str] = []
    for technique, operation, dose, sign in COMPARED:
        rows = differences.filter(technique=technique, operation=operation, dose=dose)
        if rows.is_empty():
            continue
        does = f"the {TECHNIQUES[technique]} {'added' if operation == 'add' else 'ablated'}"
        if not all(known(low) for low in rows["low"]):
            each.append(f"{does} has no interval, so the comparison with rivals is open")
            continue
        rivals = {row["rival"]: row for row in rows.iter_rows(named=True)}
        beyond = [name for name, row in rivals.items() if (row["low"] if sign > 0 else -row["high"]) > 0]
        unbeaten = comma_list(_difference(row) for name, row in rivals.items() if name not in beyond)
        if not unbeaten:
            least = min(rivals.values(), key=lambda row: sign * row["difference"])
            each.append(f"{does} moves the readout more than every rival; least beyond {_difference(least)}")
        else:
            each.append(f"{does} does not move the readout beyond {unbeaten}")
    return f"{readable_name(differences['target'][0])}: {'; '.join(each)}."


def _difference(row: Mapping[str, Any]) -> str:
    interval = ends(row, lambda end: decimal(end, 2))
    return f"{TECHNIQUES[row['rival']]} (difference {decimal(row['difference'], 2)}, {interval})"


def erasure(run: RunData) -> TextAndTable | None:
    """Return the section on erased concepts; None if none was erased."""
    effects, dominance, swaps = (run.explained(name) for name in ("erasure", "erasure_dominance", "swaps"))
    if effects is None:
        return None
    first = effects.row(0, named=True)
    introduction = (
        "Each concept was erased from the layer, in three ways: the eight latents that correlate most with it set to "
        "zero, as many random latents at the same norm, and LEACE, the least linear change after which no linear "
        f"readout of the layer finds it. The layers after it were run on {count(first['clips'], 'clip')} of "
        f"{count(first['groups'], 'test group')}. Dominance is the mean loss of gain of the erased concept's own "
        "readout minus the mean loss of the readouts that are not correlated with it. "
        + seed_sentence("erasure_dominance", "The dominance of single latents")
    )
    concepts = run.explained("erasure_concepts")
    unread = [] if concepts is None else _unread(concepts, str(run.corpus.get("group_noun") or "group"))
    verdicts = [] if dominance is None else [_erasure_verdict(part) for part in dominance.partition_by("scope")]
    few = [] if first["groups"] >= MIN_GROUPS else ["There are too few test groups for a claim."]
    paragraphs = [introduction, *unread, *few, *verdicts, *([] if swaps is None else [_swap_sentence(swaps)])]
    shown = effects.filter(pl.col("own")).drop("kind", "own", "entangled") if dominance is None else dominance
    names = {**ERASERS, "latents - random_latents": "latents minus random latents"}
    shown = shown.with_columns(pl.col("technique").replace(names))
    return TextAndTable(paragraphs, table(shown, caption="Dominance of the erased concept", digits=3))


def _unread(concepts: pl.DataFrame, noun: str) -> list[str]:
    """State which labels cannot be read out, and on which clips the groups are read out."""
    found: list[str] = []
    unread = concepts.filter(~pl.col("read") & (pl.col("kind") != FACTOR) & (pl.col("kind") != GROUP))
    if unread.height:
        found.append(f"Not erased, because the last layer does not read them out: {comma_list(unread['concept'])}.")
    for group in concepts.filter(pl.col("kind") == GROUP).iter_rows(named=True):
        if not known(group["readout_r"]):
            found.append(f"The {noun} is not among the concepts: its readout needs five clips each of two {noun}s.")
            continue
        weak = "" if group["read"] else (
            f" It hardly distinguishes them (correlation {decimal(group['readout_r'], 2)}, slope "
            f"{decimal(group['gain'], 2)}): its row and column are shown, but excluded from the dominance."
        )  # fmt: skip
        found.append(
            f"The {noun} has a separate readout, because no training clip is of a test {noun}: the clips of every "
            f"{noun} are dealt into fifths in the order of their labels. It is fitted on three of them, its penalty is "
            f"chosen on one, and it is read on {count(group['clips'], 'clip')} of the last, of {group['groups']} "
            f"{noun}s.{weak}"
        )
    return found


def _erasure_verdict(rows: pl.DataFrame) -> str:
    """Compare the loss of a concept's own readout with that of others, and with random latents."""
    scope = rows["scope"][0]
    where = "Over all labels and groups" if scope == "all" else f"Among the classes of {scope}"
    by_technique = {row["technique"]: row for row in rows.iter_rows(named=True)}
    own, beyond, linear = (by_technique[name] for name in ("latents", "latents - random_latents", "leace"))
    numbers = f"dominance {decimal(own['dominance'], 2)}{in_brackets(own)}, LEACE {decimal(linear['dominance'], 2)}"
    difference = f"{decimal(beyond['dominance'], 2)}{in_brackets(beyond)} more than random latents"
    if not known(beyond["low"]):
        return f"{where}, the comparison with random latents has no interval ({numbers}; {difference})."
    if beyond["low"] > 0 and own["low"] > 0:
        return (
            f"{where}, erasing the latents of a concept changes its own readout more than the others, and more so than "
            f"erasing random latents ({numbers}; {difference})."
        )
    return f"{where}, erasing the latents of a concept does not beat erasing random latents ({numbers}; {difference})."


def _swap_sentence(swaps: pl.DataFrame) -> str:
    """Return the share of the difference between two clips that latents carry over, per concept."""
    names = {"latents": "its latents", "random_latents": "random latents", "whole_layer": "the whole mean frame"}
    each: list[str] = []
    for part in swaps.partition_by("concept", maintain_order=True):
        values = {row["technique"]: row["transferred"] for row in part.iter_rows(named=True)}
        if known(values["latents"]):
            shares = comma_list(f"{percent(values[name], 0)} by {title}" for name, title in names.items())
            each.append(f"{readable_name(part['concept'][0])}: {shares}")
    if not each:
        return "Swaps between two clips have no defined share: the readouts do not distinguish the clips beyond noise."
    return (
        "Share of the difference between two clips of a singer that is carried over when the mean codes of one are "
        f"moved to the other: {'; '.join(each)}."
    )


def lens(run: RunData) -> TextAndTable | None:
    """Return the section on transcripts from each layer; None if there are none."""
    rows = run.explained("lens")
    if rows is None:
        return None
    first = rows.row(0, named=True)
    introduction = (
        f"{count(first['strings'], 'string')} of spoken words ({count(first['words'], 'word')}, "
        f"{count(first['groups'], 'test speaker')}) were transcribed from each layer: blocks after it were skipped, "
        "and the decoder read it through the encoder's final norm. It was trained on the last layer alone, so a high "
        "rate for an earlier layer does not show that the words are missing there. A transcript that repeats itself "
        "to its end has a rate above 1; words found are those that it contains in their order."
    )
    shown = rows.with_columns(pl.col("encoder").replace_strict(ENCODERS)).select(
        "layer", "encoder", "word_error_rate", "low", "high", "words_found", "spoken", "transcript"
    )
    return TextAndTable([introduction], table(shown, caption="Transcripts from each layer", digits=2))
