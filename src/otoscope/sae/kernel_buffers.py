"""Arrays of a training step with kernels: sizes, tables, and the workspace of batches of one size."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from otoscope.sae import kernel_selection, kernels
from otoscope.sae.kernel_thresholds import ThresholdSums
from otoscope.sae.kernels import Array, ByLatent, Dense, Entries, Scratch

CHUNK = 256
"""Most rows that are encoded together: their pre-activations stay in the cache until the selection."""
FEW_ROWS = 64
"""Up to this number of rows, products are divided by latents: every product of fewer rows would read all filters."""


def chunk_size(rows: int) -> int:
    """Return the rows per chunk of a batch; it depends on the batch and not on threads, which keeps sums the same.

    >>> [chunk_size(rows) for rows in (1, 16, 512, 2048)]
    [1, 4, 128, 256]
    """
    return min(CHUNK, -(-rows // 4))


class Shape(NamedTuple):
    """Sizes of a step's arrays, and their types."""

    rows: int
    width: int
    latents: int
    dtype: np.dtype[np.floating]
    table: torch.dtype

    @property
    def chunks(self) -> int:
        """Number of chunks of a batch."""
        return -(-self.rows // chunk_size(self.rows))

    @property
    def products(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Parts of the product of a whole batch: ranges of rows and of latents."""
        if self.rows > FEW_ROWS:
            return [(self.bounds(chunk), (0, self.latents)) for chunk in range(self.chunks)]
        part = max(FEW_ROWS, -(-self.latents // 4))
        return [((0, self.rows), (i, min(i + part, self.latents))) for i in range(0, self.latents, part)]

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk and the row after its last."""
        size = chunk_size(self.rows)
        return chunk * size, min(self.rows, (chunk + 1) * size)

    def entries(self, k: int, levels: int, *, dense: bool = False) -> Entries:
        """Allocate `k` entries per row, the last level as a matrix if `dense`; 0 leaves everything empty."""
        rows, chunks = (self.rows, self.chunks) if k else (0, 0)
        return Entries(
            bounds=np.zeros((rows, levels + 1), np.int64),
            latent=np.zeros(rows * k, np.uint32),
            code=np.zeros(rows * k, self.dtype),
            slope=np.zeros(rows * k, self.dtype),
            counts=np.zeros((chunks, self.latents), np.int64),
            residuals=as_table(new_table(rows * levels, self.width, self.table)),
            squares=np.zeros((rows, levels), self.dtype),
            gathered=levels - dense,
        )

    def dense(self, rows: int) -> Dense:
        """Allocate the matrices of this number of rows, all or none."""
        codes, slopes = torch.zeros(2, rows, self.latents, dtype=self.table)
        chunks = self.chunks if rows else 0
        return Dense(
            as_bits(codes),
            as_bits(slopes),
            as_table(new_table(rows, self.width, self.table)),
            counts=np.zeros((chunks, self.latents), np.int64),
            sums=np.zeros((chunks, self.latents), self.dtype),
        )

    def ordered(self, k: int, levels: int, *, used: bool = True) -> ByLatent:
        """Allocate `k` entries per row in the order of latents, without latents unless `used`."""
        offsets, value = np.zeros(self.latents + 1 if used else 0, np.int64), np.zeros((2, self.rows * k), self.dtype)
        row = np.zeros(self.rows * k, np.uint32)
        return ByLatent(offsets, row, row if levels == 1 else np.zeros_like(row), *value)

    def scratch(self, levels: int) -> Scratch:
        """Allocate the buffers of one thread."""
        number, integer = (torch.float32, torch.int32) if self.dtype == np.float32 else (torch.float64, torch.int64)
        keys = torch.zeros(-(-self.latents // kernel_selection.BLOCK) * kernel_selection.BLOCK, dtype=integer).numpy()
        columns = kernels.columns_of(as_table(new_table(1, self.width, self.table)))
        return Scratch(
            codes=keys.view(self.dtype)[: self.latents],
            keys=keys,
            places=np.zeros(self.latents, np.int32),
            chosen=np.zeros(self.latents, keys.dtype),
            lines=torch.zeros(levels + 1, columns, dtype=number).numpy(),  # starts on a cache line, unlike NumPy's
        )


def new_table(rows: int, width: int, precision: torch.dtype) -> Tensor:
    """Allocate a table for products and kernels; rows of bfloat16 have an even number of columns."""
    return torch.zeros(rows, width + width % 2 if precision == torch.bfloat16 else width, dtype=precision)


def as_table(values: Tensor) -> Array:
    """Return a table as an array that shares its memory; bfloat16 as words of two columns."""
    values = values.detach()
    return values.view(torch.int32).numpy().view(np.uint32) if values.dtype == torch.bfloat16 else values.numpy()


def as_tensor(values: Array) -> Tensor:
    """Return a table, or an array of bits, as a tensor that shares its memory."""
    rounded = values.dtype.kind == "u"
    return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if rounded else torch.from_numpy(values)


def as_bits(values: Tensor) -> Array:
    """Return a tensor as an array that shares its memory; bfloat16 as its bits."""
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


@dataclass
class Workspace:
    """Arrays of batches of one size, reused in every step."""

    shape: Shape
    main: Entries
    dense: Dense
    gradients: list[Tensor]
    """Products for the gradients of a part of the latents `[latents, width]`, per thread; without latents if none."""
    aux: Entries
    ordered: ByLatent
    aux_ordered: ByLatent
    inputs: Tensor
    """Table of the rows; empty if they are multiplied in their own precision."""
    pre: list[Tensor]
    """Pre-activations: of one chunk per thread, or of the whole batch."""
    whole: bool
    thresholds: ThresholdSums
    """Without entries for TopK and BatchTopK."""
    gates: Entries
    """Gated: open gates, as entries without levels."""
    scratch: list[Scratch]
    sums: Array
