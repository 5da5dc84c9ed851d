"""A cross-fit whose folds choose different layers: each is scored on the layer that its own groups chose."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import read_table, read_tensors
from otoscope.config import load_config
from otoscope.metrics.record import Record
from otoscope.pipeline.run import run
from otoscope.protocols.strict.run import HeldOutScores, best_layers
from otoscope.protocols.strict.tasks import Repetitions, evaluate_task, single_label_task
from otoscope.resampling.groups import fold_splits
from tests.support.page_reader import read_page
from tests.support.small_runs import SMALL_STRICT, SUNG, Tiny, write_config

pytestmark = pytest.mark.slow

LAYERS = [1, 2]
STRICT = {
    **SMALL_STRICT,
    "baselines": ["start", "pca", "permuted", "untrained", "untrained_sae", "logmel", "frozen_decoder"],
}


@pytest.fixture(scope="module")
def folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layers")
    sections = {
        "extract": {"layers": LAYERS, "context": "short"},
        "train": {"latents": 48, "sparsities": [0.75, 0.9], "layers": LAYERS},
        "splits": {"cross": None},
        "evaluate": {"protocols": ["strict"], "labels": ["technique"], "strict": STRICT},
    }
    run(load_config(write_config(root / "c.yaml", tiny("whisper"), {**SUNG, "takes": 1}, **sections)), root / "out")
    return root / "out"


def layers_of_folds(folder: Path) -> list[int]:
    """Return the choice of each fold, from the scores on its own fitted groups."""
    found: dict[int, HeldOutScores] = {}
    for layer in LAYERS:
        (path,) = (folder / "parts" / "strict" / "linear").glob(f"layer{layer:02d}-dense.safetensors")
        arrays = read_tensors(path)
        found[layer] = HeldOutScores(arrays["linear.held_r2"], arrays["tasks"])
    return best_layers(found)


def test_strict_run_scores_each_fold_on_the_layer_that_its_own_groups_chose(folder: Path) -> None:
    chosen = layers_of_folds(folder)
    assert len(set(chosen)) == 2  # otherwise another corpus is needed for this test
    store = ActivationStore.open(folder / "activations")
    clips = read_table(folder / "corpus.parquet")
    clips = pl.DataFrame({"clip_id": store.clip_ids}).join(clips, on="clip_id", maintain_order="left")
    rows = read_table(folder / "predictions.parquet").filter(protocol="strict", representation="dense")
    said = dict(rows.select("clip_id", "predicted_class").iter_rows())
    task = single_label_task("technique", clips["label_technique"].to_numpy())
    about = Record(metric="task_r2", value=0.0, split="test", representation="dense", layer=1)
    groups = clips["group"].to_numpy()
    for layer, split in zip(chosen, fold_splits(clips["fold"].to_numpy()), strict=True):
        alone = evaluate_task(task, store.pooled(layer), split=split, groups=groups, repeat=Repetitions(2), about=about)
        names = [task.classes[i] for i in alone.says.argmax(axis=1)]
        assert [said[store.clip_ids[i]] for i in alone.tested] == names


def test_strict_run_measures_codes_and_baselines_of_both_layers(folder: Path) -> None:
    rows = read_table(folder / "results.parquet").filter(protocol="strict")
    chosen = layers_of_folds(folder)
    numbers = dict(rows.filter(metric="choosing_folds").select("layer", "value").iter_rows())
    assert numbers == {layer: chosen.count(layer) for layer in set(chosen)}
    main = max(LAYERS, key=chosen.count)
    tasks = rows.filter(metric="task_balanced_accuracy", split="test")
    assert set(tasks.filter(pl.col("representation") == "sae")["layer"]) == {main}
    assert {*STRICT["baselines"], "dense", "sae"} == set(tasks["representation"])
    trained = {path.parent.name for path in (folder / "saes").glob("*/card.json")}
    for seed in (0, 1):
        assert any(f"layer{next(iter(set(chosen) - {main})):02d}" in n and n.endswith(f"seed{seed}") for n in trained)


def test_strict_page_names_the_layers_of_the_folds(folder: Path) -> None:
    page = read_page((folder / "report" / "index.html").read_text(encoding="utf-8")).section("strict")
    chosen = layers_of_folds(folder)
    main = max(LAYERS, key=chosen.count)
    assert f"each fold chose a layer on its own fitted groups: layer {main} in {chosen.count(main)} folds and" in page
    assert np.isin(chosen, LAYERS).all()
