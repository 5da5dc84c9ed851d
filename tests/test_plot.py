"""Charts from Python: each is built from a small results table, and one is drawn as SVG."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import vl_convert as vlc

import otoscope
from otoscope import plot
from otoscope.artifacts import read_table, write_table
from otoscope.corpus.audio import write_audio
from otoscope.errors import EvaluationError, IncompleteArtifact
from otoscope.explain.card_tables import RESPONSES
from otoscope.explain.causal_curves import SWEEPS
from otoscope.explain.matching import match_codes
from otoscope.explain.splice_scores import SCORES
from otoscope.metrics.record import to_table
from tests.report.claims.test_page import small_study, strict_study, strictly
from tests.support.finished_run import made_predictions, make_run
from tests.support.small_runs import Tiny

HELD_OUT = (plot.probe_by_layer, plot.probe_by_sparsity, plot.reconstruction, plot.factors, plot.categories)
STRICT = (plot.strict_tasks, plot.strict_structure, plot.strict_few_dimensions, plot.strict_layers)
CLAIMS = (plot.claim_task, plot.claim_dimensions, plot.claim_layers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plot")
    return make_run(folder, layers=(1, 3), sae_layers=(1, 3), sizes={"pitch": 3, "formants": 2}, gallery=False)


@pytest.mark.parametrize("chart", HELD_OUT)
def test_held_out_charts_are_drawn_from_folder_table_and_results(chart, folder: Path) -> None:
    first = chart(folder).to_dict()
    assert first["title"]
    assert first["datasets"]
    if chart not in (plot.factors, plot.categories):  # a table alone does not hold the categories of factors
        assert chart(read_table(folder / "results.parquet")).to_dict() == first
        assert chart(otoscope.load_results(folder)).to_dict() == first


def test_factors_has_one_panel_per_category(folder: Path) -> None:
    table = read_table(folder / "results.parquet")
    titles = [panel["title"] for panel in plot.factors(folder, "effective_latents").to_dict()["concat"]]
    assert titles == ["pitch (3)", "formants (2)"]
    named = plot.factors(table, categories={"pitch factor 1": "voice"}).to_dict()["concat"]
    assert [panel["title"] for panel in named] == ["voice (1)", "other (4)"]
    with pytest.raises(EvaluationError, match="known: factor_r2"):
        plot.factors(table, "mse")


def test_class_charts_of_a_folder_show_layer_and_codes_of_the_page(folder: Path) -> None:
    assert [panel["title"] for panel in plot.confusion(folder, "technique").to_dict()["concat"]] == [
        "confusions, dense layer",
        "confusions, SAE codes",
    ]
    chart = plot.recall(folder, "technique").to_dict()
    recall = {(row["series"], row["class"]): row["recall"] for data in chart["datasets"].values() for row in data}
    # the dense probe takes singer0 for belt, the codes also every trill
    expected = {("dense layer", "belt"): 1.0, ("dense layer", "trill"): 0.75, ("dense layer", "vibrato"): 0.75}
    expected |= {("SAE codes", "belt"): 1.0, ("SAE codes", "trill"): 0.0, ("SAE codes", "vibrato"): 0.75}
    assert recall == pytest.approx(expected)
    groups = plot.group_accuracy(folder, "technique").to_dict()
    accuracy = {(row["series"], row["group"]): row["accuracy"] for data in groups["datasets"].values() for row in data}
    assert accuracy["dense layer", "singer0"] == pytest.approx(1 / 3)
    assert accuracy["dense layer", "singer1"] == 1.0
    assert accuracy["SAE codes", "singer1"] == pytest.approx(2 / 3)
    for one in (plot.confusion, plot.recall, plot.group_accuracy):
        assert vlc.vegalite_to_svg(one(folder, "technique").to_dict()).startswith("<svg")


def test_class_charts_accept_rows_of_one_probe_and_refuse_others(folder: Path) -> None:
    rows = read_table(folder / "predictions.parquet")
    dense = rows.filter((pl.col("representation") == "dense") & (pl.col("layer") == 3))
    assert plot.confusion(dense, "technique").to_dict()["title"] == "Confusions: technique"
    with pytest.raises(EvaluationError, match="one probe, got those of"):
        plot.recall(rows, "technique")
    with pytest.raises(EvaluationError, match="no predictions of 'vowel'"):
        plot.group_accuracy(folder, "vowel")


def test_group_accuracy_draws_many_groups_as_dots_of_two_rows(folder: Path) -> None:
    rows = made_predictions(["technique"], [3], [], clips=400).with_columns(group=pl.col("clip_id").str.slice(4, 2))
    spec = plot.group_accuracy(rows, "technique").to_dict()
    (data,) = spec["datasets"].values()
    assert len(data) == 40
    assert spec["layer"][0]["encoding"]["y"]["field"] == "series"


@pytest.mark.parametrize("chart", STRICT + CLAIMS)
def test_strict_and_claim_charts_are_drawn_from_a_table(chart) -> None:
    predicted = strictly("predicted_share", 0.9, "dense", target="common", n=12)
    assert chart(to_table([*small_study(), *strict_study(), predicted])).to_dict()["datasets"]


def test_charts_without_rows_say_what_is_missing(folder: Path) -> None:
    empty = read_table(folder / "results.parquet").head(0)
    for chart in (*HELD_OUT, *STRICT, plot.strict_limits):
        with pytest.raises(EvaluationError, match="hold no rows for"):
            chart(empty)
    with pytest.raises(EvaluationError, match="no probe of 'x'"):
        plot.probe_by_sparsity(folder, label="x")


def test_sweeps_draws_each_factor_in_a_panel() -> None:
    row = {"low": 0.1, "high": 0.9, "singers": 4, "centre": 1.0, "width": 1.0, "selectivity": 0.5, "r2": 0.8,
           "p_value": 0.01, "responds": True}  # fmt: skip
    curves = [
        {"latent": latent, "factor": factor, "value": float(i), "class": name, "mean": i / 5 + 0.1, **row}
        for latent in (3, 8)
        for factor, names in (("level", (None,) * 3), ("vowel", ("a", "e", "i")))
        for i, name in enumerate(names)
    ]
    table = pl.DataFrame(curves, schema=SWEEPS)
    both, one = plot.sweeps(table), plot.sweeps(table, latent=8)
    assert [panel["title"] for panel in both.to_dict()["concat"]] == ["level (dB)", "vowel"]
    assert len(vlc.vegalite_to_svg(both.to_dict())) > 1000
    assert "latent 3" not in str(one.to_dict()["datasets"])
    with pytest.raises(EvaluationError, match=r"no sweep of latent 4; the table holds \[3, 8\]"):
        plot.sweeps(table, latent=4)


def test_responses_draws_causal_curves_beside_observed_ones() -> None:
    facts = {"low": 0.1, "high": 0.9, "groups": 3, "centre": 1.0, "width": 1.0, "selectivity": 0.5, "null_high": 0.1}
    observed = [
        {"latent": 3, "descriptor": name, "bin": i, "from": x, "to": x + 6, "median": x + 3, "mean": 0.1 + i / 5,
         "rows": 90, "r2": r2, "band_r2": 0.1, "responds": True, **facts}
        for name, r2 in (("level_db", 0.4), ("f1_hz", 0.6))
        for i, x in enumerate((-50.0, -40.0, -30.0, -20.0))
    ]  # fmt: skip
    caused = [
        {"latent": 3, "factor": "level", "value": x, "class": None, "mean": x + 60, "low": 1.0, "high": 40.0,
         "singers": 4, "centre": -20.0, "width": 9.0, "selectivity": 0.2, "r2": 0.9, "p_value": 0.001, "responds": True}
        for x in (-54.0, -42.0, -30.0, -18.0)
    ]  # fmt: skip
    table, sweeps = pl.DataFrame(observed, schema=RESPONSES), pl.DataFrame(caused, schema=SWEEPS)
    alone, both = plot.responses(table, 3), plot.responses(table, 3, sweeps=sweeps)
    assert [panel["title"] for panel in alone.to_dict()["concat"]] == [
        "openSMILE's F1 (Hz): R² 0.60",
        "level (dB): R² 0.40",
    ]
    assert both.to_dict()["concat"][1]["title"] == "level (dB): R² 0.40, agreement 1.00"
    assert "sung" not in str(alone.to_dict())
    assert len(vlc.vegalite_to_svg(both.to_dict())) > 1000
    with pytest.raises(EvaluationError, match=r"no responses of latent 4; the table holds \[3\]"):
        plot.responses(table, 4)


def test_charts_can_be_drawn_as_svg(folder: Path) -> None:
    svg = vlc.vegalite_to_svg(plot.factors(folder).to_dict())
    assert svg.startswith("<svg")
    assert svg.count("aria-roledescription") > 10


def test_activation_draws_the_codes_of_one_latent_over_the_clip(tiny: Tiny, tmp_path: Path) -> None:
    encoder = otoscope.load_encoder(str(tiny("whisper")))
    time_s = np.arange(16_000) / 16_000
    wave = (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    width = encoder.layers[1].width
    sae = otoscope.SparseAutoencoder(width, 32, otoscope.TopK(8))
    chart = plot.activation(wave, 3, sae=sae, encoder=encoder, layer=1, rate_hz=16_000).to_dict()
    codes = max(chart["datasets"].values(), key=len)
    frames = encoder.frames(wave.size)
    assert [row["start_s"] for row in codes] == frames.start_s.tolist()
    expected = sae.encode(encoder.encode([wave], [1]).layers[1][0, : len(codes)])[:, 3]
    assert [row["code"] for row in codes] == pytest.approx(expected.tolist(), abs=1e-6)
    assert "image" in vlc.vegalite_to_svg(chart)
    path = tmp_path / "tone.wav"
    write_audio(path, wave, 16_000)
    again = plot.activation(path, 3, sae=sae, encoder=encoder, layer=1).to_dict()
    assert len(max(again["datasets"].values(), key=len)) == len(codes)
    with pytest.raises(EvaluationError, match="latents 0 to 31"):
        plot.activation(wave, 32, sae=sae, encoder=encoder, layer=1, rate_hz=16_000)
    with pytest.raises(EvaluationError, match="rate_hz is missing"):
        plot.activation(wave, 3, sae=sae, encoder=encoder, layer=1)


def card_rows(**changed: object) -> dict[str, object]:
    scores = {"auroc": 0.7, "low": 0.6, "high": 0.8, "permuted_high": 0.56, "others": 0.5, "level": 0.55}
    times = {
        "lag_s": 0.02,
        "duration_s": 0.1,
        "persistence_s": 0.05,
        "modulation_hz": 4.0,
        "onsets": 9,
        "lag_onsets": 8,
    }
    scores |= {"groups": 3, "beats_controls": True}
    return {"latent": 3, "sentence": "Fires in 9 % of frames.", **scores, **times, "syllable_share": 0.4, **changed}


def test_cards_are_all_scores_beside_three_controls() -> None:
    rows = [card_rows(latent=i, auroc=0.5 + i / 50) for i in range(12)]
    table = pl.DataFrame([*rows, card_rows(latent=99, auroc=float("nan"))])
    chart = plot.cards(table).to_dict()
    (drawn,) = [data for data in chart["datasets"].values() if "series" in data[0]]
    assert {row["name"] for row in drawn} == {f"latent {i}" for i in range(12)}
    assert len({row["series"] for row in drawn}) == 4
    assert {row["low"] for row in drawn if row["series"] != "card"} == {None}
    colours = {layer["encoding"]["color"]["scale"]["range"][i] for layer in chart["layer"] for i in range(4)}
    assert len(colours) == 4  # a control has another colour than the card
    two_groups = plot.cards(table.with_columns(groups=2)).to_dict()
    assert {row["low"] for data in two_groups["datasets"].values() for row in data if "series" in row} == {None}
    with pytest.raises(EvaluationError, match="no rows for cards"):
        plot.cards(table.filter(latent=99))


def test_temporal_profile_has_a_panel_per_part_that_is_known() -> None:
    table = pl.DataFrame([card_rows(latent=i, lag_s=float("nan")) for i in range(3)])
    titles = [panel["title"] for panel in plot.temporal_profile(table).to_dict()["concat"]]
    assert titles == ["median time of firing (s)", "persistence (s)", "strongest modulation (Hz)"]


def test_splice_has_a_panel_per_quantity_with_a_share() -> None:
    row = {"sae_id": "one", "target": "", "untouched": 1.0, "ablated": 0.0, "low": 0.2, "high": 9.0, "clips": 9}
    shares = {"cosine": 0.9, "word_error_rate": float("nan"), "words_found": 0.4}
    rows = [
        {**row, "substitute": name, "k": k, "quantity": quantity, "value": 0.5, "recovered": share, "groups": 3}
        for quantity, share in shares.items()
        for name in ("sae", "sae_with_error", "random_atoms")
        for k in (20, 51)
    ]
    chart = plot.splice(pl.DataFrame(rows, schema=SCORES)).to_dict()
    assert [panel["title"] for panel in chart["concat"]] == ["cosine of the last layer", "words found"]
    drawn = [point for data in chart["datasets"].values() for point in data]
    assert {(point["series"], point["k"]) for point in drawn} == {
        (name, k) for name in ("reconstruction", "random atoms, encoder untrained") for k in (20, 51)
    }
    assert max(point["high"] for point in drawn) == 1.5


@pytest.mark.parametrize(("table", "state"), [(None, "is missing"), (pl.DataFrame(schema=SCORES), "has no rows")])
def test_splice_of_a_run_without_the_step_names_the_reason(tmp_path: Path, table: pl.DataFrame | None, state: str):
    if table is not None:
        write_table(tmp_path / "explain" / "splice.parquet", table)
    with pytest.raises(IncompleteArtifact, match=rf"splice.parquet {state}: `explain` has not run, or its step was"):
        plot.splice(tmp_path)


def test_matching_draws_partners_beside_the_null_for_each_dictionary() -> None:
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(300, 30))
    found = match_codes(codes, codes[:, ::-1] + 0.1 * rng.exponential(size=codes.shape)).table()
    table = pl.concat([found.select(pl.lit(name).alias("other"), pl.all()) for name in ("seed1", "seed2")])
    chart = plot.matching(table).to_dict()
    assert [panel["title"] for panel in chart["concat"]] == ["seed1", "seed2"]
    points = [point for data in chart["datasets"].values() for point in data]
    best = {name: max(p["value"] for p in points if p["series"] == name) for name in ("partner", "largest of the null")}
    assert best["partner"] > 0.9 > best["largest of the null"]
    assert vlc.vegalite_to_svg(chart).startswith("<svg")
