import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope import ArrayRows
from otoscope.errors import TrainingError
from otoscope.sae.data import MIXED_ROWS, RUN_ROWS, TABLE_ROWS, Shuffle, as_rows, chunks, permute, shuffle_runs


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**31), st.integers(0, 100))
def test_shuffle_is_a_permutation(height: int, seed: int, epoch: int):
    actual = permute(np.arange(height, dtype=np.uint64), height=height, key=(seed, epoch))
    assert np.array_equal(np.sort(actual), np.arange(height))


@settings(deadline=None)
@given(st.integers(2, 500), st.integers(1, 600))
def test_shuffle_batches_cover_an_epoch_once(height: int, batch: int):
    order = Shuffle(height, batch, seed=3)
    for epoch in (0, 1):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        met = np.concatenate([order.indices(step) for step in steps])
        assert np.array_equal(np.sort(met), np.arange(height))


def test_shuffle_is_uncorrelated_with_time():
    height = 20_000
    met = permute(np.arange(height, dtype=np.uint64), height=height, key=(0, 0))
    gaps = np.abs(np.diff(met))
    # two uniform rows of n are n / 3 apart on average, and within 5 of each other with probability 10 / n
    assert np.mean(gaps) == pytest.approx(height / 3, rel=0.03)
    assert (gaps <= 5).sum() <= 30
    assert abs(np.corrcoef(met, np.arange(height))[0, 1]) < 0.03


def test_shuffle_differs_between_epochs_and_seeds():
    order, other = Shuffle(1000, 1000, seed=0), Shuffle(1000, 1000, seed=1)
    assert not np.array_equal(order.indices(0), order.indices(1))
    assert not np.array_equal(order.indices(0), other.indices(0))
    assert np.array_equal(order.indices(7), Shuffle(1000, 1000, seed=0).indices(7))


def test_shuffle_of_a_billion_rows_needs_no_table():
    order = Shuffle(10**9, 1024, seed=0)
    met = order.indices(order.steps_per_epoch - 1)
    assert len(met) == 10**9 % 1024
    assert met.min() >= 0
    assert met.max() < 10**9
    assert len(np.unique(met)) == len(met)


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 5), st.integers(1, 6), st.integers(0, 9))
def test_shuffle_runs_is_a_bijection_of_runs(height: int, run: int, runs: int, epoch: int):
    mixed = run * runs
    met = shuffle_runs(np.arange(height, dtype=np.uint64), height=height, key=(1, epoch), run=run, mixed=mixed)
    assert np.array_equal(np.sort(met), np.arange(height))
    whole = height // run * run
    drawn = [set((met[i : min(i + mixed, whole)] // run).tolist()) for i in range(0, whole, mixed)]
    assert sum(len(some) for some in drawn) == whole // run


def test_shuffle_runs_of_one_position_equals_that_of_all():
    places = np.arange(1000, dtype=np.uint64)
    met = shuffle_runs(places, height=1000, key=(0, 0), run=4, mixed=64)
    assert [
        int(shuffle_runs(places[i : i + 1], height=1000, key=(0, 0), run=4, mixed=64)[0]) for i in range(1000)
    ] == met.tolist()


def test_shuffle_of_many_rows_mixes_runs():
    order = Shuffle(TABLE_ROWS + 5, 4096, seed=0)
    # a batch has half a row of each run on average: (1 - exp(-1/2)) / (1/2) = 79 % as many runs as rows, by Poisson
    assert len(np.unique(order.indices(3) // RUN_ROWS)) == pytest.approx(0.79 * 4096, rel=0.03)
    together = np.concatenate([order.indices(step) for step in range(MIXED_ROWS // 4096)])
    assert len(np.unique(together // RUN_ROWS)) == MIXED_ROWS // RUN_ROWS
    assert not np.array_equal(order.indices(0), order.indices(order.steps_per_epoch))


@pytest.mark.parametrize("height", [20_000, TABLE_ROWS + 5, 10**9])
def test_shuffle_separates_neighbours_in_time(height: int):
    """This also holds for rows that are drawn in runs of consecutive frames."""
    order = Shuffle(height, 4096, seed=0)
    gaps = np.concatenate([np.abs(np.diff(order.indices(step))) for step in range(4)])
    assert (gaps == 1).mean() < 1e-3
    assert np.median(gaps) > height / 5


def test_array_rows_accept_leading_axes_and_any_float():
    rows = ArrayRows(np.arange(24, dtype=np.float16).reshape(2, 3, 4))
    assert (rows.height, rows.width) == (6, 4)
    assert rows.take(np.array([5, 0])).tolist() == [[20, 21, 22, 23], [0, 1, 2, 3]]
    assert rows.take(np.array([1])).dtype == np.float32


def test_chunks_cover_the_rows_in_order():
    rows = ArrayRows(np.arange(10, dtype=np.float32)[:, None])
    met = list(chunks(rows, 4))
    assert [start for start, _ in met] == [0, 4, 8]
    assert np.concatenate([chunk for _, chunk in met])[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("shape", [(5,), (5, 0), ()])
def test_array_rows_shape_errors(shape: tuple[int, ...]):
    with pytest.raises(TrainingError, match=r"rows must be an array \[rows, width\]"):
        ArrayRows(np.zeros(shape, dtype=np.float32))


class ReadOnly(np.ndarray):
    """Read-only array, as other libraries may return."""

    def __getitem__(self, key):  # pyright: ignore
        actual = np.array(self.view(np.ndarray)[key])
        actual.setflags(write=False)
        return actual


def test_array_rows_take_returns_writable_arrays():
    rows = ArrayRows(np.ones((4, 3), dtype=np.float32).view(ReadOnly))
    assert rows.take(np.array([1, 2])).flags.writeable


def test_as_rows_accepts_arrays_and_tensors():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    indices = np.array([5, 0])
    met = ArrayRows(values).take(indices)
    for actual in (values, torch.from_numpy(values), torch.from_numpy(values).bfloat16().requires_grad_()):
        assert np.array_equal(as_rows(actual).take(indices), met)
    rows = ArrayRows(values)
    assert as_rows(rows) is rows


def test_as_rows_type_errors():
    with pytest.raises(TrainingError, match=r"rows are a list; give an array or a tensor \[rows, width\]"):
        as_rows([[1.0, 2.0]])


@pytest.mark.parametrize("dtype", ["U4", "O", "complex64", "datetime64[s]"])
def test_array_rows_dtype_errors(dtype: str):
    with pytest.raises(TrainingError, match=r"rows must be real numbers, got an array of"):
        ArrayRows(np.ones((4, 3)).astype(int).astype(dtype))
