import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from otoscope.activations.segments import Segments
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest
from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, UnknownLayer
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
        with pytest.raises(
            ArtifactError, match=f"{index} to {index} are out of range; allowed: 0 to {rows.height - 1}"
        ):
            rows.take(np.array([index]))


def test_store_repr_fits_in_one_line(store: ActivationStore):
    expected = f"ActivationStore({store.folder!r}, 6 clips, {store.frames:,} frames, layers 0, 2, bfloat16, toy, "
    assert repr(store) == expected + "frames + pooled clips)"
    html = store._repr_html_()
    assert "<th>clips</th><td>6 clips</td>" in html
    assert "sha256" not in html


def test_store_opens_from_a_run_folder(store: ActivationStore, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "activations").symlink_to(store.folder)
    assert ActivationStore.open(tmp_path / "run").fingerprint == store.fingerprint


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
    with pytest.raises(DamagedArtifact, match=r"manifest\.json is damaged: fingerprint is"):
        ActivationStore.open(copy)


def test_what_is_not_stored_is_refused_with_what_is(store: ActivationStore, tmp_path: Path):
    with pytest.raises(UnknownLayer, match="holds no layer 1; it holds 0, 2"):
        store.pooled(1)
    with pytest.raises(ArtifactError, match=r"holds no clip 'clip02.wav'; did you mean clip002.wav\?"):
        store.frames_of(0, "clip02.wav")
    with pytest.raises(ArtifactError, match="toy has no whole-clip tokens"):
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
    assert store.manifest["encoder"] == {
        "name": "toy",
        "revision": "1",
        "context": None,
        "precision": "exact",
        "rate_hz": 8000,
    }
    assert store.manifest["layers"][1]["receptive_field_s"] == Toy().layers[2].receptive_field_s
    assert store.manifest["sound_s"] == pytest.approx(sum(LENGTHS_S))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("pooled_offset", -1),
        ("first_offset", -2),
        ("frames", -1),
        ("shard", 9),
        ("frames", 10**6),
        ("pooled_offset", 4),
    ],
)
def test_a_table_that_points_outside_its_shards_is_refused(tmp_path: Path, column: str, value: int):
    steps(write_corpus(tmp_path / "sound", LENGTHS_S), tmp_path / "store")
    path, manifest = tmp_path / "store" / "clips.parquet", tmp_path / "store" / "manifest.json"
    clips = pl.read_parquet(path)
    first = pl.int_range(pl.len()) == 0
    wrong = pl.when(first).then(pl.lit(value)).otherwise(pl.col(column)).cast(clips.schema[column])
    clips.with_columns(wrong.alias(column)).write_parquet(path)
    content = json.loads(manifest.read_text())
    content["tables"]["clips"] |= {"bytes": path.stat().st_size, "sha256": digest(path)}
    manifest.write_text(json.dumps(content))
    with pytest.raises(DamagedArtifact, match="places clips outside their shards"):
        ActivationStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["clips.parquet", "index/00000.parquet", "segments/00000.parquet"])
def test_no_flipped_bit_of_a_table_changes_a_number(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str):
    corpus, folder = write_corpus(tmp_path / "sound", LENGTHS_S), tmp_path / "store"
    steps(corpus, folder, segments=Segments(every_s=0.5))
    data, rng = (folder / name).read_bytes(), np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(damaged)
        with pytest.raises(DamagedArtifact, match="is damaged"):
            _ = (ActivationStore.open(folder).index, ActivationStore.open(folder).segments)
    assert capfd.readouterr().err == ""


def test_a_manifest_that_lost_a_layer_is_damaged(copy: Path):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["layers"].pop()
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedArtifact, match=r"manifest\.json is damaged: it lists the layers .*, and files of"):
        ActivationStore.open(copy)
