import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest
import vl_convert as vlc

from otoscope.artifacts import read_table, write_table
from otoscope.formatting import untested
from otoscope.metrics.record import Record, to_table
from otoscope.metrics.representation import REPRESENTATIONS
from otoscope.report.figures.charts import by_layer
from otoscope.report.figures.classes import class_figures
from otoscope.report.figures.factors import factor_table, factors_by_sparsity
from otoscope.report.figures.figure import Figure, Panel, figure_chart
from otoscope.report.figures.marks import PERCENT, plain_rows, series_names
from otoscope.report.figures.probes import MAX_FALLS, monotonicity_note
from otoscope.report.figures.strict import strict_figures
from otoscope.report.figures.theme import PRINT_CONFIG, chart_config, layer_colours
from otoscope.report.results import PREDICTED_R2, Results, predicted, too_weak, untestable, without_null
from otoscope.report.run_data import RunData, read_run
from otoscope.report.sections.methods import methods
from otoscope.report.sections.overview import overview
from tests.report.conftest import Made
from tests.support.finished_run import make_run

SVG = "{http://www.w3.org/2000/svg}"


def test_svg_figures_are_drawings_with_marks_in_them(made: Made) -> None:
    files = sorted((made.page.parent / "figures").glob("*.svg"))
    assert len(files) == 8
    for file in files:
        root = ET.fromstring(file.read_text(encoding="utf-8"))
        assert root.tag == f"{SVG}svg"
        figure = [e for e in root.iter(f"{SVG}path") if e.get("aria-roledescription")]
        assert len(figure) > 10, file.name


def test_pdf_figures_are_whole_pdf_files(made: Made) -> None:
    files = sorted((made.page.parent / "figures").glob("*.pdf"))
    assert len(files) == 8
    for file in files:
        data = file.read_bytes()
        assert data.startswith(b"%PDF-")
        assert data.rstrip().endswith(b"%%EOF")


def _row(value: float, **more: object) -> Record:
    return Record(metric="factor_r2", value=value, split="test", representation="dense", layer=0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "within", "expected"),
    [
        (_row(PREDICTED_R2), None, True),
        (_row(PREDICTED_R2 - 1e-6), None, False),
        (_row(0.5, null_high=0.6), 0.3, False),
        (_row(0.5, null_high=0.4), 0.3, True),
        (_row(0.97, null_high=0.96), -0.39, False),
        (_row(float("nan")), None, False),
        (_row(-3.0, null_high=-4.0), None, False),
    ],
)
def test_a_factor_is_predicted_only_above_the_floor_and_its_null_and_within_groups(
    record: Record, within: float | None, expected: bool
) -> None:
    rows = to_table([record]).with_columns(within=pl.lit(within, dtype=pl.Float64()))
    assert rows.select(predicted()).item() is expected


@pytest.mark.parametrize(("null_mean", "testable"), [(float("nan"), False), (0.0, True)])
def test_a_null_with_a_mean_is_a_test_even_if_its_upper_end_is_1(null_mean: float, testable: bool) -> None:
    record = _row(0.7, null_high=1.0, null_mean=null_mean)
    none = pl.lit(None, dtype=pl.Float64())
    rows = to_table([record]).with_columns(within=none, within_high=none)
    assert rows.select(untestable()).item() is not testable
    assert untested(rows.row(0, named=True)) is rows.select(without_null()).item() is not testable
    assert rows.select(too_weak()).item() is testable


def _of_factors(protocol: str, **nulls: float) -> Results:
    factor = replace(_row(0.7, **nulls), target="f1", protocol=protocol)
    sizes = [replace(factor, metric="effective_latents", value=9.0, target=target) for target in ("f1", "")]
    return Results(to_table([factor, *sizes]))


