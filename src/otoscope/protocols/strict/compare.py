"""Parts that need several measured representations: structure, seeds, layers and sparsity limits.

Latents that reappear in other seeds are stored too, so that only these are explained.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from otoscope.protocols.strict.differences import (
    TaskScores,
    curve_differences,
    factor_difference,
    structure_differences,
    task_difference,
)
from otoscope.protocols.strict.experiment import StrictExperiment, ridge_scores_from
from otoscope.protocols.strict.layers_and_limits import Level, layer_records, limit_records, within_layers
from otoscope.protocols.strict.regression import predicted_factors, predicted_share_records
from otoscope.protocols.strict.representations import start_sae
from otoscope.protocols.strict.seeds import Dictionaries, compare_seeds
from otoscope.protocols.strict.structure import (
    COMMON,
    CommonFactors,
    RepresentationScores,
    clipped_mean_r2,
    common_factors,
    factor_curve_records,
    mean_r2_records,
    structure_records,
)
from otoscope.protocols.strict.tasks import effective_rank_records, score_from_sums
from otoscope.resampling.groups import in_split
from otoscope.resampling.intervals import fold_overlap, leave_one_out
from otoscope.runs.cache import Arrays, CachedResult, ComputedResult, read_arrays
from otoscope.runs.codes import mean_codes
from otoscope.runs.folder import RunFolder
from otoscope.runs.training import GridMember
from otoscope.sae.model import SparseAutoencoder, load_sae

SEEDS = f"{strict.NAME}/seeds"
"""Name of the part with the number of other seeds in which each latent reappears."""


UNLEARNED = ("start", "frozen_decoder")
"""Baselines whose pairs of seeds are the null of agreement between seeds."""


@dataclass(frozen=True)
class ComparisonParts:
    """Measured parts by role, and the comparisons between them."""

    experiment: StrictExperiment
    layer: int
    of_folds: Sequence[int]
    """Layer that each fold chose; empty if none was chosen."""
    layers: Mapping[int, CachedResult]
    main: CachedResult
    seeds: Mapping[GridMember, CachedResult]
    baselines: Mapping[str, CachedResult]
    limits: Mapping[GridMember, CachedResult]
    grid: Mapping[GridMember, CachedResult]

    def parts(self) -> list[CachedResult]:
        """Return the parts that compare the measured ones."""
        unlearned = [self.baselines[name] for name in UNLEARNED if name in self.baselines]
        found = [self._part(SEEDS, [*self.seeds.values(), *unlearned], self._compare_seeds)]
        if self.experiment.targets.names:
            sources = [self.main, *self.seeds.values(), *self.baselines.values()]
            found.append(self._part(f"{strict.NAME}/structure", sources, self._structure_result))
            found.append(self._part(f"{strict.NAME}/layers", [*self.layers.values()], self._layer_result))
        if self.limits:
            sources = [self.main, *self.seeds.values(), *self._limit_parts.values()]
            found.append(self._part(f"{strict.NAME}/limits", sources, self._limit_result))
        sources = [self.main, *self._measured_codes.values(), *self.baselines.values()]
        found.append(self._part(f"{strict.NAME}/differences", sources, self._difference_result))
        return found

    def _part(self, name: str, sources: list[CachedResult], make: Callable[[], ComputedResult]) -> CachedResult:
        inputs = [part.inputs for part in sources]
        shared = self.experiment.shared, self.experiment.settings.min_r2, self.layer, self.of_folds
        return CachedResult(name, fingerprint(*shared, inputs), make)

    def _read_arrays(self, part: CachedResult) -> Arrays:
        return read_arrays(self.experiment.run.folder.parts, part)

    @cached_property
    def _common(self) -> CommonFactors:
        """Factors that dense activations and the codes of every seed predict."""
        experiment, targets = self.experiment, self.experiment.targets
        if not targets.names:
            return CommonFactors(np.zeros(0, dtype=bool), (), 0.0)
        codes = [RepresentationScores.from_arrays(self._read_arrays(part)) for part in self.seeds.values()]
        dense = RepresentationScores.from_arrays(self._read_arrays(self.main))
        mask = common_factors(dense, codes, min_r2=experiment.settings.min_r2)
        rank = effective_rank(targets.values[in_split(targets.split, "train")][:, mask]) if mask.any() else 0.0
        return CommonFactors(mask, targets.names, rank)

    @cached_property
    def _either(self) -> CommonFactors:
        """Factors that dense activations, or the codes of every seed, predict: means of R2 cover these.

        A factor that one side lost counts with what is left of it, at least 0. Means over common factors alone would
        hide every loss.
        """
        experiment, common = self.experiment, self._common
        if not common.names:
            return common
        parts = [RepresentationScores.from_arrays(self._read_arrays(p)) for p in (self.main, *self.seeds.values())]
        dense, *codes = (predicted_factors(scores.lasso, experiment.settings.min_r2) for scores in parts)
        mask = dense | np.all(codes, axis=0)
        targets = experiment.targets
        rank = effective_rank(targets.values[in_split(targets.split, "train")][:, mask]) if mask.any() else 0.0
        return CommonFactors(mask, targets.names, rank)

    def _record_template(self, member: GridMember) -> Record:
        return replace(self.experiment.record_template(CODES, member.layer), **member.columns())

    def _structure_result(self) -> ComputedResult:
        experiment, common = self.experiment, self._common
        null, random = (self._scores_of(name) for name in ("permuted", "random_topk"))
        records = list(effective_rank_records(experiment.targets, experiment.record_template(DENSE, self.layer)))
        for part, about in self._representations():
            arrays = self._read_arrays(part)
            found = RepresentationScores.from_arrays(arrays)
            floors = {"null": null, "random": random} if about.representation == CODES else {}
            records += structure_records(found, common, about, **floors)
            for among, target in ((np.ones_like(common.mask), ""), (common.mask, COMMON)):
                records += predicted_share_records(
                    found.lasso, experiment.settings.min_r2, about, among=among, target=target
                )
            records += self._over_folds(mean_r2_records(ridge_scores_from(arrays), self._either, about))
            records += factor_curve_records(found, self._either, experiment.settings, about)
        return ComputedResult(records, {"common": common.mask})

    def _scores_of(self, baseline: str) -> RepresentationScores | None:
        part = self.baselines.get(baseline)
        return None if part is None else RepresentationScores.from_arrays(self._read_arrays(part))

    def _representations(self) -> Iterator[tuple[CachedResult, Record]]:
        yield self.main, self.experiment.record_template(DENSE, self.layer)
        for member, part in self.seeds.items():
            yield part, self._record_template(member)
        for name, part in self.baselines.items():
            yield part, self.experiment.record_template(name, self.layer, pooling=self.experiment.pooling)

    def _compare_seeds(self) -> ComputedResult:
        experiment, members = self.experiment, list(self.seeds)
        folder, pair = experiment.run.folder.saes, members[:2]
        unlearned: dict[str, Dictionaries] = {}
        if len(pair) == 2 and "start" in self.baselines:
            unlearned["start"] = self._encode([start_sae(experiment, member) for member in pair], pair)
        if len(pair) == 2 and "frozen_decoder" in self.baselines:
            frozen = [replace(member, preset="frozen_decoder") for member in pair]
            unlearned["frozen_decoder"] = self._encode([load_sae(folder / m.sae_id).sae for m in frozen], frozen)
        found = compare_seeds(
            self._encode([load_sae(folder / member.sae_id).sae for member in members], members),
            groups=experiment.material.clips.groups,
            about=self._record_template(members[0]),
            unlearned=unlearned,
        )
        return ComputedResult(found.records, {"found_in": found.found_in, "others": np.asarray([found.others])})

    def _encode(self, saes: Sequence[SparseAutoencoder], members: Sequence[GridMember]) -> Dictionaries:
        """Return the atoms of SAEs and their codes of all clips."""
        store = self.experiment.material.store
        codes = [mean_codes(store, s, m, store.clip_ids) for s, m in zip(saes, members, strict=True)]
        return Dictionaries([sae.decoder.detach().numpy() for sae in saes], codes)

    def _layer_result(self) -> ComputedResult:
        found = {layer: ridge_scores_from(self._read_arrays(part)) for layer, part in self.layers.items()}
        experiment = self.experiment
        about = experiment.record_template(DENSE, self.layer)
        records = self._over_folds(layer_records(found, experiment.targets, about))
        return ComputedResult([within_layers(record, list(found)) for record in records])

    @property
    def _measured_codes(self) -> Mapping[GridMember, CachedResult]:
        """Parts of all SAEs of the layer; those measured in full replace those measured by ridge regression only."""
        return {**self.grid, **self.limits, **self.seeds}

    def _difference_result(self) -> ComputedResult:
        """Compare the codes of every SAE (mean over seeds) with the layer, those measured in full also with baselines.

        SAEs that differ only in their seed count as one.
        """
        tasks, groups = self.experiment.tasks, len(np.unique(self.experiment.targets.groups))
        records = choosing_records(
            self.of_folds, lambda layer: replace(self.experiment.record_template(DENSE, layer), groups=groups)
        )
        parts: dict[GridMember, list[tuple[GridMember, CachedResult]]] = {}
        for member, part in self._measured_codes.items():
            parts.setdefault(replace(member, seed=0), []).append((member, part))
        for same in parts.values():
            first, in_full = same[0][0], same[0][0] in self.seeds
            codes = [self._read_arrays(part) for _, part in same]
            for name, part in {DENSE: self.main, **(self.baselines if in_full else {})}.items():
                other = self._read_arrays(part)
                about = replace(self._record_template(first), representation=name, seed=None)
                for i, task in enumerate(tasks):
                    answers = [TaskScores(one[f"task.{i}"], one[f"task.{i}.shares"]) for one in (*codes, other)]
                    known = int((task.known & in_split(self.experiment.targets.split, "test")).sum())
                    found = task_difference(task, answers[:-1], answers[-1], replace(about, n=known))
                    records += self._over_folds([found])
                if in_full and self.experiment.targets.names:
                    squares = [arrays["linear.squares"] for arrays in codes]
                    found = factor_difference(squares, other["linear.squares"], self._either, about)
                    records += self._over_folds(found)
                    scores = [RepresentationScores.from_arrays(arrays) for arrays in codes]
                    compared = RepresentationScores.from_arrays(other)
                    records += structure_differences(scores, compared, self._common, about)
                    sizes = self.experiment.settings.sizes
                    records += curve_differences(scores, compared, self._either, sizes, about)
        return ComputedResult(records)

    def _over_folds(self, records: Iterable[Record]) -> list[Record]:
        """Return records with an interval over groups, which is wider in a cross-fit."""
        return [record.widened(self.experiment.targets.clips.folds) for record in records]

    @property
    def _limit_parts(self) -> Mapping[GridMember, CachedResult]:
        """Parts of the SAEs behind the limits: those trained for them, and those of the grid with the same settings."""
        settings = {replace(member, sparsity=0.0) for member in self.limits}
        of_grid = {m: part for m, part in self.grid.items() if replace(m, sparsity=0.0) in settings}
        return {**self.limits, **of_grid}

    def _limit_result(self) -> ComputedResult:
        records: list[Record] = []
        for preset in dict.fromkeys(member.preset for member in self.limits):
            found = {member: part for member, part in self._limit_parts.items() if member.preset == preset}
            by_quantity: dict[str, dict[float, Level]] = {}
            for member, part in found.items():
                arrays = self._read_arrays(part)
                for quantity, level in self._levels(arrays).items():
                    by_quantity.setdefault(quantity, {})[member.sparsity] = level
                if self.experiment.targets.names and member not in self.seeds:
                    scores, about = ridge_scores_from(arrays), self._record_template(member)
                    records += self._over_folds(mean_r2_records(scores, self._either, about))
            first = next(iter(found))
            about = replace(self._record_template(first), k=None, sparsity=math.nan, sae_id="", n=len(found))
            for quantity, levels in by_quantity.items():
                about = replace(about, groups=len(next(iter(levels.values())).without))
                records += limit_records(levels, kind=quantity, target=f"{preset}: {quantity}", about=about)
        return ComputedResult(records)

    def _levels(self, arrays: Arrays) -> dict[str, Level]:
        """Return explained variance, mean R2 of the factors either predicts and the score of the first task."""
        found = {"explained variance": Level(float(arrays["rebuilt.value"][0]), arrays["rebuilt.without"])}
        overlap = fold_overlap(self.experiment.targets.clips.folds)
        if self.experiment.targets.names and self._either.mask.any():
            squares = arrays["linear.squares"][:, self._either.mask]
            value, without = leave_one_out(squares, clipped_mean_r2)
            found["factors"] = Level(float(value), value + overlap * (without - value))
        if self.experiment.tasks:
            kind, sums = self.experiment.tasks[0].kind, arrays["task.0"]
            value, without = leave_one_out(sums, lambda part: score_from_sums(kind, part))
            found["task"] = Level(float(value), value + overlap * (without - value))
        return found


@dataclass(frozen=True)
class ReappearingLatents:
    """An SAE and the number of `others` (further seeds) in which each of its latents reappears (NaN: dead)."""

    sae_id: str
    found_in: Float[np.ndarray, " latents"]
    others: int

    @property
    def stable(self) -> Bool[np.ndarray, " latents"]:
        """Mask of latents that reappear in enough of the other seeds."""
        return np.nan_to_num(self.found_in) >= SHARE * self.others - 1e-9

    def with_seed_counts(self, choice: LatentChoice) -> LatentChoice:
        """Return the choice with the number of seeds in which its latent reappears."""
        return replace(choice, seeds_found=int(self.found_in[choice.latent]), seeds_asked=self.others)


def read_reappearing_latents(folder: RunFolder, results: pl.DataFrame) -> ReappearingLatents | None:
    """Read the reappearing latents of the strict protocol; None if it did not run or used one seed."""
    rows = results.filter((pl.col("protocol") == strict.NAME) & (pl.col("metric") == "reappearing_share"))
    if rows.is_empty():
        return None
    arrays = read_tensors((folder.parts / SEEDS).with_suffix(".safetensors"))
    return ReappearingLatents(rows["sae_id"][0], arrays["found_in"], int(arrays["others"][0]))


def choosing_records(chosen: Sequence[int], template: Callable[[int], Record]) -> list[Record]:
    """Return the number of folds that chose each layer; `template` is the record of a layer."""
    return [
        replace(template(layer), metric="choosing_folds", split="valid", value=chosen.count(layer), n=len(chosen))
        for layer in sorted(set(chosen))
    ]
