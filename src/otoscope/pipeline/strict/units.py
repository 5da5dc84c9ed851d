"""Representations of clips: every one a matrix with a row a clip, whatever it was made of."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from otoscope.activations.store import ActivationStore
from otoscope.config import Pooling
from otoscope.metrics.baselines import OF_CODES, Encode, find_fitted
from otoscope.pipeline.clips import Clips
from otoscope.pipeline.codes import FRAMES_AT_ONCE
from otoscope.pipeline.grid import Member

FITTED_ROWS = 8192
"""Training rows that a baseline is fitted on at most, drawn by seed."""

Units = Float[np.ndarray, "clips p"]


def fitted_units(name: str, store: ActivationStore, member: Member, clips: Clips) -> Units:
    """Return the codes of a baseline fitted on the rows that a dictionary was trained on, pooled as its codes are."""
    train = [clip for clip, split in zip(store.clip_ids, clips.split, strict=True) if split == "train"]
    rows = _training_rows(store, member, train)
    encode = find_fitted(name)(rows, latents=member.latents, k=member.k, seed=member.seed)
    return encoded_units(store, encode, member.layer, member.pooling)


def encoded_units(store: ActivationStore, encode: Encode, layer: int, pooling: Pooling) -> Units:
    """Return the codes of all clips: of their mean rows, or of every frame and averaged."""
    if pooling == "pool_then_encode":
        return np.asarray(encode(store.pooled(layer)), dtype=np.float32)
    made = [part for rows, lengths in _whole_clips(store, layer) for part in _means(encode(rows), lengths)]
    return np.stack(made).astype(np.float32)


def made_of_codes(name: str, codes: Callable[[], Units], *, seed: int) -> Units:
    """Return codes that know nothing, made of a dictionary's."""
    return OF_CODES[name](codes(), seed=seed)


def _training_rows(store: ActivationStore, member: Member, train: Sequence[str]) -> Float[np.ndarray, "rows width"]:
    if member.pooling == "pool_then_encode":
        return np.ascontiguousarray(store.pooled(member.layer, train))
    rows = store.rows(member.layer, train)
    number = min(FITTED_ROWS, rows.height)
    drawn = np.random.default_rng(member.seed).choice(rows.height, number, replace=False)
    return rows.take(np.sort(drawn))


def _whole_clips(store: ActivationStore, layer: int) -> Iterator[tuple[Float[np.ndarray, "frames width"], list[int]]]:
    """Yield the frames of whole clips together, so that a batch is worth its while, and each clip's number of them."""
    waiting: list[Float[np.ndarray, "frames width"]] = []
    for _, frames in store.iter_clips(layer):
        waiting.append(frames)
        if sum(map(len, waiting)) >= FRAMES_AT_ONCE:
            yield np.concatenate(waiting), [len(part) for part in waiting]
            waiting = []
    if waiting:
        yield np.concatenate(waiting), [len(part) for part in waiting]


def _means(
    codes: Float[np.ndarray, "frames latents"], lengths: Sequence[int]
) -> Iterator[Float[np.ndarray, " latents"]]:
    start = 0
    for length in lengths:
        yield codes[start : start + length].mean(axis=0)
        start += length
