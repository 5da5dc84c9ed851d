import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from otoscope.activations.store import ActivationStore
from otoscope.errors import ArtifactError, ConfigError, DamagedArtifact, IncompleteArtifact, UnknownLayer
from otoscope.sae.data import HasLabels, HasNeighbours, Shuffle
from tests.activations.test_extract import LENGTHS_S, steps, store_of
from tests.support.activations import Toy, write_corpus


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    steps(write_corpus(folder / "sound", LENGTHS_S), folder / "store", layers=[0, 2], dtype="bfloat16")
    return folder / "store"


@pytest.fixture
def store(made: Path) -> ActivationStore:
    return ActivationStore.open(made)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_safetensors_and_polars_alone_can_open_it(store: ActivationStore, made: Path):
    clips = pl.read_parquet(made / "clips.parquet")
    index = pl.read_parquet(made / "index" / "*.parquet")
    assert clips["clip_id"].to_list() == store.clip_ids
    for clip in clips.iter_rows(named=True):
        with safe_open(made / f"layer_02/frames-{clip['shard']:05d}.safetensors", framework="pt") as file:
            first = clip["first_offset"]
            frames = file.get_slice("frames")[first : first + clip["frames"]]
        with safe_open(made / f"layer_02/pooled-{clip['shard']:05d}.safetensors", framework="pt") as file:
            pooled = file.get_tensor("pooled")[clip["pooled_offset"]]
        np.testing.assert_array_equal(frames.float().numpy(), store.frames_of(2, clip["clip_id"]))
        np.testing.assert_array_equal(pooled.float().numpy(), store.pooled(2, [clip["clip_id"]])[0])
        rows = index.filter(clip_id=clip["clip_id"])
        assert rows["frame"].to_list() == list(range(clip["frames"]))
        assert rows["offset"].to_list() == list(range(first, first + clip["frames"]))
        np.testing.assert_array_equal(rows["start_s"].to_numpy(), store.times_of(clip["clip_id"]).start_s)


def test_the_index_is_in_the_order_of_the_rows(store: ActivationStore):
    index, rows = store.index, store.rows(0)
    assert index.height == rows.height == store.frames
    assert index["clip_id"].to_list() == [rows.clip_ids[i] for i in rows.clip_of(np.arange(rows.height))]
    assert index.sort("clip_id", "frame", maintain_order=True).equals(index)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(data=st.data())
def test_rows_are_the_frames_of_the_clips_one_after_another(store: ActivationStore, data: st.DataObject):
    clip_ids = data.draw(st.lists(st.sampled_from(store.clip_ids), min_size=1, max_size=8))
    rows = store.rows(2, clip_ids)
    expected = np.concatenate([frames for _, frames in store.iter_clips(2, clip_ids)])
    assert (rows.height, rows.width) == expected.shape
    indices = np.array(data.draw(st.lists(st.integers(0, rows.height - 1), max_size=50)), dtype=np.int64)
    taken = rows.take(indices)
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, expected[indices])


def test_rows_beyond_the_last_are_refused(store: ActivationStore):
    rows = store.rows(0)
    for index in (-1, rows.height):
        with pytest.raises(ArtifactError, match=f"rows 0 to {rows.height - 1} exist; asked for {index}"):
            rows.take(np.array([index]))


@pytest.mark.parametrize(("batch", "block", "held"), [(8, 4, 16), (16, 1, 64), (32, 16, 8192)])
def test_a_shuffled_epoch_holds_every_row_once_and_follows_its_seed(store: ActivationStore, batch, block, held):
    rows = store.rows(2)

    def epoch(seed: int, epoch: int) -> np.ndarray:
        batches = [*rows.shuffled(batch, seed=seed, epoch=epoch, block=block, held=held)]
        assert max(len(part) for part in batches) == batch
        return np.concatenate(batches)

    stored = rows.take(np.arange(rows.height))
    first = epoch(0, 0)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(stored, axis=0))
    assert len({row.tobytes() for row in first}) == len({row.tobytes() for row in stored})
    np.testing.assert_array_equal(first, epoch(0, 0))
    assert not np.array_equal(first, epoch(1, 0))
    assert not np.array_equal(first, epoch(0, 1))
    assert not np.array_equal(first, stored)


def test_a_buffer_that_batches_do_not_fill_is_refused(store: ActivationStore):
    with pytest.raises(ConfigError, match=r"held \(100\) must be a multiple of the batch \(64\) and of the block"):
        next(store.rows(0).shuffled(64, seed=0, held=100))


def test_a_neighbour_lies_beside_a_row_in_its_own_clip(store: ActivationStore):
    rows = store.rows(2)
    every = np.arange(rows.height)
    beside = rows.neighbours(every)
    known = beside >= 0
    assert (rows.frames[rows.clip_of(every[~known])] == 1).all()
    assert (np.abs(beside - every)[known] == 1).all()
    np.testing.assert_array_equal(rows.clip_of(beside[known]), rows.clip_of(every[known]))
    followed = np.append(rows.clip_of(every)[1:] == rows.clip_of(every)[:-1], False)
    np.testing.assert_array_equal(beside[followed], every[followed] + 1)


