"""Safetensors files with one tensor, written row by row and read through a memory map.

The `safetensors` package writes only tensors that fit in memory and cannot read bfloat16 through NumPy. A store
writes frames window by window and reads single rows, so it implements the format itself: eight bytes with the length
of the header, the header in JSON (padded with spaces), the data.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from otoscope.activations.storage import Storage
from otoscope.errors import DamagedArtifact
from otoscope.hardware import one_thread


class Precision(NamedTuple):
    """Names of a precision: in the header, in torch, and in NumPy."""

    header: str
    rounded_to: torch.dtype
    mapped: type[np.generic]


PRECISIONS: dict[str, Precision] = {
    "float32": Precision("F32", torch.float32, np.float32),
    "float16": Precision("F16", torch.float16, np.float16),
    "bfloat16": Precision("BF16", torch.bfloat16, np.uint16),
}
"""Precisions of a store; NumPy has no bfloat16, so its bits are mapped as uint16."""

_HEADER_BYTES = 512
_NAME_OF_HEADER = {precision.header: name for name, precision in PRECISIONS.items()}


def to_stored(values: Float[Tensor, "*axes"], dtype: str) -> NDArray[Any]:
    """Round to the stored precision (nearest even); bfloat16 is returned as its bits in uint16.

    >>> import torch
    >>> hex(to_stored(torch.tensor([1.0]), "bfloat16")[0])
    '0x3f80'
    """
    stored = values.detach().to(PRECISIONS[dtype].rounded_to).cpu().contiguous()
    return (stored.view(torch.uint16) if dtype == "bfloat16" else stored).numpy()


def to_float32(stored: NDArray[Any], dtype: str) -> Float[np.ndarray, "*axes"]:
    """Return stored values as float32, exactly; the inverse of `to_stored` on what it returned.

    >>> to_float32(np.array([0x3F80], dtype=np.uint16), "bfloat16")
    array([1.], dtype=float32)
    """
    if stored.dtype == np.float16:  # PyTorch is twenty times as fast as NumPy
        with one_thread():  # others would wait for more work in a loop, which takes cores from training
            return torch.from_numpy(np.require(stored, requirements=["C", "W"])).float().numpy()
    if dtype != "bfloat16":
        return stored.astype(np.float32, copy=False)
    bits = stored.astype(np.uint32)
    np.left_shift(bits, 16, out=bits)
    return bits.view(np.float32)


class RowFile:
    """Writer of one tensor `[rows, ...]`; the header is written when the block closes.

    `rewind` removes the newest rows, for a clip that turns out to be unusable half-way.
    """

    def __init__(self, path: Path, *, name: str, axes: tuple[int, ...], dtype: str) -> None:
        self.name = name
        self.axes = axes
        self.dtype = dtype
        self.rows = 0
        self._row_bytes = math.prod(axes) * np.dtype(PRECISIONS[dtype].mapped).itemsize
        self._file: BinaryIO = path.open("wb")

    def __enter__(self) -> "RowFile":
        self._file.write(bytes(_HEADER_BYTES))
        return self

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows in this file's precision."""
        if rows.shape[1:] != self.axes:
            raise ValueError(f"{self.name} takes rows of shape {self.axes}, got {rows.shape[1:]}")
        self._file.write(np.ascontiguousarray(rows).data if rows.size else b"")
        self.rows += rows.shape[0]

    def rewind(self, rows: int) -> None:
        """Truncate to the first `rows` rows."""
        self._file.seek(_HEADER_BYTES + rows * self._row_bytes)
        self._file.truncate()
        self.rows = rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._file.write(self._header())
        finally:
            self._file.close()

    def _header(self) -> bytes:
        entry = {
            "dtype": PRECISIONS[self.dtype].header,
            "shape": [self.rows, *self.axes],
            "data_offsets": [0, self.rows * self._row_bytes],
        }
        text = json.dumps({self.name: entry}, separators=(",", ":")).encode()
        length = _HEADER_BYTES - 8
        return length.to_bytes(8, "little") + text.ljust(length)


class MappedTensor(NamedTuple):
    """A memory-mapped tensor `[rows, ...]` and its stored precision."""

    values: NDArray[Any]
    dtype: str


