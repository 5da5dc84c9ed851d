"""A step has the gradients of autograd up to rounding, learns as well as float32, and repeats its bytes."""

import numpy as np
import pytest
import torch

from otoscope.errors import ConfigError, DamagedArtifact, TrainingError
from otoscope.sae._kernels.buffers import StepSettings, Weights, available_threads
from otoscope.sae._kernels.step import TopKStep
from tests.support.reference_step import Reference


def make_weights(latents, width, *, dtype=np.float32, biases=True, seed=0):
    rng = np.random.default_rng(seed)
    decoder = rng.standard_normal((latents, width))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    encoder = decoder + 0.1 * rng.standard_normal((latents, width))
    extra = {"encoder_bias": 0.1 * rng.standard_normal(latents), "decoder_bias": 0.1 * rng.standard_normal(width)}
    arrays = {"encoder": encoder, "decoder": decoder, **(extra if biases else {})}
    return Weights(**{name: np.ascontiguousarray(array, dtype) for name, array in arrays.items()})


def copied(weights):
    return Weights(**{name: array.copy() for name, array in weights.named().items()})


def make_rows(rows, width, *, dtype=np.float32, seed=1, directions=40):
    """Rows made of three out of a few hidden directions each, as a dictionary expects them."""
    rng = np.random.default_rng(seed)
    hidden = np.random.default_rng(99).standard_normal((directions, width))
    codes = rng.random((rows, directions)) * (rng.random((rows, directions)) < 3 / directions)
    return (codes @ hidden + 0.05 * rng.standard_normal((rows, width))).astype(dtype)


def as_bfloat16(array):
    return torch.from_numpy(array).bfloat16().float().numpy()


def rounded(weights):
    return Weights(**{name: as_bfloat16(array) for name, array in weights.named().items()})


SIZES = [
    (1, 1, 1, 1),
    (5, 3, 2, 1),
    (9, 37, 20, 3),
    (16, 48, 33, 33),
    (70, 24, 64, 5),
    (130, 17, 40, 40),
    (33, 320, 100, 9),
    (64, 800, 64, 8),
]


def assert_gradients_equal(step, reference):
    """After one step at rate 0 the first moment is 0.1 times the gradient; each factor is rounded by up to 0.4 %."""
    for name in step.weights.named():
        gradient, expected = step.state()[f"{name}.exp_avg"], reference.moment(name, "exp_avg")
        assert np.linalg.norm(gradient - expected) <= 0.02 * np.linalg.norm(expected) + 1e-8, name


@pytest.mark.parametrize(("batch", "width", "latents", "k"), SIZES)
@pytest.mark.parametrize(("unit_norm", "biases"), [(True, True), (False, False)])
def test_topk_step_has_the_gradients_of_autograd(batch, width, latents, k, unit_norm, biases):
    weights = rounded(make_weights(latents, width, biases=biases))
    settings = StepSettings(k=k, unit_norm=unit_norm)
    rows = as_bfloat16(make_rows(batch, width))  # both choose the same latents
    reference, step = Reference(weights, settings), TopKStep(copied(weights), settings, threads=2)
    loss, codes = reference(rows, learning_rate=0.0)
    stats = step(rows, learning_rate=0.0)
    assert stats.loss == pytest.approx(loss, rel=1e-4)
    assert stats.l0 == pytest.approx((codes > 0).sum().item() / batch)
    assert (stats.fired == (codes > 0).sum(dim=0).numpy()).all()
    assert_gradients_equal(step, reference)


