"""Warnings about few rows and about training without improvement."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from otoscope import ArrayRows, Bank, BatchTopK, Gated, ReLU, SparseAutoencoder, TopK, TrainConfig, fit
from otoscope.sae.bank import BankMember
from otoscope.sae.sparsifiers.base import Sparsifier
from otoscope.sae.train import advance, begin, next_batch
from otoscope.sae.validation import (
    Validation,
    data_warnings,
    mean_atom_cosine,
    sparsity_warnings,
    start_warnings,
    sufficient_budget,
    unchanged_share,
)
from tests.support.planted import planted

QUICK = TrainConfig(batch=128, epochs=2, learning_rate=3e-3)
FEW = (
    "95 training rows for 96 latents: the SAE can memorise them; "
    "judge it on held-out groups only, and use more rows or fewer latents"
)
ONE = "1 validation row: the choice of the best state and all valid_* rest on it; give more, of complete groups"


@pytest.mark.parametrize(
    ("height", "valid_height", "message"), [(96, 2, []), (95, 2, [FEW]), (96, 1, [ONE]), (95, 1, [FEW, ONE])]
)
def test_data_warnings_about_few_rows(height: int, valid_height: int, message: list[str]):
    assert data_warnings(height, valid_height, latents=96) == message
    trained = fit(planted(0, frames=height), planted(1, frames=valid_height), QUICK, latents=96, k=6)
    assert [line for line in trained.summary["warnings"] if "hardly changed" not in line] == message


def test_mean_atom_cosine_is_that_of_all_pairs():
    atoms = np.random.default_rng(0).normal(size=(1500, 12)).astype(np.float32)
    directions = atoms.astype(np.float64) / np.linalg.norm(atoms.astype(np.float64), axis=1, keepdims=True)
    expected = np.abs(directions @ directions.T)[np.triu_indices(1500, 1)].mean()
    assert mean_atom_cosine(torch.from_numpy(atoms)) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(mean_atom_cosine(torch.ones(1, 3)))


def test_fit_records_the_mean_atom_cosine():
    trained = fit(planted(0), planted(1), QUICK, latents=32, k=4)
    assert trained.summary["mean_atom_cosine"] == mean_atom_cosine(trained.sae.decoder)


def test_sufficient_budget_is_the_number_of_active_features():
    draw = np.random.default_rng(0)
    features = np.linalg.qr(draw.normal(size=(64, 64)))[0].astype(np.float32)
    active = np.argsort(draw.random((600, 64)), axis=1) < 5
    rows = ArrayRows((active * draw.uniform(1.0, 1.5, active.shape)).astype(np.float32) @ features)
    sae = SparseAutoencoder(64, 64, TopK(40), decoder_bias=False)
    with torch.no_grad():
        sae.decoder.copy_(torch.from_numpy(features))
        sae.encoder.copy_(torch.from_numpy(features))
    assert sufficient_budget(sae, rows, 0.99) == 5
    assert sufficient_budget(sae, rows, 1e-6) == 1
    sae.sparsifier.k = 3
    assert sufficient_budget(sae, rows, 0.99) == 3


@pytest.mark.parametrize("k", [2, 40])
def test_fit_adds_a_smaller_budget_where_one_suffices_else_a_larger_one(k: int):
    config = TrainConfig.preset(target_rows=24_000)
    trained = fit(planted(0, 1, 2, active=0.05), planted(3, active=0.05), config, latents=96, k=k)
    smaller, larger = trained.summary["budgets"]
    assert (smaller, larger) == (2, 4) if k == 2 else (smaller < larger == k)
    assert np.count_nonzero(trained.sae.encode(planted(3).take(np.arange(20))), axis=1).max() <= k


def test_choose_budgets_lets_the_smaller_one_grow():
    config = TrainConfig.preset(target_rows=24_000)
    run = begin(planted(0, 1, 2, active=0.05), planted(3, active=0.05), config, latents=96, k=40)
    found: list[float] = []
    while run.step < run.plan.steps:
        advance(run, next_batch(run))
        if run.step in run.plan.budget_steps:
            assert run.budgets is not None
            found.append(run.budgets[0] / sufficient_budget(run.sae, run.valid_rows, 0.93))
    assert found == sorted(found)
    assert 0.75 <= found[0] < 1 < found[-1]


def test_choose_budgets_never_asks_for_more_latents_than_there_are():
    config = TrainConfig.preset(target_rows=6_000)
    assert fit(planted(0, 1), planted(3), config, latents=24, k=24).summary["budgets"][-1] == 24


def test_bank_warns_about_few_rows_once():
    members = [
        BankMember(name=f"{latents} {k} {seed}", latents=latents, k=k, seed=seed, preset=QUICK)
        for latents in (48, 96, 64)
        for k in (2, 6)
        for seed in (0, 1)
    ]
    assert Bank(planted(0, frames=95), planted(1, frames=1), members).warnings() == [FEW, ONE]
    assert Bank(planted(0, frames=95), planted(1, frames=2), [m for m in members if m.latents < 96]).warnings() == []


def test_start_warnings_of_trained_saes():
    few, many, valid = planted(0, frames=60), planted(0, 1, 2), planted(3)
    trained = fit(many, valid, TrainConfig.preset(epochs=2), latents=256, k=8).summary
    assert not any(line.startswith("principal axes") for line in trained["warnings"])
    # At the preset's learning rate the start wins by 0.2 to 1 %, which the rounding of another processor overturns; at
    # this one every later state is worse by more than half.
    for name in ("topk", "batch_topk"):
        summary = fit(few, valid, TrainConfig.preset(sparsifier=name, learning_rate=0.3), latents=256, k=8).summary
        assert summary["best_step"] == 0
        assert sum(line.startswith("principal axes, not learned") for line in summary["warnings"]) == 1


def test_sparsity_warnings_of_a_penalty_that_has_not_converged():
    """Every state exceeds its budget after so few steps."""
    config = TrainConfig.preset(sparsifier="relu", epochs=2)
    summary = fit(planted(0, 1, 2), planted(3), config, latents=256, k=8).summary
    line, _ = summary["warnings"]
    assert line.startswith(f"{summary['valid_l0']:.1f} active latents per validation row at k=8")


def test_sparsity_warnings_need_enough_rows_to_call_latents_dead():
    valid = Validation(1.0, 1.0, 0.9, 0.9, l0=8.0, dead_fraction=0.4)
    assert sparsity_warnings(valid, height=319, latents=256, k=8) == []
    assert len(sparsity_warnings(valid, height=320, latents=256, k=8)) == 1
    assert sparsity_warnings(valid._replace(dead_fraction=0.3), height=320, latents=256, k=8) == []


@pytest.mark.parametrize("sparsifier", [TopK(8), BatchTopK(8), Gated(8, 256), ReLU(8)], ids=repr)
def test_start_warnings_advice(sparsifier: Sparsifier):
    told = partial(start_warnings, sparsifier, steps=9, unchanged=1.0)
    within, beyond = (told(start="principal axes", best_step=0, l0=l0) for l0 in (8.0, 8.5))
    assert all(line.endswith("(best step 0); use more rows or a lower learning rate") for line in within)
    assert all("the last state has 8.5 active latents per row at k=8" in line for line in beyond)
    assert len(within) == len(beyond) == 1
    (line,) = told(start="initial atoms", best_step=0, l0=8.0)
    assert line.startswith("initial atoms, not learned")
    for best_step, advice in ((4, "use more rows or a lower learning rate"), (9, "train longer")):
        (line,) = told(start="principal axes", best_step=best_step, l0=8.0)
        assert line.endswith(f"best step {best_step} of 9; {advice}")
    for changed in (0.4, float("nan"), None):
        assert told(start="principal axes", best_step=4, l0=8.0, unchanged=changed) == []


def test_unchanged_share_counts_the_active_atoms_near_their_start():
    sae, start = SparseAutoencoder(3, 3, TopK(3), decoder_bias=False), torch.eye(3)
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(3))
        sae.decoder.copy_(torch.tensor([[2.0, 0.9, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    active = ArrayRows(np.array([[1, 1, -1], [1, 1, 0]], np.float32))
    assert unchanged_share(sae, start, active) == 0.5
    assert unchanged_share(sae, start, ArrayRows(np.eye(3, dtype=np.float32))) == pytest.approx(2 / 3)
    assert np.isnan(unchanged_share(sae, start, ArrayRows(-active.array[:1, :1] * np.ones((1, 3), np.float32))))


def sums_of_features(height: int) -> tuple[ArrayRows, ArrayRows]:
    """Return training and validation rows, each a sum of 6 of 192 features in 64 dimensions on average."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(192, 64))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    active = (draw.random((height + 200, 192)) < 6 / 192) * draw.uniform(0.5, 1.5, (height + 200, 192))
    rows = (active @ features + 0.05 * draw.normal(size=(height + 200, 64))).astype(np.float32)
    return ArrayRows(rows[:height]), ArrayRows(rows[height:])


