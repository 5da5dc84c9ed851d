from pathlib import Path

import numpy as np
import pytest

from otoscope.activations.format import Sharding
from otoscope.activations.maintain import collect_garbage, compact_store, merge_stores, store_info, verify_store
from otoscope.activations.segments import Segments
from otoscope.activations.store import ActivationStore
from otoscope.cli.main import main
from otoscope.corpus.audio import write_audio
from otoscope.errors import ArtifactError
from tests.activations.test_append import Counting
from tests.activations.test_extract import steps, store_of
from tests.support.activations import RATE_HZ, Toy, corpus_of, noise, write_corpus

SETTINGS = {"segments": Segments(every_s=0.25), "sharding": Sharding(shard_clips=4, window_s=1.0)}


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Twelve clips in three shards; two clips each are left of the first two, all of the third, one clip is bad."""
    write_corpus(tmp_path / "sound", [0.3 + 0.1 * (7 * i % 12) for i in range(12)])
    write_audio(tmp_path / "sound" / "clip002.wav", np.zeros(RATE_HZ, dtype=np.float32), RATE_HZ)
    corpus = corpus_of(tmp_path / "sound")
    for dtype in ("float32", "bfloat16"):
        steps(corpus, tmp_path / dtype, Toy(special=2), dtype=dtype, **SETTINGS)
    for i in (0, 3, 4, 5, 7):
        (tmp_path / "sound" / f"clip{i:03d}.wav").unlink()
    return tmp_path / "sound"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compacted_store_reads_as_before_and_is_smaller(sound: Path, tmp_path: Path, dtype: str):
    place, corpus = tmp_path / dtype, corpus_of(sound)
    before = store_of(corpus, place, Toy(special=2), dtype=dtype, **SETTINGS)
    fresh = store_of(corpus, tmp_path / "fresh", Toy(special=2), dtype=dtype, **SETTINGS)
    size = store_info(place)["bytes_total"]
    assert compact_store(place, dry_run=True) == compact_store(place) == ([0, 1], 5)
    assert collect_garbage(place).sharing == 0
    assert verify_store(place) == []
    after = ActivationStore.open(place, verify=True)
    assert store_info(place)["bytes_total"] < size
    assert after.clip_ids == before.clip_ids
    assert after.set_aside.rows() == before.set_aside.rows()
    for layer in (0, 2):
        np.testing.assert_array_equal(after.pooled(layer), fresh.pooled(layer))
        np.testing.assert_array_equal(after.tokens(layer), fresh.tokens(layer))
        np.testing.assert_array_equal(after.pooled_segments(layer), fresh.pooled_segments(layer))
        every = np.arange(after.frames)
        np.testing.assert_array_equal(after.rows(layer).take(every), fresh.rows(layer).take(every))
    for table in ("index", "segments"):
        assert getattr(after, table).drop("shard", "offset").equals(getattr(fresh, table).drop("shard", "offset"))
    for clip_id in after.clip_ids:
        np.testing.assert_array_equal(after.times_of(clip_id).end_s, fresh.times_of(clip_id).end_s)


def test_an_extraction_finds_a_compacted_store_whole_and_can_append_to_it(sound: Path, tmp_path: Path):
    place = tmp_path / "float32"
    steps(corpus_of(sound), place, Toy(special=2), **SETTINGS)
    compact_store(place)
    collect_garbage(place)
    compacted = ActivationStore.open(place)
    again = Counting(special=2)
    assert steps(corpus_of(sound), place, again, **SETTINGS)[-1].skipped_clips == 7
    assert again.given == []
    assert ActivationStore.open(place).fingerprint == compacted.fingerprint
    assert compact_store(place) == ([], 0)
    write_audio(sound / "new.wav", noise(99, 0.4), RATE_HZ)
    assert store_of(corpus_of(sound), place, again, **SETTINGS).clip_ids == [*compacted.clip_ids, "new.wav"]
    assert len(again.given) == 1


def test_a_compaction_that_was_killed_leaves_the_store_as_it_was(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = tmp_path / "float32"
    before = store_of(corpus_of(sound), place, Toy(special=2), **SETTINGS)
    pooled = before.pooled(2)
    for at in ("write_card", "commit_store"):

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(f"otoscope.activations.maintain.{at}", killed)
            with pytest.raises(KeyboardInterrupt):
                compact_store(place)
        store = ActivationStore.open(place, verify=True)
        assert store.fingerprint == before.fingerprint
        np.testing.assert_array_equal(store.pooled(2), pooled)
    with pytest.raises(ArtifactError, match="is unfinished; run it again, then compact"):
        compact_store(place)
    again = Counting(special=2)
    after = store_of(corpus_of(sound), place, again, **SETTINGS)
    assert again.given == []
    assert store_info(place)["clips_dropped"] == 0
    np.testing.assert_array_equal(after.pooled(2), pooled)


def test_what_is_damaged_is_not_copied_and_a_merged_store_can_be_compacted(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "float32", Toy(special=2), **SETTINGS)
    merge_stores(tmp_path / "merged", [tmp_path / "float32"])
    assert compact_store(tmp_path / "merged").clips == 5
    path = next((tmp_path / "float32" / "layer_02").glob("frames-00000*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"frames-00000\.safetensors is damaged"):
        compact_store(tmp_path / "float32")
    verify_store(tmp_path / "float32")
    with pytest.raises(ArtifactError, match="is damaged; extract once more, then compact"):
        compact_store(tmp_path / "float32")


def test_gc_tells_what_it_compacted(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps(corpus_of(sound), tmp_path / "float32", Toy(special=2), **SETTINGS)
    for options, words in (
        (["--dry-run"], "2 shards would be rewritten without 5 clips no longer listed"),
        ([], "2 shards rewritten without 5 clips no longer listed"),
    ):
        with pytest.raises(SystemExit):
            main(["store", "gc", str(tmp_path / "float32"), "--compact", *options])
        assert words in capsys.readouterr().out
