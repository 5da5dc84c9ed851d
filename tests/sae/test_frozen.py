"""Frozen random atoms with a trained encoder."""

import numpy as np
import pytest
import torch

from otoscope import ArrayRows, TrainConfig
from otoscope.errors import ConfigError
from otoscope.sae.config import FROZEN_DECODER
from otoscope.sae.train import begin, finish, train_steps

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


def test_frozen_decoder_excludes_archetypes():
    config = TrainConfig(dictionary="archetypal", init="points", unit_norm=False, frozen_decoder=True)
    with pytest.raises(ConfigError, match="frozen_decoder=True"):
        begin(ROWS, ROWS, config, latents=32, k=4)
