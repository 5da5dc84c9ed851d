"""Where a run's activations go, and what becomes of those that were there."""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from otoscope.activations.maintain import verify_store
from otoscope.activations.storage import CACHE_VARIABLE
from otoscope.activations.store import ActivationStore
from otoscope.config import RunConfig, load_config
from otoscope.errors import ArtifactError, ConfigError, StaleArtifact
from otoscope.pipeline.run import run
from otoscope.report.run_data import set_aside
from otoscope.runs.folder import RunFolder
from otoscope.runs.inputs import open_activations
from otoscope.runs.progress import SilentReporter
from tests.support.activations import contents
from tests.support.calling import call
from tests.support.small_runs import (
    FOLDER,
    RATE_HZ,
    Tiny,
    stages_of_last_run,
    tone,
    write_audio,
    write_config,
    write_voices,
)


@pytest.fixture
def config(tmp_path: Path, tiny: Tiny) -> Path:
    write_voices(tmp_path / "voices", takes=1)
    return write_config(tmp_path / "my.yaml", tiny("hubert"), FOLDER)


def extracted(config: Path, out: Path, *overrides: str) -> ActivationStore:
    run(settings(config, *overrides), out, until="extract")
    return ActivationStore.open(out / "activations", verify=True)


def settings(config: Path, *overrides: str) -> RunConfig:
    return load_config(config, overrides)


