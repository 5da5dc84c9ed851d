"""Clips come and go; what is stored stays stored."""

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from otoscope.activations.store import ActivationStore
from otoscope.corpus.audio import write_audio
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoded
from otoscope.errors import IncompleteArtifact, StaleArtifact
from tests.activations.test_extract import LENGTHS_S, alone, steps, store_of
from tests.support.activations import RATE_HZ, Toy, contents, corpus_of, noise, write_corpus


@dataclass(frozen=True)
class Counting(Toy):
    """A toy that counts the clips it is given, and breaks down at one of them if asked."""

    given: list[int] = field(default_factory=list)
    last: int = 10**6

    def encode(self, waves: list[torch.Tensor], layers: list[int]) -> Encoded:
        if len(self.given) + len(waves) > self.last:
            raise KeyboardInterrupt
        self.given.extend(len(wave) for wave in waves)
        return super().encode(waves, layers)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "sound", LENGTHS_S)
    return tmp_path / "sound"


def add(sound: Path, names: list[str], seconds: float = 0.4) -> Corpus:
    for i, name in enumerate(names):
        write_audio(sound / f"{name}.wav", noise(100 + i, seconds), RATE_HZ)
    return corpus_of(sound)


def test_only_new_clips_are_encoded_and_old_shards_are_not_touched(sound: Path, tmp_path: Path):
    before = store_of(corpus_of(sound), tmp_path / "store")
    kept = {n: (tmp_path / "store" / n).stat().st_mtime_ns for s in before.manifest["shards"] for n in s["files"]}
    encoder = Counting()
    after = store_of(add(sound, ["clip001b", "aaa", "zzz"]), tmp_path / "store", encoder)
    assert len(encoder.given) == 3
    assert {n: (tmp_path / "store" / n).stat().st_mtime_ns for n in kept} == kept
    assert after.clip_ids == sorted([*before.clip_ids, "clip001b.wav", "aaa.wav", "zzz.wav"])
    assert after.fingerprint != before.fingerprint
    for clip_id in before.clip_ids:
        np.testing.assert_array_equal(after.frames_of(2, clip_id), before.frames_of(2, clip_id))
    for layer in (0, 2):
        np.testing.assert_allclose(after.frames_of(layer, "aaa.wav"), alone(101, 0.4, layer), atol=2e-6)