@pytest.mark.parametrize(
    ("nulls", "said"),
    [
        ({"null_mean": 0.56, "null_high": 0.7}, "1 factor has a mean R² above 0.5 (up to 0.56) for permuted clips"),
        ({"null_mean": 0.0, "null_high": 0.96}, ""),
        ({"null_high": 1.0}, ""),
    ],
)
def test_factors_by_sparsity_names_factors_in_which_groups_differ_by_the_mean_of_the_null(
    nulls: dict[str, float], said: str
) -> None:
    figure = factors_by_sparsity(_of_factors("held_out", **nulls), {}, "factor_r2")
    assert figure is not None
    assert said in figure.caption
    assert ("because groups differ in them" in figure.caption) is bool(said)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("strict", "Only factors that the layer and the codes of every seed predict have a value."),
        ("held_out", "Factors with an R² below the setting completeness_min_r2 have no value."),
    ],
)
def test_factors_by_sparsity_draws_no_mean_over_factors(protocol: str, said: str) -> None:
    figure = factors_by_sparsity(_of_factors(protocol), {}, "effective_latents")
    assert figure is not None
    assert [panel.title for panel in figure.panels] == ["other (1)"]
    assert figure.table["factor"].to_list() == ["f1"]
    assert said in figure.caption
    assert "compare codes of the same width that predict a factor about equally well" in figure.caption


def _probe(layer: int, value: float, split: str, **more: object) -> Record:
    return Record(
        metric="probe_accuracy" if split == "test" else "probe_balanced_accuracy",
        value=value,
        split=split,
        representation="dense",
        layer=layer,
        target="x",
        **more,
    )  # type: ignore[arg-type]


def test_the_best_layer_is_chosen_on_validation_groups_where_they_were_scored() -> None:
    test = [_probe(0, 0.9, "test"), _probe(1, 0.8, "test")]
    valid = [_probe(0, 0.7, "valid"), _probe(1, 0.75, "valid")]
    assert Results(to_table(test + valid)).best_layer.layer == 1
    chosen = Results(to_table(test)).best_layer
    assert chosen.layer == 0
    assert "optimistic" in chosen.reason


def test_the_layer_of_the_codes_is_chosen_on_validation_groups_by_all_labels() -> None:
    def codes(layer: int, target: str, value: float, split: str, sparsity: float = 0.9) -> Record:
        return Record(
            metric="probe_balanced_accuracy" if split == "valid" else "probe_accuracy",
            value=value,
            split=split,
            representation="sae",
            layer=layer,
            target=target,
            sparsity=sparsity,
            latents=64,
            pooling="encode_then_pool",
        )

    valid = [codes(1, "a", 0.9, "valid"), codes(2, "a", 0.8, "valid")]
    valid += [codes(1, "b", 0.5, "valid"), codes(2, "b", 0.7, "valid"), codes(1, "a", 1.0, "valid", 0.75)]
    test = [codes(layer, t, 0.9 - 0.1 * layer, "test") for layer in (1, 2) for t in "ab"]
    chosen = Results(to_table(valid + test)).codes_layer
    assert chosen.layer == 2
    assert "validation groups" in chosen.reason
    dense = _probe(5, 0.9, "test")
    assert Results(to_table([dense, *test])).codes_layer.layer == 2


def test_charts_show_one_seed_one_width_and_one_protocol() -> None:
    def codes(seed: int, latents: int, protocol: str = "default") -> Record:
        return Record(
            metric="explained_variance",
            value=0.5,
            split="test",
            representation="sae",
            layer=1,
            seed=seed,
            latents=latents,
            sparsity=0.9,
            protocol=protocol,
        )

    rows = [codes(1, 64), codes(0, 64), codes(1, 64), codes(0, 128), codes(0, 64, "other")]
    shown = Results(to_table(rows)).of("explained_variance", "sae")
    assert shown.select("seed", "latents", "protocol").rows() == [(0, 64, "default")]


@pytest.mark.parametrize(
    ("pooled_widths", "shown", "left"),
    [
        # one width for both ways of pooling, where both have it
        ((64, 128, 128), 64, [("encode_then_pool", 128, "own"), ("pool_then_encode", 128, "own")]),
        # else the width that the other way has most rows of
        ((256, 128, 128), 128, [("encode_then_pool", 128, "own"), ("pool_then_encode", 256, "own")]),
    ],
)
def test_one_width_is_shown_of_each_pooling_and_the_others_are_named(
    pooled_widths: tuple[int, ...], shown: int, left: list[tuple[str, int, str]]
) -> None:
    def codes(latents: int, layer: int, pooling: str) -> Record:
        order = "frames" if pooling == "encode_then_pool" else "pooled"
        name = f"layer{layer:02d}-{order}-own-m{latents}-k6-seed0"
        of = {"layer": layer, "pooling": pooling, "latents": latents, "seed": 0, "sae_id": name, "target": "digit"}
        return Record(metric="probe_accuracy", value=0.5, split="test", representation="sae", preset="own", **of)

    rows = [codes(m, layer, "encode_then_pool") for layer, m in enumerate((64, 64, 128))]
    rows += [codes(m, layer, "pool_then_encode") for layer, m in enumerate(pooled_widths)]
    results = Results(to_table(rows))
    assert results.shown.rows.filter(results.in_other_pooling)["latents"].unique().to_list() == [shown]
    assert results.shown.rows.filter(~results.in_other_pooling)["latents"].unique().to_list() == [64]
    assert results.not_shown == left


