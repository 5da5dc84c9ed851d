"""Cards of latents: a sentence written from measurements, and its blind score on unseen groups beside controls.

A card states when a latent fires: voicing, ranges of acoustic descriptors, and classes of clips. It is written from
some groups; its score is the area under the ROC curve (AUROC) of predicting, from the card alone, in which frames of
other groups the latent fires.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata

from otoscope.errors import EvaluationError
from otoscope.explain.frame_descriptors import DESCRIPTORS, DescribedFrames, pitch_hz
from otoscope.explain.response_curves import (
    ResponseCurve,
    group_members,
    half_rise,
    move_within_groups,
    response_curve,
    tested_as_family,
)
from otoscope.resampling.exchange import LEVEL, exchange
from otoscope.resampling.groups import number_groups
from otoscope.resampling.intervals import bounded, jackknife_sums
from otoscope.resampling.nulls import compare_with_maximum

MAX_RANGES = 3
"""Ranges on a card."""
MIN_R2 = 0.02
"""Share of variance, on groups left out, from which on a descriptor is on the card."""
MIN_LIFT = 1.5
"""Firing rate of a class relative to the others from which on the class is on the card."""
MAX_CLASSES = 3
"""Classes of a label on a card."""
MIN_CLASS_GROUPS = 2
"""Groups in which a class must be frequent to be on the card."""
CLASS_PERMUTATIONS = 199
"""Permutations of the classes of clips, for the null of their lifts."""
VOICED_RATIO = 3.0
"""Ratio of firing rates of voiced and unvoiced frames from which on voicing is on the card."""
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


def frame_table(
    described: Sequence[DescribedFrames], *, groups: Sequence[str], labels: Mapping[str, Sequence[str]] | None = None
) -> FrameTable:
    """Return the described frames of clips as one table; groups and labels are given per clip."""
    counts = [len(one.values) for one in described]
    values = np.concatenate([one.values for one in described])
    return FrameTable(
        descriptors={name: values[:, column] for column, name in enumerate(DESCRIPTORS)},
        spectra=np.concatenate([one.spectra for one in described]),
        labels={name: np.repeat(np.asarray(classes), counts) for name, classes in (labels or {}).items()},
        groups=np.repeat(np.asarray(groups), counts),
        clips=np.repeat(np.arange(len(described)), counts),
    )


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
    def named_classes(self) -> list[str]:
        """Classes that the sentence names, as `label=class`."""
        return [f"{one.label}={name}" for one in self.classes for name in one.names]

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
    """Return the standard deviation of the known values, the fall-off width of a range with one open end."""
    spread = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
    return max(spread, 1e-9)


def describe_latents(
    activations: Mapping[int, Float[np.ndarray, " rows"]], frames: FrameTable
) -> dict[int, LatentDescription]:
    """Return the descriptions of latents from their activations on some frames.

    Descriptors count if their curve predicts groups left out beyond its null and by `MIN_R2` at least; the `MAX_RANGES`
    best are kept, without near duplicates of a better one. Classes count if the latent fires `MIN_LIFT` times as often
    as in the other classes, in at least `MIN_CLASS_GROUPS` groups, and beyond the null of permuted clips. The curves of
    all latents are tested as one family, and all their lifts as another: by chance, any range is on any card in 5 % of
    cases, and so is any class. Raises `EvaluationError` if the numbers of rows differ.
    """
    for one in activations.values():
        if len(one) != len(frames.groups):
            raise EvaluationError(f"{len(one)} activations for {len(frames.groups)} frames; give one per frame")
    fires = {latent: one > 0 for latent, one in activations.items()}
    voicing = {latent: _voicing(here, frames) if here.any() else "" for latent, here in fires.items()}
    chosen = {"voiced": frames.voiced, "unvoiced": ~frames.voiced, "": np.ones(len(frames.groups), dtype=bool)}
    parts = {kind: frames.take(chosen[kind]) for kind in set(voicing.values())}
    curves: dict[tuple[int, str], ResponseCurve] = {}
    for latent in (latent for latent, here in fires.items() if here.any()):
        part, own = parts[voicing[latent]], activations[latent][chosen[voicing[latent]]]
        for name, values in part.descriptors.items():
            if (curve := response_curve(own, values, groups=part.groups, clips=part.clips)) is not None:
                curves[latent, name] = curve
    tested = dict(zip(curves, tested_as_family(list(curves.values())), strict=True))
    lifts = _class_lifts(fires, frames) if fires else {}
    return {
        latent: LatentDescription(
            latent=latent,
            rate=float(here.mean()),
            voicing=voicing[latent],
            ranges=tuple(
                _ranges({name: c for (of, name), c in tested.items() if of == latent}, parts[voicing[latent]])
            ),
            classes=tuple(_frequent_classes(here, lifts.get(latent, []), frames)),
        )
        for latent, here in fires.items()
    }


class CardScore(NamedTuple):
    """AUROC of a card on unseen groups, with its 95 % interval, and the same for its controls.

    `permuted_high` is exceeded by any card of the family in 5 % of cases with firing moved to other clips, `others` is
    the mean AUROC of the cards of other latents, `level` the AUROC of the level alone, in the direction
    that predicts better ("fires when loud" or "when soft"). `beats_controls` is true if the interval is above all.
    """

    auroc: float
    low: float
    high: float
    permuted_high: float
    others: float
    level: float
    groups: int
    rows: int

    @property
    def beats_controls(self) -> bool:
        """True if the interval of the AUROC is above every control."""
        controls = [value for value in (self.permuted_high, self.others, self.level) if math.isfinite(value)]
        return math.isfinite(self.low) and self.low > max([0.5, *controls])


def score_cards(
    cards: Sequence[LatentDescription], activations: Sequence[Float[np.ndarray, " rows"]], frames: FrameTable
) -> list[CardScore]:
    """Return the blind scores of cards on frames of groups that were not used to write them.

    AUROCs are computed within each group and averaged. A group in which the latent always or never fires has none. The
    scores are one family: `permuted_high` is that of the largest score of all cards.
    """
    return _tested_scores(
        [
            _score(card, own, frames, [other for other in cards if other is not card])
            for card, own in zip(cards, activations, strict=True)
        ]
    )


class ScoredDescription(NamedTuple):
    """Description of when a latent fires, in words and numbers, and its blind score on unseen groups."""

    description: LatentDescription
    score: CardScore


def card(
    activations: Float[np.ndarray, " rows"],
    frames: FrameTable,
    *,
    test: Bool[np.ndarray, " rows"],
    latent: int = 0,
    others: Sequence[LatentDescription] = (),
) -> ScoredDescription:
    """Return the card of a single latent: written from the frames of some groups, scored on those of `test` groups.

    Args:
        activations: activation of the latent in each frame.
        frames: descriptors, spectra, labels, groups and clips of these frames; see `frame_table`.
        test: frames of the groups on which the card is scored.
        latent: number of the latent.
        others: cards of other latents, as a control.

    Several latents are one family in every test: `describe_latents` and `score_cards` take them together. Raises
    `EvaluationError` if the numbers of rows differ, or if a group has frames on both sides.
    """
    for one in (activations, test):
        if len(one) != len(frames.groups):
            raise EvaluationError(f"{len(one)} activations for {len(frames.groups)} frames; give one per frame")
    if shared := set(frames.groups[test].tolist()) & set(frames.groups[~test].tolist()):
        raise EvaluationError(f"group {sorted(shared)[0]!r} is on both sides of the test; keep groups whole")
    written = describe_latents({latent: activations[~test]}, frames.take(~test))[latent]
    return ScoredDescription(
        written, _tested_scores([_score(written, activations[test], frames.take(test), others)])[0]
    )


CARD_PERMUTATIONS = 50
"""Permutations of firing over clips, for the null of blind scores."""


class _Scored(NamedTuple):
    """Score of a card without the family's null, and the score after each permutation."""

    score: CardScore
    null: Float[np.ndarray, " permutations"]


