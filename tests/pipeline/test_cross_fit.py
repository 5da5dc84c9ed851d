"""A run on few voices is cross-fitted without being asked, and says so wherever it shows numbers."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA

from otoscope.activations.store import ActivationStore
from otoscope.cli.summary import summary_tables
from otoscope.config import load_config
from otoscope.corpus.table import Corpus
from otoscope.factors.table import FAILED, FactorCard, FactorTable
from otoscope.metrics.predictions import PREDICTIONS
from otoscope.pipeline.run import run
from otoscope.protocols.held_out import HeldOutSettings, parts_without_model
from otoscope.runs.cards import RunSummary
from otoscope.runs.inputs import Clips, EvaluationInputs
from otoscope.runs.progress import SilentReporter
from tests.support.small_runs import FOLDER, VOICES, Tiny, write_config, write_voices

LINE = "cross-fitted over 5 folds that share dictionaries; each of the 5 groups (30 clips) is tested once"
NOTE = "Cross-fitted over 5 folds: each of the 5 groups is tested once"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> RunSummary:
    root = tmp_path_factory.mktemp("cross")
    write_voices(root / "voices")
    train = {"latents": 64, "sparsities": [0.75], "layers": [1]}
    config = write_config(root / "c.yaml", tiny("wav2vec2"), FOLDER, train=train, splits={"cross": None})
    return run(load_config(config), root / "out")


def test_run_on_few_voices_tests_every_voice_once(summary: RunSummary) -> None:
    clips = Corpus.load(summary.run / "corpus.parquet").clips
    assert clips.group_by("group").agg(pl.col("fold").n_unique())["fold"].to_list() == [1] * len(VOICES)
    results = pl.read_parquet(summary.run / "results.parquet").filter(pl.col("split") == "test")
    probes = results.filter(pl.col("metric").str.starts_with("probe_"))
    assert set(probes["groups"]) == {len(VOICES)}
    assert set(probes["n"]) == {clips.height}
    # dictionaries keep one split
    rebuilt = results.filter(pl.col("metric") == "explained_variance")
    assert set(rebuilt["groups"]) == {clips.filter(pl.col("split") == "test")["group"].n_unique()}


def test_held_out_measures_as_many_principal_components_as_active_latents(summary: RunSummary) -> None:
    store, clips = ActivationStore.open(summary.run / "activations"), Corpus.load(summary.run / "corpus.parquet").clips
    frames = {
        split: np.concatenate([rows for _, rows in store.iter_clips(1, clips.filter(split=split)["clip_id"].to_list())])
        for split in ("train", "test")
    }
    results = pl.read_parquet(summary.run / "results.parquet").filter(metric="explained_variance", split="test")
    (row,) = results.filter(representation="pca").rows(named=True)
    (codes,) = results.filter(representation="sae").rows(named=True)
    assert all(row[name] == codes[name] for name in ("layer", "k", "sparsity", "pooling", "n", "groups"))
    fitted = PCA(row["k"]).fit(frames["train"])
    missed = frames["test"] - fitted.inverse_transform(fitted.transform(frames["test"]))
    spread = frames["test"] - frames["train"].mean(axis=0)
    assert row["value"] == pytest.approx(1 - (missed**2).sum() / (spread**2).sum(), abs=1e-5)
    assert row["low"] <= row["value"] <= row["high"]
    assert "PCA at k" in summary_tables(summary)


def test_predictions_of_a_run_give_the_accuracies_of_its_results(summary: RunSummary) -> None:
    predictions = pl.read_parquet(summary.run / "predictions.parquet")
    assert dict(predictions.schema) == PREDICTIONS
    assert set(predictions["group"]) == set(VOICES)
    assert predictions["fold"].n_unique() == len(VOICES)
    right = (pl.col("true_class") == pl.col("predicted_class")).mean().alias("accuracy")
    probe = ["representation", "layer", "sae_id"]
    accuracies = predictions.group_by(*probe, "label").agg(right, pl.len().alias("clips"))
    results = pl.read_parquet(summary.run / "results.parquet").filter(metric="probe_accuracy", split="test")
    both = results.join(accuracies, left_on=[*probe, "target"], right_on=[*probe, "label"])
    assert both.height == results.height == accuracies.height >= 3
    assert both["value"].to_list() == pytest.approx(both["accuracy"].to_list())
    assert both["n"].to_list() == both["clips"].to_list()
    assert summary.report is not None
    assert "Errors of the probes of the class" in summary.report.read_text(encoding="utf-8")


def test_run_on_few_voices_says_which_numbers_are_cross_fitted(summary: RunSummary) -> None:
    noted, table = summary.notes["corpus"], summary_tables(summary)
    assert any(line.strip().startswith("dictionaries and explained variance: train") for line in noted)
    assert any(line.strip() == f"probes: {LINE}" for line in noted)
    assert f"probes: {LINE}" in table
    assert NOTE not in table
    assert summary.report is not None
    page = summary.report.read_text(encoding="utf-8")
    assert page.count(NOTE) >= 2
    assert "The dictionaries were trained once, without labels" in page
    assert "1.50 times as wide as those of one split" in page
    # a layer is chosen on validation groups that other folds test
    assert "on the validation groups, in the mean of 5 folds that also test each of them" in page
    assert "on the validation groups." not in page


def test_held_out_probes_each_label_from_logmel_statistics(summary: RunSummary) -> None:
    results = pl.read_parquet(summary.run / "results.parquet").filter(pl.col("metric") == "probe_accuracy")
    # the class is the octave of a tone, which spectra show
    assert results.filter(pl.col("representation") == "logmel")["value"].to_list() == [1.0]
    assert "egemaps" not in set(results["representation"])
    assert summary.report is not None
    page = summary.report.read_text(encoding="utf-8")
    assert "Without any model: log-mel statistics 100.0" in page
    # in the opening chart and in that of all layers
    assert page.count("Level lines: log-mel statistics, without any model.") == 2
    assert "log-mel" in summary_tables(summary)


def test_held_out_probes_each_label_from_egemaps(summary: RunSummary) -> None:
    corpus, store = Corpus.load(summary.run / "corpus.parquet"), ActivationStore.open(summary.run / "activations")
    corpus = corpus.select(store.clip_ids)
    values = np.stack([corpus.clips["label_class"].to_numpy() == "high", np.zeros(corpus.clips.height)], axis=1) * 1.0
    values[corpus.clips["split"].to_list().index("train"), 0] = np.nan  # a clip that openSMILE could not measure
    cards = tuple(FactorCard(name, "eGeMAPSv02", "pitch") for name in ("f0", "constant"))
    factors = FactorTable(corpus.clips.select("clip_id"), cards, pl.DataFrame(schema=FAILED))
    labels = {"class": corpus.clips["label_class"].to_numpy()}
    clips = Clips(
        corpus.clips["split"].to_numpy(), corpus.clips["group"].to_numpy(), labels, values, ("f0", "constant")
    )
    material = EvaluationInputs(store, corpus, factors, clips)
    egemaps, logmel = parts_without_model(material, HeldOutSettings(), "", SilentReporter())
    found = {record.metric: record for record in egemaps.compute().records if record.split == "test"}
    assert found["probe_accuracy"].value == 1.0
    assert found["probe_accuracy"].representation == "egemaps"
    gone = replace(material, corpus=replace(corpus, root=corpus.root / "gone"))
    assert [part.name for part in parts_without_model(gone, HeldOutSettings(), "", SilentReporter())] == ["egemaps"]
    assert logmel.name == "logmel"
