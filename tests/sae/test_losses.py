import math

import numpy as np
import pytest
import torch

from otoscope import ArrayRows, Bank, SparseAutoencoder, TopK, TrainConfig, fit
from otoscope.errors import ConfigError
from otoscope.sae.bank import BankMember
from otoscope.sae.data import HasNeighbours, as_neighbour_source, cache_rows, pair_with_neighbours
from otoscope.sae.losses import ContrastSettings, contrastive_loss, forward
from otoscope.sae.optimiser import TorchStepper
from otoscope.sae.sparsifiers import SPARSIFIERS
from otoscope.sae.train import begin, next_batch
from tests.support.planted import planted

QUICK = TrainConfig(batch=128, epochs=6, learning_rate=3e-3, temporal=0.1)


class Frames:
    """Rows with their successor as neighbour: 400 frames per clip, as in `planted`."""

    def __init__(self, rows: ArrayRows) -> None:
        self.rows, self.height, self.width = rows, rows.height, rows.width

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self.rows.take(indices)

    def neighbours(self, indices: np.ndarray) -> np.ndarray:
        return np.where(indices % 400 == 399, -1, indices + 1)


TRAIN, VALID = Frames(planted(0, 1, 2)), planted(3)


def test_contrastive_loss_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 3.0], [0.0, 1.0]])
    s = [[math.sqrt(0.5), 0.0], [math.sqrt(0.5), 1.0]]
    e = [[math.exp(v / 0.5) for v in row] for row in s]
    there = (math.log(sum(e[0]) / e[0][0]) + math.log(sum(e[1]) / e[1][1])) / 2
    back = (math.log((e[0][0] + e[1][0]) / e[0][0]) + math.log((e[0][1] + e[1][1]) / e[1][1])) / 2
    assert contrastive_loss(a, b, temperature=0.5).item() == pytest.approx((there + back) / 2, rel=1e-6)


def test_contrastive_loss_extremes():
    rows = torch.eye(6)
    assert contrastive_loss(rows, rows, temperature=0.01).item() == pytest.approx(0.0, abs=1e-6)
    assert contrastive_loss(torch.ones(6, 3), torch.ones(6, 3)).item() == pytest.approx(math.log(6), rel=1e-6)
    silent = torch.zeros(4, 3, requires_grad=True)
    contrastive_loss(silent, torch.zeros(4, 3)).backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


def test_contrastive_loss_is_scale_free_and_symmetric():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(8, 5, generator=generator), torch.rand(8, 5, generator=generator)
    torch.testing.assert_close(contrastive_loss(7 * a, b), contrastive_loss(a, b))
    torch.testing.assert_close(contrastive_loss(b, a), contrastive_loss(a, b))


def test_next_batch_includes_neighbours():
    run = begin(TRAIN, VALID, QUICK, latents=96, k=6)
    batch = next_batch(run)
    first, second = np.split(batch.indices, 2)
    np.testing.assert_array_equal(first, run.plan.shuffle.indices(0))
    np.testing.assert_array_equal(second, np.where(first % 400 == 399, first, first + 1))
    assert batch.rows.shape == (256, 24)


def test_cached_rows_keep_their_neighbours():
    kept = cache_rows(TRAIN, 1 << 30)
    assert kept is not TRAIN
    np.testing.assert_array_equal(pair_with_neighbours(kept, np.array([5, 399])), [5, 399, 6, 399])
    assert as_neighbour_source(cache_rows(planted(0), 1 << 30)) is None
    assert isinstance(TRAIN, HasNeighbours)


def test_forward_contrasts_the_first_latents_only():
    sae = SparseAutoencoder(6, 20, TopK(5)).double()
    inner = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = forward(sae, inner, contrast=ContrastSettings(0.3, 0.25))
    codes = sae.sparsifier(sae.preactivate(inner))
    assert seen.penalty is not None
    torch.testing.assert_close(seen.penalty, 0.3 * contrastive_loss(codes[:6, :5], codes[6:, :5]))
    torch.testing.assert_close(seen.error, ((sae.rebuild(codes) - inner) ** 2).mean())
    seen.penalty.backward()
    assert sae.encoder.grad is not None
    assert sae.encoder.grad[:5].abs().max() > 0
    assert sae.encoder.grad[5:].abs().max() == 0


def shared_by_neighbours(config: TrainConfig) -> float:
    """Return the contrast between neighbours by the first codes, in nats better than chance."""
    sae = fit(TRAIN, VALID, config, latents=96, k=6).sae
    codes = sae.encode(torch.from_numpy(TRAIN.rows.array[: 4 * 90]))[:, :19].detach()
    return math.log(90) - contrastive_loss(codes[1::4], codes[2::4]).item()


def test_temporal_training_makes_neighbours_similar():
    assert shared_by_neighbours(QUICK) > shared_by_neighbours(QUICK.model_copy(update={"temporal": 1e-9})) + 0.1


@pytest.mark.parametrize("sparsifier", sorted(SPARSIFIERS))
def test_temporal_training_with_every_sparsifier_and_prefixes(sparsifier: str):
    config = QUICK.model_copy(update={"sparsifier": sparsifier, "prefixes": (0.2, 1.0), "epochs": 2.0})
    run = begin(TRAIN, VALID, config, latents=96, k=6)
    assert isinstance(run.stepper, TorchStepper)
    assert fit(TRAIN, VALID, config, latents=96, k=6).summary["valid_explained_variance"] > 0.05


def test_temporal_training_without_neighbours_error():
    message = r"temporal=0.1 and rows without neighbours in time \(pooled clips\): train on frames"
    with pytest.raises(ConfigError, match=message):
        begin(planted(0), VALID, QUICK, latents=96, k=6)
    with pytest.raises(ConfigError, match="^still: " + message):
        Bank(planted(0), VALID, [BankMember(name="still", latents=96, k=6, preset=QUICK)])


def test_temporal_training_in_a_bank():
    plain = QUICK.model_copy(update={"temporal": 0.0})
    members = [BankMember(name=name, latents=96, k=6, preset=p) for name, p in (("temporal", QUICK), ("plain", plain))]
    trained = {s.name: s.result for s in Bank(TRAIN, VALID, members).train() if s.result}
    for member, config in zip(members, (QUICK, plain), strict=True):
        alone = fit(TRAIN, VALID, config, latents=96, k=6)
        assert torch.equal(trained[member.name].sae.encoder, alone.sae.encoder)
