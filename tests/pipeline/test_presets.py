"""Recipes that a configuration describes, from YAML to the page."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from otoscope.artifacts import digest, read_json
from otoscope.cli.summary import summary_tables
from otoscope.config import load_config
from otoscope.pipeline.run import RunSummary, run
from otoscope.pipeline.train import training_cautions, training_summary
from otoscope.sae.config import TrainConfig
from tests.support.small_runs import SUNG, Tiny, stages_of_last_run, write_config

RECIPES = {
    "wide-batch": {"based_on": "default", "sparsifier": "batch_topk", "epochs": 2},
    "papers-short": {"based_on": "mariotte2025", "epochs": 1},
    "unused": {"epochs": 3},
}
TRAIN = {
    "presets": RECIPES,
    "preset": ["default", "wide-batch", "papers-short"],
    "sparsities": [0.9],
    "layers": [1],
    "latents": 32,
}
USED = {name: f"layer01-frames-{name}-m32-k3-seed0" for name in TRAIN["preset"]}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    return write_config(tmp_path_factory.mktemp("presets") / "mine.yaml", tiny("wavlm"), SUNG, train=TRAIN)


@pytest.fixture(scope="module")
def summary(path: Path) -> RunSummary:
    """A whole run, which tests copy before they change it."""
    return run(load_config(path), path.parent / "out")


@pytest.fixture
def copied(summary: RunSummary, tmp_path: Path) -> Path:
    """The run in another place, where its corpus is listed again and everything else stays."""
    return Path(shutil.copytree(summary.run, tmp_path / "out"))


def done_again(folder: Path) -> list[str]:
    return [name for name in stages_of_last_run(folder)[0] if name != "corpus"]


def test_training_summary_counts_saes_that_are_their_start() -> None:
    def card(best_step: int, **more: Any) -> dict[str, Any]:
        training = {"best_step": best_step, "valid_explained_variance": 0.9, "valid_dead_fraction": 0.0, **more}
        return {"sae_id": f"one{best_step}", "training": training, "config": {"init": "principal"}}

    told = training_summary([card(0), card(3), card(5)])
    assert told.endswith(
        "; 1 of 3 dictionaries: principal axes, not learned (no step improved on the start for unseen groups)"
    )
    start = {"start": "principal axes"}
    told = training_summary([card(n, unchanged_share=share, **start) for n, share in ((4, 1.0), (5, 0.8), (6, 0.1))])
    assert told.endswith(
        "; 2 of 3 dictionaries: principal axes, hardly changed (at least 80\xa0% of the active atoms have a cosine "
        "of at least 0.9 with their start)"
    )
    assert ";" not in training_summary([card(3), card(4, unchanged_share=0.1), card(5, unchanged_share=None)])


def test_training_cautions_count_dense_codes_and_list_each_warning_once() -> None:
    def card(k: int, *warnings: str, best_step: int = 5) -> dict[str, Any]:
        training = {"best_step": best_step, "warnings": list(warnings)}
        return {"sae_id": f"k{k}", "k": k, "model": {"width": 384}, "training": training, "config": {}}

    cards = [card(20, "few rows"), card(102, "few rows", "40 % dead"), card(204, "not learned", best_step=0)]
    dense, few, dead = training_cautions(cards)
    assert dense.startswith(
        "caution: k is at least 25\xa0% of the layer's 384 dimensions in 2 of 3 dictionaries (from k=102"
    )
    assert few == "warning: 2 dictionaries, such as k20: few rows"
    assert dead == "warning: k102: 40 % dead"
    assert training_cautions(cards, reported={"few rows"}) == [dense, dead]
    assert training_cautions([card(95)]) == []
    assert training_cautions([card(1, f"a{i}") for i in range(8)])[-1] == "and 2 more warnings, see the cards"


def test_train_uses_and_records_the_preset_of_each_sae(summary: RunSummary) -> None:
    cards = {name: read_json(summary.run / "saes" / sae_id / "card.json") for name, sae_id in USED.items()}
    assert {name: card["preset"] for name, card in cards.items()} == {name: name for name in USED}
    wanted = {
        "default": TrainConfig.preset("default"),
        "wide-batch": TrainConfig.preset("default", sparsifier="batch_topk", epochs=2),
        "papers-short": TrainConfig.preset("mariotte2025", epochs=1),
    }
    assert {name: card["config"] for name, card in cards.items()} == {
        name: settings.model_dump(mode="json") for name, settings in wanted.items()
    }
    assert cards["wide-batch"]["model"]["sparsifier"]["name"] == "batch_topk"
    assert (summary.run / "saes" / USED["papers-short"]).is_dir()
    assert not list(summary.run.glob("saes/*unused*"))


def test_results_name_the_preset_of_saes_only(summary: RunSummary) -> None:
    results = pl.read_parquet(summary.run / "results.parquet")
    named = results.select("representation", "preset", "sae_id").unique().sort("sae_id", "representation").rows()
    assert named == [
        ("dense", None, ""),
        ("logmel", None, ""),
        ("pca", None, ""),
        *sorted(("sae", name, sae_id) for name, sae_id in USED.items()),
    ]


def test_report_and_summary_name_the_presets(summary: RunSummary) -> None:
    page = (summary.run / "report" / "index.html").read_text(encoding="utf-8")
    told = summary_tables(summary)
    assert "Trained with the preset default (all settings below); the full tables also hold" in page
    for name in USED:
        assert name in page, name
        assert name in told, name


def test_train_retrains_only_saes_of_a_changed_preset(path: Path, copied: Path) -> None:
    weights = {name: copied / "saes" / sae_id / "sae.safetensors" for name, sae_id in USED.items()}
    before = {name: digest(file) for name, file in weights.items()}
    run(load_config(path, ["train.presets.papers-short.epochs=2"]), copied, until="train")
    assert done_again(copied) == ["train"]
    assert {name for name, file in weights.items() if digest(file) != before[name]} == {"papers-short"}


def test_train_ignores_changes_of_unused_presets(path: Path, copied: Path) -> None:
    run(load_config(path, ["train.presets.unused.epochs=9"]), copied, until="evaluate")
    assert done_again(copied) == []
