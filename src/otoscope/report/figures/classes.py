"""Figures of the errors of probes: classes confused, recall per class, and accuracy per group."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import altair as alt
import polars as pl

from otoscope.formatting import NBSP, comma_list, count, percent, sparsity
from otoscope.metrics.predictions import accuracy_by_group, class_names, confusion, recall_by_class
from otoscope.metrics.representation import CODES, DENSE
from otoscope.protocols.strict.results import StrictResults
from otoscope.report.figures.figure import Chart, Figure, Panel
from otoscope.report.figures.marks import PERCENT, layered, series_colour
from otoscope.report.figures.theme import HEAT_INK, HEAT_INK_STRONG, NULL
from otoscope.report.run_data import RunData

MAX_LABELS = 4
"""Labels with a figure; `otoscope.plot` draws all."""
MAX_COUNTED = 12
"""Largest number of classes with counts in the cells of the matrix; with more, tooltips hold them."""
MAX_LISTED_GROUPS = 24
"""Largest number of groups with a row of their own."""
JITTER = 7
"""Rows over which the dots of many groups are spread."""

SERIES = {DENSE: "dense layer", CODES: "SAE codes"}

Probes = Mapping[str, pl.DataFrame]
"""Predictions of one label by series: of the dense layer, and of its codes."""


def shown_probes(run: RunData, label: str) -> Probes:
    """Return the predictions of a label that the page shows; empty if there are none.

    With the strict protocol they are those of the layer and the codes compared, otherwise those of the layer of the
    codes in the charts.
    """
    results, strict = run.results, StrictResults.of(run.results.rows)
    if strict:
        found = [
            strict.one("task_balanced_accuracy", DENSE, label),
            strict.first_codes("task_balanced_accuracy", label),
        ]
    else:
        codes = results.codes_of(label, results.reference_sparsity)
        layer = codes["layer"] if codes else results.best_layer_for(label).layer
        found = [results.one("probe_accuracy", DENSE, target=label, layer=layer), codes]
    each = [(SERIES[row["representation"]], run.predicted_by(label, row)) for row in found if row]
    return {name: rows for name, rows in each if rows is not None}


def class_figures(run: RunData) -> list[Figure]:
    """Return one figure per label of a run, for the first labels; none without predictions."""
    noun = str(run.corpus.get("group_noun") or "group")
    labels = [] if run.predictions is None else run.predictions["label"].unique(maintain_order=True).to_list()
    found = [(label, shown_probes(run, label)) for label in labels]
    drawn = [(label, probes) for label, probes in found if probes]
    strict = StrictResults.of(run.results.rows)
    figures = [
        _figure(number, *pair, noun, _over_seeds(strict, pair[0])) for number, pair in enumerate(drawn[:MAX_LABELS], 1)
    ]
    if further := [label for label, _ in drawn[MAX_LABELS:]]:
        note = f"Labels without a figure here: {comma_list(further)}; otoscope.plot.confusion and recall draw them."
        figures[-1] = replace(figures[-1], notes=[*figures[-1].notes, note])
    return figures


def _over_seeds(strict: StrictResults, label: str) -> str:
    """Return the score of the codes over seeds, as a sentence after a blank; empty with one seed."""
    rows = strict.compared("task_balanced_accuracy", label).filter(pl.col("representation") == CODES)
    scores = rows["value"].drop_nans().drop_nulls().to_list()
    if len(scores) < 2:
        return ""
    return (
        f" Other seeds differ: the balanced accuracy of the codes is {percent(sum(scores) / len(scores))} as the "
        f"mean of {len(scores)} seeds, ranging from {percent(min(scores))} to {percent(max(scores))}."
    )


def _figure(number: int, label: str, probes: Probes, noun: str, over_seeds: str) -> Figure:
    first = next(iter(probes.values()))
    groups, clips = first["group"].n_unique(), first.height
    panels = [*confusion_panels(probes), recall_panel(probes), groups_panel(probes, noun)]
    reading = (
        "Matrices: rows are true classes, columns predicted ones; the shade is the share of the row, the number counts "
        f"clips. Recall: share of a class's clips that are predicted right, with a 95{NBSP}% interval over {noun}s; "
        "its mean is the balanced accuracy of these predictions. Grey: share of all clips with this prediction, the "
        f"recall expected by chance. Last: share of each {noun}'s clips that are predicted right."
    )
    source = [f"protocol {first['protocol'][0]}"]
    source += [f"{name}: seed {rows['seed'][0]}" for name, rows in probes.items() if rows["seed"][0] is not None]
    return Figure(
        name=f"classes-{number}",
        title=f"Errors of the probes of the {label} ({', '.join(source)})",
        caption=(
            f"Predictions for {count(clips, 'test clip')} of {count(groups, noun)}, from {_source(first, probes)}."
            f"{over_seeds} {reading if number == 1 else 'Read it like the first figure of this section.'}"
        ),
        panels=panels,
        table=pl.concat([_table(name, rows) for name, rows in probes.items()]),
        height=height(probes),
        legend=list(probes),
        notes=["Every prediction: predictions.parquet."],
    )


def _table(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    probe = rows.select(pl.lit(name).alias("probe"), "protocol", "seed").head(1)
    return probe.join(recall_by_class(rows), how="cross")


def height(probes: Probes) -> int:
    """Return the height of the panels: a line per class or group, within bounds."""
    rows = pl.concat(probes.values())
    groups = rows["group"].n_unique()
    lines = max(len(class_names(rows)), groups if groups <= MAX_LISTED_GROUPS else 0)
    return min(max(22 * lines, 180), 560)


def _source(first: pl.DataFrame, probes: Probes) -> str:
    at = ""
    if (codes := probes.get(SERIES[CODES])) is not None:
        at = f" and its codes at {sparsity(codes['sparsity'][0])} sparsity (seed {codes['seed'][0]})"
    return f"layer {first['layer'][0]}{at}, in the protocol {first['protocol'][0]}"


def confusion_panels(probes: Probes) -> list[Panel]:
    """Return one confusion matrix per probe, all with the same classes."""
    classes = class_names(pl.concat(probes.values()))
    return [Panel(_matrix(confusion(rows), classes), f"confusions, {name}") for name, rows in probes.items()]


def _matrix(cells: pl.DataFrame, classes: Sequence[str]) -> Chart:
    x = alt.X("predicted_class:N").title("predicted").sort(classes).scale(domain=list(classes))
    y = alt.Y("true_class:N").title("true").sort(classes).scale(domain=list(classes))
    base = alt.Chart(cells).encode(
        x=x.axis(labelAngle=-60, labelLimit=90, labelOverlap=False), y=y.axis(labelLimit=110)
    )
    legend = alt.Legend(format=PERCENT, orient="top", gradientLength=140)
    colour = alt.Color("share:Q").title("share of the true class").scale(domain=[0, 1]).legend(legend)
    tips = [
        alt.Tooltip("true_class:N", title="true"),
        alt.Tooltip("predicted_class:N", title="predicted"),
        alt.Tooltip("clips:Q"),
        alt.Tooltip("share:Q", format=".1%", title="share of the true class"),
    ]
    tiles = base.mark_rect(cornerRadius=2).encode(color=colour, tooltip=tips)
    if len(classes) > MAX_COUNTED:
        return tiles
    strong, weak = alt.value(HEAT_INK_STRONG.light), alt.value(HEAT_INK.light)
    ink = alt.when("datum.share > 0.55").then(strong).otherwise(weak)
    counts = base.transform_filter("datum.clips > 0").mark_text(fontSize=11)
    return layered(tiles, counts.encode(text="clips:Q", color=ink))


def recall_panel(probes: Probes) -> Panel:
    """Return the recall of each class, with intervals and chance, of all probes."""
    names = list(probes)
    rows = [recall_by_class(rows).with_columns(pl.lit(name).alias("series")) for name, rows in probes.items()]
    data = pl.concat(rows).with_columns(pl.selectors.float().fill_nan(None))
    y = alt.Y("class:N").title(None).sort(None).axis(labelLimit=130)
    base = alt.Chart(data).encode(y=y, yOffset=alt.YOffset("series:N").sort(names), color=series_colour(names))
    scale = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format=PERCENT, grid=True, tickCount=5)
    x = alt.X("recall:Q").title("recall").scale(scale).axis(axis)
    tips = [alt.Tooltip("series:N", title="probe"), alt.Tooltip("class:N")]
    tips += [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("recall", "low", "high", "chance")]
    tips += [alt.Tooltip("clips:Q"), alt.Tooltip("groups:Q")]
    chance = base.mark_tick(thickness=2, size=9).encode(
        x=alt.X("chance:Q").title("recall").scale(scale), color=alt.value(NULL.light)
    )
    interval = base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=alt.X("low:Q").title("recall"), x2="high:Q")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, tooltip=tips)
    return Panel(layered(chance, interval, points), "recall per class")


def groups_panel(probes: Probes, noun: str = "group") -> Panel:
    """Return a dot per group and probe: the share of the group's test clips that are predicted right."""
    names = list(probes)
    data = pl.concat(
        [
            accuracy_by_group(rows).with_columns(
                pl.lit(name).alias("series"), (pl.int_range(pl.len()) % JITTER).alias("row")
            )
            for name, rows in probes.items()
        ]
    )
    axis = alt.Axis(format=PERCENT, grid=True, tickCount=5)
    x = alt.X("accuracy:Q").title(f"accuracy in each {noun}").scale(domain=[0, 1]).axis(axis)
    base = alt.Chart(data).encode(x=x, color=series_colour(names))
    if data["group"].n_unique() <= MAX_LISTED_GROUPS:
        order = data.filter(pl.col("series") == names[0]).sort("accuracy", descending=True)["group"].to_list()
        y = alt.Y("group:N").title(None).sort(order).axis(labelLimit=130, grid=True)
        base = base.encode(y=y, yOffset=alt.YOffset("series:N").sort(names))
    else:
        y = alt.Y("series:N").title(None).sort(names).axis(labelLimit=130)
        base = base.encode(y=y, yOffset="row:O")
    tips = [alt.Tooltip("series:N", title="probe"), alt.Tooltip("group:N", title=noun)]
    tips += [alt.Tooltip("accuracy:Q", format=".3f"), alt.Tooltip("clips:Q")]
    dots = base.mark_point(filled=True, size=60, opacity=0.85).encode(tooltip=tips)
    return Panel(layered(dots), f"accuracy per {noun}")
