"""The page's first screen: what was found, in words written from the results."""

from typing import Any

import polars as pl

from otoscope.report import words
from otoscope.report.figures import factor_layer
from otoscope.report.folder import Run
from otoscope.report.html import Html, element, join
from otoscope.report.results import PREDICTED_R2, Results, predicted

HEADLINE_SPARSITIES = (0.9, 0.95)


def summary(run: Run) -> Html:
    """Return the findings: key numbers as tiles, then sentences with intervals, nulls and groups."""
    tiles = [*_probe_tiles(run.results), *_variance_tile(run.results), *_factor_tiles(run.results)]
    sentences = [
        *(s for label in run.results.labels for s in probe_sentences(run.results, label)),
        *variance_sentences(run.results),
        *factor_sentences(run.results),
    ]
    if not sentences:
        return element("p", "The results hold no number to sum up.")
    return join(
        element("dl", *tiles, class_="tiles") if tiles else None,
        element("ul", *(element("li", s) for s in sentences), class_="findings"),
    )


def probe_sentences(results: Results, label: str) -> list[str]:
    """Say what the dense layer knows of a label, and what the codes lose."""
    best = results.best_layer
    dense = results.one("probe_accuracy", "dense", target=label, layer=best.layer)
    said: list[str] = []
    if dense:
        said.append(
            f"{label}: layer {best.layer} is the layer to look at ({best.reason}). A linear probe on its dense "
            f"activations reaches {words.percent(dense['value'])} on unseen groups ({words.backed(dense)})."
        )
    for at in _headline(results):
        codes = _nearest_codes(results, label, at)
        if codes is None:
            continue
        beside = results.one("probe_accuracy", "dense", target=label, layer=codes["layer"])
        said.append(_loss_sentence(label, codes, beside))
    return said


def _loss_sentence(label: str, codes: dict[str, Any], dense: dict[str, Any] | None) -> str:
    where = f"layer {codes['layer']}"
    reached = f"{words.percent(codes['value'])} ({words.backed(codes)})"
    start = f"{label}: at {words.sparsity(codes['sparsity'])} sparsity (k={codes['k']}) the codes of {where} reach {reached}"
    if dense is None:
        return f"{start}."
    change = 100 * (float(codes["value"]) - float(dense["value"]))
    if abs(change) < 0.05:
        return f"{start}: as much as the dense layer."
    verb = "more" if change > 0 else "less"
    return f"{start}: {abs(change):.1f} points {verb} than the dense layer ({words.percent(dense['value'])})."


def variance_sentences(results: Results) -> list[str]:
    """Say how much of a layer the dictionaries rebuild."""
    said: list[str] = []
    for at in _headline(results):
        rows = results.of("explained_variance", "sae", sparsity=at).filter(pl.col("value").is_not_nan())
        if rows.is_empty():
            continue
        ordered = rows.sort("value")
        low, high = ordered.row(0, named=True), ordered.row(-1, named=True)
        span = f"{words.percent(high['value'])} (layer {high['layer']})"
        if low["layer"] != high["layer"]:
            span = f"{words.percent(low['value'])} (layer {low['layer']}) to {span}"
        held = f"{words.count(high['n'], 'row')} of {words.count(high['groups'], 'group')}"
        said.append(
            f"Reconstruction: at {words.sparsity(at)} sparsity the dictionaries explain {span} of the variance on "
            f"unseen groups ({held}; always answering the training mean explains 0 %)."
        )
    return said


def factor_sentences(results: Results) -> list[str]:
    """Say how many factors are predicted, by what, and with how many dimensions."""
    layer = factor_layer(results)
    if layer is None:
        return []
    at = results.reference_sparsity
    said: list[str] = []
    for name, rows in (
        ("the dense layer", results.of("factor_r2", "dense", layer=layer)),
        (f"codes at {words.sparsity(at)} sparsity", results.of("factor_r2", "sae", layer=layer, sparsity=at)),
    ):
        if rows.is_empty():
            continue
        known = rows.filter(predicted())
        null = rows["null_high"].fill_nan(None).median()
        beside = f"; median upper end of the null {words.decimal(null)}" if isinstance(null, float) else ""
        median = rows["value"].fill_nan(None).median()
        r2 = f"; median held-out R² {words.decimal(median)}" if isinstance(median, float) else ""
        groups = rows["groups"].max()
        said.append(
            f"Factors: from {name} {known.height} of {rows.height} are predicted at layer {layer} (R² of at least "
            f"{PREDICTED_R2} and above the null, on {words.count(int(groups or 0), 'unseen group')}{r2}{beside})."
        )
    sizes = [_median_size(results, layer, "dense", None), _median_size(results, layer, "sae", at)]
    if sizes[0] and sizes[1]:
        said.append(
            f"Compactness: the factors that both predict take {sizes[0]:.1f} effective dimensions from the dense layer "
            f"and {sizes[1]:.1f} from the codes at {words.sparsity(at)} sparsity (medians, layer {layer})."
        )
    return said


