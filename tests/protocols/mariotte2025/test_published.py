"""Published figures: values of the shared file, standard errors by hand, and comparison with results."""

import json
import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from otoscope.metrics.record import Record, to_table
from otoscope.protocols.mariotte2025.published import (
    KEYS,
    MODELS,
    STANDARD_ERRORS,
    compare,
    models_not_run,
    published,
    standard_error,
)

METRICS = {
    "mse": "reconstruction_mse",
    "top_r2_in_sample": "mean_r2_top10_in_sample",
    "top_completeness": "mean_completeness_top10",
}


def theirs(shared: Path) -> dict[tuple[object, ...], float]:
    """Return the figures of the shared file under our keys."""
    read = json.loads((shared / "paper" / "results.json").read_text())
    found: dict[tuple[object, ...], float] = {}
    for model, row in read["layer_probe_accuracy_percent"].items():
        found |= {("probe_accuracy", model, layer, "dense", None, "technique"): v / 100 for layer, v in enumerate(row)}
    for cell, values in read["sae_probe_accuracy_percent"].items():
        model, layer = cell.split("/")
        known = {s: v for s, v in values.items() if v is not None}
        found |= {
            ("probe_accuracy", model, int(layer), "sae", int(s) / 100, "technique"): v / 100 for s, v in known.items()
        }
    for metric, key in METRICS.items():
        for cell, values in read[key].items():
            model, layer = cell.split("/")
            found |= {(metric, model, int(layer), "sae", int(s) / 100, ""): v for s, v in values.items()}
        for cell, value in read.get(f"{key}_dense", {}).items():
            model, layer = cell.split("/")
            found[metric, model, int(layer), "dense", None, ""] = value
    counts = read["factor_category_counts_in_top10_r2"]
    for cell in set(counts) - {"order"}:
        model, layer = cell.split("/")
        for name, value in zip(counts["order"], counts[cell], strict=True):
            group = "voice quality" if name == "quality" else name
            found["category_count", model, int(layer), "sae", None, group] = value
    return found


@pytest.mark.shared
def test_published_equals_the_shared_file(shared: Path) -> None:
    wanted = theirs(shared)
    ours = {tuple(row[:-1]): row[-1] for row in published().select(*KEYS, "value").iter_rows()}
    # only the text of PAPER.md describes the two runs of one label
    twice = {key: value for key, value in ours.items() if "of two" in str(key[-1])}
    assert sorted(twice.values()) == [0.665, 0.7]
    assert {key: value for key, value in ours.items() if key not in twice} == pytest.approx(wanted, abs=1e-9)


def test_published_figures_have_documented_standard_errors() -> None:
    rows = published()
    assert set(rows["metric"]) == set(STANDARD_ERRORS)
    assert (rows["standard_error"] > 0).all()
    assert set(rows["how"]) == {"printed", "figure"}


@pytest.mark.parametrize(
    ("metric", "value", "how", "error"),
    [
        ("probe_accuracy", 0.75, "printed", math.sqrt(0.75 * 0.25 / 400)),
        ("probe_accuracy", 0.5, "figure", math.hypot(0.025, 0.005)),
        ("mse", 0.05, "figure", 0.001),
        ("top_r2_in_sample", 0.81, "printed", 2 * 0.9 * 0.19 / 20),
        ("top_completeness", 0.7, "printed", 0.1 / math.sqrt(10)),
        ("category_count", 5.0, "printed", math.sqrt(2.5)),
    ],
)
def test_standard_error_of_given_figures(metric: str, value: float, how: str, error: float) -> None:
    assert standard_error(metric, value, how) == pytest.approx(error)


def rows(model: str, layers: dict[int, float], **sae: object) -> pl.DataFrame:
    encoder = MODELS[model].checkpoint
    common = {"split": "test", "encoder": encoder, "protocol": "mariotte2025"}
    dense = [
        Record(metric="probe_accuracy", target="technique", value=v, layer=i, representation="dense", **common)
        for i, v in layers.items()
    ]
    codes = [
        Record(
            metric="probe_accuracy",
            target="technique",
            value=v,
            layer=layer,
            representation="sae",
            sparsity=s,
            **common,
        )
        for (layer, s), v in sae.get("codes", {}).items()
    ]
    counts = [
        Record(
            metric="category_count", target="pitch", value=v, layer=layer, representation="sae", sparsity=s, **common
        )
        for (layer, s), v in sae.get("counts", {}).items()
    ]
    return to_table([*dense, *codes, *counts])


