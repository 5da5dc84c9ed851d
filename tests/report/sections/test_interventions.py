"""Section and chart of interventions."""

import math
from pathlib import Path

import polars as pl
import pytest

from otoscope import plot
from otoscope.artifacts import write_table
from otoscope.errors import IncompleteArtifact
from otoscope.pipeline.interventions import INTERVENTIONS
from otoscope.report import read_run, write_report
from otoscope.report.sections.interventions import interventions
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


def write(folder: Path, table: pl.DataFrame) -> None:
    make_run(folder, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    write_table(folder / "explain" / "interventions.parquet", table)


def test_page_compares_the_latent_with_its_rivals_at_equal_norm(tmp_path: Path) -> None:
    write(tmp_path, effects())
    page = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    said = page.section("interventions").replace("\u00a0", " ")
    assert "up to 8 clips of 4 test groups" in said
    assert (
        "technique: breathy: the latent chosen by output does not move the readout beyond difference of means." in said
    )
    assert "0.90 (0.80 to 1.00)" in said
    assert page.mistakes == []


def test_verdicts_follow_the_interval_and_few_groups_are_named(tmp_path: Path) -> None:
    write(tmp_path, effects(low_of_output=0.96))
    shown = interventions(read_run(tmp_path))
    assert shown is not None
    assert shown.paragraphs[-1].endswith("moves the readout more than every rival.")
    few = effects(low_of_output=math.nan).with_columns(groups=pl.lit(1, dtype=pl.Int64))
    write_table(tmp_path / "explain" / "interventions.parquet", few)
    shown = interventions(read_run(tmp_path))
    assert shown is not None
    assert shown.paragraphs[2:] == [
        "There are too few test groups for a claim.",
        "technique: breathy: no interval, the comparison with rivals is left open.",
    ]


def test_dose_response_draws_one_line_per_direction(tmp_path: Path) -> None:
    chart = plot.dose_response(effects()).to_dict()
    assert chart["title"] == "Effect of adding a direction to the layer"
    (rows,) = [d for d in chart["datasets"].values() if "series" in d[0]]
    assert {row["series"] for row in rows if row["dose"] == 1.0} >= {"latent chosen by output", "random latents"}
    make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    assert interventions(read_run(tmp_path)) is None
    with pytest.raises(IncompleteArtifact):
        plot.dose_response(tmp_path)
