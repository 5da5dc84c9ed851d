"""Predicted classes of test clips, and the errors of a probe by class and by group.

A balanced accuracy hides which classes are confused and which singers are read badly; these summaries show both.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError
from otoscope.formatting import known
from otoscope.resampling.groups import group_sums
from otoscope.resampling.intervals import (
    Interval,
    fold_overlap,
    independent_units,
    jackknife_error,
    jackknife_sums,
    leave_one_out,
    recall_interval,
    share_interval,
    widen,
)
from otoscope.resampling.paired import answer_interval

PREDICTIONS: dict[str, pl.DataType] = {
    **{name: pl.String() for name in ("protocol", "representation")},
    "layer": pl.Int64(),
    "sae_id": pl.String(),
    "sparsity": pl.Float64(),
    "seed": pl.Int64(),
    **{name: pl.String() for name in ("label", "clip_id", "group")},
    "fold": pl.Int64(),
    **{name: pl.String() for name in ("true_class", "predicted_class")},
}
"""Columns of `predictions.parquet`: one row per probe and test clip; `fold` is 0 without cross-fitting."""


def confusion(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the number of clips per true and predicted class, and its share of the clips of the true class.

    Every pair of classes has a row, also without clips.

    >>> rows = pl.DataFrame({"true_class": ["a", "a", "b"], "predicted_class": ["a", "b", "b"]})
    >>> confusion(rows).rows()
    [('a', 'a', 1, 0.5), ('a', 'b', 1, 0.5), ('b', 'a', 0, 0.0), ('b', 'b', 1, 1.0)]
    """
    classes = pl.DataFrame({"true_class": class_names(rows)}, schema={"true_class": pl.String()})
    pairs = classes.join(classes.rename({"true_class": "predicted_class"}), how="cross")
    counted = rows.group_by("true_class", "predicted_class").agg(pl.len().cast(pl.Int64).alias("clips"))
    cells = pairs.join(counted, on=["true_class", "predicted_class"], how="left").with_columns(
        pl.col("clips").fill_null(0)
    )
    total = pl.col("clips").sum().over("true_class")
    return cells.with_columns(pl.when(total > 0).then(pl.col("clips") / total).alias("share")).sort(
        "true_class", "predicted_class"
    )


