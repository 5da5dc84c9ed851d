"""Sections on causal response curves and on matches in other dictionaries."""

import polars as pl
import pytest

from otoscope.artifacts import write_table
from otoscope.explain.causal_curves import SWEEP_SHARES, SWEEPS
from otoscope.explain.matching import FAMILIES, SUMMARY
from otoscope.report import write_report
from tests.support.finished_run import make_run
from tests.support.page_reader import Reading, read_page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, layers=(3,), sae_layers=(3,), sizes={"pitch": 5})
    fact = {"low": 0.1, "high": 0.9, "singers": 6, "centre": 35.0, "width": 8.0, "selectivity": 0.5}
    curves = [
        {"latent": latent, "factor": factor, "value": float(i), "class": name, "mean": peak == i, "r2": r2,
         "p_value": p, "responds": p < 0.05, **fact}
        for latent, factor, r2, p, peak in (
            (17, "f0", 0.8, 0.001, 2),
            (17, "vowel", 0.9, 0.001, 1),
            (17, "level", 0.0, 0.7, 0),
            (23, "f0", 0.1, 0.4, 0),
        )
        for i, name in enumerate(("a", "e", "i") if factor == "vowel" else (None,) * 3)
    ]  # fmt: skip
    shares = [
        {"latent": 17, "factor": factor, "other": other, "share": share}
        for factor, other, share in (("f0", None, 0.4), ("f0", "vowel", 0.7), ("mel_band", None, 0.12))
    ]
    matched = dict(zip(SUMMARY, (60, 45, 0.75, 0.81, 0.35, 50), strict=True))
    families = [{"latent": i, "family": [0, 0, -1][i], "parent": [-1, 2, -1][i], "conditional": 0.95} for i in range(3)]
    for name, rows, schema in (
        ("sweeps", curves, SWEEPS),
        ("sweep_shares", shares, SWEEP_SHARES),
        ("matching", [{"other": "layer03-seed1", **matched}], {"other": pl.String(), **SUMMARY}),
        ("families", families, FAMILIES),
    ):
        write_table(folder / "explain" / f"{name}.parquet", pl.DataFrame(rows, schema=schema))
    return read_page(write_report(folder, figures=False).read_text(encoding="utf-8"))


def test_page_says_to_which_factors_a_latent_responds(page: Reading) -> None:
    said = page.section("sweeps").replace("\u00a0", " ")
    assert "by 6 singers" in said
    assert "Latent 17 responds to vowel (most at e; R² 0.90) and pitch (most at 2.0 semitones above 27.5 Hz" in said
    assert "Latent 23 responds to no factor beyond chance." in said
    assert "best single mel band 0.12 (latent 17)" in said
    assert page.mistakes == []


def test_page_shows_how_many_latents_reappear_in_other_dictionaries(page: Reading) -> None:
    said = page.section("matching")
    assert "layer03-seed1" in said
    assert "0.75" in said
    assert "1 family of latents fire together (2 latents of 3 that fire), and 1 latent" in said
