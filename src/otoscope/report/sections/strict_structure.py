"""What the strict protocol found of dimensions: how many share a factor, and what a few of them tell.

Verdicts of the strict protocol on two numbers, and none where the test groups are too few for one.
"""

from collections.abc import Mapping
from typing import Any

from otoscope.formatting import comma_list, count, decimal, ends, known
from otoscope.metrics.representation import CODES, DENSE, representation_label
from otoscope.protocols.comparing import MIN_GROUPS, Number, apart, number_of, with_means
from otoscope.report.baselines import best_baseline
from otoscope.report.claims.formatting import seeds_told, within
from otoscope.report.sections.findings import Finding
from otoscope.report.sections.strict_rows import StrictRows


def few(row: Mapping[str, Any]) -> bool:
    """Tell whether a number rests on too few test groups for a verdict."""
    return (row["groups"] or 0) < MIN_GROUPS


def undecided(row: Mapping[str, Any]) -> str:
    """Return what stands in place of a verdict."""
    groups = row["groups"] or 0
    return f"{count(groups, 'test group is', 'test groups are')} too few to decide (at least {MIN_GROUPS})"


def against(codes: Number, other: Number) -> str:
    """Say whether codes beat the best baseline beyond both intervals."""
    if codes.groups < MIN_GROUPS:
        return f"Whether the codes beat that, {undecided({'groups': codes.groups})}."
    if codes.value <= other.value:
        return "The codes do not beat that."
    clear = apart(other, codes)
    return "The codes beat that beyond both intervals." if clear else "The codes lead, within the intervals."


def compactness(dense: Mapping[str, Any], codes: Mapping[str, Any]) -> str:
    """Say which of layer and codes takes fewer dimensions, where their intervals lie apart."""
    if few(codes):
        return f"Which is more compact, {undecided(codes)}."
    layer, found = number_of(dense), number_of(codes)
    if apart(found, layer):
        return "The codes are more compact than the layer: the intervals lie apart."
    if apart(layer, found):
        return "The codes are less compact than the layer: the intervals lie apart."
    return "The intervals of codes and layer overlap: it is not decided."


def lead(row: Mapping[str, Any]) -> str:
    """Say whether the interval of a lead decides which category comes first."""
    if few(row):
        return undecided(row)
    beyond = known(row["low"]) and (row["low"] > 0 or row["high"] < 0)
    return "and the interval excludes 0" if beyond else "which the interval does not decide"


def within_chance(row: Mapping[str, Any]) -> bool:
    """Tell whether a lead, of either sign, is no more than its null."""
    return known(row["value"]) and known(row["null_high"]) and abs(row["value"]) <= row["null_high"]


LEARNED_LESS = ("frozen_decoder", "untrained_sae", "random_topk", "untrained", "logmel")
"""What has no learned atoms, no trained encoder, or neither."""

FEW = 8
"""Dimensions up to which they are few."""

ALIKE = 0.005
"""Difference of two R² below which neither is called higher."""

Row = Mapping[str, Any]


def compactness_findings(rows: StrictRows) -> list[Finding]:
    """Say over how many dimensions of layer and codes a factor spreads, and of what learned less."""
    dense, codes = rows.one("effective_latents", DENSE), rows.one("effective_latents", CODES)
    if dense is None or codes is None or not (known(dense["value"]) and known(codes["value"])):
        return []
    over = f"; {told}" if (told := seeds_told(rows.over_seeds("effective_latents"), _one)) else ""
    said = (
        f"A factor takes {_one(dense['value'])} effective dimensions of the dense layer ({ends(dense, _one)}) "
        f"and {_one(codes['value'])} of the codes ({ends(codes, _one)}{over}), the geometric mean over the "
        f"{codes['n']} common factors. {compactness(dense, codes)}"
    )
    r2 = [rows.one("mean_factor_r2", name) for name in (CODES, DENSE)]
    if r2[0] is not None and r2[1] is not None and r2[0]["value"] < r2[1]["value"]:
        mean = [decimal(row["value"], 2) for row in r2 if row is not None]
        said += f" They also predict less (mean R² {mean[0]} against {mean[1]})."
    beside = [(name, rows.one("effective_latents", name)) for name in LEARNED_LESS]
    shares = {name: rows.one("predicted_share", name, "common") for name in LEARNED_LESS}
    less = [
        f"{representation_label(name)} {_one(row['value'])} ({of_all(share)} factors predicted)"
        for name, row in beside
        if row is not None and (share := shares[name]) is not None and known(row["value"])
    ]
    if less:
        said += f" What learned less or nothing: {comma_list(less)}."
    if any(row is not None and known(row["value"]) and row["value"] <= codes["high"] for _, row in beside):
        said += " Some of these lie within the interval of the codes or below: compactness alone shows nothing learned."
    return [Finding("Compactness", said)]


def few_findings(rows: StrictRows) -> list[Finding]:
    """Say what the best one and the best eight dimensions tell, and whether codes start higher than the layer."""
    said: list[str] = []
    pairs: list[tuple[Number, Number]] = []
    for size in (k for k in rows.sizes if k <= FEW):
        at = rows.beside("sparse_r2", dimensions=size)
        first = {row["representation"]: row for row in with_means(at).rows(named=True)}
        if DENSE not in first or CODES not in first:
            continue
        dense, codes = number_of(first[DENSE]), number_of(first[CODES])
        pairs.append((dense, codes))
        if size not in (rows.sizes[0], FEW):
            continue
        best = best_baseline(at)
        others = [f"{_two(best.number.value)} from {best.told}, the best baseline"] if best else []
        parts = [
            f"{_two(codes.value)}{within(codes, _two)} from the codes",
            f"{_two(dense.value)}{within(dense, _two)} from the dense layer",
            *others,
        ]
        said.append(f"{count(size, 'dimension')}: {comma_list(parts)}")
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
    if all(codes.value > dense.value + ALIKE for dense, codes in pairs):
        return "The codes start higher than the layer, within the intervals: it is not decided."
    if all(codes.value <= dense.value + ALIKE for dense, codes in pairs):
        return (
            f"At no number of dimensions up to {FEW} do the codes tell more: nothing says that fewer of theirs suffice."
        )
    return "Codes and layer lead in turn: nothing says that fewer dimensions of the codes suffice."


def of_all(row: Row, column: str = "value") -> str:
    """Return a share as a count of all."""
    return f"{round(row[column] * row['n'])} of {row['n']}" if known(row[column]) else "–"


def _one(value: float) -> str:
    return decimal(value, 1)


def _two(value: float) -> str:
    return decimal(value, 2)
