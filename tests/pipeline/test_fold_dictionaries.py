"""A cross-fit with dictionaries of each fold: none of them sees a group that its fold tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import read_json_as, read_table
from otoscope.cli.summary import summary_tables
from otoscope.config import load_config
from otoscope.corpus.table import Corpus
from otoscope.metrics.probes import fit_probe
from otoscope.pipeline.run import run
from otoscope.resampling.groups import fold_splits
from otoscope.runs.cards import RunSummary
from otoscope.runs.codes import mean_codes
from otoscope.runs.progress import SilentReporter
from otoscope.runs.training import GridMember
from otoscope.sae.model import load_sae
from tests.support.small_runs import SMALL_STRICT, SUNG, Tiny, write_config

pytestmark = pytest.mark.slow

MEMBER = GridMember(1, "encode_then_pool", "default", 64, 0.75, 0)
SINGERS = 5
PER_FOLD = "cross-fitted over 5 folds with dictionaries of their own; each of the 5 groups (30 clips) is tested once"
BASELINES = ["start", "pca", "kmeans", "frozen_decoder", "permuted"]
STRICT = {**SMALL_STRICT, "baselines": BASELINES}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    root = tmp_path_factory.mktemp("folds")
    train = {"latents": 64, "sparsities": [0.75], "layers": [1]}
    splits = {"cross": None, "dictionaries": "per_fold"}
    evaluate = {"protocols": ["held_out", "strict"], "strict": STRICT, "labels": ["technique"]}
    extract = {"layers": [1]}
    sections = {"train": train, "splits": splits, "evaluate": evaluate, "extract": extract}
    return write_config(root / "c.yaml", tiny("wav2vec2"), SUNG, **sections)


@pytest.fixture(scope="module")
def summary(config: Path) -> RunSummary:
    return run(load_config(config), config.with_name("out"))


def fold_of(folder: Path) -> dict[str, int]:
    return dict(Corpus.load(folder / "corpus.parquet").clips.select("clip_id", "fold").iter_rows())


def test_dictionary_of_a_fold_is_trained_on_its_training_groups(summary: RunSummary) -> None:
    store, folds = ActivationStore.open(summary.run / "activations"), fold_of(summary.run)
    splits = fold_splits(np.array([folds[clip] for clip in store.clip_ids]))
    for fold, split in enumerate(splits):
        sae = load_sae(summary.run / "saes" / replace(MEMBER, fold=fold).sae_id).sae
        train = [clip for clip, of in zip(store.clip_ids, split, strict=True) if of == "train"]
        mean = np.concatenate([rows for _, rows in store.iter_clips(1, train)]).mean(axis=0)
        np.testing.assert_allclose(sae.centre.numpy(), mean, atol=1e-4)
        card = read_json_as(summary.run / "saes" / replace(MEMBER, fold=fold).sae_id / "card.json", dict)
        assert card["fold"] == fold


def test_held_out_predicts_a_fold_from_the_codes_of_its_dictionary(summary: RunSummary) -> None:
    store, folds = ActivationStore.open(summary.run / "activations"), fold_of(summary.run)
    corpus = Corpus.load(summary.run / "corpus.parquet").select(store.clip_ids).clips
    splits, classes = (
        fold_splits(np.array([folds[clip] for clip in store.clip_ids])),
        corpus["label_technique"].to_numpy(),
    )
    rows = read_table(summary.run / "predictions.parquet").filter(protocol="held_out", sae_id=MEMBER.sae_id)
    predicted = dict(rows.select("clip_id", "predicted_class").iter_rows())
    for fold, split in enumerate(splits):
        member = replace(MEMBER, fold=fold)
        sae = load_sae(summary.run / "saes" / member.sae_id).sae
        features = mean_codes(store, sae, member, store.clip_ids)
        alone = fit_probe(features, classes, groups=corpus["group"].to_numpy(), split=split).predicted
        tested = split == "test"
        assert [predicted[clip] for clip, here in zip(store.clip_ids, tested, strict=True) if here] == list(
            alone[tested]
        )


def test_run_with_dictionaries_of_each_fold_covers_every_group_and_both_protocols(summary: RunSummary) -> None:
    results = read_table(summary.run / "results.parquet").filter(pl.col("split") == "test")
    assert not results["sae_id"].str.contains("-fold").any()
    probes = results.filter(pl.col("metric").is_in(["probe_accuracy", "task_balanced_accuracy"]))
    assert set(probes["groups"]) == {SINGERS}
    # explained variance is that of the shared dictionary on the test groups of the one split
    assert (results.filter(pl.col("metric") == "explained_variance")["groups"] < SINGERS).all()
    tasks = results.filter(pl.col("metric") == "task_balanced_accuracy")
    assert {"sae", "dense", *BASELINES} <= set(tasks["representation"])
    trained = {path.parent.name for path in (summary.run / "saes").glob("*/card.json")}
    shared = {name for name in trained if "-fold" not in name}
    assert trained == shared | {f"{name}-fold{fold}" for name in shared for fold in range(SINGERS)}


def test_run_with_dictionaries_of_each_fold_says_so_beside_the_numbers(summary: RunSummary) -> None:
    assert any(line.strip() == f"probes and regressions: {PER_FOLD}" for line in summary.notes["corpus"])
    assert f"probes and regressions: {PER_FOLD}" in summary_tables(summary)
    assert summary.report is not None
    page = summary.report.read_text(encoding="utf-8")
    assert "The dictionaries behind these scores were trained anew in each fold" in page
    assert "The dictionaries were trained once" not in page
    claims = (summary.run / "report" / "claims.html").read_text(encoding="utf-8")
    assert "The dictionaries behind these scores were trained anew in each fold" in claims


class Killed(BaseException):
    """End of a process at a chosen place."""


class KillingReporter(SilentReporter):
    """Reporter that ends the run when the dictionary of a fold makes progress."""

    def advance(self, amount: float, note: str = "") -> None:
        if note.endswith("-fold2"):
            raise Killed
        super().advance(amount, note)


def test_run_killed_between_the_dictionaries_of_folds_resumes_to_the_same_bytes(
    config: Path, summary: RunSummary
) -> None:
    folder = config.with_name("killed")
    with pytest.raises(Killed):
        run(load_config(config), folder, progress=KillingReporter())
    assert (folder / "saes" / replace(MEMBER, fold=1).sae_id / "card.json").is_file()
    assert not (folder / "saes" / replace(MEMBER, fold=3).sae_id).exists()
    run(load_config(config), folder)
    for name in ("results.parquet", "predictions.parquet"):
        assert (folder / name).read_bytes() == (summary.run / name).read_bytes()
    weights = [path.relative_to(folder) for path in folder.glob("saes/*/sae.safetensors")]
    assert weights
    assert all((folder / path).read_bytes() == (summary.run / path).read_bytes() for path in weights)
