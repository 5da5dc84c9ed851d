import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.activations.format import differences
from otoscope.activations.maintain import collect_garbage, is_merged, merge_stores, store_info, verify_store
from otoscope.activations.segments import Segments
from otoscope.activations.store import ActivationStore
from otoscope.cli.main import main
from otoscope.corpus.audio import write_audio
from otoscope.errors import ArtifactError, DamagedArtifact, StaleArtifact
from tests.activations.test_append import Counting, add
from tests.activations.test_extract import LENGTHS_S, steps, store_of
from tests.support.activations import RATE_HZ, Toy, contents, corpus_of, noise, write_corpus


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "sound", LENGTHS_S)
    return tmp_path / "sound"


def test_info_counts_what_is_there(sound: Path, tmp_path: Path):
    store = store_of(corpus_of(sound), tmp_path / "store", dtype="float16", segments=Segments(every_s=0.5))
    found = store_info(tmp_path / "store")
    assert found["bytes_total"] == sum(len(data) for data in contents(tmp_path / "store").values()) - sum(
        (tmp_path / "store" / name).stat().st_size for name in ("manifest.json", "card.json")
    )
    assert (found["clips"], found["frames"], found["segments"]) == (6, store.frames, store.segments.height)
    assert found["layers"] == {"0": 6, "2": 6}
    assert found["hours"] == pytest.approx(sum(LENGTHS_S) / 3600, abs=1e-4)


