"""KernelStepper trains the same SAE as TorchStepper, within rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope import ArrayRows, SparseAutoencoder, TopK, TrainConfig
from otoscope.errors import ConfigError
from otoscope.sae._kernels import llvm
from otoscope.sae._kernels.llvm import has_bfloat_products
from otoscope.sae.optimiser import KernelStepper, TorchStepper, is_supported, pick_stepper
from otoscope.sae.train import TrainingRun, begin, finish, train_steps
from otoscope.sae.training_state import load_progress, save_progress
from otoscope.sae.validation import validate

CONFIG = TrainConfig(batch=128, epochs=6)


def superposed(rows: int, *, seed: int) -> ArrayRows:
    """Return rows that are sparse sums of many directions, with noise."""
    rng = np.random.default_rng(seed)
    atoms = np.random.default_rng(99).standard_normal((96, 48)) / np.sqrt(48)
    active = (rng.random((rows, 96)) < 0.06) * rng.exponential(1.0, (rows, 96))
    return ArrayRows((active @ atoms + 0.05 * rng.standard_normal((rows, 48)) + 0.3).astype(np.float32))


def started(
    stepper: type[KernelStepper] | type[TorchStepper], *, preset: TrainConfig = CONFIG, k: int = 8, seed: int = 0
) -> TrainingRun:
    rows, valid = superposed(1500, seed=0), superposed(400, seed=1)
    return begin(rows, valid, preset, latents=160, k=k, seed=seed, stepper=stepper)


def trained(run: TrainingRun) -> float:
    for _ in train_steps(run):
        pass
    return 1 - validate(finish(run).sae, run.valid_rows, run.statistics).explained_variance


@pytest.mark.parametrize("k", [4, 8, 16])
def test_kernel_stepper_matches_the_error_of_torch(k: int) -> None:
    # rounding leads single runs to neighbouring optima, 1 % apart; the average is stable
    fast, plain = (np.mean([trained(started(e, k=k, seed=s)) for s in range(3)]) for e in (KernelStepper, TorchStepper))
    assert fast == pytest.approx(plain, rel=0.01)


def test_kernel_stepper_reports_the_losses_of_torch() -> None:
    seen = [
        [step.losses for _, step in zip(range(5), train_steps(started(e)), strict=False)]
        for e in (KernelStepper, TorchStepper)
    ]
    for fast, plain in zip(*seen, strict=True):
        assert fast == pytest.approx(plain, rel=0.02, abs=1e-3)


def test_kernel_stepper_matches_torch_on_the_paper_preset() -> None:
    preset = TrainConfig(
        centred=False, scaling="none", decoder_bias=False, init="linear", unit_norm=False,
        learning_rate=1e-3, warmup=0.0, decay=0.0, batch=16, epochs=2, aux_coefficient=0.0,
    )  # fmt: skip
    fast, plain = trained(started(KernelStepper, preset=preset)), trained(started(TorchStepper, preset=preset))
    assert fast == pytest.approx(plain, rel=0.01)


def test_kernel_stepper_resumed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole = started(KernelStepper)
    trained(whole)
    cut = started(KernelStepper)
    for step in train_steps(cut):
        if step.step == 17:
            break
    save_progress(tmp_path, cut)
    resumed = started(KernelStepper)
    assert load_progress(tmp_path, resumed)
    trained(resumed)
    for name, value in whole.sae.state_dict().items():
        assert torch.equal(value, resumed.sae.state_dict()[name]), name


def test_pick_stepper_unsupported_settings_use_torch() -> None:
    sae = SparseAutoencoder(8, 32, TopK(4), seed=0)
    nested = TrainConfig(prefixes=(0.5, 1.0))
    assert not is_supported(sae, nested)
    assert isinstance(pick_stepper(sae, nested, dead_window_rows=100), TorchStepper)
    assert isinstance(pick_stepper(sae.double(), TrainConfig(), dead_window_rows=100), TorchStepper)
    with pytest.raises(ConfigError, match="use TorchStepper"):
        KernelStepper(SparseAutoencoder(8, 32, TopK(4), seed=0), nested, dead_window_rows=100)


def test_pick_stepper_uses_kernels_if_supported() -> None:
    picked = pick_stepper(SparseAutoencoder(8, 32, TopK(4), seed=0), TrainConfig(), dead_window_rows=100)
    assert isinstance(picked, KernelStepper) == has_bfloat_products()


@pytest.mark.parametrize("features", [{}, {"avx512f": True, "avx512bw": True, "avx512vl": True}, None])
def test_pick_stepper_other_processors_use_torch(
    features: dict[str, bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known() -> dict[str, bool]:
        if features is None:
            raise RuntimeError("LLVM does not know this processor")
        return features

    monkeypatch.setattr(llvm.binding, "get_host_cpu_features", known)
    picked = pick_stepper(SparseAutoencoder(8, 32, TopK(4), seed=0), TrainConfig(), dead_window_rows=100)
    assert isinstance(picked, TorchStepper)
    rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    assert picked.step(rows, learning_rate=1e-3).l0 <= 4
