"""The best single latent for each annotated label, scored on groups that were not used to choose it.

A frame carries a label if its centre lies in an interval of the label. A unit and a threshold are chosen by frame F1 on
the training and validation groups and scored on the test groups. The latent is compared with the best unit of the layer
itself and the best k-means cluster of its frames, chosen the same way. The null repeats choice and score with the
labels of each clip rotated in time by a random amount, which keeps their durations and breaks their alignment; labels
that fill their clips, which a rotation leaves as they are, are exchanged between the clips of a group instead. All
labels of a kind of unit are one family (`otoscope.resampling.nulls`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import roc_auc_score

from otoscope.encoders.base import Frames
from otoscope.errors import EvaluationError
from otoscope.explain.activation_index import ActivationIndex
from otoscope.factors.annotations import AnnotatedInterval
from otoscope.formatting import LARGEST_SCORE
from otoscope.resampling.intervals import bounded, jackknife_sums
from otoscope.resampling.nulls import compare_with_maximum, permuted_order

ROTATIONS = 20
"""Rotations of the null: the smallest p is 1 / 21."""

FILLED = 0.9
"""Share of the frames of a clip from which a label counts as filling it."""

ALPHA = 0.05
"""Value of p below which the latent of a label is beyond chance."""

LEVELS = (0.0, 0.5, 0.75)
"""Thresholds of a latent, as quantiles of its activations above 0; 0 is any activation."""

DENSE_LEVELS = (0.5, 0.75, 0.9)
"""Thresholds of a unit of the layer, as quantiles of all its values."""

CLUSTERS = 64
TOLERANCES_S = (0.02, 0.05)
"""Tolerances of onsets, the customary ones for phones and for notes."""

MIN_EVENTS = 5
"""Fewest intervals of a label on either side of the split."""

TOO_FEW = f"no annotated label has {MIN_EVENTS} intervals in the test groups and as many in the others"
MORE = "annotate more clips, or list other tiers"
"""Reason why no label is scored, and its remedy."""

UNIT_COLUMNS: dict[str, Any] = {
    "tier": pl.String(), "label": pl.String(), "unit": pl.String(), "number": pl.Int64(), "threshold": pl.Float64(),
    "f1": pl.Float64(), "f1_low": pl.Float64(), "f1_high": pl.Float64(), "f1_fit": pl.Float64(),
    "f1_null_mean": pl.Float64(), "f1_null_high": pl.Float64(), "p_value": pl.Float64(), "auroc": pl.Float64(),
    "onset_f1_20ms": pl.Float64(), "onset_f1_50ms": pl.Float64(), "place": pl.String(),
    "events_fit": pl.Int64(), "events_test": pl.Int64(), "groups": pl.Int64(),
}  # fmt: skip
"""Columns of the table. `unit` is latent, dense or cluster; `number` is its index, -1 - i for low values of a dense
unit i; `place` is where in the label the unit is strongest: start, middle, end, or steady. With `f1_null_high` of 1, no
F1 is beyond chance: there are too few labelled frames to test.
"""


@dataclass(frozen=True)
class AnnotatedFrames:
    """Frames of the annotated clips, clip after clip."""

    clip: Int[np.ndarray, " rows"]
    start_s: Float[np.ndarray, " rows"]
    end_s: Float[np.ndarray, " rows"]
    group: Int[np.ndarray, " rows"]
    test: Bool[np.ndarray, " rows"]
    intervals: Sequence[Sequence[AnnotatedInterval]]
    """Intervals of each clip, relative to its start."""

    def labels(self) -> list[tuple[str, str]]:
        """Return tier and label of all that have `MIN_EVENTS` intervals on both sides of the split."""
        is_test = dict(zip(self.clip.tolist(), self.test.tolist(), strict=True))
        return frequent_labels(self.intervals, [is_test.get(clip, False) for clip in range(len(self.intervals))])

    def carries(self, labels: Sequence[tuple[str, str]]) -> Bool[np.ndarray, "rows labels"]:
        """Return true where the centre of a frame lies in an interval of the label; a point marks the nearest frame."""
        column = {label: position for position, label in enumerate(labels)}
        found = np.zeros((len(self.clip), len(labels)), dtype=bool)
        centre_s = (self.start_s + self.end_s) / 2
        first = np.searchsorted(self.clip, np.arange(len(self.intervals) + 1))
        for clip, intervals in enumerate(self.intervals):
            low, high = first[clip], first[clip + 1]
            for one in intervals:
                if (one.tier, one.label) not in column or low == high:
                    continue
                if one.end_s > one.start_s:
                    inside = (centre_s[low:high] >= one.start_s) & (centre_s[low:high] < one.end_s)
                else:
                    inside = np.arange(high - low) == np.abs(centre_s[low:high] - one.start_s).argmin()
                found[low:high, column[one.tier, one.label]] |= inside
        return found

    def onsets_s(self, label: tuple[str, str], clip: int) -> list[float]:
        """Return the starts of a label's intervals in a clip."""
        return sorted(one.start_s for one in self.intervals[clip] if (one.tier, one.label) == label)