def test_topk_step_with_scaling_and_aux_has_the_gradients_of_autograd():
    width, latents = 24, 60
    weights = rounded(make_weights(latents, width))
    settings = StepSettings(k=4, aux_coefficient=0.5, aux_k=6)
    centre, scale = np.ones(width, np.float32), np.resize(np.float32([0.5, 1.0, 2.0]), width)
    rows = as_bfloat16(make_rows(50, width)) * scale + centre
    reference = Reference(weights, settings, centre=torch.from_numpy(centre), scale=torch.from_numpy(scale))
    step = TopKStep(copied(weights), settings, centre=centre, scale=scale, threads=2)
    dead = np.arange(latents) % 3 == 0
    loss, _ = reference(rows, learning_rate=0.0, dead=dead)
    stats = step(rows, learning_rate=0.0, dead=dead)
    assert stats.loss == pytest.approx(loss, rel=1e-2)
    assert stats.aux > 0
    assert_gradients_equal(step, reference)
    assert step(rows, learning_rate=0.0).aux == 0


def test_topk_step_moves_latents_that_never_fire_as_dense_adam_does():
    weights = rounded(make_weights(40, 16))
    settings = StepSettings(k=2, unit_norm=False, encoder_decay=0.1)
    reference = Reference(weights, settings)
    step = TopKStep(weights, settings, threads=1)
    for _ in range(3):
        rows = as_bfloat16(make_rows(64, 16))
        reference(rows, learning_rate=1e-3)
        step(rows, learning_rate=1e-3)
    before = weights.encoder.copy()
    silent = np.full((1, 16), -1e-3, np.float32)
    reference(silent, learning_rate=1e-3)
    fired = step(silent, learning_rate=1e-3).fired
    assert (weights.encoder[fired == 0] != before[fired == 0]).any()
    np.testing.assert_allclose(weights.encoder, reference.named["encoder"].detach().numpy(), atol=5e-4)


def test_after_the_same_steps_as_much_is_explained_as_in_float32():
    width, latents = 64, 128
    weights = make_weights(latents, width)
    settings = StepSettings(k=8)
    plain = Reference(weights, settings)
    step = TopKStep(weights, settings, threads=2)
    for i in range(120):
        rows = make_rows(64, width, seed=i, directions=90)
        rate = 5e-3 * (1 - i / 120)
        plain(rows, learning_rate=rate)
        step(rows, learning_rate=rate)
    held_out = torch.from_numpy(make_rows(1000, width, seed=12345, directions=90))
    learned = Reference(weights, settings)
    unexplained = []
    for model in (plain, learned):
        with torch.no_grad():
            inner, _, _, rebuilt = model.forward(held_out)
        unexplained.append(((inner - rebuilt).square().sum() / (inner - inner.mean(dim=0)).square().sum()).item())
    assert unexplained[0] < 0.5
    assert unexplained[1] == pytest.approx(unexplained[0], rel=0.01)


def run(threads, *, batch=100, steps=5, aux=True):
    weights = make_weights(70, 40)
    step = TopKStep(weights, StepSettings(k=5, aux_coefficient=0.1, aux_k=4), threads=threads)
    dead = np.arange(70) < 10 if aux else None
    losses = [step(make_rows(batch, 40, seed=i), learning_rate=1e-3, dead=dead).loss for i in range(steps)]
    return losses, {**weights.named(), **step.state()}


@pytest.mark.parametrize("batch", [1, 7, 100, 129])
def test_the_bytes_do_not_depend_on_the_number_of_threads(batch):
    losses, arrays = run(1, batch=batch)
    for threads in (1, 2, 3):
        again, others = run(threads, batch=batch)
        assert again == losses
        assert all((arrays[name] == others[name]).all() for name in arrays)


def test_a_restored_step_continues_with_the_same_bytes():
    settings = StepSettings(k=5, encoder_decay=0.01)
    batches = [make_rows(30, 40, seed=i) for i in range(6)]
    whole = make_weights(70, 40)
    step = TopKStep(whole, settings, threads=1)
    for rows in batches:
        step(rows, learning_rate=1e-3)
    halves = make_weights(70, 40)
    first = TopKStep(halves, settings, threads=1)
    for rows in batches[:3]:
        first(rows, learning_rate=1e-3)
    saved, state = copied(halves), first.state()
    second = TopKStep(saved, settings, threads=2)
    second.restore(state)
    for rows in batches[3:]:
        second(rows, learning_rate=1e-3)
    assert all((whole.named()[name] == saved.named()[name]).all() for name in whole.named())
    assert all((step.state()[name] == second.state()[name]).all() for name in state)


