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
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import (
    canonical_json,
    fingerprint,
    make_folder,
    parse_json_as,
    read_json_as,
    read_table,
    read_tensors,
    remove_file,
    resolve_inside,
    write_json,
    write_table,
    write_tensors,
)
from otoscope.config import Pooling
from otoscope.errors import ArtifactError, DamagedArtifact, EvaluationError, IncompleteArtifact
from otoscope.runs.code_version import code_version
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import SelectsLatents, max_active

PART_ENTRIES = 1 << 22
"""Codes per part, rounded up to whole clips: 25 MB on disk."""
BLOCK_ENTRIES = 1 << 24
"""Codes per transposed block, rounded up to whole latents: about 100 MB."""
DENSE_CELLS = 1 << 23
"""Codes that are dense in memory at a time."""

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Quantiles of the activations of a latent over the rows in which it fires."""

STATISTICS = ("latent", "rows", "rate", "clips", "mean", "maximum", *(f"q{100 * q:.0f}" for q in QUANTILES))
"""Per latent: rows and share of rows in which it fires, clips, then mean, maximum and quantiles of its activations."""

KINDS = {name: pl.Int64() if name in ("latent", "rows", "clips") else pl.Float64() for name in STATISTICS}
"""Columns of `latents.parquet` and their types."""

CLIPS = {"clip_id": pl.String(), "first_row": pl.Int64(), "rows": pl.Int64()}
"""Columns of `clips.parquet` and their types."""

CARD = "card.json"

INDEX_CODE = ("otoscope.explain.activation_index", "otoscope.sae.model", "otoscope.sae.sparsifiers")
"""Code that the bytes of an index depend on."""


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
            values, latents, offsets = _read_part(self.folder, part)
            yield ClipRange(part["first"], latents, values.astype(np.float32) * np.float32(part["scale"]), offsets)

    def _mapped(self, name: str) -> Any:
        return _mapped(resolve_inside(self.folder, name))

    @cached_property
    def _position(self) -> dict[str, int]:
        return {clip_id: position for position, clip_id in enumerate(self.clip_ids)}


def write_activation_index(
    folder: str | Path,
    store: ActivationStore,
    sae: SparseAutoencoder,
    layer: int,
    *,
    pooling: Pooling = "encode_then_pool",
    part_entries: int = PART_ENTRIES,
    block_entries: int = BLOCK_ENTRIES,
    on_clip: Callable[[], object] | None = None,
) -> ActivationIndex:
    """Encode every clip of a store once and write its codes by clip and by latent.

    Consecutive clips are encoded together. Finished parts and blocks of an interrupted call are kept; the files of a
    resumed call have the same bytes. Memory is bounded by one part, one block and `DENSE_CELLS` codes. `on_clip` is
    called after each clip. Raises `EvaluationError` for an SAE of another width, layer or pooling, and if a code is
    not finite.
    """
    folder = Path(folder)
    for name, given in (("layer", layer), ("pooling", pooling)):
        if (trained := sae.card.get(name, given)) != given:
            raise EvaluationError(
                f"this SAE was trained with {name} {trained}, not with {given}; give {name} {trained}"
            )
    if store.width(layer) != sae.width:
        raise EvaluationError(
            f"this SAE takes rows of width {sae.width}, layer {layer} of {store.folder} has width "
            f"{store.width(layer)}; give the SAE that was trained on this layer"
        )
    make_folder(folder)
    inputs = index_inputs(store, sae, layer, pooling=pooling, part_entries=part_entries, block_entries=block_entries)
    remove_file(folder / CARD)
    rows_of = _rows_per_clip(store, pooling)
    first_rows = np.concatenate([[0], np.cumsum(rows_of)])
    clips = pl.DataFrame({"clip_id": store.clip_ids, "first_row": first_rows[:-1], "rows": rows_of}, schema=CLIPS)
    write_table(folder / "clips.parquet", clips)
    parts = list(_write_parts(folder, store, sae, layer, pooling, inputs, part_entries, on_clip or _ignore))
    counts = np.zeros(sae.latents, dtype=np.int64)
    for part in parts:
        counts += np.bincount(_read_part(folder, part)[1], minlength=sae.latents)
    blocks = list(_write_blocks(folder, parts, counts, first_rows, inputs, block_entries))
    _write_statistics(folder, blocks, first_rows)
    card = {"inputs": inputs, "layer": layer, "pooling": pooling, "latents": sae.latents, "rows": int(first_rows[-1])}
    write_json(folder / CARD, {**card, "entries": int(counts.sum()), "parts": parts, "blocks": blocks})
    return ActivationIndex.open(folder)


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


def index_inputs(
    store: ActivationStore,
    sae: SparseAutoencoder,
    layer: int,
    *,
    pooling: Pooling = "encode_then_pool",
    part_entries: int = PART_ENTRIES,
    block_entries: int = BLOCK_ENTRIES,
) -> str:
    """Return the fingerprint of the activations, the weights and the settings of an index."""
    settings = [pooling, part_entries, block_entries]
    weights = {name: sha256(value.cpu().numpy().tobytes()).hexdigest() for name, value in sae.state_dict().items()}
    return fingerprint(store.content_id(layer), layer, sae.settings(), weights, settings, code_version(*INDEX_CODE))


def _ignore() -> None:
    """Ignore progress."""


def _rows_per_clip(store: ActivationStore, pooling: Pooling) -> NDArray[np.int64]:
    if pooling == "pool_then_encode":
        return np.ones(len(store.clip_ids), dtype=np.int64)
    return store.clips["frames"].cast(pl.Int64).to_numpy()


def _write_parts(
    folder: Path,
    store: ActivationStore,
    sae: SparseAutoencoder,
    layer: int,
    pooling: Pooling,
    inputs: str,
    part_entries: int,
    on_clip: Callable[[], object],
) -> Iterator[IndexFile]:
    """Write the parts that are missing and yield the card of each."""
    first, number = 0, 0
    while first < len(store.clip_ids):
        name = f"part-{number:05d}.safetensors"
        part = _finished(folder / name, inputs)
        if part is None:
            part = _write_part(folder / name, store, sae, layer, pooling, inputs, part_entries, first, on_clip)
        else:
            for _ in range(part["number"]):
                on_clip()
        yield {"file": name, **part}
        first, number = first + part["number"], number + 1


def _write_part(
    path: Path,
    store: ActivationStore,
    sae: SparseAutoencoder,
    layer: int,
    pooling: Pooling,
    inputs: str,
    part_entries: int,
    first: int,
    on_clip: Callable[[], object],
) -> Extent:
    kind = np.uint16 if sae.latents <= 1 << 16 else np.int32
    codes: list[_Codes] = []
    entries = 0
    counts = _rows_per_clip(store, pooling)[first:]
    ids = store.clip_ids[first:]
    step = max(min(DENSE_CELLS // sae.latents, part_entries // max_active(sae.sparsifier, sae.latents)), 1)
    clips = 0
    while clips < len(ids) and entries < part_entries:
        number = 1  # whole clips of `step` rows together; a longer clip alone
        while clips + number < len(ids) and counts[clips : clips + number + 1].sum() <= step:
            number += 1
        chosen = ids[clips : clips + number]
        if pooling == "encode_then_pool":
            rows = np.concatenate([store.frames_of(layer, clip) for clip in chosen])
        else:
            rows = store.pooled(layer, chosen)
        for start in range(0, len(rows), step):
            found = _encoded(sae, rows[start : start + step], kind)
            if not np.isfinite(found.values).all():
                raise EvaluationError(
                    f"the SAE gives codes that are not finite, of {chosen[0]} to {chosen[-1]}; train it again"
                )
            codes.append(found)
            entries += len(found.values)
        clips += number
        for _ in chosen:
            on_clip()
    flat = np.concatenate([*(one.values for one in codes), np.empty(0, np.float32)])
    scale = _scale(flat)
    per_row = np.concatenate([*(one.per_row for one in codes), np.empty(0, np.int64)])
    tensors = {
        "values": (flat / np.float32(scale)).astype(np.float16),
        "latents": np.concatenate([*(one.latents for one in codes), np.empty(0, kind)]),
        "row_offsets": np.concatenate([[0], np.cumsum(per_row)]).astype(np.int64),
    }
    extent: Extent = {"first": first, "number": clips, "scale": scale}
    write_tensors(path, tensors, _metadata(inputs, extent, tensors))
    return extent


class _Codes(NamedTuple):
    """Non-zero codes of some rows, by row and then by latent, and their number in each row."""

    values: Float[np.ndarray, " entries"]
    latents: Int[np.ndarray, " entries"]
    per_row: Int[np.ndarray, " rows"]


def _encoded(sae: SparseAutoencoder, rows: Float[np.ndarray, "rows width"], kind: type[np.integer[Any]]) -> _Codes:
    """Return the codes of rows. A sparsifier that selects latents needs no dense codes."""
    with torch.inference_mode():
        given = torch.from_numpy(np.ascontiguousarray(rows))
        if isinstance(sae.sparsifier, SelectsLatents):
            active = sae.encode_active(given)
            latents, order = active.indices.sort(dim=-1)
            values = active.values.gather(-1, order).cpu().numpy()
            here = values != 0
            return _Codes(values[here], latents.cpu().numpy()[here].astype(kind), here.sum(axis=1))
        codes = sae.encode(given).cpu().numpy()
    place = np.flatnonzero(codes != 0)  # several times as fast as np.nonzero of the codes
    row, latent = np.divmod(place, sae.latents)
    return _Codes(codes.reshape(-1)[place], latent.astype(kind), np.bincount(row, minlength=len(codes)))


def _scale(values: Float[np.ndarray, " entries"]) -> float:
    """Return the power of two that brings the largest value into 2^14..2^15, far from both ends of float16."""
    largest = float(np.abs(values).max(initial=0.0))
    return 2.0 ** float(np.frexp(largest)[1] - 15) if largest else 1.0


def _write_blocks(
    folder: Path,
    parts: Sequence[IndexFile],
    counts: NDArray[np.int64],
    first_rows: NDArray[np.int64],
    inputs: str,
    block_entries: int,
) -> Iterator[IndexFile]:
    """Write the transposed blocks that are missing and yield the card of each."""
    scale = max((part["scale"] for part in parts), default=1.0)
    for number, (low, high) in enumerate(_latent_ranges(counts, block_entries)):
        name = f"block-{number:05d}.safetensors"
        block = _finished(folder / name, inputs)
        if block is None:
            offsets = np.concatenate([[0], np.cumsum(counts[low:high])])
            values, rows = _transpose(folder, parts, offsets, first_rows, low, high, scale)
            block = Extent(first=low, number=high - low, scale=scale)
            tensors = {"values": values, "rows": rows, "latent_offsets": offsets}
            write_tensors(folder / name, tensors, _metadata(inputs, block, tensors))
        yield {"file": name, **block}


def _latent_ranges(counts: NDArray[np.int64], block_entries: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of latents with at least `block_entries` codes each, except the last."""
    start, entries = 0, 0
    for latent, number in enumerate(counts.tolist(), start=1):
        entries += number
        if entries >= block_entries or latent == len(counts):
            yield start, latent
            start, entries = latent, 0