def frequent_labels(intervals: Sequence[Sequence[AnnotatedInterval]], test: Sequence[bool]) -> list[tuple[str, str]]:
    """Return tier and label of all that have `MIN_EVENTS` intervals in test clips and as many in the others."""
    return sorted(key for key, events in count_labels(intervals, test).items() if min(events) >= MIN_EVENTS)


def count_labels(
    intervals: Sequence[Sequence[AnnotatedInterval]], test: Sequence[bool]
) -> dict[tuple[str, str], list[int]]:
    """Return the number of intervals of each tier and label, in other clips and in test clips."""
    counts: dict[tuple[str, str], list[int]] = {}
    for of_clip, is_test in zip(intervals, test, strict=True):
        for one in of_clip:
            counts.setdefault((one.tier, one.label), [0, 0])[is_test] += 1
    return counts


class Units(NamedTuple):
    """Units of one kind: values per frame, and the thresholds that are tried for each."""

    kind: str
    values: Any
    """`[rows, units]`, sparse or dense."""
    thresholds: Float[np.ndarray, "levels units"]

    def active(self, level: int) -> Any:
        """Return 1 where a unit is above its threshold, sparse or dense like `values`, in float32."""
        if isinstance(self.values, np.ndarray):
            return (self.values > self.thresholds[level]).astype(np.float32)
        codes = self.values
        kept = codes.data > self.thresholds[level][codes.indices]
        return csr_matrix((kept.astype(np.float32), codes.indices, codes.indptr), shape=codes.shape)

    def column(self, unit: int) -> Float[np.ndarray, " rows"]:
        """Return the values of a unit."""
        column = self.values[:, [unit]]
        return (column.toarray() if isinstance(column, csr_matrix) else column).ravel()


def latent_units(codes: csr_matrix, fit: Bool[np.ndarray, " rows"]) -> Units:
    """Return the latents, with quantiles of their activations in the rows of `fit` as thresholds."""
    columns = cast(Any, codes[fit].tocsc())
    thresholds = np.zeros((len(LEVELS), columns.shape[1]), dtype=np.float32)
    for unit in range(columns.shape[1]):
        values = columns.data[columns.indptr[unit] : columns.indptr[unit + 1]]
        if values.size:
            thresholds[1:, unit] = np.quantile(values, LEVELS[1:])
    return Units("latent", codes, thresholds)


def dense_units(rows: Float[np.ndarray, "rows width"], fit: Bool[np.ndarray, " rows"]) -> Units:
    """Return the units of the layer with both signs, `[rows, 2 width]`: first high values, then low ones."""
    both = np.concatenate([rows, -rows], axis=1)
    return Units("dense", both, np.quantile(both[fit], DENSE_LEVELS, axis=0).astype(np.float32))


