"""Firing of a latent: examples over the range of its activation, silent clips, classes, and other latents."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.encoders.base import Frames
from otoscope.errors import EvaluationError
from otoscope.explain.activation_index import QUANTILES, ActivationIndex, Firing


class Example(NamedTuple):
    """A row in which a latent fires: the clip's index, the row within the clip, and the activation."""

    clip: int
    row: int
    activation: float


def top_activations(index: ActivationIndex, latent: int, groups: Sequence[str], *, top: int = 10) -> list[Example]:
    """Return the strongest row of each of the strongest clips, one clip per group before a second of any group.

    `groups` holds the group of each clip of the index. Fewer than `top` examples are returned if the latent fires in
    fewer clips.
    """
    index.require_clips(groups, "groups")
    firing = index.firing(latent)
    clips, peaks = _peaks(firing)
    order = clips[np.argsort(-firing.activations[peaks], kind="stable")]
    row_of = dict(zip(clips.tolist(), peaks.tolist(), strict=True))
    chosen = diverse(order.tolist(), groups)[:top]
    return [_example(index, firing, row_of[clip]) for clip in chosen]


def diverse(clips: Iterable[int], groups: Sequence[str]) -> list[int]:
    """Return clips in their order, except that the n-th clip of each group comes before the n+1-th of any group.

    >>> diverse([0, 1, 2, 3], ["a", "a", "b", "a"])
    [0, 2, 1, 3]
    """
    rounds: list[list[int]] = []
    seen: dict[str, int] = {}
    for clip in clips:
        turn = seen.get(groups[clip], 0)
        seen[groups[clip]] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(clip)
    return [clip for turn in rounds for clip in turn]


def draw_clips(allowed: Bool[np.ndarray, " clips"], groups: Sequence[str], limit: int) -> list[int]:
    """Return up to `limit` of the allowed clips, drawn at random, one per group before a second of any, in order.

    Corpora are often sorted by their labels, so that the first clips of each group would be of few classes.
    """
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(allowed))
    return sorted(diverse(drawn.tolist(), groups)[:limit])


def quantile_examples(index: ActivationIndex, latent: int, groups: Sequence[str]) -> list[Example]:
    """Return one row near each of `QUANTILES` of the activations of a latent, each from another clip where possible.

    Top activations show extremes; these examples show the range. Of the rows whose rank is within 2 % of the quantile,
    the first from a clip and a group that no earlier example has is taken.
    """
    index.require_clips(groups, "groups")
    firing = index.firing(latent)
    if not firing.rows.size:
        return []
    order = np.argsort(firing.activations, kind="stable")
    width = max(int(0.02 * len(order)), 1)
    used_clips: set[int] = set()
    used_groups: set[str] = set()
    examples: list[Example] = []
    for quantile in QUANTILES:
        middle = round(quantile * (len(order) - 1))
        near = sorted(range(max(middle - width, 0), min(middle + width + 1, len(order))), key=lambda i: abs(i - middle))
        candidates = order[near]

        def taken(entry: int) -> tuple[bool, bool]:
            clip = int(firing.clips[entry])
            return clip in used_clips, groups[clip] in used_groups

        best = min(candidates.tolist(), key=taken)  # the first of the least used
        used_clips.add(int(firing.clips[best]))
        used_groups.add(groups[int(firing.clips[best])])
        examples.append(_example(index, firing, best))
    return examples


def silent_clips(index: ActivationIndex, latent: int) -> Int[np.ndarray, " clips"]:
    """Return the indices of the clips in which a latent never fires."""
    silent = np.ones(index.clips.height, dtype=bool)
    silent[index.firing(latent).clips] = False
    return np.flatnonzero(silent)


NEAR_MISSES, STRONGEST = 3, 20
"""Near misses per latent, and rows whose mean spectrum they are compared with."""


