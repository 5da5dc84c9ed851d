"""Writing of an activation index: codes by clip in parts, then transposed in blocks by latent, and their statistics.

Finished parts and blocks are kept when an interrupted call is repeated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    read_tensors,
    remove_file,
    write_json,
    write_table,
    write_tensors,
)
from otoscope.config import Pooling
from otoscope.errors import DamagedArtifact, EvaluationError
from otoscope.explain.activation_index import (
    CARD,
    CLIPS,
    KINDS,
    QUANTILES,
    STATISTICS,
    ActivationIndex,
    Extent,
    IndexFile,
)
from otoscope.runs.code_version import code_version
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import SelectsLatents, max_active

PART_ENTRIES = 1 << 22
"""Codes per part, rounded up to whole clips: 25 MB on disk."""
BLOCK_ENTRIES = 1 << 24
"""Codes per transposed block, rounded up to whole latents: about 100 MB."""
DENSE_CELLS = 1 << 23
"""Codes that are dense in memory at a time."""

INDEX_CODE = (
    "otoscope.explain.activation_index",
    "otoscope.explain.index_writer",
    "otoscope.sae.model",
    "otoscope.sae.sparsifiers",
)
"""Code that the bytes of an index depend on."""


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
    source = _Source(store, sae, layer, pooling)
    first_rows = np.concatenate([[0], np.cumsum(source.rows_per_clip)])
    clips = {"clip_id": store.clip_ids, "first_row": first_rows[:-1], "rows": source.rows_per_clip}
    write_table(folder / "clips.parquet", pl.DataFrame(clips, schema=CLIPS))
    parts = list(_write_parts(folder, source, inputs, part_entries, on_clip or (lambda: None)))
    counts = np.zeros(sae.latents, dtype=np.int64)
    for part in parts:
        counts += np.bincount(read_tensors(folder / part["file"])["latents"], minlength=sae.latents)
    blocks = list(_write_blocks(folder, parts, counts, first_rows, inputs, block_entries))
    _write_statistics(folder, blocks, first_rows)
    card = {"inputs": inputs, "layer": layer, "pooling": pooling, "latents": sae.latents, "rows": int(first_rows[-1])}
    write_json(folder / CARD, {**card, "entries": int(counts.sum()), "parts": parts, "blocks": blocks})
    return ActivationIndex.open(folder)


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


@dataclass(frozen=True, eq=False)
class _Source:
    """Activations of a layer, and the SAE that encodes their frames or their pooled clips."""

    store: ActivationStore
    sae: SparseAutoencoder
    layer: int
    pooling: Pooling

    @cached_property
    def rows_per_clip(self) -> NDArray[np.int64]:
        """Number of rows of each clip."""
        if self.pooling == "pool_then_encode":
            return np.ones(len(self.store.clip_ids), dtype=np.int64)
        return self.store.clips["frames"].cast(pl.Int64).to_numpy()

    def rows_of(self, clips: Sequence[str]) -> Float[np.ndarray, "rows width"]:
        """Return the rows of clips, in order."""
        if self.pooling == "pool_then_encode":
            return self.store.pooled(self.layer, clips)
        return np.concatenate([self.store.frames_of(self.layer, clip) for clip in clips])


def _write_parts(
    folder: Path, source: _Source, inputs: str, part_entries: int, on_clip: Callable[[], object]
) -> Iterator[IndexFile]:
    """Write the parts that are missing and yield the card of each."""
    first, number = 0, 0
    while first < len(source.store.clip_ids):
        name = f"part-{number:05d}.safetensors"
        part = _finished(folder / name, inputs)
        if part is None:
            part = _write_part(folder / name, source, inputs, part_entries, first, on_clip)
        else:
            for _ in range(part["number"]):
                on_clip()
        yield {"file": name, **part}
        first, number = first + part["number"], number + 1


def _write_part(
    path: Path, source: _Source, inputs: str, part_entries: int, first: int, on_clip: Callable[[], object]
) -> Extent:
    sae = source.sae
    kind = np.uint16 if sae.latents <= 1 << 16 else np.int32
    codes = [_Codes(np.empty(0, np.float32), np.empty(0, kind), np.empty(0, np.int64))]
    entries = 0
    counts, ids = source.rows_per_clip[first:], source.store.clip_ids[first:]
    step = max(min(DENSE_CELLS // sae.latents, part_entries // max_active(sae.sparsifier, sae.latents)), 1)
    clips = 0
    while clips < len(ids) and entries < part_entries:
        number = 1  # whole clips of `step` rows together; a longer clip alone
        while clips + number < len(ids) and counts[clips : clips + number + 1].sum() <= step:
            number += 1
        chosen = ids[clips : clips + number]
        rows = source.rows_of(chosen)
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
    values, latents, per_row = (np.concatenate(arrays) for arrays in zip(*codes, strict=True))
    scale = _scale(values)
    tensors = {
        "values": (values / np.float32(scale)).astype(np.float16),
        "latents": latents,
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
        tensors = read_tensors(folder / part["file"])
        chosen = np.flatnonzero((tensors["latents"] >= low) & (tensors["latents"] < high))
        chosen = chosen[np.argsort(tensors["latents"][chosen], kind="stable")]  # of 16 bits, in linear time
        latent = tensors["latents"][chosen].astype(np.int64) - low
        number = np.bincount(latent, minlength=high - low)
        position = np.repeat(written - np.concatenate([[0], np.cumsum(number)[:-1]]), number) + np.arange(len(latent))
        values[position] = tensors["values"][chosen] * np.float16(part["scale"] / scale)
        row = np.searchsorted(tensors["row_offsets"], chosen, side="right") - 1
        rows[position] = first_rows[part["first"]] + row
        written += number
    return values, rows


def _write_statistics(folder: Path, blocks: Sequence[IndexFile], first_rows: NDArray[np.int64]) -> None:
    columns: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for block in blocks:
        tensors = read_tensors(folder / block["file"])
        values, rows, offsets = (tensors[name] for name in ("values", "rows", "latent_offsets"))
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
        with safe_open(path, framework="np") as file:
            header = parse_json_as((file.metadata() or {}).get("index", "").encode(), _Header, name=str(path))
        whole = header["inputs"] == inputs and (
            _checksum(inputs, header["extent"], read_tensors(path)) == header["checksum"]
        )
        return header["extent"] if whole else None
    except (OSError, SafetensorError, DamagedArtifact):
        return None
