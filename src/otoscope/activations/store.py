"""Reading a store: pooled clips, frames of a clip, and rows for training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from otoscope.activations.damage import mended
from otoscope.activations.format import CLIPS, SET_ASIDE, segments_path
from otoscope.activations.integrity import check_files
from otoscope.activations.manifest import files_of, read_manifest
from otoscope.activations.rows import StoredRows
from otoscope.activations.storage.base import Storage, open_storage
from otoscope.activations.tensorfile import Tensors, index_path, to_float32
from otoscope.artifacts import fingerprint, read_table
from otoscope.encoders.base import Frames
from otoscope.errors import ArtifactError, UnknownLayer


class ClipFrames(NamedTuple):
    """One clip and its frames `[frames, width]` in one layer."""

    clip_id: str
    frames: Float[np.ndarray, "frames width"]


@dataclass(frozen=True, eq=False)
class ActivationStore:
    """A whole store; tensors are mapped into memory shard by shard, when they are first asked for.

    `clips` is the table of clips in the order of `clip_id`, which is the order of every result; `set_aside` lists what
    could not be used: `clip_id, path, reason`.
    """

    storage: Storage
    manifest: dict[str, Any]
    clips: pl.DataFrame
    set_aside: pl.DataFrame
    _mended: dict[str, int] = field(default_factory=dict[str, int], repr=False)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> "ActivationStore":
        """Open a store in a folder or at an address; with `verify`, check every file's SHA-256 first.

        Raises `IncompleteArtifact` when it was never finished and `DamagedArtifact` naming the file that is not
        as the manifest says.
        """
        home = open_storage(folder)
        card = read_manifest(home)
        tables = {table["file"]: table for table in card["tables"].values()}
        check_files(home, tables, verify=verify)
        paths = {name: home.fetch(table["file"], table) for name, table in card["tables"].items()}
        store = cls(home, card, read_table(paths[CLIPS]), read_table(paths[SET_ASIDE]), mended(home))
        if verify:
            store.verify()
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        """Be opened again in another process; what is mapped stays behind."""
        return ActivationStore.open, (self.folder,)

    @property
    def folder(self) -> str:
        """Where the store lies."""
        return self.storage.address

    def verify(self) -> None:
        """Recompute every checksum; raise `DamagedArtifact` naming the first file that is not as it was written."""
        check_files(self.storage, self.files, verify=True)

    def check_sizes(self) -> None:
        """Look at every file's size, reading none; raise `DamagedArtifact` naming the first that is gone or cut."""
        check_files(self.storage, self.files, verify=False)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Every file of the store but its manifest and card, with its size and checksum."""
        return files_of(self.manifest)

    @property
    def fingerprint(self) -> str:
        """Identity of all that the store is a function of."""
        return self.manifest["fingerprint"]

    def content_id(self, layer: int | None = None) -> str:
        """Identity of what readers of one layer, or of all, are given.

        It is `fingerprint` until a file that a verification found damaged is whole again: what was computed from the
        damaged bytes is stale, though the store is a function of the same things as before.
        """
        other = () if layer is None else tuple(f"layer_{n:02d}/" for n in self.layers if n != layer)
        again = {name: times for name, times in self._mended.items() if not name.startswith(other)}
        return fingerprint(self.fingerprint, again) if again else self.fingerprint

    @property
    def layers(self) -> list[int]:
        """Indices of the layers that are stored."""
        return [layer["index"] for layer in self.manifest["layers"]]

    @property
    def dtype(self) -> str:
        """Stored precision; whatever it is, readers get float32."""
        return self.manifest["dtype"]

    @property
    def frames(self) -> int:
        """Number of frames a layer, over all clips."""
        return self.manifest["rows"]

    @property
    def has_frames(self) -> bool:
        """Whether frames are stored, beside or without pooled clips."""
        return self.manifest["frames"]

    @property
    def has_pooled(self) -> bool:
        """Whether pooled clips are stored, beside or without frames."""
        return self.manifest["pooled"]

    @property
    def has_segments(self) -> bool:
        """Whether segments are stored."""
        return self.manifest["segments"] is not None

    @cached_property
    def clip_ids(self) -> list[str]:
        """Names of the usable clips, sorted: the order of `pooled` and `rows`."""
        return self.clips["clip_id"].to_list()

    @property
    def index(self) -> pl.DataFrame:
        """A row a frame in the order of `rows`: `clip_id, frame, start_s, end_s, [low_hz, high_hz,] shard, offset`."""
        return self.scan_index().sort("clip_id", "frame", maintain_order=True).collect()

    def scan_index(self) -> pl.LazyFrame:
        """Return the index without reading it, shard after shard, for stores whose index is large."""
        self._require_frames()
        return self._scan(index_path)

    @cached_property
    def segments(self) -> pl.DataFrame:
        """A row a segment: `clip_id, segment, start_s, end_s, frames, shard, offset`, sorted by clip and segment.

        `segment` counts the windows or the table's rows of a clip; one in which no frame's centre lies has no row.
        """
        if not self.has_segments:
            raise ArtifactError(f"{self.folder} holds no segments; extract with segment_s or a table of segments")
        return self._scan(segments_path).sort("clip_id", "segment").collect()

    def pooled_segments(self, layer: int, clip_ids: Sequence[str] | None = None) -> Float[np.ndarray, "segments width"]:
        """Return the mean over each segment's frames, as float32, in the order of `segments`; of some clips only.

        With `clip_ids` the rows are those of `segments` that belong to these clips, still in its order.
        """
        chosen = self.segments
        if clip_ids is not None:
            self._positions(clip_ids)
            chosen = chosen.filter(pl.col("clip_id").is_in(list(clip_ids)))
        return self._gather(layer, "segments", chosen["shard"], chosen["offset"])

    def _scan(self, path_of: Callable[[int], str]) -> pl.LazyFrame:
        """Scan a table of every shard, without the rows of clips that are stored but no longer listed."""
        return pl.concat([self._scan_shard(path_of, shard) for shard in self.manifest["shards"] if shard["listed"]])

    def _scan_shard(self, path_of: Callable[[int], str], shard: dict[str, Any]) -> pl.LazyFrame:
        relative = path_of(shard["shard"])
        rows = pl.scan_parquet(self.storage.fetch(relative, shard["files"][relative]))
        if shard["listed"] == shard["clips"]:
            return rows
        listed = self.clips.filter(pl.col("shard") == shard["shard"])["clip_id"]
        return rows.filter(pl.col("clip_id").is_in(listed.to_list()))

    def width(self, layer: int) -> int:
        """Return the width of a layer."""
        for described in self.manifest["layers"]:
            if described["index"] == layer:
                return described["width"]
        raise UnknownLayer(f"{self.folder} holds no layer {layer}; it holds {', '.join(map(str, self.layers))}")

    def pooled(self, layer: int, clip_ids: Sequence[str] | None = None) -> Float[np.ndarray, "clips width"]:
        """Return the mean over each clip's valid frames, as float32, in the order of `clip_ids`."""
        if not self.has_pooled:
            raise ArtifactError(f"{self.folder} holds frames only; extract with pooled=True")
        chosen = self._chosen(clip_ids)
        return self._gather(layer, "pooled", chosen["shard"], chosen["pooled_offset"])

    def tokens(self, layer: int, clip_ids: Sequence[str] | None = None) -> Float[np.ndarray, "clips tokens width"]:
        """Return what stands for whole clips (AST's CLS and distillation tokens); averaged where a clip was cut."""
        self.width(layer)
        if not self._tensors.hold(layer, "tokens"):
            raise ArtifactError(f"{self.manifest['encoder']['name']} has no tokens that stand for a whole clip")
        chosen = self._chosen(clip_ids)
        return self._gather(layer, "tokens", chosen["shard"], chosen["pooled_offset"])

    def frames_of(self, layer: int, clip_id: str) -> Float[np.ndarray, "frames width"]:
        """Return the valid frames of a clip, as float32."""
        self._require_frames()
        clip = self.clips.row(self._positions([clip_id])[0], named=True)
        self.width(layer)
        values, dtype = self._tensors.of(layer, "frames", clip["shard"])
        first = clip["first_offset"]
        return to_float32(np.array(values[first : first + clip["frames"]]), dtype)

    def times_of(self, clip_id: str) -> Frames:
        """Return where each frame of a clip lies, in seconds from the clip's start (and hertz where they are kept)."""
        self._require_frames()
        shard = self._shards[self.clips["shard"][self._positions([clip_id])[0]]]
        found = self._scan_shard(index_path, shard).filter(pl.col("clip_id") == clip_id).collect()
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
        chosen = self._chosen(clip_ids)
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
            tensor=lambda shard: self._tensors.of(layer, "frames", shard),
            layer=layer,
        )

    @cached_property
    def _shards(self) -> dict[int, dict[str, Any]]:
        return {shard["shard"]: shard for shard in self.manifest["shards"]}

    @cached_property
    def _tensors(self) -> Tensors:
        return Tensors(self.storage, {number: shard["files"] for number, shard in self._shards.items()})

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

    def _chosen(self, clip_ids: Sequence[str] | None) -> pl.DataFrame:
        return self.clips if clip_ids is None else self.clips[self._positions(clip_ids)]

    def _gather(self, layer: int, kind: str, shards: pl.Series, offsets: pl.Series) -> Float[np.ndarray, "rows *axes"]:
        return self._tensors.gather(layer, kind, shards, offsets, width=self.width(layer))