def cell(table: pl.DataFrame, **keys: object) -> dict[str, object]:
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(value)) for name, value in keys.items())
    found = table.filter(same)
    assert found.height == 1, keys
    return found.row(0, named=True)


def test_compare_has_both_values_in_every_row() -> None:
    table = compare({"AST": rows("AST", {6: 0.8, 0: 0.5}, codes={(6, 0.9): 0.7})}, [MODELS["AST"]])
    assert table.height == published().filter(pl.col("model") == "AST").height
    probe = cell(table, metric="probe_accuracy", model="AST", layer=6, representation="dense")
    assert probe["here"] == 0.8
    assert probe["difference"] == pytest.approx(0.8 - 0.818)
    assert probe["in_errors"] == pytest.approx((0.8 - 0.818) / probe["standard_error"])
    assert cell(table, metric="probe_accuracy", model="AST", layer=0)["here"] == 0.5
    assert cell(table, metric="probe_accuracy", model="AST", layer=6, sparsity=0.9)["here"] == 0.7
    assert table.filter(pl.col("here").is_not_null()).height == 3


def test_models_not_run_lists_models_without_rows() -> None:
    table = compare({"AST": rows("AST", {6: 0.8})}, [MODELS["AST"]])
    assert set(table["model"]) == {"AST"}
    others, numbers = models_not_run(table)
    assert sorted(others) == ["HuBERT", "MERT", "WavLM"]
    assert numbers + table.height == published().height
    everything = compare({name: rows(name, {}) for name in MODELS}, list(MODELS.values()))
    assert (everything.height, models_not_run(everything)) == (published().height, ([], 0))


def test_compare_maps_layers_to_the_published_pair() -> None:
    model = replace(MODELS["AST"], layers=(1, 4))
    table = compare({"AST": rows("AST", {1: 0.3, 4: 0.4, 6: 0.9}, codes={(4, 0.75): 0.2})}, [model])
    assert cell(table, metric="probe_accuracy", model="AST", layer=6, representation="dense")["here"] == 0.3
    assert cell(table, metric="probe_accuracy", model="AST", layer=12, representation="dense")["here"] == 0.4
    assert cell(table, metric="probe_accuracy", model="AST", layer=12, sparsity=0.75)["layer_here"] == 4
    assert cell(table, metric="probe_accuracy", model="AST", layer=1)["here"] == 0.3


def test_compare_averages_category_counts_over_sparsities() -> None:
    table = compare({"MERT": rows("MERT", {}, counts={(4, 0.75): 2.0, (4, 0.9): 5.0})}, [MODELS["MERT"]])
    assert cell(table, metric="category_count", model="MERT", layer=4, target="pitch")["here"] == 3.5


@pytest.mark.parametrize(
    ("codes", "higher", "lower"),
    [({(3, 0.75): 0.6, (3, 0.8): 0.1}, 0.6, 0.6), ({(3, 0.75): 0.6}, 0.6, 0.6)],
)
def test_compare_uses_one_run_for_both_ambiguous_figures(codes, higher, lower) -> None:
    table = compare({"HuBERT": rows("HuBERT", {}, codes=codes)}, [MODELS["HuBERT"]])
    found = [cell(table, model="HuBERT", target=f"technique ({name} of two)")["here"] for name in ("higher", "lower")]
    assert found == [higher, lower]


def test_compare_orders_two_runs_of_the_ambiguous_label() -> None:
    both = pl.concat([rows("HuBERT", {}, codes={(3, 0.75): v}) for v in (0.5, 0.6)])
    table = compare({"HuBERT": both}, [MODELS["HuBERT"]])
    found = [cell(table, model="HuBERT", target=f"technique ({name} of two)")["here"] for name in ("higher", "lower")]
    assert found == [0.6, 0.5]
