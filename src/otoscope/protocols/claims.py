"""The three claims of Mariotte et al. 2025 (arXiv 2509.24793), and the rules that decide them.

`otoscope.protocols.claim_sources` fills them from the published tables, from the study's own protocol in this run, and
from held-out groups (the strict protocol). Only held-out groups decide a claim.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import polars as pl

from otoscope.metrics.representation import DENSE
from otoscope.protocols.comparison import (
    MARGIN,
    UNMEASURED,
    Baseline,
    Comparison,
    Estimate,
    Relation,
    Verdict,
)
from otoscope.protocols.strict.results import LAYER_MARGIN, LayerLead, better_than_densest
from otoscope.resampling.intervals import MIN_GROUPS

HIGH_SPARSITY = 0.95
"""Sparsity that the study's text refers to; the nearest trained one is used."""

FEW = 4
"""Number of dimensions that counts as few; the nearest size of the k-sparse curves is used."""


class Reason(Enum):
    """Reason for a verdict."""

    TOO_FEW_GROUPS = "too few groups"
    # the task
    NOT_TESTABLE = "too few clips or groups can be permuted"
    NOTHING_TO_KEEP = "the layer does not exceed permuted targets"
    AT_CHANCE = "the codes do not exceed permuted targets"
    NO_INTERVAL = "no interval"
    LOSS = "a loss beyond the margin over the whole interval"
    GAIN = "a gain over the whole interval"
    LOSS_EXCLUDED = "the interval excludes a loss beyond the margin"
    LOSS_POSSIBLE = "the interval includes a loss beyond the margin"
    LOSS_LIKELY = "a loss beyond the margin, but the interval includes less"
    # dimensions
    NO_COMMON_FACTOR = "no factor is predicted by both"
    MORE_DIMENSIONS = "the codes need more dimensions"
    LESS_FROM_FEW = "few dimensions of the codes predict less"
    FEWER_DIMENSIONS = "the codes need fewer dimensions"
    FEWER_BUT_LESS = "fewer dimensions, but a few of them predict less"
    DIMENSIONS_UNCLEAR = "the interval of the ratio includes 1"
    EQUALLY_FOR_RIVALS = "fewer dimensions, but no fewer than some rivals"
    RIVALS_MISSING = "fewer dimensions, but not compared with all rivals"
    # layers
    EARLIER = "earlier than by chance"
    LATER = "later than by chance"
    RESTS_ON_INPUT = "not beyond chance without the input layer"
    LEAD_EXCLUDED = "an interval excludes a lead of half a layer"
    LEAD_UNCLEAR = "an interval includes less than half a layer, or chance reaches as far"


class Judgement(NamedTuple):
    """Verdict on a claim and the reason for it."""

    verdict: Verdict
    reason: Reason


class TargetLoss(NamedTuple):
    """Loss on a target; `told_by_groups` for a factor whose R² mostly tells groups apart."""

    target: str
    change: Estimate
    regression: bool = False
    told_by_groups: bool = False


@dataclass(frozen=True)
class OtherTargets:
    """Other targets of the first claim: their number, and the losses beyond the margin."""

    count: int
    losses: Sequence[TargetLoss] = ()

    @property
    def established(self) -> int:
        """Number of losses whose whole interval is beyond the margin, by the rule of the claim."""
        return sum(change.high < -MARGIN and not change.too_few_groups for _, change, *_ in self.losses)


