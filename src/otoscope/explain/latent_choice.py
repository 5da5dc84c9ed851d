"""The best latent of a factor or class, its correlations, and what test groups decide about it."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Shaped

from otoscope.formatting import nothing_exceeds
from otoscope.resampling.groups import group_sums
from otoscope.resampling.intervals import FISHER, MIN_GROUPS, jackknife_sums

PREDICTED_R2 = 0.1
"""Held-out R² from which a factor counts as predicted, if it also exceeds its null."""

MIN_GROUP_R = 0.1
"""Size from which on the correlation within a single test group agrees with that within all."""

MIN_ROWS = 8
"""Minimum number of clips with a known factor value, and of clips in which a latent fires, for a correlation."""


class LatentOutcome(StrEnum):
    """Decision of the test groups on a latent that training and validation groups chose."""

    CONFIRMED = "confirmed"
    TOO_FEW_GROUPS = "too few groups"
    """Beyond chance, but fewer than `MIN_GROUPS` groups agree, or not most of those compared."""
    TOO_FEW_CLIPS = "too few clips"
    """Fewer than `MIN_ROWS` test clips."""
    NOT_TESTABLE = "not testable"
    """Too few clips or groups can be exchanged for a correlation beyond chance to exist."""
    BETWEEN_GROUPS = "between groups only"
    CHANCE = "not beyond chance"
    OPPOSITE = "opposite sign"

    @property
    def refutes(self) -> bool:
        """True if test clips contradict the training clips."""
        return self in (LatentOutcome.BETWEEN_GROUPS, LatentOutcome.CHANCE, LatentOutcome.OPPOSITE)


class WithinClasses(StrEnum):
    """Decision on a latent of a factor that differs between classes: it may follow the classes alone."""

    NOT_ASKED = ""
    """The factor does not differ between the classes of any label."""
    HOLDS = "holds"
    OPEN = "open"
    BETWEEN_CLASSES = "between classes only"


@dataclass(frozen=True, kw_only=True)
class LatentChoice:
    """The latent whose pooled code follows a factor best.

    `train_r` is Pearson's correlation over the clips on which the latent was chosen, `test_r` over clips of other
    groups, both of deviations from the mean of each group if `within`, because otherwise a latent of a singer's sex
    would stand for pitch. A factor that is constant within groups is compared over all clips. `null_high` is the
    largest |test_r| with a `p_value` above 0.05 when the test clips are permuted within groups, or their groups, and
    all chosen latents are one family (1 if there are too few);
    `test_r_high` is the end of the 95 % interval of `test_r` over groups that is farther from 0, in size;
    `overall_r` is the test correlation with the differences between groups, `group_r` that within each test group (NaN
    where the factor is constant, 0 where the latent alone is, empty if not `within`). `also` lists lower-ranked factors
    with the same best latent. `seeds_found` of `seeds_asked` dictionaries trained with other seeds contain the latent
    again; both are None if this was not tested. With a `label`, `factor` is one of its classes, as 1 in its clips and 0
    in others; `other_classes` are further classes of the label with a correlation above `null_high` on test clips
    (`other_test_r`; `other_train_r` on training clips, on which only `factor` was chosen), and `next_class` the class
    with the largest test correlation, `next_r`, of all others.

    `class_labels` are the labels whose classes differ in the factor, `class_r` the test correlation within groups and
    these classes, `class_null_high` its 95 % point for permuted clips, `of_class` the class with most of the latent.
    """

    factor: str
    label: str = ""
    score: float
    latent: int
    train_r: float
    test_r: float
    null_high: float
    p_value: float
    overall_r: float
    within: bool
    test_clips: int
    test_groups: int
    firing: float
    test_r_high: float = math.nan
    group_r: tuple[float, ...] = ()
    also: tuple[str, ...] = ()
    seeds_found: int | None = None
    seeds_asked: int | None = None
    within_classes: WithinClasses = WithinClasses.NOT_ASKED
    class_labels: tuple[str, ...] = ()
    class_r: float = math.nan
    class_null_high: float = math.nan
    of_class: str = ""
    other_classes: tuple[str, ...] = ()
    other_test_r: tuple[float, ...] = ()
    other_train_r: tuple[float, ...] = ()
    next_class: str = ""
    next_r: float = math.nan

    @property
    def compared_groups(self) -> int:
        """Number of test groups in which the factor varies; all groups if `group_r` is empty."""
        return sum(not math.isnan(r) for r in self.group_r) if self.group_r else self.test_groups

    @property
    def agreeing_groups(self) -> int:
        """Number of test groups in each of which the correlation has the sign of `train_r` and is at least 0.1 in size.

        Where `test_r` is smaller, its size is enough; all groups if `group_r` is empty.
        """
        sign, least = math.copysign(1.0, self.train_r), min(MIN_GROUP_R, abs(self.test_r))
        return sum(sign * r >= least for r in self.group_r) if self.group_r else self.test_groups

    @property
    def outcome(self) -> LatentOutcome:
        """Decision of the test groups.

        The test correlation must exceed its null in size and have the sign of the training correlation. It is
        computed within groups: a latent that follows a factor between groups only, such as one of the singer's sex, is
        not a latent of the factor. This is decided only where the interval of the correlation within groups ends below
        that of an R² of `PREDICTED_R2`: a weak relation within groups is not beyond chance either. A latent is
        confirmed if `MIN_GROUPS` test groups or more agree, and most of those compared: a few clips of one group can
        make up a correlation, and of many groups three agree by chance.
        """
        if self.test_clips < MIN_ROWS:
            return LatentOutcome.TOO_FEW_CLIPS
        if nothing_exceeds(self.null_high):
            return LatentOutcome.NOT_TESTABLE
        if math.isnan(self.test_r) or abs(self.test_r) <= self.null_high:
            between = self.within and abs(self.overall_r) > self.null_high and self.test_r_high**2 < PREDICTED_R2
            return LatentOutcome.BETWEEN_GROUPS if between else LatentOutcome.CHANCE
        if (self.test_r >= 0) != (self.train_r >= 0):
            return LatentOutcome.OPPOSITE
        agree = self.agreeing_groups >= max(MIN_GROUPS, self.compared_groups // 2 + 1)
        return LatentOutcome.CONFIRMED if agree else LatentOutcome.TOO_FEW_GROUPS


def correlations(
    codes: Float[np.ndarray, "rows latents"], values: Float[np.ndarray, "rows targets"]
) -> Float[np.ndarray, "latents targets"]:
    """Return Pearson's correlation of each latent with each target; NaN where either is constant.

    >>> correlations(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]])).round(6).tolist()
    [[1.0]]
    """
    a, b = _standardised(codes), _standardised(values)
    return a.T @ b / codes.shape[0]


def _standardised(columns: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    centred = columns - columns.mean(axis=0, keepdims=True)
    spread = centred.std(axis=0)
    spread[spread <= 1e-12 * np.maximum(np.abs(columns).max(axis=0), 1e-300)] = np.nan
    return centred / spread


def by_group(
    latent: Float[np.ndarray, "rows 1"], factor: Float[np.ndarray, "rows 1"], groups: Shaped[np.ndarray, " rows"]
) -> tuple[float, ...]:
    """Return the correlation within each group: NaN where the factor is constant, 0 where the latent alone is.

    A latent that is silent in a group does not follow a factor that varies there.
    """
    parts = [(latent[here], factor[here]) for here in (groups == group for group in np.unique(groups))]
    found = [float(correlations(codes, values)[0, 0]) for codes, values in parts]
    varies = [values.min() < values.max() for _, values in parts]
    return tuple(0.0 if changes and math.isnan(r) else r for r, changes in zip(found, varies, strict=True))


def farther_end(
    latent: Float[np.ndarray, "rows 1"], factor: Float[np.ndarray, "rows 1"], groups: Shaped[np.ndarray, " rows"]
) -> float:
    """Return the end of the interval over groups of a correlation that is farther from 0, in size."""
    x, y = (values[:, 0] - values.mean() for values in (latent, factor))
    sums = group_sums(np.stack([x * y, x**2, y**2], axis=-1), groups)

    def correlation(drawn: Float[np.ndarray, "drawn 3"]) -> Float[np.ndarray, " drawn"]:
        size = np.sqrt(drawn[..., 1] * drawn[..., 2])
        return np.divide(drawn[..., 0], size, out=np.full(size.shape, math.nan), where=size > 0)

    _, low, high = jackknife_sums(sums, correlation, scale=FISHER)
    return float(np.maximum(np.abs(low), np.abs(high)))