def test_charts_show_the_first_recipe_of_several() -> None:
    def codes(preset: str, order: str = "frames") -> Record:
        return Record(
            metric="explained_variance",
            value=0.5,
            split="test",
            representation="sae",
            sae_id=f"layer01-{order}-{preset}-m64-k6-seed0",
            preset=preset,
            layer=1,
            seed=0,
            latents=64,
        )

    dense = Record(metric="explained_variance", value=0.5, split="test", representation="dense", layer=1)
    results = Results(to_table([dense, codes("my-own"), codes("default"), codes("my-own", "pooled")]))
    assert results.preset == "my-own"
    assert results.of("explained_variance")["sae_id"].to_list() == [
        "",
        "layer01-frames-my-own-m64-k6-seed0",
        "layer01-pooled-my-own-m64-k6-seed0",
    ]
    assert Results(to_table([dense])).preset is None


def test_layers_keep_their_colour_whichever_are_shown_and_never_share_one() -> None:
    colours = layer_colours(range(25))
    assert len({c.light for c in colours.values()}) == 25
    assert len({c.dark for c in colours.values()}) == 25
    assert layer_colours([3]).keys() == {3}


def test_specifications_hold_to_the_vega_lite_schema(made: Made) -> None:
    import altair as alt

    for name, spec in made.reading.specs.items():
        if name.endswith("-0"):
            alt.LayerChart.from_dict({k: v for k, v in spec.items() if k != "datasets"})


def test_a_legend_names_dense_before_the_codes() -> None:
    rows = pl.DataFrame({"series": ["random", "SAE", "dense"]})
    assert series_names(rows) == ["dense", "SAE", "random"]


def test_layers_that_tie_on_validation_are_named_and_the_middle_one_is_shown() -> None:
    test = [_probe(layer, 0.5, "test") for layer in range(4)]
    chosen = Results(
        to_table(test + [_probe(layer, value, "valid") for layer, value in enumerate((1.0, 0.9, 1.0, 1.0))])
    )
    assert chosen.best_layer.layer == 2
    assert chosen.best_layer.reason.startswith("layers 0, 2 and 3 tie")


def _variance(layer: int, *values: float) -> list[Record]:
    return [
        Record(metric="explained_variance", value=value, split="test", representation="sae", layer=layer, sparsity=at)
        for at, value in zip((0.75, 0.8, 0.85, 0.9, 0.95), values, strict=False)
    ]


def test_more_latents_explaining_more_is_said_where_it_holds() -> None:
    rows = to_table([*_variance(1, 0.99, 0.98, 0.97), *_variance(3, 0.9, 0.9, 0.8)])
    assert monotonicity_note(rows).endswith("as it does here.")
    assert monotonicity_note(rows.filter(pl.col("sparsity") == pl.col("sparsity").min())) == ""


def test_where_more_latents_explain_less_is_said_with_by_how_much() -> None:
    # a stranger's demo: .986 at 75 %, .990 at 80 %, .980 at 85 %
    said = monotonicity_note(to_table([*_variance(3, 0.986, 0.990, 0.980), *_variance(1, 0.99, 0.98)])).replace(
        "\u00a0", " "
    )
    assert "layer 3 explains 98.6 % at 75 % sparsity and 99.0 % at 80 % sparsity, 0.4 points more" in said
    assert "layer 1" not in said
    assert "85 %" not in said


def test_only_the_largest_falls_are_named() -> None:
    said = monotonicity_note(to_table([r for layer in range(5) for r in _variance(layer, 0.9, 0.91 + layer / 100)]))
    assert said.count("points more") == MAX_FALLS
    assert "layer 4 explains" in said
    assert "layer 0 explains" not in said
    assert "2 smaller" in said