@dataclass(frozen=True)
class TaskClaim:
    """Claim 1, codes keep the task: probe scores of a layer and of its codes, by sparsity.

    `layers` counts the layers averaged over. The value of codes is the mean over seeds, whose number `seed_counts`
    holds by sparsity; `seeds` holds the value of each at the sparsity that stands for a high one. `changes` holds codes
    minus layer on the same clips, by sparsity, where there are held-out groups. `limit` is the sparsity limit of the
    task, `first_loss` the lowest sparsity beyond its margin, `test_clips` the number of classified clips (0 for a
    regression), `to_baseline` the paired difference to the best baseline. `per_frame`: each frame has the sparsity, and
    the clips, which are read from the mean over frames, have more active latents.
    """

    dense: Estimate
    codes: Mapping[float, Estimate]
    target: str
    changes: Mapping[float, Estimate] = field(default_factory=dict[float, Estimate])
    layers: int = 1
    limit: Estimate | None = None
    first_loss: float | None = None
    others: OtherTargets | None = None
    best_baseline: Baseline | None = None
    to_baseline: Estimate = UNMEASURED
    seeds: tuple[float, ...] = ()
    seed_counts: Mapping[float, int] = field(default_factory=dict[float, int])
    test_clips: int = 0
    per_frame: bool = False
    readers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def sparsity(self) -> float:
        """Sparsity that stands for a high one."""
        return min(self.codes, key=lambda sparsity: (abs(sparsity - HIGH_SPARSITY), sparsity))

    @property
    def high(self) -> Estimate:
        """Estimate from the codes at that sparsity."""
        return self.codes[self.sparsity]

    @property
    def change(self) -> Estimate:
        """Codes minus layer at that sparsity; without an interval where it was not measured on the same clips."""
        return self.changes.get(self.sparsity, Estimate(self.high.value - self.dense.value))

    @property
    def losses(self) -> dict[float, float]:
        """Codes minus dense layer, by sparsity."""
        return {s: codes.value - self.dense.value for s, codes in sorted(self.codes.items())}

    @property
    def better_sparsity(self) -> float | None:
        """Sparsity that exceeds the densest codes by more than the margin: then no limit can be determined."""
        return better_than_densest({s: codes.value for s, codes in self.codes.items()}, MARGIN)

    def decide(self) -> Judgement:
        """Decide whether codes of high sparsity keep the task score of the layer.

        By the interval of codes minus layer on the same clips (`resampling.paired`):

        - holds: the lower end of the interval lies above -2 points, which excludes a loss of 2 points, and the codes
          exceed their null;
        - does not hold: the upper end lies below -2 points;
        - nothing to keep: the layer does not exceed its null;
        - undecided: otherwise, as for codes that do not exceed their null, which shows no loss, and without a null or
          an interval, or with fewer than `MIN_GROUPS` groups.

        Seeds, sparsity limits, baselines and other targets inform and do not change the verdict.
        """
        codes, change = self.high, self.change
        if self.dense.untestable or codes.untestable:
            return Judgement(Verdict.UNDECIDED, Reason.NOT_TESTABLE)
        if self.dense.at_chance:
            return Judgement(Verdict.NOTHING_TO_KEEP, Reason.NOTHING_TO_KEEP)
        if not change.bounded:
            return Judgement(Verdict.UNDECIDED, Reason.NO_INTERVAL)
        if change.too_few_groups:
            return Judgement(Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS)
        if change.high < -MARGIN:
            return Judgement(Verdict.FAILS, Reason.LOSS)
        if codes.at_chance:
            return Judgement(Verdict.UNDECIDED, Reason.AT_CHANCE)
        if change.low > -MARGIN:
            return Judgement(Verdict.HOLDS, Reason.GAIN if change.low > 0 else Reason.LOSS_EXCLUDED)
        return Judgement(Verdict.UNDECIDED, Reason.LOSS_POSSIBLE if change.value >= -MARGIN else Reason.LOSS_LIKELY)


RIVALS = ("start", "pca", "ica", "frozen_decoder", "soft_frozen_decoder")
"""Representations of the same rows without a learned dictionary; what holds for them does not show one."""

REQUIRED_RIVALS = RIVALS[:3]
"""Rivals without which the claim stays undecided."""


@dataclass(frozen=True)
class CompactnessClaim:
    """Claim 2, attributes take fewer dimensions: completeness, effective dimensions, and R² from few dimensions.

    The last two exist on held-out groups only. `factors` counts the factors that the layer and its codes both predict;
    `lost` counts those that the layer predicts, but not every seed of the codes, `gained` those that every seed
    predicts, but not the layer. `few` compares `few_k` dimensions, over the factors of either; from the numbers of
    dimensions in `lower_from` the codes predict less, beyond the interval. `sparsity` is that of the codes.
    """

    completeness: Comparison
    layers: int = 1
    dimensions: Comparison | None = None
    few: Comparison | None = None
    few_k: int = FEW
    factors: int = 0
    lost: int = 0
    gained: int = 0
    lower_from: Sequence[int] = ()
    sparsity: float | None = None

    @property
    def rivals(self) -> dict[str, Estimate]:
        """Effective dimensions of the rivals that were measured, by representation."""
        others = self.dimensions.others if self.dimensions else {}
        return {name: others[name] for name in RIVALS if name in others and others[name].measured}

    def beats(self, name: str) -> bool:
        """Return whether the codes take fewer dimensions than a representation and a few predict no less."""
        if self.dimensions is None or self.dimensions.relation_to(name) is not Relation.LOWER:
            return False
        if self.few is None:
            return True
        return self.few.relation_to(name) is not Relation.LOWER and self.few.against(name).value >= -MARGIN

    @property
    def equals(self) -> list[str]:
        """Rivals that the codes do not beat."""
        return [name for name in self.rivals if not self.beats(name)]

    def decide(self) -> Judgement | None:
        """Decide whether a factor takes fewer dimensions of the codes than of the layer; None if not measured.

        It holds when the codes take fewer effective dimensions and a few of them predict as much as a few of the
        layer's, within 2 points; it fails when the codes take more, or a few of them predict less. Either way the
        interval of the difference, paired by factor, must exclude none and rest on at least `MIN_GROUPS` groups. What
        holds must hold against every rival too, by the same rule; otherwise it holds equally for these.
        """
        if self.dimensions is None:
            return None
        if not self.factors:
            return Judgement(Verdict.UNDECIDED, Reason.NO_COMMON_FACTOR)
        dimensions, few = self.dimensions.relation, self.few and self.few.relation
        if Relation.TOO_FEW_GROUPS in (dimensions, few):
            return Judgement(Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS)
        if dimensions is Relation.HIGHER:
            return Judgement(Verdict.FAILS, Reason.MORE_DIMENSIONS)
        if few is Relation.LOWER:
            return Judgement(Verdict.FAILS, Reason.LESS_FROM_FEW)
        if dimensions is Relation.UNCLEAR:
            return Judgement(Verdict.UNDECIDED, Reason.DIMENSIONS_UNCLEAR)
        if not self.beats(DENSE):
            return Judgement(Verdict.UNDECIDED, Reason.FEWER_BUT_LESS)
        if self.equals:
            return Judgement(Verdict.EQUALLY, Reason.EQUALLY_FOR_RIVALS)
        if not set(REQUIRED_RIVALS) <= self.rivals.keys():
            return Judgement(Verdict.UNDECIDED, Reason.RIVALS_MISSING)
        return Judgement(Verdict.HOLDS, Reason.FEWER_DIMENSIONS)


