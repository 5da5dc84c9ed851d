"""The activation index against the codes that it was written from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.activations.store import ActivationStore
from otoscope.errors import DamagedArtifact, EvaluationError
from otoscope.explain import firing_by_class, quantile_examples, top_activations
from otoscope.explain.activation_index import QUANTILES, ActivationIndex, remove_index
from otoscope.explain.index_writer import write_activation_index
from otoscope.sae import ReLU, SparseAutoencoder
from tests.support.activations import contents
from tests.support.index_run import SMALL, sae_of, store_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return store_of(tmp_path_factory.mktemp("store"))


def dense(store: ActivationStore, sae: SparseAutoencoder) -> dict[str, np.ndarray]:
    return {clip: sae.encode(frames) for clip, frames in store.iter_clips(1)}


@pytest.mark.parametrize(("part_entries", "block_entries"), [(1, 1), (200, 100), (1 << 22, 1 << 24)])
def test_index_holds_every_code_by_clip_and_by_latent(
    store: ActivationStore, tmp_path: Path, part_entries: int, block_entries: int
) -> None:
    sae = sae_of()
    index = write_activation_index(tmp_path, store, sae, 1, part_entries=part_entries, block_entries=block_entries)
    wanted = dense(store, sae)
    for clip, codes in wanted.items():
        assert index.codes_of(clip) == pytest.approx(codes, rel=1e-3, abs=1e-6)
    every = np.concatenate(list(wanted.values()))
    assert index.rows == len(every)
    clip_of = np.repeat(np.arange(len(wanted)), [len(codes) for codes in wanted.values()])
    for latent in range(sae.latents):
        firing = index.firing(latent)
        assert firing.rows.tolist() == np.flatnonzero(every[:, latent]).tolist()
        assert firing.clips.tolist() == clip_of[firing.rows].tolist()
        assert firing.activations == pytest.approx(every[firing.rows, latent], rel=1e-3)
    means = np.stack([codes.mean(axis=0) for codes in wanted.values()])
    assert index.clip_means() == pytest.approx(means, rel=1e-3, abs=1e-6)


def test_statistics_describe_the_activations_of_each_latent(store: ActivationStore, tmp_path: Path) -> None:
    sae = sae_of()
    index = write_activation_index(tmp_path, store, sae, 1, block_entries=100)
    by_clip = list(dense(store, sae).values())
    every = np.concatenate(by_clip)
    for row in index.statistics.iter_rows(named=True):
        codes = every[:, row["latent"]]
        active = codes[codes != 0]
        assert row["rows"] == len(active)
        assert row["rate"] == pytest.approx(len(active) / len(every))
        assert row["clips"] == sum((part[:, row["latent"]] != 0).any() for part in by_clip)
        assert row["maximum"] == pytest.approx(active.max(initial=0.0), rel=1e-3)
        if len(active):
            assert [row[f"q{100 * q:.0f}"] for q in QUANTILES] == pytest.approx(
                np.quantile(active, QUANTILES).tolist(), rel=1e-3
            )


def test_a_latent_that_never_fires_has_no_rows(store: ActivationStore, tmp_path: Path) -> None:
    sae = SparseAutoencoder(6, 4, ReLU(2), seed=0)
    sae.encoder.data[2] = 0.0
    assert sae.encoder_bias is not None
    sae.encoder_bias.data[2] = -1.0
    index = write_activation_index(tmp_path, store, sae.eval().requires_grad_(False), 1)
    assert index.firing(2).rows.size == 0
    assert index.statistics.row(2, named=True)["rate"] == 0
    assert np.isnan(index.statistics.row(2, named=True)["q50"])


def test_pooled_dictionaries_have_one_row_per_clip(store: ActivationStore, tmp_path: Path) -> None:
    sae = sae_of()
    index = write_activation_index(tmp_path, store, sae, 1, pooling="pool_then_encode")
    assert not index.has_frames
    assert index.rows == len(store.clip_ids)
    assert index.clip_means() == pytest.approx(sae.encode(store.pooled(1)), rel=1e-3, abs=1e-6)


def test_unknown_latents_and_clips_are_refused(store: ActivationStore, tmp_path: Path) -> None:
    index = write_activation_index(tmp_path, store, sae_of(), 1)
    with pytest.raises(EvaluationError, match="latent 40 does not exist; the index has latents 0 to 39"):
        index.firing(40)
    with pytest.raises(EvaluationError, match=r"holds no clip 'x\.wav'"):
        index.codes_of("x.wav")
    for call in (
        lambda: top_activations(index, 0, ["a"]),
        lambda: quantile_examples(index, 0, ["a"]),
        lambda: firing_by_class(index, np.array(["a"])),
    ):
        with pytest.raises(EvaluationError, match=r"got 1 (groups|classes) for \d+ clips; give one per clip"):
            call()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("card.json", lambda path: path.write_text("[]")),
        ("card.json", lambda path: path.write_text(path.read_text().replace('"parts": [', '"parts": [3, '))),
        ("card.json", lambda path: path.write_text(path.read_text().replace('"rows": ', '"rows": "x", "y": '))),
        ("card.json", lambda path: path.write_text(path.read_text().replace('"latents": 40', '"latents": 41'))),
        ("clips.parquet", lambda path: pl.DataFrame({"x": [1]}).write_parquet(path)),
        ("latents.parquet", lambda path: pl.read_parquet(path).head(3).write_parquet(path)),
    ],
)
def test_open_refuses_cards_and_tables_of_another_shape(
    store: ActivationStore, tmp_path: Path, file: str, change: Callable[[Path], object]
) -> None:
    write_activation_index(tmp_path, store, sae_of(), 1, **SMALL)
    change(tmp_path / file)
    with pytest.raises(DamagedArtifact, match=r"card\.json is damaged|has other columns or rows"):
        ActivationIndex.open(tmp_path)


def test_remove_index_leaves_files_of_others(store: ActivationStore, tmp_path: Path) -> None:
    for name in ("ours", "shared", "mine"):
        (tmp_path / name).mkdir()
    write_activation_index(tmp_path / "ours", store, sae_of(), 1, **SMALL)
    write_activation_index(tmp_path / "shared", store, sae_of(), 1, **SMALL)
    for name in ("shared/thesis.txt", "mine/card.json", "mine/clips.parquet"):
        (tmp_path / name).write_text("mine")
    for name in ("ours", "shared", "mine", "nowhere"):
        remove_index(tmp_path / name)
    assert contents(tmp_path) == dict.fromkeys(("mine/card.json", "mine/clips.parquet", "shared/thesis.txt"), b"mine")


def test_a_damaged_part_is_named(store: ActivationStore, tmp_path: Path) -> None:
    index = write_activation_index(tmp_path, store, sae_of(), 1)
    (tmp_path / "part-00000.safetensors").write_bytes(b"short")
    with pytest.raises(DamagedArtifact, match="part-00000"):
        index.codes_of(store.clip_ids[0])
