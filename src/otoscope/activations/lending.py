"""Memory for batches, lent again once nobody holds it.

The system hands out memory as pages of zeros and takes it back when a batch is dropped. For batches of a few
megabytes that costs more than to gather them.
"""

import sys
from collections.abc import Sequence
from threading import Lock

import numpy as np
from jaxtyping import Float32

REMEMBERED = 4
"""Blocks of memory: one in use, one read ahead, and some on their way out."""

LARGEST = 1 << 26
"""Bytes of the largest block that is remembered; what is larger than a batch is not asked for twice."""


class Lending:
    """Arrays of float32 whose memory is used again when nothing that shares it is left.

    Whoever holds a view, a tensor or a buffer of an array is counted by Python: what is held is never lent twice.

    >>> lending = Lending()
    >>> lending.lend(2, 3).shape
    (2, 3)
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._blocks: list[Float32[np.ndarray, " numbers"]] = []

    def lend(self, rows: int, width: int) -> Float32[np.ndarray, "rows width"]:
        """Return an array of this shape; what is in it is arbitrary."""
        with self._lock:
            return self._block(rows * width)[: rows * width].reshape(rows, width)

    def _block(self, numbers: int) -> Float32[np.ndarray, " numbers"]:
        for place in range(len(self._blocks)):
            if _holders(self._blocks, place) == ALONE and len(self._blocks[place]) >= numbers:
                return self._blocks[place]
        block = np.empty(numbers, dtype=np.float32)
        if block.nbytes <= LARGEST:
            self._blocks = [*self._blocks[-REMEMBERED + 1 :], block]
        return block


def _holders(blocks: Sequence[object], place: int) -> int:
    return sys.getrefcount(blocks[place])


ALONE = _holders([object()], 0)
"""What Python counts for a block that only the list holds."""
