"""What every sparsifier must do, whatever else it does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from otoscope.sae.catalog import SPARSIFIERS, build_sparsifier
from otoscope.sae.checkpoint import load_sae, save_sae
from otoscope.sae.gated import Gated
from otoscope.sae.losses import forward
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.presets import TrainConfig
from otoscope.sae.train import fit
from tests.sae.planted import planted

WIDTH, LATENTS, ROWS = 12, 64, 40
BUDGETS = (1, 5, 8, 9, 40, 64)
"""On both sides of the border between gathered and dense products (8 of 64), and everything."""


def build(name: str, k: int = 5, *, seed: int = 0, **settings: bool) -> SparseAutoencoder:
    sae = SparseAutoencoder(WIDTH, LATENTS, build_sparsifier(name, k=k, latents=LATENTS), seed=seed, **settings)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    sae.set_scaling(torch.randn(WIDTH, generator=generator), torch.tensor(2.5))
    sae.train()(rows(ROWS))  # lets thresholds that follow the data see some
    return sae.eval()


def rows(*shape: int, seed: int = 2) -> Tensor:
    return 3.0 * torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


every_sparsifier = pytest.mark.parametrize("name", sorted(SPARSIFIERS))


STRICT = {"topk"}
"""Sparsifiers that hold every single row to the budget; the others hold the average, once trained."""


@every_sparsifier
@pytest.mark.parametrize("k", BUDGETS)
@pytest.mark.parametrize("training", [False, True])
def test_codes_are_never_negative(name: str, k: int, training: bool):
    codes = build(name, k).train(training).encode(rows(ROWS))
    assert (codes >= 0).all()
    assert (codes > 0).any()


@pytest.mark.parametrize("name", sorted(STRICT))
@pytest.mark.parametrize("k", BUDGETS)
def test_no_row_exceeds_a_strict_budget(name: str, k: int):
    assert ((build(name, k).encode(rows(ROWS)) > 0).sum(dim=1) <= k).all()
    ties = build_sparsifier(name, k=k, latents=LATENTS)(torch.ones(3, LATENTS))
    assert ((ties > 0).sum(dim=1) <= k).all()


@every_sparsifier
@pytest.mark.parametrize("k", [2, 6])
def test_training_meets_the_budget_on_average(name: str, k: int):
    config = TrainConfig(sparsifier=name, batch=100, epochs=30, learning_rate=3e-3)
    trained = fit(planted(0, 1), planted(2), config, latents=LATENTS, k=k)
    assert trained.summary["valid_l0"] <= (k if name in STRICT else 1.35 * k)
    assert trained.summary["valid_l0"] >= 0.6 * k
    assert trained.summary["valid_explained_variance"] > 0.08


def plain_codes(sae: SparseAutoencoder, weights: dict[str, Tensor], pre: Tensor) -> Tensor:
    """Return codes by elementary operations alone; which entries are active counts as given."""
    with torch.no_grad():
        active = sae.sparsifier(pre) > 0
    if isinstance(sae.sparsifier, Gated):
        pre = weights["sparsifier.stretch"].exp() * pre + weights["sparsifier.shift"]
    return torch.where(active, pre, 0.0)


@every_sparsifier
@pytest.mark.parametrize("k", BUDGETS)
def test_gradient_equals_plain_autograd(name: str, k: int):
    sae = build(name, k).double()
    batch = sae.normalise(rows(ROWS).double())
    forward(sae, batch).error.backward()
    found = {key: p.grad for key, p in sae.named_parameters()}

    plain = {key: p.detach().clone().requires_grad_() for key, p in sae.named_parameters()}
    pre = batch @ plain["encoder"].T + plain["encoder_bias"]
    rebuilt = plain_codes(sae, plain, pre) @ plain["decoder"] + plain["decoder_bias"]
    ((rebuilt - batch) ** 2).mean().backward()
    for key, parameter in plain.items():
        if parameter.grad is None:
            assert key == "sparsifier.log_threshold"  # a straight-through estimate has a test of its own
            continue
        torch.testing.assert_close(found[key], parameter.grad, rtol=0, atol=1e-8)
        assert parameter.grad.abs().max() > 1e-4


@every_sparsifier
def test_counts_of_firing_latents_are_those_of_the_codes(name: str):
    sae = build(name)
    batch = rows(ROWS)
    torch.testing.assert_close(forward(sae, sae.normalise(batch)).fired, (sae.encode(batch) > 0).sum(dim=0))


@every_sparsifier
def test_save_and_load_change_nothing(name: str, tmp_path: Path):
    sae = build(name)
    save_sae(tmp_path, sae, {"layer": 3})
    loaded, card = load_sae(tmp_path)
    assert card["layer"] == 3
    assert loaded.sparsifier.card() == sae.sparsifier.card()
    for ours, theirs in zip(sae(rows(ROWS)), loaded(rows(ROWS)), strict=True):
        assert torch.equal(ours, theirs)


@every_sparsifier
def test_a_row_means_the_same_in_any_batch(name: str):
    sae, batch = build(name), rows(ROWS)
    whole = sae(batch)
    alone = [sae(row[None]) for row in batch]
    torch.testing.assert_close(torch.cat([one.codes for one in alone]), whole.codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([one.rebuilt for one in alone]), whole.rebuilt, rtol=1e-5, atol=1e-5)


@every_sparsifier
def test_clips_of_frames_and_single_rows_are_the_same_rows(name: str):
    sae, clips = build(name), rows(4, 10)
    flat = sae(clips.reshape(-1, WIDTH))
    folded = sae(clips)
    assert folded.codes.shape == (4, 10, LATENTS)
    assert torch.equal(folded.codes.reshape(-1, LATENTS), flat.codes)
    torch.testing.assert_close(folded.rebuilt.reshape(-1, WIDTH), flat.rebuilt, rtol=1e-6, atol=1e-6)
    assert sae(clips[0, 0]).codes.shape == (LATENTS,)
