import pytest
import torch
from torch import Tensor

from otoscope import SparseAutoencoder, TopK, TrainConfig
from otoscope.errors import DamagedArtifact
from otoscope.sae.config import MARIOTTE2025
from otoscope.sae.losses import GATHER_RATIO, aux_k_loss
from otoscope.sae.optimiser import TorchStepper, project_gradient, renormalise

WIDTH, LATENTS = 8, 64


def rows(step: int, count: int = 20) -> Tensor:
    return torch.randn(count, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("k", [3, LATENTS // GATHER_RATIO, 30])
def test_torch_stepper_paper_preset_is_adam_on_mse(k: int):
    sae = SparseAutoencoder(WIDTH, LATENTS, TopK(k), decoder_bias=False, unit_norm=False, init="linear").double()
    weights = {name: p.detach().clone().requires_grad_() for name, p in sae.named_parameters()}
    adam = torch.optim.Adam(weights.values(), lr=1e-3)
    stepper = TorchStepper(sae, MARIOTTE2025, dead_window_rows=10)
    for step in range(6):
        x = rows(step)
        losses = stepper.step(x, learning_rate=1e-3)
        pre = (x @ weights["encoder"].T + weights["encoder_bias"]).relu()
        values, indices = pre.topk(k, dim=1)
        loss = ((torch.zeros_like(pre).scatter(1, indices, values) @ weights["decoder"] - x) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert losses.reconstruction == pytest.approx(loss.item(), abs=1e-12)
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.data, weights[name].data, rtol=0, atol=1e-10)


def test_renormalise_and_project_gradient():
    sae = SparseAutoencoder(WIDTH, LATENTS, TopK(3)).double()
    sae.decoder.grad = torch.randn(LATENTS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    renormalise(sae)
    project_gradient(sae)
    assert (sae.decoder.grad * sae.decoder).sum(dim=1).abs().max() < 1e-12
    with torch.no_grad():
        sae.decoder.mul_(3.0)
    renormalise(sae)
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(LATENTS, dtype=torch.float64))


def test_torch_stepper_counts_silent_rows():
    sae = SparseAutoencoder(WIDTH, LATENTS, TopK(4)).double()
    with torch.no_grad():
        sae.encoder_bias[:32] = -100.0
    config = TrainConfig(aux_coefficient=1.0)
    stepper = TorchStepper(sae, config, dead_window_rows=60)
    assert [stepper.step(rows(step), learning_rate=1e-3).dead_fraction for step in range(3)] == [0.0, 0.0, 0.0]
    assert (stepper.silent_rows[:32] == 60).all()
    assert stepper.step(rows(3), learning_rate=1e-3).dead_fraction >= 0.5


def test_aux_k_loss_trains_dead_latents_only():
    sae = SparseAutoencoder(WIDTH, LATENTS, TopK(4)).double()
    x = rows(0, 200)
    dead = torch.zeros(LATENTS, dtype=torch.bool)
    dead[10:20] = True
    loss = aux_k_loss(sae, x, torch.zeros_like(x), dead)
    loss.backward()
    for gradient in (sae.encoder.grad, sae.decoder.grad):
        assert gradient is not None
        assert (gradient[~dead] == 0).all()
        assert (gradient[dead].abs().sum(dim=1) > 0).all()
    perfect = aux_k_loss(sae, x, x, dead)
    assert torch.isfinite(perfect)


def test_torch_stepper_decays_the_encoder_only():
    plain, decayed = (SparseAutoencoder(WIDTH, LATENTS, TopK(4)).double() for _ in range(2))
    for sae, decay in ((plain, 0.0), (decayed, 10.0)):
        TorchStepper(sae, TrainConfig(weight_decay=decay), dead_window_rows=100).step(rows(0), learning_rate=1e-3)
    start = SparseAutoencoder(WIDTH, LATENTS, TopK(4)).double()
    torch.testing.assert_close(decayed.encoder, plain.encoder - 1e-2 * start.encoder, rtol=0, atol=1e-9)
    torch.testing.assert_close(decayed.decoder, plain.decoder, rtol=0, atol=0)


def test_torch_stepper_restore_other_model_error():
    stepper = TorchStepper(SparseAutoencoder(WIDTH, LATENTS, TopK(4)), MARIOTTE2025, dead_window_rows=10)
    other = TorchStepper(SparseAutoencoder(WIDTH, 32, TopK(4)), MARIOTTE2025, dead_window_rows=10)
    with pytest.raises(DamagedArtifact, match=r"belongs to another model"):
        stepper.restore(other.state())
