"""Annotated labels: the best latent for each, beside the layer's own units, with sounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope.artifacts import read_table, resolve_inside
from otoscope.explain.annotated_labels import ALPHA, MIN_EVENTS, ROTATIONS, TOO_FEW
from otoscope.formatting import comma_list, count, decimal, first_few, in_brackets, nothing_exceeds
from otoscope.report.run_data import RunData
from otoscope.report.sections.gallery import embed
from otoscope.report.sections.latent_cards import f1_and_chance
from otoscope.report.tables import Download, csv_download, seed_sentence
from otoscope.resampling.intervals import MIN_GROUPS

INTRODUCTION = (
    "A latent and a threshold were chosen per label on the training and validation groups by the F1 of their frames; "
    "the scores are those of the test groups. Chance is the upper end of the same procedure with the labels of each "
    "recording rotated in time, or exchanged with another recording of the group where they fill it, over all labels "
    f"together: in 5 % of cases, any label exceeds it by chance. With {ROTATIONS} repetitions, the least p is 1/"
    f"{ROTATIONS + 1}: all labels beyond chance have the same p. The best single unit of the layer and the best "
    "k-means cluster of its frames were chosen in the same way; each kind has a chance of its own. Onsets count as "
    "found within 50 ms."
)

FEWEST_ROWS = 12
"""Labels beyond chance are all listed, others up to this number of rows."""


class LabelRow(NamedTuple):
    """Scores of a label as text, and up to three sounds as data addresses."""

    label: str
    latent: str
    f1: str
    chance: str
    unit: str
    cluster: str
    onsets: str
    place: str
    statement: str
    sounds: Sequence[str]


class AnnotatedLabels(NamedTuple):
    """Rows in order of F1, those beyond chance first, and the whole table as a download.

    Without a label that could be scored, there are no rows and no download.
    """

    introduction: str
    rows: Sequence[LabelRow]
    download: Download | None


def annotated_labels(run: RunData) -> AnnotatedLabels | None:
    """Return the section; None if the run has no annotated labels."""
    folder = run.folder / "explain"
    if not (folder / "annotated_labels.parquet").is_file():
        return None
    scores = read_table(folder / "annotated_labels.parquet")
    unscored = _unscored(run)
    if scores.is_empty():
        return AnnotatedLabels(f"Annotated labels are not scored: {TOO_FEW}.{unscored}", [], None)
    examples = read_table(folder / "annotated_examples.parquet")
    tiers = scores["tier"].n_unique() > 1
    of_latents = scores.filter(pl.col("unit") == "latent").sort(pl.col("p_value") >= ALPHA, -pl.col("f1"))
    listed = max(FEWEST_ROWS, of_latents.filter(pl.col("p_value") < ALPHA).height)
    further = [f"{tier} {label}" for tier, label in of_latents[listed:].select("tier", "label").iter_rows()]
    left_out = f" Not beyond chance, and in the file only: {first_few(further, FEWEST_ROWS)}." if further else ""
    rows: list[LabelRow] = []
    for row in of_latents[:listed].iter_rows(named=True):
        same = scores.filter((pl.col("tier") == row["tier"]) & (pl.col("label") == row["label"]))
        others = {one["unit"]: _with_chance(one) for one in same.iter_rows(named=True)}
        heard = examples.filter((pl.col("tier") == row["tier"]) & (pl.col("label") == row["label"]))
        f1, chance = f1_and_chance(row)
        rows.append(
            LabelRow(
                label=f"{row['tier']}: {row['label']}" if tiers else row["label"],
                latent=str(row["number"]),
                f1=f1 + in_brackets({"low": row["f1_low"], "high": row["f1_high"]}),
                chance=chance,
                unit=others["dense"],
                cluster=others["cluster"],
                onsets=decimal(row["onset_f1_50ms"], 2),
                place=row["place"],
                statement=label_statement(row["p_value"], row["groups"], row["f1_null_high"]),
                sounds=[_sound(folder, name) for name in heard["audio"]],
            )
        )
    seeds = seed_sentence("annotation_f1", "F1")
    introduction = f"{INTRODUCTION}{_beyond_chance(scores)} {seeds}{unscored}{left_out}"
    return AnnotatedLabels(introduction, rows, csv_download(scores, "annotated_labels"))


def _with_chance(row: Mapping[str, Any]) -> str:
    """Return the F1 of a unit beside the chance of its own kind."""
    f1, chance = f1_and_chance(row)
    return f"{f1}, " + (f"chance {chance}" if chance else "too few to test")


KINDS = {"latent": "a latent", "dense": "a single unit", "cluster": "a cluster"}


def _beyond_chance(scores: pl.DataFrame) -> str:
    """Return the number of labels that each kind of unit finds beyond chance, after a blank; empty with few groups."""
    if (scores["groups"] < MIN_GROUPS).any():
        return ""
    found = scores.filter(pl.col("p_value") < ALPHA)
    each = comma_list(f"{found.filter(unit=kind).height} by {name}" for kind, name in KINDS.items())
    return f" Beyond chance, of {count(scores.filter(unit='latent').height, 'label')}: {each}."


def _unscored(run: RunData) -> str:
    """Return the labels with too few intervals and their numbers, as a sentence after a blank; empty without any."""
    rows = run.explained("annotated_unscored")
    if rows is None:
        return ""
    tiers = rows["tier"].n_unique() > 1
    each = [f"{tier} {label}" if tiers else label for tier, label in rows.select("tier", "label").iter_rows()]
    return (
        f" Not scored, with fewer than {MIN_EVENTS} intervals in test groups or in the others: "
        f"{first_few(each, FEWEST_ROWS)} ({rows.height})."
    )


def label_statement(p: float, groups: int, null_high: float) -> str:
    """Return the statement that the null and the number of groups support.

    >>> label_statement(p=1 / 21, groups=5, null_high=0.3)
    'beyond chance'
    """
    if nothing_exceeds(null_high):
        return "too few to test"
    if p >= ALPHA:
        return "not beyond chance"
    if groups < MIN_GROUPS:
        return f"beyond chance in {count(groups, 'test group')}, too few for a claim"
    return "beyond chance"


def _sound(folder: Path, name: str) -> str:
    return embed("audio/flac", resolve_inside(folder, name))
