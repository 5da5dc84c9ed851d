import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from otoscope.activations.rows import LARGEST, REMEMBERED, Lending


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_that_nobody_holds_is_lent_again():
    lending = Lending()
    lent = lending.lend(4, 3)
    before = address(lent)
    del lent
    assert address(lending.lend(3, 4)) == before
    assert address(lending.lend(2, 2)) == before


@pytest.mark.parametrize(
    "keep",
    [
        lambda lent: lent,
        lambda lent: lent[1:2],
        torch.from_numpy,
        lambda lent: torch.from_numpy(lent)[0],
        lambda lent: torch.from_numpy(lent).numpy(),
        memoryview,
    ],
)
def test_what_is_held_in_any_form_is_never_lent_twice(keep: Callable[[np.ndarray], Any]):
    lending = Lending()
    lent = lending.lend(4, 3)
    lent[:] = 1.0
    before, held = address(lent), keep(lent)
    del lent
    for _ in range(REMEMBERED + 2):
        other = lending.lend(4, 3)
        assert address(other) != before
        other[:] = 2.0
    assert (np.asarray(held) == 1.0).all()


def test_every_batch_may_be_kept():
    lending = Lending()
    kept = [lending.lend(2, 2) for _ in range(20)]
    assert len({address(array) for array in kept}) == 20


def test_memory_larger_than_a_batch_is_not_remembered():
    lending = Lending()
    lent = lending.lend(LARGEST // 4 + 1, 1)
    block = weakref.ref(lent.base)
    del lent
    assert block() is None
