"""Steps `splice` and `lens` of the stage `explain`: the encoder with a layer replaced, on clips of test groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from otoscope.corpus.audio import load_clip
from otoscope.corpus.datasets.fsdd import DIGITS, SpokenString, join_words
from otoscope.encoders.families.whisper import WhisperEncoder
from otoscope.errors import EncoderError
from otoscope.explain.splice_scores import (
    LENS,
    SCORES,
    Probes,
    later_layer_scores,
    lens_passes,
    lens_scores,
    substitutes,
    transcription_scores,
)
from otoscope.explain.transcription import Transcriber, normalise
from otoscope.factors.annotation_folder import AnnotationFolder
from otoscope.factors.annotations import within_clip
from otoscope.pipeline.changed_layer import ChangedLayer
from otoscope.runs.progress import task
from otoscope.runs.training import GridMember

WORDS_PER_STRING = 4
"""Recordings of single digits that are joined to a string."""
WORD_TIERS = ("words", "word")
"""Names of tiers whose labels are the words that are spoken."""


def splice_table(setting: ChangedLayer, members: Sequence[GridMember]) -> pl.DataFrame:
    """Return the scores of the splices of dictionaries of one layer, the one shown first.

    Empty for an encoder whose states cannot be replaced.
    """
    run, clips, store = setting.run, setting.clips, setting.store
    test = setting.choose("test", run.config.explain.splice_clips, allowed=setting.split("test"))
    try:
        encoder = setting.encoder
    except EncoderError:
        return pl.DataFrame(schema=SCORES)
    if not test:
        return pl.DataFrame(schema=SCORES)
    replaced_by = substitutes({m.sae_id: (setting.load(m), m.k) for m in members}, setting.frames.rows)
    layer, later, train = setting.member.layer, setting.later, np.flatnonzero(setting.split("train"))
    pooled = store.pooled(later, [store.clip_ids[i] for i in train])
    with task(run.progress, f"splicing layer {layer}", len(test), "clips"):
        scores = later_layer_scores(
            encoder,
            layer,
            replaced_by,
            [setting.wave(i) for i in test],
            groups=clips.groups[test],
            labels={name: classes[test] for name, classes in clips.labels.items()},
            probes=Probes.fit(pooled, {name: classes[train] for name, classes in clips.labels.items()}),
            later=later,
            mean=pooled.mean(axis=0),
            on_clip=lambda: run.progress.advance(1),
        )
    transcriber, strings, speakers = _transcriber(setting)
    if transcriber is not None:
        with task(run.progress, "transcribing with a replaced layer", len(strings), "strings"):
            scores += transcription_scores(
                transcriber,
                layer,
                replaced_by,
                strings,
                groups=np.array(speakers),
                on_string=lambda: run.progress.advance(1),
            )
    return pl.DataFrame(scores, schema=SCORES)


def lens_table(setting: ChangedLayer) -> pl.DataFrame:
    """Return the word error rate from each layer of Whisper; empty for other encoders and without spoken words."""
    member, progress = setting.member, setting.run.progress
    transcriber, strings, speakers = _transcriber(setting)
    if transcriber is None:
        if not strings:
            progress.message(
                "lens: no transcripts, which need Whisper and words (a tier named words, or the label digit)"
            )
        return pl.DataFrame(schema=LENS)
    replaced_by = substitutes({member.sae_id: (setting.sae, member.k)}, setting.frames.rows)
    passes = lens_passes(len(transcriber.encoder.layers), member.layer) * len(strings)
    with task(progress, "transcribing from each layer", passes, "transcripts"):
        rows = lens_scores(
            transcriber,
            member.layer,
            replaced_by,
            strings,
            groups=np.array(speakers),
            on_string=lambda: progress.advance(1),
        )
    return pl.DataFrame(rows, schema=LENS)


def _transcriber(setting: ChangedLayer) -> tuple[Transcriber | None, list[SpokenString], list[str]]:
    """Return the model that transcribes, and strings of words with their groups; None if either is missing."""
    encoder, run = setting.run.encoder.load(), setting.run
    if not isinstance(encoder, WhisperEncoder):
        return None, [], []
    root = run.config.corpus.annotation_folder(run.folder.sound)
    strings, groups = [], []
    if root is not None:
        strings, groups = annotated_strings(setting, AnnotationFolder(root))
    elif "digit" in setting.corpus.labels:
        strings, groups = joined_digits(setting)
    if strings and encoder.runtime.context != "exact":
        run.progress.message(
            "no words are transcribed: Whisper does it in whole windows only; set extract.context: exact"
        )
        return None, strings, groups
    return (Transcriber(encoder) if strings else None), strings, groups


def annotated_strings(setting: ChangedLayer, annotations: AnnotationFolder) -> tuple[list[SpokenString], list[str]]:
    """Return clips of test groups with annotated words, and the group of each; only clips that fit the model's window.

    Words are the labels of a tier that is named so (`WORD_TIERS`).
    """
    window_s = setting.encoder.window_s
    words: dict[int, SpokenString] = {}
    for i in np.flatnonzero(setting.split("test")).tolist():
        row = setting.corpus.clips.row(i, named=True)
        if window_s is not None and row["duration_s"] > window_s:
            continue
        inside, _ = within_clip(
            annotations.of(row["path"], rate_hz=row["rate_hz"]), start_s=row["start_s"], duration_s=row["duration_s"]
        )
        spoken = sorted((one for one in inside if one.tier.lower() in WORD_TIERS), key=lambda one: one.start_s)
        if normalise(" ".join(one.label for one in spoken)):
            spans = tuple((one.start_s, one.end_s) for one in spoken)
            words[i] = SpokenString(np.zeros(0, np.float32), tuple(one.label for one in spoken), spans)
    allowed = np.isin(np.arange(len(setting.clips.split)), list(words))
    chosen = setting.choose("test", setting.run.config.explain.splice_clips, allowed=allowed)
    return [words[i]._replace(wave=setting.wave(i)) for i in chosen], [str(setting.clips.groups[i]) for i in chosen]


def joined_digits(setting: ChangedLayer) -> tuple[list[SpokenString], list[str]]:
    """Return recordings of single digits of test groups joined to strings, and the group of each string.

    Empty unless all classes of the label `digit` are digits, as figures or words. Each string is of one speaker.
    """
    words = {str(i): word for i, word in enumerate(DIGITS)} | {word: word for word in DIGITS}
    corpus, rate_hz = setting.corpus, setting.encoder.rate_hz
    rows = corpus.clips.with_columns(digit=corpus.label("digit")).filter(pl.col("split") == "test")
    rows = rows.filter(pl.col("digit").is_not_null())
    if rows.is_empty() or not set(rows["digit"]) <= set(words):
        return [], []
    rng = np.random.default_rng(0)
    strings: list[SpokenString] = []
    speakers: list[str] = []
    groups = rows["group"].unique().sort().to_list()
    for turn in range(setting.run.config.explain.splice_clips):
        group = groups[turn % len(groups)]
        of_group = rows.filter(pl.col("group") == group).rows(named=True)
        chosen: list[dict[str, Any]] = [of_group[i] for i in rng.permutation(len(of_group))[:WORDS_PER_STRING].tolist()]
        waves = [load_clip(corpus.root, row, rate_hz=rate_hz) for row in chosen]
        strings.append(join_words(waves, [words[row["digit"]] for row in chosen], rate_hz=rate_hz))
        speakers.append(str(group))
    return strings, speakers
