"""Devices, and the compiled passes of the GPU path."""

from functools import partial

import pytest
import torch

from otoscope import Bank, SparseAutoencoder, TopK, TrainConfig, fit
from otoscope.errors import ConfigError
from otoscope.sae.bank import BankMember
from otoscope.sae.losses import forward, gather_forward
from otoscope.sae.optimiser import TorchStepper
from otoscope.sae.sparsifiers import SPARSIFIERS
from tests.support.planted import planted

NO_GPU = not torch.cuda.is_available()


@pytest.mark.parametrize("prefixes", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("sparsifier", sorted(SPARSIFIERS))
def test_torch_stepper_compiled_trains_the_same_sae(sparsifier: str, prefixes: tuple[float, ...]):
    """The traced graph with gradients, as a GPU compiler gets it, runs here without fusion."""
    config = TrainConfig(sparsifier=sparsifier, prefixes=prefixes, batch=64, epochs=2, dead_window_rows=100)
    train = partial(fit, planted(0, 1), planted(2), config, latents=48, k=12)
    plain = train(stepper=TorchStepper)
    compiled = train(stepper=partial(TorchStepper, backend="aot_eager"))
    for name, value in plain.sae.state_dict().items():
        torch.testing.assert_close(compiled.sae.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("sparsifier", sorted(SPARSIFIERS))
def test_torch_stepper_with_products_in_bfloat16_trains_a_similar_sae(sparsifier: str):
    config = TrainConfig(sparsifier=sparsifier, batch=64, epochs=4, dead_window_rows=100)
    train = partial(fit, planted(0, 1), planted(2), config, latents=48, k=12)
    plain, rounded = train(stepper=TorchStepper), train(stepper=partial(TorchStepper, precision=torch.bfloat16))
    assert rounded.sae.encoder.dtype == torch.float32
    assert not torch.equal(rounded.sae.encoder, plain.sae.encoder)
    assert rounded.summary["valid_mse"] == pytest.approx(plain.summary["valid_mse"], rel=0.05)


def test_gather_forward_has_the_gradients_of_dense_products_when_compiled():
    inner = torch.randn(30, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    compiled = torch.compile(partial(gather_forward, sparse_gradients=False), backend="aot_eager", fullgraph=True)
    for gather in (compiled, gather_forward, None):
        sae = SparseAutoencoder(10, 40, TopK(6)).double()
        batch = forward(sae, inner) if gather is None else gather(sae, TopK(6), inner)
        batch.error.backward()
        gradients.append([batch.fired, batch.error.detach(), *(p.grad for p in sae.parameters())])
    for others in gradients[:2]:
        for value, expected in zip(others, gradients[2], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-15)


def test_missing_device_error_before_training():
    rows = planted(0, frames=100)
    with pytest.raises(ConfigError, match="cuda:99"):
        Bank(rows, rows, [BankMember(name="a", latents=32, k=4)], device="cuda:99")
    with pytest.raises(ConfigError, match="cuda:99"):
        fit(rows, rows, latents=32, k=4, device="cuda:99")


@pytest.mark.skipif(NO_GPU, reason="PyTorch finds no GPU")
def test_fit_on_a_gpu_matches_the_cpu():
    train = partial(fit, planted(0, 1, 2), planted(3), latents=64, k=6)
    here, there = train(stepper=TorchStepper), train(device="cuda")
    assert there.sae.device.type == "cpu"
    assert there.summary["valid_mse"] == pytest.approx(here.summary["valid_mse"], rel=0.02)


def test_summary_names_the_device():
    rows = planted(0, frames=100)
    assert fit(rows, rows, TrainConfig(epochs=1), latents=32, k=4).summary["device"] == "cpu"
