"""Section and chart of interventions."""

import math
from pathlib import Path

import polars as pl
import pytest

from otoscope import plot
from otoscope.artifacts import write_table
from otoscope.errors import IncompleteArtifact
from otoscope.explain.splice_scores import LENS
from otoscope.pipeline.erasure import CONCEPTS, DOMINANCE, ERASURE, SWAPS
from otoscope.pipeline.interventions import DIFFERENCES, INTERVENTIONS
from otoscope.report import read_run, write_report
from otoscope.report.sections.interventions import erasure, interventions
from tests.support.finished_run import make_run
from tests.support.page_reader import read_page

EFFECTS = {
    "latent_by_activation": 0.3,
    "latent_by_output": 0.9,
    "random_latent": 0.1,
    "difference_of_means": 0.95,
    "principal_component": 0.2,
    "audio_minus_silence": -0.1,
}


def effects(low_of_output: float = 0.8) -> pl.DataFrame:
    rows: list[dict[str, object]] = []
    for technique, effect in EFFECTS.items():
        for operation, dose in (*(("add", d) for d in (0.125, 0.25, 0.5, 1.0, 2.0)), ("ablate", 1.0)):
            value = 2 * dose * effect if operation == "add" else -effect
            for readout, size in (("technique: breathy", value), ("f0_mean_hz", 0.1)):
                rows.append(
                    {
                        "target": "technique: breathy", "technique": technique, "operation": operation, "dose": dose,
                        "latent": 42 if technique == "latent_by_output" else None, "readout": readout, "effect": size,
                        "low": low_of_output if technique == "latent_by_output" else size - 0.1, "high": size + 0.1,
                        "side": 0.25, "readout_r": 0.8, "entangled": False, "clips": 8, "groups": 4,
                    }
                )  # fmt: skip
    return pl.DataFrame(rows, schema=INTERVENTIONS)


def differences(low_of_means: float = -0.2) -> pl.DataFrame:
    """Return paired differences that exceed 0 for all rivals but the difference of means."""
    rows: list[dict[str, object]] = []
    for technique, operation, dose, sign in (
        ("latent_by_output", "add", 0.5, 1),
        ("latent_by_activation", "ablate", 1.0, -1),
    ):
        for rival in ("random_latent", "difference_of_means", "principal_component"):
            low = low_of_means if rival == "difference_of_means" else 0.5
            ends = sorted((sign * low, sign * 0.9))
            about = {"target": "technique: breathy", "technique": technique, "rival": rival, "operation": operation}
            value = {"dose": dose, "difference": sign * 0.6, "low": ends[0], "high": ends[1], "clips": 8, "groups": 4}
            rows.append({**about, **value})
    return pl.DataFrame(rows, schema=DIFFERENCES)