def test_verify_names_every_file_that_is_damaged(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    assert verify_store(tmp_path / "store") == []
    flipped, cut, gone = (tmp_path / "store" / f"layer_0{i}/{name}" for i, name in enumerate_files())
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    wrong = verify_store(tmp_path / "store")
    assert len(wrong) == 3
    for path, words in ((flipped, "its SHA-256"), (cut, "bytes, its card says"), (gone, "is missing")):
        assert any(str(path) in line and words in line for line in wrong)


def enumerate_files() -> list[tuple[int, str]]:
    return [
        (0, "frames-00000.safetensors"),
        (2, "pooled-00000.safetensors"),
        (0, "frames-00001.safetensors"),
    ]


def test_gc_removes_what_no_manifest_needs_and_nothing_else(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    for name in ("clip004.wav", "clip005.wav"):  # all of shard 1
        (sound / name).unlink()
    store = store_of(add(sound, ["zzz"]), tmp_path / "store")
    leftover = tmp_path / "store" / "layer_00" / ".frames-00009.safetensors.ab12cd34.part"
    leftover.write_bytes(b"x" * 10)
    before = contents(tmp_path / "store")
    planned = collect_garbage(tmp_path / "store", dry_run=True)
    assert contents(tmp_path / "store") == before
    cleared = collect_garbage(tmp_path / "store")
    assert cleared == planned
    assert {"layer_00/frames-00001.safetensors", "shards/00001.json", "index/00001.parquet"} < set(cleared.files)
    assert cleared.bytes == sum(len(before[name]) for name in cleared.files)
    again = ActivationStore.open(tmp_path / "store", verify=True)
    np.testing.assert_array_equal(again.pooled(2), store.pooled(2))
    encoder = Counting()
    assert store_of(corpus_of(sound), tmp_path / "store", encoder).fingerprint == store.fingerprint
    assert encoder.given == []


def test_gc_leaves_what_a_killed_extraction_goes_on_with(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    corpus = add(sound, [f"new{i}" for i in range(9)])
    with pytest.raises(KeyboardInterrupt):
        steps(corpus, tmp_path / "store", Counting(last=6))
    begun = set(contents(tmp_path / "store"))
    cleared = collect_garbage(tmp_path / "store")
    assert cleared.waiting.startswith("an extraction is unfinished")
    assert begun - set(contents(tmp_path / "store")) == set(cleared.files) == set()


def test_merged_stores_hold_the_clips_of_all(sound: Path, tmp_path: Path):
    write_corpus(tmp_path / "more", [0.3, 0.9])
    for path in list((tmp_path / "more").iterdir()):
        path.rename(path.with_name(f"more_{path.name}"))
    (tmp_path / "more" / "clip000.wav").write_bytes((sound / "clip000.wav").read_bytes())
    options = {"segments": Segments(every_s=0.5)}
    one = store_of(corpus_of(sound), tmp_path / "one", **options)
    two = store_of(corpus_of(tmp_path / "more"), tmp_path / "two", **options)
    both = merge_stores(tmp_path / "both", [tmp_path / "one", tmp_path / "two"])
    assert both.clip_ids == sorted({*one.clip_ids, *two.clip_ids})
    both.verify()
    for store in (two, one):
        for clip_id in store.clip_ids if store is one else store.clip_ids[1:]:
            np.testing.assert_array_equal(both.frames_of(2, clip_id), store.frames_of(2, clip_id))
            assert both.times_of(clip_id).end_s.tolist() == store.times_of(clip_id).end_s.tolist()
    assert both.index.height == both.frames
    rows = two.segments.filter(clip_id="more_clip001.wav").height
    assert len(both.pooled_segments(0, ["more_clip001.wav"])) == rows


def test_a_merged_store_goes_on_growing(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "one")
    merge_stores(tmp_path / "both", [tmp_path / "one"])
    encoder = Counting()
    store = store_of(add(sound, ["zzz"]), tmp_path / "both", encoder)
    assert len(encoder.given) == 1
    assert len(store.clip_ids) == len(LENGTHS_S) + 1


def test_what_cannot_be_merged_is_refused(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "one")
    steps(corpus_of(sound), tmp_path / "half", dtype="float16")
    with pytest.raises(
        StaleArtifact, match=r"half cannot be merged with .*one: dtype is float32 in .*one, float16 in .*half"
    ):
        merge_stores(tmp_path / "both", [tmp_path / "one", tmp_path / "half"])
    with pytest.raises(ArtifactError, match="one holds activations already"):
        merge_stores(tmp_path / "one", [tmp_path / "half"])
    write_audio(sound / "clip000.wav", noise(50, 0.5), RATE_HZ)
    steps(corpus_of(sound), tmp_path / "other")
    with pytest.raises(ArtifactError, match=r"'clip000.wav' has other sound in .*other than in an earlier store"):
        merge_stores(tmp_path / "both", [tmp_path / "one", tmp_path / "other"])
    assert not (tmp_path / "both" / "manifest.json").exists()


def test_a_clip_that_left_is_not_counted_and_cannot_go_alone(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    steps(corpus_of(sound), tmp_path / "store", segments=Segments(every_s=0.5))
    before = store_info(tmp_path / "store")
    (sound / "clip002.wav").unlink()
    store = store_of(corpus_of(sound), tmp_path / "store", segments=Segments(every_s=0.5))
    after = store_info(tmp_path / "store")
    assert (after["frames"], after["segments"]) == (store.frames, store.segments.height)
    assert after["segments"] < before["segments"]
    assert collect_garbage(tmp_path / "store").sharing == 1
    for command, words in (("info", "1 clip is stored but no longer listed"), ("gc", "1 clip no longer listed cannot")):
        with pytest.raises(SystemExit):
            main(["store", command, str(tmp_path / "store")])
        assert words in capsys.readouterr().out


def test_precisions_that_differ_are_named_with_their_stores():
    told = differences({"encoder": {"precision": "fast"}}, {"encoder": {"precision": "exact"}}, stores=("a", "b"))
    assert told == ["encoder.precision is fast in a, exact in b"]


def flip(path: Path, at: int = -4) -> None:
    """Damage four bytes of a file; its size stays."""
    data = bytearray(path.read_bytes())
    for i in range(at, at + 4):
        data[i] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    ["layer_02/frames-00001.safetensors", "index/00000.parquet", "shards/00000.json", "clips.parquet"],
)
def test_damage_that_keeps_the_size_is_marked_and_then_mended(sound: Path, tmp_path: Path, name: str):
    store, first = tmp_path / "store", Counting()
    steps(corpus_of(sound), store, first)
    before = contents(store)
    flip(store / name)
    assert len(verify_store(store)) == 1
    collect_garbage(store)
    encoder = Counting()
    steps(corpus_of(sound), store, encoder)
    assert len(encoder.given) < len(first.given), "only the clips of the damaged shard are encoded"
    assert without_repairs(store) == before
    assert verify_store(store) == []


def without_repairs(store: Path) -> dict[str, bytes]:
    """Return the files of a store without the count of its repairs."""
    return {path: data for path, data in contents(store).items() if path != "repaired.json"}


def test_a_kept_shard_that_was_marked_is_made_anew(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    before = store_of(add(sound, ["zzz"]), tmp_path / "store")
    frames = before.frames_of(0, "clip000.wav").copy()
    flip(tmp_path / "store" / "layer_00" / "frames-00000.safetensors")
    verify_store(tmp_path / "store")
    store = store_of(corpus_of(sound), tmp_path / "store")
    assert verify_store(tmp_path / "store") == []
    assert store.clip_ids == before.clip_ids
    np.testing.assert_allclose(store.frames_of(0, "clip000.wav"), frames, atol=2e-6)


def test_mending_that_was_killed_goes_on(sound: Path, tmp_path: Path):
    store = tmp_path / "store"
    steps(corpus_of(sound), store)
    before = contents(store)
    for shard in (0, 1):
        flip(store / "layer_00" / f"frames-{shard:05d}.safetensors")
    assert len(verify_store(store)) == 2
    with pytest.raises(KeyboardInterrupt):
        steps(corpus_of(sound), store, Counting(last=4))
    steps(corpus_of(sound), store)
    assert without_repairs(store) == before


def test_content_id_follows_the_checksums_of_a_layer(sound: Path, tmp_path: Path):
    store = tmp_path / "store"
    before = store_of(corpus_of(sound), store)
    first = before.content_id(2)
    flip(store / "layer_02" / "frames-00000.safetensors")
    verify_store(store)
    repaired = store_of(corpus_of(sound), store)
    repaired_id = repaired.content_id(2)
    assert repaired.content_id(0) == before.content_id(0)
    assert repaired.content_id(2) != first, "results computed from damaged bytes become stale"
    flip(store / "layer_02" / "frames-00000.safetensors")
    verify_store(store)
    again = store_of(corpus_of(sound), store)
    assert len({first, repaired_id, again.content_id(2)}) == 3
    other = store_of(corpus_of(sound), tmp_path / "other", Toy(revision="2", width=6), layers=[0, 1])
    assert other.content_id(0) == before.content_id(0), "same bytes"
    assert len({before.content_id(), before.content_id(0), first, other.content_id()}) == 4
    assert store_of(add(sound, ["zzz"]), store).content_id(0) != before.content_id(0)


def test_a_mark_goes_when_the_store_is_whole_again(sound: Path, tmp_path: Path):
    store = tmp_path / "store"
    steps(corpus_of(sound), store)
    before = contents(store)
    path = store / "layer_00" / "frames-00000.safetensors"
    flip(path)
    verify_store(store)
    assert set(contents(store)) - set(before) == {"damaged.json"}
    flip(path)  # as it was, from a copy say
    assert verify_store(store) == []
    assert without_repairs(store) == before
    assert json.loads((store / "repaired.json").read_text()) == {"layer_00/frames-00000.safetensors": 1}


@pytest.mark.parametrize(
    "name", ["layer_02/frames-00001.safetensors", "index/00000.parquet", "shards/00000.json", "clips.parquet"]
)
def test_damage_is_never_merged(sound: Path, tmp_path: Path, name: str):
    steps(corpus_of(sound), tmp_path / "one")
    flip(tmp_path / "one" / name)
    with pytest.raises(DamagedArtifact, match=rf"one/{name} is damaged: .*otoscope store verify"):
        merge_stores(tmp_path / "both", [tmp_path / "one"])
    assert not (tmp_path / "both" / "manifest.json").exists()
    verify_store(tmp_path / "one")
    steps(corpus_of(sound), tmp_path / "one")
    assert merge_stores(tmp_path / "both", [tmp_path / "one"]).clip_ids == [f"clip{i:03d}.wav" for i in range(6)]
    assert verify_store(tmp_path / "both") == []


def test_the_commands_say_what_they_did(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = tmp_path / "run" / "activations"
    steps(corpus_of(sound), store, Toy())
    for command in (["info"], ["verify"], ["gc", "--dry-run"]):
        with pytest.raises(SystemExit) as ended:
            main(["store", command[0], str(tmp_path / "run"), *command[1:], "--json"])
        assert ended.value.code == 0
        assert isinstance(json.loads(capsys.readouterr().out), dict)
    with pytest.raises(SystemExit):
        main(["store", "info", str(store)])
    assert "6 clips, 0.00 h of sound, 0 set aside" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["store", "merge", str(tmp_path / "both"), str(store)])
    assert "6 clips of 1 store\n" in capsys.readouterr().out
    pl.read_parquet(store / "clips.parquet").write_parquet(store / "clips.parquet")  # other bytes, same table
    with pytest.raises(SystemExit) as ended:
        main(["store", "verify", str(tmp_path / "run")])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "clips.parquet" in told
    assert "marked; the next `otoscope extract`" in told


@pytest.mark.parametrize("command", ["info", "verify", "gc", "gc --compact"])
def test_where_no_store_lies_is_told_and_nothing_is_left_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    told = {
        "none": "does not exist; give the folder of a run or of a store",
        "file": "is a file; give the folder of a run or of a store",
        "empty": "holds no activations",
    }
    for name, words in told.items():
        verb, *options = command.split()
        with pytest.raises(SystemExit) as ended:
            main(["store", verb, str(tmp_path / name), *options])
        assert ended.value.code == 1
        assert f"{tmp_path / name} {words}" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert not list((tmp_path / "empty").iterdir())


def test_a_damaged_merged_store_is_to_be_merged_again(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps(corpus_of(sound), tmp_path / "one")
    merge_stores(tmp_path / "both", [tmp_path / "one"])
    assert is_merged(tmp_path / "both")
    assert not is_merged(tmp_path / "one")
    for place, remedy in (("both", "merge again, into a new folder"), ("one", "the next `otoscope extract`")):
        store = ActivationStore.open(tmp_path / place)
        flip(tmp_path / place / next(name for name in store.files if name.startswith("layer_")))
        with pytest.raises(SystemExit) as ended:
            main(["store", "verify", str(tmp_path / place)])
        assert ended.value.code == 1
        assert remedy in capsys.readouterr().err