@pytest.mark.parametrize(("height", "k"), [(100, 6), (100, 26), (200, 26), (300, 26), (450, 6), (450, 26)])
def test_start_warnings_of_few_rows_at_the_rate_of_the_preset(height: int, k: int):
    """With 200 rows and more at k=26, 4 to 15 steps of up to 240 improve on the start by 1 to 5 %."""
    summary = fit(*sums_of_features(height), "default", latents=512, k=k).summary
    assert re.match("principal axes, (not learned|hardly changed): ", summary["warnings"][-1])
    assert summary["unchanged_share"] >= 0.9
    assert (height, k) != (200, 26) or 0 < summary["best_step"] < 30


@pytest.mark.parametrize("k", [6, 26])
def test_start_warnings_leave_out_what_was_learned(k: int):
    summary = fit(*sums_of_features(1000), "default", latents=512, k=k).summary
    assert summary["unchanged_share"] < 0.1
    assert summary["start"] == "principal axes"
    assert not any(line.startswith("principal axes") for line in summary["warnings"])


def test_unchanged_share_is_recorded_for_atoms_that_may_move():
    frozen = TrainConfig.preset("frozen_decoder", epochs=1)
    assert fit(planted(0), planted(1), frozen, latents=96, k=6).summary["unchanged_share"] is None
    short = fit(planted(0), planted(1), TrainConfig(epochs=1), latents=96, k=6).summary
    assert short["unchanged_share"] == 1.0
    assert short["warnings"][-1].startswith("initial atoms, hardly changed: 100 % of the active atoms")
    assert short["warnings"][-1].endswith("train longer")
