"""Initialisation at principal axes, and training from there."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from otoscope import ArrayRows, SparseAutoencoder, TopK, TrainConfig, fit
from otoscope.errors import TrainingError
from otoscope.sae.config import DEFAULT
from otoscope.sae.statistics import Axes, compute_statistics
from otoscope.sae.train import begin, finish, train_steps
from tests.support.planted import planted

WIDTH = 24
TRAIN, VALID, UNSEEN = planted(0, 1, frames=60), planted(2, frames=60), planted(3, 4)
QUICK = TrainConfig(batch=64, epochs=6, learning_rate=3e-3, init="principal")
ALL_AXES = QUICK.model_copy(update={"axes_share": 1.0, "rest_gain": 1e-9})


def pca_error(rows: np.ndarray, k: int) -> float:
    mean = TRAIN.array.mean(axis=0)
    axes = np.linalg.svd(TRAIN.array - mean, full_matrices=True)[2][:k]
    away = rows - mean
    return float(((away - away @ axes.T @ axes) ** 2).sum() / (away**2).sum())


@torch.no_grad()
def error(sae: SparseAutoencoder, rows: ArrayRows) -> float:
    x = torch.from_numpy(rows.array)
    mean = torch.from_numpy(TRAIN.array.mean(axis=0))
    return float(((x - sae(x).reconstruction) ** 2).sum() / ((x - mean) ** 2).sum())


def started(k: int, latents: int = 96) -> SparseAutoencoder:
    return begin(TRAIN, VALID, ALL_AXES, latents=latents, k=k).sae.eval()


@pytest.mark.parametrize("k", [1, 3, 8, 23, 24, 40])
@pytest.mark.parametrize("latents", [48, 96])
def test_initialise_at_all_axes_is_no_worse_than_pca(k: int, latents: int):
    sae = started(k, latents)
    away = UNSEEN.array - TRAIN.array.mean(axis=0)
    axes = compute_statistics(TRAIN).axes("rows", centred=True).directions[:k].numpy()
    by_row = ((away - away @ axes.T @ axes) ** 2).sum(axis=1)
    actual = ((UNSEEN.array - sae(torch.from_numpy(UNSEEN.array)).reconstruction.detach().numpy()) ** 2).sum(axis=1)
    assert (actual <= by_row * (1 + 1e-4) + 1e-5).all()
    assert error(sae, UNSEEN) <= pca_error(UNSEEN.array, k) + 1e-5
    if k < 16:
        assert error(sae, UNSEEN) < 0.98 * pca_error(UNSEEN.array, k)


def test_initialise_few_rows_generalises_no_worse_than_pca():
    few, of_unseen = TRAIN.array[:60], UNSEEN.array
    mean = few.mean(axis=0)
    axes, away = np.linalg.svd(few - mean, full_matrices=True)[2], of_unseen - mean
    errors: list[float] = []
    for k in (2, 6, 12, 24, 48):
        sae = fit(few, VALID.array, DEFAULT, latents=512, k=k, seed=0).sae
        rebuilt = sae(torch.from_numpy(of_unseen)).reconstruction.detach().numpy()
        errors.append(float(((of_unseen - rebuilt) ** 2).sum() / (away**2).sum()))
        if k <= WIDTH // 4:  # a larger k includes axes that so few rows do not determine
            assert errors[-1] <= float(((away - away @ axes[:k].T @ axes[:k]) ** 2).sum() / (away**2).sum()) + 1e-4
    assert all(more <= fewer + 0.005 for fewer, more in pairwise(errors)), errors


def test_initialise_with_k_of_width_reconstructs_any_row():
    assert error(started(WIDTH), UNSEEN) < 1e-9


def test_initialise_few_latents_use_the_largest_axes():
    sae = started(4, latents=13)
    axes = compute_statistics(TRAIN).axes("rows", centred=True).directions
    assert torch.equal(sae.decoder[:12], torch.stack([axes[:6], -axes[:6]], dim=1).flatten(0, 1))
    assert error(sae, UNSEEN) <= pca_error(UNSEEN.array, 4) + 1e-5


def test_fit_never_ends_worse_than_the_initial_state():
    for rate in (1e-3, 0.3):
        run = begin(TRAIN, VALID, QUICK.model_copy(update={"learning_rate": rate}), latents=96, k=6)
        start, encoder = run.best_rank, run.sae.encoder.detach().clone()
        for _ in train_steps(run):
            pass
        trained = finish(run)
        assert run.best_rank <= start
        assert trained.summary["valid_inner_mse"] <= start[1] * (1 + 1e-5)
    assert trained.summary["best_step"] == 0
    assert torch.equal(trained.sae.encoder, encoder)


def test_fit_explained_variance_does_not_fall_with_k():
    actual = [error(fit(TRAIN, VALID, "default", latents=96, k=k).sae, UNSEEN) for k in (1, 4, 9, 19, 38, 48)]
    assert all(more <= less + 1e-6 for less, more in pairwise(actual))


def test_fit_many_rows_beats_pca():
    rows = planted(0, 1, 2, 5, 6)
    trained = fit(rows, VALID, DEFAULT.model_copy(update={"epochs": 30.0}), latents=96, k=3)
    start = begin(rows, VALID, DEFAULT, latents=96, k=3).best_rank[1]
    assert trained.summary["best_step"] > 0
    assert trained.summary["valid_inner_mse"] < 0.85 * start


def test_fit_stops_early():
    config = QUICK.model_copy(update={"learning_rate": 0.3, "patience": 0.5, "epochs": 10.0})
    run = begin(TRAIN, VALID, config, latents=96, k=6)
    with pytest.raises(TrainingError, match="run `train_steps` to its end"):
        finish(run)
    steps = list(train_steps(run))
    summary = finish(run).summary
    assert len(steps) == steps[-1].step == steps[-1].steps == summary["steps"] == summary["planned_steps"] / 2
    assert all(step.steps == summary["planned_steps"] for step in steps[:-1])
    assert steps[-1].valid is not None


def test_initialise_many_rows_start_tied():
    config = DEFAULT.model_copy(update={"axes_rows_per_latent": 4.0})
    number = TRAIN.height
    for latents, at_axes in ((number // 4, False), (number // 4 + 1, True)):
        sae = begin(TRAIN, VALID, config, latents=latents, k=3).sae
        axes = compute_statistics(TRAIN).axes("rows", centred=True).directions
        assert torch.equal(sae.decoder[0].detach(), axes[0]) == at_axes


@pytest.mark.parametrize("k", [6, 40])
def test_initialise_other_latents_are_quiet_but_trainable(k: int):
    axes = compute_statistics(TRAIN).axes("rows", centred=True)
    number = max(axes.n_axes_for(QUICK.axes_share), k // 2)
    assert 1 < number < WIDTH
    run = begin(TRAIN, VALID, QUICK, latents=96, k=k)
    lengths = torch.linalg.vector_norm(run.sae.encoder.detach(), dim=1)
    torch.testing.assert_close(lengths[: 2 * number], torch.ones(2 * number))
    torch.testing.assert_close(lengths[2 * number :], torch.full((96 - 2 * number,), QUICK.rest_gain))
    # quiet latents start in random directions, not along the axes left out
    along = (run.sae.decoder.detach()[2 * number :] @ axes.directions[number:].T).abs()
    assert along.max() < 0.95


def test_n_axes_for_holds_the_variance_share():
    axes = Axes(torch.eye(4), torch.tensor([5.0, 3.0, 2.0, -1e-9]))
    assert [axes.n_axes_for(share) for share in (0.1, 0.5, 0.51, 0.8, 0.81, 1.0)] == [1, 1, 2, 2, 3, 3]
    sae = SparseAutoencoder(3, 7, TopK(2), init="principal")
    sae.initialise_at_axes(torch.eye(3), gain=0.5)
    assert torch.equal(sae.decoder[:4], torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))


@pytest.mark.parametrize("sparsifier", ["relu", "gated"])
def test_initialise_starts_sparsifiers_with_a_bias_tied(sparsifier: str):
    """A bias silences all latents but the axes, so that two of three stay dead."""
    run = begin(TRAIN, VALID, TrainConfig.preset("default", sparsifier=sparsifier), latents=96, k=6)
    axes = compute_statistics(TRAIN).axes("rows", centred=True).directions
    assert (run.sae.decoder.detach() @ axes.T).abs().max() < 0.95
    assert not run.best
    config = TrainConfig.preset("default", sparsifier=sparsifier, target_rows=20_000)
    trained = fit(TRAIN, VALID, config, latents=48, k=6)
    assert trained.summary["valid_dead_fraction"] < 0.3
