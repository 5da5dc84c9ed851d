"""The corpus stage prints what became of the input: columns, missing values, shortened segments, leaks."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from otoscope.corpus.audio import write_audio
from tests.support.calling import Outcome, call
from tests.support.small_runs import RATE_HZ, tone


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for at, site in enumerate(("north", "east", "south", "west")):
        write_audio(tmp_path / f"{site}.wav", tone(200.0 + 50 * at, seconds=2.0031), RATE_HZ)
    (tmp_path / "c.yaml").write_text("model: starter\ncorpus: {kind: manifest, table: clips.csv, group: site}\n")
    return tmp_path / "clips.csv"


def stage(capsys: pytest.CaptureFixture[str], table: Path, text: str) -> str:
    table.write_text(text, encoding="utf-8")
    outcome = call(capsys, "corpus", table.with_name("c.yaml"), "--out", table.with_name("run"))
    assert outcome.code == 0, outcome.err
    return outcome.err


def test_columns_missing_values_and_shortened_segments_are_printed(
    capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    rows = [f"{site}.wav,{at},{at + 1.01 if at else 1},{site},owl{at},NA" for site in SITES for at in (0, 1)]
    text = "\n".join(["path,start_s,end_s,site,species,temperature_c", *rows, "west.wav,0.5,,west,,8.5"])
    printed = stage(capsys, table, text)
    assert "groups: 4 groups (column site)" in printed
    assert "labels: species (2 classes, 1 missing)" in printed
    assert "factors: temperature_c (the same for all, 8 missing)" in printed
    assert "4 segments ended up to 7 ms after the recording and were shortened" in printed
    again = stage(capsys, table, text)
    assert "corpus: up to date" in again
    assert "4 segments ended up to 7 ms" in again


def test_overlapping_segments_of_two_groups_are_a_leak(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    rows = ["north.wav,0,1.2,north,a", "north.wav,1,2,east,b", "south.wav,0,1,south,a", "west.wav,0,1,South,b"]
    text = "\n".join(["path,start_s,end_s,site,species", *rows])
    table.with_name("c.yaml").write_text(
        "model: starter\ncorpus: {kind: manifest, table: clips.csv, group: site}\n"
        "splits: {test_groups: [north], valid_groups: [south]}\n"
    )
    printed = stage(capsys, table, text)
    assert "warning: 1 recording in more than one split under different groups, such as north.wav#0-1.2" in printed
    assert "warning: group: values that differ only in case (South and south)" in printed


SITES = ("north", "east", "south", "west")


def test_suspects_are_printed_and_listed(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    text = "path,site\n" + "\n".join(f"{site}.wav,{site}" for site in SITES)
    (table.parent / "west.wav").write_bytes((table.parent / "north.wav").read_bytes())
    printed = stage(capsys, table, text)
    assert "suspect: 2 clips with the same sound under another name (north.wav, west.wav)" in printed
    assert "suspects.parquet; all are used" in printed
    again = stage(capsys, table, text)
    assert "corpus: up to date" in again
    assert "suspect: 2 clips with the same sound" in again
    listed = pl.read_parquet(table.with_name("run") / "suspects.parquet")
    assert listed.filter(finding="copy")["clip_id"].to_list() == ["north.wav", "west.wav"]


def printed_with(capsys: pytest.CaptureFixture[str], table: Path, rows: list[str], settings: str) -> str:
    """Run the corpus stage on rows of path, site, sex and species, with further lines of configuration."""
    table.with_name("c.yaml").write_text(
        f"model: starter\ncorpus: {{kind: manifest, table: clips.csv, group: site, labels: [sex, species]}}\n{settings}"
    )
    return stage(capsys, table, "\n".join(["path,site,sex,species", *rows]))


ROWS = [f"{site}.wav,{site},{sex},owl" for site, sex in zip(SITES, ("f", "m", "f", "m"), strict=True)]


def test_messages_follow_the_cross_fit(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    rows = [row.replace(",m,", ",f,") for row in ROWS]
    printed = printed_with(capsys, table, rows, "factors: {egemaps: false}\n")
    (dictionaries,) = [line for line in printed.splitlines() if "dictionaries and explained variance: train" in line]
    assert dictionaries.endswith("test 1 clip of 1 group")
    assert "cross-fit over 4 folds of 4 clips of 4 groups supports no claim" in printed
    assert "splits.test" not in printed
    assert "sex is not probed: all its clips have the one class 'f'; a probe needs two classes" in printed
    assert "accuracy" not in printed  # no label can be probed
    assert "tested once" not in printed  # no factor is measured


def test_the_reason_for_a_single_split_of_few_groups_is_printed(
    capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    line = "regressions: one split, no cross-fit over the few groups, because"
    assert f"{line} splits.cross is 0" in printed_with(capsys, table, ROWS, "splits: {cross: 0}\n")
    named = "splits: {test_groups: [north], valid_groups: [south]}\n"
    assert f"{line} splits.valid_groups names groups" in printed_with(capsys, table, ROWS, named)
    assert line not in printed_with(capsys, table, ROWS, "splits: {cross: 4}\n")


def test_an_unknown_covariate_is_refused_at_the_corpus_stage(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    table.write_text("\n".join(["path,site,sex,species", *ROWS]))
    config = "model: starter\ncorpus: {kind: manifest, table: clips.csv, group: site}\nevaluate: {covariates: [sxe]}\n"
    table.with_name("c.yaml").write_text(config)
    outcome = call(capsys, "corpus", table.with_name("c.yaml"), "--out", table.with_name("run"))
    assert outcome.code == 1
    assert "has no label 'sxe'; did you mean sex" in outcome.err
    assert not table.with_name("run").joinpath("config.yaml").exists()


def test_a_setting_that_the_corpus_refuses_leaves_the_configuration_of_the_run(
    capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    table.write_text("\n".join(["path,site,sex,species", *ROWS]))
    config, run = table.with_name("c.yaml"), table.with_name("run")
    config.write_text("model: starter\ncorpus: {kind: manifest, table: clips.csv, group: site}\n")
    assert call(capsys, "corpus", config, "--out", run).code == 0
    before = run.joinpath("config.yaml").read_bytes()
    assert call(capsys, "corpus", run, "--set", "evaluate.covariates=[sxe]").code == 1
    assert run.joinpath("config.yaml").read_bytes() == before
    assert call(capsys, "corpus", run).code == 0


def test_classes_without_a_group_in_a_split_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = "abcdefgh"
    for at, name in enumerate(names):
        write_audio(tmp_path / f"{name}.wav", tone(200.0 + 20 * at), RATE_HZ)
    (tmp_path / "c.yaml").write_text(
        "model: starter\ncorpus: {kind: manifest, table: clips.csv, labels: [sex]}\n"
        "splits: {valid_groups: [a], test_groups: [b, c, d, e]}\n"
    )
    rows = [f"{name}.wav,{name},{'f' if name in 'abcfg' else 'm'}" for name in names]
    printed = stage(capsys, tmp_path / "clips.csv", "\n".join(["path,group,sex", *rows]))
    assert "  valid groups: a; test groups: b, c, d, e\n" in printed
    assert "groups per sex (train/valid/test): f: 2/1/2, m: 1/0/2" in printed
    assert (
        "warning: 1 class of sex with at most one group in train or test, or none in valid "
        "(m): scores of such a class may not hold for other groups"
    ) in printed


def test_rates_lengths_and_a_label_that_the_rate_tells_apart_are_printed(
    capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    printed = printed_with(capsys, table, ROWS, "")
    assert f"sound: {RATE_HZ:,} Hz, clips of " in printed
    assert "sample rate differs" not in printed
    for site in ("east", "west"):
        write_audio(table.with_name(f"{site}.wav"), tone(300.0), 8000)
    printed = printed_with(capsys, table, ROWS, "")
    assert f"sound: 8,000 Hz (2), {RATE_HZ:,} Hz (2), clips of " in printed
    assert f"the sample rate differs between the classes of sex (f {RATE_HZ:,} Hz, m 8,000 Hz)" in printed


def test_channels_are_counted_unless_all_files_are_mono(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    assert "mono" not in printed_with(capsys, table, ROWS, "")
    wave = tone(300.0)
    soundfile.write(table.with_name("west.wav"), np.stack([wave, -0.5 * wave], axis=1), RATE_HZ)
    assert f"sound: {RATE_HZ:,} Hz, mono (3), stereo (1), clips of " in printed_with(capsys, table, ROWS, "")
    soundfile.write(table.with_name("west.wav"), np.stack([wave] * 11, axis=1), RATE_HZ)
    assert "Hz, mono (3), 11 channels (1), clips of " in printed_with(capsys, table, ROWS, "")


def test_blanks_around_groups_are_announced_once(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    rows = ["north.wav,north ,f,owl", "east.wav,north,m,owl", "south.wav,south,f,owl", "west.wav,west,f,owl"]
    printed = printed_with(capsys, table, rows, "")
    assert printed.count("clips.csv: blanks around 1 value removed (in site)") == 1
    assert "groups: 3 groups (column site)" in printed


def test_a_number_of_folds_above_that_of_the_groups_is_announced(
    capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    line = "splits.cross is 99: 4 folds are used, one per group, for want of more groups"
    assert line in printed_with(capsys, table, ROWS, "splits: {cross: 99}\n")
    assert "for want of more groups" not in printed_with(capsys, table, ROWS, "splits: {cross: 4}\n")
    assert "for want of more groups" not in printed_with(capsys, table, ROWS, "")


def test_classes_that_cannot_be_scored_are_named_with_a_remedy(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    rows = [*ROWS[:3], ROWS[3].replace("owl", "wren")]
    printed = printed_with(capsys, table, rows, "")
    assert (
        "warning: species is not probed: in a fold of the cross-fit, all clips of train have the one class" in printed
    )
    assert "add recordings of each class by further groups" in printed
    printed = printed_with(capsys, table, ROWS, "")
    assert "species is not probed: all its clips have the one class 'owl'; a probe needs two classes, so add" in printed
    printed = printed_with(capsys, table, ROWS, "splits: {cross: 0, valid_groups: [east], test_groups: [west]}\n")
    assert "sex is not probed" in printed
    assert "by further groups, or choose the groups (splits.valid_groups, splits.test_groups)" in printed


def test_clips_set_aside_are_printed_with_their_reasons(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    (table.parent / "zipped.wav").write_bytes(b"PK\x03\x04" + bytes(99))
    rows = [*ROWS, "zipped.wav,west,f,owl"]
    reason = "zipped.wav (cannot be decoded as audio (its content is a zip archive; unpack it))"
    assert f"1 clip set aside: {reason}; all are listed in " in printed_with(capsys, table, rows, "")
    table.write_text("path,site\nnorth.wav,north\neast.wav,east\nzipped.wav,west\ngone.wav,south\n")
    table.with_name("c.yaml").write_text(
        "model: starter\nmax_set_aside: 0.5\ncorpus: {kind: manifest, table: clips.csv, group: site}\n"
    )
    outcome = call(capsys, "corpus", table.with_name("c.yaml"), "--out", table.with_name("run"))
    assert outcome.code == 1
    assert "need a group each; the corpus has 2 (east, north)" in outcome.err
    assert f"2 clips set aside: gone.wav (no such file); {reason}" in outcome.err


@pytest.mark.parametrize(
    ("files", "tiers", "message"),
    [
        (None, "", "the folder of annotations .* does not exist"),
        ({}, "", "no annotations under .*: looked for"),
        ({"norht.txt": "0\t1\towl\n"}, "", "no annotations for any recording, such as east.wav, .*has norht.txt"),
        (
            {"north.txt": "0\t1\towl\n"},
            "tiers: [words]",
            "tier 'words' has no label in any file under .*; known: labels",
        ),
        ({"north.txt": "soon\n"}, "tiers: [labels]", "north.txt is not a label file"),
        ({"north.txt": "0\t1\towl\n", "west.txt": "soon\n"}, "", "west.txt is not a label file"),
        ({"north.TextGrid": 'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0'}, "", "it ends early"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused_before_decoding(
    capsys: pytest.CaptureFixture[str], table: Path, files: dict[str, str] | None, tiers: str, message: str
) -> None:
    outcome = annotated(capsys, table, files, tiers)
    assert outcome.code == 1
    assert re.search(message, outcome.err)
    assert not table.with_name("run").joinpath("corpus.parquet").exists()


def test_recordings_with_and_without_annotations_are_counted(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    line = "0\t1\towl\n"
    files = {"North.txt": line, "gone.txt": line, "words.ctm": ";; by ann\neast 1 0.1 0.2 hello\n"}
    outcome = annotated(capsys, table, files, "")
    assert outcome.code == 0, outcome.err
    counted = "2 of 4 recordings annotated: 2 intervals, 2 labels, tiers: labels, words; none for south.wav, west.wav"
    assert counted in outcome.err
    assert "annotations: 1 file without a recording in the corpus: gone.txt" in outcome.err
    (table.parent / "more").mkdir()
    write_audio(table.parent / "more" / "north.wav", tone(440.0), RATE_HZ)
    outcome = annotated(capsys, table, files, "", row="more/north.wav,north")
    assert "such as north, each stand for several recordings (more/north.wav, north.wav); put the files" in outcome.err
    outcome = annotated(capsys, table, {"east.txt": "hello\n", "readme.txt": "by ann\n"}, "")
    assert "annotations: 2 .txt files without times, such as transcripts, not read: east.txt, readme.txt" in outcome.err
    assert counted in outcome.err


def test_words_of_each_channel_are_counted(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    for site in SITES:
        soundfile.write(table.with_name(f"{site}.wav"), np.stack([tone(300.0), tone(400.0)], axis=1), RATE_HZ)
    words = "".join(f"{site} A 0 0.2 hello\n{site} A 0.2 0.1 you\n" for site in SITES)
    outcome = annotated(capsys, table, {"all.ctm": f"{words}north B 0.1 0.2 yes\n"}, "channel: each")
    assert "5 of 8 recordings annotated: 9 intervals, 3 labels, tiers: words; none for east.wav#ch" in outcome.err


def test_words_of_joined_recordings_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for at, name in enumerate(f"{digit}_{speaker}_{take}" for speaker in "abc" for digit in "12" for take in "01"):
        write_audio(tmp_path / "digits" / f"{name}.wav", tone(200.0 + 10 * at), 8000)
    (tmp_path / "c.yaml").write_text("model: starter\ncorpus: {kind: fsdd, root: digits, join: 2}\n")
    outcome = call(capsys, "corpus", tmp_path / "c.yaml", "--out", tmp_path / "run")
    assert "6 of 6 recordings annotated: 12 intervals, 2 labels, tiers: words" in outcome.err


def test_annotation_files_of_recordings_left_out_are_not_without_a_recording(
    capsys: pytest.CaptureFixture[str], table: Path
) -> None:
    files = {f"{site}.txt": "0\t1\towl\n" for site in (*SITES, "gone")}
    outcome = annotated(capsys, table, files, "max_clips: 3")
    assert outcome.code == 0, outcome.err
    assert "3 of 3 recordings annotated: 3 intervals, 1 label, tiers: labels" in outcome.err
    assert "annotations: 1 file without a recording in the corpus: gone.txt" in outcome.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{0}000\t{1}000\towl\n", "in a recording of 2.00312 s; are the times in milliseconds?"),
        ("{0}0000\t{1}0000\towl\n", "in a recording of 2.00312 s; are the times in samples?"),
    ],
)
def test_annotations_in_another_unit_than_seconds_are_refused(
    capsys: pytest.CaptureFixture[str], table: Path, line: str, message: str
) -> None:
    files = {f"{site}.txt": line.format(0, 1) + line.format(1, 2) for site in SITES}
    outcome = annotated(capsys, table, files, "")
    assert outcome.code == 1
    assert "8 of 8 intervals under " in outcome.err
    assert message in outcome.err


def test_too_few_and_late_intervals_are_announced(capsys: pytest.CaptureFixture[str], table: Path) -> None:
    files = {f"{site}.txt": "0\t1\towl\n" * 5 + "1\t2.5\tend\n" for site in SITES}
    outcome = annotated(capsys, table, files, "")
    assert outcome.code == 0, outcome.err
    assert "warning: intervals that end after their recordings: 4 of 24; they are cut or left out" in outcome.err
    assert "explain skips annotated labels" not in outcome.err
    outcome = annotated(capsys, table, {**files, "west.txt": "0\t1\tOwl\n"}, "")
    assert "warning: annotations: values that differ only in case (Owl and owl): they count as two" in outcome.err
    outcome = annotated(capsys, table, dict.fromkeys(files, "0\t1\towl\n"), "")
    assert (
        "warning: explain skips annotated labels: no annotated label has 5 intervals in the test groups" in outcome.err
    )


def annotated(
    capsys: pytest.CaptureFixture[str],
    table: Path,
    files: dict[str, str] | None,
    settings: str,
    row: str = "",
) -> Outcome:
    """Run the corpus stage on the sites with annotations, None without their folder."""
    folder = table.with_name("labels")
    if files is not None:
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    table.write_text("path,site\n" + "\n".join([f"{site}.wav,{site}" for site in SITES] + [row]))
    table.with_name("c.yaml").write_text(
        f"model: starter\ncorpus: {{kind: manifest, table: clips.csv, group: site, annotations: labels, {settings}}}\n"
    )
    return call(capsys, "corpus", table.with_name("c.yaml"), "--out", table.with_name("run"))
