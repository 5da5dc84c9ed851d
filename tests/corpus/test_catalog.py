"""From settings to a corpus: every kind alike, every fault of the settings told at once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.corpus.audio import load_clip
from otoscope.corpus.catalog import CORPORA, build_corpus, corpus_from_dict
from otoscope.corpus.splits import Splits
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.errors import AudioError, ConfigError, CorpusError, SplitError

SINGERS = ("female1", "female2", "male1", "male3")


def small(kind: str, record: Callable[..., Path], root: Path) -> dict[str, object]:
    """Write a small corpus of a kind and return its settings."""
    match kind:
        case "fsdd":
            for singer in SINGERS:
                record(f"3_{singer}_0.wav")
        case "vocalset":
            for singer in SINGERS:
                record(f"{singer}/scales/belt/{singer[0]}{singer[-1]}_scales_belt_a.wav")
        case "manifest":
            for singer in SINGERS:
                record(f"{singer}.wav")
            (root / "clips.csv").write_text("path,group\n" + "".join(f"{s}.wav,{s}\n" for s in SINGERS))
            return {"kind": kind, "table": root / "clips.csv"}
        case _:
            for singer in SINGERS:
                record(f"belt/{singer}.wav")
    return {"kind": kind, "root": root}


@pytest.mark.parametrize("kind", sorted(CORPORA.keys() - {"synth"}))
def test_every_kind_builds_saves_and_decodes(kind, record, tmp_path):
    spec = corpus_from_dict(small(kind, record, tmp_path))
    assert spec.kind == kind
    corpus = build_corpus(spec, Splits(), cache=tmp_path / "cache")
    assert corpus.clips.columns[: len(COLUMNS)] == list(COLUMNS)
    assert [corpus.clips.schema[name] for name in COLUMNS] == list(COLUMNS.values())
    assert all(corpus.clips.schema[f"label_{name}"] == pl.String for name in corpus.labels)
    assert corpus.clips["clip_id"].is_sorted()
    assert set(corpus.clips["split"]) == {"train", "valid", "test"}
    assert corpus.root.is_absolute()
    assert not (tmp_path / "cache").exists()
    corpus.save(tmp_path / "run" / "corpus.parquet")
    assert Corpus.load(tmp_path / "run" / "corpus.parquet").fingerprint == corpus.fingerprint
    for clip in corpus.clips.iter_rows(named=True):
        wave = load_clip(corpus.root, clip, rate_hz=8000)
        assert len(wave) == round(clip["duration_s"] * 8000)


def test_the_same_recordings_give_the_same_corpus_wherever_they_lie(record, tmp_path):
    prints = []
    for place in ("here", "there"):
        for i in range(5):
            record(f"{place}/corpus/belt/{i}.wav", np.sin(np.arange(800) * (i + 1) / 9))
        spec = corpus_from_dict({"kind": "folder", "root": tmp_path / place / "corpus"})
        prints.append(build_corpus(spec, Splits(), cache=tmp_path).fingerprint)
    assert prints[0] == prints[1]


def test_every_bad_file_of_the_list_is_one_row_of_set_aside(record, tone, tmp_path):
    for i in range(40):
        record(f"good/{i:02}.wav")
    record("bad/eight.wav", np.stack([tone()] * 8, axis=1))
    record("bad/high.wav", tone(rate_hz=192_000), rate_hz=192_000)
    (tmp_path / "bad/corrupt.wav").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "bad/empty.wav").touch()
    cut = record("bad/truncated.wav")
    cut.write_bytes(cut.read_bytes()[:1000])
    record("bad/silent.wav", np.zeros(4000))
    record("bad/three.wav", np.full(3, 0.5))
    record("bad/nan.wav", np.full(4000, np.nan), subtype="FLOAT")
    corpus = build_corpus(corpus_from_dict({"kind": "folder", "root": tmp_path}), Splits(), cache=tmp_path)
    reasons = {path: reason.split(":")[0].split(" (")[0] for path, reason in corpus.set_aside.iter_rows()}
    assert reasons == {
        "bad/corrupt.wav": "cannot be decoded as audio",
        "bad/empty.wav": "empty file",
        "bad/nan.wav": "holds NaN or infinity in 4000 of 4000 samples",
        "bad/silent.wav": "silent",
        "bad/three.wav": "too short",
        "bad/truncated.wav": "truncated",
    }
    assert corpus.clips.filter(pl.col("path").str.starts_with("bad"))["clip_id"].to_list() == [
        "bad/eight.wav",
        "bad/high.wav",
    ]
    with pytest.raises(AudioError, match=r"bad/corrupt\.wav"):
        build_corpus(corpus_from_dict({"kind": "folder", "root": tmp_path}), Splits(), cache=tmp_path, fail_fast=True)
    with pytest.raises(CorpusError, match=r"6 of 48 clips .*\(allowed: 5%\)"):
        build_corpus(
            corpus_from_dict({"kind": "folder", "root": tmp_path}), Splits(), cache=tmp_path, max_set_aside=0.05
        )


def test_a_corpus_without_a_test_group_says_so(record, tmp_path):
    for singer in ("a", "b", "c"):
        record(f"{singer}.wav")
    (tmp_path / "clips.csv").write_text("path,split\na.wav,train\nb.wav,train\nc.wav,valid\n")
    spec = corpus_from_dict({"kind": "manifest", "table": tmp_path / "clips.csv"})
    with pytest.raises(SplitError, match=r"no group is left for test.*Name test_groups"):
        build_corpus(spec, Splits(), cache=tmp_path)


def test_segments_listed_twice_are_refused(record, tmp_path):
    for singer in ("a", "b", "c"):
        record(f"{singer}.wav")
    (tmp_path / "clips.csv").write_text("path\na.wav\nb.wav\nc.wav\na.wav\n")
    with pytest.raises(CorpusError, match=r"a\.wav. is listed 2 times as the same segment"):
        build_corpus(corpus_from_dict({"kind": "manifest", "table": tmp_path / "clips.csv"}), Splits(), cache=tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, r"corpus\.kind is missing; known: folder, fsdd, manifest, synth, vocalset"),
        ({"kind": "foldr", "root": "x"}, "no corpus kind 'foldr'; did you mean folder"),
        ({"kind": 3}, "no corpus kind 3"),
        (
            {"kind": "fsdd", "root": "x", "tiers": ["words"]},
            "corpus: tiers chooses among annotations; set annotations to their folder",
        ),
        ({"kind": "fsdd"}, r"corpus\.root is missing \(folder of the recordings\)"),
        ({"kind": "fsdd", "root": "x", "take": 5}, r"unknown key corpus\.take; did you mean takes"),
        ({"kind": "fsdd", "root": "x", "takes": 0}, r"corpus\.takes: .*greater than or equal to 1; got 0"),
        (
            {"kind": "folder", "root": "x", "group_pattern": "a"},
            r"corpus\.group_pattern: needs a named group.*; got 'a'",
        ),
        (
            {"kind": "folder", "rot": "x", "grop_from": "top"},
            r"corpus\.rot.*corpus\.grop_from.*corpus\.root is missing",
        ),
        (
            {"kind": "folder", "root": "x", "group_pattern": "(?P<group>a)", "group_from": "top"},
            "corpus: give group_pattern or group_from, not both$",
        ),
    ],
)
def test_faults_of_the_settings_are_told_with_the_nearest_name(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        corpus_from_dict(settings)
