import numpy as np
import pytest
import torch

from otoscope.activations.rows import find_addresses, gather_rows
from otoscope.activations.tensorfile import PRECISIONS, to_float32, to_stored


@pytest.mark.parametrize("dtype", sorted(PRECISIONS))
@pytest.mark.parametrize("rows", [0, 1, 4, 7])
def test_rows_land_where_they_should_exactly(dtype: str, rows: int):
    stored = to_stored(torch.randn(20, 5, generator=torch.Generator().manual_seed(1)), dtype)
    offset = np.random.default_rng(rows).integers(0, 20, rows)
    out = np.full((rows, 5), np.nan, dtype=np.float32)
    gather_rows(stored.ctypes.data + offset * stored.strides[0], dtype, out)
    np.testing.assert_array_equal(out, to_float32(stored, dtype)[offset])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_finite_number_of_sixteen_bits_is_widened_exactly(dtype: str):
    bits = np.arange(2**16, dtype=np.uint16)
    stored = bits.view(np.float16) if dtype == "float16" else bits
    stored = stored[np.isfinite(to_float32(stored, dtype))][:, None]
    out = np.empty((len(stored), 1), dtype=np.float32)
    every = np.arange(len(stored))
    gather_rows(stored.ctypes.data + every * stored.strides[0], dtype, out)
    np.testing.assert_array_equal(out.view(np.uint32), to_float32(stored, dtype).view(np.uint32))


def test_a_row_is_found_in_its_clip_and_a_clip_that_is_not_mapped_is_named():
    starts, bases = np.array([0, 3, 3, 10]), np.array([1000, 2000, 5000])
    guide = np.array([0, 2, 2, 2, 2])  # the clips of rows 0, 4 and 8, and of the last behind the end
    addresses = np.empty(4, dtype=np.int64)
    assert find_addresses(np.array([0, 2, 3, 9]), starts, guide, 4, bases, 8, addresses) == -1
    assert addresses.tolist() == [1000, 1016, 5000, 5048]
    assert find_addresses(np.array([2, 3]), starts, guide, 4, np.array([1000, 2000, 0]), 8, addresses) == 2
