"""Key numbers of the page's first section, as tiles: probes, reconstruction and factors."""

from collections.abc import Sequence
from typing import NamedTuple

from otoscope import formatting
from otoscope.formatting import NBSP, count, decimal, interval_text, percent, sparsity, untested
from otoscope.metrics.registry import describe_rows
from otoscope.metrics.results import Row
from otoscope.report.estimates import caution_of_codes
from otoscope.report.figures.factors import factor_layer
from otoscope.report.results import BestLayer, Results, between_only, median_of, predicted, too_weak
from otoscope.report.run_data import RunData


class Tile(NamedTuple):
    """A key number with the lines under it."""

    name: str
    value: str
    lines: Sequence[str]


def number_tiles(run: RunData, *, folds: int = 1) -> list[Tile]:
    """Return the tiles: probes, reconstruction and factors; `folds` of a cross-fit choose layers on their mean."""
    return [*_probe_tiles(run.results, folds), *_variance_tile(run), *_factor_tiles(run.results)]


def _probe_tiles(results: Results, folds: int) -> list[Tile]:
    if not results.labels:
        return []
    label, best = results.labels[0], results.best_layer
    dense = results.one("probe_accuracy", "dense", target=label, layer=best.layer)
    tiles: list[Tile] = []
    if dense:
        chosen = [f"layer chosen on {_choosing_groups(best, folds)}"] if best.chosen_on else []
        name = f"{label}, dense layer {dense['layer']}"
        tiles.append(_tile(name, percent(dense["value"]), dense, [*_probe_lines(dense), *chosen]))
    for at in results.headline_sparsities[:1]:
        if codes := results.codes_of(label, at):
            name = f"{label}, codes at {sparsity(at)}, layer {codes['layer']}"
            lines = [*_probe_lines(codes), *_how_codes_were_chosen(results, label, codes, folds)]
            tiles.append(_tile(name, percent(codes["value"]), codes, lines))
    return tiles


def _choosing_groups(best: BestLayer, folds: int) -> str:
    """Return the groups that a layer was chosen on; over all folds, they include those that are tested."""
    return best.chosen_on if folds == 1 else f"validation groups, in the mean of {folds} folds"


def _how_codes_were_chosen(results: Results, label: str, codes: Row, folds: int) -> list[str]:
    """Return the reason for showing this layer's codes, and the score of the dense layer."""
    chosen = results.codes_layer
    parts = [f"shown because {chosen.reason}"]
    if chosen.chosen_on:
        parts = [f"layer with the best codes on {_choosing_groups(chosen, folds)}"]
    same = results.one("probe_accuracy", "dense", target=label, layer=codes["layer"])
    return [*parts, f"dense layer {codes['layer']} itself: {percent(same['value'])}"] if same else parts


def _probe_lines(row: Row) -> list[str]:
    lines = [interval] if (interval := interval_text(row, percent)) else []
    if formatting.known(row["null_mean"]):
        lines.append(f"chance {percent(row['null_mean'])}, up to {percent(row['null_high'])}")
    elif untested(row):
        lines.append("too few clips or groups to test")
    return lines


def _variance_tile(run: RunData) -> list[Tile]:
    results, at = run.results, run.results.reference_sparsity
    near = results.at_codes_layer(results.of("explained_variance", "sae", sparsity=at))
    if near is None:
        return []
    name = f"explained variance at {sparsity(at)}, layer {near['layer']}"
    components = results.components_of(near)
    same = [f"{count(near['k'], 'principal component')}: {percent(components['value'])}"] if components else []
    caution = list(filter(None, [caution_of_codes(near, run.cards)]))
    return [_tile(name, percent(near["value"]), near, [*same, f"predicting the mean: 0{NBSP}%", *caution])]


def _factor_tiles(results: Results) -> list[Tile]:
    layer, at = factor_layer(results), results.reference_sparsity
    if layer is None:
        return []
    rows = results.with_test_values(results.of("factor_r2", "sae", layer=layer, sparsity=at))
    name = f"codes at {sparsity(at)}"
    if rows.is_empty():
        name, rows = "dense", results.with_test_values(results.of("factor_r2", "dense", layer=layer))
    if rows.is_empty():
        return []
    null = median_of(rows, "null_high")
    lines = [f"chance over all factors: R² up to {decimal(null, 2)} (median)"] if null is not None else []
    if missing := results.unmeasured_factors:
        lines.append(f"without a test value: {count(len(missing), 'further factor')}")
    if between := rows.filter(between_only()).height:
        lines.append(f"between groups only: {count(between, 'further factor')}")
    if weak := rows.filter(too_weak()).height:
        lines.append(f"too weak to tell: {count(weak, 'further factor')}")
    text = f"{rows.filter(predicted()).height} of {rows.height}"
    return [_tile(f"factors predicted, {name}, layer {layer}", text, rows.row(0, named=True), lines)]


def _tile(name: str, value: str, row: Row, lines: Sequence[str]) -> Tile:
    return Tile(name, value, [*lines, describe_rows(row)])
