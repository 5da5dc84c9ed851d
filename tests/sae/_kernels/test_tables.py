"""Packed rows hold bfloat16 as PyTorch rounds it; products and sums over them equal those of the rounded numbers."""

import numpy as np
import pytest
import torch
from numba import njit

from otoscope.sae._kernels.forward import multiply_rows
from otoscope.sae._kernels.gather import add_listed, add_products, add_weighted
from otoscope.sae._kernels.tables import padded, words_for, write_weights

WIDTHS = [1, 31, 33, 48, 256, 288, 768, 800]


@njit
def weighted(out, base, table, index, weight, start, count):
    add_weighted(out, base, table, index, weight, start, count)


@njit
def listed(out, base, stride, table, index, weight, offsets, first, last):
    add_listed(out, base, stride, table, index, weight, offsets, first, last)


@njit
def products(out, start, rows, row, table, index, count):
    add_products(out, start, rows, row, table, index, count)


def packed(rows):
    """Return (table, columns in the table's order after rounding)."""
    latents, width = rows.shape
    words = words_for(width)
    filters = np.zeros((padded(latents) // 16, words, 16), np.uint32)
    table = np.zeros((latents, words), np.uint32)
    write_weights(rows, rows, filters, table)
    return table, filters


def rounded(rows):
    return torch.from_numpy(rows).bfloat16().float().numpy()


def unpacked(table):
    low, high = (table << 16).view(np.float32), (table & np.uint32(0xFFFF0000)).view(np.float32)
    return np.concatenate([low, high], axis=1)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("width", WIDTHS)
def test_packing_rounds_as_pytorch_does_and_pads_with_zeros(width, rng):
    rows = (rng.standard_normal((7, width)) * 10.0 ** rng.integers(-30, 30, (7, width))).astype(np.float32)
    columns = unpacked(packed(rows)[0])
    assert (columns[:, :width] == rounded(rows)).all()
    assert not columns[:, width:].any()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 13])
def test_a_weighted_sum_takes_the_listed_rows(width, count, rng):
    rows = rng.standard_normal((40, width), np.float32)
    table = packed(rows)[0]
    index = rng.integers(0, 40, 30).astype(np.int32)
    weight = rng.standard_normal(30, np.float32)
    columns = 2 * table.shape[1]
    out = np.ones((3, columns), np.float32)
    weighted(out, columns, table, index, weight, 4, count)
    listed = slice(4, 4 + count)
    want = 1 + weight[listed].astype(np.float64) @ rounded(rows)[index[listed]].astype(np.float64)
    np.testing.assert_allclose(out[1, :width], want, rtol=1e-5, atol=1e-5)
    assert (out[[0, 2]] == 1).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_lists_of_any_length_sum_their_rows_by_rounded_weights(width, rng):
    rows = rng.standard_normal((40, width), np.float32)
    table = packed(rows)[0]
    counts = [0, 1, 2, 5, 0, 8]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    index = rng.integers(0, 40, offsets[-1]).astype(np.int32)
    weight = rng.standard_normal(offsets[-1], np.float32)
    columns = 2 * table.shape[1]
    out = np.ones((5, 2, columns), np.float32)
    listed(out, columns, 2 * columns, table, index, weight, offsets, 1, 6)
    scale, values = rounded(weight).astype(np.float64), rounded(rows)[index].astype(np.float64)
    for i in range(5):
        mine = slice(offsets[i + 1], offsets[i + 2])
        np.testing.assert_allclose(out[i, 1, :width], 1 + scale[mine] @ values[mine], rtol=1e-5, atol=1e-5)
    assert (out[:, 0] == 1).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_inner_products_take_the_listed_rows(width, rng):
    rows, others = rng.standard_normal((9, width), np.float32), rng.standard_normal((40, width), np.float32)
    index = rng.integers(0, 40, (9, 5)).astype(np.int32)
    out = np.zeros((9, 5), np.float32)
    products(out, 15, packed(rows)[0], 3, packed(others)[0], index, 4)
    want = rounded(others)[index[3, :4]] @ rounded(rows)[3]
    np.testing.assert_allclose(out[3, :4], want, rtol=1e-4, atol=1e-4)
    assert not out[[0, 1, 2, 4, 5, 6, 7, 8]].any()
    assert out[3, 4] == 0


@pytest.mark.parametrize(("width", "latents", "count"), [(1, 1, 1), (48, 33, 3), (64, 32, 8), (256, 80, 21)])
def test_the_dense_product_is_that_of_the_rounded_numbers(width, latents, count, rng):
    rows, weights = rng.standard_normal((25, width), np.float32), rng.standard_normal((latents, width), np.float32)
    out = np.full((count, padded(latents)), np.nan, np.float32)
    multiply_rows(out, packed(rows)[0], 4, count, packed(weights)[1])
    want = rounded(rows)[4 : 4 + count].astype(np.float64) @ rounded(weights).T.astype(np.float64)
    np.testing.assert_allclose(out[:, :latents], want, rtol=1e-4, atol=1e-4)
    assert not out[:, latents:].any()