def near_misses(index: ActivationIndex, latent: int, spectra: Float[np.ndarray, "rows bands"]) -> list[Example]:
    """Return the rows that look most like those in which a latent fires, and in which it is silent.

    `spectra` is the log-mel spectrum of every row of the index, NaN where unknown. Distance is Euclidean from the mean
    spectrum of the `STRONGEST` rows. At most one row per clip is returned; the activation is 0.
    """
    if spectra.shape[0] != index.rows:
        raise EvaluationError(f"spectra have {spectra.shape[0]} rows, the index has {index.rows}")
    firing = index.firing(latent)
    strongest = firing.rows[np.argsort(-firing.activations, kind="stable")]
    strongest = strongest[np.isfinite(spectra[strongest]).all(axis=1)][:STRONGEST]
    if not strongest.size:
        return []
    distance = np.linalg.norm(spectra - spectra[strongest].mean(axis=0), axis=1)
    distance[firing.rows] = np.nan
    order = np.argsort(distance, kind="stable")
    order = order[np.isfinite(distance[order])]
    clips = index.clip_of(order)
    first = np.sort(np.unique(clips, return_index=True)[1])[:NEAR_MISSES]
    return [Example(int(clips[i]), int(order[i] - index.first_rows[clips[i]]), 0.0) for i in first]


def firing_by_class(
    index: ActivationIndex, classes: Shaped[np.ndarray, " clips"], chosen: Bool[np.ndarray, " clips"] | None = None
) -> pl.DataFrame:
    """Return the firing rate and the mean activation of every latent for each class of clips.

    `classes` holds the class of each clip, a label or a group; clips with an empty class are excluded, as are clips
    that are not `chosen`. One row per latent and class in which it fires: `latent, class, clips, rows, rate, mean`,
    where `clips` and `rows` count the class and `mean` includes rows with 0.
    """
    index.require_clips(classes, "classes")
    known = (classes != "") if chosen is None else (classes != "") & chosen
    names, codes = np.unique(classes[known].astype(str), return_inverse=True)
    number = np.full(len(classes), -1)
    number[known] = codes
    rows = np.diff(index.first_rows)
    class_rows = np.bincount(codes, rows[known], minlength=len(names))
    fired = np.zeros((index.latents, len(names)))
    summed = np.zeros((index.latents, len(names)))
    for part in index.parts():
        at = index.first_rows[part.first_clip] + np.arange(len(part.row_offsets) - 1)
        entry_class = np.repeat(number[index.clip_of(at)], np.diff(part.row_offsets))
        inside = entry_class >= 0
        cells = part.latents[inside].astype(np.int64) * len(names) + entry_class[inside]
        fired += np.bincount(cells, minlength=fired.size).reshape(fired.shape)
        summed += np.bincount(cells, part.activations[inside], minlength=fired.size).reshape(fired.shape)
    latent, name = np.nonzero(fired)
    return pl.DataFrame(
        {
            "latent": latent,
            "class": names[name],
            "clips": np.bincount(codes, minlength=len(names))[name],
            "rows": class_rows[name].astype(np.int64),
            "rate": fired[latent, name] / class_rows[name],
            "mean": summed[latent, name] / class_rows[name],
        }
    )


def co_firing(index: ActivationIndex, latents: Sequence[int], *, top: int = 5) -> pl.DataFrame:
    """Return the latents that fire in the same rows as each of the given ones.

    One row per pair, strongest first: `latent, other, together, phi, conditional`, where `together` is the number of
    rows with both, `phi` Pearson's correlation of the two firing indicators, and `conditional` the share of the rows of
    `latent` in which `other` fires too.
    """
    fires = np.zeros((len(latents), index.rows), dtype=bool)
    for position, latent in enumerate(latents):
        fires[position, index.firing(latent).rows] = True
    together = np.zeros((len(latents), index.latents), dtype=np.int64)
    for part in index.parts():
        first, rows = int(index.first_rows[part.first_clip]), len(part.row_offsets) - 1
        for position in range(len(latents)):
            here = np.repeat(fires[position, first : first + rows], np.diff(part.row_offsets))
            together[position] += np.bincount(part.latents[here], minlength=index.latents)
    counts = index.statistics["rows"].to_numpy().astype(np.float64)
    pairs = [
        pair
        for latent, both in zip(latents, together.astype(np.float64), strict=True)
        for pair in _strongest_pairs(latent, both, counts, index.rows)[:top]
    ]
    return pl.DataFrame(pairs, schema=PAIRS, orient="row")


