"""Writer of one shard: clip by clip under temporary names, with the card last."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from otoscope.activations.format import publish_table, segments_path, shard_card_path, write_card
from otoscope.activations.segments import SegmentPooler, Segments
from otoscope.activations.storage import Storage
from otoscope.activations.tensorfile import RowFile, index_path, tensor_path, to_stored
from otoscope.activations.windows import EncodedWindow
from otoscope.encoders.base import Frames
from otoscope.hardware import column_sums


class SetAsideClip(NamedTuple):
    """A clip that cannot be used, with the reason; `key` identifies its sound."""

    clip_id: str
    path: str
    reason: str
    key: str


class _StoredClip(NamedTuple):
    """A finished clip: offset and times of its frames, and its pooled rows per layer."""

    clip_id: str
    path: str
    sound_s: float
    first_offset: int
    times: list[Frames]
    pooled: Mapping[int, Float[Tensor, " width"]]
    tokens: Mapping[int, Float[Tensor, "tokens width"]]

    @property
    def frames(self) -> int:
        return sum(len(times.end_s) for times in self.times)


class ShardWriter:
    """Writes the windows of clips, in order, to a complete shard or none.

    Frames are written as they arrive, so memory does not grow with the shard. The card is written last: a shard
    without a card is incomplete.
    """

    def __init__(
        self,
        storage: Storage,
        shard: int,
        *,
        spec: Mapping[str, Any],
        key: str,
        clip_keys: Mapping[str, str],
        segments: Segments | None = None,
    ) -> None:
        self._storage = storage
        self._shard = shard
        self._widths: dict[int, int] = {layer["index"]: layer["width"] for layer in spec["layers"]}
        self._dtype: str = spec["dtype"]
        self._stores_pooled: bool = spec["pooled"]
        self._stores_frames: bool = spec["frames"]
        self._identity = {"shard": shard, "spec_id": spec["spec_id"], "key": key}
        self._clip_keys = clip_keys
        self._segments = None if segments is None else SegmentPooler(segments)
        self._stack = ExitStack()
        self._files: dict[int, RowFile] = {}
        self._segment_files: dict[int, RowFile] = {}
        self._written: list[str] = []
        self._clips: list[_StoredClip] = []
        self._set_aside: list[SetAsideClip] = []
        self._rows = 0
        self._committed = False
        self._clear()

    def __enter__(self) -> "ShardWriter":
        self._storage.remove(shard_card_path(self._shard))
        with ExitStack() as opened:  # closes them again if one cannot be opened
            opened.push(self._stack)
            for layer, width in self._widths.items():
                if self._stores_frames:
                    self._files[layer] = self._open(tensor_path(layer, "frames", self._shard), "frames", (width,))
                if self._segments is not None:
                    name = tensor_path(layer, "segments", self._shard)
                    self._segment_files[layer] = self._open(name, "segments", (width,))
            opened.pop_all()
        return self

    def add(self, clip_id: str, window: EncodedWindow) -> str | None:
        """Append a window to the current clip; return the reason if the clip cannot be stored."""
        totals = {layer: column_sums(states) for layer, states in window.layers.items()}
        if reason := self._rejection(window, totals):
            return reason
        if self._segments is not None:
            self._append_segments(self._segments.add(clip_id, window.frames, window.layers))
        count = len(window.frames.end_s)
        for layer, states in window.layers.items():
            if self._stores_frames:
                self._files[layer].append(to_stored(states, self._dtype))
            self._sums[layer] = self._sums.get(layer, 0.0) + totals[layer]
        for layer, tokens in window.tokens.items():
            self._token_sums[layer] = self._token_sums.get(layer, 0.0) + tokens.cpu().double() * count
        self._times.append(window.frames)
        return None

    def finish_clip(self, clip_id: str, path: str, *, sound_s: float) -> None:
        """Finish the current clip: its pooled row is the mean over all its frames."""
        if self._segments is not None:
            self._append_segments(self._segments.finish(clip_id, sound_s=sound_s))
        count = sum(len(times.end_s) for times in self._times)
        pooled = {layer: (total / count).float() for layer, total in self._sums.items()}
        tokens = {layer: (total / count).float() for layer, total in self._token_sums.items()}
        self._clips.append(_StoredClip(clip_id, path, sound_s, self._rows, self._times, pooled, tokens))
        self._rows += count
        self._clear()

    def set_aside(self, clip_id: str, path: str, reason: str) -> None:
        """Discard the current clip, or one without any window, and record the reason."""
        for file in self._files.values():
            file.rewind(self._rows)
        if self._segments is not None:
            rows = self._segments.drop()
            for file in self._segment_files.values():
                file.rewind(rows)
        self._clear()
        self._set_aside.append(SetAsideClip(clip_id, path, reason, self._clip_keys[clip_id]))

    def commit(self) -> None:
        """Write tables and pooled tensors, publish every file, then write the card."""
        with self._stack:
            self._clips.sort(key=lambda clip: clip.clip_id)
            if self._stores_frames:
                self._write_table(index_path(self._shard), index_table(self._clips, self._shard))
            if self._stores_pooled:
                self._write_tensor("pooled", [clip.pooled for clip in self._clips])
            if self._segments is not None:
                self._write_table(segments_path(self._shard), self._segments.table(self._shard))
            if any(clip.tokens for clip in self._clips):
                self._write_tensor("tokens", [clip.tokens for clip in self._clips])
        self._write_card()
        self._committed = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
        elif not self._committed:
            self.commit()

    def _clear(self) -> None:
        self._times: list[Frames] = []
        self._sums: dict[int, Any] = {}
        self._token_sums: dict[int, Any] = {}

    def _open(self, relative: str, name: str, axes: tuple[int, ...]) -> RowFile:
        temporary = self._stack.enter_context(self._storage.publish(relative))
        self._written.append(relative)
        return self._stack.enter_context(RowFile(temporary, name=name, axes=axes, dtype=self._dtype))

    def _rejection(self, window: EncodedWindow, totals: Mapping[int, Float[Tensor, " width"]]) -> str | None:
        # a float64 sum is finite if and only if all float32 terms are; checking each term costs more than the rest
        for layer, values in [*totals.items(), *window.tokens.items()]:
            if not torch.isfinite(values).all():
                return f"the encoder gave NaN or infinity in layer {layer}"
        for layer, states in [*window.layers.items(), *window.tokens.items()]:
            if self._dtype == "float16" and states.numel() and float(states.abs().max()) > 65504.0:
                return f"layer {layer} exceeds what float16 can hold (65504); store as bfloat16 or float32"
        return None

    def _write_tensor(self, name: str, clips: Sequence[Mapping[int, Tensor]]) -> None:
        for layer, width in self._widths.items():
            axes = tuple(clips[0][layer].shape) if clips else (width,)
            file = self._open(tensor_path(layer, name, self._shard), name, axes)
            for clip in clips:
                file.append(to_stored(clip[layer][None], self._dtype))

    def _append_segments(self, rows: Mapping[int, Float[Tensor, "segments width"]]) -> None:
        for layer, values in rows.items():
            self._segment_files[layer].append(to_stored(values, self._dtype))

    def _write_table(self, relative: str, table: pl.DataFrame) -> None:
        publish_table(self._storage, relative, table)
        self._written.append(relative)

    def _write_card(self) -> None:
        clips = [
            [c.clip_id, c.path, c.first_offset, c.frames, c.sound_s, self._clip_keys[c.clip_id]] for c in self._clips
        ]
        card = {
            **self._identity,
            "frames": self._rows,
            "segments": 0 if self._segments is None else self._segments.rows,
            "clips": clips,
            "set_aside": sorted(self._set_aside),
            "files": {name: self._storage.file_record(name) for name in sorted(self._written)},
        }
        write_card(self._storage, shard_card_path(self._shard), card)


def index_table(clips: Sequence[_StoredClip], shard: int) -> pl.DataFrame:
    """Return one row per frame, clip after clip; `low_hz` and `high_hz` only if the encoder gives them."""
    times = [part for clip in clips for part in clip.times]
    counts = [clip.frames for clip in clips]
    columns: dict[str, pl.Series] = {
        "clip_id": pl.Series([clip.clip_id for clip in clips], dtype=pl.String).gather(
            np.repeat(np.arange(len(clips)), counts)
        ),
        "frame": pl.Series(_concatenate([np.arange(n) for n in counts]), dtype=pl.Int32),
        "start_s": pl.Series(_concatenate([part.start_s for part in times]), dtype=pl.Float64),
        "end_s": pl.Series(_concatenate([part.end_s for part in times]), dtype=pl.Float64),
    }
    if times and all(part.low_hz is not None and part.high_hz is not None for part in times):
        columns["low_hz"] = pl.Series(_concatenate([part.low_hz for part in times if part.low_hz is not None]))
        columns["high_hz"] = pl.Series(_concatenate([part.high_hz for part in times if part.high_hz is not None]))
    columns["shard"] = pl.Series(np.full(sum(counts), shard), dtype=pl.Int32)
    columns["offset"] = pl.Series(
        _concatenate([clip.first_offset + np.arange(clip.frames) for clip in clips]), dtype=pl.Int64
    )
    return pl.DataFrame(columns)


def _concatenate(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0)
