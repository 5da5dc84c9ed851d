"""Values that are no measurements: the pitch of clips without voice, and formants that do not follow the true ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.config import RunConfig
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.explain.readouts import Concept
from otoscope.factors.table import FAILED, FactorCard, FactorTable
from otoscope.metrics.robust_factors import PITCH
from otoscope.pipeline.interventions import ChangedLayer
from otoscope.report import read_run
from otoscope.report.sections.latent_sentences import factor_ranks
from otoscope.runs.inputs import Clips, clip_arrays
from tests.support.finished_run import make_run

GROUPS, EACH = 6, 20
VOICED = np.arange(GROUPS * EACH) % 2 == 0
LEVEL = "logRelF0-H1-H2_sma3nz_amean"


def corpus_and_factors() -> tuple[Corpus, FactorTable]:
    """Return clips of which every second has no voice, with a pitch that does not depend on it."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(GROUPS), EACH)
    ids = [f"clip{i:03d}" for i in range(len(group))]
    empty = {name: pl.Series([None] * len(ids), dtype=kind) for name, kind in COLUMNS.items()}
    clips = pl.DataFrame(empty).with_columns(
        clip_id=pl.Series(ids),
        group=pl.Series([f"s{g}" for g in group]),
        split=pl.Series(np.array(["train"] * 3 + ["valid"] + ["test"] * 2)[group]),
        label_voice=pl.Series(np.where(VOICED, "voiced", "unvoiced")),
    )
    pitch, level = 30 + 4 * rng.standard_normal(len(ids)), rng.standard_normal(len(ids))
    values = {PITCH: np.where(VOICED, pitch, 0.0), LEVEL: np.where(VOICED, level, -201.0)}
    table = pl.DataFrame({"clip_id": ids, **values})
    cards = tuple(FactorCard(name, "eGeMAPSv02", "pitch") for name in values)
    return Corpus("planted", Path(), clips, pl.DataFrame()), FactorTable(table, cards, pl.DataFrame(schema=FAILED))


@pytest.fixture(scope="module")
def clips() -> Clips:
    config = RunConfig.model_validate({"name": "planted", "corpus": {"kind": "synth"}})
    return clip_arrays(*corpus_and_factors(), config)


def test_clip_arrays_have_no_pitch_for_clips_without_voice(clips: Clips) -> None:
    assert np.array_equal(np.isnan(clips.factors), np.repeat(~VOICED[:, None], 2, axis=1))


def test_changed_layer_does_not_take_voicing_for_pitch(clips: Clips) -> None:
    """With a pitch of 0 in unvoiced clips the concepts are nearly one: their correlation is 0.99."""
    layer = object.__new__(ChangedLayer)  # targets need clips and corpus alone
    object.__setattr__(layer, "clips", clips)
    object.__setattr__(layer, "corpus", corpus_and_factors()[0])
    concepts, z = layer.targets.concepts, layer.targets.values
    pitch, voice = concepts.index(Concept("factor", PITCH)), concepts.index(Concept("voice", "unvoiced"))
    assert np.array_equal(np.isnan(z[:, pitch]), ~VOICED)
    assert z[VOICED & layer.split("train"), pitch].std() == pytest.approx(1.0)
    assert not layer.targets.entangled[pitch, voice]
    # clips with and without a concept are chosen by these signs; clips of unknown pitch are neither
    assert VOICED[layer.choose("test", 50, allowed=np.asarray(z[:, pitch] < 0))].all()


@pytest.mark.parametrize("follows", [True, False])
def test_changed_layer_takes_a_measured_formant_for_a_concept_only_if_it_follows_the_true_one(follows: bool) -> None:
    corpus, table = corpus_and_factors()
    rng = np.random.default_rng(1)
    true = 2500 + 200 * rng.standard_normal(GROUPS * EACH)
    measured = true + 50 * rng.standard_normal(len(true)) if follows else 2500 + 200 * rng.standard_normal(len(true))
    names = ("F3frequency_sma3nz_amean", "F3bandwidth_sma3nz_amean", LEVEL)
    factors = np.stack([measured, rng.standard_normal(len(true)), rng.standard_normal(len(true))], axis=1)
    layer = object.__new__(ChangedLayer)
    clips = clip_arrays(corpus, table, RunConfig.model_validate({"name": "planted", "corpus": {"kind": "synth"}}))
    object.__setattr__(layer, "clips", replace(clips, factors=factors, factor_names=names))
    known = replace(corpus, clips=corpus.clips.with_columns(factor_f3_hz=pl.Series(true)))
    object.__setattr__(layer, "corpus", known)
    found = [concept.name for concept in layer.targets.concepts if concept.kind == "factor"]
    assert found == (list(names) if follows else [LEVEL])


def test_factor_ranks_of_a_page_leave_clips_without_voice_out(tmp_path: Path) -> None:
    corpus_and_factors()[1].save(make_run(tmp_path, layers=(3,), sae_layers=(3,)) / "factors.parquet")
    known = factor_ranks(read_run(tmp_path)).values
    assert np.nanmin(known[PITCH]) > 10
    assert np.isfinite(known[LEVEL]).sum() == VOICED.sum()
