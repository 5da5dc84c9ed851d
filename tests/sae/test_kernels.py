"""The compiled loops: exact selection, tables in bfloat16, sums over listed rows, Adam."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.sae import kernel_selection, kernels
from otoscope.sae.kernel_tables import add_rows, as_table, multiply_rows, new_table, store_rows

STEP = 1 << 21
WIDTHS = [1, 2, 7, 16, 33, 768]


def chosen(values, k, *, guess=0):
    pre = np.array(values, np.float32 if np.asarray(values).dtype != np.float64 else np.float64)
    line = np.zeros(-(-len(pre) // kernel_selection.BLOCK) * kernel_selection.BLOCK, pre.dtype)
    kernel_selection.rectify(pre, *np.zeros((2, len(pre)), pre.dtype), line[: len(pre)])
    keys = line.view(np.int32 if line.dtype == np.float32 else np.int64)
    places, kept, rest = np.zeros(len(line), np.int32), np.zeros(len(line), keys.dtype), np.zeros(len(line), np.int32)
    count, _ = kernel_selection.choose(keys, k, guess, STEP, places, kept, rest)
    assert (kept[:count] == keys[places[:count]]).all()
    return places[:count]


def expected(values, k):
    best = np.argsort(-np.asarray(values), kind="stable")[:k]
    return np.sort(best[np.asarray(values)[best] > 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("latents", "k"), [(1, 1), (5, 5), (33, 7), (2048, 1), (2048, 102), (2048, 2047), (6144, 50)])
def test_choose_finds_the_largest_in_ascending_positions(latents, k, dtype):
    rng = np.random.default_rng(latents + k)
    for _ in range(20):
        values = rng.standard_normal(latents).astype(dtype)
        assert (chosen(values, k) == expected(values, k)).all()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0000001, 1.001, 2.0]), min_size=1, max_size=70), st.data())
def test_choose_takes_the_lowest_of_equal_positions_for_any_guess(values, data):
    values = np.array(values, np.float32)
    k, guess = data.draw(st.integers(1, len(values))), data.draw(st.integers(-5, 2**31 - 1))
    assert (chosen(values, k, guess=guess) == expected(values, k)).all()


def test_choose_orders_infinity_first_and_never_takes_nan():
    values = np.array([1.0, np.nan, np.inf, 3e38, 2.0], np.float32)
    assert chosen(values, 2).tolist() == [2, 3]
    assert len(chosen(np.array([-1.0, -0.0, 0.0, np.nan, -np.inf], np.float32), 3)) == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_store_row_rounds_as_torch_does(width):
    lines = torch.randn(5, width, generator=torch.Generator().manual_seed(width)) * 1e3
    table = new_table(5, width, torch.bfloat16)
    store_rows(lines.numpy(), as_table(table))
    stored = unpacked(as_table(table))
    assert (stored[:, :width] == lines.bfloat16().float().numpy()).all()
    assert not stored[:, width:].any()


def unpacked(words):
    """Return the columns of a packed table: low halves, then high halves."""
    halves = (words << 16).view(np.float32), (words & np.uint32(0xFFFF0000)).view(np.float32)
    return np.concatenate(halves, axis=1)


def tables(width, *, rows=40):
    """Return the same rows as a plain and as a packed table, and the padded rows that each holds."""
    lines = np.random.default_rng(width).standard_normal((rows, width)).astype(np.float32)
    packed = as_table(new_table(rows, width, torch.bfloat16))
    store_rows(lines, packed)
    return [(lines, lines), (packed, unpacked(packed))]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 19])
def test_add_rows_and_multiply_rows_take_the_listed_rows(width, count):
    rng = np.random.default_rng(count)
    index = rng.integers(0, 40, count + 6).astype(np.int32)
    weight = rng.standard_normal(count + 6).astype(np.float32)
    for table, rows in tables(width):
        total = np.ones(rows.shape[1], np.float32)
        add_rows(total, table, index, weight, 3, 3 + count)
        np.testing.assert_allclose(total, 1 + weight[3 : 3 + count] @ rows[index[3 : 3 + count]], rtol=1e-4, atol=1e-4)
        line, out = rng.standard_normal(rows.shape[1]).astype(np.float32), np.zeros(count + 6, np.float32)
        multiply_rows(out, line, table, index, 3, 3 + count)
        np.testing.assert_allclose(out[3 : 3 + count], rows[index[3 : 3 + count]] @ line, rtol=1e-4, atol=1e-3)
        assert not out[:3].any()
        assert not out[3 + count :].any()


def test_adam_takes_the_steps_of_torch():
    rng = np.random.default_rng(0)
    value = rng.standard_normal(50)
    reference = torch.nn.Parameter(torch.tensor(value))
    optimiser = torch.optim.AdamW([reference], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    first, second = np.zeros(50), np.zeros(50)
    for step in range(1, 6):
        gradient = rng.standard_normal(50)
        numbers = kernels.AdamNumbers(rate=0.01 / (1 - 0.9**step), beta2=0.99, unbias=(1 - 0.99**step) ** -0.5)
        kernels.adam(value, first, second, gradient, numbers, 1 - 0.01 * 0.1)
        reference.grad = torch.tensor(gradient)
        optimiser.step()
    np.testing.assert_allclose(value, reference.detach().numpy(), rtol=1e-12)
