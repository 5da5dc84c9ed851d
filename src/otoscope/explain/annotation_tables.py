"""The tables of annotated labels of a run: annotations, codes and the layer's own units of the same clips."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, vstack

from otoscope.activations.store import ActivationStore
from otoscope.corpus.audio import load_clip
from otoscope.corpus.table import Corpus
from otoscope.explain.activation_index import ActivationIndex
from otoscope.explain.annotated_labels import (
    MORE,
    TOO_FEW,
    UNIT_COLUMNS,
    LabelExample,
    cluster_units,
    count_labels,
    dense_units,
    frequent_labels,
    gather_annotated_frames,
    label_examples,
    latent_units,
    score_labels,
)
from otoscope.explain.artifacts import Sound
from otoscope.explain.card_tables import choose_clips
from otoscope.factors.annotation_folder import AnnotationFolder
from otoscope.factors.annotations import AnnotatedInterval, count_overlaps, within_clip
from otoscope.formatting import count

MARGIN_S = 0.1
"""Sound before and after an example."""

EXAMPLE_COLUMNS: dict[str, Any] = {
    "tier": pl.String(),
    "label": pl.String(),
    "latent": pl.Int64(),
    "clip_id": pl.String(),
    "start_s": pl.Float64(),
    "end_s": pl.Float64(),
    "activation": pl.Float64(),
    "audio": pl.String(),
}
"""Columns of the examples; `start_s` and `end_s` are relative to the clip, `audio` is a file with `MARGIN_S` more."""


UNSCORED_COLUMNS = {"tier": pl.String(), "label": pl.String(), "events_fit": pl.Int64(), "events_test": pl.Int64()}
"""Columns of the table of labels that have too few intervals to be scored."""


class AnnotationTables(NamedTuple):
    """Scores per label and kind of unit, unscored labels, examples of the best latents, sounds by file name, notes."""

    labels: pl.DataFrame
    unscored: pl.DataFrame
    examples: pl.DataFrame
    sounds: Mapping[str, Sound]
    notes: Sequence[str]


def annotation_tables(
    corpus: Corpus,
    index: ActivationIndex,
    store: ActivationStore,
    layer: int,
    annotations: AnnotationFolder,
    *,
    tiers: Sequence[str] = (),
    clips: int = 200,
) -> AnnotationTables:
    """Score every latent on the annotated labels of at most `clips` clips; see `score_labels`.

    `corpus` lists the clips of the index in its order. The tables are empty if no label has enough intervals on both
    sides of the split.
    """
    intervals, notes = _read_intervals(corpus, annotations, tiers)
    splits, groups = corpus.clips["split"].to_list(), corpus.clips["group"].to_list()
    positions = choose_annotated(corpus, list(intervals), clips=clips)
    is_test = [splits[i] == "test" for i in positions]
    counts = count_labels([intervals[i] for i in positions], is_test)
    scored = frequent_labels([intervals[i] for i in positions], is_test)
    known = {(one.tier, one.label) for of_clip in intervals.values() for one in of_clip}
    rows = [(*label, *counts.get(label, (0, 0))) for label in sorted(known - {*scored})]
    unscored = pl.DataFrame(rows, schema=UNSCORED_COLUMNS, orient="row")
    if not scored:
        examples = pl.DataFrame(schema=EXAMPLE_COLUMNS)
        return AnnotationTables(
            pl.DataFrame(schema=UNIT_COLUMNS), unscored, examples, {}, [*notes, f"{SKIPPED}; {MORE}"]
        )
    ids = [index.clip_ids[i] for i in positions]
    frames = gather_annotated_frames(
        index, positions, [intervals[i] for i in positions], times_of=store.times_of, splits=splits, groups=groups
    )
    codes: Any = vstack([csr_matrix(index.codes_of(clip)) for clip in ids], format="csr")
    latents = latent_units(codes, ~frames.test)
    rows = np.concatenate([store.frames_of(layer, clip) for clip in ids])
    scores = score_labels(frames, [latents, dense_units(rows, ~frames.test), cluster_units(rows, ~frames.test)])
    found = label_examples(frames, latents, scores)
    names = [f"annotated{number:03d}.flac" for number in range(len(found))]
    rate_hz = int(store.manifest["encoder"]["rate_hz"])
    table = [
        (*one.label, one.latent, ids[one.clip], one.start_s, one.end_s, one.activation, name)
        for one, name in zip(found, names, strict=True)
    ]
    sounds = {name: _cut(corpus, positions[one.clip], one, rate_hz) for one, name in zip(found, names, strict=True)}
    return AnnotationTables(scores, unscored, pl.DataFrame(table, schema=EXAMPLE_COLUMNS, orient="row"), sounds, notes)


SKIPPED = f"explain skips annotated labels: {TOO_FEW}"


def choose_annotated(corpus: Corpus, annotated: Sequence[int], *, clips: int) -> list[int]:
    """Return the positions of at most `clips` annotated clips, half of them of test groups."""
    splits, groups = corpus.clips["split"].to_list(), corpus.clips["group"].to_list()
    chosen = choose_clips([splits[i] for i in annotated], [groups[i] for i in annotated], clips=clips)
    return [annotated[i] for i in chosen]


def _read_intervals(
    corpus: Corpus, annotations: AnnotationFolder, tiers: Sequence[str]
) -> tuple[dict[int, list[AnnotatedInterval]], list[str]]:
    """Return the intervals of each annotated clip by its position, relative to its start, and notes."""
    chosen: dict[int, list[AnnotatedInterval]] = {}
    rows = corpus.clips.iter_rows(named=True)
    for position, (row, whole) in enumerate(zip(rows, annotations.of_clips(corpus.clips, tiers), strict=True)):
        inside, _ = within_clip(whole, start_s=row["start_s"], duration_s=row["duration_s"])
        if inside:
            chosen[position] = inside
    notes = [f"{count(len(chosen), 'clip')} of {corpus.clips.height} have annotations"]
    if overlaps := sum(map(count_overlaps, chosen.values())):
        notes.append(f"annotations that overlap others of their tier: {overlaps:,}; frames in several carry each label")
    if points := sum(one.end_s == one.start_s for intervals in chosen.values() for one in intervals):
        notes.append(f"annotations that are points in time: {points:,}; each marks the nearest frame")
    return chosen, notes


def _cut(corpus: Corpus, position: int, example: LabelExample, rate_hz: int) -> Sound:
    wave = load_clip(corpus.root, corpus.clips.row(position, named=True), rate_hz=rate_hz)
    first, last = (
        round(max(time_s, 0.0) * rate_hz) for time_s in (example.start_s - MARGIN_S, example.end_s + MARGIN_S)
    )
    return Sound(wave[first:last], rate_hz)
