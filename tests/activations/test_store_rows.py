import numpy as np
import pytest
import torch

from otoscope.activations.store import StoredRows
from otoscope.activations.tensorfile import PRECISIONS, ROWS_AT_ONCE, MappedTensor, to_float32, to_stored


def stored_rows(dtype: str, *, height: int = 200) -> tuple[StoredRows, np.ndarray]:
    """Return rows of three clips in two shards, with a gap before the last clip, and all rows in order."""
    generator = torch.Generator().manual_seed(1)
    shards = [to_stored(torch.randn(height, 5, generator=generator), dtype) for _ in range(2)]
    rows = StoredRows(
        width=5,
        dtype=dtype,
        clip_ids=["a", "b", "c"],
        shard=np.array([0, 0, 1]),
        first=np.array([0, 60, 7]),
        frames=np.array([60, height - 60, height - 7]),
        tensor=lambda shard: MappedTensor(shards[shard], dtype),
        layer=3,
    )
    return rows, np.concatenate([to_float32(shards[0], dtype), to_float32(shards[1], dtype)[7:]])


@pytest.mark.parametrize("dtype", sorted(PRECISIONS))
@pytest.mark.parametrize("count", [0, 1, 7, 3 * ROWS_AT_ONCE])
def test_take_returns_rows_exactly_in_the_given_order(dtype: str, count: int):
    rows, expected = stored_rows(dtype)
    indices = np.random.default_rng(count).integers(0, rows.height, count)
    taken = rows.take(indices)
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, expected[indices])
