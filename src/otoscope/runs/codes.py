"""SAE codes of whole clips: frames encoded then pooled, or pooled rows encoded."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from otoscope.activations.store import ActivationStore
from otoscope.config import Pooling
from otoscope.metrics.reconstruction import ReconstructionMeter
from otoscope.runs.inputs import Clips
from otoscope.runs.training import GridMember
from otoscope.sae.model import SparseAutoencoder

FRAMES_PER_BATCH = 8192


class EncodedRows(NamedTuple):
    """Batch of rows with reconstruction, codes and the clip index of each row."""

    rows: Float[np.ndarray, "rows width"]
    rebuilt: Float[np.ndarray, "rows width"]
    codes: Float[np.ndarray, "rows latents"]
    clip: Int[np.ndarray, " rows"]


def encode_frames(
    store: ActivationStore, sae: SparseAutoencoder, layer: int, clip_ids: Sequence[str]
) -> Iterator[EncodedRows]:
    """Encode the frames of clips in batches of whole clips; `clip` is the index into `clip_ids`."""
    buffered: list[Float[np.ndarray, "frames width"]] = []
    first = 0
    for position, (_, frames) in enumerate(store.iter_clips(layer, clip_ids)):
        buffered.append(frames)
        if sum(map(len, buffered)) >= FRAMES_PER_BATCH or position + 1 == len(clip_ids):
            clip = np.repeat(np.arange(first, position + 1), [len(part) for part in buffered])
            yield encode_rows(sae, np.concatenate(buffered), clip)
            buffered, first = [], position + 1


def encode_rows(
    sae: SparseAutoencoder, rows: Float[np.ndarray, "rows width"], clip: Int[np.ndarray, " rows"]
) -> EncodedRows:
    """Return codes and reconstruction of rows."""
    with torch.inference_mode():
        output = sae(torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)))
    return EncodedRows(rows, output.reconstruction.numpy(), output.codes.numpy(), clip)


def _clip_means(batch: EncodedRows) -> Float[np.ndarray, "clips latents"]:
    """Return the mean code of each clip of a batch of whole clips."""
    starts = np.flatnonzero(np.diff(batch.clip, prepend=-1))
    # a loop, because `reduceat` along the first axis is ten times slower
    return np.stack([batch.codes[start:stop].mean(axis=0) for start, stop in pairwise([*starts, len(batch.clip)])])


def mean_codes(
    store: ActivationStore,
    sae: SparseAutoencoder,
    member: GridMember,
    clip_ids: Sequence[str],
    *,
    meters: dict[str, ReconstructionMeter] | None = None,
    clips: Clips | None = None,
) -> Float[np.ndarray, "clips latents"]:
    """Return the mean code of each clip; update the reconstruction meters, one per split, if given."""
    if member.pooling == "pool_then_encode":
        batches = [encode_rows(sae, store.pooled(member.layer, clip_ids), np.arange(len(clip_ids)))]
    else:
        batches = encode_frames(store, sae, member.layer, clip_ids)
    pooled: list[Float[np.ndarray, "clips latents"]] = []
    for batch in batches:
        pooled.append(_clip_means(batch))
        for split, meter in (meters or {}).items():
            if clips is not None and (chosen := clips.split[batch.clip] == split).any():
                groups = clips.groups[batch.clip[chosen]]
                meter.update(batch.rows[chosen], batch.rebuilt[chosen], batch.codes[chosen], groups)
    return np.concatenate(pooled)


def stack_folds(parts: Sequence[Float[np.ndarray, "clips _p"]]) -> Float[np.ndarray, "folds clips p"]:
    """Return the representations of folds as one array; columns that a fold lacks are 0.

    >>> stack_folds([np.ones((2, 1)), np.ones((2, 2))])[0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    width = max(part.shape[1] for part in parts)
    return np.stack([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])


def as_of_folds(
    units: Float[np.ndarray, "*folds clips p"], folds: int, *, own: bool
) -> Float[np.ndarray, "*folds clips p"]:
    """Return a representation once for each fold where folds have dictionaries or layers of their own, else as it is.

    Weights of such a cross-fit are those of the first fold. A mean over folds has more weights that are not 0, so that
    activations would seem less compact than codes.
    """
    return np.broadcast_to(units, (folds, *units.shape)) if own and units.ndim == 2 else units


def train_mean(store: ActivationStore, layer: int, pooling: Pooling, clips: Clips) -> Float[np.ndarray, " width"]:
    """Return the mean of the training rows, the baseline of explained variance."""
    train = [clip for clip, split in zip(store.clip_ids, clips.split, strict=True) if split == "train"]
    if pooling == "pool_then_encode":
        return store.pooled(layer, train).mean(axis=0, dtype=np.float64)
    total, frames = np.zeros(store.width(layer)), 0
    for _, rows in store.iter_clips(layer, train):
        total += rows.sum(axis=0, dtype=np.float64)
        frames += len(rows)
    return total / frames
