"""Which latents of the dictionary compared may be named: those that come back from other seeds."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from otoscope.artifacts import read_tensors
from otoscope.explain import LatentChoice
from otoscope.metrics.stability import SHARE
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.strict.comparison import SEEDS
from otoscope.protocols import strict


@dataclass(frozen=True)
class Reappearing:
    """A dictionary, and for each of its latents in how many of `others` further seeds it was found (NaN: dead)."""

    sae_id: str
    found_in: Float[np.ndarray, " latents"]
    others: int

    @property
    def allowed(self) -> Bool[np.ndarray, " latents"]:
        """Latents found in enough of the other seeds."""
        return np.nan_to_num(self.found_in) >= SHARE * self.others - 1e-9

    def told(self, choice: LatentChoice) -> LatentChoice:
        """Return a choice that says in how many seeds its latent was found."""
        return replace(choice, seeds_found=int(self.found_in[choice.latent]), seeds_asked=self.others)


def reappearing(folder: RunFolder, results: pl.DataFrame) -> Reappearing | None:
    """Return what the strict protocol found of seeds; None where it did not run, or with one seed."""
    rows = results.filter((pl.col("protocol") == strict.NAME) & (pl.col("metric") == "reappearing_share"))
    if rows.is_empty():
        return None
    kept = read_tensors((folder.parts / SEEDS).with_suffix(".safetensors"))
    return Reappearing(rows["sae_id"][0], kept["found_in"], int(kept["others"][0]))
