"""Verdicts of the strict protocol on two numbers, and none where the test groups are too few for one."""

from collections.abc import Mapping
from typing import Any

from otoscope.protocols.comparing import MIN_GROUPS, Number, apart, number_of
from otoscope.report import words


def few(row: Mapping[str, Any]) -> bool:
    """Tell whether a number rests on too few test groups for a verdict."""
    return (row["groups"] or 0) < MIN_GROUPS


def undecided(row: Mapping[str, Any]) -> str:
    """Return what stands in place of a verdict."""
    groups = row["groups"] or 0
    return f"{words.count(groups, 'test group is', 'test groups are')} too few to decide (at least {MIN_GROUPS})"


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
    beyond = words.known(row["low"]) and (row["low"] > 0 or row["high"] < 0)
    return "and the interval excludes 0" if beyond else "which the interval does not decide"


def within_chance(row: Mapping[str, Any]) -> bool:
    """Tell whether a lead, of either sign, is no more than its null."""
    return words.known(row["value"]) and words.known(row["null_high"]) and abs(row["value"]) <= row["null_high"]
