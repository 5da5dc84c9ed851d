"""The study's whole grid on a sung tree and tiny checkpoints: complete, repeatable, resumed, switched."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from otoscope.artifacts import read_json, read_table
from otoscope.config.mariotte2025 import parse_settings
from otoscope.corpus.synth.dataset import SynthCorpus
from otoscope.errors import EncoderError, StorageFull
from otoscope.protocols.mariotte2025.published import MODELS, choose_models
from otoscope.reproduce.mariotte2025 import estimate
from otoscope.reproduce.mariotte2025.run import Reproduction, reproduce
from tests.support.reproductions import MOMENTS, SMALL, one_model
from tests.support.small_runs import Tiny
from tests.support.vocalset_tree import write_vocalset_tree

ROOT = Path(__file__).resolve().parents[2]
FAMILY = {"AST": "ast", "WavLM": "wavlm", "HuBERT": "hubert", "MERT": "mert"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VocalSet-shaped tree: six singers, two of them the published test singers."""
    folder = tmp_path_factory.mktemp("vocalset")
    sung = SynthCorpus(singers=6, takes=1, duration_s=0.6, techniques=("straight", "vibrato", "breathy"))
    write_vocalset_tree(folder, sung)
    return folder


@pytest.fixture(scope="module")
def four(data: Path, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """The grid of all four architectures, layers 1 and 3 in the place of each published pair."""
    models = choose_models(overrides=[f"{name}={tiny(family)}@1,3" for name, family in FAMILY.items()])
    return reproduce(data, tmp_path_factory.mktemp("four"), models=models, settings=parse_settings(SMALL))


@pytest.fixture(scope="module")
def one(data: Path, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_model(data, tiny("hubert"), tmp_path_factory.mktemp("one")).folder


def rows(folder: Path, **keys: object) -> pl.DataFrame:
    table = read_table(folder / "results.parquet")
    return table.filter(*(pl.col(name) == value for name, value in keys.items()))


def test_reproduce_fills_every_cell_of_the_grid(four: Reproduction) -> None:
    here = four.comparison.filter(pl.col("here").is_not_null())
    wanted = four.comparison.filter(
        # three of the six sparsities were trained, and three blocks stand for twelve
        (pl.col("sparsity").is_null() | pl.col("sparsity").is_in([0.75, 0.9, 0.99]))
        & ((pl.col("metric") != "probe_accuracy") | (pl.col("representation") == "sae"))
        & ~((pl.col("model") == "HuBERT") & (pl.col("layer") == 3) & (pl.col("sparsity") == 0.99)
            & (pl.col("metric") == "probe_accuracy"))
    )  # fmt: skip
    assert wanted.join(
        here, on=["metric", "model", "layer", "representation", "sparsity", "target"], how="anti", nulls_equal=True
    ).is_empty()
    probes = here.filter((pl.col("metric") == "probe_accuracy") & (pl.col("representation") == "dense"))
    for name in MODELS:
        assert {0, 1, 2, 3} <= set(probes.filter(pl.col("model") == name)["layer"]) | {MODELS[name].published[0]}
    assert set(rows(four.folder)["protocol"]) == {"mariotte2025"}
    assert rows(four.folder, metric="factor_entropy")["value"].is_between(0, 3.33).all()


def test_reproduce_writes_the_comparison_as_table_csv_and_page(four: Reproduction) -> None:
    written = pl.read_csv(four.folder / "comparison.csv")
    assert written.height == four.comparison.height
    page = four.page.read_text(encoding="utf-8").replace("<wbr>", "")
    for text in ("Mariotte et al. 2025, reproduced", "HuBERT 12<br>(here 3)", "completeness_of_unpredicted"):
        assert text in page
    card = read_json(four.folder / "reproduction.json")
    assert card["models"]["WavLM"]["layers"] == [1, 3]


def test_reproduce_labels_the_mislabelled_probe_as_published(one: Path) -> None:
    probes = rows(one, metric="probe_accuracy", representation="sae", layer=1, split="test")
    assert sorted(probes["sparsity"]) == [0.75, 0.75, 0.9]
    assert probes.filter(pl.col("sae_id").str.contains("read-at"))["k"].to_list() == [32]
    assert rows(one, metric="mse", layer=1)["sparsity"].to_list() == [0.75, 0.9, 0.99]


def test_reproduce_skips_everything_the_second_time(one: Path, data: Path, tiny: Tiny) -> None:
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*.safetensors")}
    one_model(data, tiny("hubert"), one)
    assert before == {path: path.stat().st_mtime_ns for path in one.rglob("*.safetensors")}


def test_reproduce_keeps_stores_and_saes_for_a_metric_switch(one: Path, data: Path, tiny: Tiny) -> None:
    def events() -> list[dict[str, str]]:
        lines = (one / "models" / "HuBERT" / "log.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == "finished"]

    before = len(events())
    one_model(data, tiny("hubert"), one, settings=["completeness_of_unpredicted=nan"])
    assert [event["stage"] for event in events()[before:]] == ["evaluate"]
    completeness = rows(one, metric="completeness")["value"]
    assert completeness.is_nan().any()
    one_model(data, tiny("hubert"), one)
    assert not rows(one, metric="completeness")["value"].is_nan().any()


def test_reproduce_extracts_again_for_encoder_switches(one: Path, data: Path, tiny: Tiny, tmp_path: Path) -> None:
    found = one_model(
        data, tiny("hubert"), tmp_path, settings=["encoder_mode=eval", "padding=masked", "factor_audio=crop"]
    ).folder
    stores = sorted(path.name for path in (found / "models" / "HuBERT" / "activations").iterdir())
    assert stores == ["check", "train"]
    both = [rows(folder, metric="mse", layer=3, sparsity=0.9)["value"].item() for folder in (one, found)]
    assert both[0] != both[1]


@pytest.mark.parametrize("by", ["test", "valid"])
def test_reproduce_can_choose_the_layers(data: Path, tiny: Tiny, tmp_path: Path, by: str) -> None:
    models = choose_models(overrides=[f"HuBERT={tiny('hubert')}"], only=["HuBERT"])
    settings = parse_settings([*SMALL, f"layers={by}", "factor_audio=crop", "sparsities=[0.9]"])
    found = reproduce(data, tmp_path, models=models, settings=settings)
    dictionaries = set(rows(tmp_path, representation="sae")["layer"])
    assert len(dictionaries) == 2
    assert 3 in dictionaries, "HuBERT's pair holds the last layer"
    accuracy = rows(tmp_path, metric="probe_accuracy", representation="dense", split=by).filter(pl.col("layer") < 3)
    best = accuracy.sort("value", "layer", descending=[True, False])["layer"][0]
    assert dictionaries == {best, 3}
    assert found.comparison.filter(pl.col("sparsity") == 0.9)["layer_here"].drop_nulls().unique().sort().to_list() == [
        best,
        3,
    ]


@pytest.mark.slow
def test_reproduce_resumes_after_kills_to_the_same_bytes(data: Path, tiny: Tiny, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.reproductions", str(data), str(tiny("hubert")), str(tmp_path)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=True)
    told = json.loads(done.stdout)
    assert told == {"ends": [-signal.SIGKILL] * len(MOMENTS), "last": 0, "whole": 0}
    for name in ("results.parquet", "comparison.csv", "comparison.parquet", "report/index.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name
    dictionaries = sorted((tmp_path / "unbroken").rglob("sae.safetensors"))
    assert len(dictionaries) == 6
    for path in dictionaries:
        other = tmp_path / "killed" / path.relative_to(tmp_path / "unbroken")
        assert path.read_bytes() == other.read_bytes(), path


def test_reproduce_refuses_missing_layers_before_any_work(data: Path, tiny: Tiny, tmp_path: Path) -> None:
    models = choose_models(overrides=[f"HuBERT={tiny('hubert')}"], only=["HuBERT"])
    with pytest.raises(EncoderError, match=r"has layers 0 to 3, not \[12\]; name a pair with --model HuBERT="):
        reproduce(data, tmp_path, models=models, settings=parse_settings(SMALL))
    assert not (tmp_path / "models").exists()


def test_reproduce_refuses_a_small_disk_before_any_work(
    data: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "free_bytes", lambda _: 1000.0)
    with pytest.raises(StorageFull, match=r"needs about 0\.0 GB, 0\.0 GB are free; choose another --out"):
        one_model(data, tiny("hubert"), tmp_path)
    assert not (tmp_path / "models").exists()
