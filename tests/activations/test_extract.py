from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from otoscope.activations.extract import extract, iter_extract
from otoscope.activations.format import Sharding
from otoscope.activations.progress import ExtractionProgress
from otoscope.activations.storage import LocalStorage
from otoscope.activations.store import ActivationStore
from otoscope.corpus.audio import write_audio
from otoscope.corpus.table import Corpus
from otoscope.errors import (
    ArtifactError,
    AudioError,
    ConfigError,
    CorpusError,
    IncompleteArtifact,
    StaleArtifact,
    UnknownLayer,
)
from tests.support.activations import FIELD, RATE_HZ, Toy, contents, corpus_of, noise, write_corpus

LENGTHS_S = [0.5, 0.1, 2.7, 0.5, 1.3, 0.05]
SMALL = Sharding(shard_clips=4, window_s=1.0)


def store_of(corpus: Corpus, folder: Path, encoder: Toy | None = None, **options) -> ActivationStore:
    steps(corpus, folder, encoder, **options)
    return ActivationStore.open(folder, verify=True)


def steps(corpus: Corpus, folder: Path, encoder: Toy | None = None, **options) -> list[ExtractionProgress]:
    options = {"layers": [0, 2], "batch_s": 2.0, "sharding": SMALL, **options}
    return list(iter_extract(corpus, encoder or Toy(), folder, **options))


def alone(seed: int, seconds: float, layer: int, encoder: Toy | None = None) -> np.ndarray:
    """What the encoder gives for one clip by itself, in one piece."""
    wave = torch.from_numpy(noise(seed, seconds))
    return (encoder or Toy()).encode([wave], [layer]).layers[layer][0].numpy()


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path / "sound", LENGTHS_S)


def test_every_clip_holds_what_the_encoder_gives_for_it_alone_however_it_was_batched_and_cut(corpus, tmp_path):
    store = store_of(corpus, tmp_path / "store")
    assert store.clip_ids == corpus.clips["clip_id"].to_list()
    for layer in (0, 2):
        for seed, (clip_id, seconds) in enumerate(zip(store.clip_ids, LENGTHS_S, strict=True)):
            expected = alone(seed, seconds, layer)
            np.testing.assert_allclose(store.frames_of(layer, clip_id), expected, atol=2e-6)
            np.testing.assert_allclose(store.pooled(layer, [clip_id])[0], expected.mean(0), atol=2e-6)


@pytest.mark.parametrize("overlap_s", [0.0, 0.3])
def test_times_of_a_clip_that_was_cut_are_those_of_the_whole(corpus, tmp_path, overlap_s):
    store = store_of(corpus, tmp_path / "store", sharding=Sharding(window_s=1.0, overlap_s=overlap_s))
    whole, found = Toy().frames(round(2.7 * RATE_HZ)), store.times_of("clip002.wav")
    np.testing.assert_allclose(found.start_s, whole.start_s, atol=1e-9)
    np.testing.assert_allclose(found.end_s, whole.end_s, atol=1e-9)
    np.testing.assert_allclose(store.frames_of(2, "clip002.wav"), alone(2, 2.7, 2), atol=2e-6)


def test_an_encoder_that_takes_short_sound_only_gets_no_more(corpus, tmp_path):
    store = store_of(corpus, tmp_path / "store", Toy(window_s=0.4), sharding=Sharding())
    np.testing.assert_allclose(store.frames_of(0, "clip002.wav"), alone(2, 2.7, 0), atol=2e-6)


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_reduced_precision_is_rounding_and_nothing_else(corpus, tmp_path, dtype, step):
    exact, reduced = (store_of(corpus, tmp_path / d, dtype=d) for d in ("float32", dtype))
    for one, other in [
        (exact.rows(2).take(np.arange(exact.frames)), reduced.rows(2).take(np.arange(exact.frames))),
        (exact.pooled(2), reduced.pooled(2)),
    ]:
        assert np.all(np.abs(one - other) <= np.abs(one) * step + 1e-7)
        assert not np.array_equal(one, other)


def test_patches_keep_their_frequencies_through_windows(corpus, tmp_path):
    store = store_of(corpus, tmp_path / "store", Toy(bands=3))
    times = store.times_of("clip002.wav")
    assert times.low_hz is not None
    expected = alone(2, 2.7, 0, Toy(bands=3))
    whole = Toy(bands=3).frames(round(2.7 * RATE_HZ))
    assert whole.low_hz is not None
    order, expected_order = np.lexsort((times.start_s, times.low_hz)), np.lexsort((whole.start_s, whole.low_hz))
    np.testing.assert_allclose(times.start_s[order], whole.start_s[expected_order], atol=1e-9)
    np.testing.assert_allclose(store.frames_of(0, "clip002.wav")[order], expected[expected_order], atol=2e-6)


