"""Properties of every sparsifier."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from otoscope import Gated, JumpReLU, ReLU, SparseAutoencoder, TrainConfig, fit, load_sae, save_sae
from otoscope.sae.losses import ContrastSettings, forward
from otoscope.sae.optimiser import update_atoms
from otoscope.sae.sparsifiers import SPARSIFIERS, build_sparsifier, sparsifier_card
from otoscope.sae.sparsifiers.base import SelectsLatents
from tests.support.planted import planted

WIDTH, LATENTS, ROWS = 12, 64, 40
BUDGETS = (1, 5, 8, 9, 40, 64)
"""Values of k on both sides of the limit between gathered and dense products (8 of 64), and all latents."""


def build(name: str, k: int = 5, *, seed: int = 0, archetypes: int | None = None) -> SparseAutoencoder:
    sparsifier = build_sparsifier(name, k=k, latents=LATENTS)
    sae = SparseAutoencoder(WIDTH, LATENTS, sparsifier, seed=seed, unit_norm=archetypes is None, archetypes=archetypes)
    generator = torch.Generator().manual_seed(seed + 1)
    if sae.archetypes is not None:
        sae.archetypes.initialise(torch.randn(len(sae.archetypes.points), WIDTH, generator=generator), seed=seed)
        sae.initialise_at_points(sae.archetypes)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    if sae.archetypes is not None:
        update_atoms(sae, sae.archetypes)
    sae.set_scaling(torch.randn(WIDTH, generator=generator), torch.tensor(2.5))
    # Thresholds follow the data. These must not be the rows under test: BatchTopK's threshold would equal one of their
    # pre-activations exactly, and a product whose rounding depends on the batch size would move it across.
    sae.train()(rows(ROWS, seed=3))
    return sae.eval()


def rows(*shape: int, seed: int = 2) -> Tensor:
    return 3.0 * torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


every_sparsifier = pytest.mark.parametrize("name", sorted(SPARSIFIERS))
every_dictionary = pytest.mark.parametrize("archetypes", [None, 10], ids=["free", "archetypal"])


SELECTING = [name for name in SPARSIFIERS if isinstance(build_sparsifier(name, k=1, latents=2), SelectsLatents)]
"""Sparsifiers with at most k active latents in every row; the others have k on average, once trained."""


@every_sparsifier
@every_dictionary
@pytest.mark.parametrize("k", BUDGETS)
@pytest.mark.parametrize("training", [False, True])
def test_sparsifier_codes_are_never_negative(name: str, archetypes: int | None, k: int, training: bool):
    codes = build(name, k, archetypes=archetypes).train(training).encode(rows(ROWS))
    assert (codes >= 0).all()
    assert (codes > 0).any()


@pytest.mark.parametrize("name", SELECTING)
@pytest.mark.parametrize("k", BUDGETS)
def test_selecting_sparsifier_never_exceeds_k(name: str, k: int):
    assert ((build(name, k).encode(rows(ROWS)) > 0).sum(dim=1) <= k).all()
    ties = build_sparsifier(name, k=k, latents=LATENTS)(torch.ones(3, LATENTS))
    assert ((ties > 0).sum(dim=1) <= k).all()


@every_sparsifier
@pytest.mark.parametrize("k", [2, 6])
def test_trained_sparsifier_has_k_active_latents_on_average(name: str, k: int):
    config = TrainConfig(sparsifier=name, batch=100, epochs=30, learning_rate=3e-3)
    trained = fit(planted(0, 1), planted(2), config, latents=LATENTS, k=k)
    assert trained.summary["valid_l0"] <= (k if name in SELECTING else 1.35 * k)
    assert trained.summary["valid_l0"] >= 0.6 * k
    assert trained.summary["valid_explained_variance"] > 0.08


def plain_codes(sae: SparseAutoencoder, weights: dict[str, Tensor], pre: Tensor) -> Tensor:
    """Return codes by elementary operations, with the sparsifier's active entries."""
    with torch.no_grad():
        active = sae.sparsifier(pre) > 0
    if isinstance(sae.sparsifier, Gated):
        pre = weights["sparsifier.stretch"].exp() * pre + weights["sparsifier.shift"]
    return torch.where(active, pre, 0.0)


@every_sparsifier
@pytest.mark.parametrize("k", BUDGETS)
def test_sparsifier_gradient_equals_plain_autograd(name: str, k: int):
    sae = build(name, k).double()
    batch = sae.normalise(rows(ROWS).double())
    forward(sae, batch).error.backward()
    actual = {key: p.grad for key, p in sae.named_parameters()}

    plain = {key: p.detach().clone().requires_grad_() for key, p in sae.named_parameters()}
    pre = batch @ plain["encoder"].T + plain["encoder_bias"]
    rebuilt = plain_codes(sae, plain, pre) @ plain["decoder"] + plain["decoder_bias"]
    ((rebuilt - batch) ** 2).mean().backward()
    for key, parameter in plain.items():
        if parameter.grad is None:
            assert key == "sparsifier.log_threshold"  # the straight-through estimate has its own test
            continue
        torch.testing.assert_close(actual[key], parameter.grad, rtol=0, atol=1e-8)
        assert parameter.grad.abs().max() > 1e-4