def test_a_clip_of_one_frame_has_no_neighbours(store: ActivationStore):
    single = replace(store.rows(2), frames=np.ones(len(store.clip_ids), dtype=np.int64))
    assert (single.neighbours(np.arange(single.height)) == -1).all()


def test_a_row_knows_its_clip_frame_and_layer(store: ActivationStore):
    rows = store.rows(2)
    start = int(rows.starts[1])
    assert rows.describe(start - 1) == f'frame {start - 1} of clip "{rows.clip_ids[0]}" at layer 2'
    assert rows.describe(start + 3) == f'frame 3 of clip "{rows.clip_ids[1]}" at layer 2'


def test_training_takes_stored_rows_for_neighbours_in_time(store: ActivationStore):
    """A batch is drawn from all clips: hardly a row lies beside another in time."""
    rows = store.rows(2)
    assert isinstance(rows, HasNeighbours)
    assert isinstance(rows, HasLabels)
    batches = [Shuffle(rows.height, 64, seed=0).indices(step) for step in range(rows.height // 64)]
    close = np.mean([np.mean(np.abs(np.diff(batch)) == 1) for batch in batches])
    assert close < 5 * 2 / rows.height + 0.02


def test_pooled_follows_the_order_asked_for(store: ActivationStore):
    backwards = store.clip_ids[::-1]
    np.testing.assert_array_equal(store.pooled(0, backwards), store.pooled(0)[::-1])
    assert store.pooled(0, []).shape == (0, store.width(0))


def test_opening_one_layer_does_not_touch_the_others(copy: Path, store: ActivationStore):
    shutil.rmtree(copy / "layer_00")
    other = ActivationStore.open(copy)
    np.testing.assert_array_equal(other.pooled(2), store.pooled(2))
    np.testing.assert_array_equal(other.rows(2).take(np.arange(9)), store.rows(2).take(np.arange(9)))
    with pytest.raises(DamagedArtifact, match=r"pooled-00000\.safetensors is missing"):
        other.pooled(0)


@pytest.mark.parametrize(
    "name",
    [
        "layer_00/frames-00001.safetensors",
        "layer_02/pooled-00000.safetensors",
        "index/00000.parquet",
        "shards/00001.json",
        "clips.parquet",
        "set_aside.parquet",
    ],
)
def test_a_flipped_bit_anywhere_is_found_and_named(copy: Path, name: str):
    damaged = bytearray((copy / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (copy / name).write_bytes(damaged)
    with pytest.raises(DamagedArtifact, match=rf"{name} is damaged: its SHA-256"):
        ActivationStore.open(copy, verify=True)


def test_a_file_cut_short_is_found_without_checksums(copy: Path):
    path = copy / "layer_02" / "frames-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DamagedArtifact, match=r"frames-00000\.safetensors has \d+ bytes, its card says \d+"):
        ActivationStore.open(copy).rows(2).take(np.arange(3))


def test_a_folder_without_a_manifest_is_no_store(copy: Path, tmp_path: Path):
    (copy / "manifest.json").unlink()
    with pytest.raises(IncompleteArtifact, match="copy was begun but never finished"):
        ActivationStore.open(copy)
    with pytest.raises(IncompleteArtifact, match="nowhere holds no activations"):
        ActivationStore.open(tmp_path / "nowhere")


def test_a_manifest_of_another_format_is_refused(copy: Path):
    (copy / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(DamagedArtifact, match=r"manifest\.json is no manifest of format 2"):
        ActivationStore.open(copy)


def test_what_is_not_stored_is_refused_with_what_is(store: ActivationStore, tmp_path: Path):
    with pytest.raises(UnknownLayer, match="holds no layer 1; it holds 0, 2"):
        store.pooled(1)
    with pytest.raises(ArtifactError, match=r"holds no clip 'clip02.wav'; did you mean clip002.wav\?"):
        store.frames_of(0, "clip02.wav")
    with pytest.raises(ArtifactError, match="toy has no tokens that stand for a whole clip"):
        store.tokens(0)
    corpus = write_corpus(tmp_path / "sound", [0.5, 0.5])
    pooled = store_of(corpus, tmp_path / "pooled", frames=False)
    with pytest.raises(ArtifactError, match="holds pooled clips only; extract with frames=True"):
        pooled.rows(0)
    frames = store_of(corpus, tmp_path / "frames", pooled=False)
    with pytest.raises(ArtifactError, match="holds frames only; extract with pooled=True"):
        frames.pooled(0)
    np.testing.assert_allclose(pooled.pooled(2)[1], frames.frames_of(2, "clip001.wav").mean(0), atol=1e-6)


def test_the_card_says_what_the_store_was_made_from(store: ActivationStore):
    assert store.layers == [0, 2]
    assert store.width(2) == Toy().width
    assert store.dtype == "bfloat16"
    assert store.manifest["encoder"] == {"name": "toy", "revision": "1", "context": None, "rate_hz": 8000}
    assert store.manifest["layers"][1]["receptive_field_s"] == Toy().layers[2].receptive_field_s
    assert store.manifest["sound_s"] == pytest.approx(sum(LENGTHS_S))
