"""Stages that have read damaged bytes run again once the bytes are whole."""

from pathlib import Path

import pytest

from otoscope.activations.maintain import verify_store
from otoscope.artifacts import digest
from otoscope.config import load_config
from otoscope.pipeline.run import run
from tests.support.small_runs import FOLDER, Tiny, stages_of_last_run, write_config, write_voices

SAE = "saes/layer{layer:02d}-frames-default-m64-k16-seed0"


@pytest.fixture
def config(tmp_path: Path, tiny: Tiny) -> Path:
    write_voices(tmp_path / "voices", takes=2)
    return write_config(tmp_path / "my.yaml", tiny("hubert"), FOLDER, train={"sparsities": [0.75]})


def turn_signs(path: Path) -> None:
    """Damage float32 values without changing a size or making one that is not finite."""
    data = bytearray(path.read_bytes())
    for place in range(len(data) - 1, len(data) // 2, -4):
        data[place] ^= 0x80
    path.write_bytes(data)


def test_run_recomputes_results_of_damaged_activations(config: Path, tmp_path: Path) -> None:
    clean, spoiled = tmp_path / "clean", tmp_path / "spoiled"
    run(load_config(config), clean)
    run(load_config(config), spoiled, until="extract")
    for path in (spoiled / "activations" / "layer_03").glob("frames-*"):
        turn_signs(path)
    run(load_config(config), spoiled)
    weights = SAE.format(layer=3) + "/sae.safetensors"
    assert digest(spoiled / weights) != digest(clean / weights), "nobody has seen the damage yet"
    run(load_config(config), spoiled)
    assert "train" in stages_of_last_run(spoiled)[1]
    untouched = digest(spoiled / SAE.format(layer=1) / "card.json")

    assert verify_store(spoiled / "activations")
    run(load_config(config), spoiled)
    assert {"extract", "train", "evaluate", "explain", "report"} <= set(stages_of_last_run(spoiled)[0])
    for name in ("results.parquet", weights, "explain/top_clips.parquet"):
        assert digest(spoiled / name) == digest(clean / name), name
    assert digest(spoiled / SAE.format(layer=1) / "card.json") == untouched, "the other layer was whole all along"

    run(load_config(config), spoiled)
    assert stages_of_last_run(spoiled)[0] == []


def test_run_recomputes_results_of_a_shared_damaged_store(config: Path, tmp_path: Path) -> None:
    """It never saw the mark: another run had the store mended."""
    place = f"extract.store={tmp_path / 'store'}"
    for name in ("one", "two"):
        run(load_config(config, [place]), tmp_path / name, until="train")
    for path in (tmp_path / "store" / "layer_03").glob("frames-*"):
        turn_signs(path)
    verify_store(tmp_path / "store")
    run(load_config(config, [place]), tmp_path / "one", until="train")
    run(load_config(config, [place]), tmp_path / "two", until="train")
    assert stages_of_last_run(tmp_path / "two")[0] == ["train"]
