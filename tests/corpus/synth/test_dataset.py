"""A sung corpus on disk: settings, listing, resume, and VocalSet's tree."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from otoscope.artifacts import digest
from otoscope.corpus.audio import decode
from otoscope.corpus.datasets.vocalset import VocalSetCorpus
from otoscope.corpus.synth import SynthCorpus
from otoscope.factors.annotation_folder import AnnotationFolder
from otoscope.factors.annotations import count_overlaps
from tests.support.vocalset_tree import misspelt, write_vocalset_tree

SMALL = SynthCorpus(singers=2, takes=2, duration_s=0.4, techniques=("belt", "spoken", "vibrato"))


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.suffix in (".wav", ".TextGrid")]
    return {path.relative_to(root).as_posix(): digest(path) for path in sorted(files)}


def test_settings_survive_json_and_name_their_sound() -> None:
    again = SynthCorpus.model_validate_json(SMALL.model_dump_json())
    assert again == SMALL
    assert again.fingerprint == SMALL.fingerprint
    assert SMALL.model_copy(update={"seed": 1}).fingerprint != SMALL.fingerprint


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tecniques": ("belt",)}, "Extra inputs are not permitted"),
        ({"techniques": ("belting",)}, "did you mean belt"),
        ({"vowels": ()}, "name at least one"),
        ({"patterns": ("scales", "scales")}, "none twice"),
        ({"singers": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SynthCorpus.model_validate(settings)


def test_a_listing_holds_every_clip_with_labels_factors_and_sound(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    listing = SMALL.listing(tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    clips = listing.clips
    assert clips.height == 2 * 3 * 2
    assert seen[-1] == (12, 12)
    assert clips["path"].n_unique() == clips.height
    assert clips["path"].is_sorted()
    assert set(clips["group"]) == {"female1", "male1"}
    assert clips["split"].null_count() == clips.height
    assert {"label_technique", "label_vowel", "label_context", "label_gender"} <= set(clips.columns)
    factors = clips.select(pl.col("^factor_.*$"))
    assert factors.width > 20
    assert all(dtype == pl.Float64 for dtype in factors.dtypes)
    assert factors.null_count().sum_horizontal().item() == 0
    for path in clips["path"]:
        sound = decode(listing.root / path)
        assert sound.rate_hz == 16_000
        assert len(sound.wave) == 6400


def test_the_truth_table_holds_pitch_and_loudness_of_every_frame(tmp_path: Path) -> None:
    listing = SMALL.listing(tmp_path)
    truth = pl.read_parquet(listing.root / "truth.parquet")
    assert truth.columns == ["path", "time_s", "f0_hz", "loudness_db"]
    assert truth.height == listing.clips.height * 40
    mean = truth.filter(pl.col("f0_hz") > 0).group_by("path").agg(pl.col("f0_hz").mean())
    joined = listing.clips.join(mean, on="path", how="inner")
    assert joined.height == listing.clips.height
    assert (joined["f0_hz"] - joined["factor_f0_mean_hz"]).abs().max() < 1e-6


def test_threads_and_interruptions_do_not_change_a_byte(tmp_path: Path) -> None:
    whole = SMALL.listing(tmp_path / "a", threads=1)
    broken = SMALL.listing(tmp_path / "b", threads=3)
    # cut off before the card was written, one file missing
    (broken.root / "synth.json").unlink()
    (broken.root / broken.clips["path"][3]).unlink()
    resumed = SMALL.listing(tmp_path / "b")
    assert digests(resumed.root) == digests(whole.root)
    assert resumed.clips.equals(whole.clips)
    for name in ("truth.parquet", "clips.parquet", "synth.json"):
        assert (resumed.root / name).read_bytes() == (whole.root / name).read_bytes()


def test_a_whole_corpus_is_not_sung_again_and_a_lost_file_is(tmp_path: Path) -> None:
    first = SMALL.listing(tmp_path)
    before = digests(first.root)
    (first.root / first.clips["path"][0]).unlink()
    (first.root / first.clips["path"][2]).with_suffix(".TextGrid").unlink()
    sung: list[int] = []
    SMALL.listing(tmp_path, on_progress=lambda done, _total: sung.append(done))
    assert sung == [1, 2]
    assert digests(first.root) == before
    SMALL.listing(tmp_path, on_progress=lambda done, _total: sung.append(done))
    assert sung == [1, 2]


def test_a_listing_writes_what_is_sung_when_beside_each_clip(tmp_path: Path) -> None:
    spec = SynthCorpus(singers=2, takes=2, techniques=("spoken", "vibrato"), patterns=("arpeggios", "scales"))
    listing = spec.listing(tmp_path)
    folder = AnnotationFolder(spec.annotation_folder(tmp_path))
    for path, vowel, technique in listing.clips.select("path", "label_vowel", "label_technique").iter_rows():
        intervals = folder.of(path, rate_hz=16_000)
        vowels = [one.label for one in intervals if one.tier == "vowel"]
        assert vowel in vowels
        assert count_overlaps(intervals) == 0
        if technique == "spoken":
            assert len(vowels) > 5
            assert {one.tier for one in intervals} == {"vowel", "onset"}
        else:
            assert {one.tier for one in intervals} == {"vowel", "onset", "note", "vibrato"}
    given = spec.model_copy(update={"annotations": tmp_path})
    assert given.annotation_folder(tmp_path / "cache") == tmp_path
    assert SynthCorpus(tiers=("vibrato",)).tiers == ("vibrato",)


def test_takes_walk_through_vowels_and_patterns_without_repeating() -> None:
    for vowels, patterns in ((5, 3), (4, 2), (3, 3), (2, 2)):
        spec = SynthCorpus(
            singers=1,
            takes=vowels * patterns,
            techniques=("belt",),
            vowels=tuple("aeiou"[:vowels]),
            patterns=("arpeggios", "long_tones", "scales")[:patterns],
        )
        assert len({(task.vowel, task.pattern) for task in spec.tasks()}) == vowels * patterns


@pytest.mark.parametrize("layout", ["by_singer", "train_test"])
@pytest.mark.parametrize("irregular", [False, True])
def test_the_vocalset_loader_reads_the_tree(tmp_path: Path, layout: str, irregular: bool) -> None:
    spec = SynthCorpus(singers=4, takes=2, duration_s=0.3)
    written = write_vocalset_tree(tmp_path, spec, layout=layout, irregular=irregular)
    listing = VocalSetCorpus(root=tmp_path).listing(tmp_path / "cache")
    assert listing.set_aside.is_empty()
    assert listing.clips.height == len(written) == 4 * 10 * 2
    counts = dict(listing.clips["label_technique"].value_counts().iter_rows())
    assert set(counts.values()) == {8}
    assert set(listing.clips.filter(pl.col("split") == "test")["group"]) == {"female2"}
    names = {p.name for p in written}
    assert (any(misspelt(n) != n for n in {Path(t.path).name for t in spec.tasks()} - names)) == irregular
    if layout == "by_singer" and not irregular:
        assert all(p.parts[-5] == "FULL" for p in written)
