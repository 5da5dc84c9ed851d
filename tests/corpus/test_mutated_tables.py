"""Damaged tables: used, or refused with one of our errors; never a traceback."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.activations.segments import Segments
from otoscope.corpus.catalog import list_clips
from otoscope.corpus.datasets.manifest import ManifestCorpus
from otoscope.corpus.listing import LISTING_COLUMNS
from otoscope.corpus.table import Corpus
from otoscope.errors import OtoscopeError
from otoscope.factors.table import read_user_table
from tests.support.fuzzing import limits, wanted_mutations
from tests.support.mutated_text import mutated_texts

MANIFEST = """path,start_s,end_s,group,split,label_take,singer_age,technique,factor_f0_hz
a.wav,0.5,1.25,ann,train,01,31,belt,220.5
b.wav,,,bob,val,02,44,"breathy, soft",
sub/ç.wav,1,2.0,cy, Test ,NA,28,belt,110
d.wav,0.25,1.5,ann,train,03,31,,1e2
"""


def check_listing(folder: Path, table: Path) -> bool:
    try:
        with limits():
            clips = list_clips(ManifestCorpus(table=table, root=folder), folder).clips
    except OtoscopeError:
        return False
    assert clips.columns[: len(LISTING_COLUMNS)] == list(LISTING_COLUMNS)
    assert not clips["group"].null_count()
    assert all((folder / path).resolve().is_relative_to(folder.resolve()) for path in clips["path"])
    return True


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("separator", [",", ";"])
def test_a_mutated_manifest_is_listed_or_refused(tmp_path: Path, seed: int, separator: str) -> None:
    path = tmp_path / "clips.csv"
    used = 0
    for data in mutated_texts(MANIFEST.replace(",", separator), times=wanted_mutations(800) // 8, seed=seed):
        path.write_bytes(data)
        used += check_listing(tmp_path, path)
    assert used > 5


def test_a_mutated_parquet_manifest_is_listed_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    pl.read_csv(MANIFEST.encode(), infer_schema=False).write_parquet(path)
    text = path.read_bytes().decode("latin-1")
    for data in mutated_texts(text, times=wanted_mutations(100)):
        path.write_bytes(data.decode("utf-8", "replace").encode("latin-1", "replace"))
        check_listing(tmp_path, path)


def test_a_mutated_factor_or_segment_table_is_read_or_refused(tmp_path: Path) -> None:
    clips = pl.DataFrame(
        {
            "clip_id": ["a.wav", "b.wav", "ç.wav"],
            "path": ["a.wav", "b.wav", "ç.wav"],
            "start_s": 0.0,
            "duration_s": 1.0,
            "rate_hz": 16_000,
            "group": ["a", "b", "c"],
            "split": ["train", "valid", "test"],
            "digest": ["1", "2", "3"],
        }
    )
    corpus = Corpus("toy", tmp_path, clips, pl.DataFrame(schema={"path": pl.String, "reason": pl.String}))
    path = tmp_path / "own.csv"
    tables = {
        "clip_id,age,note\na.wav,1.5,x\nb.wav,2,\nç.wav,-3e2,y\n": lambda: read_user_table(path, corpus),
        "clip_id,start_s,end_s,word\na.wav,0,0.5,x\nç.wav,0.25,1,y\n": lambda: Segments.read(path),
    }
    for text, read in tables.items():
        used = 0
        for data in mutated_texts(text, times=wanted_mutations(150)):
            path.write_bytes(data)
            try:
                with limits():
                    read()
                used += 1
            except OtoscopeError:
                pass
        assert used > 10
