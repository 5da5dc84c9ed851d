"""Cards of latents: a sentence composed from numbers, and its blind score on unseen groups beside controls.

A card states when a latent fires: voicing, ranges of acoustic descriptors, and classes of clips. It is written from
some groups; its score is the area under the ROC curve (AUROC) of predicting, from the card alone, in which frames of
other groups the latent fires.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata

from otoscope.errors import EvaluationError
from otoscope.explain.frame_descriptors import DESCRIPTORS
from otoscope.explain.response_curves import half_rise, response_curve
from otoscope.resampling.intervals import bounded, jackknife_sums

MAX_RANGES = 3
"""Ranges on a card."""
MIN_R2 = 0.02
"""Share of variance, on groups left out, from which on a descriptor is on the card."""
MIN_LIFT = 1.5
"""Firing rate of a class relative to the others from which on the class is on the card."""
MIN_CLASS_GROUPS = 2
"""Groups in which a class must be frequent to be on the card."""
VOICED_RATIO = 3.0
"""Ratio of firing rates of voiced and unvoiced frames from which on voicing is on the card."""
REFERENCE_HZ = 27.5
TRIALS = 300


class Range(NamedTuple):
    """Values of a descriptor at which the latent responds with at least half of its curve's rise, and their weight."""

    descriptor: str
    low: float
    high: float
    weight: float


class Classes(NamedTuple):
    """Classes of a label in whose clips the latent fires more often, with their lifts."""

    label: str
    names: tuple[str, ...]
    lifts: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FrameTable:
    """Frames of some clips: descriptors by name, log-mel spectra, labels by name, group and clip of each frame."""

    descriptors: Mapping[str, Float[np.ndarray, " rows"]]
    spectra: Float[np.ndarray, "rows bands"]
    labels: Mapping[str, Shaped[np.ndarray, " rows"]]
    groups: Shaped[np.ndarray, " rows"]
    clips: Int[np.ndarray, " rows"]

    def take(self, chosen: Bool[np.ndarray, " rows"]) -> "FrameTable":
        """Return some of the frames."""
        return FrameTable(
            descriptors={name: values[chosen] for name, values in self.descriptors.items()},
            spectra=self.spectra[chosen],
            labels={name: values[chosen] for name, values in self.labels.items()},
            groups=self.groups[chosen],
            clips=self.clips[chosen],
        )

    @property
    def voiced(self) -> Bool[np.ndarray, " rows"]:
        """True for frames with a pitch."""
        return np.isfinite(self.descriptors["f0_semitones"])


@dataclass(frozen=True, kw_only=True)
class LatentDescription:
    """When a latent fires, in numbers; `sentence` puts them into words.

    `voicing` is "voiced", "unvoiced" or empty; `rate` the share of frames in which the latent fires.
    """

    latent: int
    rate: float
    voicing: str = ""
    ranges: tuple[Range, ...] = ()
    classes: tuple[Classes, ...] = ()

    @property
    def sentence(self) -> str:
        """The description in words, most important conditions first."""
        parts = [f"{self.voicing} frames"] if self.voicing else []
        parts += [_range_words(one) for one in self.ranges]
        parts += [_class_words(one) for one in self.classes]
        said = "; ".join(parts) or "no condition that holds beyond chance was found"
        return f"Fires in {100 * self.rate:.2g} % of frames: {said}."

    def predict(self, frames: FrameTable) -> Float[np.ndarray, " rows"]:
        """Return a score per frame from the card alone: the larger, the more likely the latent fires.

        The score is the sum of the conditions' weights: 1 for voicing, `log(lift)` for a class, and for a range its
        weight times a membership that falls from 1 at its ends to 0 over its own width. Frames without a value of a
        range's descriptor have no membership.
        """
        score = np.zeros(len(frames.groups))
        if self.voicing:
            score += frames.voiced == (self.voicing == "voiced")
        for one in self.ranges:
            values = frames.descriptors[one.descriptor]
            outside = np.maximum(np.maximum(one.low - values, values - one.high), 0.0)
            width = max(one.high - one.low, 1e-9) if math.isfinite(one.high - one.low) else _spread(values)
            score += one.weight * np.nan_to_num(np.clip(1 - outside / width, 0.0, 1.0), nan=0.0)
        for one in self.classes:
            labels = frames.labels[one.label]
            for name, lift in zip(one.names, one.lifts, strict=True):
                score += math.log(lift) * (labels == name)
        return score