def _probes(layers: tuple[int, ...]) -> pl.DataFrame:
    rows = to_table([_probe(layer, 0.9, "test", null_mean=0.3, null_high=0.4) for layer in layers])
    return rows.with_columns(series=pl.lit("dense"))


@pytest.mark.parametrize(("layers", "marks"), [((3,), {"rect", "rule"}), ((1, 3), {"area", "line"})])
def test_by_layer_draws_the_null_for_any_number_of_layers(layers: tuple[int, ...], marks: set[str]) -> None:
    chart = by_layer(_probes(layers), y_title="accuracy").to_dict()
    nulls = [layer["mark"]["type"] for layer in chart["layer"] if layer["encoding"]["y"].get("field") == "null_mean"]
    assert set(nulls) == marks


def test_axes_of_fractions_have_as_many_decimals_as_their_ticks_need() -> None:
    chart = {"mark": "point", "data": {"values": [{"v": 0.9001}, {"v": 0.9099}]}, "height": 300}
    axis = {"format": PERCENT, "tickCount": 10}
    svg = vlc.vegalite_to_svg(
        {**chart, "encoding": {"y": {"field": "v", "type": "quantitative", "axis": axis, "scale": {"zero": False}}}}
    )
    labels = re.findall(r">([\d.]+%)<", svg)
    assert len(labels) == len(set(labels)) > 5


@pytest.mark.parametrize(("offset", "axis"), [("yOffset", 1), ("xOffset", 0)])
def test_figure_chart_keeps_offset_points_in_their_own_row(offset: str, axis: int) -> None:
    """Panels with few rows come first, so that a shared offset scale would be wider than the rows of the last."""

    def panel(groups: int) -> Panel:
        rows = [{"group": f"g{i:02d}", "series": name, "v": 1} for i in range(groups) for name in ("dense", "codes")]
        place = {"yx"[axis]: "v:Q", "xy"[axis]: "group:N", offset: "series:N"}
        return Panel(alt.Chart(pl.DataFrame(rows)).mark_point().encode(color="series:N", **place))

    figure = Figure("f", "title", "caption", [panel(2), panel(12)], pl.DataFrame(), height=240)
    svg = vlc.vegalite_to_svg(figure_chart(figure, PRINT_CONFIG).to_dict(validate=False))
    marks = re.findall(r'aria-label="([^"]*group[^"]*)"[^>]*transform="translate\(([^)]*)\)', svg)
    found = [(*re.findall(r"(?:group|series): (\w+)", label), place) for label, place in marks]
    last = {(group, series): float(place.split(",")[axis]) for group, series, place in found[4:]}
    assert len(last) == 24
    step = (last["g11", "dense"] - last["g00", "dense"]) / 11
    shifts = [last[f"g{i:02d}", "codes"] - last[f"g{i:02d}", "dense"] for i in range(12)]
    assert all(0 < abs(shift) < step / 2 for shift in shifts), (step, shifts)


def test_factor_table_holds_the_layer_and_the_codes_alone() -> None:
    shared: dict[str, Any] = {"target": "pitch", "split": "test", "protocol": "strict", "layer": 3}
    found = [
        ("dense", 0.8, {}),
        ("sae", 0.6, {"sparsity": 0.9, "latents": 64, "k": 6, "sae_id": "a", "seed": 0}),
        ("permuted", 0.1, {"sparsity": 0.9, "latents": 64, "k": 6}),
        ("logmel", 0.7, {}),
    ]
    records = [
        Record(**shared, metric=metric, value=value, representation=name, **more)
        for metric in ("factor_r2", "factor_r2_within", "factor_r2_given", "effective_latents")
        for name, value, more in found
    ]
    results = Results(to_table(records))
    for metric in ("factor_r2", "effective_latents"):
        (row,) = factor_table(results, {"pitch": "pitch"}, metric, 3).iter_rows(named=True)
        assert row["dense"] == 0.8
        assert row["90\N{NO-BREAK SPACE}%"] == 0.6
        assert set(row) <= {
            "factor",
            "category",
            "dense",
            "90\xa0%",
            "dense within groups",
            "90\xa0% within groups",
        } | {
            "rows",
            "groups",
        }