def _tested_scores(scored: Sequence[_Scored]) -> list[CardScore]:
    """Return the scores with the threshold of the largest of all scores after the same permutation."""
    if not scored:
        return []
    null = np.stack([one.null for one in scored], axis=1)
    found = compare_with_maximum(np.array([one.score.auroc for one in scored]), null)
    return [
        one.score._replace(permuted_high=math.nan if math.isnan(one.score.auroc) else float(min(high, 1.0)))
        for one, high in zip(scored, found.high, strict=True)
    ]


def _score(
    card: LatentDescription,
    activations: Float[np.ndarray, " rows"],
    frames: FrameTable,
    others: Sequence[LatentDescription],
) -> _Scored:
    fires, predicted = activations > 0, card.predict(frames)
    ranks = group_ranks(predicted, frames.groups)
    per_group = ranks.aurocs(fires)
    if not per_group:
        nothing = math.nan
        score = CardScore(nothing, nothing, nothing, nothing, nothing, nothing, 0, len(fires))
        return _Scored(score, np.full(CARD_PERMUTATIONS, math.nan))
    sums = np.stack([list(per_group.values()), np.ones(len(per_group))], axis=1)
    value, low, high = jackknife_sums(sums, lambda s: s[..., 0] / s[..., 1], scale=bounded(0.0, 1.0))
    members = group_members(*number_groups(frames.groups))
    # the same permutations for every card
    null = [
        _mean(ranks.aurocs(move_within_groups(fires, frames.clips, members, np.random.default_rng([0, turn]))))
        for turn in range(CARD_PERMUTATIONS)
    ]
    rivals = [_mean(group_ranks(other.predict(frames), frames.groups).aurocs(fires)) for other in others]
    level = _mean(group_ranks(frames.descriptors["level_db"], frames.groups).aurocs(fires))
    score = CardScore(
        float(value),
        float(low),
        float(high),
        math.nan,
        float(np.nanmean(rivals)) if np.isfinite(rivals).any() else math.nan,
        max(level, 1.0 - level),
        len(per_group),
        len(fires),
    )
    return _Scored(score, np.asarray(null, dtype=np.float64))


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
) -> float:
    """Return the rate of finding the odd frame out among four in which a latent fires strongly; chance is 0.2.

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
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIALS):
        chosen = _from_different_clips(strong, clips, 4, rng)
        five = z[[*chosen, int(rng.choice(silent))]]
        distance = np.linalg.norm(five - (five.sum(axis=0) - five) / 4, axis=1)
        hits += int(distance.argmax() == 4)
    return hits / TRIALS


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


def _ranges(curves: Mapping[str, ResponseCurve], frames: FrameTable) -> list[Range]:
    found: list[Range] = []
    for name, curve in curves.items():
        if not curve.responds or curve.r2 < MIN_R2:
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


class _Lift(NamedTuple):
    """Firing rate in a class of a label relative to the other classes, and its p in the family of all lifts."""

    label: str
    name: str
    lift: float
    p_value: float


def _class_lifts(fires: Mapping[int, Bool[np.ndarray, " rows"]], frames: FrameTable) -> dict[int, list[_Lift]]:
    """Return the lifts of every latent; p is NaN where too few clips or groups can be exchanged."""
    _, first, clip = np.unique(frames.clips, return_index=True, return_inverse=True)
    rows = np.bincount(clip).astype(np.float64)[:, None]
    hits = np.stack([np.bincount(clip, here, minlength=len(first)) for here in fires.values()], axis=1)
    members: list[tuple[int, str, str]] = []
    values: list[Float[np.ndarray, " members"]] = []
    nulls: list[Float[np.ndarray, "permutations members"]] = []
    for label, of_frame in frames.labels.items():
        classes = of_frame[first]
        known = classes != ""
        names = np.unique(classes[known])
        if len(names) < 2:
            continue
        inside = (classes[known, None] == names).astype(np.float64)

        def lifts(
            inside: Float[np.ndarray, "clips classes"], known: Bool[np.ndarray, " all_clips"] = known
        ) -> Float[np.ndarray, " members"]:
            hit, size = inside.T @ hits[known], inside.T @ rows[known]
            rest = (hits[known].sum(axis=0) - hit) / (rows[known].sum(axis=0) - size)
            return (hit / size / np.maximum(rest, 1 / len(frames.groups))).reshape(-1)

        orders = exchange(classes[known], frames.groups[first][known]).orders(permutations=CLASS_PERMUTATIONS)
        null = [lifts(inside[order]) for order in orders]
        members += [(latent, label, str(name)) for name in names for latent in fires]
        values.append(lifts(inside))
        nulls.append(np.stack(null) if null else np.full((CLASS_PERMUTATIONS, len(values[-1])), math.nan))
    if not members:
        return {}
    value, p_values = np.concatenate(values), compare_with_maximum(np.concatenate(values), np.hstack(nulls)).p_value
    found: dict[int, list[_Lift]] = {latent: [] for latent in fires}
    for (latent, label, name), lift, p in zip(members, value, p_values, strict=True):
        found[latent].append(_Lift(label, name, float(lift), float(p)))
    return found


def _frequent_classes(
    fires: Bool[np.ndarray, " rows"], lifts: Sequence[_Lift], frames: FrameTable
) -> Iterator[Classes]:
    """Yield, per label, the classes in which a latent fires more often, in at least `MIN_CLASS_GROUPS` groups."""
    for label in dict.fromkeys(one.label for one in lifts):
        found = [
            one
            for one in lifts
            if one.label == label
            and one.lift >= MIN_LIFT
            and one.p_value <= LEVEL
            and _agreeing_groups(fires, frames, one) >= MIN_CLASS_GROUPS
        ]
        found = sorted(found, key=lambda one: -one.lift)[:MAX_CLASSES]
        if found:
            yield Classes(label, tuple(one.name for one in found), tuple(one.lift for one in found))


def _agreeing_groups(fires: Bool[np.ndarray, " rows"], frames: FrameTable, one: _Lift) -> int:
    """Return the number of groups in which the class has the lift too."""
    classes = frames.labels[one.label]
    inside = classes == one.name
    others = (classes != "") & ~inside
    agreeing = 0
    for group in np.unique(frames.groups[inside]).tolist():
        here = frames.groups == group
        if (others & here).any():
            agreeing += bool(fires[inside & here].mean() > MIN_LIFT * fires[others & here].mean())
    return agreeing


def _range_words(one: Range) -> str:
    descriptor = DESCRIPTORS[one.descriptor]
    to_hz = one.descriptor == "f0_semitones"
    unit = "Hz" if to_hz else descriptor.unit

    def number(value: float) -> str:
        shown = pitch_hz(value) if to_hz else value
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
