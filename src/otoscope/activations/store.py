"""Reader of activation stores: pooled clips, frames of a clip, segments, and rows for training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int64

from otoscope.activations.format import CARD, CLIPS, SET_ASIDE, segments_path
from otoscope.activations.manifest import (
    SET_ASIDE_TYPES,
    check_file,
    check_files,
    files_of,
    read_clips,
    read_manifest,
    read_repairs,
    read_typed,
)
from otoscope.activations.storage import Storage, open_storage
from otoscope.activations.tensorfile import MappedTensor, MappedTensors, gather_rows, index_path, to_float32
from otoscope.artifacts import fingerprint
from otoscope.encoders.base import Frames
from otoscope.errors import ArtifactError, DamagedArtifact, UnknownLayer
from otoscope.formatting import count
from otoscope.paths import user_path
from otoscope.tables import scan_parquet


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Frames of some clips of one layer as rows, numbered clip after clip and read on request.

    `shard`, `first` and `frames` [clips] locate each clip's frames; `tensor` maps a shard's frames.
    """

    width: int
    dtype: str
    clip_ids: list[str]
    shard: Int64[np.ndarray, " clips"]
    first: Int64[np.ndarray, " clips"]
    frames: Int64[np.ndarray, " clips"]
    tensor: Callable[[int], MappedTensor]
    layer: int

    def __repr__(self) -> str:
        return f"StoredRows({self.height:,} rows of {len(self.clip_ids):,} clips, layer {self.layer}, {self.dtype})"

    @cached_property
    def starts(self) -> Int64[np.ndarray, " clips_and_end"]:
        """First row of each clip, then the number of rows."""
        return np.concatenate([[0], np.cumsum(self.frames)]).astype(np.int64)

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    def clip_of(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return the position in `clip_ids` of each row's clip."""
        return np.searchsorted(self.starts, indices, side="right") - 1

    def neighbours(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return each row's successor in its clip, the predecessor of the last row; -1 in a clip of one frame."""
        clip = self.clip_of(indices)
        last = indices + 1 == self.starts[clip + 1]
        return np.where(self.frames[clip] == 1, -1, np.where(last, indices - 1, indices + 1))

    def describe(self, index: int) -> str:
        """Return frame, clip and layer of a row, for messages."""
        clip = int(self.clip_of(np.array([index]))[0])
        return f'frame {index - self.starts[clip]} of clip "{self.clip_ids[clip]}" at layer {self.layer}'

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return rows as float32, in the given order; raise `ArtifactError` for an index out of range."""
        indices = np.ascontiguousarray(indices, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.height):
            raise ArtifactError(
                f"row indices {indices.min()} to {indices.max()} are out of range; allowed: 0 to {self.height - 1}"
            )
        clip = self.clip_of(indices)
        offsets = self.first[clip] + indices - self.starts[clip]
        return gather_rows(
            self.tensor, self.shard[clip], offsets, width=self.width, where=f"the frames of layer {self.layer}"
        )


class ClipFrames(NamedTuple):
    """Frames `[frames, width]` of one clip in one layer."""

    clip_id: str
    frames: Float[np.ndarray, "frames width"]


@dataclass(frozen=True, eq=False)
class ActivationStore:
    """A complete store; tensors are memory-mapped shard by shard on first use.

    `clips` is the table of clips sorted by `clip_id`, the order of every result; `set_aside` lists the unusable clips
    (`clip_id, path, reason`).
    """

    storage: Storage
    manifest: dict[str, Any]
    clips: pl.DataFrame
    set_aside: pl.DataFrame

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> "ActivationStore":
        """Open a store from its folder, its run's folder or an address; with `verify`, check every SHA-256 first.

        Raises `IncompleteArtifact` if it was never finished, `DamagedArtifact` with the first damaged file.
        """
        storage = open_storage(_store_folder(folder))
        manifest = read_manifest(storage)
        check_files(storage, {table["file"]: table for table in manifest["tables"].values()}, verify=True)
        paths = {name: storage.fetch(table["file"], table) for name, table in manifest["tables"].items()}
        clips, set_aside = read_clips(paths[CLIPS], manifest), read_typed(paths[SET_ASIDE], SET_ASIDE_TYPES)
        store = cls(storage, manifest, clips, set_aside)
        if verify:
            store.verify()
        return store

    def __repr__(self) -> str:
        return f"ActivationStore({self.folder!r}, {', '.join(self._facts().values())})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in self._facts().items())
        return f"<table><caption>ActivationStore {escape(self.folder)}</caption>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        """Return the lines of the representation."""
        kinds = {"frames": self.has_frames, "pooled clips": self.has_pooled, "segments": self.has_segments}
        facts = {"clips": count(len(self.clip_ids), "clip")}
        if not self.set_aside.is_empty():
            facts["set aside"] = f"{self.set_aside.height:,} set aside"
        facts["frames"] = count(self.frames, "frame") if self.has_frames else "no frames"
        facts["layers"] = f"layers {_ranges(self.layers)}" if len(self.layers) > 1 else f"layer {self.layers[0]}"
        facts["dtype"] = self.dtype
        facts["encoder"] = self.manifest["encoder"]["name"]
        facts["stored"] = " + ".join(name for name, stored in kinds.items() if stored)
        return facts

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by path; memory maps are reopened."""
        return ActivationStore.open, (self.folder,)

    @property
    def folder(self) -> str:
        """Folder or address of the store."""
        return self.storage.address

    def verify(self) -> None:
        """Recompute every checksum; raise `DamagedArtifact` for the first damaged file."""
        check_files(self.storage, self.files, verify=True)

    def check_sizes(self) -> None:
        """Check the size of every file; raise `DamagedArtifact` for the first that is missing or cut short."""
        check_files(self.storage, self.files, verify=False)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Size and checksum of every file except the manifest and the card, by path."""
        return files_of(self.manifest)

    @property
    def fingerprint(self) -> str:
        """Identity of the inputs: encoder, settings and clips."""
        return self.manifest["fingerprint"]

    def content_id(self, layer: int | None = None) -> str:
        """Identity of the stored bytes of one layer, or of all layers, from the checksums in the manifest.

        A repair of a damaged file changes it too, so that results computed from the damaged bytes become stale.
        """
        layers = "layer_" if layer is None else f"layer_{layer:02d}/"
        prefixes = (layers, "index/", "segments/", CLIPS)
        files = {name: record["sha256"] for name, record in self.files.items() if name.startswith(prefixes)}
        repairs = {name: times for name, times in read_repairs(self.storage).items() if name in files}
        return fingerprint(files, repairs) if repairs else fingerprint(files)

    @property
    def layers(self) -> list[int]:
        """Indices of the stored layers."""
        return [layer["index"] for layer in self.manifest["layers"]]

    @property
    def dtype(self) -> str:
        """Stored precision; readers always get float32."""
        return self.manifest["dtype"]

    @property
    def frames(self) -> int:
        """Number of frames per layer, over all clips."""
        return self.manifest["rows"]

    @property
    def has_frames(self) -> bool:
        """True if frames are stored."""
        return self.manifest["frames"]

    @property
    def has_pooled(self) -> bool:
        """True if pooled clips are stored."""
        return self.manifest["pooled"]

    @property
    def has_segments(self) -> bool:
        """True if segments are stored."""
        return self.manifest["segments"] is not None

    @cached_property
    def clip_ids(self) -> list[str]:
        """Ids of the usable clips, sorted: the order of `pooled` and `rows`."""
        return self.clips["clip_id"].to_list()

    @property
    def index(self) -> pl.DataFrame:
        """One row per frame in the order of `rows`: `clip_id, frame, start_s, end_s, shard, offset`.

        Encoders with frequency bands add `low_hz, high_hz`.
        """
        return self.scan_index().sort("clip_id", "frame", maintain_order=True).collect()

    def scan_index(self) -> pl.LazyFrame:
        """Return the index as a lazy frame, for stores with a large index."""
        self._require_frames()
        return self._scan(index_path)

    @cached_property
    def segments(self) -> pl.DataFrame:
        """One row per segment: `clip_id, segment, start_s, end_s, frames, shard, offset`, sorted by clip and segment.

        `segment` counts a clip's windows or table rows; a segment that contains no frame centre has no row.
        """
        if not self.has_segments:
            raise ArtifactError(f"{self.folder} holds no segments; extract with segment_s or a table of segments")
        return self._scan(segments_path).sort("clip_id", "segment").collect()

    def pooled_segments(self, layer: int, clip_ids: Sequence[str] | None = None) -> Float[np.ndarray, "segments width"]:
        """Return the mean over each segment's frames, as float32, in the order of `segments`.

        With `clip_ids`, only rows of these clips are returned, still in the order of `segments`.
        """
        chosen = self.segments
        if clip_ids is not None:
            self._positions(clip_ids)
            chosen = chosen.filter(pl.col("clip_id").is_in(list(clip_ids)))
        return self._gather(layer, "segments", chosen["shard"], chosen["offset"])

    def _scan(self, path_of: Callable[[int], str]) -> pl.LazyFrame:
        """Scan a table over all shards, without the rows of clips that are stored but no longer listed."""
        return pl.concat([self._scan_shard(path_of, shard) for shard in self.manifest["shards"] if shard["listed"]])

    def _scan_shard(self, path_of: Callable[[int], str], shard: dict[str, Any]) -> pl.LazyFrame:
        relative = path_of(shard["shard"])
        record = shard["files"].get(relative)
        if record is None:
            raise DamagedArtifact(f"the manifest of {self.folder} does not list {relative}; extract again")
        if relative not in self._verified:  # Polars may read other numbers from a damaged table
            check_file(self.storage, relative, record, verify=True)
            self._verified.add(relative)
        rows = scan_parquet(self.storage.fetch(relative, record))
        if shard["listed"] == shard["clips"]:
            return rows
        listed = self.clips.filter(pl.col("shard") == shard["shard"])["clip_id"]
        return rows.filter(pl.col("clip_id").is_in(listed.to_list()))

    def width(self, layer: int) -> int:
        """Return the width of a layer."""
        for stored in self.manifest["layers"]:
            if stored["index"] == layer:
                return stored["width"]
        raise UnknownLayer(f"{self.folder} holds no layer {layer}; it holds {', '.join(map(str, self.layers))}")

    def pooled(self, layer: int, clip_ids: Sequence[str] | None = None) -> Float[np.ndarray, "clips width"]:
        """Return the mean over each clip's valid frames, as float32, in the order of `clip_ids`."""
        if not self.has_pooled:
            raise ArtifactError(f"{self.folder} holds frames only; extract with pooled=True")
        chosen = self._chosen(clip_ids)
        return self._gather(layer, "pooled", chosen["shard"], chosen["pooled_offset"])

    def tokens(self, layer: int, clip_ids: Sequence[str] | None = None) -> Float[np.ndarray, "clips tokens width"]:
        """Return whole-clip tokens (AST's CLS and distillation tokens), averaged over the windows of a long clip."""
        self.width(layer)
        if not self._tensors.contains(layer, "tokens"):
            raise ArtifactError(f"{self.manifest['encoder']['name']} has no whole-clip tokens")
        chosen = self._chosen(clip_ids)
        return self._gather(layer, "tokens", chosen["shard"], chosen["pooled_offset"])

    def frames_of(self, layer: int, clip_id: str) -> Float[np.ndarray, "frames width"]:
        """Return the valid frames of a clip, as float32."""
        self._require_frames()
        clip = self.clips.row(self._positions([clip_id])[0], named=True)
        self.width(layer)
        values, dtype = self._tensors.get(layer, "frames", clip["shard"])
        first = clip["first_offset"]
        return to_float32(np.array(values[first : first + clip["frames"]]), dtype)

    def times_of(self, clip_id: str) -> Frames:
        """Return the times of a clip's frames in seconds from its start (and frequencies, if stored)."""
        self._require_frames()
        shard = self._shards[self.clips["shard"][self._positions([clip_id])[0]]]
        rows = self._scan_shard(index_path, shard).filter(pl.col("clip_id") == clip_id).collect()
        low_hz, high_hz = (rows[c].to_numpy() if c in rows.columns else None for c in ("low_hz", "high_hz"))
        return Frames(rows["start_s"].to_numpy(), rows["end_s"].to_numpy(), low_hz, high_hz)

    def iter_clips(self, layer: int, clip_ids: Sequence[str] | None = None) -> Iterator[ClipFrames]:
        """Yield clips one at a time with their frames, in the order of `clip_ids`."""
        for clip_id in self.clip_ids if clip_ids is None else clip_ids:
            yield ClipFrames(clip_id, self.frames_of(layer, clip_id))

    def rows(self, layer: int, clip_ids: Sequence[str] | None = None) -> StoredRows:
        """Return the frames of some clips as rows for training; nothing is read yet."""
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
            tensor=lambda shard: self._tensors.get(layer, "frames", shard),
            layer=layer,
        )

    @cached_property
    def _verified(self) -> set[str]:
        """Tables of shards whose checksum is right."""
        return set()

    @cached_property
    def _shards(self) -> dict[int, dict[str, Any]]:
        return {shard["shard"]: shard for shard in self.manifest["shards"]}

    @cached_property
    def _tensors(self) -> MappedTensors:
        return MappedTensors(self.storage, {number: shard["files"] for number, shard in self._shards.items()})

    @cached_property
    def _position(self) -> dict[str, int]:
        return {clip_id: position for position, clip_id in enumerate(self.clip_ids)}

    def _positions(self, clip_ids: Sequence[str]) -> list[int]:
        for clip_id in clip_ids:
            if clip_id not in self._position:
                raise ArtifactError(f"{self.folder} holds no clip {clip_id!r}; {self._missing_reason(clip_id)}")
        return [self._position[clip_id] for clip_id in clip_ids]

    def _missing_reason(self, clip_id: str) -> str:
        set_aside = self.set_aside.filter(pl.col("clip_id") == clip_id)
        if not set_aside.is_empty():
            return f"it was set aside: {set_aside['reason'][0]}"
        near = get_close_matches(clip_id, self.clip_ids, n=1)
        return f"did you mean {near[0]}?" if near else f"its {len(self.clip_ids)} clips begin with {self.clip_ids[0]}"

    def _require_frames(self) -> None:
        if not self.has_frames:
            raise ArtifactError(f"{self.folder} holds pooled clips only; extract with frames=True")

    def _chosen(self, clip_ids: Sequence[str] | None) -> pl.DataFrame:
        return self.clips if clip_ids is None else self.clips[self._positions(clip_ids)]

    def _gather(self, layer: int, kind: str, shards: pl.Series, offsets: pl.Series) -> Float[np.ndarray, "rows ..."]:
        return self._tensors.gather(layer, kind, shards, offsets, width=self.width(layer))


def _store_folder(folder: str | Path) -> str | Path:
    """Return the store in a run folder; any other address as it is."""
    if isinstance(folder, str) and "://" in folder:
        return folder
    folder = user_path(folder)
    inside = folder / "activations"
    return inside if inside.is_dir() and not (folder / CARD).is_file() else folder


def _ranges(numbers: Sequence[int]) -> str:
    """Format sorted integers as ranges.

    >>> _ranges([0, 1, 2, 5])
    '0-2, 5'
    """
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
