"""Tensors of a store, mapped into memory shard by shard when they are first asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from otoscope.activations.home import Home
from otoscope.activations.layout import tensor_path
from otoscope.activations.tensorfile import Mapped, map_tensor, widened
from otoscope.errors import DamagedArtifact


@dataclass(frozen=True, eq=False)
class Tensors:
    """What the shards of a store hold beside tables; `files` are the described files of each shard."""

    home: Home
    files: Mapping[int, Mapping[str, Any]]
    _maps: dict[str, Mapped] = field(default_factory=dict[str, Mapped], repr=False)

    def hold(self, layer: int, kind: str) -> bool:
        """Whether any shard has a tensor of this kind."""
        return any(tensor_path(layer, kind, shard) in files for shard, files in self.files.items())

    def of(self, layer: int, kind: str, shard: int) -> Mapped:
        """Return a shard's tensor, with the precision that it is stored in."""
        relative = tensor_path(layer, kind, shard)
        if relative not in self._maps:
            described = self.files[shard].get(relative)
            if described is None:
                raise DamagedArtifact(f"the manifest of {self.home.place} does not list {relative}; extract again")
            self._maps[relative] = map_tensor(self.home.fetch(relative, described), kind)
        return self._maps[relative]

    def gather(
        self, layer: int, kind: str, shards: pl.Series, offsets: pl.Series, *, width: int
    ) -> Float[np.ndarray, "rows *axes"]:
        """Return rows of small tensors as float32, each from its shard and offset."""
        shard, offset = shards.to_numpy(), offsets.to_numpy()
        out: np.ndarray | None = None
        for number in np.unique(shard).tolist():
            values, dtype = self.of(layer, kind, number)
            here = np.flatnonzero(shard == number)
            rows = widened(values[offset[here]], dtype)
            out = np.empty((len(shard), *rows.shape[1:]), dtype=np.float32) if out is None else out
            out[here] = rows
        return np.empty((0, width), dtype=np.float32) if out is None else out