def map_tensor(path: Path, name: str) -> MappedTensor:
    """Map one tensor of a safetensors file; only the header is read.

    Raises `DamagedArtifact` if the file is missing, cut short, or has no such tensor.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(min(length, size)))[name]
        dtype = _NAME_OF_HEADER[entry["dtype"]]
        shape = tuple(int(n) for n in entry["shape"])
        start, stop = (int(n) for n in entry["data_offsets"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedArtifact(
            f"{path} is not a whole safetensors file with a tensor {name!r} ({error!r}); extract again to restore it"
        ) from error
    kind = np.dtype(PRECISIONS[dtype].mapped)
    is_whole = stop - start == math.prod(shape) * kind.itemsize and size >= 8 + length + stop
    if not is_whole or start < 0 or min(shape, default=0) < 0:
        raise DamagedArtifact(f"{path} is cut short: {size} bytes for {shape} of {dtype}; extract again to restore it")
    if stop == start:
        return MappedTensor(np.empty(shape, dtype=kind), dtype)
    # a plain array: indexing the memmap subclass costs more than copying the rows of a small batch
    return MappedTensor(
        np.asarray(np.memmap(path, dtype=kind, mode="r", offset=8 + length + start, shape=shape)), dtype
    )


@dataclass(frozen=True, eq=False)
class MappedTensors:
    """Tensors of a store, mapped on first use; `files` holds the file records of each shard."""

    storage: Storage
    files: Mapping[int, Mapping[str, Any]]
    _maps: dict[str, MappedTensor] = field(default_factory=dict[str, MappedTensor], repr=False)

    def contains(self, layer: int, kind: str) -> bool:
        """Return whether any shard has a tensor of this kind."""
        return any(tensor_path(layer, kind, shard) in files for shard, files in self.files.items())

    def get(self, layer: int, kind: str, shard: int) -> MappedTensor:
        """Return a shard's tensor and its stored precision."""
        relative = tensor_path(layer, kind, shard)
        if relative not in self._maps:
            record = self.files[shard].get(relative)
            if record is None:
                raise DamagedArtifact(f"the manifest of {self.storage.address} does not list {relative}; extract again")
            self._maps[relative] = map_tensor(self.storage.fetch(relative, record), kind)
        return self._maps[relative]

    def gather(
        self, layer: int, kind: str, shards: pl.Series, offsets: pl.Series, *, width: int
    ) -> Float[np.ndarray, "rows ..."]:
        """Return rows as float32, each from its shard and offset."""

        def tensor(shard: int) -> MappedTensor:
            return self.get(layer, kind, shard)

        where = f"{self.storage.address}: {kind} of layer {layer}"
        return gather_rows(tensor, shards.to_numpy(), offsets.to_numpy(), width=width, where=where)


ROWS_AT_ONCE = 128
"""Rows gathered at once: what is between the map and the result stays in the processor's cache."""


def gather_rows(
    tensor: Callable[[int], MappedTensor],
    shards: Int[np.ndarray, " rows"],
    offsets: Int[np.ndarray, " rows"],
    *,
    width: int,
    where: str,
) -> Float[np.ndarray, "rows ..."]:
    """Return rows as float32, each from its shard and offset; raise `DamagedArtifact` if a shard lacks one."""
    out: np.ndarray | None = None
    order = np.argsort(shards, kind="stable")
    for positions in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(shards) else ():
        shard, found = int(shards[positions[0]]), offsets[positions]
        values, dtype = tensor(shard)
        if values.shape[-1] != width or not 0 <= found.min() <= found.max() < len(values):
            raise DamagedArtifact(
                f"{where} in shard {shard} is {list(values.shape)}, not the rows of width {width} that the tables "
                "point to; extract again"
            )
        out = np.empty((len(shards), *values.shape[1:]), dtype=np.float32) if out is None else out
        for start in range(0, len(positions), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            out[positions[some]] = to_float32(values[found[some]], dtype)
    return np.empty((0, width), dtype=np.float32) if out is None else out


def tensor_path(layer: int, kind: str, shard: int) -> str:
    """Return the path of a shard's tensor; `kind` is frames, pooled, segments or tokens.

    >>> tensor_path(3, "frames", 0)
    'layer_03/frames-00000.safetensors'
    """
    return f"layer_{layer:02d}/{kind}-{shard:05d}.safetensors"


def index_path(shard: int) -> str:
    """Return the path of a shard's frame index."""
    return f"index/{shard:05d}.parquet"