def _spread(values: Float[np.ndarray, " rows"]) -> float:
    """Return the standard deviation of the known values, the width over which a range without one end falls."""
    spread = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
    return max(spread, 1e-9)


def describe_latent(latent: int, activations: Float[np.ndarray, " rows"], frames: FrameTable) -> LatentDescription:
    """Return the description of a latent from its activations on some frames.

    Descriptors count if their curve predicts groups left out beyond its null and by `MIN_R2` at least; the `MAX_RANGES`
    best are kept, without those that repeat a better one. Classes count if the latent fires `MIN_LIFT` times as often
    as in the other classes, in at least `MIN_CLASS_GROUPS` groups. Raises `EvaluationError` if the numbers of rows
    differ.
    """
    if len(activations) != len(frames.groups):
        raise EvaluationError(f"{len(activations)} activations for {len(frames.groups)} frames; give one per frame")
    fires = activations > 0
    if not fires.any():
        return LatentDescription(latent=latent, rate=0.0)
    voicing = _voicing(fires, frames)
    chosen = frames.voiced if voicing == "voiced" else ~frames.voiced if voicing == "unvoiced" else np.ones_like(fires)
    ranges = _ranges(activations[chosen], frames.take(chosen))
    classes = [_classes(name, fires, values, frames.groups) for name, values in frames.labels.items()]
    return LatentDescription(
        latent=latent,
        rate=float(fires.mean()),
        voicing=voicing,
        ranges=tuple(ranges),
        classes=tuple(one for one in classes if one is not None),
    )


class CardScore(NamedTuple):
    """AUROC of a card on unseen groups, with its 95 % interval, and the same for its controls.

    `permuted_high` is the 95th percentile of the AUROC for firing moved to other clips, `others` the mean AUROC of the
    cards of other latents, `loud` the AUROC of "fires when loud". `beats_controls` is true if the interval is above all
    three.
    """

    auroc: float
    low: float
    high: float
    permuted_high: float
    others: float
    loud: float
    groups: int
    rows: int

    @property
    def beats_controls(self) -> bool:
        """True if the interval of the AUROC is above every control."""
        controls = [value for value in (self.permuted_high, self.others, self.loud) if math.isfinite(value)]
        return math.isfinite(self.low) and self.low > max([0.5, *controls])


def score_card(
    card: LatentDescription,
    activations: Float[np.ndarray, " rows"],
    frames: FrameTable,
    *,
    others: Sequence[LatentDescription] = (),
    permutations: int = 50,
    seed: int = 0,
) -> CardScore:
    """Return the blind score of a card on frames of groups that it was not written from.

    AUROCs are computed within each group and averaged. A group in which the latent always or never fires has none.
    """
    fires, predicted = activations > 0, card.predict(frames)
    ranks = group_ranks(predicted, frames.groups)
    per_group = ranks.aurocs(fires)
    if not per_group:
        nothing = math.nan
        return CardScore(nothing, nothing, nothing, nothing, nothing, nothing, 0, len(fires))
    sums = np.stack([list(per_group.values()), np.ones(len(per_group))], axis=1)
    value, low, high = jackknife_sums(sums, lambda s: s[..., 0] / s[..., 1], scale=bounded(0.0, 1.0))
    null = [
        _mean(ranks.aurocs(_moved(fires, frames.clips, np.random.default_rng([seed, turn]))))
        for turn in range(permutations)
    ]
    rivals = [_mean(group_ranks(other.predict(frames), frames.groups).aurocs(fires)) for other in others]
    loud = _mean(group_ranks(frames.descriptors["level_db"], frames.groups).aurocs(fires))
    return CardScore(
        float(value),
        float(low),
        float(high),
        float(np.nanquantile(null, 0.95)) if np.isfinite(null).any() else math.nan,
        float(np.nanmean(rivals)) if np.isfinite(rivals).any() else math.nan,
        loud,
        len(per_group),
        len(fires),
    )