def test_charts_of_representations_are_high_enough_for_every_label(tmp_path: Path) -> None:
    run = _of_both_protocols(tmp_path, {0: 0.6})
    shared: dict[str, Any] = {"metric": "task_balanced_accuracy", "split": "test", "protocol": "strict", "layer": 3}
    more = [Record(**shared, target="technique", value=0.5, representation=name) for name in REPRESENTATIONS]
    rows = pl.concat([run.results.rows.filter(protocol="strict"), to_table(more)])
    figure = next(figure for figure in strict_figures(rows) if figure.name == "strict-read")
    needed = chart_config(ink="", quiet="", grid="", paper=None)["axis"]
    assert figure.height >= len(REPRESENTATIONS) * (needed["labelFontSize"] + needed["labelSeparation"])


@pytest.mark.parametrize(("groups", "drawn"), [(2, False), (3, True), (None, True)])
def test_plain_rows_have_intervals_only_of_three_groups_or_more(groups: int | None, drawn: bool) -> None:
    (row,) = plain_rows(to_table([_row(0.5, low=0.4, high=0.6, groups=groups)])).iter_rows(named=True)
    assert (row["low"], row["high"]) == ((0.4, 0.6) if drawn else (None, None))


def _of_both_protocols(folder: Path, seeds: dict[int, float]) -> RunData:
    """Return a run of a held-out protocol and of the strict one, with a score of the codes by seed."""
    make_run(folder, layers=(3,), sae_layers=(3,))
    shared: dict[str, Any] = {"metric": "task_balanced_accuracy", "split": "test", "protocol": "strict", "layer": 3}
    shared |= {"target": "technique", "n": 40, "groups": 4, "low": 0.1, "high": 0.9}
    records = [Record(**shared, representation="dense", value=0.8)]
    for seed, value in seeds.items():
        sae: dict[str, Any] = {
            "sae_id": f"layer03-frames-default-m64-k6-seed{seed}",
            "seed": seed,
            "sparsity": 0.9,
            "latents": 64,
            "k": 6,
        }
        records.append(Record(**shared, representation="sae", value=value, **sae))
        records.append(replace(records[-1], metric="reappearing_share", target="", split="all"))
    path = folder / "results.parquet"
    write_table(path, pl.concat([read_table(path), to_table(records)]))
    path = folder / "predictions.parquet"
    held_out = read_table(path)
    strict = held_out.filter((pl.col("representation") == "dense") | (pl.col("sparsity") == 0.9))
    strict = strict.with_columns(protocol=pl.lit("strict"))
    of_codes = pl.when(pl.col("representation") == "sae")
    strict = strict.with_columns(
        sae_id=of_codes.then(pl.lit("layer03-frames-default-m64-k6-seed0")).otherwise(pl.col("sae_id"))
    )
    write_table(path, pl.concat([held_out, strict]))
    return read_run(folder)


def test_class_figures_name_protocol_and_seed_and_the_scores_of_other_seeds(tmp_path: Path) -> None:
    run = _of_both_protocols(tmp_path, {0: 0.6, 1: 0.5})
    (figure,) = class_figures(run)
    caption = figure.caption.replace("\u00a0", " ")
    assert "layer 3 and its codes at 90 % sparsity (seed 0), in the protocol strict." in caption
    assert "codes is 55.0 % as the mean of 2 seeds, ranging from 50.0 % to 60.0 %." in caption
    assert figure.title == "Errors of the probes of the technique (protocol strict, SAE codes: seed 0)"
    assert figure.table.select("probe", "protocol", "seed").unique(maintain_order=True).rows() == [
        ("dense layer", "strict", None),
        ("SAE codes", "strict", 0),
    ]
    said = dict(methods(run).paragraphs)
    assert "sections “Strict protocol” and “Errors by class and group” show the protocol strict" in said["Choices"]
    assert "Recall from the codes of the first seed is no higher" in " ".join(overview(run, "").sentences)


def test_class_figures_of_one_seed_claim_no_other_seeds(tmp_path: Path) -> None:
    (figure,) = class_figures(_of_both_protocols(tmp_path, {0: 0.6}))
    assert "seeds" not in figure.caption
