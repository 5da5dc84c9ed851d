"""Erasure of a concept from a layer, and the effect of erasing each concept on the readout of every other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from otoscope.errors import EvaluationError
from otoscope.explain.firing import diverse
from otoscope.resampling.groups import group_sums
from otoscope.resampling.intervals import jackknife_sums

MIN_STEP = 0.5
"""Least difference of a concept between the clips of a swap, in standard deviations; classes differ by more."""


GROUP_PARTS = 5
"""Parts into which the clips of every group are dealt: one is read, one chooses the penalty, the others fit."""


class GroupClips(NamedTuple):
    """Clips of each group that fit its readout, that choose its penalty, and that are read out."""

    fitted: Bool[np.ndarray, " clips"]
    chosen: Bool[np.ndarray, " clips"]
    held_out: Bool[np.ndarray, " clips"]


def group_clips(groups: Shaped[np.ndarray, " clips"], labels: Sequence[Shaped[np.ndarray, " clips"]]) -> GroupClips:
    """Deal the clips of each group in the order of their labels, so that all groups leave out the same classes.

    A class held out of some groups only would be evidence against these groups. Groups with fewer than `GROUP_PARTS`
    clips have none.

    >>> group_clips(np.array(["a"] * 5 + ["b"] * 4), [np.array(list("vwxyzvwxy"))]).held_out.nonzero()[0].tolist()
    [0]
    """
    part = np.full(len(groups), -1)
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        if len(own) >= GROUP_PARTS:
            keys = [own, *(label[own] for label in reversed(labels))]
            part[own[np.lexsort(keys)]] = np.arange(len(own)) % GROUP_PARTS
    return GroupClips(part > 1, part == 1, part == 0)


class Eraser(NamedTuple):
    r"""Affine map $x - L R (x - \mu)$ of frames."""

    centre: Float[np.ndarray, " width"]
    left: Float[np.ndarray, "width rank"]
    right: Float[np.ndarray, "rank width"]

    def __call__(self, rows: Float[Tensor, "frames width"]) -> Float[Tensor, "frames width"]:
        """Return the frames without the concept."""
        centre, left, right = (torch.from_numpy(a).to(rows) for a in self)
        return rows - (rows - centre) @ right.T @ left.T

    def shift(self, rows: Float[Tensor, "frames width"]) -> Float[Tensor, "frames width"]:
        """Return the difference that erasing makes."""
        return self(rows) - rows


def leace(rows: Float[np.ndarray, "rows width"], values: Float[np.ndarray, "rows columns"]) -> Eraser:
    r"""Return the smallest change of rows that removes their correlation with the values (LEACE).

    With $W = \Sigma_{xx}^{-1/2}$ (pseudo-inverse) and $P$ the orthogonal projection on the columns of
    $W \Sigma_{xz}$, it is $x - W^+ P W (x - \mu)$ (Belrose et al., arXiv 2306.03819, theorem 4.2): no linear readout
    fitted by least squares can predict the values. Raises `EvaluationError` if no row varies with the values.

    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(500, 1))
    >>> x = np.concatenate([z + rng.normal(size=(500, 1)), rng.normal(size=(500, 1))], axis=1)
    >>> erased = leace(x, z)(torch.from_numpy(x)).numpy()
    >>> bool(abs(np.corrcoef(erased[:, 0], z[:, 0])[0, 1]) < 1e-5)
    True
    """
    known = np.isfinite(values).all(axis=1)
    x, z = rows[known].astype(np.float64), values[known].astype(np.float64)
    centre = x.mean(axis=0)
    x, z = x - centre, z - z.mean(axis=0)
    variance, axes = np.linalg.eigh(x.T @ x / len(x))
    kept = variance > 1e-9 * max(float(variance.max(initial=0.0)), 1e-300)
    axes, deviation = axes[:, kept], np.sqrt(variance[kept])
    whiten, unwhiten = axes / deviation @ axes.T, axes * deviation @ axes.T
    vectors, sizes, _ = np.linalg.svd(whiten @ (x.T @ z / len(x)), full_matrices=False)
    vectors = vectors[:, sizes > 1e-7 * max(float(sizes.max(initial=0.0)), 1e-300)]
    if not vectors.shape[1] or not sizes.max(initial=0.0) > 0:
        raise EvaluationError("the rows do not vary with the values; there is nothing to erase")
    return Eraser(centre, unwhiten @ vectors, vectors.T @ whiten)


class LostGain(NamedTuple):
    r"""Gain of each readout that is lost when each concept is erased, with its interval over groups.

    The gain of a readout $y$ with a concept $z$ is the slope $\sum_i z_i y_i / \sum_i z_i^2$ of the output on the true
    value over clips: 1 for a perfect readout, for a class the difference of its mean output with and without the class.
    """

    lost: Float[np.ndarray, "erased concepts"]
    low: Float[np.ndarray, "erased concepts"]
    high: Float[np.ndarray, "erased concepts"]


def gain_sums(
    outputs: Float[np.ndarray, "passes clips columns"],
    truth: Float[np.ndarray, "clips columns"],
    concept_of: Int[np.ndarray, " columns"],
    groups: Shaped[np.ndarray, " clips"],
) -> Float[np.ndarray, "groups passes_and_squares concepts"]:
    r"""Return $\sum z y$ of each pass in each group, and $\sum z^2$ last; columns of one concept are added up.

    The first pass is the untouched one. Unknown values (NaN) of `truth` do not count; its columns are centred.
    """
    z = np.nan_to_num(truth - np.nanmean(truth, axis=0))
    columns = group_sums(np.swapaxes(np.concatenate([outputs, z[None]]) * z, 0, 1), groups)
    member = concept_of[:, None] == np.arange(int(concept_of.max()) + 1)
    return columns @ member.astype(np.float64)


def gain_before(sums: Float[np.ndarray, "groups passes_and_squares concepts"]) -> Float[np.ndarray, " concepts"]:
    """Return the gain of the untouched readouts; NaN for a concept that is the same in all clips."""
    total = sums.sum(axis=0)
    return np.divide(total[0], total[-1], out=np.full(total.shape[1], np.nan), where=total[-1] > 1e-9)


def lost_gain(sums: Float[np.ndarray, "groups passes_and_squares concepts"]) -> LostGain:
    """Return the lost gain for each pass but the untouched one.

    >>> sums = np.array([[[2.0, 2.0], [0.0, 1.0], [2.0, 2.0]]] * 2)
    >>> lost_gain(sums).lost.tolist()
    [[1.0, 0.5]]
    """
    return LostGain(*jackknife_sums(sums, _lost))


def _lost(sums: Float[np.ndarray, "*drawn passes_and_squares concepts"]) -> Float[np.ndarray, "*drawn erased concepts"]:
    before, after, squares = sums[..., :1, :], sums[..., 1:-1, :], sums[..., -1:, :]
    known = np.broadcast_to(squares > 1e-9, after.shape)
    return np.divide(before - after, squares, out=np.full(after.shape, np.nan), where=known)


class Dominance(NamedTuple):
    """Mean loss of the erased concept's own readout minus the mean loss of others, with its interval over groups."""

    dominance: float
    low: float
    high: float