def plain_loss(
    sae: SparseAutoencoder, weights: dict[str, Tensor], batch: Tensor, shares: tuple[float, ...], contrast: bool
) -> Tensor:
    """Return the training loss by elementary operations, with the current penalty weights."""
    pre = batch @ weights["encoder"].T + weights["encoder_bias"]
    codes, decoder, bias = plain_codes(sae, weights, pre), weights["decoder"], weights["decoder_bias"]
    errors = [((codes[:, :m] @ decoder[:m] + bias - batch) ** 2).mean() for m in (round(s * LATENTS) for s in shares)]
    loss = sum(errors, start=torch.zeros(())) / len(errors)
    lengths = (decoder**2).sum(dim=1).sqrt()
    if isinstance(sae.sparsifier, ReLU):
        loss = loss + sae.sparsifier.strength.weight * (codes * lengths).sum(dim=1).mean()
    if isinstance(sae.sparsifier, Gated):
        gate = pre.clamp_min(0)
        alone = ((gate @ decoder.detach() + bias.detach() - batch) ** 2).mean()
        loss = loss + sae.sparsifier.strength.weight * (gate * lengths.detach()).sum(dim=1).mean() + alone
    if contrast:
        first, beside = (part / (part**2).sum(dim=1, keepdim=True).sqrt() for part in codes[:, :16].chunk(2))
        similar = (first @ beside.T / 0.1).exp()
        own = similar.diagonal()
        loss = loss - 0.3 * ((own / similar.sum(dim=1)).log() + (own / similar.sum(dim=0)).log()).mean() / 2
    return loss


@every_sparsifier
@pytest.mark.parametrize("shares", [(1.0,), (0.125, 0.5, 1.0)], ids=["whole", "nested"])
@pytest.mark.parametrize("contrast", [False, True], ids=["frames", "neighbours"])
def test_loss_gradient_equals_plain_autograd(name: str, shares: tuple[float, ...], contrast: bool):
    sae = build(name, 40).double().train()
    batch = sae.normalise(rows(ROWS).double())
    seen = forward(sae, batch, prefixes=shares, contrast=ContrastSettings(0.3, 0.25) if contrast else None)
    loss = seen.error if seen.penalty is None else seen.error + seen.penalty
    loss.backward()

    plain = {key: p.detach().clone().requires_grad_() for key, p in sae.named_parameters()}
    expected = plain_loss(sae, plain, batch, shares, contrast)
    expected.backward()
    if not isinstance(sae.sparsifier, JumpReLU):  # its penalty is the number of active latents, without a gradient here
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    actual = {key: p.grad for key, p in sae.named_parameters()}
    for key, parameter in plain.items():
        if key == "sparsifier.log_threshold":
            continue
        torch.testing.assert_close(actual[key], parameter.grad, rtol=0, atol=1e-8)


@every_sparsifier
def test_fired_counts_equal_those_of_the_codes(name: str):
    sae = build(name)
    batch = rows(ROWS)
    torch.testing.assert_close(forward(sae, sae.normalise(batch)).fired, (sae.encode(batch) > 0).sum(dim=0))


@every_sparsifier
@every_dictionary
def test_saved_sae_loads_unchanged(name: str, archetypes: int | None, tmp_path: Path):
    sae = build(name, archetypes=archetypes)
    save_sae(tmp_path, sae, {"layer": 3})
    loaded, card = load_sae(tmp_path)
    assert card["layer"] == 3
    assert sparsifier_card(loaded.sparsifier) == sparsifier_card(sae.sparsifier)
    for ours, theirs in zip(sae(rows(ROWS)), loaded(rows(ROWS)), strict=True):
        assert torch.equal(ours, theirs)


@every_sparsifier
@every_dictionary
def test_codes_of_a_row_do_not_depend_on_the_batch(name: str, archetypes: int | None):
    sae, batch = build(name, archetypes=archetypes), rows(ROWS)
    whole = sae(batch)
    alone = [sae(row[None]) for row in batch]
    torch.testing.assert_close(torch.cat([one.codes for one in alone]), whole.codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.cat([one.reconstruction for one in alone]), whole.reconstruction, rtol=1e-5, atol=1e-5
    )


@every_sparsifier
@every_dictionary
def test_codes_do_not_depend_on_leading_axes(name: str, archetypes: int | None):
    sae, clips = build(name, archetypes=archetypes), rows(4, 10)
    flat = sae(clips.reshape(-1, WIDTH))
    folded = sae(clips)
    assert folded.codes.shape == (4, 10, LATENTS)
    assert torch.equal(folded.codes.reshape(-1, LATENTS), flat.codes)
    torch.testing.assert_close(folded.reconstruction.reshape(-1, WIDTH), flat.reconstruction, rtol=1e-6, atol=1e-6)
    assert sae(clips[0, 0]).codes.shape == (LATENTS,)
