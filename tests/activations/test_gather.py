import numpy as np
import pytest
import torch

from otoscope.activations.gather import gather, scale
from otoscope.activations.tensorfile import PRECISIONS, Mapped, rounded, widened


@pytest.mark.parametrize("dtype", sorted(PRECISIONS))
@pytest.mark.parametrize("rows", [0, 1, 4, 7])
def test_rows_land_where_they_should_exactly(dtype: str, rows: int):
    stored = rounded(torch.randn(20, 5, generator=torch.Generator().manual_seed(1)), dtype)
    rng = np.random.default_rng(rows)
    offset, place = rng.integers(0, 20, rows), rng.permutation(rows)
    out = np.full((rows, 5), np.nan, dtype=np.float32)
    gather(Mapped(stored, dtype), offset, place, out)
    np.testing.assert_array_equal((out * scale(dtype))[place], widened(stored, dtype)[offset])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_finite_number_of_sixteen_bits_is_widened_exactly(dtype: str):
    bits = np.arange(2**16, dtype=np.uint16)
    stored = bits.view(np.float16) if dtype == "float16" else bits
    stored = stored[np.isfinite(widened(stored, dtype))][:, None]
    every = np.arange(len(stored))
    out = np.empty((len(stored), 1), dtype=np.float32)
    gather(Mapped(stored, dtype), every, every, out)
    out *= scale(dtype)
    np.testing.assert_array_equal(out.view(np.uint32), widened(stored, dtype).view(np.uint32))
