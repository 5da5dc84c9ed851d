"""The page's key numbers as tiles, each with its interval, what chance gives, and what it rests on."""

from collections.abc import Sequence

from otoscope.report import words
from otoscope.report.factor_figures import factor_layer
from otoscope.report.headline import Row, at_codes_layer, codes_of, headline_sparsities, median_of
from otoscope.report.html import Html, element
from otoscope.report.measured import measured, without_value
from otoscope.report.results import Results, predicted


def number_tiles(results: Results) -> list[Html]:
    """Return the tiles: what is told apart, rebuilt and predicted."""
    return [*_probe_tiles(results), *_variance_tile(results), *_factor_tiles(results)]


def _probe_tiles(results: Results) -> list[Html]:
    if not results.labels:
        return []
    label, best = results.labels[0], results.best_layer
    dense = results.one("probe_accuracy", "dense", target=label, layer=best.layer)
    tiles: list[Html] = []
    if dense:
        chosen = [f"layer chosen on {best.chosen_on}"] if best.chosen_on else []
        name = f"{label}, dense layer {dense['layer']}"
        tiles.append(_tile(name, words.percent(dense["value"]), dense, [*chosen, *_probe_lines(dense)]))
    for at in headline_sparsities(results)[:1]:
        if codes := codes_of(results, label, at):
            name = f"{label}, codes at {words.sparsity(at)}, layer {codes['layer']}"
            lines = [*_how_codes_were_chosen(results, label, codes), *_probe_lines(codes)]
            tiles.append(_tile(name, words.percent(codes["value"]), codes, lines))
    return tiles


def _how_codes_were_chosen(results: Results, label: str, codes: Row) -> list[str]:
    """Say why the codes are of this layer, and what the layer itself gives."""
    chosen = results.codes_layer
    said = [f"layer with the best codes on {chosen.chosen_on}"] if chosen.chosen_on else []
    same = results.one("probe_accuracy", "dense", target=label, layer=codes["layer"])
    return [*said, f"dense layer {codes['layer']} itself: {words.percent(same['value'])}"] if same else said


def _probe_lines(row: Row) -> list[str]:
    lines: list[str] = []
    if words.known(row["low"]) and words.known(row["high"]):
        lines.append(f"95{words.NBSP}% interval {words.percent(row['low'])} to {words.percent(row['high'])}")
    if words.known(row["null_mean"]):
        lines.append(f"by chance {words.percent(row['null_mean'])}, up to {words.percent(row['null_high'])}")
    return lines


def _variance_tile(results: Results) -> list[Html]:
    at = results.reference_sparsity
    near = at_codes_layer(results.of("explained_variance", "sae", sparsity=at), results)
    if near is None:
        return []
    name = f"explained variance at {words.sparsity(at)}, layer {near['layer']}"
    return [_tile(name, words.percent(near["value"]), near, [f"always answering the mean: 0{words.NBSP}%"])]


def _factor_tiles(results: Results) -> list[Html]:
    layer, at = factor_layer(results), results.reference_sparsity
    if layer is None:
        return []
    rows = measured(results.of("factor_r2", "sae", layer=layer, sparsity=at), results)
    name = f"codes at {words.sparsity(at)}"
    if rows.is_empty():
        name, rows = "dense", measured(results.of("factor_r2", "dense", layer=layer), results)
    if rows.is_empty():
        return []
    null = median_of(rows, "null_high")
    lines = [f"by chance R² up to {words.decimal(null, 2)} (median of the factors)"] if null is not None else []
    if missing := without_value(results):
        lines.append(f"not measured: {words.count(len(missing), 'further factor')}")
    text = f"{rows.filter(predicted()).height} of {rows.height}"
    return [_tile(f"factors predicted, {name}, layer {layer}", text, rows.row(0, named=True), lines)]


def _tile(name: str, value: str, row: Row, lines: Sequence[str]) -> Html:
    quiet = (element("dd", line, class_="quiet") for line in [*lines, words.rows_of(row)])
    return element("div", element("dt", name), element("dd", value, class_="value"), *quiet)
