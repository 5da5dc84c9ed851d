"""KernelStepper takes the same steps as TorchStepper: to the last digits in float64, within rounding in bfloat16."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from otoscope import ArrayRows, BatchTopK, Gated, JumpReLU, SparseAutoencoder, TopK, TrainConfig
from otoscope.errors import ConfigError, DamagedArtifact
from otoscope.sae import kernel_step
from otoscope.sae.bank import load_progress, save_progress
from otoscope.sae.kernel_buffers import chunk_size
from otoscope.sae.kernel_step import (
    KernelStepper,
    fastest_products,
    is_supported,
    pick_stepper,
)
from otoscope.sae.optimiser import TorchStepper
from otoscope.sae.train import TrainingRun, begin, finish, train_steps
from otoscope.sae.validation import validate

CONFIG = TrainConfig(batch=128, epochs=6)
BUDGETS = (0.125, 0.25, 0.5, 1.0)
PRECISIONS = [torch.bfloat16, torch.float32]


def superposed(rows: int, *, seed: int) -> ArrayRows:
    """Return rows that are sparse sums of many directions, with noise."""
    rng = np.random.default_rng(seed)
    atoms = np.random.default_rng(99).standard_normal((96, 48)) / np.sqrt(48)
    active = (rng.random((rows, 96)) < 0.06) * rng.exponential(1.0, (rows, 96))
    return ArrayRows((active @ atoms + 0.05 * rng.standard_normal((rows, 48)) + 0.3).astype(np.float32))


def batch(step: int, *, rows: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, width, dtype=dtype, generator=torch.Generator().manual_seed(step))


def taken(
    factory, sparsifier, config, *, width: int, latents: int, rows: int, biases: bool = True, unit_norm: bool = True,
    **options,
):  # fmt: skip
    """Return model, stepper and losses after four steps in float64, with twenty latents that count as dead."""
    sae = SparseAutoencoder(
        width, latents, sparsifier, encoder_bias=biases, decoder_bias=biases, unit_norm=unit_norm, init="linear"
    )
    stepper = factory(sae.double().train(), config, dead_window_rows=10 * rows, **options)
    losses = []
    for step in range(4):
        stepper.silent_rows[: latents // 3] = 100 * rows
        losses.append(stepper.step(batch(step, rows=rows, width=width), learning_rate=1e-3))
    return sae, stepper, losses


def assert_same_steps(sparsifier, config, **shape):
    """Compare first moments, weights and losses of both steppers."""
    fast, fast_stepper, fast_losses = taken(KernelStepper, sparsifier(), config, threads=2, **shape)
    plain, plain_stepper, plain_losses = taken(TorchStepper, sparsifier(), config, **shape)
    for name in plain_stepper.parameters:
        gradients = [stepper.state()[f"{name}.exp_avg"] for stepper in (fast_stepper, plain_stepper)]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-12, msg=name)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)
    assert np.allclose(fast_losses, plain_losses, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("aux", "frozen", "biases"), [(0.5, False, True), (0.5, True, True), (0.0, False, False)])
@pytest.mark.parametrize("prefixes", [(1.0,), (0.25, 0.5, 1.0)])
@pytest.mark.parametrize("sparsifier", [TopK, BatchTopK])
def test_kernel_stepper_has_the_gradients_of_autograd(sparsifier, prefixes, aux, frozen, biases):
    config = TrainConfig(prefixes=prefixes, frozen_decoder=frozen, aux_coefficient=aux, weight_decay=0.1)
    assert_same_steps(lambda: sparsifier(9), config, width=24, latents=64, rows=50, biases=biases, unit_norm=biases)


@pytest.mark.parametrize("aux", [0.0, 0.5])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_kernel_stepper_has_the_gradients_of_autograd_for_several_budgets(k, aux):
    config = TrainConfig(k_shares=BUDGETS, aux_coefficient=aux)
    assert_same_steps(lambda: TopK(k), config, width=24, latents=64, rows=50)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("levels", [{}, {"prefixes": (0.25, 1.0)}, {"k_shares": (0.25, 1.0)}])
@pytest.mark.parametrize("sparsifier", [TopK, BatchTopK])
def test_kernel_stepper_has_the_gradients_of_autograd_when_it_multiplies_matrices(sparsifier, levels, biases):
    config, shape = TrainConfig(aux_coefficient=0.5, **levels), {"width": 24, "latents": 64, "rows": 100}
    assert has_dense_level(taken(KernelStepper, sparsifier(30), config, biases=biases, **shape)[1])
    assert_same_steps(lambda: sparsifier(30), config, biases=biases, **shape)


@pytest.mark.parametrize(("aux", "frozen", "biases"), [(0.5, False, True), (0.5, True, True), (0.0, False, False)])
@pytest.mark.parametrize("prefixes", [(1.0,), (0.25, 1.0)])
@pytest.mark.parametrize("sparsifier", [JumpReLU, Gated])
def test_kernel_stepper_has_the_gradients_of_autograd_for_thresholds(sparsifier, prefixes, aux, frozen, biases):
    config = TrainConfig(prefixes=prefixes, frozen_decoder=frozen, aux_coefficient=aux, weight_decay=0.1)

    def make():
        made = sparsifier(8, 64, penalty_weight=0.02).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(torch.linspace(-0.3, 0.3, 64))
        return made

    shape = {"width": 24, "latents": 64, "rows": 50, "biases": biases, "unit_norm": biases}
    state = taken(KernelStepper, make(), config, **shape)[1].state()
    assert all(state[name].any() for name in state if name.startswith("sparsifier."))
    assert_same_steps(make, config, **shape)


def has_dense_level(stepper: KernelStepper) -> bool:
    (work,) = stepper._work.values()
    return work.main.gathered < len(stepper.level_weights)


@pytest.mark.parametrize("budgets", [[7, 30], [30, 60]])
def test_kernel_stepper_has_the_gradients_of_autograd_after_a_change_of_budgets(budgets):
    def factory(kind):
        def make(sae, config, **options):
            stepper = kind(sae, config, **options)
            stepper.step(batch(9, rows=50, width=24), learning_rate=1e-3)
            stepper.use_budgets(budgets)
            return stepper

        return make

    config, shape = TrainConfig(k_shares=BUDGETS, aux_coefficient=0.5), {"width": 24, "latents": 64, "rows": 50}
    fast, fast_stepper, fast_losses = taken(factory(KernelStepper), TopK(30), config, **shape)
    plain, plain_stepper, plain_losses = taken(factory(TorchStepper), TopK(30), config, **shape)
    for name in plain_stepper.parameters:
        gradients = [stepper.state()[f"{name}.exp_avg"] for stepper in (fast_stepper, plain_stepper)]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-12, msg=name)
        torch.testing.assert_close(fast.state_dict()[name], plain.state_dict()[name], rtol=0, atol=1e-9, msg=name)
    assert np.allclose(fast_losses, plain_losses, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sparsifier", [TopK, BatchTopK])
@pytest.mark.parametrize(
    ("rows", "width", "latents", "k"),
    [(1, 1, 1, 1), (5, 3, 2, 1), (16, 47, 33, 33), (130, 17, 40, 40), (600, 9, 7, 3), (70, 200, 300, 20)],
)
def test_kernel_stepper_supports_any_size(rows, width, latents, k, sparsifier):
    assert_same_steps(lambda: sparsifier(k), TrainConfig(aux_coefficient=0.5), width=width, latents=latents, rows=rows)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("width", [8, 33, 200])
def test_kernel_stepper_gradients_are_those_of_float64_up_to_the_rounding_of_products(width, precision):
    config, x = TrainConfig(aux_coefficient=0.5), batch(0, rows=200, width=width, dtype=torch.float32)
    exact = SparseAutoencoder(width, 64, TopK(5)).train()
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(parameter.bfloat16())  # both choose the same latents
    x = x.bfloat16().float()
    fast = SparseAutoencoder(width, 64, TopK(5)).train()
    fast.load_state_dict(exact.state_dict())
    steppers = [
        KernelStepper(fast, config, dead_window_rows=100, precision=precision),
        TorchStepper(exact.double(), config, dead_window_rows=100),
    ]
    for stepper, rows in zip(steppers, (x, x.double()), strict=True):
        stepper.silent_rows[:20] = 1000
        stepper.step(rows, learning_rate=0.0)
    for name in steppers[1].parameters:
        gradient, expected = (stepper.state()[f"{name}.exp_avg"] for stepper in steppers)
        assert (gradient - expected).norm() <= 0.05 * expected.norm(), name


def started(stepper, *, preset: TrainConfig = CONFIG, k: int = 8, seed: int = 0) -> TrainingRun:
    rows, valid = superposed(1500, seed=0), superposed(400, seed=1)
    return begin(rows, valid, preset, latents=160, k=k, seed=seed, stepper=stepper)


def trained(run: TrainingRun) -> float:
    for _ in train_steps(run):
        pass
    return 1 - validate(finish(run).sae, run.valid_rows, run.statistics).explained_variance


@pytest.mark.parametrize(("precision", "dense_ratio"), [("bfloat16", 0), ("bfloat16", 20), ("float32", 0)])
def test_kernel_stepper_with_rounded_tables_matches_the_error_of_torch(precision, dense_ratio, monkeypatch) -> None:
    # rounding leads single runs to neighbouring optima, 1 % apart; the mean difference of 16 runs is 0.3 %
    monkeypatch.setattr(kernel_step, "fastest_products", lambda: (getattr(torch, precision), dense_ratio))
    steppers = KernelStepper, TorchStepper
    errors = [[trained(started(e, k=k, seed=s)) for k in (8, 16) for s in range(4)] for e in steppers]
    assert np.mean(np.divide(*errors)) == pytest.approx(1.0, abs=0.01)


def test_kernel_stepper_matches_torch_on_the_paper_preset() -> None:
    preset = TrainConfig(
        centred=False, scaling="none", decoder_bias=False, init="linear", unit_norm=False,
        learning_rate=1e-3, warmup=0.0, decay=0.0, batch=16, epochs=2, aux_coefficient=0.0,
    )  # fmt: skip
    fast, plain = trained(started(KernelStepper, preset=preset)), trained(started(TorchStepper, preset=preset))
    assert fast == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sparsifier", [TopK, BatchTopK])
@pytest.mark.parametrize("rows", [1, 7, 100, 600])
@pytest.mark.parametrize("levels", [{"prefixes": (0.5, 1.0)}, {"k_shares": BUDGETS}])
@pytest.mark.parametrize("k", [5, 60])
def test_kernel_stepper_bytes_do_not_depend_on_threads(k, rows, sparsifier, precision, levels):
    results = []
    for threads in (1, 2, 3):
        sae = SparseAutoencoder(41, 70, sparsifier(k)).train()
        config = TrainConfig(**levels, aux_coefficient=0.1)
        stepper = KernelStepper(sae, config, dead_window_rows=2 * rows, threads=threads, precision=precision)
        losses = [
            stepper.step(batch(step, rows=rows, width=41, dtype=torch.float32), learning_rate=1e-3) for step in range(5)
        ]
        results.append((losses, {**sae.state_dict(), **stepper.state()}))
    for losses, arrays in results[1:]:
        assert losses == results[0][0]
        assert all(torch.equal(value, results[0][1][name]) for name, value in arrays.items())


@pytest.mark.parametrize("sparsifier", [JumpReLU, Gated])
def test_kernel_stepper_bytes_do_not_depend_on_threads_for_thresholds(sparsifier):
    results = []
    for threads in (1, 2, 3):
        made = sparsifier(5, 70)
        for parameter in made.parameters():
            torch.nn.init.constant_(parameter, -0.5)
        sae = SparseAutoencoder(41, 70, made).train()
        stepper = KernelStepper(sae, TrainConfig(aux_coefficient=0.1), dead_window_rows=400, threads=threads)
        for step in range(5):
            stepper.step(batch(step, rows=200, width=41, dtype=torch.float32), learning_rate=1e-3)
        results.append({**sae.state_dict(), **stepper.state()})
    for arrays in results[1:]:
        assert all(torch.equal(value, results[0][name]) for name, value in arrays.items())


@pytest.mark.parametrize("sparsifier", ["jumprelu", "gated"])
def test_kernel_stepper_matches_the_error_of_torch_for_thresholds(sparsifier: str) -> None:
    preset = CONFIG.model_copy(update={"sparsifier": sparsifier})
    errors = [
        [trained(started(e, preset=preset, k=k, seed=s)) for k in (8, 16) for s in range(4)]
        for e in (KernelStepper, TorchStepper)
    ]
    assert np.mean(np.divide(*errors)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("stepper", [KernelStepper, TorchStepper])
def test_kernel_stepper_resumed_run_ends_in_the_same_bytes(stepper, tmp_path: Path) -> None:
    preset = CONFIG.model_copy(update={"k_shares": BUDGETS, "sufficient_share": 0.9})
    whole = started(stepper, preset=preset, k=40)
    trained(whole)
    assert len(whole.budgets or []) == 2
    cut = started(stepper, preset=preset, k=40)
    for step in train_steps(cut):
        if step.step == 60:  # after the last measurement of the sufficient budget
            break
    assert cut.step > max(cut.plan.budget_steps)
    save_progress(tmp_path, cut)
    resumed = started(stepper, preset=preset, k=40)
    assert load_progress(tmp_path, resumed)
    trained(resumed)
    for name, value in whole.sae.state_dict().items():
        assert torch.equal(value, resumed.sae.state_dict()[name]), name


def test_kernel_stepper_resumes_in_the_precision_of_the_interrupted_run() -> None:
    steppers = [
        KernelStepper(SparseAutoencoder(8, 32, TopK(4)), TrainConfig(), dead_window_rows=100, precision=precision)
        for precision in PRECISIONS
    ]
    for stepper in steppers:
        stepper.step(batch(0, rows=20, width=8, dtype=torch.float32), learning_rate=1e-3)
    steppers[1].restore(steppers[0].state())
    assert steppers[1].precision == torch.bfloat16
    assert steppers[1].dense_ratio == steppers[0].dense_ratio
    state = steppers[0].state()
    del state["decoder.exp_avg"]
    with pytest.raises(DamagedArtifact, match=r"'decoder.exp_avg' must have shape \[32, 8\], got nothing"):
        steppers[0].restore(state)


def test_kernel_stepper_weights_changed_from_outside_count_after_a_refresh() -> None:
    x, losses = batch(0, rows=20, width=8, dtype=torch.float32), []
    for early in (True, False):
        sae = SparseAutoencoder(8, 32, TopK(4))
        if early:
            sae.encoder.detach().neg_()
        stepper = KernelStepper(sae, TrainConfig(), dead_window_rows=100, precision=torch.bfloat16)
        if not early:
            sae.encoder.detach().neg_()
            stepper.refresh()
        losses.append(stepper.step(x, learning_rate=0.0))
    assert losses[0] == losses[1]


def test_kernel_stepper_rows_that_activate_nothing_train_the_decoder_bias() -> None:
    sae = SparseAutoencoder(8, 4, TopK(2))
    with torch.no_grad():
        sae.encoder.fill_(-1.0)
    stepper = KernelStepper(sae, TrainConfig(), dead_window_rows=10**6)
    losses = stepper.step(torch.ones(6, 8), learning_rate=0.1)
    assert (losses.l0, losses.reconstruction) == (0, 1.0)
    torch.testing.assert_close(sae.decoder_bias.detach(), torch.full((8,), 0.1))


def test_kernel_stepper_shows_rows_that_are_not_finite_in_the_loss() -> None:
    stepper = KernelStepper(SparseAutoencoder(8, 20, TopK(2)), TrainConfig(), dead_window_rows=10**6)
    rows = batch(0, rows=4, width=8, dtype=torch.float32)
    rows[2, 3] = torch.nan
    assert np.isnan(stepper.step(rows, learning_rate=0.0).reconstruction)


def test_pick_stepper_unsupported_settings_use_torch() -> None:
    sae = SparseAutoencoder(8, 32, TopK(4), seed=0)
    temporal = TrainConfig(temporal=0.1)
    assert not is_supported(sae, temporal)
    assert isinstance(pick_stepper(sae, temporal, dead_window_rows=100), TorchStepper)
    dense = SparseAutoencoder(8, 32, JumpReLU(5, 32), seed=0)
    assert isinstance(pick_stepper(dense, TrainConfig(), dead_window_rows=100), TorchStepper)
    with pytest.raises(ConfigError, match="use TorchStepper"):
        KernelStepper(sae, temporal, dead_window_rows=100)


@pytest.mark.parametrize(("bfloat_s", "precision"), [(0.1, torch.bfloat16), (0.9, torch.float32), (5.0, torch.float32)])
def test_fastest_precision_needs_a_clear_gain(bfloat_s, precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_step, "flop_per_s", lambda dtype=None, **_: 1 / bfloat_s if dtype else 1.0)
    fastest_products.cache_clear()
    picked = pick_stepper(SparseAutoencoder(8, 32, TopK(4)), TrainConfig(), dead_window_rows=100)
    fastest_products.cache_clear()
    assert isinstance(picked, KernelStepper)
    assert (picked.precision, picked.table_precision) == (precision, torch.bfloat16)
    assert picked.dense_ratio == (12 if bfloat_s == 0.1 else 3)


def test_kernel_stepper_refuses_no_threads() -> None:
    with pytest.raises(ConfigError, match="threads must be at least 1, got -1"):
        KernelStepper(SparseAutoencoder(8, 32, TopK(4)), TrainConfig(), dead_window_rows=100, threads=-1)


def test_chunk_size_leaves_work_for_four_threads_unless_rows_are_few() -> None:
    assert {chunk_size(rows) for rows in range(1, 65)} == {16}
    for rows in range(65, 3000):
        size = chunk_size(rows)
        assert 16 < size <= 256
        assert -(-rows // size) >= 3


def test_kernel_stepper_threads_start_no_threads_of_their_own() -> None:
    # products in new threads would each start as many as OMP_NUM_THREADS, and round differently
    code = """
import psutil, torch
from otoscope import SparseAutoencoder, TopK, TrainConfig
from otoscope.sae.kernel_step import KernelStepper
x = torch.randn(512, 256)
torch.mm(x, x.T)
for threads in (1, 2):
    before = psutil.Process().num_threads()
    sae = SparseAutoencoder(256, 512, TopK(4))
    stepper = KernelStepper(sae, TrainConfig(), dead_window_rows=100, threads=threads)
    for _ in range(3):
        stepper.step(x, learning_rate=1e-3)
print(psutil.Process().num_threads() - before)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1"]
