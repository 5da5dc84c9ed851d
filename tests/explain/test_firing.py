"""Examples, silent clips, classes and co-firing of planted latents."""

import numpy as np
import polars as pl
import pytest
import torch

from otoscope.activations.store import ActivationStore
from otoscope.errors import EvaluationError
from otoscope.explain.activation_index import ActivationIndex
from otoscope.explain.firing import (
    co_firing,
    diverse,
    firing_by_class,
    near_misses,
    quantile_examples,
    silent_clips,
    top_activations,
)
from otoscope.explain.index_writer import write_activation_index
from otoscope.sae import SparseAutoencoder, TopK
from tests.support.index_run import store_of

GROUPS = ["a", "a", "b", "b", "c", "c"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return store_of(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def index(store: ActivationStore, tmp_path_factory: pytest.TempPathFactory) -> ActivationIndex:
    """Latents 0 to 5 are the coordinates of the layer where they are positive; 6 repeats 0; 7 never fires."""
    sae = SparseAutoencoder(6, 8, TopK(8))
    with torch.no_grad():
        sae.encoder.copy_(torch.cat([torch.eye(6), torch.eye(6)[:1], torch.zeros(1, 6)]))
    return write_activation_index(tmp_path_factory.mktemp("index"), store, sae.eval().requires_grad_(False), 1)


def codes(index: ActivationIndex) -> list[np.ndarray]:
    return [index.codes_of(clip) for clip in index.clip_ids]


def test_top_activations_are_the_peaks_of_clips_one_per_group_first(index: ActivationIndex) -> None:
    peaks = [part[:, 2].max() for part in codes(index)]
    examples = top_activations(index, 2, GROUPS, top=6)
    assert [e.activation for e in examples] == pytest.approx([peaks[e.clip] for e in examples])
    assert len({e.clip for e in examples}) == 6
    for round_ in (examples[:3], examples[3:]):
        assert {GROUPS[e.clip] for e in round_} == {"a", "b", "c"}
        assert [e.activation for e in round_] == sorted((e.activation for e in round_), reverse=True)
    for example in examples:
        assert codes(index)[example.clip][example.row, 2] == pytest.approx(example.activation)


def test_diverse_keeps_the_order_within_each_turn() -> None:
    assert diverse([5, 4, 3, 2, 1, 0], GROUPS) == [5, 3, 1, 4, 2, 0]
    assert diverse([], GROUPS) == []


def test_quantile_examples_span_the_range_in_different_clips(index: ActivationIndex) -> None:
    active = np.concatenate([part[:, 1] for part in codes(index)])
    active = np.sort(active[active > 0])
    examples = quantile_examples(index, 1, GROUPS)
    ranks = [np.searchsorted(active, e.activation) / (len(active) - 1) for e in examples]
    assert ranks == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=0.03)
    assert len({e.clip for e in examples}) >= 4
    assert quantile_examples(index, 7, GROUPS) == []


def test_silent_clips_are_those_without_a_firing_row(index: ActivationIndex) -> None:
    wanted = [i for i, part in enumerate(codes(index)) if not (part[:, 3] > 0).any()]
    assert silent_clips(index, 3).tolist() == wanted
    assert silent_clips(index, 7).tolist() == list(range(6))


def test_near_misses_look_alike_and_are_silent(index: ActivationIndex) -> None:
    every = np.concatenate(codes(index))
    spectra = np.random.default_rng(0).normal(size=(index.rows, 4))
    firing = every[:, 4] > 0
    spectra[firing] += 20.0
    planted = int(np.flatnonzero(~firing & (index.clip_of(np.arange(index.rows)) == 3))[5])
    spectra[planted] = 20.0
    (nearest, *others) = near_misses(index, 4, spectra)
    assert index.first_rows[nearest.clip] + nearest.row == planted
    assert len({nearest.clip, *(e.clip for e in others)}) == 3
    assert all(every[index.first_rows[e.clip] + e.row, 4] == 0 for e in (nearest, *others))
    assert near_misses(index, 7, spectra) == []
    with pytest.raises(EvaluationError, match="spectra have 3 rows"):
        near_misses(index, 4, spectra[:3])


def test_firing_by_class_counts_rows_of_chosen_clips_with_a_class(index: ActivationIndex) -> None:
    classes = np.array(["x", "y", "x", "", "y", "z"])
    chosen = np.array([True, True, True, True, True, False])
    table = firing_by_class(index, classes, chosen)
    for name, members in {"x": [0, 2], "y": [1, 4]}.items():
        part = np.concatenate([codes(index)[i] for i in members])
        for row in table.filter(pl.col("class") == name).iter_rows(named=True):
            assert row["clips"], row["rows"] == (2, len(part))
            assert row["rate"] == pytest.approx((part[:, row["latent"]] > 0).mean())
            assert row["mean"] == pytest.approx(part[:, row["latent"]].mean(), rel=1e-3)
    assert set(table["class"]) == {"x", "y"}
    assert 7 not in set(table["latent"])


def test_co_firing_finds_the_repeated_latent(index: ActivationIndex) -> None:
    pairs = co_firing(index, [0, 7, 2], top=2)
    first = pairs.row(0, named=True)
    assert (first["latent"], first["other"]) == (0, 6)
    assert first["phi"] == first["conditional"] == pytest.approx(1.0)
    assert pairs.filter(pl.col("latent") == 7).is_empty()
    fires = np.concatenate(codes(index)) > 0
    for row in pairs.iter_rows(named=True):
        a, b = fires[:, row["latent"]], fires[:, row["other"]]
        assert row["together"] == (a & b).sum()
        assert row["phi"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert co_firing(index, []).columns == pairs.columns
