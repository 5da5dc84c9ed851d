"""Repair of a damaged activation store by the next run."""

import os
from pathlib import Path

import pytest

from otoscope.activations.maintain import verify_store
from otoscope.artifacts import digest
from otoscope.config import load_config
from otoscope.pipeline.run import run
from tests.support.small_runs import FOLDER, Tiny, stages_of_last_run, write_config, write_voices


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


@pytest.mark.parametrize("verified", [False, True])
def test_run_extracts_damaged_shards_again(config: Path, tmp_path: Path, verified: bool) -> None:
    run(load_config(config), tmp_path / "run", until="extract")
    paths = sorted((tmp_path / "run" / "activations" / "layer_03").glob("frames-*"))
    before = [digest(path) for path in paths]
    for path in paths:
        turn_signs(path)
    if verified:
        assert verify_store(tmp_path / "run" / "activations")
    run(load_config(config), tmp_path / "run", until="extract")
    assert stages_of_last_run(tmp_path / "run")[0] == ["extract"]
    assert [digest(path) for path in paths] == before


def test_run_computes_again_what_it_computed_from_damaged_bytes(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage that changes neither the size nor the time of a large file, as a failing disk does."""
    monkeypatch.setattr("otoscope.runs.cards.LARGE_BYTES", 0)
    run(load_config(config), tmp_path / "whole", until="evaluate")
    run(load_config(config), tmp_path / "run", until="extract")
    for path in (tmp_path / "run" / "activations" / "layer_03").glob("frames-*"):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        turn_signs(path)
        os.utime(path, ns=times)
    run(load_config(config), tmp_path / "run", until="evaluate")
    results = [(tmp_path / name / "results.parquet").read_bytes() for name in ("whole", "run")]
    assert results[0] != results[1], "computed from damaged bytes"
    assert verify_store(tmp_path / "run" / "activations")
    run(load_config(config), tmp_path / "run", until="evaluate")
    assert {"extract", "train", "evaluate"} <= set(stages_of_last_run(tmp_path / "run")[0])
    assert (tmp_path / "run" / "results.parquet").read_bytes() == results[0]
    run(load_config(config), tmp_path / "run", until="evaluate")
    assert stages_of_last_run(tmp_path / "run")[0] == []
