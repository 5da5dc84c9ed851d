"""Where a dictionary is trained, and the compiled passes of the path that a GPU takes."""

from functools import partial

import pytest
import torch

from otoscope import Bank, TrainConfig, fit
from otoscope.errors import ConfigError
from otoscope.sae.bank import BankMember
from otoscope.sae.optimiser import TorchStepper
from otoscope.sae.resources import find_device
from tests.support.planted import planted

NO_GPU = not torch.cuda.is_available()


@pytest.mark.parametrize("prefixes", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("sparsifier", ["topk", "batch_topk", "relu", "jumprelu", "gated"])
def test_compiled_passes_train_the_same_dictionary(sparsifier: str, prefixes: tuple[float, ...]):
    """The graph that is traced, gradients included, run without fusing anything: what a GPU's compiler is given."""
    recipe = TrainConfig(sparsifier=sparsifier, prefixes=prefixes, batch=64, epochs=2, dead_window_rows=100)
    train = partial(fit, planted(0, 1), planted(2), recipe, latents=48, k=12)
    plain = train(stepper=TorchStepper)
    compiled = train(stepper=partial(TorchStepper, backend="aot_eager"))
    for name, value in plain.sae.state_dict().items():
        torch.testing.assert_close(compiled.sae.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cpuu", "no device 'cpuu'; give cpu, cuda, or cuda:1"),
        ("mps", "trained on cpu or cuda, not on 'mps'"),
        pytest.param(
            "cuda", r"PyTorch finds 0 GPU\(s\) here", marks=pytest.mark.skipif(not NO_GPU, reason="has a GPU")
        ),
        ("cuda:99", r"device 'cuda:99': PyTorch finds \d+ GPU"),
    ],
)
def test_says_which_devices_there_are(name: str, told: str):
    with pytest.raises(ConfigError, match=told):
        find_device(name)


def test_a_missing_device_is_told_before_anything_is_trained():
    rows = planted(0, frames=100)
    with pytest.raises(ConfigError, match="cuda:99"):
        Bank(rows, rows, [BankMember(name="a", latents=32, k=4)], device="cuda:99")
    with pytest.raises(ConfigError, match="cuda:99"):
        fit(rows, rows, latents=32, k=4, device="cuda:99")


@pytest.mark.skipif(NO_GPU, reason="PyTorch finds no GPU")
def test_a_gpu_trains_what_a_cpu_trains():
    train = partial(fit, planted(0, 1, 2), planted(3), latents=64, k=6)
    here, there = train(stepper=TorchStepper), train(device="cuda")
    assert there.sae.device.type == "cpu"
    assert there.summary["valid_mse"] == pytest.approx(here.summary["valid_mse"], rel=0.02)


def test_the_card_says_where_it_was_trained():
    rows = planted(0, frames=100)
    assert fit(rows, rows, TrainConfig(epochs=1), latents=32, k=4).summary["device"] == "cpu"
