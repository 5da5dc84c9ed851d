"""Properties of single sparsifiers; properties shared by all are in tests/laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from otoscope import BatchTopK, Gated, JumpReLU, ReLU, SparseAutoencoder, TopK, TrainConfig, fit
from otoscope.sae.losses import forward
from otoscope.sae.sparsifiers.base import BatchState
from otoscope.sae.train import begin


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seen(pre: Tensor, codes: Tensor) -> BatchState:
    return BatchState(draw(len(pre), 4, seed=1), pre, codes, draw(pre.shape[1], 4, seed=2), draw(4, seed=3))


def test_batch_topk_shares_the_budget_of_a_batch():
    pre = torch.tensor([[9.0, 8.0, 7.0], [1.0, 0.5, -1.0]])
    assert BatchTopK(1).train()(pre).tolist() == [[9, 8, 0], [0, 0, 0]]


def test_batch_topk_l0_in_eval_mode_matches_training():
    sparsifier = BatchTopK(4).double().train()
    for seed in range(200):
        sparsifier(draw(64, 32, seed=seed))
    sparsifier.eval()
    active = (sparsifier(draw(2000, 32, seed=999)) > 0).sum(dim=1).double().mean()
    # the smallest of 256 kept values is slightly below the threshold that 4 of 32 exceed
    assert active.item() == pytest.approx(4, rel=0.05)


@settings(deadline=None, max_examples=30)
@given(k=st.integers(1, 8), seed=st.integers(0, 99), parts=st.integers(1, 5), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_batch_topk_calibrated_l0_is_at_most_k(k: int, seed: int, parts: int, scale: float):
    sparsifier, pre = BatchTopK(k).eval(), scale * draw(400, 32, seed=seed).float()
    sparsifier.calibrate(pre.chunk(parts))
    active = (sparsifier(pre) > 0).sum().item() / len(pre)
    assert 0.97 * k <= active <= k


@pytest.mark.parametrize("kind", [JumpReLU, Gated])
def test_calibrated_l0_is_at_most_k(kind: type[JumpReLU | Gated]):
    sparsifier, pre = kind(3, 32).double(), draw(400, 32)
    with torch.no_grad():
        for parameter in sparsifier.parameters():
            parameter.add_(0.2 * draw(32, seed=5))
    before = (sparsifier(2 * pre) > 0).sum().item() / len(pre)
    sparsifier.eval()
    for _ in range(2):  # an earlier calibration must have no effect
        sparsifier.calibrate((2 * pre).chunk(3))
        assert 2.9 <= (sparsifier(2 * pre) > 0).sum().item() / len(pre) <= 3
    assert (sparsifier.train()(2 * pre) > 0).sum().item() / len(pre) == before > 3


def test_batch_topk_calibration_with_few_positive_values():
    sparsifier, pre = BatchTopK(3).eval(), -draw(50, 8).abs()
    pre[0, 0] = 1e-3
    sparsifier.calibrate([pre])
    assert (sparsifier(pre) > 0).nonzero().tolist() == [[0, 0]]


def test_batch_topk_is_calibrated_on_validation_rows():
    """Held-out rows with larger pre-activations still have at most k active latents."""
    planted, unseen = draw(2000, 16), 1.5 * draw(500, 16, seed=1)
    config = TrainConfig(sparsifier="batch_topk", epochs=3)
    trained = fit(planted.float(), unseen.float(), config, latents=32, k=4)
    active = (trained.sae.encode(unseen.float()) > 0).sum(dim=1).float().mean().item()
    assert trained.summary["valid_l0"] == pytest.approx(active)
    assert 3.8 <= active <= 4.0


@pytest.mark.parametrize("sparsifier", ["relu", "gated", "jumprelu"])
@pytest.mark.parametrize("init", ["tied", "principal"])
def test_penalised_sparsifiers_start_at_k(sparsifier: str, init: str):
    """A start with half of all latents active would make the penalty overshoot."""
    rows = draw(1000, 16).float()
    begun = begin(
        rows, rows[:100], TrainConfig.model_validate({"sparsifier": sparsifier, "init": init}), latents=64, k=6
    )
    active = (begun.sae.train().encode(rows) > 0).sum(dim=1).float().mean().item()
    assert active == pytest.approx(6, abs=0.5)


def test_gated_initial_threshold_keeps_magnitudes():
    sparsifier, pre = Gated(3, 32).double(), draw(500, 32)
    opening = sparsifier.initial_threshold(pre)
    codes = sparsifier(pre - opening)
    assert torch.equal(codes > 0, pre > opening)
    assert torch.allclose(codes[codes > 0], pre[codes > 0], atol=1e-6)


def test_jumprelu_initialise_sets_l0_to_k():
    sparsifier, pre = JumpReLU(3, 32).double(), draw(500, 32)
    sparsifier.initialise(pre)
    assert (sparsifier(pre) > 0).sum(dim=1).double().mean().item() == pytest.approx(3, abs=0.1)


def test_jumprelu_threshold_gradient_is_that_of_the_blurred_step():
    """The estimate is the derivative of the expectation when log(pre) is blurred over the window."""
    sparsifier = JumpReLU(1, 1).double()
    with torch.no_grad():
        sparsifier.log_threshold.fill_(0.2)
    pre = torch.linspace(-1.0, 1.0, 200_001, dtype=torch.float64).exp()[:, None]
    sparsifier(pre).mean().backward()
    actual = sparsifier.log_threshold.grad
    # log(pre) is uniform on [-1, 1], density 1/2: d/dt of the integral of exp(u) / 2 over u > t is -exp(t) / 2
    assert actual is not None
    assert actual.item() == pytest.approx(-0.5 * torch.tensor(0.2).exp().item(), rel=1e-3)
    assert sparsifier.bandwidth / 2 < 0.8


def test_jumprelu_penalty_counts_active_latents():
    sparsifier, pre = JumpReLU(3, 32).double(), draw(500, 32)
    sparsifier.initialise(pre)
    codes = sparsifier(pre)
    penalty = sparsifier.penalty(seen(pre, codes))
    count = (codes > 0).sum(dim=1).double().mean()
    assert penalty.item() == pytest.approx((sparsifier.strength.weight * count).item(), rel=1e-6)
    penalty.backward()
    assert sparsifier.log_threshold.grad is not None
    assert (sparsifier.log_threshold.grad < 0).all()


def test_relu_penalty_by_hand():
    sparsifier, pre = ReLU(3).double(), draw(50, 8)
    batch = seen(pre, sparsifier(pre))
    penalty = sparsifier.penalty(batch)
    by_hand = sum(code * atom.norm() for row in batch.codes for code, atom in zip(row, batch.decoder, strict=True)) / 50
    assert penalty.item() == pytest.approx(float(sparsifier.strength.weight * by_hand), rel=1e-9)


@pytest.mark.parametrize(("active", "grows"), [(1, False), (6, True)])
def test_penalty_controller_moves_towards_k(active: int, grows: bool):
    sparsifier = ReLU(3).double()
    before = sparsifier.strength.weight.item()
    codes = torch.zeros(10, 8, dtype=torch.float64)
    codes[:, :active] = 1.0
    sparsifier.penalty(seen(codes, codes))
    assert (sparsifier.strength.weight.item() > before) == grows


def test_gated_codes_by_hand():
    sparsifier = Gated(2, 3)
    with torch.no_grad():
        sparsifier.shift.copy_(torch.tensor([1.0, -5.0, 1.0]))
        sparsifier.stretch.copy_(torch.tensor([2.0, 1.0, 1.0]).log())
    assert sparsifier(torch.tensor([[3.0, 2.0, -0.5]])).tolist() == [[7.0, 0.0, 0.0]]


def test_gated_penalty_trains_the_gate_only():
    sparsifier, pre = Gated(2, 8).double(), draw(50, 8).requires_grad_()
    batch = seen(pre, sparsifier(pre))
    batch.decoder.requires_grad_()
    sparsifier.penalty(batch).backward()
    assert batch.decoder.grad is None
    assert pre.grad is not None
    assert ((pre.grad != 0) == (pre > 0)).all()


def test_nested_error_by_hand():
    sae, x = SparseAutoencoder(6, 16, TopK(4)).double(), draw(30, 6)
    with torch.no_grad():
        assert sae.decoder_bias is not None
        sae.decoder_bias.add_(0.1)
        codes = sae.sparsifier(sae.preactivate(x))
        errors = [((codes[:, :m] @ sae.decoder[:m] + 0.1 - x) ** 2).mean() for m in (2, 8, 16)]
    actual = forward(sae, x, prefixes=(0.125, 0.5, 1.0))
    torch.testing.assert_close(actual.error, torch.stack(errors).mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(actual.rebuilt, sae(x).reconstruction, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prefixes", [(), (0.5,), (0.5, 0.25, 1.0), (0.0, 1.0)])
def test_train_config_prefix_errors(prefixes: tuple[float, ...]):
    with pytest.raises(ValidationError, match=r"prefixes must rise from above 0 to 1"):
        TrainConfig(prefixes=prefixes)
