"""Reading a store: pooled clips, frames of a clip, and rows for training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from otoscope.activations.layout import (
    CARD,
    CLIPS,
    FORMAT,
    MANIFEST,
    SET_ASIDE,
    index_path,
    locate,
    shard_card_path,
    tensor_path,
)
from otoscope.activations.rows import StoredRows
from otoscope.activations.shards import check_files
from otoscope.activations.tensorfile import Mapped, map_tensor, widened
from otoscope.artifacts import read_json, read_table
from otoscope.encoders.base import Frames
from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, UnknownLayer


class ClipFrames(NamedTuple):
    """One clip and its frames `[frames, width]` in one layer."""

    clip_id: str
    frames: Float[np.ndarray, "frames width"]


@dataclass(frozen=True, eq=False)
class ActivationStore:
    """A whole store on disk; tensors are mapped into memory shard by shard, when they are first asked for.

    `clips` is the table of clips in the order of `clip_id`, which is the order of every result.
    """

    folder: Path
    card: dict[str, Any]
    clips: pl.DataFrame
    _maps: dict[str, Mapped] = field(default_factory=dict[str, Mapped], repr=False)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> "ActivationStore":
        """Open a store; with `verify`, check every file's SHA-256 first.

        Raises `IncompleteArtifact` when it was never finished and `DamagedArtifact` naming the file that is not
        as the manifest says.
        """
        folder = Path(folder)
        if not locate(folder, MANIFEST).is_file():
            begun = "was begun but never finished" if locate(folder, CARD).is_file() else "holds no activations"
            raise IncompleteArtifact(f"{folder} {begun}; run the extraction (again), it goes on where it was")
        card = read_json(locate(folder, MANIFEST))
        if not isinstance(card, dict) or card.get("format") != FORMAT or "shards" not in card:
            raise DamagedArtifact(f"{folder / MANIFEST} is no manifest of format {FORMAT}; extract again")
        check_files(folder, card["tables"], verify=verify)
        store = cls(folder, card, read_table(locate(folder, CLIPS)))
        if verify:
            store.verify()
        return store

    def verify(self) -> None:
        """Recompute every checksum; raise `DamagedArtifact` naming the first file that is not as it was written."""
        self._check(verify=True)

    def check_sizes(self) -> None:
        """Look at every file's size, reading none; raise `DamagedArtifact` naming the first that is gone or cut."""
        self._check(verify=False)

    def _check(self, *, verify: bool) -> None:
        check_files(self.folder, self.card["tables"], verify=verify)
        for shard in self.card["shards"]:
            check_files(self.folder, {shard_card_path(shard["shard"]): shard["card"]}, verify=verify)
            check_files(self.folder, shard["files"], verify=verify)

    @property
    def fingerprint(self) -> str:
        """Identity of all that the store is a function of."""
        return self.card["fingerprint"]

    @property
    def layers(self) -> list[int]:
        """Indices of the layers that are stored."""
        return [layer["index"] for layer in self.card["layers"]]

    @property
    def dtype(self) -> str:
        """Stored precision; whatever it is, readers get float32."""
        return self.card["dtype"]

    @property
    def frames(self) -> int:
        """Number of frames a layer, over all clips."""
        return self.card["rows"]

    @property
    def has_frames(self) -> bool:
        """Whether frames are stored, beside or without pooled clips."""
        return self.card["frames"]

    @property
    def has_pooled(self) -> bool:
        """Whether pooled clips are stored, beside or without frames."""
        return self.card["pooled"]

    @cached_property
    def clip_ids(self) -> list[str]:
        """Names of the usable clips, sorted: the order of `pooled` and `rows`."""
        return self.clips["clip_id"].to_list()

    @cached_property
    def set_aside(self) -> pl.DataFrame:
        """Clips that could not be used: `clip_id, path, reason`."""
        return read_table(locate(self.folder, SET_ASIDE))

    @property
    def index(self) -> pl.DataFrame:
        """A row a frame in the order of `rows`: `clip_id, frame, start_s, end_s, [low_hz, high_hz,] shard, offset`."""
        return self.scan_index().collect()

    def scan_index(self) -> pl.LazyFrame:
        """Return the index without reading it, for stores whose index is large."""
        self._require_frames()
        return pl.concat([pl.scan_parquet(locate(self.folder, index_path(i))) for i in range(len(self.card["shards"]))])

    def width(self, layer: int) -> int:
        """Return the width of a layer."""
        for described in self.card["layers"]:
            if described["index"] == layer:
                return described["width"]
        raise UnknownLayer(f"{self.folder} holds no layer {layer}; it holds {', '.join(map(str, self.layers))}")

    def pooled(self, layer: int, clip_ids: Sequence[str] | None = None) -> Float[np.ndarray, "clips width"]:
        """Return the mean over each clip's valid frames, as float32, in the order of `clip_ids`."""
        if not self.has_pooled:
            raise ArtifactError(f"{self.folder} holds frames only; extract with pooled=True")
        return self._gather_clips(layer, "pooled", clip_ids)

    def tokens(self, layer: int, clip_ids: Sequence[str] | None = None) -> Float[np.ndarray, "clips tokens width"]:
        """Return what stands for whole clips (AST's CLS and distillation tokens); averaged where a clip was cut."""
        if not locate(self.folder, tensor_path(layer, "tokens", 0)).is_file():
            raise ArtifactError(f"{self.card['encoder']['name']} has no tokens that stand for a whole clip")
        return self._gather_clips(layer, "tokens", clip_ids)

    def frames_of(self, layer: int, clip_id: str) -> Float[np.ndarray, "frames width"]:
        """Return the valid frames of a clip, as float32."""
        self._require_frames()
        clip = self.clips.row(self._positions([clip_id])[0], named=True)
        values, dtype = self._tensor(layer, "frames", clip["shard"])
        first = clip["first_offset"]
        return widened(np.array(values[first : first + clip["frames"]]), dtype)

    def times_of(self, clip_id: str) -> Frames:
        """Return where each frame of a clip lies, in seconds from the clip's start (and hertz where they are kept)."""
        self._require_frames()
        shard = self.clips["shard"][self._positions([clip_id])[0]]
        found = pl.scan_parquet(locate(self.folder, index_path(shard))).filter(pl.col("clip_id") == clip_id).collect()
        low_hz, high_hz = (found[c].to_numpy() if c in found.columns else None for c in ("low_hz", "high_hz"))
        return Frames(found["start_s"].to_numpy(), found["end_s"].to_numpy(), low_hz, high_hz)

    def iter_clips(self, layer: int, clip_ids: Sequence[str] | None = None) -> Iterator[ClipFrames]:
        """Yield clips one at a time with their frames, in the order of `clip_ids`."""
        for clip_id in self.clip_ids if clip_ids is None else clip_ids:
            yield ClipFrames(clip_id, self.frames_of(layer, clip_id))

    def rows(self, layer: int, clip_ids: Sequence[str] | None = None) -> StoredRows:
        """Return the frames of some clips as rows to gather from; nothing is read yet."""
        self._require_frames()
        width = self.width(layer)
        chosen = self.clips if clip_ids is None else self.clips[self._positions(clip_ids)]
        shard, first, frames = (
            chosen[column].cast(pl.Int64).to_numpy() for column in ("shard", "first_offset", "frames")
        )
        return StoredRows(
            width=width,
            dtype=self.dtype,
            clip_ids=chosen["clip_id"].to_list(),
            shard=shard,
            first=first,
            frames=frames,
            tensor=lambda shard: self._tensor(layer, "frames", shard),
            layer=layer,
        )

    @cached_property
    def _place(self) -> dict[str, int]:
        return {clip_id: place for place, clip_id in enumerate(self.clip_ids)}

    def _positions(self, clip_ids: Sequence[str]) -> list[int]:
        for clip_id in clip_ids:
            if clip_id not in self._place:
                raise ArtifactError(f"{self.folder} holds no clip {clip_id!r}; {self._whereabouts(clip_id)}")
        return [self._place[clip_id] for clip_id in clip_ids]

    def _whereabouts(self, clip_id: str) -> str:
        aside = self.set_aside.filter(pl.col("clip_id") == clip_id)
        if not aside.is_empty():
            return f"it was set aside: {aside['reason'][0]}"
        near = get_close_matches(clip_id, self.clip_ids, n=1)
        return f"did you mean {near[0]}?" if near else f"its {len(self.clip_ids)} clips begin with {self.clip_ids[0]}"

    def _require_frames(self) -> None:
        if not self.has_frames:
            raise ArtifactError(f"{self.folder} holds pooled clips only; extract with frames=True")

    def _gather_clips(self, layer: int, kind: str, clip_ids: Sequence[str] | None) -> Float[np.ndarray, "clips *axes"]:
        self.width(layer)
        if clip_ids is None:
            shards = self.clips["shard"].unique().sort().to_list()
            return np.concatenate([widened(*self._tensor(layer, kind, shard)) for shard in shards])
        chosen = self.clips[self._positions(clip_ids)]
        found = [
            widened(values[offset : offset + 1], dtype)
            for shard, offset in chosen.select("shard", "pooled_offset").iter_rows()
            for values, dtype in [self._tensor(layer, kind, shard)]
        ]
        return np.concatenate(found) if found else np.empty((0, self.width(layer)), dtype=np.float32)

    def _tensor(self, layer: int, kind: str, shard: int) -> Mapped:
        relative = tensor_path(layer, kind, shard)
        if relative not in self._maps:
            self.width(layer)
            described = self.card["shards"][shard]["files"].get(relative)
            if described is None:
                raise DamagedArtifact(f"{self.folder / MANIFEST} does not list {relative}; extract again")
            check_files(self.folder, {relative: described}, verify=False)
            self._maps[relative] = map_tensor(locate(self.folder, relative), kind)
        return self._maps[relative]
