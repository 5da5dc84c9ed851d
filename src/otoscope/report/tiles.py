"""The page's key numbers as tiles, each with its interval or null and what it rests on."""

from otoscope.report import words
from otoscope.report.factor_figures import factor_layer
from otoscope.report.headline import Row, at_codes_layer, codes_of, headline_sparsities, median_of
from otoscope.report.html import Html, element
from otoscope.report.results import Results, predicted


def number_tiles(results: Results) -> list[Html]:
    """Return the tiles: what is told apart, rebuilt and predicted."""
    return [*_probe_tiles(results), *_variance_tile(results), *_factor_tiles(results)]


def _probe_tiles(results: Results) -> list[Html]:
    if not results.labels:
        return []
    label = results.labels[0]
    dense = results.one("probe_accuracy", "dense", target=label, layer=results.best_layer.layer)
    tiles = [_tile(f"{label}, dense layer {dense['layer']}", words.percent(dense["value"]), dense)] if dense else []
    for at in headline_sparsities(results)[:1]:
        if codes := codes_of(results, label, at):
            name = f"{label}, codes at {words.sparsity(at)}, layer {codes['layer']}"
            same = results.one("probe_accuracy", "dense", target=label, layer=codes["layer"])
            beside = f"dense layer {codes['layer']}: {words.percent(same['value'])}" if same else None
            tiles.append(_tile(name, words.percent(codes["value"]), codes, beside=beside))
    return tiles


def _variance_tile(results: Results) -> list[Html]:
    at = results.reference_sparsity
    near = at_codes_layer(results.of("explained_variance", "sae", sparsity=at), results)
    if near is None:
        return []
    name = f"explained variance at {words.sparsity(at)}, layer {near['layer']}"
    return [_tile(name, words.percent(near["value"]), near, null=f"null 0{words.NBSP}% (training mean)")]


def _factor_tiles(results: Results) -> list[Html]:
    layer, at = factor_layer(results), results.reference_sparsity
    if layer is None:
        return []
    rows = results.of("factor_r2", "sae", layer=layer, sparsity=at)
    name = f"codes at {words.sparsity(at)}"
    if rows.is_empty():
        name, rows = "dense", results.of("factor_r2", "dense", layer=layer)
    if rows.is_empty():
        return []
    null = median_of(rows, "null_high")
    beside = f"null R² up to {words.decimal(null, 2)} (median)" if null is not None else "no null in the results"
    text = f"{rows.filter(predicted()).height} of {rows.height}"
    return [_tile(f"factors predicted, {name}, layer {layer}", text, rows.row(0, named=True), null=beside)]


def _tile(name: str, value: str, row: Row, *, null: str | None = None, beside: str | None = None) -> Html:
    lines = [beside] if beside else []
    if words.known(row["low"]) and words.known(row["high"]) and null is None:
        lines.append(f"interval {words.percent(row['low'])} to {words.percent(row['high'])}")
    if null is not None:
        lines.append(null)
    elif words.known(row["null_mean"]):
        lines.append(f"null {words.percent(row['null_mean'])}, up to {words.percent(row['null_high'])}")
    lines.append(f"{row['n']:,} rows, {words.count(int(row['groups'] or 0), 'group')}")
    quiet = (element("dd", line, class_="quiet") for line in lines)
    return element("div", element("dt", name), element("dd", value, class_="value"), *quiet)