def test_tokens_lie_beside_the_frames(corpus, tmp_path):
    store = store_of(corpus, tmp_path / "store", Toy(special=2))
    tokens = store.tokens(2)
    assert tokens.shape == (6, 2, 6)
    np.testing.assert_allclose(tokens[0], np.tile(noise(0, 0.5)[:6], (2, 1)) * 3, atol=1e-6)
    assert store.frames_of(2, "clip000.wav").shape == alone(0, 0.5, 2).shape


def test_the_same_bytes_whatever_the_number_of_decoding_threads(corpus, tmp_path):
    steps(corpus, tmp_path / "one", threads=1)
    steps(corpus, tmp_path / "four", threads=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")


def test_the_order_of_the_table_the_labels_and_the_splits_do_not_matter(corpus, tmp_path):
    other = Corpus(
        corpus.name,
        corpus.root,
        corpus.clips.reverse().with_columns(split=pl.lit("test"), label_x=pl.lit("y")),
        corpus.set_aside,
    )
    steps(corpus, tmp_path / "one")
    steps(other, tmp_path / "other")
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_progress_counts_every_clip_and_second_once(corpus, tmp_path):
    told = steps(corpus, tmp_path / "store")
    assert sum(p.clips_new for p in told) == told[-1].clips == told[-1].clips_total == 6
    assert told[-1].sound_s == pytest.approx(sum(LENGTHS_S)) == told[-1].sound_total_s
    assert [p.clips for p in told] == sorted(p.clips for p in told)
    assert {p.shards for p in told} == {2}
    assert told[-1].encode_s + told[-1].wait_s + told[-1].write_s <= told[-1].elapsed_s
    again = steps(corpus, tmp_path / "store")
    assert [(p.clips, p.skipped_clips) for p in again] == [(6, 6)]


def test_bad_clips_are_set_aside_with_their_reasons_and_the_rest_goes_on(tmp_path):
    write_corpus(tmp_path / "sound", [0.5] * 8)
    (tmp_path / "sound" / "empty.wav").write_bytes(b"")
    (tmp_path / "sound" / "text.wav").write_bytes(b"no sound at all")
    write_audio(tmp_path / "sound" / "short.wav", noise(1, 0.5)[: FIELD - 1], RATE_HZ)
    loud = noise(2, 2.5)
    loud[-50] = 0.99
    write_audio(tmp_path / "sound" / "loud.wav", loud, RATE_HZ)
    corpus = corpus_of(tmp_path / "sound")
    store = store_of(corpus, tmp_path / "store", max_set_aside=0.4)
    assert store.clip_ids == [f"clip{i:03d}.wav" for i in range(8)]
    assert dict(store.set_aside.select("clip_id", "reason").iter_rows()) == {
        "empty.wav": "empty file (0 bytes)",
        "loud.wav": "the encoder gave NaN or infinity in layer 0",
        "short.wav": "too short: 199 samples at 8000 Hz; toy needs 200 for a frame",
        "text.wav": pytest.approx(store.set_aside.filter(clip_id="text.wav")["reason"][0]),
    }
    assert store.set_aside.filter(clip_id="text.wav")["reason"][0].startswith("cannot be decoded as audio")
    assert store.frames == sum(len(frames) for _, frames in store.iter_clips(0))
    plain = store_of(corpus.select(store.clip_ids), tmp_path / "plain")
    np.testing.assert_array_equal(store.pooled(2), plain.pooled(2))


def test_what_overflows_float16_is_set_aside_and_says_what_to_do(tmp_path):
    write_corpus(tmp_path / "sound", [0.5] * 5)
    quiet = noise(2, 0.5)
    quiet[9] = -0.99
    write_audio(tmp_path / "sound" / "large.wav", quiet, RATE_HZ)
    corpus = corpus_of(tmp_path / "sound")
    store = store_of(corpus, tmp_path / "half", dtype="float16")
    assert store.set_aside.rows() == [
        ("large.wav", "large.wav", "layer 0 exceeds what float16 can hold (65504); store as bfloat16 or float32")
    ]
    assert store_of(corpus, tmp_path / "wide", dtype="bfloat16").set_aside.is_empty()


def test_strict_stops_at_the_first_bad_clip_and_leaves_no_store(tmp_path):
    write_corpus(tmp_path / "sound", [0.5] * 3)
    (tmp_path / "sound" / "empty.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"empty\.wav: empty file \(0 bytes\)"):
        steps(corpus_of(tmp_path / "sound"), tmp_path / "store", strict=True)
    with pytest.raises(IncompleteArtifact, match="store was begun but never finished"):
        ActivationStore.open(tmp_path / "store")


def test_too_many_bad_clips_stop_the_run(tmp_path):
    write_corpus(tmp_path / "sound", [0.5] * 2)
    for i in range(3):
        (tmp_path / "sound" / f"empty{i}.wav").write_bytes(b"")
    with pytest.raises(
        CorpusError,
        match=r"\d of the first \d of 5 clips cannot be used, more than max_set_aside=0\.2 allows: .*empty file",
    ):
        steps(corpus_of(tmp_path / "sound"), tmp_path / "store")


def test_a_corpus_of_nothing_usable_makes_no_store(tmp_path):
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "empty.wav").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"no clip could be used; the first one: empty file"):
        steps(corpus_of(tmp_path / "sound"), tmp_path / "store", max_set_aside=1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "float16"}, "dtype is float32, requested float16"),
        ({"layers": [0, 1]}, r"layers are \[0, 2\], requested \[0, 1\]"),
        ({"encoder": Toy(revision="2")}, "encoder.revision is 1, requested 2"),
        ({"pooled": False}, "pooled is True, requested False"),
        ({"sharding": Sharding(window_s=2.0)}, "sharding.window_s is 1.0, requested 2.0"),
    ],
)
def test_another_store_in_the_same_folder_is_refused_and_kept(corpus, tmp_path, change, words):
    steps(corpus, tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(StaleArtifact, match=f"store holds other activations: .*{words}"):
        steps(corpus, tmp_path / "store", **change)
    assert contents(tmp_path / "store") == before


def test_only_the_damaged_shard_is_written_again(corpus, tmp_path):
    steps(corpus, tmp_path / "store")
    before = contents(tmp_path / "store")
    kept = tmp_path / "store" / "layer_00" / "frames-00000.safetensors"
    cut_short = tmp_path / "store" / "layer_02" / "pooled-00001.safetensors"
    untouched = kept.stat().st_mtime_ns
    cut_short.write_bytes(cut_short.read_bytes()[:-1])
    assert steps(corpus, tmp_path / "store")[0].skipped_clips == 4
    assert contents(tmp_path / "store") == before
    assert kept.stat().st_mtime_ns == untouched


def test_a_flipped_bit_is_found_and_mended_when_checksums_are_asked_for(corpus, tmp_path):
    steps(corpus, tmp_path / "store")
    before = contents(tmp_path / "store")
    path = tmp_path / "store" / "layer_02" / "frames-00000.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    assert steps(corpus, tmp_path / "store")[0].skipped_clips == 6
    assert steps(corpus, tmp_path / "store", verify=True)[0].skipped_clips == 2
    (tmp_path / "store" / "repaired.json").unlink()
    assert contents(tmp_path / "store") == before


def test_leaving_in_the_middle_leaves_nothing_half_written(corpus, tmp_path):
    progress = iter_extract(corpus, Toy(), tmp_path / "store", layers=[0], batch_s=0.2, sharding=SMALL)
    next(progress), next(progress)
    assert list((tmp_path / "store").rglob("*.part"))
    progress.close()
    assert not list((tmp_path / "store").rglob("*.part"))
    with pytest.raises(IncompleteArtifact, match="begun but never finished"):
        ActivationStore.open(tmp_path / "store")


def test_two_writers_of_one_folder_are_kept_apart(corpus, tmp_path):
    with (
        LocalStorage(tmp_path / "store").write_lock(),
        pytest.raises(ArtifactError, match=r"another process is writing .*store; wait for it"),
    ):
        steps(corpus, tmp_path / "store")
    steps(corpus, tmp_path / "store")


def test_a_folder_that_is_a_file_is_one_clear_error(corpus, tmp_path):
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(ArtifactError, match="store cannot be written"):
        steps(corpus, tmp_path / "store")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layers": [7]}, UnknownLayer, "toy has no layer 7; it has layers 0 to 2"),
        ({"layers": []}, ConfigError, "layers is empty"),
        ({"dtype": "float23"}, ConfigError, "stored as 'float23'; did you mean float32"),
        ({"pooled": False, "frames": False}, ConfigError, "all are switched off"),
        ({"batch_s": 0.0}, ConfigError, "batch_s is 0.0; it must be above 0"),
    ],
)
def test_settings_that_make_no_store_are_refused_before_anything_is_written(corpus, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        steps(corpus, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_extract_returns_the_finished_store_without_output(corpus, tmp_path, capsys):
    store = extract(corpus, Toy(), tmp_path / "store", layers=[0, 2], sharding=SMALL)
    assert store.layers == [0, 2]
    assert store.clip_ids == corpus.clips["clip_id"].to_list()
    assert capsys.readouterr() == ("", ""), "no bar where nobody watches"
    extract(corpus, Toy(), tmp_path / "store", layers=[0, 2], sharding=SMALL, progress=True)
    assert "extracting 2 layers" in capsys.readouterr().err
