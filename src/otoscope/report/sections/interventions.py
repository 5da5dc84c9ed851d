"""Interventions: what a change of the layer does to a concept and to the others, beside its rivals."""

import polars as pl

from otoscope.factors.readable_names import readable_name
from otoscope.formatting import comma_list, count, decimal, known
from otoscope.protocols.comparison import MIN_GROUPS
from otoscope.report.figures.interventions import TECHNIQUES
from otoscope.report.run_data import RunData
from otoscope.report.tables import TextAndTable, table

DOSE = 0.5
"""Size of the added directions that the table compares."""
RIVALS = ("random_latent", "difference_of_means", "principal_component", "audio_minus_silence")


def interventions(run: RunData) -> TextAndTable | None:
    """Return the section; None if no intervention was tested."""
    rows = run.explained("interventions")
    if rows is None:
        return None
    own = rows.filter(pl.col("readout") == pl.col("target"))
    first = own.row(0, named=True)
    introduction = (
        "A direction was added to every frame of the layer (of half the mean norm of its centred frames), or the codes "
        "of one latent were set to zero, and the encoder run on. The columns show the change of a readout of the last "
        "layer, in standard deviations of the concept, and the root mean square change of the concepts that are not "
        "correlated with it (others). A direction was added in test clips without the concept; latents were ablated in "
        f"clips with it, the rivals at equal norm. Each value is of up to {count(first['clips'], 'clip')} of "
        f"{count(first['groups'], 'test group')}, with its 95 % interval over groups."
    )
    chosen = (
        "The latent chosen by activation follows the concept most closely; the one chosen by output moves its readout "
        "most on validation clips. Random latents fire about as often as the former."
    )
    few = [] if first["groups"] >= MIN_GROUPS else ["There are too few test groups for a claim."]
    parts = own.partition_by("target", maintain_order=True)
    paragraphs = [introduction, chosen, *few, *(_verdict(part) for part in parts)]
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
            interval = f" ({decimal(one['low'], 2)} to {decimal(one['high'], 2)})" if known(one["low"]) else ""
            row |= {name: decimal(one["effect"], 2) + interval, f"{name}: others": one["side"]}
        found.append(row)
    schema = {"latent": pl.Int64(), "added: others": pl.Float64(), "ablated: others": pl.Float64()}
    return pl.DataFrame(found, schema_overrides=schema)


def _verdict(own: pl.DataFrame) -> str:
    """Compare the interval of the latent chosen by output with the effects of its rivals."""
    target = readable_name(own["target"][0])
    added = own.filter((pl.col("operation") == "add") & (pl.col("dose") == DOSE))
    by_technique = {row["technique"]: row for row in added.iter_rows(named=True)}
    latent = by_technique.get("latent_by_output")
    if latent is None or not known(latent["low"]):
        return f"{target}: no interval, the comparison with rivals is left open."
    beaten = [TECHNIQUES[name] for name in RIVALS if latent["low"] <= by_technique[name]["effect"]]
    if not beaten:
        return f"{target}: the latent chosen by output moves the readout more than every rival."
    return f"{target}: the latent chosen by output does not move the readout beyond {comma_list(beaten)}."
