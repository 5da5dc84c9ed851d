"""The strict protocol on a small run: all representations, caching, and resuming after a kill."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.artifacts import digest, read_table, read_tensors
from otoscope.config import load_config
from otoscope.errors import ConfigError
from otoscope.metrics.registry import METRICS
from otoscope.metrics.representation import BASELINES
from otoscope.pipeline.run import run
from otoscope.runs import cache
from tests.support.small_runs import SUNG, Tiny, stages_of_last_run, write_config

STRICT = {
    "baselines": list(BASELINES),
    "seeds": 2,
    "folds": 2,
    "sizes": [1, 2],
    "limit_sparsities": [0.75, 0.95],
    "limit_presets": ["default", "short"],
}
TRAIN = {"latents": 48, "sparsities": [0.75, 0.9], "layers": [1, 2], "presets": {"short": {"epochs": 2}}}


@pytest.fixture(scope="module")
def config(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strict") / "small.yaml"
    extract = {"layers": [1, 2], "context": "short"}
    evaluate = {"protocols": ["strict"], "labels": ["technique", "vowel"], "strict": STRICT}
    return write_config(path, tiny("whisper"), SUNG, extract=extract, train=TRAIN, evaluate=evaluate)


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    folder = config.with_name("whole")
    run(load_config(config), folder)
    return folder


@pytest.fixture(scope="module")
def rows(whole: Path) -> pl.DataFrame:
    return read_table(whole / "results.parquet")


def test_strict_run_applies_the_same_metrics_to_all(rows: pl.DataFrame):
    shared_metrics = rows.filter((pl.col("metric") == "mean_factor_r2") | (pl.col("metric") == "predicted_share"))
    assert set(shared_metrics["representation"]) == {"dense", "sae", *BASELINES}
    tasks = rows.filter(pl.col("metric").str.starts_with("task_") & (pl.col("split") == "test"))
    of_dense = set(tasks.filter(pl.col("representation") == "dense")["target"])
    for name in BASELINES:
        assert set(tasks.filter(pl.col("representation") == name)["target"]) == of_dense, name
    assert "task_r2" in set(tasks["metric"])


def test_strict_run_scores_have_groups_and_ordered_intervals(rows: pl.DataFrame):
    assert rows.filter(pl.col("metric") != "")["groups"].min() >= 1
    known = rows.filter(pl.col("low").is_not_nan() & (pl.col("metric") != "predicted_share"))
    ordered = known.filter((pl.col("low") <= pl.col("value") + 1e-9) & (pl.col("value") <= pl.col("high") + 1e-9))
    assert ordered.height > 0.95 * known.height


def test_strict_run_predictions_give_the_scores_of_its_tasks(whole: Path, rows: pl.DataFrame):
    predictions = read_table(whole / "predictions.parquet")
    probe = ["representation", "layer", "sae_id", "sparsity", "seed"]
    right = (pl.col("true_class") == pl.col("predicted_class")).mean()
    recall = predictions.group_by(*probe, "label", "true_class").agg(right.alias("recall"))
    balanced = recall.group_by(*probe, "label").agg(pl.col("recall").mean())
    scores = rows.filter(metric="task_balanced_accuracy", split="test").filter(
        ~pl.col("target").str.contains("+", literal=True)
    )
    keys = [*probe, "target"]
    both = scores.join(balanced.rename({"label": "target"}), on=keys, nulls_equal=True)
    assert both.height == scores.height > 10
    assert both["value"].to_list() == pytest.approx(both["recall"].to_list())
    assert set(predictions["representation"]) == {"dense", "sae", *BASELINES}


def test_strict_run_measures_nothing_twice(rows: pl.DataFrame):
    key = ["layer", "representation", "sae_id", "pooling", "k", "dimensions", "seed", "metric", "target", "split"]
    assert rows.height == rows.select(key).unique().height


def test_strict_run_pairs_codes_with_the_layer_and_all_baselines(rows: pl.DataFrame):
    """The difference to the layer is that of the means; codes measured in part are compared with the layer only."""
    accuracy = rows.filter((pl.col("metric") == "task_balanced_accuracy") & (pl.col("split") == "test"))
    paired = rows.filter(pl.col("metric") == "task_balanced_accuracy_difference")
    in_full = paired.filter(pl.col("representation") == "pca")["sae_id"].unique().to_list()
    assert len(in_full) == 1
    (compared,) = in_full
    assert set(paired.filter(pl.col("sae_id") == compared)["representation"]) == {"dense", *BASELINES}
    assert paired.filter(pl.col("representation") == "dense")["sae_id"].n_unique() > 1
    for target in paired["target"].unique():
        of = accuracy.filter(pl.col("target") == target)
        stem = compared.removesuffix("seed0")
        codes = of.filter(pl.col("sae_id").str.starts_with(stem) & (pl.col("representation") == "sae"))["value"]
        dense = of.filter((pl.col("representation") == "dense") & (pl.col("layer") == paired["layer"][0]))["value"]
        row = paired.filter((pl.col("target") == target) & (pl.col("sae_id") == compared)).row(0, named=True)
        assert (row["representation"], row["value"]) == ("dense", pytest.approx(codes.mean() - dense[0]))


def test_strict_run_finds_limits_for_configured_presets(rows: pl.DataFrame, whole: Path):
    limits = rows.filter(pl.col("metric") == "sparsity_limit")
    assert set(limits["preset"]) == {target.split(": ")[0] for target in limits["target"]} == {"default", "short"}
    # the run trained the preset default at 90 % too
    assert set(limits.select("preset", "n").iter_rows()) == {("default", 3), ("short", 2)}
    page = (whole / "report" / "index.html").read_text(encoding="utf-8")
    assert "SAE, short" in page
    assert "SAE, default" in page


def test_strict_run_names_the_preset_in_sae_rows_only(rows: pl.DataFrame):
    """Baselines belong to no SAE; limits belong to a preset with several sparsities."""
    paired = pl.col("metric").is_in([metric.difference for metric in METRICS.values() if metric.difference])
    of_one = rows.filter((pl.col("sae_id") != "") & ~paired).select("representation", "preset")
    assert set(of_one.iter_rows()) == {
        *(("sae", preset) for preset in ("default", "short")),
        ("frozen_decoder", "frozen_decoder"),
        ("soft_frozen_decoder", "soft_frozen_decoder"),
        ("untrained_sae", "default"),
    }
    assert rows.filter((pl.col("sae_id") == "") & (pl.col("representation") != "sae"))["preset"].is_null().all()


def test_strict_run_gallery_shows_seed_counts(whole: Path):
    moments = read_table(whole / "explain" / "top_clips.parquet")
    if not moments.is_empty():
        assert (moments["seeds_asked"] == 1).all()
        assert (moments["seeds_found"] >= 1).all()


def test_strict_run_page_has_a_strict_section(whole: Path):
    page = (whole / "report" / "index.html").read_text(encoding="utf-8")
    assert 'id="strict"' in page
    assert "are compared in full" in page
    assert "chosen on groups left out of the fits, never on test groups" in page


def test_strict_run_is_cached(config: Path, whole: Path, rows: pl.DataFrame):
    del rows
    run(load_config(config), whole)
    assert "evaluate" in stages_of_last_run(whole)[1]


@pytest.mark.slow
def test_strict_run_resumes_after_a_kill_with_the_same_bytes(
    config: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = config.with_name("killed")
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "parts")
    (folder / "stages" / "evaluate.json").unlink()
    real, made = cache._write, list[str]()

    def dying(home: Path, part: cache.CachedResult, done: cache.ComputedResult) -> None:
        if len(made) == 6:
            raise KeyboardInterrupt
        made.append(part.name)
        real(home, part, done)

    monkeypatch.setattr(cache, "_write", dying)
    with pytest.raises(KeyboardInterrupt):
        run(load_config(config), folder, until="evaluate")
    monkeypatch.setattr(cache, "_write", real)
    stamps = {name: (folder / "parts" / f"{name}.parquet").stat().st_mtime_ns for name in made}
    run(load_config(config), folder, until="evaluate")
    assert digest(folder / "results.parquet") == digest(whole / "results.parquet")
    assert all((folder / "parts" / f"{name}.parquet").stat().st_mtime_ns == at for name, at in stamps.items())


def test_strict_run_chooses_without_test_groups(whole: Path, rows: pl.DataFrame):
    """The layer compared is the best on cross-validated scores, independent of test groups."""
    held: dict[int, float] = {}
    for layer in (1, 2):
        (found,) = (whole / "parts" / "strict" / "linear").glob(f"layer{layer:02d}-dense.safetensors")
        held[layer] = float(np.nan_to_num(np.maximum(read_tensors(found)["linear.held_r2"], 0)).mean())
    compared = rows.filter(pl.col("metric") == "mig")["layer"].unique().to_list()
    assert compared == [max(sorted(held), key=lambda layer: held[layer])]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluate.strict.layer=3", "3 has no dictionary"),
        ("evaluate.strict.sparsity=0.5", "0.5 is not trained"),
        ("evaluate.strict.baselines=[pcaa]", "no baseline 'pcaa'"),
        ("evaluate.protocols=[strict, strict]", "each once"),
        ("evaluate.strict.sizes=[4, 2]", "strictly increasing values"),
    ],
)
def test_strict_run_rejects_invalid_settings(config: Path, whole: Path, setting: str, message: str):
    with pytest.raises(ConfigError, match=message):
        run(load_config(config, [setting]), whole, until="evaluate")
