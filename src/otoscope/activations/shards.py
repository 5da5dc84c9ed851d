"""One shard: written clip by clip under temporary names, and known by its card."""

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

from otoscope.activations.format import segments_path, shard_card_path
from otoscope.activations.segments import SegmentPool, Segments
from otoscope.activations.storage.base import Storage, write_card
from otoscope.activations.tensorfile import RowFile, index_path, tensor_path, to_stored
from otoscope.activations.windows import EncodedWindow
from otoscope.artifacts import write_table
from otoscope.encoders.base import Frames


class Unusable(NamedTuple):
    """A clip that is set aside, and why; `key` identifies its sound."""

    clip_id: str
    path: str
    reason: str
    key: str


class _Clip(NamedTuple):
    """A clip that is whole: where its frames lie in the shard, their times, and its pooled rows a layer."""

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
    """Takes pieces of clips, in order, and leaves a whole shard or none.

    Frames go to disk as they come, so memory does not grow with the shard. The card is written last: a shard without
    one does not count.
    """

    def __init__(
        self,
        home: Storage,
        shard: int,
        *,
        recipe: Mapping[str, Any],
        key: str,
        clip_keys: Mapping[str, str],
        segments: Segments | None = None,
    ) -> None:
        self._home = home
        self._shard = shard
        self._widths: dict[int, int] = {layer["index"]: layer["width"] for layer in recipe["layers"]}
        self._dtype: str = recipe["dtype"]
        self._keeps_pooled: bool = recipe["pooled"]
        self._keeps_frames: bool = recipe["frames"]
        self._identity = {"shard": shard, "recipe": recipe["recipe"], "key": key}
        self._clip_keys = clip_keys
        self._segments = None if segments is None else SegmentPool(segments)
        self._stack = ExitStack()
        self._files: dict[int, RowFile] = {}
        self._segment_files: dict[int, RowFile] = {}
        self._written: list[str] = []
        self._clips: list[_Clip] = []
        self._aside: list[Unusable] = []
        self._rows = 0
        self._committed = False
        self._clear()

    def __enter__(self) -> "ShardWriter":
        self._home.remove(shard_card_path(self._shard))
        for layer, width in self._widths.items():
            if self._keeps_frames:
                self._files[layer] = self._open(tensor_path(layer, "frames", self._shard), "frames", (width,))
            if self._segments is not None:
                name = tensor_path(layer, "segments", self._shard)
                self._segment_files[layer] = self._open(name, "segments", (width,))
        return self

    def add(self, clip_id: str, piece: EncodedWindow) -> str | None:
        """Append a piece to the clip under way; return why the clip cannot be stored, if it cannot."""
        totals = {layer: states.double().sum(0) for layer, states in piece.layers.items()}
        if reason := self._reason_against(piece, totals):
            return reason
        if self._segments is not None:
            self._append_segments(self._segments.add(clip_id, piece.frames, piece.layers))
        count = len(piece.frames.end_s)
        for layer, states in piece.layers.items():
            if self._keeps_frames:
                self._files[layer].append(to_stored(states, self._dtype))
            self._sums[layer] = self._sums.get(layer, 0.0) + totals[layer]
        for layer, tokens in piece.tokens.items():
            self._token_sums[layer] = self._token_sums.get(layer, 0.0) + tokens.double() * count
        self._times.append(piece.frames)
        return None

    def finish_clip(self, clip_id: str, path: str, *, sound_s: float) -> None:
        """Close the clip under way: its pooled row is the mean over all its frames."""
        if self._segments is not None:
            self._append_segments(self._segments.finish(clip_id, sound_s=sound_s))
        count = sum(len(times.end_s) for times in self._times)
        pooled = {layer: (total / count).float() for layer, total in self._sums.items()}
        tokens = {layer: (total / count).float() for layer, total in self._token_sums.items()}
        self._clips.append(_Clip(clip_id, path, sound_s, self._rows, self._times, pooled, tokens))
        self._rows += count
        self._clear()

    def set_aside(self, clip_id: str, path: str, reason: str) -> None:
        """Drop the clip under way, or one that never got that far, and note why."""
        for file in self._files.values():
            file.rewind(self._rows)
        if self._segments is not None:
            rows = self._segments.drop()
            for file in self._segment_files.values():
                file.rewind(rows)
        self._clear()
        self._aside.append(Unusable(clip_id, path, reason, self._clip_keys[clip_id]))

    def commit(self) -> None:
        """Write what belongs beside the frames, give every file its name, and the card at the end."""
        with self._stack:
            self._clips.sort(key=lambda clip: clip.clip_id)
            if self._keeps_frames:
                self._write_table(index_path(self._shard), index_table(self._clips, self._shard))
            if self._keeps_pooled:
                self._write_whole("pooled", [clip.pooled for clip in self._clips])
            if self._segments is not None:
                self._write_table(segments_path(self._shard), self._segments.table(self._shard))
            if any(clip.tokens for clip in self._clips):
                self._write_whole("tokens", [clip.tokens for clip in self._clips])
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
        temporary = self._stack.enter_context(self._home.publish(relative))
        self._written.append(relative)
        return self._stack.enter_context(RowFile(temporary, name=name, axes=axes, dtype=self._dtype))

    def _reason_against(self, piece: EncodedWindow, totals: Mapping[int, Float[Tensor, " width"]]) -> str | None:
        # a sum in double of finite float32 is finite, of others never; to look at each cost more than all else here
        for layer, values in [*totals.items(), *piece.tokens.items()]:
            if not torch.isfinite(values).all():
                return f"the encoder gave NaN or infinity in layer {layer}"
        for layer, states in [*piece.layers.items(), *piece.tokens.items()]:
            if self._dtype == "float16" and states.numel() and float(states.abs().max()) > 65504.0:
                return f"layer {layer} exceeds what float16 can hold (65504); store as bfloat16 or float32"
        return None

    def _write_whole(self, name: str, clips: Sequence[Mapping[int, Tensor]]) -> None:
        for layer, width in self._widths.items():
            axes = tuple(clips[0][layer].shape) if clips else (width,)
            file = self._open(tensor_path(layer, name, self._shard), name, axes)
            for clip in clips:
                file.append(to_stored(clip[layer][None], self._dtype))

    def _append_segments(self, rows: Mapping[int, Float[Tensor, "segments width"]]) -> None:
        for layer, values in rows.items():
            self._segment_files[layer].append(to_stored(values, self._dtype))

    def _write_table(self, relative: str, table: pl.DataFrame) -> None:
        with self._home.publish(relative) as temporary:
            write_table(temporary, table)
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
            "set_aside": sorted(self._aside),
            "files": {name: self._home.file_record(name) for name in sorted(self._written)},
        }
        write_card(self._home, shard_card_path(self._shard), card)


