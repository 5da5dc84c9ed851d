"""Rows of any length are stepped as PyTorch's Adam steps them, and nothing beside them is touched."""

import numpy as np
import pytest
import torch
from numba import njit

from otoscope.sae._kernels.adam import adam_row, dot_row, scale_row
from otoscope.sae._kernels.llvm import address

COUNTS = [1, 15, 16, 17, 48, 100, 768]
RATE, BETA1, BETA2, EPSILON, DECAY = 1e-2, 0.9, 0.99, 1e-8, 0.1


@njit
def stepped(weight, first, second, gradient, along, numbers, decay, start, count):
    places = address(weight, start), address(first, start), address(second, start), address(gradient, start)
    return adam_row(places[0], places[1], places[2], places[3], along, address(numbers, 0), decay, count)


@njit
def product(a, b, start, count):
    return dot_row(address(a, start), address(b, start), count)


@njit
def scaled(values, factor, start, count):
    scale_row(address(values, start), factor, count)


def numbers_of(step):
    rate, unbias = RATE / (1 - BETA1**step), 1 / np.sqrt(1 - BETA2**step)
    kept = 1 - RATE * DECAY
    return np.array([rate, BETA1, 1 - BETA1, BETA2, 1 - BETA2, unbias, EPSILON, kept], np.float32)


@pytest.mark.parametrize("count", COUNTS)
def test_a_row_follows_adam_and_its_neighbours_stay(count):
    rng = np.random.default_rng(count)
    weight = rng.standard_normal(count + 40).astype(np.float32)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    before, start = weight.copy(), 7
    row = slice(start, start + count)
    plain = torch.tensor(weight[row], requires_grad=True)
    optimiser = torch.optim.AdamW([plain], lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=DECAY)
    for step in range(1, 6):
        gradient = rng.standard_normal(count + 40).astype(np.float32)
        along = np.float32(0.25)
        plain.grad = torch.from_numpy(gradient[row]) + 0.25 * plain.detach()
        optimiser.step()
        numbers = numbers_of(step)
        squares = stepped(weight, first, second, gradient, along, numbers, numbers[7], start, count)
        np.testing.assert_allclose(weight[row], plain.detach().numpy(), rtol=0, atol=2e-6)
        assert squares == pytest.approx(float((weight[row].astype(np.float64) ** 2).sum()), rel=1e-5)
    outside = np.ones(len(weight), bool)
    outside[row] = False
    assert (weight[outside] == before[outside]).all()
    assert not first[outside].any()
    assert not second[outside].any()


@pytest.mark.parametrize("count", COUNTS)
def test_products_and_factors_take_the_row_alone(count):
    rng = np.random.default_rng(count)
    a, b = rng.standard_normal((2, count + 40)).astype(np.float32)
    want = a[3 : 3 + count].astype(np.float64) @ b[3 : 3 + count].astype(np.float64)
    assert product(a, b, 3, count) == pytest.approx(want, rel=1e-5, abs=1e-5)
    doubled = a.copy()
    doubled[3 : 3 + count] *= 2
    scaled(a, np.float32(2), 3, count)
    assert (a == doubled).all()