def test_every_way_of_reading_follows_the_names_whatever_the_order_of_arrival(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    store = store_of(add(sound, ["clip001b", "aaa", "zzz"]), tmp_path / "store")
    fresh = store_of(corpus_of(sound), tmp_path / "fresh")
    assert store.clip_ids == fresh.clip_ids
    np.testing.assert_allclose(store.pooled(2), fresh.pooled(2), atol=2e-6)
    every = np.arange(fresh.frames)
    np.testing.assert_allclose(store.rows(2).take(every), fresh.rows(2).take(every), atol=2e-6)
    assert store.index.drop("shard", "offset").equals(fresh.index.drop("shard", "offset"))
    assert store.times_of("aaa.wav").end_s.tolist() == fresh.times_of("aaa.wav").end_s.tolist()


def test_a_clip_whose_sound_changed_is_encoded_again_and_alone(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    write_audio(sound / "clip003.wav", noise(99, 0.5), RATE_HZ)
    encoder = Counting()
    store = store_of(corpus_of(sound), tmp_path / "store", encoder)
    assert len(encoder.given) == 1
    np.testing.assert_allclose(store.frames_of(2, "clip003.wav"), alone(99, 0.5, 2), atol=2e-6)
    assert store.index.height == store.frames == sum(len(frames) for _, frames in store.iter_clips(2))


def test_a_clip_that_left_the_corpus_is_listed_no_more(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    (sound / "clip002.wav").unlink()
    encoder = Counting()
    store = store_of(corpus_of(sound), tmp_path / "store", encoder)
    assert encoder.given == []
    assert "clip002.wav" not in store.clip_ids
    assert "clip002.wav" not in store.index["clip_id"].to_list()
    assert store.frames == store.index.height == store.rows(0).height


def test_a_clip_that_was_set_aside_is_not_tried_again(sound: Path, tmp_path: Path):
    write_audio(sound / "short.wav", noise(1, 0.02), RATE_HZ)
    assert store_of(corpus_of(sound), tmp_path / "store").set_aside["path"].to_list() == ["short.wav"]
    store = store_of(add(sound, ["zzz"]), tmp_path / "store")
    assert store.set_aside["path"].to_list() == ["short.wav"]
    assert len(store.clip_ids) == len(LENGTHS_S) + 1


def test_until_new_clips_are_stored_the_store_reads_as_it_was(sound: Path, tmp_path: Path):
    before = store_of(corpus_of(sound), tmp_path / "store")
    corpus = add(sound, [f"new{i}" for i in range(9)])
    with pytest.raises(KeyboardInterrupt):
        steps(corpus, tmp_path / "store", Counting(last=6))
    store = ActivationStore.open(tmp_path / "store", verify=True)
    assert store.fingerprint == before.fingerprint
    np.testing.assert_array_equal(store.pooled(2), before.pooled(2))
    encoder = Counting()
    resumed = store_of(corpus, tmp_path / "store", encoder)
    assert len(encoder.given) < 9, "the shard that was whole is not written again"
    unbroken = tmp_path / "unbroken"
    (sound.parent / "first").mkdir()
    for i in range(len(LENGTHS_S)):
        shutil.copy(sound / f"clip{i:03d}.wav", sound.parent / "first")
    steps(corpus_of(sound.parent / "first"), unbroken)
    steps(corpus, unbroken)
    assert contents(unbroken) == contents(tmp_path / "store")
    assert len(resumed.clip_ids) == len(LENGTHS_S) + 9


def test_a_corpus_that_grows_before_its_first_store_is_whole_loses_nothing(sound: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        steps(corpus_of(sound), tmp_path / "store", Counting(last=7))
    assert list((tmp_path / "store" / "shards").iterdir())
    encoder = Counting()
    store = store_of(add(sound, ["aaa", "zzz"]), tmp_path / "store", encoder)
    assert len(store.clip_ids) == len(LENGTHS_S) + 2
    assert sum(encoder.given) < (sum(LENGTHS_S) + 0.8) * RATE_HZ - 1.0 * RATE_HZ


def test_an_old_shard_that_was_damaged_is_made_anew(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    steps(add(sound, ["zzz"]), tmp_path / "store")
    path = tmp_path / "store" / "layer_00" / "frames-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    store = store_of(corpus_of(sound), tmp_path / "store")
    assert len(store.clip_ids) == len(LENGTHS_S) + 1
    np.testing.assert_allclose(store.frames_of(0, "clip000.wav"), alone(0, 0.5, 0), atol=2e-6)


def test_other_settings_are_refused_and_the_store_is_kept(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(StaleArtifact, match="dtype is float32, requested float16"):
        steps(add(sound, ["zzz"]), tmp_path / "store", dtype="float16")
    assert contents(tmp_path / "store") == before


def test_labels_and_splits_do_not_make_another_store(sound: Path, tmp_path: Path):
    corpus = corpus_of(sound)
    before = store_of(corpus, tmp_path / "store")
    other = replace(corpus, clips=corpus.clips.with_columns(split=pl.lit("test"), label_x=pl.lit("y")))
    assert store_of(other, tmp_path / "store").fingerprint == before.fingerprint


def test_an_empty_folder_is_no_store(tmp_path: Path):
    os.makedirs(tmp_path / "store")  # noqa: PTH103
    with pytest.raises(IncompleteArtifact, match="holds no activations"):
        ActivationStore.open(tmp_path / "store")
