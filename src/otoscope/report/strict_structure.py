"""What the strict protocol found of dimensions: how many share a factor, and what a few of them tell."""

from collections.abc import Mapping
from typing import Any

from otoscope.protocols.strict.names import CODES, DENSE
from otoscope.report import words
from otoscope.report.baselines import WORDS, best_baseline
from otoscope.report.claims_words import seeds_told, within
from otoscope.report.intervals import MIN_GROUPS, Number, apart, number_of
from otoscope.report.strict_rows import StrictRows
from otoscope.report.strict_verdicts import compactness, undecided
from otoscope.report.summary import Finding

LEARNED_LESS = ("frozen_decoder", "untrained_sae", "random_topk", "untrained", "logmel")
"""What has no learned atoms, no trained encoder, or neither."""

FEW = 8
"""Dimensions up to which they are few."""

Row = Mapping[str, Any]


def compactness_findings(rows: StrictRows) -> list[Finding]:
    """Say over how many dimensions of layer and codes a factor spreads, and of what learned less."""
    dense, codes = rows.one("effective_latents", DENSE), rows.one("effective_latents", CODES)
    if dense is None or codes is None or not (words.known(dense["value"]) and words.known(codes["value"])):
        return []
    said = (
        f"A factor takes {_one(dense['value'])}{within(number_of(dense), _one)} effective dimensions of the dense "
        f"layer and {_one(codes['value'])}{within(number_of(codes), _one)} of the "
        f"codes{seeds_told(rows.over_seeds('effective_latents'), _one)}, on the {codes['n']} common factors. "
        f"{compactness(dense, codes)}"
    )
    r2 = [rows.one("mean_factor_r2", name) for name in (CODES, DENSE)]
    if r2[0] is not None and r2[1] is not None and r2[0]["value"] < r2[1]["value"]:
        mean = [words.decimal(row["value"], 2) for row in r2 if row is not None]
        said += f" They also predict less (mean R² {mean[0]} against {mean[1]})."
    beside = [(name, rows.one("effective_latents", name)) for name in LEARNED_LESS]
    shares = {name: rows.one("predicted_share", name, "common") for name in LEARNED_LESS}
    told = [
        f"{_one(row['value'])} of {WORDS[name]} ({of_all(share)} factors predicted)"
        for name, row in beside
        if row is not None and (share := shares[name]) is not None and words.known(row["value"])
    ]
    if told:
        said += f" What learned less or nothing takes {words.listed(told)}."
    if any(row is not None and words.known(row["value"]) and row["value"] <= codes["high"] for _, row in beside):
        said += " So compactness alone does not show that anything was learned."
    return [Finding("Compactness", said)]


def few_findings(rows: StrictRows) -> list[Finding]:
    """Say what the best one and the best eight dimensions tell, and whether codes start higher than the layer."""
    said: list[str] = []
    pairs: list[tuple[Number, Number]] = []
    for size in (k for k in rows.sizes if k <= FEW):
        at = rows.beside("sparse_r2", k=size)
        first = {row["representation"]: row for row in reversed(at.rows(named=True))}
        if DENSE not in first or CODES not in first:
            continue
        dense, codes = number_of(first[DENSE]), number_of(first[CODES])
        pairs.append((dense, codes))
        if size not in (rows.sizes[0], FEW):
            continue
        best = best_baseline(at)
        others = [f"{_two(best.number.value)} from {best.told}, the best of the others"] if best else []
        parts = [
            f"{_two(codes.value)}{within(codes, _two)} from the codes",
            f"{_two(dense.value)}{within(dense, _two)} from the dense layer",
            *others,
        ]
        said.append(f"{words.count(size, 'dimension')}: {words.listed(parts)}")
    if not said:
        return []
    text = f"Mean R² of the common factors from the best {'; from '.join(said)}. {_starts(pairs)}"
    return [Finding("A few dimensions", text)]


def _starts(pairs: list[tuple[Number, Number]]) -> str:
    """Answer the plain test of fewer dimensions: does the curve of the codes start above the layer's?"""
    if (groups := min(min(dense.groups, codes.groups) for dense, codes in pairs)) < MIN_GROUPS:
        return f"Which starts higher, {undecided({'groups': groups})}."
    if all(apart(dense, codes) for dense, codes in pairs):
        return "The codes start higher than the layer, beyond the intervals: fewer of their dimensions tell the same."
    if all(apart(codes, dense) for dense, codes in pairs):
        return "The codes start lower than the layer, beyond the intervals: it takes more of their dimensions."
    if all(codes.value > dense.value for dense, codes in pairs):
        return "The codes start higher than the layer, within the intervals: it is not decided."
    if all(codes.value <= dense.value for dense, codes in pairs):
        return "The codes nowhere start higher than the layer: nothing here says that fewer of their dimensions do."
    return "The curves of codes and layer cross: nothing here says that fewer dimensions of the codes tell the same."


def of_all(row: Row, column: str = "value") -> str:
    """Return a share as a count of all."""
    return f"{round(row[column] * row['n'])} of {row['n']}" if words.known(row[column]) else "–"


def _one(value: float) -> str:
    return words.decimal(value, 1)


def _two(value: float) -> str:
    return words.decimal(value, 2)
