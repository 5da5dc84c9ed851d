"""The corpus as a table: its summary for readers."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.corpus import Corpus
from otoscope.corpus.listing import SET_ASIDE_COLUMNS
from otoscope.errors import DamagedArtifact


def corpus(root: Path) -> Corpus:
    clips = pl.DataFrame(
        {
            "clip_id": ["a.wav", "b.wav", "c.wav", "d.wav"],
            "path": ["a.wav", "b.wav", "c.wav", "d.wav"],
            "start_s": 0.0,
            "duration_s": 900.0,
            "rate_hz": 16000,
            "group": ["ann", "ann", "bob", "cy"],
            "split": ["train", "train", "valid", "test"],
            "digest": "0",
            "label_digit": ["1", "2", "1", None],
            "factor_f0_hz": 200.0,
        }
    )
    unusable = pl.DataFrame([("e.wav", "silent")], schema=SET_ASIDE_COLUMNS, orient="row")
    return Corpus("digits<1>", root, clips, unusable, group_noun="speaker")


def test_corpus_repr_summarises_splits_labels_factors_and_set_aside(tmp_path: Path):
    expected = [
        "Corpus('digits<1>', 4 clips, 1.00 h",
        "  train: 2 clips, 1 speaker",
        "  valid: 1 clip, 1 speaker",
        "  test: 1 clip, 1 speaker",
        "  labels: digit (2 classes)",
        "  speakers per digit (train/valid/test): 1: 1/1/0, 2: 1/0/0",
        "  factors: 1 (f0_hz)",
        "  set aside: 1 clip)",
    ]
    assert repr(corpus(tmp_path)).splitlines() == expected


def test_corpus_repr_html_escapes_names(tmp_path: Path):
    text = corpus(tmp_path)._repr_html_()
    assert text.startswith("<b>digits&lt;1&gt;</b>: 4 clips, 1.00 h<br>train: 2 clips")


def test_corpus_load_restores_the_group_noun(tmp_path: Path):
    corpus(tmp_path).save(tmp_path / "corpus.parquet")
    assert Corpus.load(tmp_path / "corpus.parquet").group_noun == "speaker"


@pytest.mark.parametrize("path", ["../../secret.wav", "/etc/passwd", "a/../../b.wav", "", "a\0.wav"])
def test_corpus_load_refuses_paths_that_leave_the_root(tmp_path: Path, path: str):
    saved = corpus(tmp_path)
    saved.save(tmp_path / "corpus.parquet")
    first = pl.int_range(pl.len()) == 0
    changed = pl.read_parquet(tmp_path / "corpus.parquet").with_columns(
        pl.when(first).then(pl.lit(path)).otherwise("path").alias("path")
    )
    changed.write_parquet(tmp_path / "corpus.parquet")
    with pytest.raises(DamagedArtifact, match="is not inside this folder"):
        Corpus.load(tmp_path / "corpus.parquet")


def test_corpus_load_refuses_a_table_or_card_of_another_shape(tmp_path: Path):
    corpus(tmp_path).save(tmp_path / "corpus.parquet")
    card = (tmp_path / "corpus.json").read_text()
    for damage in ("[]", "null", '{"name": 1}'):
        (tmp_path / "corpus.json").write_text(damage)
        with pytest.raises(DamagedArtifact, match=r"corpus\.json is damaged"):
            Corpus.load(tmp_path / "corpus.parquet")
    (tmp_path / "corpus.json").write_text(card)
    pl.read_parquet(tmp_path / "corpus.parquet").cast({"start_s": pl.String}).write_parquet(tmp_path / "corpus.parquet")
    with pytest.raises(DamagedArtifact, match=r"corpus\.parquet is damaged: it is no table of clip_id"):
        Corpus.load(tmp_path / "corpus.parquet")
