"""The grid of dictionaries that a configuration asks for."""

from dataclasses import dataclass
from itertools import product
from typing import Any

from otoscope.config import Pooling, RunConfig
from otoscope.errors import UnknownLayer
from otoscope.sae.sparsifiers.base import k_from_sparsity


@dataclass(frozen=True)
class Member:
    """One dictionary of the grid."""

    layer: int
    pooling: Pooling
    preset: str
    latents: int
    sparsity: float
    seed: int
    untrained: bool = False
    """Whether it is a dictionary of the encoder with fresh weights."""

    @property
    def k(self) -> int:
        """Latents that may be active in a row."""
        return k_from_sparsity(self.latents, self.sparsity)

    @property
    def sae_id(self) -> str:
        """Name of the dictionary, and of its folder."""
        order = {"encode_then_pool": "frames", "pool_then_encode": "pooled"}[self.pooling]
        of = "untrained-" if self.untrained else ""
        return f"{of}layer{self.layer:02d}-{order}-{self.preset}-m{self.latents}-k{self.k}-seed{self.seed}"

    def columns(self) -> dict[str, Any]:
        """Return the columns of a record that say which dictionary it is of."""
        return {
            "sae_id": self.sae_id,
            "preset": self.preset,
            "latents": self.latents,
            "k": self.k,
            "sparsity": self.sparsity,
            "seed": self.seed,
            "pooling": self.pooling,
        }


def members(config: RunConfig, extracted: list[int]) -> list[Member]:
    """Return every dictionary of a run, in the order in which they are trained.

    Raises `UnknownLayer` when `train.layers` names one that is not extracted, `ConfigError` when a
    sparsity leaves no latent.
    """
    settings = config.train
    layers = extracted if settings.layers == "all" else sorted(set(settings.layers))
    if missing := sorted(set(layers) - set(extracted)):
        raise UnknownLayer(f"train.layers: {missing} are not extracted; extract.layers gives {extracted}")
    return [
        Member(layer, pooling, preset, latents, sparsity, seed)
        for layer, pooling, preset, latents, sparsity, seed in product(
            layers, settings.poolings, settings.presets, settings.dictionaries, settings.sparsities, settings.seeds
        )
    ]