def test_a_step_ends_at_unit_norm_and_writes_into_the_tensors_it_was_given():
    decoder = torch.nn.functional.normalize(torch.randn(50, 33, generator=torch.Generator().manual_seed(0)), dim=1)
    encoder = decoder.clone()
    before = decoder.clone()
    step = TopKStep(Weights(encoder=encoder.numpy(), decoder=decoder.numpy()), StepSettings(k=3), threads=1)
    step(make_rows(20, 33), learning_rate=1e-2)
    assert (decoder != before).any()
    assert torch.allclose(decoder.norm(dim=1), torch.ones(50), atol=1e-6)


def test_weights_changed_from_outside_count_after_a_refresh():
    weights = make_weights(50, 33)
    step = TopKStep(weights, StepSettings(k=3), threads=1)
    rows = make_rows(20, 33)
    weights.encoder[:] = -weights.encoder
    step.refresh()
    fresh = TopKStep(copied(weights), StepSettings(k=3), threads=1)
    assert step(rows, learning_rate=0.0).loss == fresh(rows, learning_rate=0.0).loss


def test_rows_that_activate_nothing_leave_the_decoder_bias_to_explain_them():
    weights = Weights(
        encoder=-np.ones((4, 8), np.float32),
        decoder=np.eye(4, 8, dtype=np.float32),
        decoder_bias=np.zeros(8, np.float32),
    )
    stats = TopKStep(weights, StepSettings(k=2), threads=1)(np.ones((6, 8), np.float32), learning_rate=0.1)
    assert stats.l0 == 0
    assert stats.loss == 1.0
    np.testing.assert_allclose(weights.decoder_bias, 0.1, rtol=1e-5)


def test_a_row_that_is_not_finite_shows_in_the_loss():
    step = TopKStep(make_weights(20, 8), StepSettings(k=2), threads=1)
    rows = make_rows(4, 8)
    rows[2, 3] = np.nan
    assert np.isnan(step(rows, learning_rate=0.0).loss)


def test_threads_follow_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert available_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert available_threads() >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": np.zeros((4, 5), np.float32)}, r"decoder must be contiguous, float32, of shape \[4, 8\]"),
        ({"encoder_bias": np.zeros(4)}, "encoder_bias must be contiguous, float32"),
        ({"decoder": np.zeros((8, 4), np.float32).T}, "decoder must be contiguous"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
    arrays = {"encoder": np.zeros((4, 8), np.float32), "decoder": np.zeros((4, 8), np.float32), **change}
    with pytest.raises(ConfigError, match=message):
        TopKStep(Weights(**arrays), StepSettings(k=1))


def test_settings_that_do_not_fit_are_refused():
    weights = make_weights(4, 8)
    with pytest.raises(ConfigError, match="k must be between 1 and latents=4, got 5"):
        TopKStep(weights, StepSettings(k=5))
    with pytest.raises(ConfigError, match="threads must be at least 1, got -1"):
        TopKStep(weights, StepSettings(k=1), threads=-1)
    with pytest.raises(ConfigError, match="encoder must be contiguous, float32"):
        TopKStep(make_weights(4, 8, dtype=np.float64), StepSettings(k=1))


def test_rows_and_states_of_another_model_are_refused():
    step = TopKStep(make_weights(4, 8), StepSettings(k=1), threads=1)
    with pytest.raises(TrainingError, match=r"a batch must be \[rows, 8\]"):
        step(np.zeros((3, 7), np.float32), learning_rate=0.1)
    with pytest.raises(TrainingError, match="at least one row"):
        step(np.zeros((0, 8), np.float32), learning_rate=0.1)
    state = step.state()
    del state["decoder.exp_avg"]
    with pytest.raises(
        DamagedArtifact, match=r"optimiser state 'decoder.exp_avg' must have shape \[4, 8\], got nothing"
    ):
        step.restore(state)