def recall_by_class(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the recall of each class of one probe, with its interval over groups and its value by chance.

    Args:
        rows: Rows of `PREDICTIONS` of one probe of one label.

    Columns are `class, recall, low, high, chance, clips, groups`. The interval is that of `recall_interval`, wider by
    `fold_overlap` in a cross-fit. `chance` is the share of all test clips with this prediction: the recall that is
    expected if predictions have no relation to classes. Raises `EvaluationError` for rows of several probes.
    """
    require_one_probe(rows)
    classes = class_names(rows)
    truth, predicted = (_indicators(rows[name], classes) for name in ("true_class", "predicted_class"))
    groups = rows["group"].to_numpy()
    sizes, hits = (group_sums(x.astype(np.float64), groups) for x in (truth, truth & predicted))
    units, factor = independent_units(sizes), fold_overlap(rows["fold"].n_unique() if "fold" in rows.columns else 1)
    found: list[dict[str, object]] = []
    for i in np.flatnonzero(sizes.any(axis=0)):
        value, low, high = recall_interval(hits[:, [i]], sizes[:, [i]], units[[i]])
        ends = widen(value, low, high, factor=factor, bounds=(0.0, 1.0))
        counts = {"clips": int(sizes[:, i].sum()), "groups": int((sizes[:, i] > 0).sum())}
        chance = float(predicted[:, i].mean())
        scores = {"recall": value, "low": float(ends[0]), "high": float(ends[1]), "chance": chance}
        found.append({"class": classes[i], **scores, **counts})
    schema = {"class": pl.String(), **dict.fromkeys(("recall", "low", "high", "chance"), pl.Float64())}
    return pl.DataFrame(found, schema={**schema, "clips": pl.Int64(), "groups": pl.Int64()})


def predictions_of(predictions: pl.DataFrame | None, label: str, row: Mapping[str, Any]) -> pl.DataFrame | None:
    """Return the predictions of a label by the probe of a row of the results; None without any."""
    if predictions is None:
        return None
    same = [pl.col(name) == row[name] for name in ("protocol", "representation", "layer", "sae_id")]
    found = predictions.filter(pl.col("label") == label, *same)
    return None if found.is_empty() else found


FEW_GROUPS = 5
"""Test groups up to which each one's accuracy is listed beside a wide interval."""


def accuracies_of_few_groups(predictions: pl.DataFrame | None, label: str, row: Mapping[str, Any]) -> list[float]:
    """Return the accuracies of a probe by group, ascending, if its interval exceeds their range for want of groups.

    Empty with more than `FEW_GROUPS` groups, without an interval, or without the probe's predictions.
    """
    rows = predictions_of(predictions, label, row)
    if rows is None or not (known(row["low"]) and known(row["high"])):
        return []
    found: list[float] = sorted(accuracy_by_group(rows)["accuracy"])
    is_wide = row["low"] < found[0] or row["high"] > found[-1]
    return found if 1 < len(found) <= FEW_GROUPS and is_wide else []


def accuracy_by_group(rows: pl.DataFrame) -> pl.DataFrame:
    """Return `group, accuracy, clips` of one probe: the share of each group's test clips that are predicted right.

    >>> rows = pl.DataFrame({"group": ["x", "x", "y"], "true_class": ["a", "b", "b"], "predicted_class": list("aab")})
    >>> accuracy_by_group(rows).rows()
    [('x', 0.5, 2), ('y', 1.0, 1)]
    """
    right = pl.col("true_class") == pl.col("predicted_class")
    return (
        rows.group_by("group").agg(right.mean().alias("accuracy"), pl.len().cast(pl.Int64).alias("clips")).sort("group")
    )


def accuracy_difference(first: pl.DataFrame, second: pl.DataFrame) -> Interval:
    """Return the accuracy of one probe minus that of another on the same clips, with the interval of the difference.

    Args:
        first: Rows of `PREDICTIONS` of one probe.
        second: Rows of another probe of the same label; clips that only one of them predicts are left out.

    The interval is that of `answer_interval`, wider by `fold_overlap` in a cross-fit. The ends are NaN with fewer than
    two groups.

    >>> rows = pl.DataFrame({"clip_id": list("pqrs"), "group": list("xxyy"), "true_class": list("aaaa"),
    ...                      "predicted_class": list("aaab")})
    >>> accuracy_difference(rows.with_columns(predicted_class=pl.lit("a")), rows).value
    0.25
    """
    right = pl.col("true_class") == pl.col("predicted_class")
    sides = [rows.select("clip_id", "group", right.cast(pl.Int64).alias("right")) for rows in (first, second)]
    both = sides[0].join(sides[1], on="clip_id")
    if both.is_empty():
        return Interval(math.nan, math.nan, math.nan)
    change = (both["right"] - both["right_right"]).to_numpy().astype(np.float64)
    terms = np.stack([change, np.ones(len(change))], axis=1)
    sums = group_sums(terms, both["group"].to_numpy())
    over_groups = Interval(*(float(x) for x in jackknife_sums(sums, lambda part: part[..., 0] / part[..., 1])))
    found = answer_interval(over_groups, change / len(change), [len(change)])
    factor = fold_overlap(first["fold"].n_unique() if "fold" in first.columns else 1)
    return Interval(found.value, *(float(end) for end in widen(*found, factor=factor, bounds=(-1.0, 1.0))))


def class_names(rows: pl.DataFrame) -> list[str]:
    """Return the true and predicted classes of some rows, sorted."""
    return sorted({*rows["true_class"].unique(), *rows["predicted_class"].unique()})


def _indicators(column: pl.Series, classes: list[str]) -> Bool[np.ndarray, "rows classes"]:
    return np.stack([(column == name).to_numpy() for name in classes], axis=1)


def require_one_probe(rows: pl.DataFrame) -> None:
    """Raise `EvaluationError` for rows of several probes; columns that a table lacks do not tell probes apart."""
    of_probe = ("protocol", "representation", "layer", "sae_id", "sparsity", "seed", "label")
    probes = rows.select(name for name in of_probe if name in rows.columns).unique().height
    if probes > 1:
        raise EvaluationError(
            f"expected the predictions of one probe, got those of {probes}; filter by protocol, representation, layer, "
            "sae_id and label"
        )


def confusions(
    truth: Int[np.ndarray, " rows"], guess: Int[np.ndarray, " rows"], groups: Shaped[np.ndarray, " rows"], n: int
) -> Float[np.ndarray, "groups classes classes"]:
    """Return one table of counts per group, true class by predicted class."""
    cells = np.zeros((len(truth), n * n))
    cells[np.arange(len(truth)), truth * n + guess] = 1
    return group_sums(cells, groups).reshape(-1, n, n)


def shares_right(tables: Float[np.ndarray, "tables classes classes"]) -> Float[np.ndarray, "tables 3"]:
    """Return accuracy, balanced accuracy and macro-F1 of confusion tables."""
    hits = np.einsum("tcc->tc", tables)
    support, claimed = tables.sum(axis=2), tables.sum(axis=1)
    accuracy = hits.sum(axis=1) / support.sum(axis=1)
    recall = _mean_where(hits, support)
    f1 = _mean_where(2 * hits, support + claimed)
    return np.stack([accuracy, recall, f1], axis=1)


def share_intervals(tables: Float[np.ndarray, "groups classes classes"]) -> tuple[Interval, Interval, Interval]:
    """Return accuracy, balanced accuracy and macro-F1 of one confusion table per group, each with its interval."""
    hits, support = np.einsum("gcc->gc", tables), tables.sum(axis=2)
    units, tested = independent_units(support), support.any(axis=0)
    balanced = recall_interval(hits, support, units)
    accuracy = recall_interval(hits.sum(axis=1)[:, None], support.sum(axis=1)[:, None], units.sum()[None])
    if np.array_equal(hits, support):
        return accuracy, balanced, balanced

    def macro_f1(sums: Float[np.ndarray, "tables classes classes"]) -> Float[np.ndarray, " tables"]:
        absent = (sums.sum(axis=2)[:, tested] == 0).any(axis=1)
        return np.where(absent, np.nan, shares_right(sums)[:, 2])

    f1, without = leave_one_out(tables, macro_f1)
    error = float(jackknife_error(without)) if len(without) > 1 else math.nan
    return accuracy, balanced, share_interval(float(f1), error, n_groups=len(tables), n=float(tables.sum()))


def _mean_where(part: NDArray[Any], whole: NDArray[Any]) -> Float[np.ndarray, " tables"]:
    """Return the mean of part/whole over the classes with non-zero `whole`."""
    counts = whole > 0
    ratio = np.divide(part, whole, out=np.zeros_like(part), where=counts)
    return ratio.sum(axis=1) / counts.sum(axis=1)