def cluster_units(rows: Float[np.ndarray, "rows width"], fit: Bool[np.ndarray, " rows"]) -> Units:
    """Return k-means clusters of standardised frames as units that are 1 in their own frames."""
    scaled = (rows - rows[fit].mean(0)) / np.maximum(rows[fit].std(0), 1e-6)
    clusters = min(CLUSTERS, int(fit.sum()))
    once: Any = 1  # the stub allows "auto" alone
    means = MiniBatchKMeans(clusters, random_state=0, n_init=once, batch_size=2048).fit(scaled[fit])
    own = means.predict(scaled)
    values = csr_matrix((np.ones(len(own), np.float32), own, np.arange(len(own) + 1)), shape=(len(own), clusters))
    return Units("cluster", values, np.zeros((1, clusters), dtype=np.float32))


def score_labels(frames: AnnotatedFrames, units: Sequence[Units], *, seed: int = 0) -> pl.DataFrame:
    """Return the best unit of each kind per label, with its scores on the test groups; see `UNIT_COLUMNS`.

    Raises `EvaluationError` if no label has `MIN_EVENTS` intervals in the test groups and as many in the others.
    """
    labels = frames.labels()
    if not labels:
        raise EvaluationError(f"{TOO_FEW}; {MORE}")
    carried = frames.carries(labels)
    rng = np.random.default_rng(seed)
    rotated = [_rotate(carried, frames, rng) for _ in range(ROTATIONS)]
    rows: list[dict[str, Any]] = []
    for kind in units:
        levels = [kind.active(level) for level in range(len(kind.thresholds))]
        fit, test = ([active[rows] for active in levels] for rows in (~frames.test, frames.test))
        columns = [active.tocsc() if isinstance(active, csr_matrix) else active for active in test]
        chosen, fitted = _choose(fit, carried[~frames.test])
        nulls = np.array(
            [
                _scores_of(columns, labelled[frames.test], _choose(fit, labelled[~frames.test])[0])
                for labelled in rotated
            ]
        )
        thresholds = [float(kind.thresholds[level, unit]) for unit, level in chosen]
        scores = [
            _score(frames, kind.column(int(unit)), threshold, carried[:, position], labels[position])
            for position, ((unit, _), threshold) in enumerate(zip(chosen, thresholds, strict=True))
        ]
        family = compare_with_maximum(np.array([score["f1"] for score in scores]), nulls)
        highs = np.minimum(family.high, LARGEST_SCORE)
        for position, label in enumerate(labels):
            unit, threshold = int(chosen[position, 0]), thresholds[position]
            low_side = kind.kind == "dense" and unit >= kind.values.shape[1] // 2
            rows.append(
                {
                    "tier": label[0], "label": label[1], "unit": kind.kind,
                    "number": -1 - (unit - kind.values.shape[1] // 2) if low_side else unit,
                    "threshold": -threshold if low_side else threshold, "f1_fit": float(fitted[position]),
                    "f1_null_mean": float(nulls[:, position].mean()), "f1_null_high": float(highs[position]),
                    "p_value": float(family.p_value[position]), **scores[position],
                }
            )  # fmt: skip
    return pl.DataFrame(rows, schema=UNIT_COLUMNS)


def _rotate(
    carried: Bool[np.ndarray, "rows labels"], frames: AnnotatedFrames, rng: np.random.Generator
) -> Bool[np.ndarray, "rows labels"]:
    """Rotate the labels of each clip by a random number of frames, and exchange those that fill it with other clips."""
    found = np.empty_like(carried)
    first = np.flatnonzero(np.diff(frames.clip, prepend=-1))
    lengths = np.diff(first, append=len(carried))
    for low, length in zip(first, lengths, strict=True):
        shift = int(rng.integers(1, length)) if length > 1 else 0
        found[low : low + length] = np.roll(carried[low : low + length], shift, axis=0)
    share = np.add.reduceat(carried, first, axis=0, dtype=np.float64) / lengths[:, None]
    fills = share >= FILLED
    order = permuted_order(len(first), seed=int(rng.integers(2**31)), groups=frames.group[first])
    return (found & ~np.repeat(fills, lengths, axis=0)) | np.repeat(fills[order], lengths, axis=0)


def _choose(
    levels: Sequence[Any], carried: Bool[np.ndarray, "rows labels"]
) -> tuple[Int[np.ndarray, "labels 2"], Float[np.ndarray, " labels"]]:
    """Return unit and level with the largest frame F1 per label, and that F1."""
    scores = np.stack([_frame_f1(active, carried) for active in levels])  # [levels, units, labels]
    flat = scores.reshape(-1, scores.shape[-1])
    best = flat.argmax(axis=0)
    level, unit = np.unravel_index(best, scores.shape[:2])
    return np.stack([unit, level], axis=1), flat[best, np.arange(len(best))]


def _scores_of(
    levels: Sequence[Any], carried: Bool[np.ndarray, "rows labels"], chosen: Int[np.ndarray, "labels 2"]
) -> Float[np.ndarray, " labels"]:
    """Return the frame F1 of each label's unit and level."""
    each = [
        _frame_f1(levels[level][:, [unit]], carried[:, [label]]) for label, (unit, level) in enumerate(chosen.tolist())
    ]
    return np.concatenate(each).ravel()


def _frame_f1(active: Any, carried: Bool[np.ndarray, "rows labels"]) -> Float[np.ndarray, "units labels"]:
    both = np.asarray(active.T @ carried.astype(np.float32))
    fired = np.asarray(active.sum(axis=0)).reshape(-1, 1)
    return 2 * both / np.maximum(fired + carried.sum(axis=0), 1)


def _score(
    frames: AnnotatedFrames,
    values: Float[np.ndarray, " rows"],
    threshold: float,
    carried: Bool[np.ndarray, " rows"],
    label: tuple[str, str],
) -> dict[str, Any]:
    """Return the scores of one unit on the test groups."""
    test, active = frames.test, values > threshold
    terms = np.stack([active & carried, active, carried], axis=1)[test].astype(np.float64)
    groups, codes = np.unique(frames.group[test], return_inverse=True)
    sums = np.zeros((len(groups), 3))
    np.add.at(sums, codes, terms)
    found, low, high = jackknife_sums(sums, _f1_of_sums, scale=bounded(0.0, 1.0))
    both_classes = carried[test].any() and not carried[test].all()
    clips = np.unique(frames.clip[test])
    events = {int(clip): frames.onsets_s(label, int(clip)) for clip in np.unique(frames.clip)}
    onsets = {int(clip): _run_starts_s(active, frames, int(clip)) for clip in clips}
    matched = [_onset_f1([(onsets[int(c)], events[int(c)]) for c in clips], tolerance) for tolerance in TOLERANCES_S]
    in_test = sum(len(events[int(clip)]) for clip in clips)
    return {
        "f1": float(found), "f1_low": float(low), "f1_high": float(high),
        "auroc": float(roc_auc_score(carried[test], values[test])) if both_classes else math.nan,
        "onset_f1_20ms": matched[0], "onset_f1_50ms": matched[1],
        "place": _place(frames, np.maximum(values - min(threshold, 0.0), 0.0), label),
        "events_fit": sum(map(len, events.values())) - in_test, "events_test": in_test, "groups": len(groups),
    }  # fmt: skip


def _f1_of_sums(sums: Float[np.ndarray, "*batch 3"]) -> NDArray[Any]:
    """Return F1 from the sums of hits, firing frames and labelled frames."""
    return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)


