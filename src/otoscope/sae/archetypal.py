"""Archetypal dictionary: atoms that are approximately mixtures of data points."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

OWN_SHARE = 0.9
"""Initial share of an atom's first two points."""

LLOYD_STEPS = 10
ROWS_PER_POINT = 16


class Archetypes(nn.Module):
    """Atoms near the convex hull of points: `atoms = softmax(logits) points + relaxation`.

    Relaxed archetypal dictionary (RA-SAE, Fel et al. 2025, arXiv 2502.12892): every atom is a
    mixture of data points, plus a step of at most `bound` times the points' root mean square
    length. Atoms stay close to the data, and trainings with other seeds find similar ones.
    """

    points: Float[Tensor, "points width"]

    def __init__(self, points: int, width: int, latents: int, *, bound: float = 0.0) -> None:
        super().__init__()
        self.bound = bound
        self.register_buffer("points", torch.zeros(points, width))
        self.logits = nn.Parameter(torch.zeros(latents, points))
        self.relaxation = nn.Parameter(torch.zeros(latents, width))

    @property
    def mixing(self) -> Float[Tensor, "latents points"]:
        """Share of each point in each atom; rows sum to 1."""
        return self.logits.softmax(dim=1)

    def atoms(self) -> Float[Tensor, "latents width"]:
        """Return the dictionary."""
        return self.mixing @ self.points + self.relaxation

    @torch.no_grad()
    def initialise(self, points: Float[Tensor, "points width"], *, seed: int) -> None:
        """Set the points; each atom starts near one of them, or between two."""
        self.points.copy_(points)
        latents, number = self.logits.shape
        generator = torch.Generator().manual_seed(seed)
        first = torch.cat([torch.randperm(number, generator=generator) for _ in range(-(-latents // number))])[:latents]
        second = torch.randint(number, (latents,), generator=generator)
        share = 0.5 + 0.5 * torch.rand(latents, generator=generator)
        mixing = torch.full((latents, number), (1 - OWN_SHARE) / number)
        rows = torch.arange(latents)
        mixing[rows, first] += OWN_SHARE * share
        mixing[rows, second] += OWN_SHARE * (1 - share)
        self.logits.copy_(mixing.log())

    @torch.no_grad()
    def clip(self) -> None:
        """Shorten relaxations that are longer than the bound."""
        longest = self.bound * self.points.square().sum(dim=1).mean().sqrt()
        lengths = torch.linalg.vector_norm(self.relaxation, dim=1, keepdim=True).clamp_min(1e-12)
        self.relaxation.mul_((longest / lengths).clamp_max(1.0))


@torch.no_grad()
def centroids(rows: Float[Tensor, "rows width"], number: int, *, seed: int) -> Float[Tensor, "number width"]:
    """Return k-means centroids of the rows, started from randomly drawn rows; all rows if there are no more.

    scikit-learn's `KMeans` with the same start and steps takes 0.6 to 0.7 of the time (8,192 rows, widths 384 and 768,
    512 points), and saves at most 0.5 s per SAE. Its parallel sums are added in any order, so the bytes would vary.

    >>> centroids(torch.tensor([[0.0], [0.2], [5.0], [5.2]]), 2, seed=0).flatten().sort().values
    tensor([0.1000, 5.1000])
    """
    if len(rows) <= number:
        return rows
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    centres = rows[drawn[:number]].clone()
    for _ in range(LLOYD_STEPS):
        nearest = torch.cdist(rows, centres).argmin(dim=1)
        sizes = torch.bincount(nearest, minlength=number)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp_min(1), centres)
    return centres


def sample_size(number: int, height: int) -> int:
    """Return the number of rows to sample for k-means with `number` points."""
    return min(height, math.ceil(ROWS_PER_POINT * number))
