"""Sparse index of all codes of a dictionary: by clip, and transposed by latent.

A folder with

- `clips.parquet`: one row per clip, `clip_id, first_row, rows`; a row is a frame, or the clip itself if the dictionary
  encodes pooled clips
- `part-00000.safetensors`, ...: the codes of consecutive clips in CSR form, `values` (float16), `latents` and
  `row_offsets`
- `block-00000.safetensors`, ...: the same codes by latent, `values`, `rows` and `latent_offsets`
- `latents.parquet`: one row per latent, see `STATISTICS`
- `card.json`: written last

A code is `value * scale`; `scale` is a power of two per file, so that no code overflows or underflows float16.
"""

import re
from collections.abc import Iterator, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from otoscope.artifacts import read_json_as, read_table, remove_file, resolve_inside
from otoscope.config import Pooling
from otoscope.errors import ArtifactError, DamagedArtifact, EvaluationError, IncompleteArtifact

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Quantiles of the activations of a latent over the rows in which it fires."""

STATISTICS = ("latent", "rows", "rate", "clips", "mean", "maximum", *(f"q{100 * q:.0f}" for q in QUANTILES))
"""Per latent: rows and share of rows in which it fires, clips, then mean, maximum and quantiles of its activations."""

KINDS = {name: pl.Int64() if name in ("latent", "rows", "clips") else pl.Float64() for name in STATISTICS}
"""Columns of `latents.parquet` and their types."""

CLIPS = {"clip_id": pl.String(), "first_row": pl.Int64(), "rows": pl.Int64()}
"""Columns of `clips.parquet` and their types."""

CARD = "card.json"


class Firing(NamedTuple):
    """Rows in which a latent fires, in order, with the index of their clip and the activation."""

    rows: Int[np.ndarray, " firing"]
    clips: Int[np.ndarray, " firing"]
    activations: Float[np.ndarray, " firing"]


class ClipRange(NamedTuple):
    """Codes of consecutive clips in CSR form; the entries of row i are `row_offsets[i]:row_offsets[i + 1]`."""

    first_clip: int
    latents: Int[np.ndarray, " entries"]
    activations: Float[np.ndarray, " entries"]
    row_offsets: Int[np.ndarray, " rows_and_end"]


class Extent(TypedDict):
    """Clips of a part or latents of a block: the first, their number, and the scale of the codes."""

    first: int
    number: int
    scale: float


class IndexFile(Extent):
    """A part or a block, and its file."""

    file: str


class IndexCard(TypedDict):
    """Card of an index: fingerprint of its inputs, its size, and its files."""

    inputs: str
    layer: int
    pooling: Pooling
    latents: int
    rows: int
    entries: int
    parts: list[IndexFile]
    blocks: list[IndexFile]


@dataclass(frozen=True, eq=False)
class ActivationIndex:
    """Codes of a dictionary over all clips of a store; files are memory-mapped and read slice by slice."""

    folder: Path
    card: IndexCard
    clips: pl.DataFrame
    statistics: pl.DataFrame

    @classmethod
    def open(cls, folder: str | Path) -> "ActivationIndex":
        """Open a finished index; raise `IncompleteArtifact` if it was never finished, `DamagedArtifact` if damaged."""
        folder = Path(folder)
        if not (folder / CARD).is_file():
            raise IncompleteArtifact(f"{folder} holds no finished index; run `otoscope explain` to write it")
        card = read_json_as(folder / CARD, IndexCard)
        clips, statistics = read_table(folder / "clips.parquet"), read_table(folder / "latents.parquet")
        if clips.schema != CLIPS or statistics.schema != KINDS or statistics.height != card["latents"]:
            raise DamagedArtifact(f"a table of {folder} has other columns or rows; delete it, run `otoscope explain`")
        return cls(folder, card, clips, statistics)

    @property
    def files(self) -> list[Path]:
        """Files of the index, its card last."""
        parts = [part["file"] for part in (*self.card["parts"], *self.card["blocks"])]
        names = ("clips.parquet", "latents.parquet", *parts, CARD)
        return [resolve_inside(self.folder, name) for name in names]

    def __repr__(self) -> str:
        return f"ActivationIndex({str(self.folder)!r}, {self.clips.height:,} clips, {self.latents:,} latents)"

    def require_clips(self, given: Sized, noun: str) -> None:
        """Raise `EvaluationError` unless as many are given as there are clips."""
        if len(given) != self.clips.height:
            raise EvaluationError(f"got {len(given):,} {noun} for {self.clips.height:,} clips; give one per clip")

    @property
    def latents(self) -> int:
        """Number of latents of the dictionary."""
        return int(self.card["latents"])

    @property
    def rows(self) -> int:
        """Number of rows over all clips."""
        return int(self.card["rows"])

    @property
    def has_frames(self) -> bool:
        """True if a row is a frame, False if it is a whole clip."""
        return self.card["pooling"] == "encode_then_pool"

    @cached_property
    def clip_ids(self) -> list[str]:
        """Ids of the clips, in order."""
        return self.clips["clip_id"].to_list()

    @cached_property
    def first_rows(self) -> Int[np.ndarray, " clips_and_end"]:
        """First row of each clip, and the number of rows."""
        return np.append(self.clips["first_row"].to_numpy(), self.rows)

    def firing(self, latent: int) -> Firing:
        """Return all rows in which a latent fires; raise `EvaluationError` if there is no such latent."""
        if not 0 <= latent < self.latents:
            raise EvaluationError(f"latent {latent} does not exist; the index has latents 0 to {self.latents - 1}")
        block = _holding(self.card["blocks"], latent)
        with self._mapped(block["file"]) as file:
            at = latent - block["first"]
            start, stop = (int(n) for n in file.get_slice("latent_offsets")[at : at + 2])
            values, rows = (_slice(file, name, start, stop) for name in ("values", "rows"))
        return Firing(rows, self.clip_of(rows), values.astype(np.float32) * np.float32(block["scale"]))

    def clip_of(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Return the index of the clip of each row."""
        return np.searchsorted(self.first_rows, rows, side="right") - 1

    def codes_of(self, clip_id: str) -> Float[np.ndarray, "rows latents"]:
        """Return the codes of a clip as a dense array; raise `EvaluationError` for an unknown clip."""
        if clip_id not in self._position:
            raise EvaluationError(f"the index holds no clip {clip_id!r}; its first is {self.clip_ids[0]!r}")
        position = self._position[clip_id]
        part = _holding(self.card["parts"], position)
        first = int(self.first_rows[position] - self.first_rows[part["first"]])
        rows = int(self.first_rows[position + 1] - self.first_rows[position])
        with self._mapped(part["file"]) as file:
            offsets = file.get_slice("row_offsets")[first : first + rows + 1]
            values, latents = (_slice(file, name, offsets[0], offsets[-1]) for name in ("values", "latents"))
        dense = np.zeros((rows, self.latents), dtype=np.float32)
        dense[np.repeat(np.arange(rows), np.diff(offsets)), latents] = values.astype(np.float32) * part["scale"]
        return dense

    def clip_means(self) -> Float[np.ndarray, "clips latents"]:
        """Return the mean code over the rows of each clip, the pooled codes of the dictionary."""
        means = np.zeros((self.clips.height, self.latents), dtype=np.float32)
        for part in self.parts():
            rows = self.first_rows[part.first_clip] + np.arange(len(part.row_offsets) - 1)
            clip = self.clip_of(rows) - part.first_clip
            cells = np.repeat(clip, np.diff(part.row_offsets)) * self.latents + part.latents
            clips = int(clip.max(initial=-1)) + 1
            total = np.bincount(cells, part.activations, minlength=clips * self.latents)
            chosen = slice(part.first_clip, part.first_clip + clips)
            frames = np.maximum(np.diff(self.first_rows)[chosen], 1)
            means[chosen] = total.reshape(clips, self.latents) / frames[:, None]  # a clip lies in one part
        return means

    def parts(self) -> Iterator[ClipRange]:
        """Yield the codes of consecutive clips, in the order of the clips."""
        for part in self.card["parts"]:
            with self._mapped(part["file"]) as file:
                values, latents, offsets = (file.get_tensor(name) for name in ("values", "latents", "row_offsets"))
            yield ClipRange(part["first"], latents, values.astype(np.float32) * np.float32(part["scale"]), offsets)

    def _mapped(self, name: str) -> Any:
        path = resolve_inside(self.folder, name)
        try:
            return safe_open(path, framework="np")
        except (OSError, SafetensorError) as error:
            raise DamagedArtifact(f"{path} is not a complete safetensors file ({error}); delete its folder") from error

    @cached_property
    def _position(self) -> dict[str, int]:
        return {clip_id: position for position, clip_id in enumerate(self.clip_ids)}


_INDEX_FILE = re.compile(r"(part|block)-\d{5}\.safetensors|(clips|latents)\.parquet|card\.json")


def remove_index(folder: Path) -> None:
    """Remove the files of a finished index, and its folder if no other files are in it."""
    try:
        read_json_as(folder / CARD, IndexCard)
    except ArtifactError:  # no index
        return
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CARD):  # the card last
        if _INDEX_FILE.fullmatch(path.name):
            remove_file(path)
    with suppress(OSError):
        folder.rmdir()


def _slice(file: Any, name: str, start: int, stop: int) -> NDArray[Any]:
    tensor = file.get_slice(name)
    if stop > start:
        return tensor[int(start) : int(stop)]
    # the package refuses an empty slice at the end of a tensor
    return tensor[:0] if tensor.get_shape()[0] else file.get_tensor(name)


def _holding(files: Sequence[IndexFile], position: int) -> IndexFile:
    """Return the part that holds a clip, or the block that holds a latent."""
    return next(file for file in files if file["first"] <= position < file["first"] + file["number"])
