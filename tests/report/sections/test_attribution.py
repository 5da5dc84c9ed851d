"""Section and charts of attribution."""

from pathlib import Path

import numpy as np
import polars as pl

from otoscope import plot
from otoscope.artifacts import write_table
from otoscope.explain import Sound, write_sound
from otoscope.pipeline.attribution import DECISIONS, MASKED, OCCLUSION, SUMMARY, summarise
from otoscope.report import read_run, write_report
from otoscope.report.sections.attribution import attribution
from tests.support.finished_run import make_run
from tests.support.page_reader import read_page

QUALITY = {"relevance": 0.2, "spectrogram": 0.5, "random": 0.6}
"""Constant height of the deletion curve of each order; insertion is its opposite."""


def curves() -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"latent": latent, "clip_id": f"g{latent}/a.wav", "group": f"g{latent}", "order": order, "share": share,
             "deletion": left, "insertion": 1 - left}
            for latent in (3, 4, 5)
            for order, left in QUALITY.items()
            for share in (0.0, 0.5, 1.0)
        ],
        schema=OCCLUSION,
    )  # fmt: skip


def regions(retained: float = 0.8) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"latent": latent, "clip_id": f"g{g}/a.wav", "group": f"g{g}",
             "audio": "masked00003-0.flac" * (g == latent == 3), "area": 0.3,
             "energy": 0.4, "in_region": 0.7, "retained": retained, "random": 0.3, "random_energy": 0.4}
            for latent in (3, 4)
            for g in (3, 4, 5)
        ],
        schema=MASKED,
    )  # fmt: skip


def write(folder: Path, *, low: float = 0.2, retained: float = 0.8) -> None:
    make_run(folder, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    explained = folder / "explain"
    decision = {"label": "technique", "flipped": 0.9, "others": 0.2, "difference": 0.7, "low": low, "high": 0.9}
    sizes = {"accuracy": 0.6, "clips": 30, "groups": 3}
    rows = [{**decision, **sizes, "removed": removed} for removed in (1, 4)]
    write_table(explained / "decisions.parquet", pl.DataFrame(rows, schema=DECISIONS))
    write_table(explained / "occlusion.parquet", curves())
    write_table(explained / "masked.parquet", regions(retained))
    write_table(explained / "attribution.parquet", summarise(curves(), regions(retained)))
    write_sound(explained / "masked00003-0.flac", Sound(np.zeros(800, dtype=np.float32), 16_000))


def test_summary_holds_means_areas_and_paired_leads() -> None:
    summary = summarise(curves(), regions())
    value = dict(summary.select("quantity", "value").iter_rows())
    assert round(value["retained_lead"], 6) == 0.5
    assert round(value["deletion_lead"], 6) == round(value["insertion_lead"], 6) == 0.3
    assert (summary["groups"] == 3).all()
    assert summarise(curves().clear(), regions().clear()).schema == pl.Schema(SUMMARY)


def test_page_compares_attribution_with_its_controls(tmp_path: Path) -> None:
    write(tmp_path)
    page = read_page(write_report(tmp_path, figures=False).read_text(encoding="utf-8"))
    said = page.section("attribution").replace("\u00a0", " ")
    flipped = "1 latent 90 % (random latents 20 %) and 4 latents 90 % (random latents 20 %); beyond random latents with"
    assert f"decisions flipped by {flipped}" in said
    assert "Relevance finds the cells that matter better than the spectrogram itself" in said
    assert "0.80 against 0.30, a difference of 0.50" in said
    assert "latent 3, only its firing region" in said
    assert page.mistakes == []


def test_page_says_when_controls_are_not_beaten(tmp_path: Path) -> None:
    write(tmp_path, low=-0.1)
    swapped = curves().with_columns(pl.col("order").replace({"relevance": "spectrogram", "spectrogram": "relevance"}))
    write_table(tmp_path / "explain" / "attribution.parquet", summarise(swapped, regions()))
    shown = attribution(read_run(tmp_path))
    assert shown is not None
    assert any("never beyond random latents" in text for text in shown.paragraphs)
    assert any("does not beat the spectrogram itself" in text for text in shown.paragraphs)


def test_occlusion_chart_has_deletion_and_insertion(tmp_path: Path) -> None:
    write(tmp_path)
    assert len(plot.occlusion(tmp_path).to_dict()["concat"]) == 2
    make_run(tmp_path / "other", layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    assert attribution(read_run(tmp_path / "other")) is None
