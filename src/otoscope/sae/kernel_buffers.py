"""Arrays of a training step with kernels, for batches of one size."""

import numpy as np
import torch
from torch import Tensor

from otoscope.sae.kernel_selection import BLOCK, Scratch
from otoscope.sae.kernel_tables import Array, as_table, new_table
from otoscope.sae.kernel_thresholds import ThresholdSums
from otoscope.sae.kernels import Entries, GradientSums
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.penalised import Gated

MIN_CHUNK, CHUNK = 16, 256
"""Fewest and most rows of which one thread selects and decodes the latents: waking a thread takes as long as a few."""
FEW_ROWS = 64
"""Up to this number of rows, no matrices are multiplied but those of the encoder."""
BLOCKS = 8
"""Parts of the latents in the products of gradients; their number is fixed, which keeps sums the same."""


def chunk_size(rows: int) -> int:
    """Return the rows per chunk of a batch; it depends on the batch and not on threads, which keeps sums the same.

    >>> [chunk_size(rows) for rows in (1, 16, 512, 2048)]
    [16, 16, 128, 256]
    """
    return min(CHUNK, max(MIN_CHUNK, -(-rows // 4)))


class Workspace:
    """Arrays of batches of one size, reused in every step.

    Rows have `k` entries and are decoded in `levels`, the last one as a matrix if `dense`, and the dead latents with
    `aux_k` entries, or without AuxK none. Products have the precision of the tables `filters` and `atoms`.
    """

    def __init__(
        self, sae: SparseAutoencoder, rows: int, k: int, levels: int, aux_k: int, threads: int, filters: Tensor,
        atoms: Tensor, dense: bool,
    ) -> None:  # fmt: skip
        self.rows, self.width, self.latents = rows, sae.width, sae.latents
        self.number, self.table, self.dense = sae.encoder.dtype, atoms.dtype, dense
        self.chunks = range(-(-rows // chunk_size(rows)))
        chunks = len(self.chunks)
        self.pre = torch.empty(rows, sae.latents, dtype=filters.dtype)
        self.inputs = new_table(rows, sae.width, self.table)
        self.main, self.aux = self._entries(k, levels, gathered=levels - dense), self._entries(aux_k, 1)
        self.last_residuals = torch.from_numpy(self.main.residuals).view(self.table)[levels - 1 :: levels]
        # open gates have the entries of `main`, without levels
        self.gates = self._entries(k if isinstance(sae.sparsifier, Gated) else 0, 1)
        self.none = self._entries(0, 1)
        # without rows unless the last level is a matrix: its codes, products of residuals and atoms, and of codes and
        # atoms, and gradients of a part of the latents per thread
        matrix, part = (rows, -(-sae.latents // BLOCKS)) if dense else (0, 0)
        self.dense_counts = np.zeros((chunks, sae.latents), np.int64)
        self.codes, self.slopes = torch.zeros(2, matrix, sae.latents, dtype=self.table)
        self.rebuilt = new_table(matrix, sae.width, self.table)
        self.products = [new_table(part, sae.width, self.table) for _ in range(threads)]
        self.sums = self._zeros(chunks, sae.width)
        active = np.zeros((chunks, sae.latents), np.int64)
        self.thresholds = ThresholdSums(self._zeros(0), active, *self._zeros(2, chunks, sae.latents))
        self.scratch = [self._scratch(levels) for _ in range(threads)]
        self.resize(rows * k)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk and the row after its last."""
        size = chunk_size(self.rows)
        return chunk * size, min(self.rows, (chunk + 1) * size)

    def resize(self, size: int) -> None:
        """Allocate this number of entries, and the gradients of filters and atoms as sums over `main` and `aux`."""
        latent, (code, slope, pre, gate_slope) = np.zeros(size, np.uint32), self._zeros(4, size)
        self.main = self.main._replace(latent=latent, code=code, slope=slope)
        self.thresholds = self.thresholds._replace(pre=pre)
        self.gates = self.gates._replace(latent=latent, code=pre, slope=gate_slope)
        self.filter_sums: list[GradientSums] = []
        self.atom_sums: list[GradientSums] = []
        for entries in (self.main, self.aux):
            number = len(entries.code) if entries.gathered else 0
            offsets = np.zeros(self.latents + 1 if number else 0, np.int64)
            row, residual = np.zeros((2, number), np.uint32)
            residual = row if entries.squares.shape[1] == 1 else residual
            self.filter_sums.append(GradientSums(as_table(self.inputs), offsets, row, self._zeros(number)))
            self.atom_sums.append(GradientSums(entries.residuals, offsets, residual, self._zeros(number)))

    def _zeros(self, *shape: int) -> Array:
        return torch.zeros(shape, dtype=self.number).numpy()  # starts on a cache line, unlike NumPy's

    def _entries(self, k: int, levels: int, *, gathered: int = 1) -> Entries:
        """Allocate `k` entries per row; 0 leaves everything empty."""
        rows, chunks = (self.rows, len(self.chunks)) if k else (0, 0)
        return Entries(
            bounds=np.zeros((rows, levels + 1), np.int64),
            latent=np.zeros(rows * k, np.uint32),
            code=self._zeros(rows * k),
            slope=self._zeros(rows * k),
            counts=np.zeros((chunks, self.latents), np.int64),
            residuals=as_table(new_table(rows * levels, self.width, self.table)),
            squares=self._zeros(rows, levels),
            gathered=gathered,
        )

    def _scratch(self, levels: int) -> Scratch:
        integer = torch.int32 if self.number == torch.float32 else torch.int64
        keys = torch.zeros(-(-self.latents // BLOCK) * BLOCK, dtype=integer).numpy()
        return Scratch(
            codes=keys.view(self.main.code.dtype)[: self.latents],
            keys=keys,
            places=np.zeros(self.latents, np.int32),
            chosen=np.zeros(self.latents, keys.dtype),
            rest=np.zeros(self.latents, np.int32),
            lines=self._zeros(levels + 1, self.inputs.shape[1]),
        )
