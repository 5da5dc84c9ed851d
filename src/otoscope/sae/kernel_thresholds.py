"""Codes and gradients of JumpReLU and Gated on listed entries, for `KernelStepper`.

Entries are the pre-activations above a lower limit: those of active latents, and those near a threshold, which have
gradients for the threshold alone. The code of an entry is `gain * pre + shift` where that is above `cut`, else 0.
"""

from typing import NamedTuple

import torch
from numba import njit
from torch import Tensor

from otoscope.sae.kernel_tables import COMPILED, Array
from otoscope.sae.kernels import Entries
from otoscope.sae.sparsifiers.penalised import Gated, JumpReLU


class Limits(NamedTuple):
    """Numbers of each latent during one step `[latents]`."""

    lower: Array
    """Pre-activations above it are listed."""
    gain: Array
    shift: Array
    cut: Array
    upper: Array
    """End of JumpReLU's window."""
    cost: Array
    """Gradient of Gated's L1 norm with respect to a gate."""


class ThresholdSums(NamedTuple):
    """Entries before the threshold, and sums over the rows of each chunk `[chunks, latents]`."""

    pre: Array
    active: Array
    """Number of active entries."""
    first: Array
    second: Array
    """Sums for the gradients of JumpReLU's thresholds, or of Gated's shift and stretch."""


@njit(**COMPILED)
def set_codes(entries: Entries, sums: ThresholdSums, limits: Limits, chunk: int, start: int, stop: int) -> None:
    """Replace the pre-activations of the entries of one chunk, from `start` to `stop`, by codes; count active ones."""
    active, zero = sums.active[chunk], entries.code.dtype.type(0)
    active[:] = 0
    for e in range(start, stop):
        latent, pre = entries.latent[e], entries.code[e]
        code = limits.gain[latent] * pre + limits.shift[latent]
        on = code > limits.cut[latent]
        sums.pre[e], entries.code[e] = pre, code if on else zero
        active[latent] += on


@njit(**COMPILED)
def jump_slopes(entries: Entries, sums: ThresholdSums, limits: Limits, chunk: int, first: int, last: int) -> None:
    """Sum and count the slopes in the window of each latent; keep the slopes of active entries."""
    slopes, near = sums.first[chunk], sums.second[chunk]
    slopes[:], near[:] = 0, 0
    for e in range(entries.bounds[first, 0], entries.bounds[last - 1, entries.gathered]):
        latent = entries.latent[e]
        if sums.pre[e] < limits.upper[latent]:
            slopes[latent] += entries.slope[e]
            near[latent] += 1
        if entries.code[e] == 0:
            entries.slope[e] = 0


@njit(**COMPILED)
def gated_slopes(
    entries: Entries, gates: Entries, sums: ThresholdSums, limits: Limits, chunk: int, first: int, last: int
) -> None:
    """Sum the slopes of magnitudes for shift and stretch; set those of pre-activations from magnitude and gate."""
    shift, stretch = sums.first[chunk], sums.second[chunk]
    shift[:], stretch[:] = 0, 0
    for e in range(entries.bounds[first, 0], entries.bounds[last - 1, entries.gathered]):
        latent, slope = entries.latent[e], gates.slope[e] + limits.cost[entries.latent[e]]
        if entries.code[e] > 0:
            scaled = entries.slope[e] * limits.gain[latent]
            shift[latent] += entries.slope[e]
            stretch[latent] += scaled * sums.pre[e]
            slope += scaled
        entries.slope[e] = slope


def step_limits(sparsifier: JumpReLU | Gated, decoder: Tensor) -> Limits:
    """Return the limits of one step; the cost of Gated's gates is left at 0 (see `gate_cost`)."""
    zero = torch.zeros_like(decoder[:, 0])
    if isinstance(sparsifier, JumpReLU):
        log, half = sparsifier.log_threshold.detach(), sparsifier.bandwidth / 2
        limits = (log - half).exp(), zero + 1, zero, log.exp(), (log + half).exp(), zero
    else:
        limits = zero, sparsifier.stretch.detach().exp(), sparsifier.shift.detach(), zero, zero, zero.clone()
    return Limits(*(limit.numpy() for limit in limits))


def gate_cost(sparsifier: Gated, decoder: Tensor) -> Array:
    """Return the gradient of the L1 norm in units of `2 / (rows * width)`, as slopes are before they are scaled."""
    return (sparsifier.strength.weight * decoder.norm(dim=1) * (decoder.shape[1] / 2)).to(decoder.dtype).numpy()


def threshold_gradients(sparsifier: JumpReLU | Gated, sums: ThresholdSums, rows: int, scale: float) -> dict[str, Array]:
    """Return the gradients of the sparsifier's parameters; `scale` is that of slopes."""
    first, second = sums.first.sum(axis=0), sums.second.sum(axis=0)
    if isinstance(sparsifier, Gated):
        return {"sparsifier.shift": first * first.dtype.type(scale), "sparsifier.stretch": second * scale}
    threshold = sparsifier.log_threshold.detach().exp().numpy()
    weight = float(sparsifier.strength.weight) / rows
    gradient = -(threshold * first * scale + weight * second) / sparsifier.bandwidth
    return {"sparsifier.log_threshold": gradient.astype(threshold.dtype)}
