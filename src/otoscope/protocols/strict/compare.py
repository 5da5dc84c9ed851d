"""What only shows once all representations are measured: structure, seeds, layers, limits.

Which latents of the dictionary compared may be named: those that come back from other seeds.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from otoscope.artifacts import fingerprint, read_tensors
from otoscope.explain import LatentChoice
from otoscope.metrics.record import Record
from otoscope.metrics.representation import CODES, DENSE
from otoscope.metrics.robust_factors import effective_rank
from otoscope.metrics.stability import SHARE
from otoscope.protocols import strict
from otoscope.protocols.strict.experiment import Frame, linear_of
from otoscope.protocols.strict.layers_and_limits import Level, layers_of, limits_of
from otoscope.protocols.strict.regression import predicted_share
from otoscope.protocols.strict.seeds import repeated
from otoscope.protocols.strict.structure import (
    COMMON,
    Common,
    Measured,
    common_factors,
    factor_curve,
    mean_r2,
    structure,
)
from otoscope.protocols.strict.tasks import counted, score_of
from otoscope.resampling.groups import r2_from_sums, resample_counts
from otoscope.runs.cache import Arrays, CachedResult, ComputedResult, read_arrays
from otoscope.runs.codes import code_features
from otoscope.runs.folder import RunFolder
from otoscope.runs.training import GridMember
from otoscope.sae.model import load_sae

SEEDS = f"{strict.NAME}/seeds"
"""The part that holds, for each latent, in how many other seeds it was found."""


@dataclass(frozen=True)
class Comparison:
    """Parts that were measured, by what they are of."""

    frame: Frame
    layer: int
    layers: Mapping[int, CachedResult]
    main: CachedResult
    seeds: Mapping[GridMember, CachedResult]
    baselines: Mapping[str, CachedResult]
    limits: Mapping[GridMember, CachedResult]

    def parts(self) -> list[CachedResult]:
        """Return the parts that put the others side by side."""
        found = [self._part(SEEDS, list(self.seeds.values()), self._repeated)]
        if self.frame.asked.names:
            beside = [self.main, *self.seeds.values(), *self.baselines.values()]
            found.append(self._part(f"{strict.NAME}/structure", beside, self._structure))
            found.append(self._part(f"{strict.NAME}/layers", [*self.layers.values()], self._layers))
        if self.limits:
            beside = [self.main, *self.seeds.values(), *self.limits.values()]
            found.append(self._part(f"{strict.NAME}/limits", beside, self._limits))
        return found

    def _part(self, name: str, beside: list[CachedResult], make: Callable[[], ComputedResult]) -> CachedResult:
        inputs = [part.inputs for part in beside]
        shared = self.frame.shared, self.frame.settings.min_r2, self.layer
        return CachedResult(name, fingerprint(*shared, inputs), make)

    def _kept(self, part: CachedResult) -> Arrays:
        return read_arrays(self.frame.run.folder.parts, part)

    @cached_property
    def _common(self) -> Common:
        """The factors that dense activations and every seed's codes predict."""
        frame, asked = self.frame, self.frame.asked
        if not asked.names:
            return Common(np.zeros(0, dtype=bool), (), 0.0)
        codes = [Measured.of(self._kept(part)) for part in self.seeds.values()]
        dense = Measured.of(self._kept(self.main))
        mask = common_factors(dense, codes, min_r2=frame.settings.min_r2)
        rank = effective_rank(asked.values[asked.split == "train"][:, mask]) if mask.any() else 0.0
        return Common(mask, asked.names, rank)

    def _about(self, member: GridMember) -> Record:
        return replace(self.frame.about(CODES, member.layer), **member.columns())

    def _structure(self) -> ComputedResult:
        frame, common = self.frame, self._common
        null = Measured.of(self._kept(self.baselines["permuted"])) if "permuted" in self.baselines else None
        records = list(counted(frame.asked, frame.about(DENSE, self.layer)))
        for part, about in self._sides():
            kept = self._kept(part)
            found = Measured.of(kept)
            floor = null if about.representation == CODES else None
            records += structure(found, common, about, null=floor)
            for among, target in ((np.ones_like(common.mask), ""), (common.mask, COMMON)):
                records += predicted_share(found.reading, frame.settings.min_r2, about, among=among, target=target)
            records += mean_r2(linear_of(kept), common, about, resamples=frame.resamples)
            records += factor_curve(found, common, frame.settings, about)
        return ComputedResult(records, {"common": common.mask})

    def _sides(self) -> Iterator[tuple[CachedResult, Record]]:
        yield self.main, self.frame.about(DENSE, self.layer)
        for member, part in self.seeds.items():
            yield part, self._about(member)
        for name, part in self.baselines.items():
            yield part, self.frame.about(name, self.layer, pooling=self.frame.pooling)

    def _repeated(self) -> ComputedResult:
        frame, members = self.frame, list(self.seeds)
        store = frame.material.store
        saes = [load_sae(frame.run.folder.saes / member.sae_id).sae for member in members]
        codes = [
            code_features(store, sae, member, store.clip_ids).units for sae, member in zip(saes, members, strict=True)
        ]
        atoms = [sae.decoder.detach().numpy() for sae in saes]
        found = repeated(atoms, codes, groups=frame.material.clips.groups, about=self._about(members[0]))
        return ComputedResult(found.records, {"found_in": found.found_in, "others": np.asarray([found.others])})

    def _layers(self) -> ComputedResult:
        found = {layer: linear_of(self._kept(part)) for layer, part in self.layers.items()}
        frame = self.frame
        about = frame.about(DENSE, self.layer)
        return ComputedResult(list(layers_of(found, frame.asked, about, resamples=frame.resamples)))

    def _limits(self) -> ComputedResult:
        records: list[Record] = []
        for preset in dict.fromkeys(member.preset for member in self.limits):
            found = {member: part for member, part in self.limits.items() if member.preset == preset}
            by_quantity: dict[str, dict[float, Level]] = {}
            for member, part in found.items():
                kept = self._kept(part)
                for quantity, level in self._levels(kept).items():
                    by_quantity.setdefault(quantity, {})[member.sparsity] = level
                if self.frame.asked.names and member not in self.seeds:
                    records += mean_r2(
                        linear_of(kept), self._common, self._about(member), resamples=self.frame.resamples
                    )
            first = next(iter(found))
            groups = len(np.unique(self.frame.asked.groups[self.frame.asked.split == "test"]))
            about = replace(self._about(first), k=None, sparsity=math.nan, sae_id="", n=len(found), groups=groups)
            for quantity, levels in by_quantity.items():
                records += limits_of(levels, kind=quantity, target=f"{preset}: {quantity}", about=about)
        return ComputedResult(records)

    def _levels(self, kept: Arrays) -> dict[str, Level]:
        """Return what one dictionary reaches: rebuilt variance, mean R2 of the common factors, the first task."""
        found = {"explained variance": Level(float(kept["rebuilt.value"][0]), kept["rebuilt.draws"])}
        resamples = self.frame.resamples
        if self.frame.asked.names and self._common.mask.any():
            squares = kept["linear.squares"][:, self._common.mask]
            value = np.maximum(r2_from_sums(squares.sum(axis=0)), 0).mean()
            counts = resample_counts(len(squares), resamples=resamples, seed=0).astype(np.float64)
            drawn = np.maximum(np.nan_to_num(r2_from_sums(np.einsum("dg,gft->dft", counts, squares))), 0).mean(axis=1)
            found["factors"] = Level(float(value), drawn)
        if self.frame.tasks:
            kind, sums = self.frame.tasks[0].kind, kept["task.0"]
            counts = resample_counts(len(sums), resamples=resamples, seed=0).astype(np.float64)
            drawn = score_of(kind, np.tensordot(counts, sums, axes=1))
            found["task"] = Level(float(score_of(kind, sums.sum(axis=0)[None])[0]), drawn)
        return found


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
