"""Step `splice` of the stage `explain`: the encoder with a layer replaced, on clips of test groups."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from numpy.typing import NDArray

from otoscope.activations.store import ActivationStore
from otoscope.corpus.audio import load_clip
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import BatchedEncoder
from otoscope.encoders.families.whisper import WhisperEncoder
from otoscope.explain.firing import draw_clips
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
from otoscope.explain.transcription import DIGITS, SpokenString, Transcriber, join_words
from otoscope.factors.table import FactorTable
from otoscope.runs.context import Context
from otoscope.runs.folder import load_corpus
from otoscope.runs.inputs import Clips, clip_arrays, open_activations
from otoscope.runs.progress import task
from otoscope.runs.training import GridMember
from otoscope.sae.model import load_sae

TRAIN_FRAMES = 20_000
"""Training frames for the mean ablation, principal components and the gain of random atoms."""
WORDS_PER_STRING = 4
MAX_STRINGS = 12


def splice_table(run: Context, member: GridMember) -> pl.DataFrame:
    """Return the scores of the splices of a dictionary; empty for an encoder whose states cannot be replaced."""
    encoder = run.encoder.load()
    store, corpus = open_activations(run.folder, run.config), load_corpus(run.folder)
    corpus = corpus.select(store.clip_ids)
    clips = clip_arrays(corpus, FactorTable.load(run.folder.factors), run.config)
    test = draw_clips(np.asarray(clips.split == "test"), clips.groups.tolist(), run.config.explain.splice_clips)
    if not isinstance(encoder, BatchedEncoder) or not test:
        return pl.DataFrame(schema=SCORES)
    sae = load_sae(run.folder.saes / member.sae_id).sae.to(encoder.runtime.device)
    rows = train_frames(store, member.layer, clips).rows
    replaced_by = substitutes(sae, rows, components=member.k)
    later, train = max(store.layers), np.flatnonzero(clips.split == "train")
    pooled = store.pooled(later, [store.clip_ids[i] for i in train])
    probes = Probes.fit(pooled, {name: classes[train] for name, classes in clips.labels.items()})
    table = {row["clip_id"]: row for row in corpus.clips.iter_rows(named=True)}
    waves = [
        model_window(encoder, load_clip(corpus.root, table[store.clip_ids[i]], rate_hz=encoder.rate_hz)) for i in test
    ]
    with task(run.progress, f"splicing layer {member.layer}", len(test), "clips"):
        scores = later_layer_scores(
            encoder,
            member.layer,
            replaced_by,
            waves,
            groups=clips.groups[test],
            labels={name: classes[test] for name, classes in clips.labels.items()},
            probes=probes,
            later=later,
            mean=pooled.mean(axis=0),
            on_clip=lambda: run.progress.advance(1),
        )
    strings, speakers = digit_strings(corpus, encoder) if isinstance(encoder, WhisperEncoder) else ([], [])
    if strings and isinstance(encoder, WhisperEncoder) and encoder.runtime.context == "exact":
        with task(run.progress, "transcribing digit strings", len(strings), "strings"):
            scores += transcription_scores(
                Transcriber(encoder),
                member.layer,
                replaced_by,
                strings,
                groups=np.array(speakers),
                on_string=lambda: run.progress.advance(1),
            )
    return pl.DataFrame(scores, schema=SCORES)


def lens_table(run: Context, member: GridMember) -> pl.DataFrame:
    """Return the word error rate from each layer of Whisper; empty for other encoders and corpora without digits."""
    encoder = run.encoder.load()
    store, corpus = open_activations(run.folder, run.config), load_corpus(run.folder)
    corpus = corpus.select(store.clip_ids)
    if not isinstance(encoder, WhisperEncoder) or encoder.runtime.context != "exact":
        return pl.DataFrame(schema=LENS)
    strings, speakers = digit_strings(corpus, encoder)
    if not strings:
        return pl.DataFrame(schema=LENS)
    clips = clip_arrays(corpus, FactorTable.load(run.folder.factors), run.config)
    sae = load_sae(run.folder.saes / member.sae_id).sae.to(encoder.runtime.device)
    replaced_by = substitutes(sae, train_frames(store, member.layer, clips).rows, components=member.k)
    passes = lens_passes(len(encoder.layers), member.layer) * len(strings)
    with task(run.progress, "transcribing from each layer", passes, "transcripts"):
        rows = lens_scores(
            Transcriber(encoder),
            member.layer,
            replaced_by,
            strings,
            groups=np.array(speakers),
            on_string=lambda: run.progress.advance(1),
        )
    return pl.DataFrame(rows, schema=LENS)


def digit_strings(corpus: Corpus, encoder: BatchedEncoder) -> tuple[list[SpokenString], list[str]]:
    """Return recordings of single digits of test groups joined to strings, and the group of each string.

    Empty unless the corpus has a label `digit` with the digits, as figures or words. Each string is of one speaker.
    """
    if "digit" not in corpus.labels:
        return [], []
    words = {str(i): word for i, word in enumerate(DIGITS)} | {word: word for word in DIGITS}
    rows = corpus.clips.with_columns(digit=corpus.label("digit")).filter(pl.col("split") == "test")
    if rows.is_empty() or not set(rows["digit"].drop_nulls()) <= set(words):
        return [], []
    rng = np.random.default_rng(0)
    strings: list[SpokenString] = []
    speakers: list[str] = []
    groups = rows["group"].unique().sort().to_list()
    for turn in range(MAX_STRINGS):
        group = groups[turn % len(groups)]
        of_group = rows.filter((pl.col("group") == group) & pl.col("digit").is_not_null()).rows(named=True)
        chosen: list[dict[str, Any]] = [of_group[i] for i in rng.permutation(len(of_group))[:WORDS_PER_STRING].tolist()]
        waves = [load_clip(corpus.root, row, rate_hz=encoder.rate_hz) for row in chosen]
        strings.append(join_words(waves, [words[row["digit"]] for row in chosen], rate_hz=encoder.rate_hz))
        speakers.append(str(group))
    return strings, speakers


class TrainFrames(NamedTuple):
    """Frames of training clips, and the position of the clip of each."""

    rows: Float[np.ndarray, "rows width"]
    clips: Int[np.ndarray, " rows"]


def train_frames(store: ActivationStore, layer: int, clips: Clips) -> TrainFrames:
    """Return up to `TRAIN_FRAMES` frames of training clips, an equal share of each clip."""
    train = np.flatnonzero(clips.split == "train")
    share = max(TRAIN_FRAMES // max(len(train), 1), 1)
    rows: list[NDArray[np.float32]] = []
    for _, frames in store.iter_clips(layer, [store.clip_ids[i] for i in train]):
        chosen = np.linspace(0, len(frames) - 1, min(share, len(frames))).astype(int)
        rows.append(frames[chosen])
    return TrainFrames(np.concatenate(rows), np.repeat(train, [len(part) for part in rows]))


def model_window(encoder: BatchedEncoder, wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a clip, cut to the model's window."""
    return wave if encoder.window_s is None else wave[: int(encoder.window_s * encoder.rate_hz)]
