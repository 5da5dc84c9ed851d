"""Cards of latents: a sentence written from measurements, which states when a latent fires.

The conditions are voicing, ranges of acoustic descriptors, and classes of clips. `otoscope.explain.card_scores` scores
a card on groups from which it was not written.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from otoscope.errors import EvaluationError
from otoscope.explain.frame_descriptors import DESCRIPTORS, FrameTable, pitch_hz
from otoscope.explain.response_curves import ResponseCurve, half_rise, response_curves, tested_as_family
from otoscope.resampling.exchange import LEVEL, exchange
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
    for kind, part in parts.items():
        own = {latent: activations[latent][chosen[kind]] for latent in fires if voicing[latent] == kind}
        fired = {latent: one for latent, one in own.items() if fires[latent].any()}
        curves |= response_curves(fired, part.reliable, groups=part.groups, clips=part.clips)
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
