"""Cost of a run, announced before the work: the size of the corpus, seconds per stage, settings for a first look."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from otoscope.config import load_config
from otoscope.corpus.audio import write_audio
from otoscope.pipeline.estimate import Workload, cost_lines, first_look, measure_workload
from otoscope.pipeline.run import grid_line
from otoscope.pipeline.stages import stages_until
from otoscope.runs.context import Context, LazyEncoder
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import SilentReporter
from otoscope.runs.training import GridMember
from tests.support.calling import call
from tests.support.small_runs import FOLDER, RATE_HZ, SUNG, Tiny, tone, write_config, write_voices

GRID = [
    GridMember(layer, "encode_then_pool", "default", 64, sparsity, seed)
    for layer in (1, 3, 5)
    for sparsity in (0.75, 0.9)
    for seed in (0, 1, 2)
]


def test_grid_line_multiplies_the_settings() -> None:
    assert grid_line(GRID) == (
        "grid: 18 SAEs = 3 layers x 1 pooling x 1 preset x 1 number of latents x 2 sparsities x 3 seeds"
    )


def test_first_look_names_settings_for_a_large_grid_only() -> None:
    assert first_look(GRID) == [
        "for a first look: --set train.layers=[3] --set train.sparsities=[0.9] --set train.seeds=[0]"
    ]
    assert first_look(GRID[:12]) == []


def context(path: Path) -> Context:
    config = load_config(path)
    return Context(config, RunFolder(path.parent / "out"), SilentReporter(), LazyEncoder(config))


def test_measure_workload_estimates_lengths_from_a_sample(tmp_path: Path, tiny: Tiny) -> None:
    rng = np.random.default_rng(0)
    lengths_s = rng.uniform(0.3, 2.0, 40)
    for at, seconds in enumerate(lengths_s):
        write_audio(tmp_path / "voices" / f"low/ann_{at}.wav", tone(220, seconds=seconds), RATE_HZ)
    run = context(write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER))
    work = measure_workload(run.config, run.folder)
    assert work is not None
    assert (work.clips, work.labels, work.factors) == (40, 1, 0)
    assert work.sound_s == pytest.approx(lengths_s.sum(), rel=0.02)
    assert 0 < work.corpus_s < 60


def test_measure_workload_counts_a_clip_per_channel(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "voices" / "low").mkdir(parents=True)
    for at in range(3):
        soundfile.write(tmp_path / "voices" / "low" / f"ann_{at}.wav", np.stack([tone(220)] * 2, axis=1), RATE_HZ)
    run = context(write_config(tmp_path / "mine.yaml", tiny("wavlm"), {**FOLDER, "channel": "each"}))
    work = measure_workload(run.config, run.folder)
    assert work is not None
    assert (work.clips, round(work.sound_s, 2)) == (6, 2.4)


def test_measure_workload_knows_stated_lengths_and_those_of_the_synthesiser(tmp_path: Path, tiny: Tiny) -> None:
    write_voices(tmp_path / "voices", takes=1)
    rows = [f"low/{name}_0.wav,0,{end}" for name, end in (("ann", 0.1), ("bob", 0.2), ("cy", 0.3))]
    (tmp_path / "voices" / "clips.csv").write_text("\n".join(["path,start_s,end_s", *rows]))
    corpus = {"kind": "manifest", "table": "voices/clips.csv"}
    listed = context(write_config(tmp_path / "mine.yaml", tiny("wavlm"), corpus))
    work = measure_workload(listed.config, listed.folder)
    assert work is not None
    assert work.sound_s == pytest.approx(0.6)
    sung = context(write_config(tmp_path / "sung.yaml", tiny("wavlm"), SUNG))
    work = measure_workload(sung.config, sung.folder)
    assert work is not None
    assert (work.clips, work.sound_s, work.labels) == (30, 15.0, 4)


def test_measure_workload_of_unreadable_files_is_unknown(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "voices" / "low").mkdir(parents=True)
    (tmp_path / "voices" / "low" / "ann_0.wav").write_bytes(b"no sound")
    run = context(write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER))
    assert measure_workload(run.config, run.folder) is None
    assert cost_lines(run, GRID, stages_until("report")) == first_look(GRID)


def test_cost_lines_suggest_fewer_clips_where_the_run_is_long(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Workload(clips=30_000, sound_s=360_000.0, labels=2, factors=0, corpus_s=600.0)
    monkeypatch.setattr("otoscope.pipeline.estimate.measure_workload", lambda *_: long)
    run = context(write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER))
    estimate, look = cost_lines(run, GRID[:2], stages_until("report"))
    assert estimate.startswith("estimate for 30,000 clips, 4.2 days of sound: corpus 10 min, ")
    clips = int(look.removeprefix("for a first look: --set corpus.max_clips="))
    assert 200 <= clips < 30_000


def test_cost_lines_name_every_stage_and_the_protocols_that_are_not_counted(tmp_path: Path, tiny: Tiny) -> None:
    write_voices(tmp_path / "voices", takes=1)
    evaluate = {"protocols": ["held_out", "strict"]}
    run = context(write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER, evaluate=evaluate))
    (line,) = cost_lines(run, GRID[:2], stages_until("report"))
    assert re.fullmatch(
        r"estimate for 10 clips, 4 s of sound: corpus \d+ s, factors \d+ s, extract \d+ s, train \d+ s, "
        r"evaluate \d+ s, explain \d+ s; in all about \d+ s; evaluate without strict",
        line,
    )


def test_run_announces_its_cost_once_and_an_up_to_date_run_does_not(
    tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_voices(tmp_path / "voices", takes=2)
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER)
    start_s = time.monotonic()
    first = call(capsys, "run", str(config)).err.splitlines()
    assert time.monotonic() - start_s < 120
    assert first[0].startswith("grid: 4 SAEs")
    assert first[1].startswith("estimate for 20 clips, 8 s of sound: corpus 1 s, factors 1 s, extract ")
    again = call(capsys, "run", str(config)).err
    titled = call(capsys, "run", str(config), "--set", "report.title=Another").err
    assert "estimate" not in again + titled


def test_measure_workload_counts_the_clips_that_settings_choose_from_an_earlier_run(
    tmp_path: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    write_voices(tmp_path / "voices")
    config, out = write_config(tmp_path / "c.yaml", tiny("wavlm"), FOLDER), tmp_path / "out"
    assert call(capsys, "corpus", config, "--out", out).code == 0
    whole = measure_workload(load_config(config), RunFolder(out))
    fewer = measure_workload(load_config(config, ["corpus.max_clips=10"]), RunFolder(out))
    assert whole is not None
    assert fewer is not None
    assert (whole.clips, fewer.clips) == (30, 10)
    assert fewer.sound_s == pytest.approx(whole.sound_s / 3)
    write_voices(tmp_path / "voices", takes=9)
    more = measure_workload(load_config(config), RunFolder(out))
    assert more is not None
    assert more.clips == 90


@pytest.mark.parametrize(("cross", "folds"), [(None, 5), (0, 1), (3, 3)])
def test_measure_workload_counts_the_folds_of_few_groups(
    cross: int | None, folds: int, tmp_path: Path, tiny: Tiny
) -> None:
    write_voices(tmp_path / "voices", takes=1)
    for name, corpus in (("folder", FOLDER), ("sung", SUNG)):
        path = write_config(tmp_path / f"{name}.yaml", tiny("wavlm"), corpus, splits={"cross": cross})
        work = measure_workload(load_config(path), RunFolder(tmp_path / "out"))
        assert work is not None
        assert work.folds == folds


def test_cost_lines_count_the_dictionaries_of_each_fold(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otoscope.pipeline.estimate.flop_per_s", lambda _device: 1e4)
    write_voices(tmp_path / "voices")
    days: dict[str, float] = {}
    for dictionaries in ("shared", "per_fold"):
        splits = {"cross": 3, "dictionaries": dictionaries}
        run = context(write_config(tmp_path / f"{dictionaries}.yaml", tiny("wavlm"), FOLDER, splits=splits))
        (line, *_) = cost_lines(run, GRID[:12], stages_until("report"))
        found = re.search(r"train ([\d.]+) days", line)
        assert found is not None, line
        days[dictionaries] = float(found[1])
    # one dictionary for half of the groups, and three for a third each
    assert days["per_fold"] == pytest.approx(days["shared"] * (1 + 3 * (1 / 3) / 0.5), rel=0.25)