def index_table(clips: Sequence[_Clip], shard: int) -> pl.DataFrame:
    """Return a row a frame, clip after clip; `low_hz` and `high_hz` only where the encoder gives them."""
    times = [part for clip in clips for part in clip.times]
    counts = [clip.frames for clip in clips]
    columns: dict[str, pl.Series] = {
        "clip_id": pl.Series([clip.clip_id for clip in clips], dtype=pl.String).gather(
            np.repeat(np.arange(len(clips)), counts)
        ),
        "frame": pl.Series(_joined([np.arange(n) for n in counts]), dtype=pl.Int32),
        "start_s": pl.Series(_joined([part.start_s for part in times]), dtype=pl.Float64),
        "end_s": pl.Series(_joined([part.end_s for part in times]), dtype=pl.Float64),
    }
    if times and all(part.low_hz is not None and part.high_hz is not None for part in times):
        columns["low_hz"] = pl.Series(_joined([part.low_hz for part in times if part.low_hz is not None]))
        columns["high_hz"] = pl.Series(_joined([part.high_hz for part in times if part.high_hz is not None]))
    columns["shard"] = pl.Series(np.full(sum(counts), shard), dtype=pl.Int32)
    columns["offset"] = pl.Series(
        _joined([clip.first_offset + np.arange(clip.frames) for clip in clips]), dtype=pl.Int64
    )
    return pl.DataFrame(columns)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0)