def lead_beyond_null(lead: LayerLead, curves: pl.DataFrame) -> Estimate:
    """Return a lead computed from the R² beyond the mean of its null, which keeps differences between groups.

    `curves` holds the mean R² of each category by layer, with the mean of its null.
    """
    beyond = (pl.col("value") - pl.col("null_mean").fill_nan(0).fill_null(0)).clip(0)
    shares = curves.select("target", "layer", beyond)
    centres = shares.group_by("target").agg((pl.col("layer") * pl.col("value")).sum() / pl.col("value").sum())
    centre_of = dict(centres.iter_rows())
    return Estimate(centre_of.get(lead.second, math.nan) - centre_of.get(lead.first, math.nan))


@dataclass(frozen=True)
class OrderingClaim:
    """Claim 3, pitch early and formants late: category counts in an early and a late layer, or leads in layers.

    `curves` holds the mean R² of each category by layer.
    """

    early: Mapping[str, float] = field(default_factory=dict[str, float])
    late: Mapping[str, float] = field(default_factory=dict[str, float])
    leads: Sequence[LayerLead] = ()
    curves: pl.DataFrame | None = None
    layers: int = 1

    @property
    def groups(self) -> int:
        """Smallest number of test groups behind a lead."""
        return min(lead.estimate.groups for lead in self.leads)

    @property
    def reversed_leads(self) -> list[LayerLead]:
        """Leads the other way beyond half a layer and beyond chance, also without layer 0."""
        return [lead for lead in self.leads if lead.beyond(-1.0) and lead.stands(-1.0)]

    @property
    def excluded_leads(self) -> list[LayerLead]:
        """Leads whose whole interval is below half a layer."""
        return [lead for lead in self.leads if lead.estimate.high < LAYER_MARGIN]

    def decide(self) -> Judgement | None:
        """Decide whether pitch is predicted from earlier layers than formants and MFCC; None if not measured.

        A lead counts when its whole interval is beyond half a layer and it exceeds chance over all leads together
        (Holm), by the same rule in both directions. The claim holds when every lead counts; it fails when one counts
        the other way. An interval below half a layer excludes the lead that the claim requires, but not one the other
        way: undecided. Where layer 0, the input of the first block, is among the layers, such leads must also exceed
        chance over the outputs of blocks alone. Fewer than `MIN_GROUPS` groups decide nothing.
        """
        if not self.leads:
            return None
        if self.groups < MIN_GROUPS:
            return Judgement(Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS)
        if all(lead.beyond(1.0) for lead in self.leads):
            if all(lead.stands(1.0) for lead in self.leads):
                return Judgement(Verdict.HOLDS, Reason.EARLIER)
            return Judgement(Verdict.UNDECIDED, Reason.RESTS_ON_INPUT)
        if any(lead.beyond(-1.0) for lead in self.leads):
            if self.reversed_leads:
                return Judgement(Verdict.FAILS, Reason.LATER)
            return Judgement(Verdict.UNDECIDED, Reason.RESTS_ON_INPUT)
        return Judgement(Verdict.UNDECIDED, Reason.LEAD_EXCLUDED if self.excluded_leads else Reason.LEAD_UNCLEAR)


class Claims(NamedTuple):
    """Numbers of the three claims from one source; None where the source lacks them."""

    task: TaskClaim | None
    compactness: CompactnessClaim | None
    ordering: OrderingClaim | None
