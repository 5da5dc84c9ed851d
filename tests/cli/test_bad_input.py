"""Bad input through the command line: a clear line and the right exit code, or a clip set aside and the run goes on."""

import json
import struct
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import yaml

from otoscope.corpus.audio import write_audio
from tests.support.calling import call, fails
from tests.support.small_runs import CLASSES, FOLDER, RATE_HZ, Tiny, tone, write_config, write_voices
from tests.support.tiny import edit_weights, write_tiny_checkpoint

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    return write_voices(tmp_path / "voices")


@pytest.fixture
def config(tmp_path: Path, tiny: Tiny, voices: Path) -> Path:
    """A run over a folder of voices that has nothing wrong, in one dictionary."""
    return write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER, train={"sparsities": [0.75], "layers": [1]})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def spoil(voices: Path) -> None:
    """Add a file of every fault to a folder."""
    low, whole = voices / "low", (voices / "low" / "ann_0.wav").read_bytes()
    (low / "ann_20.wav").write_bytes(b"RIFF" + bytes(range(200)))
    (low / "ann_21.wav").write_bytes(b"")
    (low / "ann_22.wav").write_bytes(whole[: len(whole) // 2])
    write_audio(low / "ann_23.wav", np.zeros(RATE_HZ, dtype=np.float32), RATE_HZ)
    write_audio(low / "ann_24.wav", np.array([0.1, -0.1, 0.1], dtype=np.float32), RATE_HZ)
    soundfile.write(low / "ann_25.wav", np.full(RATE_HZ, np.nan, dtype=np.float32), RATE_HZ, subtype="FLOAT")


REASONS = {
    "ann_20.wav": "cannot be decoded",
    "ann_21.wav": "empty file",
    "ann_22.wav": "truncated",
    "ann_23.wav": "silent",
    "ann_24.wav": "too short: 3 samples",
    "ann_25.wav": "NaN",
}


def test_unusable_files_are_set_aside_counted_and_shown(capsys: Capsys, config: Path, voices: Path, out: Path) -> None:
    spoil(voices)
    outcome = call(capsys, "run", config, "--out", out, "--json", "--set", "max_set_aside=0.2")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out.splitlines()[-1])
    assert (told["set_aside"], told["clips"]) == (6, 30)
    aside = dict(pl.read_parquet(out / "set_aside.parquet").iter_rows())
    assert {name.removeprefix("low/") for name in aside} == set(REASONS)
    for name, reason in REASONS.items():
        assert reason in aside[f"low/{name}"]
    assert "6 clips set aside: " in outcome.err
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "6 files could not be used" in page
    assert "too short: 3 samples" in page


def test_eight_channels_and_192_khz_are_used(capsys: Capsys, config: Path, voices: Path, out: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(voices / "low" / "ann_30.wav", 0.1 * rng.standard_normal((8000, 8)), RATE_HZ)
    soundfile.write(voices / "low" / "ann_31.wav", 0.1 * rng.standard_normal(96_000), 192_000)
    told = json.loads(call(capsys, "extract", config, "--out", out, "--json").out)
    assert (told["set_aside"], told["clips"]) == (0, 32)
    clips = pl.read_parquet(out / "activations" / "clips.parquet")
    frames = dict(clips.select("clip_id", "frames").iter_rows())
    assert frames["low/ann_30.wav"] == frames["low/ann_31.wav"] > 20


def test_a_clip_too_short_for_the_model_is_set_aside_too(capsys: Capsys, config: Path, voices: Path, out: Path) -> None:
    write_audio(voices / "low" / "ann_40.wav", tone(300.0, seconds=0.015), RATE_HZ)
    outcome = call(capsys, "run", config, "--out", out, "--json")
    assert json.loads(outcome.out)["set_aside"] == 1
    assert "1 clip set aside, such as low/ann_40.wav (too short: 240 samples" in outcome.err
    assert "1 file could not be used" in (out / "report" / "index.html").read_text(encoding="utf-8")


def test_fail_fast_stops_at_the_first_unusable_clip(capsys: Capsys, config: Path, voices: Path, out: Path) -> None:
    write_audio(voices / "low" / "ann_40.wav", tone(300.0, seconds=0.015), RATE_HZ)
    assert "low/ann_40.wav: too short: 240 samples" in fails(capsys, "extract", config, "--out", out, "--fail-fast")
    (voices / "low" / "ann_21.wav").write_bytes(b"")
    assert "low/ann_21.wav: empty file" in fails(capsys, "corpus", config, "--out", out, "--fail-fast")


def test_more_than_the_allowed_share_stops_the_run(capsys: Capsys, config: Path, voices: Path, out: Path) -> None:
    spoil(voices)
    told = fails(capsys, "corpus", config, "--out", out, "--set", "max_set_aside=0.1")
    assert "6 of 36 clips" in told
    assert "(allowed: 10%)" in told
    assert not (out / "corpus.parquet").exists()
    assert f"All of them and their reasons are listed in {out / 'set_aside.parquet'}" in told
    listed = pl.read_parquet(out / "set_aside.parquet")
    assert listed.columns == ["path", "reason"]
    assert listed.height == 6
    assert listed["reason"].null_count() == 0
    # the same run with a larger share continues
    allowed = call(capsys, "corpus", config, "--out", out, "--set", "max_set_aside=0.2")
    assert allowed.code == 0, allowed.err
    assert pl.read_parquet(out / "set_aside.parquet").equals(listed)


def test_more_clips_too_short_for_the_model_than_allowed_stop_the_run(
    capsys: Capsys, config: Path, voices: Path, out: Path
) -> None:
    for take in range(3):
        write_audio(voices / "low" / f"ann_4{take}.wav", tone(300.0, seconds=0.015), RATE_HZ)
    told = fails(capsys, "extract", config, "--out", out, "--set", "max_set_aside=0.05")
    assert "too short" in told
    assert not (out / "activations" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["corpus.root=nowhere"], "nowhere does not exist"),
        (["corpus.root=mine.yaml"], "is a file, not a folder"),
        (["model=openai/whisper-tinny.en"], "did you mean openai/whisper-tiny.en?"),
        (["model=./nowhere"], "nowhere"),
        (["extract.layers=[1, 9]"], "has no layer 9; it has layers 0 to 3"),
        (["train.layers=[7]"], "train.layers: [7] are not extracted"),
        (["evaluate.protocols=[strict]", "evaluate.strict.layer=7"], "evaluate.strict.layer: 7 has no dictionary"),
        (["train.layers=[]"], "train.layers: got []; give at least one layer"),
        (["train.latens=3"], "unknown key 'train.latens'; did you mean latents?"),
        (["trian.latents=3"], "unknown key 'trian'; did you mean train?"),
        (["corpus=voices"], "corpus: got 'voices'; give `kind: ...`"),
        (["corpus.kind=foldr"], "no corpus kind 'foldr'; did you mean folder?"),
        (["train.latents"], "--set wants key.sub=VALUE, got 'train.latents'"),
        (["train.layers=["], "--set 'train.layers=[': the value is not valid YAML"),
        (["evaluate.labels=[clas]"], "has no label 'clas'; did you mean class?"),
        (["splits.test_groups=[eva]"], "no usable clip belongs to the group 'eva'; did you mean eve?"),
        (["corpus.group_pattern=(?P<group>[a-z]+)_0"], "20 x group_pattern finds no group"),
        (["factors.table=nowhere.csv"], "nowhere.csv does not exist"),
        (["device=gpu"], "device: got 'gpu'; give auto, cpu, cuda"),
        (["device=cuda:99"], "cuda:99': PyTorch finds"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_settings_are_told_by_name(
    capsys: Capsys, config: Path, out: Path, overrides: list[str], told: str
) -> None:
    options = [part for override in overrides for part in ("--set", override)]
    assert told in fails(capsys, "evaluate", config, "--out", out, *options)
    assert not (out / "activations").exists(), "told only after the work was done"


def test_keys_that_are_no_text_are_told(capsys: Capsys, config: Path, out: Path) -> None:
    config.write_text(config.read_text() + "explain: {latents: 1,2}\n")
    told = fails(capsys, "corpus", config, "--out", out)
    assert "explain.latents: got 1; give a list, e.g. [1]" in told
    assert "explain.2: got 2" in told


def test_a_folder_without_audio_says_what_lies_there(capsys: Capsys, config: Path, voices: Path, out: Path) -> None:
    for path in voices.rglob("*.wav"):
        path.with_suffix(".txt").write_text("no sound")
        path.unlink()
    told = fails(capsys, "run", config, "--out", out)
    assert "no audio under" in told
    assert "30 .txt" in told


def test_two_files_of_one_name_are_two_clips(capsys: Capsys, config: Path, out: Path) -> None:
    assert call(capsys, "corpus", config, "--out", out).code == 0
    ids = pl.read_parquet(out / "corpus.parquet")["clip_id"].to_list()
    assert {f"{name}/ann_0.wav" for name in CLASSES} <= set(ids)
    assert len(set(ids)) == len(ids) == 30


def test_a_class_with_one_clip_is_warned_of_and_the_run_goes_on(
    capsys: Capsys, config: Path, voices: Path, out: Path
) -> None:
    write_audio(voices / "odd" / "ann_0.wav", tone(700.0), RATE_HZ)
    outcome = call(capsys, "evaluate", config, "--out", out)
    assert outcome.code == 0
    assert "warning: 1 class cannot be scored (odd): a class needs clips in train and in test; add rec" in outcome.err
    results = pl.read_parquet(out / "results.parquet")
    assert results.filter(pl.col("metric") == "probe_accuracy")["value"].is_not_nan().all()


def test_a_label_of_one_class_is_left_out_and_refused_where_it_is_named(
    capsys: Capsys, config: Path, voices: Path, out: Path
) -> None:
    for path in (voices / "high").iterdir():
        path.unlink()
    outcome = call(capsys, "evaluate", config, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "warning: class is not probed: all its clips have the one class 'low'; a probe needs two" in outcome.err
    told = fails(capsys, "evaluate", config, "--out", out, "--set", "evaluate.labels=[class]")
    assert told.startswith("error: evaluate.labels: 'class' cannot be probed: all its clips have the one class")


def test_two_groups_cannot_be_split(capsys: Capsys, config: Path, voices: Path, out: Path) -> None:
    for path in voices.rglob("*.wav"):
        if path.name[:3] not in ("ann", "bob"):
            path.unlink()
    told = fails(capsys, "run", config, "--out", out)
    assert "train, valid and test need a group each; the corpus has 2 (ann, bob)" in told


def test_a_checkpoint_that_lacks_a_key_is_refused(capsys: Capsys, config: Path, out: Path, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint("wavlm", tmp_path / "lacking")

    def without(weights: dict) -> dict:
        return {name: tensor for name, tensor in weights.items() if "layers.1.attention.q_proj.weight" not in name}

    edit_weights(folder, without)
    told = fails(capsys, "run", config, "--out", out, "--set", f"model={folder}")
    assert "layers.1.attention.q_proj.weight" in told


def test_a_damaged_checkpoint_is_refused(capsys: Capsys, config: Path, out: Path, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint("wavlm", tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 1 << 40) + b"x" * 100)
    assert str(folder) in fails(capsys, "run", config, "--out", out, "--set", f"model={folder}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no configuration file"),
        (b"\xff\xfe\x00", "cannot read"),
        (b"corpus: [", "bad.yaml is not valid YAML: line 1, column 10: expected the node content"),
        (
            b"name: a\nmodel: b: c\n",
            "bad.yaml is not valid YAML: line 2, column 9: mapping values are not allowed here",
        ),
        (b"name: \x07\n", "bad.yaml is not valid YAML: character 7: special characters"),
        (b"", "must hold `key: value` lines"),
        (b"model: starter\n", "'corpus' is missing"),
    ],
)
def test_an_unreadable_configuration_is_told(capsys: Capsys, tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "bad.yaml"
    if content is not None:
        path.write_bytes(content)
    assert told in fails(capsys, "run", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_is_a_folder_is_told(capsys: Capsys, tmp_path: Path) -> None:
    assert "is a folder without config.yaml; give a run folder or a YAML file" in fails(capsys, "run", tmp_path)


def test_a_run_folder_that_cannot_be_is_told(capsys: Capsys, config: Path) -> None:
    assert "choose another --out" in fails(capsys, "corpus", config, "--out", config)


def test_debug_prints_the_traceback(capsys: Capsys, tmp_path: Path) -> None:
    outcome = call(capsys, "run", tmp_path / "none.yaml", "--debug")
    assert outcome.code == 1
    assert "Traceback (most recent call last)" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: no configuration file")


def test_main_reports_an_unexpected_error_as_a_bug(
    capsys: Capsys, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr("otoscope.pipeline.run.run", broken)
    outcome = call(capsys, "run", config)
    assert outcome.code == 70
    assert outcome.err.splitlines() == [
        "unexpected ValueError: two lines",
        "This is a bug in otoscope; run again with --debug and report it.",
    ]


def test_labels_may_be_unknown_for_some_clips(capsys: Capsys, config: Path, voices: Path, out: Path) -> None:
    """One label that some clips lack, and one that every clip of valid lacks."""
    paths = sorted(str(path.relative_to(voices)) for path in voices.rglob("*.wav"))
    groups = [Path(path).name.split("_")[0] for path in paths]
    split = {"ann": "train", "bob": "train", "cy": "train", "di": "valid", "eve": "test"}
    table = pl.DataFrame(
        {
            "path": paths,
            "group": groups,
            "split": [split[group] for group in groups],
            "label_class": [None if i % 4 == 0 else path.split("/")[0] for i, path in enumerate(paths)],
            "label_rare": [None if split[g] == "valid" else str(i % 2) for i, g in enumerate(groups)],
        }
    )
    table.write_csv(voices / "clips.csv")
    asked = {"kind": "manifest", "table": "voices/clips.csv"}
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "corpus": asked}))
    outcome = call(capsys, "evaluate", config, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "warning: rare is not probed: no clip of valid has it" in outcome.err
    probes = pl.read_parquet(out / "results.parquet").filter(pl.col("metric") == "probe_accuracy")
    known = table.filter(pl.col("label_class").is_not_null() & (pl.col("split") == "test")).height
    assert set(probes["target"]) == {"class"}
    assert set(probes["n"]) == {known}


def test_synth_sings_into_no_folder_of_other_recordings(capsys: Capsys, tmp_path: Path) -> None:
    mine = tmp_path / "recordings"
    (mine / "ann").mkdir(parents=True)
    (mine / "ann" / "a.wav").write_bytes(b"mine")
    small = ("--singers", 1, "--takes", 1, "--duration-s", 0.3)
    outcome = call(capsys, "synth", mine, *small)
    assert outcome.code == 1
    assert "holds files that synth did not write (ann); name a new or an empty folder" in outcome.err
    assert [path.name for path in mine.rglob("*")] == ["ann", "a.wav"]
    (tmp_path / "empty").mkdir()
    assert call(capsys, "synth", tmp_path / "empty", *small).code == 0
    assert call(capsys, "synth", tmp_path / "empty", *small).code == 0
    assert not (tmp_path / "empty" / ".synth.json").exists()
    outcome = call(capsys, "synth", tmp_path / "empty", *small, "--seed", 1)
    assert "holds a corpus with other settings" in outcome.err


def test_a_single_value_where_a_list_belongs_is_told_with_a_list(capsys: Capsys, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("corpus: {kind: folder, root: r}\n")
    told = call(capsys, "run", config, "--set", "train.sparsities=2").err
    assert "train.sparsities: got 2; give a list, e.g. [0.9], each between 0 and 1" in told
    assert "train.seeds: got 3; give a list, e.g. [3]" in call(capsys, "run", config, "--set", "train.seeds=3").err
    told = call(capsys, "run", config, "--set", r"corpus.group_pattern=(?P<grup>speaker\d+)").err
    assert r"got '(?P<grup>speaker\d+)'" in told


def test_corpus_warns_of_singleton_groups_and_missing_labels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for speaker in range(6):
        wave = np.sin(np.arange(8000) * (0.1 + 0.01 * speaker)).astype(np.float32)
        write_audio(tmp_path / "flat" / f"speaker{speaker}.wav", wave, 16000)
    config, out = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text("corpus: {kind: folder, root: flat}\n")
    told = " ".join(call(capsys, "corpus", config, "--out", out).err.split())
    assert "every clip is its own group, so one speaker" in told
    assert "name speakers or singers with `group` in `pattern`, with group_pattern" in told
    assert f"no labels: all files are directly in {tmp_path / 'flat'}; sub-folders would become labels" in told
    given = ("--set", r"corpus.group_pattern=(?P<group>speaker\d+)", "--set", "corpus.class_from=none")
    told = " ".join(call(capsys, "corpus", config, "--out", out, *given).err.split())
    assert "every clip is its own group, as configured" in told
    assert "name speakers" not in told
    assert "no label" not in told
