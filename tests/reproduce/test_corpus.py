"""Which files the study hears, on which side, and which seconds of each."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.datasets.vocalset import TEST_SINGERS
from otoscope.corpus.synth.dataset import SynthCorpus
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.errors import SplitError
from otoscope.reproduce.mariotte2025.corpus import assign_sides, cut_takes, list_vocalset, read_vocalset
from tests.support.vocalset_tree import write_vocalset_tree

SUNG = SynthCorpus(singers=6, takes=2, duration_s=0.4, techniques=("vibrato", "straight"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocalset")
    written = write_vocalset_tree(folder, SUNG)
    # every singer's first vibrato is misspelt as some published names are
    for path in {p.parts[-4]: p for p in reversed(written) if "vibrato" in p.name}.values():
        path.rename(path.with_name(path.name.replace("vibrato", "vibrado")))
    return folder


def made_corpus(durations: dict[str, float]) -> Corpus:
    """Files `SINGER/NAME` of given lengths; singers t* are test."""
    rows = [
        {"clip_id": p, "path": p, "start_s": 0.0, "duration_s": s, "rate_hz": 16000, "group": p.split("/")[0]}
        | {"split": "test" if p.startswith("t") else "train", "digest": p, "label_technique": "belt"}
        for p, s in durations.items()
    ]
    schema = {**COLUMNS, "label_technique": pl.String()}
    return Corpus("made", Path(), pl.DataFrame(rows, schema=schema), pl.DataFrame({"path": [], "reason": []}))


LONG = {f"s{i % 4}/{i:02d}.wav": 12.0 for i in range(20)} | {"t0/a.wav": 12.0, "t0/b.wav": 3.0}


def test_vocalset_drops_or_fixes_misspelt_vibrato(tree: Path, tmp_path: Path) -> None:
    dropped, fixed = (
        read_vocalset(tree, ReproductionSettings(vibrado=v), cache=tmp_path).clips for v in ("drop", "fix")
    )
    assert fixed.height == 24
    assert dropped.height == 24 - 6
    lost = fixed.join(dropped, on="path", how="anti")
    assert lost["path"].str.contains("vibrado").all()
    assert set(lost["label_technique"]) == {"vibrato"}


def test_vocalset_uses_the_published_test_singers(tree: Path, tmp_path: Path) -> None:
    clips = read_vocalset(tree, ReproductionSettings(), cache=tmp_path).clips
    assert set(clips.filter(pl.col("split") == "test")["group"]) == set(TEST_SINGERS) & set(clips["group"])
    assert set(clips["split"]) == {"train", "test"}


def test_list_vocalset_agrees_with_read_vocalset(tree: Path, tmp_path: Path) -> None:
    columns = ["path", "duration_s", "rate_hz", "group", "split", "label_technique"]
    seen, read = (
        list_vocalset(tree, ReproductionSettings()).clips,
        read_vocalset(tree, ReproductionSettings(), cache=tmp_path).clips,
    )
    assert seen.select(columns).sort("path").equals(read.select(columns).sort("path"))


def test_assign_sides_validates_on_a_fifth_of_the_files() -> None:
    side = assign_sides(made_corpus(LONG), ReproductionSettings())
    valid = [path for path, found in side.items() if found == "valid"]
    assert len(valid) == 4
    shared = {p.split("/")[0] for p in valid} & {p.split("/")[0] for p, found in side.items() if found == "train"}
    assert shared, "singers are on both sides"
    assert assign_sides(made_corpus(LONG), ReproductionSettings(seed=1)) != side


def test_assign_sides_can_validate_on_whole_singers() -> None:
    side = assign_sides(made_corpus(LONG), ReproductionSettings(valid_split="singers"))
    by_singer = {s: {found for path, found in side.items() if path.startswith(s)} for s in ("s0", "s1", "s2", "s3")}
    assert sorted(map(len, by_singer.values())) == [1, 1, 1, 1]
    assert sum(found == {"valid"} for found in by_singer.values()) == 1


def test_assign_sides_ignores_the_order_of_files() -> None:
    backwards = dict(reversed(LONG.items()))
    assert assign_sides(made_corpus(LONG), ReproductionSettings()) == assign_sides(
        made_corpus(backwards), ReproductionSettings()
    )
    columns = ["take", "clip_id"]
    one, two = (
        cut_takes(made_corpus(d), ReproductionSettings()).select(columns).sort(columns) for d in (LONG, backwards)
    )
    assert one.equals(two)


def test_cut_takes_crops_training_files_at_random() -> None:
    heard = cut_takes(made_corpus({**LONG, "s0/short.wav": 2.0, "s1/just.wav": 5.0}), ReproductionSettings(crops=6))
    train = heard.filter((pl.col("take") == "train") & (pl.col("file_s") == 12.0))
    assert (train["duration_s"] == 5.0).all()
    assert train["start_s"].min() >= 0
    assert train["start_s"].max() <= 7.0
    assert set(train.group_by("path").len()["len"]) == {6}
    assert train["start_s"].n_unique() > 60
    check = heard.filter(pl.col("take").is_in(["valid", "test"]))
    assert (check["start_s"] == 0).all()
    whole = heard.filter(pl.col("take") == "whole").sort("path")
    assert whole.select("clip_id", "duration_s").rows() == [("t0/a.wav", 12.0), ("t0/b.wav", 3.0)]


@pytest.mark.parametrize("seconds", [2.0, 5.0])
def test_cut_takes_gives_short_files_one_crop(seconds: float) -> None:
    heard = cut_takes(made_corpus({**LONG, "s0/z.wav": seconds}), ReproductionSettings(crops=6, valid_split="singers"))
    mine = heard.filter(pl.col("path") == "s0/z.wav")
    assert mine.select("start_s", "duration_s").rows() == [(0.0, seconds)]


def test_assign_sides_refuses_a_single_training_singer() -> None:
    with pytest.raises(SplitError, match="2 training files of 1 groups cannot be split"):
        assign_sides(
            made_corpus({"s0/a.wav": 6.0, "s0/b.wav": 6.0, "t0/c.wav": 6.0}),
            ReproductionSettings(valid_split="singers"),
        )