def _run_starts_s(active: Bool[np.ndarray, " rows"], frames: AnnotatedFrames, clip: int) -> list[float]:
    """Return the start of every run of active frames in a clip."""
    low, high = np.searchsorted(frames.clip, [clip, clip + 1])
    run = np.diff(active[low:high].astype(np.int8), prepend=0) == 1
    return frames.start_s[low:high][run].tolist()


def _onset_f1(pairs: Sequence[tuple[list[float], list[float]]], tolerance_s: float) -> float:
    """Return F1 of found onsets, each matched with at most one true onset within the tolerance.

    >>> _onset_f1([([0.1, 0.5], [0.11])], 0.02)
    0.6666666666666666
    """
    matched = found = true = 0
    for starts, onsets in pairs:
        found, true, at = found + len(starts), true + len(onsets), 0
        for start in starts:
            while at < len(onsets) and onsets[at] < start - tolerance_s - 1e-9:
                at += 1
            if at < len(onsets) and onsets[at] <= start + tolerance_s + 1e-9:
                matched, at = matched + 1, at + 1
    return 2 * matched / max(found + true, 1)


def _place(frames: AnnotatedFrames, values: Float[np.ndarray, " rows"], label: tuple[str, str]) -> str:
    """Return the third of the intervals in which the unit is 1.25 times as strong as in the others, or steady."""
    sums, counts = np.zeros(3), np.zeros(3)
    centre_s = (frames.start_s + frames.end_s) / 2
    for clip, intervals in enumerate(frames.intervals):
        low, high = np.searchsorted(frames.clip, [clip, clip + 1])
        for one in intervals:
            if (one.tier, one.label) == label and one.end_s > one.start_s:
                share = (centre_s[low:high] - one.start_s) / (one.end_s - one.start_s)
                inside = (share >= 0) & (share < 1)
                third = np.minimum((share[inside] * 3).astype(int), 2)
                np.add.at(sums, third, values[low:high][inside])
                np.add.at(counts, third, 1)
    means = sums / np.maximum(counts, 1)
    first, second = np.sort(means)[::-1][:2]
    return ("start", "middle", "end")[int(means.argmax())] if first > 1.25 * second else "steady"


