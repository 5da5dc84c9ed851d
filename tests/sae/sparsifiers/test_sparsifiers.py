"""Building sparsifiers by name, with hyper-parameters, from cards and from outside the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otoscope import JumpReLU, SparseAutoencoder, TopK, TrainConfig, fit
from otoscope.errors import ConfigError, DamagedArtifact
from otoscope.sae.sparsifiers import (
    SPARSIFIERS,
    build_sparsifier,
    check_sparsifier,
    sparsifier_card,
    sparsifier_from_card,
)
from otoscope.sae.sparsifiers.base import k_from_sparsity
from otoscope.sae.train import begin
from tests.support.planted import planted


@pytest.mark.parametrize(
    ("sparsity", "k"), [(0.75, 512), (0.80, 409), (0.85, 307), (0.90, 204), (0.95, 102), (0.99, 20)]
)
def test_k_from_sparsity_of_the_paper(sparsity: float, k: int):
    assert k_from_sparsity(2048, sparsity) == k


@settings(deadline=None)
@given(hnp.arrays("float32", (3, 9), elements=st.integers(-3, 3).map(float)), st.integers(1, 9))
def test_topk_keeps_the_largest(pre, k: int):
    pre = torch.from_numpy(pre)
    codes = TopK(k)(pre)
    assert ((codes > 0).sum(dim=1) == (pre > 0).sum(dim=1).clamp(max=k)).all()
    assert ((codes == 0) | (codes == pre)).all()
    for row, kept in zip(pre, codes > 0, strict=True):
        if kept.any() and (~kept).any():
            assert row[kept].min() >= row[~kept].max()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_k_from_sparsity_range_error(sparsity: float):
    with pytest.raises(ConfigError, match=r"sparsity must be at least 0 and below 1"):
        k_from_sparsity(2048, sparsity)


def test_check_k_zero_error():
    with pytest.raises(ConfigError, match=r"k must be at least 1, got 0 of 64 latents"):
        k_from_sparsity(64, 0.99)
    with pytest.raises(ConfigError, match=r"k must be at least 1"):
        TopK(0)


def test_check_k_above_latents_error():
    with pytest.raises(ConfigError, match=r"k=65 exceeds latents=64"):
        build_sparsifier("topk", k=65, latents=64)
    with pytest.raises(ConfigError, match=r"k=5 exceeds latents=4"):
        TopK(5)(torch.zeros(1, 4))


def test_build_sparsifier_suggests_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no sparsifier 'topkk'; did you mean topk\?"):
        build_sparsifier("topkk", k=1, latents=4)


@pytest.mark.parametrize("card", [{}, {"name": "topk"}, {"name": "nope", "k": 3}, {"name": "topk", "k": 3, "z": 1}])
def test_sparsifier_from_card_damaged_error(card: dict[str, object]):
    with pytest.raises(DamagedArtifact, match=r"cannot be built"):
        sparsifier_from_card(card, latents=8)


class LeakyTopK:
    """Sparsifier of a user: the k largest pre-activations, and a share of the other positive ones."""

    def __init__(self, k: int, *, leak: float = 0.1) -> None:
        self.k, self.leak = k, leak

    def __call__(self, pre: torch.Tensor) -> torch.Tensor:
        top = TopK(self.k)(pre)
        return torch.where(top > 0, top, self.leak * pre.relu())


QUICK = TrainConfig(batch=128, epochs=2, learning_rate=3e-3)


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_sparsifier_card_rebuilds_the_sparsifier(name: str):
    sparsifier = build_sparsifier(name, k=3, latents=16)
    card = sparsifier_card(sparsifier)
    assert (card["name"], card["k"]) == (name, 3)
    assert sparsifier_card(sparsifier_from_card(card, latents=16)) == card


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "jumprelu", "bandwith": 1}, r"no hyper-parameter 'bandwith' .*'jumprelu'; did you mean bandwidth\?"),
        ({"name": "topk", "bandwidth": 1}, r"no hyper-parameter 'bandwidth' of the sparsifier 'topk'; known: none"),
        ({"name": "jumprelu", "bandwidth": 0}, r"bandwidth must be a number above 0, got 0"),
        ({"name": "jumprelu", "bandwidth": "wide"}, r"bandwidth must be a number above 0, got 'wide'"),
        ({"name": "batch_topk", "momentum": 1.5}, r"momentum must be a number above 0 and at most 1, got 1.5"),
        ({"name": "gated", "penalty_weight": -1}, r"penalty_weight must be a number above 0, got -1"),
        ({"bandwidth": 1}, r"no sparsifier None"),
        (3, r"sparsifier: got 3; give a name, or a mapping"),
    ],
)
def test_train_config_sparsifier_errors(spec: object, message: str):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.preset(sparsifier=spec)


def test_check_sparsifier_reduces_a_mapping_without_hyper_parameters():
    assert check_sparsifier({"name": "gated"}) == "gated"
    assert check_sparsifier({"name": "gated", "penalty_rate": 0.1}) == {"name": "gated", "penalty_rate": 0.1}


def test_hyper_parameters_are_trained_and_saved(tmp_path: Path):
    config = QUICK.model_copy(update={"sparsifier": {"name": "jumprelu", "bandwidth": 0.2, "penalty_weight": 0.1}})
    result = fit(planted(0), planted(1), config, latents=96, k=6)
    result.sae.save_pretrained(tmp_path)
    loaded = SparseAutoencoder.from_pretrained(tmp_path)
    assert isinstance(loaded.sparsifier, JumpReLU)
    assert (loaded.sparsifier.bandwidth, loaded.sparsifier.penalty_weight) == (0.2, 0.1)
    plain = fit(planted(0), planted(1), QUICK.model_copy(update={"sparsifier": "jumprelu"}), latents=96, k=6).sae
    assert not torch.equal(plain.encoder, result.sae.encoder)


def test_fit_with_a_sparsifier_from_outside(tmp_path: Path):
    rows, sparsifier = planted(0), LeakyTopK(6, leak=0.2)
    result = fit(rows, planted(1), QUICK, latents=96, sparsifier=sparsifier)
    assert repr(result.sae) == "SparseAutoencoder(width=24, latents=96, LeakyTopK(k=6, leak=0.2))"
    result.sae.save_pretrained(tmp_path, {"layer": 3})
    with pytest.raises(ConfigError, match=r"LeakyTopK is not part of otoscope.*give an instance, such as .*LeakyTopK"):
        SparseAutoencoder.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"saved with the sparsifier .*'leak': 0.2.*, got .*'leak': 0.1"):
        SparseAutoencoder.from_pretrained(tmp_path, sparsifier=LeakyTopK(6))
    loaded = SparseAutoencoder.from_pretrained(tmp_path, sparsifier=LeakyTopK(6, leak=0.2))
    assert loaded.card["layer"] == 3
    np.testing.assert_array_equal(loaded.encode(rows.array), result.sae.encode(rows.array))


def test_fit_trains_a_copy_of_the_sparsifier():
    sparsifier = JumpReLU(6, 96, bandwidth=0.3)
    before = sparsifier.log_threshold.detach().clone()
    run = begin(planted(0), planted(1), QUICK, latents=96, sparsifier=sparsifier)
    assert torch.equal(sparsifier.log_threshold, before)
    assert run.sae.sparsifier is not sparsifier
    assert sparsifier_card(run.sae.sparsifier) == sparsifier_card(sparsifier)


def test_fit_sparsifier_instance_errors():
    rows, valid = planted(0), planted(1)
    with pytest.raises(ConfigError, match=r"TopK\(k=6\) has k=6; leave out k and sparsity"):
        fit(rows, valid, QUICK, latents=96, k=5, sparsifier=TopK(6))
    with pytest.raises(ConfigError, match=r"k=97 exceeds latents=96"):
        fit(rows, valid, QUICK, latents=96, sparsifier=TopK(97))
    with pytest.raises(ConfigError, match=r"sparsifier: got 'topk'; give an instance"):
        fit(rows, valid, QUICK, latents=96, sparsifier="topk")  # pyright: ignore[reportArgumentType]