def _transpose(
    folder: Path,
    parts: Sequence[IndexFile],
    offsets: NDArray[np.int64],
    first_rows: NDArray[np.int64],
    low: int,
    high: int,
    scale: float,
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Gather the codes of latents `low..high` from all parts, by latent and then by row."""
    values = np.empty(int(offsets[-1]), dtype=np.float16)
    rows = np.empty(int(offsets[-1]), dtype=np.int64)
    written = offsets[:-1].copy()
    for part in parts:
        part_values, part_latents, row_offsets = _read_part(folder, part)
        chosen = np.flatnonzero((part_latents >= low) & (part_latents < high))
        order = np.argsort(part_latents[chosen], kind="stable")  # of 16 bits, in linear time
        chosen = chosen[order]
        latent = part_latents[chosen].astype(np.int64) - low
        number = np.bincount(latent, minlength=high - low)
        position = np.repeat(written - np.concatenate([[0], np.cumsum(number)[:-1]]), number) + np.arange(len(latent))
        values[position] = part_values[chosen] * np.float16(part["scale"] / scale)
        row = np.searchsorted(row_offsets, chosen, side="right") - 1
        rows[position] = first_rows[part["first"]] + row
        written += number
    return values, rows


def _write_statistics(folder: Path, blocks: Sequence[IndexFile], first_rows: NDArray[np.int64]) -> None:
    columns: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for block in blocks:
        with _mapped(folder / block["file"]) as file:
            values, rows, offsets = (file.get_tensor(name) for name in ("values", "rows", "latent_offsets"))
        clip = np.searchsorted(first_rows, rows, side="right").astype(np.int32)
        begins = np.ones(len(rows) + 1, dtype=bool)  # rows of a latent are in order: a clip begins where it changes
        begins[1:-1] = clip[1:] != clip[:-1]
        begins[offsets] = True
        counted = np.cumsum(begins, dtype=np.int32)
        clips = np.diff(np.append(0, counted[:-1])[offsets])
        for at, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            active = np.sort(values[start:stop].astype(np.float64) * block["scale"])
            size = float(active.mean()) if active.size else float("nan")
            rate = active.size / max(int(first_rows[-1]), 1)
            row = [block["first"] + at, active.size, rate, int(clips[at]), size, active.max(initial=0.0)]
            for name, value in zip(STATISTICS, [*row, *_sorted_quantiles(active)], strict=True):
                columns[name].append(value)
    write_table(folder / "latents.parquet", pl.DataFrame(columns, schema=KINDS))


def _sorted_quantiles(values: Float[np.ndarray, " entries"]) -> list[float]:
    """Return `QUANTILES` of sorted values by linear interpolation; NaN without any.

    >>> _sorted_quantiles(np.arange(11.0))
    [1.0, 3.0, 5.0, 7.0, 9.0]
    """
    if not len(values):
        return [float("nan")] * len(QUANTILES)
    found: list[float] = []
    for quantile in QUANTILES:
        place = quantile * (len(values) - 1)
        below = int(place)
        low, high = float(values[below]), float(values[min(below + 1, len(values) - 1)])
        found.append(low + (place - below) * (high - low))
    return found


def _read_part(folder: Path, part: IndexFile) -> tuple[NDArray[np.float16], NDArray[Any], NDArray[np.int64]]:
    """Return values, latents and row offsets of a part."""
    with _mapped(resolve_inside(folder, part["file"])) as file:
        return file.get_tensor("values"), file.get_tensor("latents"), file.get_tensor("row_offsets")


def _mapped(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except (OSError, SafetensorError) as error:
        raise DamagedArtifact(f"{path} is not a complete safetensors file ({error}); delete its folder") from error


def _slice(file: Any, name: str, start: int, stop: int) -> NDArray[Any]:
    tensor = file.get_slice(name)
    if stop > start:
        return tensor[int(start) : int(stop)]
    # the package refuses an empty slice at the end of a tensor
    return tensor[:0] if tensor.get_shape()[0] else file.get_tensor(name)


def _holding(files: Sequence[IndexFile], position: int) -> IndexFile:
    """Return the part that holds a clip, or the block that holds a latent."""
    return next(file for file in files if file["first"] <= position < file["first"] + file["number"])


class _Header(TypedDict):
    inputs: str
    extent: Extent
    checksum: str


def _metadata(inputs: str, extent: Extent, tensors: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    header = {"inputs": inputs, "extent": extent, "checksum": _checksum(inputs, extent, tensors)}
    return {"index": canonical_json(header)}  # one entry: safetensors writes several in random order


def _checksum(inputs: str, extent: Extent, tensors: Mapping[str, NDArray[Any]]) -> str:
    hashed = {name: sha256(np.ascontiguousarray(array).data).hexdigest() for name, array in tensors.items()}
    return fingerprint(inputs, extent, hashed)


def _finished(path: Path, inputs: str) -> Extent | None:
    """Return the extent of a file that an earlier call completed from the same inputs; None if there is none."""
    if not path.is_file():
        return None
    try:
        with _mapped(path) as file:
            header = parse_json_as((file.metadata() or {}).get("index", "").encode(), _Header, name=str(path))
        whole = header["inputs"] == inputs and (
            _checksum(inputs, header["extent"], read_tensors(path)) == header["checksum"]
        )
        return header["extent"] if whole else None
    except DamagedArtifact:
        return None