def gather_annotated_frames(
    index: ActivationIndex,
    clips: Sequence[int],
    intervals: Sequence[Sequence[AnnotatedInterval]],
    *,
    times_of: Callable[[str], Frames],
    splits: Sequence[str],
    groups: Sequence[str],
) -> AnnotatedFrames:
    """Return the frames of clips of an index, whose intervals are given in the same order."""
    times = [times_of(index.clip_ids[clip]) for clip in clips]
    counts = [len(one.start_s) for one in times]
    number = {group: position for position, group in enumerate(sorted({groups[clip] for clip in clips}))}
    return AnnotatedFrames(
        clip=np.repeat(np.arange(len(clips)), counts),
        start_s=np.concatenate([one.start_s for one in times]),
        end_s=np.concatenate([one.end_s for one in times]),
        group=np.repeat([number[groups[clip]] for clip in clips], counts),
        test=np.repeat([splits[clip] == "test" for clip in clips], counts),
        intervals=intervals,
    )


EXAMPLES_PER_LABEL = 3


class LabelExample(NamedTuple):
    """A labelled interval of a test clip in which the label's latent is active, `clip` counted as in the frames."""

    label: tuple[str, str]
    latent: int
    clip: int
    start_s: float
    end_s: float
    activation: float


def label_examples(frames: AnnotatedFrames, latents: Units, scores: pl.DataFrame) -> list[LabelExample]:
    """Return labelled intervals of different test clips in which the latent of each label is strongest.

    Only labels with a latent beyond chance have examples.
    """
    found: list[LabelExample] = []
    test_clips = np.unique(frames.clip[frames.test]).tolist()
    bounds = np.searchsorted(frames.clip, np.arange(len(frames.intervals) + 1))
    for row in scores.filter(pl.col("unit") == latents.kind, pl.col("p_value") < ALPHA).iter_rows(named=True):
        label, values = (row["tier"], row["label"]), latents.column(row["number"])
        best: dict[int, LabelExample] = {}
        for clip in test_clips:
            low, high = bounds[clip], bounds[clip + 1]
            for one in frames.intervals[clip]:
                inside = (frames.end_s[low:high] > one.start_s) & (
                    frames.start_s[low:high] < max(one.end_s, one.start_s + 1e-3)
                )
                if (one.tier, one.label) != label or not inside.any():
                    continue
                activation = float(values[low:high][inside].max())
                if activation > max(row["threshold"], best[clip].activation if clip in best else 0.0):
                    best[clip] = LabelExample(label, row["number"], clip, one.start_s, one.end_s, activation)
        found += sorted(best.values(), key=lambda one: -one.activation)[:EXAMPLES_PER_LABEL]
    return found