def write(folder: Path, table: pl.DataFrame, paired: pl.DataFrame | None = None) -> None:
    make_run(folder, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    write_table(folder / "explain" / "interventions.parquet", table)
    write_table(folder / "explain" / "intervention_differences.parquet", differences() if paired is None else paired)


def test_page_compares_the_latent_with_its_rivals_at_equal_norm(tmp_path: Path) -> None:
    write(tmp_path, effects())
    page = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    said = page.section("interventions").replace("\u00a0", " ")
    assert "up to 8 clips of 4 test groups" in said
    assert (
        "technique: breathy: the latent chosen by output added does not move the readout beyond difference of means "
        "(difference 0.60, \u22120.20 to 0.90); the latent chosen by activation ablated does not move" in said
    )
    assert "0.90 (0.80 to 1.00)" in said
    assert page.mistakes == []


def test_verdicts_follow_the_paired_intervals_and_few_groups_are_named(tmp_path: Path) -> None:
    """Latent and difference of means have intervals that overlap, and the interval of their difference excludes 0."""
    write(tmp_path, effects(low_of_output=0.1), differences(low_of_means=0.05))
    shown = interventions(read_run(tmp_path))
    assert shown is not None
    (added, ablated) = shown.paragraphs[-1].split("; the latent chosen by activation")
    assert "added moves the readout more than every rival; least beyond" in added
    assert "moves the readout more than every rival" in ablated
    few, none = effects().with_columns(groups=pl.lit(1, dtype=pl.Int64)), pl.lit(math.nan)
    write_table(tmp_path / "explain" / "interventions.parquet", few)
    open_ended = differences().with_columns(low=none, high=none)
    write_table(tmp_path / "explain" / "intervention_differences.parquet", open_ended)
    shown = interventions(read_run(tmp_path))
    assert shown is not None
    assert shown.paragraphs[2] == "There are too few test groups for a claim."
    assert shown.paragraphs[3].count("the comparison with rivals is open") == 2


def test_dose_response_draws_one_line_per_direction(tmp_path: Path) -> None:
    chart = plot.dose_response(effects()).to_dict()
    assert chart["title"] == "Effect of adding a direction to the layer"
    (rows,) = [d for d in chart["datasets"].values() if "series" in d[0]]
    assert {row["series"] for row in rows if row["dose"] == 1.0} >= {"latent chosen by output", "random latents"}
    make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    assert interventions(read_run(tmp_path)) is None
    with pytest.raises(IncompleteArtifact):
        plot.dose_response(tmp_path)


def write_erasure(folder: Path, *, low: float) -> None:
    """Write an effect matrix whose dominance exceeds that of random latents from `low` on."""
    make_run(folder, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    names = ("technique: breathy", "technique: vibrato", "vowel: a")
    rows: list[dict[str, object]] = [
        {
            "erased": erased, "kind": "technique", "technique": technique, "readout": readout,
            "lost": float(erased == readout), "low": -0.1, "high": 1.1, "gain": 0.9, "readout_r": 0.8,
            "own": erased == readout, "entangled": erased == readout, "clips": 24, "groups": 4,
        }
        for technique in ("latents", "random_latents", "leace")
        for erased in names
        for readout in names
    ]  # fmt: skip
    dominance = [
        {"scope": scope, "technique": name, "dominance": 0.5, "low": low, "high": 0.9, "concepts": 3, "groups": 4}
        for scope in ("all", "technique")
        for name in ("latents", "random_latents", "leace", "latents - random_latents")
    ]
    swaps = [
        {"concept": names[0], "technique": name, "transferred": 0.25, "low": 0.1, "high": 0.4, "side": 0.1, "pairs": 8,
         "groups": 4}
        for name in ("latents", "random_latents", "difference_of_means", "whole_layer")
    ]  # fmt: skip
    write_table(folder / "explain" / "erasure.parquet", pl.DataFrame(rows, schema=ERASURE))
    write_table(folder / "explain" / "erasure_dominance.parquet", pl.DataFrame(dominance, schema=DOMINANCE))
    write_table(folder / "explain" / "swaps.parquet", pl.DataFrame(swaps, schema=SWAPS))


def test_page_says_plainly_whether_erasing_latents_beats_random_ones(tmp_path: Path) -> None:
    write_erasure(tmp_path, low=0.1)
    page = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    said = page.section("erasure").replace("\u00a0", " ")
    assert "on 24 clips of 4 test groups" in said
    assert "Among the classes of technique, erasing the latents of a concept changes its own readout more" in said
    assert "technique: breathy: 25 % by its latents, 25 % by random latents and 25 % by the whole mean frame" in said
    assert page.mistakes == []
    write_erasure(tmp_path, low=-0.1)
    shown = erasure(read_run(tmp_path))
    assert shown is not None
    assert (
        "Over all labels and groups, erasing the latents of a concept does not beat erasing random latents"
        in (shown.paragraphs[1])
    )


@pytest.mark.parametrize(
    ("r", "gain", "said"),
    [
        (
            0.12,
            0.05,
            "It hardly distinguishes them (correlation 0.12, slope 0.05): its row and column are shown, but excluded",
        ),
        (math.nan, math.nan, "The group is not among the concepts: its readout needs five clips each of two groups."),
    ],
)
def test_page_names_labels_and_groups_that_are_not_read_out(tmp_path: Path, r: float, gain: float, said: str) -> None:
    write_erasure(tmp_path, low=0.1)
    rows = [
        ("technique: vibrato", "technique", 0.8, 0.6, True, True, 24, 3),
        ("technique: belt", "technique", 0.1, 0.1, False, False, 24, 3),
        ("F0", "factor", 0.1, 0.1, False, False, 24, 3),
        ("group: all", "group", r, gain, False, False, 20, 10),
    ]
    concepts = pl.DataFrame(rows, schema=CONCEPTS, orient="row")
    write_table(tmp_path / "explain" / "erasure_concepts.parquet", concepts)
    shown = erasure(read_run(tmp_path))
    assert shown is not None
    assert "Not erased, because the last layer does not read them out: technique: belt." in shown.paragraphs
    assert any(said in paragraph for paragraph in shown.paragraphs)
    read = concepts.with_columns(read=pl.lit(value=True), readout_r=pl.lit(0.8))
    write_table(tmp_path / "explain" / "erasure_concepts.parquet", read)
    again = erasure(read_run(tmp_path))
    assert again is not None
    assert not any("read out" in paragraph or "hardly" in paragraph for paragraph in again.paragraphs[1:])
    assert any("it is read on 20 clips of the last, of 10 groups." in paragraph for paragraph in again.paragraphs)


def test_erasure_matrix_has_a_panel_per_technique(tmp_path: Path) -> None:
    write_erasure(tmp_path, low=0.1)
    chart = plot.erasure_matrix(tmp_path).to_dict()
    assert len(chart["concat"]) == 3


def test_page_shows_transcripts_of_each_layer(tmp_path: Path) -> None:
    make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    rows = [
        {
            "layer": layer, "encoder": encoder, "word_error_rate": rate, "low": 0.0, "high": rate + 0.1,
            "spoken": "one two", "transcript": "One, <two>!", "words": 48, "strings": 12, "groups": 2,
        }
        for layer, encoder, rate in ((0, "untouched", 1.2), (4, "untouched", 0.02), (4, "sae", 0.1), (4, "mean", 1.0))
    ]  # fmt: skip
    write_table(tmp_path / "explain" / "lens.parquet", pl.DataFrame(rows, schema=LENS))
    page = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    said = page.section("lens")
    assert "12 strings of spoken words (48 words, 2 test speakers)" in said
    assert "layer replaced by its reconstruction" in said
    assert "One, <two>!" in said
    assert page.mistakes == []
    assert plot.lens(tmp_path).to_dict()["title"] == "Word error rate of transcripts from each layer"