def _median_size(results: Results, layer: int, representation: str, at: float | None) -> float | None:
    rows = results.of("effective_latents", representation, layer=layer)
    rows = rows.filter(pl.col("sparsity") == at) if at is not None else rows
    both = rows.filter(pl.col("target").is_in(_predicted_by_both(results, layer)) & pl.col("value").is_not_nan())
    median = both["value"].median()
    return median if isinstance(median, float) else None


def _predicted_by_both(results: Results, layer: int) -> list[str]:
    at = results.reference_sparsity
    dense = results.of("factor_r2", "dense", layer=layer).filter(predicted())["target"]
    codes = results.of("factor_r2", "sae", layer=layer, sparsity=at).filter(predicted())["target"]
    return sorted(set(dense) & set(codes))


def _headline(results: Results) -> list[float]:
    """Return 90 % and 95 % where there are such dictionaries, else the reference sparsity."""
    found = [s for s in results.sparsities if any(abs(s - wanted) < 1e-9 for wanted in HEADLINE_SPARSITIES)]
    return found or ([results.reference_sparsity] if results.reference_sparsity is not None else [])


def _nearest_codes(results: Results, label: str, at: float) -> dict[str, Any] | None:
    rows = results.of("probe_accuracy", "sae", target=label, sparsity=at).filter(pl.col("value").is_not_nan())
    best = results.best_layer.layer or 0
    near = rows.with_columns((pl.col("layer") - best).abs().alias("far")).sort("far", "layer")
    return near.row(0, named=True) if near.height else None


def _probe_tiles(results: Results) -> list[Html]:
    if not results.labels:
        return []
    label = results.labels[0]
    dense = results.one("probe_accuracy", "dense", target=label, layer=results.best_layer.layer)
    tiles = [_tile(f"{label}, dense layer {dense['layer']}", words.percent(dense["value"]), dense)] if dense else []
    for at in _headline(results)[:1]:
        if codes := _nearest_codes(results, label, at):
            name = f"{label}, codes at {words.sparsity(at)}, layer {codes['layer']}"
            tiles.append(_tile(name, words.percent(codes["value"]), codes))
    return tiles


def _variance_tile(results: Results) -> list[Html]:
    at = results.reference_sparsity
    row = results.of("explained_variance", "sae", sparsity=at).filter(pl.col("value").is_not_nan())
    if row.is_empty():
        return []
    near = row.sort((pl.col("layer") - (results.best_layer.layer or 0)).abs(), "layer").row(0, named=True)
    name = f"explained variance at {words.sparsity(at)}, layer {near['layer']}"
    return [_tile(name, words.percent(near["value"]), near, null="null: 0 % (training mean)")]


def _factor_tiles(results: Results) -> list[Html]:
    layer, at = factor_layer(results), results.reference_sparsity
    if layer is None:
        return []
    rows = results.of("factor_r2", "sae", layer=layer, sparsity=at)
    name, rows = ("codes", rows) if rows.height else ("dense layer", results.of("factor_r2", "dense", layer=layer))
    if rows.is_empty():
        return []
    text = f"{rows.filter(predicted()).height} of {rows.height}"
    null = rows["null_high"].fill_nan(None).median()
    beside = (
        f"null: R² up to {words.decimal(null, 2)} (median)" if isinstance(null, float) else "no null in the results"
    )
    return [_tile(f"factors predicted, {name}, layer {layer}", text, rows.row(0, named=True), null=beside)]


def _tile(name: str, value: str, row: dict[str, Any], *, null: str | None = None) -> Html:
    lines: list[str] = []
    if null is None:
        low, high, mean, upper = (row[c] for c in ("low", "high", "null_mean", "null_high"))
        if words.known(low) and words.known(high):
            lines.append(f"interval {words.percent(low)} to {words.percent(high)}")
        if words.known(mean):
            lines.append(f"null {words.percent(mean)}, up to {words.percent(upper)}")
    else:
        lines.append(null)
    lines.append(f"{row['n']:,} rows, {words.count(int(row['groups'] or 0), 'group')}")
    quiet = (element("dd", line, class_="quiet") for line in lines)
    return element("div", element("dt", name), element("dd", value, class_="value"), *quiet)