def broken(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_extract_appends_a_new_recording(config: Path, tmp_path: Path):
    before = extracted(config, tmp_path / "run")
    write_audio(tmp_path / "voices" / "low" / "fay_0.wav", tone(250.0), RATE_HZ)
    after = extracted(config, tmp_path / "run")
    assert set(after.clip_ids) - set(before.clip_ids) == {"low/fay_0.wav"}
    assert [shard["clips"] for shard in after.manifest["shards"]] == [10, 1]


@dataclass
class Heard(SilentReporter):
    """A watch that keeps what is said."""

    lines: list[str] = field(default_factory=list[str])

    def message(self, text: str) -> None:
        self.lines.append(text.strip())


def test_extract_reports_stored_and_new_clips(config: Path, tmp_path: Path):
    first, second = Heard(), Heard()
    run(settings(config), tmp_path / "run", until="extract", progress=first)
    write_audio(tmp_path / "voices" / "low" / "fay_0.wav", tone(250.0), RATE_HZ)
    run(settings(config), tmp_path / "run", until="extract", progress=second)
    assert not any("kept" in line for line in first.lines)
    assert "10 clips kept, 1 new (0.4 s)" in second.lines


def test_extract_keeps_the_old_store_until_the_new_one_is_complete(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = extracted(config, tmp_path / "run")
    pooled = before.pooled(3)
    with monkeypatch.context() as patched:
        patched.setattr(import_module("otoscope.activations.extract"), "commit_store", broken)
        with pytest.raises(KeyboardInterrupt):
            extracted(config, tmp_path / "run", "extract.dtype=float16")
    kept = ActivationStore.open(tmp_path / "run" / "activations", verify=True)
    assert kept.fingerprint == before.fingerprint
    after = extracted(config, tmp_path / "run", "extract.dtype=float16")
    assert after.dtype == "float16"
    np.testing.assert_allclose(after.pooled(3), pooled, atol=2e-3)
    assert not list((tmp_path / "run").glob("activations.*"))


def test_extract_resumes_after_a_kill_between_the_renames(config: Path, tmp_path: Path):
    store = extracted(config, tmp_path / "run").fingerprint
    folder = tmp_path / "run" / "activations"
    folder.rename(folder.with_name("activations.new"))
    extracted(config, tmp_path / "other", "extract.dtype=float16")
    (tmp_path / "other" / "activations").rename(folder.with_name("activations.old"))
    assert extracted(config, tmp_path / "run").fingerprint == store
    assert not list((tmp_path / "run").glob("activations.*"))


def test_extract_repairs_damage_found_by_verify(config: Path, tmp_path: Path):
    extracted(config, tmp_path / "run")
    path = next((tmp_path / "run" / "activations" / "layer_03").glob("frames-*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(byte ^ 0xFF for byte in whole[-4:]))
    assert len(verify_store(tmp_path / "run" / "activations")) == 1
    extracted(config, tmp_path / "run")
    assert path.read_bytes() == whole
    run(settings(config), tmp_path / "run", until="extract")
    assert "extract" in stages_of_last_run(tmp_path / "run")[1]


def test_extract_stores_segments_without_frames(config: Path, tmp_path: Path):
    store = extracted(
        config, tmp_path / "run", "extract.frames=false", "extract.segment_s=0.1", "train.poolings=[pool_then_encode]"
    )
    assert not store.has_frames
    assert store.segments["segment"].max() == 3
    assert len(store.pooled_segments(1)) == store.segments.height
    with pytest.raises(ConfigError, match="encode_then_pool needs frames"):
        settings(config, "extract.frames=false")
    with pytest.raises(ConfigError, match="give segment_s or segments, not both"):
        settings(config, "extract.segment_s=1.0", "extract.segments=x.csv")


def test_extract_reads_segments_next_to_the_configuration(config: Path, tmp_path: Path):
    (tmp_path / "parts.csv").write_text("clip_id,start_s,end_s\nlow/ann_0.wav,0.1,0.3\n")
    store = extracted(config, tmp_path / "run", "extract.segments=parts.csv")
    assert store.segments["clip_id"].to_list() == ["low/ann_0.wav"]
    (tmp_path / "parts.csv").write_text("clip_id,start_s,end_s\nlow/bob_0.wav,0.1,0.3\n")
    assert extracted(config, tmp_path / "run", "extract.segments=parts.csv").segments["clip_id"].to_list() == [
        "low/bob_0.wav"
    ]


def test_extract_names_segments_without_a_frame(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "low/ann_0.wav,0.1,0.3\nlow/ann_0.wav,0.1,0.1001\n"
    (tmp_path / "parts.csv").write_text(f"clip_id,start_s,end_s\n{rows}")
    outcome = call(
        capsys, "extract", config, "--out", tmp_path / "run", "--set", f"extract.segments={tmp_path}/parts.csv"
    )
    assert "warning: 1 segment without any frame: too short, or of clips set aside" in outcome.err
    assert ActivationStore.open(tmp_path / "run").segments.height == 1


@pytest.mark.slow
def test_extract_writes_to_another_location(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    place = f"memory://{uuid4().hex}"
    run(settings(config, f"extract.store={place}"), tmp_path / "there")
    run(settings(config), tmp_path / "here")
    assert not list((tmp_path / "there" / "activations").glob("layer_*"))
    for name in ("results.parquet", "factors.parquet"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert set_aside(tmp_path / "there") is not None
    # and back again
    assert extracted(config, tmp_path / "there").folder == str(tmp_path / "there" / "activations")


def test_extract_refuses_a_foreign_folder_as_its_store(config: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "clips.parquet").write_text("mine")
    with pytest.raises(ArtifactError, match="mine is not empty and holds no activations of otoscope"):
        extracted(config, tmp_path / "run", f"extract.store={tmp_path / 'mine'}")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["clips.parquet"]
    assert (tmp_path / "mine" / "clips.parquet").read_text() == "mine"


def test_extract_never_removes_a_file_of_others(config: Path, tmp_path: Path):
    extracted(config, tmp_path / "run")
    note = tmp_path / "run" / "activations" / "layer_03" / "notes.txt"
    note.write_text("mine")
    with pytest.raises(ArtifactError, match=r"files that otoscope did not write: 'layer_03/notes.txt'"):
        extracted(config, tmp_path / "run", "extract.dtype=float16")
    run(settings(config, f"extract.store={tmp_path / 'there'}"), tmp_path / "run", until="extract")
    assert note.read_text() == "mine"


def test_two_runs_that_share_a_store_get_their_own_clips(config: Path, tmp_path: Path):
    there = f"extract.store={tmp_path / 'there'}"
    few = write_config(tmp_path / "few.yaml", load_config(config).model, {**FOLDER, "exclude": ["*/eve_*"]})
    run(settings(config, there), tmp_path / "a", until="evaluate")
    results = (tmp_path / "a" / "results.parquet").read_bytes()
    before = contents(tmp_path / "there")
    with pytest.raises(ArtifactError, match=r"another run \(10 clips of the corpus .*, and this run has 8 clips"):
        run(settings(few, there), tmp_path / "b", until="evaluate")
    assert contents(tmp_path / "there") == before
    run(settings(config, there), tmp_path / "a", until="evaluate")
    assert stages_of_last_run(tmp_path / "a")[0] == []
    assert (tmp_path / "a" / "results.parquet").read_bytes() == results
    run(settings(config, there), tmp_path / "c", until="extract")  # the same clips are shared
    assert contents(tmp_path / "there") == before


def test_a_run_whose_corpus_changed_updates_its_own_store_and_others_notice(config: Path, tmp_path: Path):
    there = f"extract.store={tmp_path / 'there'}"
    for name in ("a", "c"):
        run(settings(config, there), tmp_path / name, until="extract")
    voice = tmp_path / "voices" / "low" / "fay_0.wav"
    write_audio(voice, tone(250.0), RATE_HZ)
    run(settings(config, there), tmp_path / "a", until="extract")
    assert len(ActivationStore.open(tmp_path / "a").clip_ids) == 11
    voice.unlink()
    with pytest.raises(StaleArtifact, match=r"there holds other clips than this run's corpus of 10 clips: 11 clips"):
        open_activations(RunFolder(tmp_path / "c"), settings(config, there))
    with pytest.raises(ArtifactError, match="a store belongs to one corpus"):
        run(settings(config, there), tmp_path / "c")


def test_an_unfinished_store_can_be_taken_over(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    there = f"extract.store={tmp_path / 'there'}"
    with monkeypatch.context() as patched:
        patched.setattr(import_module("otoscope.activations.extract"), "commit_store", broken)
        with pytest.raises(KeyboardInterrupt):
            run(settings(config, there), tmp_path / "a", until="extract")
    few = write_config(tmp_path / "few.yaml", load_config(config).model, {**FOLDER, "exclude": ["*/eve_*"]})
    assert len(extracted(few, tmp_path / "b", there).clip_ids) == 8
    with pytest.raises(ArtifactError, match="a store belongs to one corpus"):
        run(settings(config, there), tmp_path / "a", until="extract")
