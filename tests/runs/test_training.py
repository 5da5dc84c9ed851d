"""The training stage: a bank for each layer and order of pooling, curves beside it, warnings while it goes."""

import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import read_json
from otoscope.config import load_config
from otoscope.hardware import one_thread
from otoscope.pipeline.run import run
from otoscope.runs.progress import SilentReporter
from otoscope.sae.checkpoint import WEIGHTS
from otoscope.sae.data import ArrayRows
from otoscope.sae.model import load_sae
from otoscope.sae.train import begin
from tests.support.small_runs import FOLDER, Tiny, write_config, write_voices
from tests.support.training import train_into


class Lines(SilentReporter):
    """A watch that remembers its lines and how far it got."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: dict[str, float] = {}

    def advance(self, amount: float, note: str = "") -> None:
        self.done[note] = self.done.get(note, 0.0) + amount

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> tuple[Path, Lines]:
    root, watch = tmp_path_factory.mktemp("bank"), Lines()
    write_voices(root / "voices")
    settings = {"poolings": ["encode_then_pool", "pool_then_encode"], "seeds": [0, 1], "layers": [1]}
    config = write_config(root / "mine.yaml", tiny("wavlm"), FOLDER, train=settings)
    run(load_config(config), root / "out", until="train", progress=watch)
    return root / "out", watch


def test_training_finishes_every_sae(trained: tuple[Path, Lines]) -> None:
    folder, watch = trained
    made = {path.parent.name for path in folder.glob("saes/*/card.json")}
    assert len(made) == 2 * 2 * 2
    assert {name: done for name, done in watch.done.items() if name in made} == {n: pytest.approx(1.0) for n in made}
    assert not list(folder.glob("saes/*/progress.safetensors"))


def test_training_in_a_grid_equals_training_alone(trained: tuple[Path, Lines], tmp_path: Path) -> None:
    folder, _ = trained
    name = "layer01-pooled-default-m64-k6-seed1"
    store, card = ActivationStore.open(folder / "activations"), load_sae(folder / "saes" / name).card
    split = dict(pl.read_parquet(folder / "corpus.parquet").select("clip_id", "split").iter_rows())
    rows = {side: [c for c in store.clip_ids if split[c] == side] for side in ("train", "valid")}
    train, valid = (ArrayRows(np.ascontiguousarray(store.pooled(1, ids))) for ids in rows.values())
    with one_thread():
        train_into(tmp_path, begin(train, valid, "default", latents=64, k=card["k"], seed=1), {})
    assert (tmp_path / WEIGHTS).read_bytes() == (folder / "saes" / name / WEIGHTS).read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra `log` is absent")
def test_training_writes_curves_of_every_sae(trained: tuple[Path, Lines]) -> None:
    folder, _ = trained
    names = {path.parent.name for path in folder.glob("tensorboard/*/events.*")}
    assert names == {path.parent.name for path in folder.glob("saes/*/card.json")}


def test_training_warns_of_an_outlier_dimension(trained: tuple[Path, Lines], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = trained
    pooled = ActivationStore.pooled

    def outlying(self: ActivationStore, layer: int, clip_ids: list[str] | None = None) -> np.ndarray:
        rows = pooled(self, layer, clip_ids)
        rows[:, 3] = 1e4 * torch.randn(len(rows), generator=torch.Generator().manual_seed(0)).numpy()
        return rows

    monkeypatch.setattr(ActivationStore, "pooled", outlying)
    watch = Lines()
    for card in folder.glob("saes/*-pooled-*/card.json"):
        card.unlink()
    run(load_config(folder / "config.yaml"), folder, until="train", progress=watch)
    line, came_to = [line for line in watch.lines if "variance" in line and "caution" not in line]
    assert line.startswith("  warning: layer 1, pool_then_encode: dimension 3 carries 100 % of the variance")
    cards = [read_json(card)["training"] for card in folder.glob("saes/*/card.json")]
    silent = max(card["valid_dead_fraction"] for card in cards)
    assert came_to.startswith("  validation groups: ")
    assert f" {max(card['valid_explained_variance'] for card in cards):.1%} of the variance explained" in came_to
    assert f"at most {silent:.1%} dead latents" in came_to


def test_training_of_two_presets_and_sizes_is_evaluated_and_shown(tmp_path: Path, tiny: Tiny) -> None:
    write_voices(tmp_path / "voices")
    train = {"preset": ["mariotte2025", "default"], "latents": [32, 64], "sparsities": [0.9], "layers": [1]}
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER, train=train)
    run(load_config(config), tmp_path / "out", progress=Lines())
    names = {f"layer01-frames-{p}-m{m}-k{m // 10}-seed0" for p in ("mariotte2025", "default") for m in (32, 64)}
    assert {path.parent.name for path in tmp_path.glob("out/saes/*/card.json")} == names
    rows = pl.read_parquet(tmp_path / "out" / "results.parquet").filter(pl.col("representation") == "sae")
    assert set(rows["sae_id"].unique()) == names
    page = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Trained with the preset mariotte2025 (all settings below); the full tables also hold default." in page