class GroupRanks(NamedTuple):
    """Ranks of a score within each group, from which AUROCs of any firing follow."""

    rows: dict[str, Int[np.ndarray, " rows"]]
    ranks: dict[str, Float[np.ndarray, " rows"]]

    def aurocs(self, positive: Bool[np.ndarray, " rows"]) -> dict[str, float]:
        """Return the area under the ROC curve within each group that has rows of both kinds, ties counted half.

        >>> score = np.array([0.1, 0.4, 0.35, 0.8])
        >>> group_ranks(score, np.array(["a"] * 4)).aurocs(np.array([False, False, True, True]))
        {'a': 0.75}
        """
        found: dict[str, float] = {}
        for group, rows in self.rows.items():
            here = positive[rows]
            number = int(here.sum())
            if 0 < number < len(here):
                excess = float(self.ranks[group][here].sum()) - number * (number + 1) / 2
                found[group] = excess / (number * (len(here) - number))
        return found


def group_ranks(score: Float[np.ndarray, " rows"], groups: Shaped[np.ndarray, " rows"]) -> GroupRanks:
    """Return the ranks of a score within each group."""
    rows = {str(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
    return GroupRanks(rows, {group: rankdata(score[here]) for group, here in rows.items()})


def intruder_score(
    activations: Float[np.ndarray, " rows"],
    embedding: Float[np.ndarray, "rows dimensions"],
    clips: Int[np.ndarray, " rows"],
    *,
    trials: int = TRIALS,
    seed: int = 0,
) -> float:
    """Return how often the odd frame out is found among four in which a latent fires strongly; chance is 0.2.

    Each trial takes four frames from the strongest tenth of the firing frames, of different clips where possible, and
    one in which the latent is silent, and picks the frame farthest from the mean of the other four. `embedding` is
    standardised first. NaN with fewer than five frames of either kind.
    """
    known = np.isfinite(embedding).all(axis=1)
    fires, silent = np.flatnonzero(known & (activations > 0)), np.flatnonzero(known & (activations <= 0))
    if len(fires) < 5 or len(silent) < 5:
        return math.nan
    strong = fires[np.argsort(-activations[fires], kind="stable")[: max(len(fires) // 10, 5)]]
    spread = embedding[known].std(axis=0)
    z = (embedding - embedding[known].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(trials):
        chosen = _from_different_clips(strong, clips, 4, rng)
        five = z[[*chosen, int(rng.choice(silent))]]
        distance = np.linalg.norm(five - (five.sum(axis=0) - five) / 4, axis=1)
        hits += int(distance.argmax() == 4)
    return hits / trials


def embedding_auroc(
    fit: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows dimensions"]],
    unseen: tuple[Float[np.ndarray, " unseen"], Float[np.ndarray, "unseen dimensions"]],
    groups: Shaped[np.ndarray, " unseen"],
) -> float:
    """Return the AUROC on unseen groups of the distance to the mean of the frames in which a latent fires.

    Both arguments hold activations and embedding; the embedding is standardised on the first.
    """
    activations, embedding = fit
    known = np.isfinite(embedding).all(axis=1)
    fires = known & (activations > 0)
    if not fires.any():
        return math.nan
    centre, spread = embedding[known].mean(axis=0), embedding[known].std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    prototype = ((embedding[fires] - centre) / spread).mean(axis=0)
    there = np.isfinite(unseen[1]).all(axis=1)
    distance = np.linalg.norm((unseen[1][there] - centre) / spread - prototype, axis=1)
    return _mean(group_ranks(-distance, groups[there]).aurocs(unseen[0][there] > 0))


def _voicing(fires: Bool[np.ndarray, " rows"], frames: FrameTable) -> str:
    voiced = frames.voiced
    if not voiced.any() or voiced.all():
        return ""
    rate, other = fires[voiced].mean(), fires[~voiced].mean()
    if rate >= VOICED_RATIO * other:
        return "voiced"
    return "unvoiced" if other >= VOICED_RATIO * rate else ""


def _ranges(activations: Float[np.ndarray, " rows"], frames: FrameTable) -> list[Range]:
    found: list[Range] = []
    for name, values in frames.descriptors.items():
        curve = response_curve(activations, values, groups=frames.groups, clips=frames.clips)
        if curve is None or not curve.responds or curve.r2 < MIN_R2:
            continue
        first, last = half_rise(curve.mean)
        low = -math.inf if first == 0 else float(curve.edges[first])
        high = math.inf if last + 1 == len(curve.mean) else float(curve.edges[last + 1])
        if not (math.isinf(low) and math.isinf(high)):
            found.append(Range(name, low, high, curve.r2))
    found.sort(key=lambda one: -one.weight)
    kept: list[Range] = []
    for one in found:
        values = frames.descriptors[one.descriptor]
        if all(_correlation(values, frames.descriptors[better.descriptor]) < 0.8 for better in kept):
            kept.append(one)
    best = kept[:MAX_RANGES]
    total = sum(one.weight for one in best)
    return [one._replace(weight=one.weight / total) for one in best]


def _correlation(a: Float[np.ndarray, " rows"], b: Float[np.ndarray, " rows"]) -> float:
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3 or a[known].std() == 0 or b[known].std() == 0:
        return 0.0
    return abs(float(np.corrcoef(rankdata(a[known]), rankdata(b[known]))[0, 1]))


def _classes(
    label: str,
    fires: Bool[np.ndarray, " rows"],
    classes: Shaped[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
) -> Classes | None:
    """Return the classes in which a latent fires more often, in at least `MIN_CLASS_GROUPS` groups."""
    names: list[str] = []
    lifts: list[float] = []
    for name in np.unique(classes[classes != ""]).tolist():
        inside = classes == name
        others = (classes != "") & ~inside
        if not others.any():
            continue
        rest = float(fires[others].mean())
        lift = float(fires[inside].mean()) / max(rest, 1 / len(fires))
        agreeing = [
            group
            for group in np.unique(groups[inside]).tolist()
            if (here := others & (groups == group)).any()
            and fires[inside & (groups == group)].mean() > MIN_LIFT * fires[here].mean()
        ]
        if lift >= MIN_LIFT and len(agreeing) >= MIN_CLASS_GROUPS:
            names.append(str(name))
            lifts.append(lift)
    if not names:
        return None
    order = np.argsort([-lift for lift in lifts], kind="stable")[:3]
    return Classes(label, tuple(names[i] for i in order), tuple(lifts[i] for i in order))


def _range_words(one: Range) -> str:
    descriptor = DESCRIPTORS[one.descriptor]
    to_hz = one.descriptor == "f0_semitones"
    unit = "Hz" if to_hz else descriptor.unit

    def number(value: float) -> str:
        shown = REFERENCE_HZ * 2 ** (value / 12) if to_hz else value
        text = f"{shown:.0f}" if abs(shown) >= 10 else f"{shown:.2g}"
        return text.replace("-", "\u2212")

    amount = f"{number(one.low)} to {number(one.high)}"
    if math.isinf(one.low):
        amount = f"below {number(one.high)}"
    elif math.isinf(one.high):
        amount = f"above {number(one.low)}"
    return f"{descriptor.label} {amount} {unit}".rstrip()


def _class_words(one: Classes) -> str:
    each = [f"{name} ({lift:.1f} times as often)" for name, lift in zip(one.names, one.lifts, strict=True)]
    return f"more often for {one.label} {', '.join(each)}"


def _moved(
    fires: Bool[np.ndarray, " rows"], clips: Int[np.ndarray, " rows"], rng: np.random.Generator
) -> Bool[np.ndarray, " rows"]:
    """Return the firing of clips in another order, rotated in time."""
    starts = np.flatnonzero(np.diff(clips, prepend=clips[0] - 1))
    parts = np.split(fires, starts[1:])
    moved = np.concatenate([np.roll(parts[i], int(rng.integers(len(parts[i])))) for i in rng.permutation(len(parts))])
    return np.roll(moved, int(rng.integers(len(moved))))


def _from_different_clips(
    rows: Int[np.ndarray, " rows"], clips: Int[np.ndarray, " rows"], number: int, rng: np.random.Generator
) -> list[int]:
    order = rng.permutation(rows).tolist()
    first: dict[int, int] = {}
    for row in order:
        first.setdefault(int(clips[row]), row)
    chosen = list(first.values())[:number]
    return [*chosen, *(row for row in order if row not in chosen)][:number]


def _mean(by_group: Mapping[str, float]) -> float:
    return float(np.mean(list(by_group.values()))) if by_group else math.nan