PAIRS: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "other": pl.Int64(),
    "together": pl.Int64(),
    "phi": pl.Float64(),
    "conditional": pl.Float64(),
}
"""Columns of `co_firing`."""


def _strongest_pairs(
    latent: int, both: Float[np.ndarray, " latents"], counts: Float[np.ndarray, " latents"], rows: int
) -> list[tuple[int, int, int, float, float]]:
    own = counts[latent]
    spread = np.sqrt(own * (rows - own) * counts * (rows - counts))
    phi = np.divide(rows * both - own * counts, spread, out=np.full(len(counts), -np.inf), where=spread > 0)
    phi[latent] = -np.inf
    order = [other for other in np.argsort(-phi, kind="stable").tolist() if both[other] > 0 and other != latent]
    return [(latent, other, int(both[other]), float(phi[other]), float(both[other] / own)) for other in order]


def _peaks(firing: Firing) -> tuple[Int[np.ndarray, " clips"], Int[np.ndarray, " clips"]]:
    """Return the clips in which a latent fires, and the position of the strongest entry of each."""
    order = np.lexsort((np.arange(len(firing.rows)), -firing.activations, firing.clips))
    clips, first = np.unique(firing.clips[order], return_index=True)
    return clips, order[first]


def _example(index: ActivationIndex, firing: Firing, entry: int) -> Example:
    clip = int(firing.clips[entry])
    return Example(clip, int(firing.rows[entry] - index.first_rows[clip]), float(firing.activations[entry]))


EXAMPLES: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "kind": pl.String(),
    "quantile": pl.Float64(),
    "clip_id": pl.String(),
    "group": pl.String(),
    "row": pl.Int64(),
    "start_s": pl.Float64(),
    "end_s": pl.Float64(),
    "activation": pl.Float64(),
}
"""One row per example; `kind` is top, quantile or near_miss, the times are null for whole clips."""


def example_table(
    index: ActivationIndex,
    latents: Sequence[int],
    groups: Sequence[str],
    *,
    times_of: Callable[[str], Frames] | None,
    top: int,
) -> pl.DataFrame:
    """Return top activations and quantile examples of latents, strongest first, with the columns `EXAMPLES`.

    `times_of` places the rows of a clip; None if a row is a whole clip.
    """
    rows: list[tuple[object, ...]] = []
    for latent in latents:
        ranges = zip(QUANTILES, quantile_examples(index, latent, groups), strict=False)
        kinds = [("top", None, example) for example in top_activations(index, latent, groups, top=top)]
        for kind, quantile, example in [*kinds, *(("quantile", q, example) for q, example in reversed(list(ranges)))]:
            rows.append((latent, kind, quantile, *_place(index, example, groups, times_of)))
    return pl.DataFrame(rows, schema=EXAMPLES, orient="row")


def near_miss_table(
    index: ActivationIndex,
    latents: Sequence[int],
    groups: Sequence[str],
    *,
    spectra: Float[np.ndarray, "rows bands"],
    times_of: Callable[[str], Frames],
) -> pl.DataFrame:
    """Return the near misses of latents, nearest first, with the columns `EXAMPLES`."""
    rows = [
        (latent, "near_miss", None, *_place(index, example, groups, times_of))
        for latent in latents
        for example in near_misses(index, latent, spectra)
    ]
    return pl.DataFrame(rows, schema=EXAMPLES, orient="row")


def _place(
    index: ActivationIndex, example: Example, groups: Sequence[str], times_of: Callable[[str], Frames] | None
) -> tuple[object, ...]:
    clip_id = index.clip_ids[example.clip]
    times = times_of(clip_id) if times_of is not None else None
    span = (None, None) if times is None else (times.start_s[example.row], times.end_s[example.row])
    return (clip_id, groups[example.clip], example.row, *span, example.activation)