def diagonal_dominance(
    sums: Float[np.ndarray, "groups passes_and_squares concepts"],
    erased: Int[np.ndarray, " erased"],
    others: Bool[np.ndarray, "erased concepts"],
    *,
    control: Float[np.ndarray, "groups passes_and_squares concepts"] | None = None,
) -> Dominance:
    """Return the mean loss of gain of the erased concept's own readout minus that of the readouts of others.

    `erased` is the concept of each pass after the first, `others` marks the concepts that it is compared with. With the
    sums of a `control` (random latents), the difference to its dominance is returned, paired over groups.

    >>> sums = np.array([[[2.0, 2.0], [0.0, 2.0], [2.0, 1.0], [2.0, 2.0]]] * 3)  # the own gain falls by 1 and by 1/2
    >>> diagonal_dominance(sums, np.array([0, 1]), np.array([[False, True], [True, False]])).dominance
    0.75
    """

    def of(drawn: Float[np.ndarray, "drawn passes_and_squares concepts"]) -> Float[np.ndarray, " drawn"]:
        lost = _lost(drawn)
        own = lost[:, np.arange(len(erased)), erased]
        return (own - np.where(others, lost, 0).sum(axis=-1) / np.maximum(others.sum(axis=-1), 1)).mean(axis=-1)

    if control is None:
        return Dominance(*map(float, jackknife_sums(sums, of)))
    both = np.stack([sums, control], axis=1)
    return Dominance(*map(float, jackknife_sums(both, lambda drawn: of(drawn[:, 0]) - of(drawn[:, 1]))))


def swap_pairs(
    values: Float[np.ndarray, " clips"],
    other_labels: Shaped[np.ndarray, "clips labels"],
    groups: Shaped[np.ndarray, " clips"],
    clips: Int[np.ndarray, " candidates"],
    *,
    limit: int,
) -> list[tuple[int, int]]:
    """Pair clips of one group whose value of a concept rises by `MIN_STEP` or more, and that are most alike otherwise.

    Of the partners with most `other_labels` in common, the one that differs most is taken. Each clip is the first of at
    most one pair; pairs come from one group before a second of any.
    """
    pairs: list[tuple[int, int]] = []
    for first in clips.tolist():
        partners = clips[(values[clips] >= values[first] + MIN_STEP) & (groups[clips] == groups[first])]
        if len(partners):
            shared = (other_labels[partners] == other_labels[first]).sum(axis=1)
            best = np.lexsort((-values[partners], -shared))[0]
            pairs.append((first, int(partners[best])))
    order = diverse(range(len(pairs)), [str(groups[first]) for first, _ in pairs])
    return [pairs[i] for i in order[:limit]]
