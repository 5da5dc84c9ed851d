"""Frozen random atoms with a trained encoder."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope import ArrayRows, TrainConfig
from otoscope.errors import ConfigError
from otoscope.sae.bank import load_progress, save_progress
from otoscope.sae.config import FROZEN_DECODER, SOFT_FROZEN_DECODER
from otoscope.sae.kernel_step import is_supported
from otoscope.sae.train import TrainingRun, begin, finish, train_steps

ROWS = ArrayRows(np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32))


def test_frozen_decoder_trains_the_encoder_only():
    run = begin(ROWS, ROWS, FROZEN_DECODER, latents=32, k=4, seed=3)
    atoms, encoder = run.sae.decoder.detach().clone(), run.sae.encoder.detach().clone()
    for _ in train_steps(run):
        pass
    trained = finish(run)
    assert torch.equal(trained.sae.decoder, atoms)
    assert not torch.equal(trained.sae.encoder, encoder)
    assert trained.history[-1]["valid_mse"] < trained.history[0]["valid_mse"]


def test_frozen_decoder_is_worse_than_learned_atoms():
    planted = np.random.default_rng(1)
    atoms = planted.standard_normal((16, 12))
    codes = planted.random((600, 16)) * (planted.random((600, 16)) < 0.15)
    rows = ArrayRows((codes @ atoms).astype(np.float32))
    error: dict[bool, float] = {}
    for frozen in (False, True):
        config = TrainConfig(frozen_decoder=frozen, min_steps_per_epoch=8, min_batch=64)
        run = begin(rows, rows, config, latents=16, k=3, seed=0)
        for _ in train_steps(run):
            pass
        error[frozen] = finish(run).summary["valid_mse"]
    assert error[False] < 0.8 * error[True]


def test_soft_frozen_decoder_keeps_atoms_near_their_random_start():
    """Many steps at a high rate turn every atom as far as allowed, and no further; lengths stay 1."""
    config = SOFT_FROZEN_DECODER.model_copy(update={"learning_rate": 0.05, "epochs": 20.0})
    run = begin(ROWS, ROWS, config, latents=32, k=4, seed=3)
    start = run.sae.decoder.detach().clone()
    for _ in train_steps(run):
        pass
    atoms = run.sae.decoder.detach()
    cosine = torch.linalg.vecdot(atoms, start, dim=1)
    assert cosine.min() > 0.8 - 1e-5
    assert cosine.median() < 0.81
    assert torch.allclose(torch.linalg.vector_norm(atoms, dim=1), torch.ones(32), atol=1e-5)


def test_soft_frozen_decoder_resumes_to_the_same_bytes(tmp_path: Path):
    def started() -> TrainingRun:
        return begin(ROWS, ROWS, SOFT_FROZEN_DECODER, latents=32, k=4, seed=3)

    whole, killed, resumed = started(), started(), started()
    for run, steps in ((whole, None), (killed, 20)):
        for _ in islice(train_steps(run), steps):
            pass
    save_progress(tmp_path, killed)
    assert load_progress(tmp_path, resumed)
    for _ in train_steps(resumed):
        pass
    assert torch.equal(resumed.sae.decoder, whole.sae.decoder)


def test_soft_frozen_decoder_uses_the_torch_stepper():
    run = begin(ROWS, ROWS, SOFT_FROZEN_DECODER, latents=32, k=4)
    assert not is_supported(run.sae, SOFT_FROZEN_DECODER)


def test_frozen_decoder_excludes_archetypes():
    config = TrainConfig(dictionary="archetypal", init="points", unit_norm=False, frozen_decoder=True)
    with pytest.raises(ConfigError, match="frozen_decoder=True"):
        begin(ROWS, ROWS, config, latents=32, k=4)


@pytest.mark.parametrize("changes", [{"frozen_decoder": True}, {"unit_norm": False}])
def test_soft_frozen_decoder_needs_trained_atoms_of_length_1(changes: dict[str, bool]):
    with pytest.raises(ConfigError, match=r"min_atom_cosine=0\.8 bounds the direction"):
        begin(ROWS, ROWS, SOFT_FROZEN_DECODER.model_copy(update=changes), latents=32, k=4)
