"""The study's probe: it learns separable classes, never predicts unseen ones, and is deterministic."""

import numpy as np
import pytest
import torch

from otoscope.protocols.mariotte2025.metrics import fit_probe

WIDTH, FILES = 6, 96


def clouds(files: int, *, crops: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return three classes, each clustered around its own corner."""
    rng = np.random.default_rng(seed)
    classes = np.arange(files) % 3
    rows = 3 * np.eye(3, WIDTH)[classes] + 0.3 * rng.standard_normal((crops, files, WIDTH))
    return rows.astype(np.float32), classes


def test_fit_probe_separates_clusters_but_not_noise() -> None:
    train, classes = clouds(FILES, crops=2)
    valid, held = clouds(30, seed=1)
    probe = fit_probe(train, classes, valid[0], held, epochs=60, seed=0)
    assert probe.accuracy(valid[0], held) == 1.0
    noise = np.random.default_rng(2).standard_normal((600, WIDTH)).astype(np.float32)
    assert probe.accuracy(noise, np.arange(600) % 3) < 0.45


def test_fit_probe_returns_the_epoch_of_least_validation_loss() -> None:
    """With contradicting training labels the first epochs validate best."""
    train, classes = clouds(FILES)
    valid, held = clouds(30, seed=1)
    agreeing = fit_probe(train, classes, valid[0], held, epochs=20, seed=0)
    contradicting = fit_probe(train, classes, valid[0], (held + 1) % 3, epochs=20, seed=0)
    assert agreeing.epoch == 19
    assert contradicting.epoch == 0


def test_fit_probe_never_predicts_a_class_absent_from_training() -> None:
    train, classes = clouds(FILES)
    probe = fit_probe(train, classes, train[0], classes + 3 * (classes == 2), epochs=5, seed=0)
    assert probe.weight.shape == (3, WIDTH)
    assert probe.accuracy(train[0], np.full(FILES, 7)) == 0.0


def test_fit_probe_epoch_i_uses_crop_i() -> None:
    """With two crops, one epoch uses only the first."""
    train, classes = clouds(FILES, crops=2)
    changed = train.copy()
    changed[1] = np.nan
    once = [fit_probe(rows, classes, train[0], classes, epochs=1, seed=0).weight for rows in (train, changed)]
    assert torch.equal(*once)
    assert torch.isnan(fit_probe(changed, classes, train[0], classes, epochs=1, seed=0).weight).sum() == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_fit_probe_is_the_same_on_any_number_of_threads(threads: int) -> None:
    train, classes = clouds(FILES)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, two = (fit_probe(train, classes, train[0], classes, epochs=3, seed=s) for s in (5, 5))
        other = fit_probe(train, classes, train[0], classes, epochs=3, seed=6)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one.weight, two.weight)
    assert not torch.equal(one.weight, other.weight)
