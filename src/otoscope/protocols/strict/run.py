"""Steps of the protocol: measure every layer, choose layer and sparsity, train, measure in full, compare.

Layer and sparsity are chosen by cross-validation on train and validation groups; test groups are not used. In a
cross-fit each fold chooses its layer on its own train and validation groups, and the sparsity is chosen on their mean.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from otoscope.artifacts import fingerprint
from otoscope.errors import ArtifactError, ConfigError
from otoscope.formatting import count
from otoscope.metrics.representation import REPRESENTATIONS
from otoscope.protocols.strict import representations
from otoscope.protocols.strict.compare import ComparisonParts
from otoscope.protocols.strict.experiment import StrictExperiment, report_plan
from otoscope.protocols.strict.representations import (
    baseline_part,
    codes_part,
    dense_part,
    logmel_part,
    start_part,
    untrained_part,
)
from otoscope.runs.cache import CachedResult, ensure, read_arrays, read_records
from otoscope.runs.context import Context
from otoscope.runs.inputs import EvaluationInputs, ProtocolRun
from otoscope.runs.predictions import read_predictions
from otoscope.runs.training import GridMember, read_trained_card, training_grid


class HeldOutScores(NamedTuple):
    """Cross-validated scores of one representation in each fold: R2 of factors and scores of tasks."""

    factors: Float[np.ndarray, "folds factors"]
    tasks: Float[np.ndarray, "folds tasks"]

    @property
    def scores(self) -> Float[np.ndarray, "folds scores"]:
        """Scores of the factors, or of the tasks if there are no factors, clipped at 0."""
        return np.maximum(np.nan_to_num(self.factors if self.factors.shape[1] else self.tasks, neginf=0.0), 0)


def best_layers(found: Mapping[int, HeldOutScores]) -> list[int]:
    """Return, for each fold, the layer whose dense activations score highest on average; ties go to the lowest.

    >>> scores = {1: np.array([[0.2, 0.4], [0.5, 0.5]]), 2: np.array([[0.5, 0.3], [0.1, 0.2]])}
    >>> best_layers({layer: HeldOutScores(r2, np.zeros((2, 0))) for layer, r2 in scores.items()})
    [2, 1]
    """
    layers = sorted(found)
    return [layers[i] for i in np.argmax([found[layer].scores.mean(axis=1) for layer in layers], axis=0)]


def sparsest_within_error(found: Mapping[float, HeldOutScores], *, independent: float) -> float:
    """Return the highest sparsity within one standard error of the best.

    This is the one-standard-error rule (Breiman et al. 1984; Hastie, Tibshirani and Friedman 2009, section 7.10). The
    error is that of the mean difference from the best sparsity over factors or tasks. Their number is `independent`,
    the effective rank of the factors.
    """
    scores = {sparsity: held.scores.mean(axis=0) for sparsity, held in found.items()}
    mean = {sparsity: float(of.mean()) for sparsity, of in scores.items()}
    best = max(sorted(found, reverse=True), key=lambda sparsity: mean[sparsity])

    def loses(sparsity: float) -> bool:
        lost = scores[best] - scores[sparsity]
        error = lost.std(ddof=1) / np.sqrt(max(independent, 1.0)) if len(lost) > 1 else 0.0
        return bool(lost.mean() > error)

    return max(sparsity for sparsity in found if not loses(sparsity))


PRESET_BASELINES = ("frozen_decoder", "soft_frozen_decoder")
"""Baselines that are SAEs of another preset, named like it."""


def plan(run: Context, material: EvaluationInputs) -> ProtocolRun:
    """Plan the protocol; its parts are determined while it runs, by the chosen layer and sparsity."""
    strict_run, folder = StrictRun(StrictExperiment(run, material)), run.folder.parts
    return ProtocolRun(
        strict_run.identity,
        strict_run.compute,
        lambda: read_records(folder, strict_run.parts),
        lambda: read_predictions(folder, strict_run.parts, material),
    )


@dataclass
class StrictRun:
    """Execution of the protocol; `parts` grows with each step."""

    experiment: StrictExperiment
    parts: list[CachedResult] = field(default_factory=list[CachedResult])

    @property
    def identity(self) -> str:
        """Fingerprint of all inputs: clips, settings, SAEs of the run, and the presets of further SAEs."""
        experiment, config = self.experiment, self.experiment.run.config
        settings = experiment.settings
        recipes = {*config.train.preset_names, *PRESET_BASELINES, *settings.limit_presets}
        trained = config.train.model_dump(mode="json", exclude={"presets"})  # used presets are listed below
        grid = training_grid(config, experiment.material.store.layers)
        return fingerprint(
            experiment.shared,
            settings.model_dump(mode="json"),
            [_sae_sha256(experiment, one) for member in grid for one in (member, *experiment.fold_members(member))],
            {name: config.train.train_config(name).model_dump(mode="json") for name in sorted(recipes)},
            [config.model, config.revision, config.extract.context, trained],
        )

    def compute(self) -> None:
        """Compute every part that is not up to date."""
        self.parts.clear()
        experiment = self.experiment = replace(self.experiment, fold_layers=())
        if not experiment.targets.names and not experiment.tasks:
            raise ConfigError(
                "evaluate.protocols: strict has nothing to ask: the corpus has neither labels that can be probed nor "
                "factors; add label_* or factor_* columns, or measure eGeMAPS (factors.egemaps)"
            )
        report_plan(experiment)
        layers = {layer: dense_part(experiment, layer, full=False) for layer in experiment.material.store.layers}
        self._ensure(layers.values(), "reading layers")
        layer, of_folds = self._choose_layer(layers)
        if len(set(of_folds)) > 1:
            experiment = self.experiment = replace(experiment, fold_layers=tuple(of_folds))
        grid = [m for m in self._grid() if m.layer == layer]
        by_sparsity = {member.sparsity: codes_part(experiment, member, full=False) for member in grid}
        self._ensure(by_sparsity.values(), "reading codes")
        sparsity = self._choose_sparsity(by_sparsity)
        chosen = next(member for member in grid if member.sparsity == sparsity)
        seeds = representations.further_seeds(chosen, experiment.run.config.train.seeds, experiment.settings.seeds)
        limits = representations.limit_members(experiment, chosen)
        presets = {n: replace(chosen, preset=n) for n in PRESET_BASELINES if n in experiment.settings.baselines}
        # a second seed of the frozen decoder: pairs of these are the null of agreement between seeds
        again = [replace(m, preset="frozen_decoder") for m in seeds[1:2] if "frozen_decoder" in presets]
        trained = [*seeds, *limits, *presets.values(), *again]
        representations.train_missing(experiment, experiment.material.store, list(dict.fromkeys(trained)))
        limit_parts = {member: codes_part(experiment, member, full=False) for member in limits}
        self._ensure(limit_parts.values(), "looking for limits")
        main = dense_part(experiment, layer, full=True)
        seed_parts = {member: codes_part(experiment, member, full=True) for member in seeds}
        baselines = self._baselines(chosen, presets)
        self._ensure([main, *seed_parts.values(), *baselines.values()], "comparing in full")
        self._drop({layers[layer].name, *(codes_part(experiment, member, full=False).name for member in seeds)})
        same_layer = {member: by_sparsity[member.sparsity] for member in grid}
        comparison = ComparisonParts(
            experiment, layer, of_folds, layers, main, seed_parts, baselines, limit_parts, same_layer
        )
        self._ensure(comparison.parts(), "summing up", unit="comparisons")

    def _ensure(self, parts: Iterable[CachedResult], title: str, unit: str = "representations") -> None:
        """Compute parts, each once: codes of a sparsity limit may also belong to the grid."""
        known = {part.name for part in self.parts}
        fresh = list({part.name: part for part in parts if part.name not in known}.values())
        folder = self.experiment.run.folder.parts
        run = self.experiment.run
        ensure(folder, fresh, run.progress, title=f"strict: {title}", unit=unit, executor=run.executor)
        self.parts += fresh

    def _drop(self, names: set[str]) -> None:
        """Remove ridge-only parts of representations that have been measured in full."""
        self.parts[:] = [part for part in self.parts if part.name not in names]

    def _grid(self) -> list[GridMember]:
        config = self.experiment.run.config
        train = config.train
        first = self.experiment.pooling, train.preset_names[0], train.dictionaries[0], train.seeds[0]
        grid = training_grid(config, self.experiment.material.store.layers)
        return [m for m in grid if (m.pooling, m.preset, m.latents, m.seed) == first]

    def _choose_layer(self, dense: dict[int, CachedResult]) -> tuple[int, list[int]]:
        """Return the layer that most folds choose, the lowest of equals, and that of each fold if they choose."""
        configured, say = self.experiment.settings.layer, self.experiment.run.progress.message
        trained = sorted({member.layer for member in self._grid()})
        if configured != "chosen":  # the configuration check ensures that it has an SAE
            return configured, []
        if len(trained) == 1:
            say(f"  layer {trained[0]} is compared in full; no other has dictionaries")
            return trained[0], []
        of_folds = best_layers({layer: self._held_out_scores(dense[layer]) for layer in trained})
        layer = max(trained, key=of_folds.count)
        folds = "" if len(of_folds) == 1 else f" of {of_folds.count(layer)} of {len(of_folds)} folds"
        say(f"  layer {layer} reads most on groups left out{folds}; it is compared in full")
        for other in sorted(set(of_folds) - {layer}):
            say(f"  layer {other} takes its place in {count(of_folds.count(other), 'fold')}")
        return layer, of_folds

    def _choose_sparsity(self, found: dict[float, CachedResult]) -> float:
        configured = self.experiment.settings.sparsity
        if configured != "chosen":
            near = min(found, key=lambda sparsity: abs(sparsity - configured))
            if abs(near - configured) > 1e-9:
                raise ConfigError(
                    f"evaluate.strict.sparsity: {configured} is not trained; train.sparsities gives {sorted(found)}"
                )
            return near
        robust = self.experiment.targets.robust
        held = {sparsity: self._held_out_scores(part) for sparsity, part in found.items()}
        chosen = sparsest_within_error(held, independent=robust.effective_rank if robust else 1.0)
        self.experiment.run.progress.message(
            f"  {chosen:.1%} is the highest sparsity within one standard error of the best, on groups left out"
        )
        return chosen

    def _held_out_scores(self, part: CachedResult) -> HeldOutScores:
        arrays = read_arrays(self.experiment.run.folder.parts, part)
        tasks = arrays["tasks"]
        return HeldOutScores(arrays.get("linear.held_r2", np.zeros((len(tasks), 0))), tasks)

    def _baselines(self, chosen: GridMember, presets: Mapping[str, GridMember]) -> dict[str, CachedResult]:
        experiment = self.experiment
        configured = experiment.settings.baselines
        parts = {
            name: baseline_part(experiment, name, chosen)
            for name in configured
            if REPRESENTATIONS[name].kind != "built"
        }
        for name, member in presets.items():
            parts[name] = codes_part(experiment, member, full=True, representation=name)
        if "start" in configured:
            parts["start"] = start_part(experiment, chosen)
        if "logmel" in configured:
            parts["logmel"] = logmel_part(experiment, chosen.layer)
        if {"untrained", "untrained_sae"} & set(configured):
            store = representations.untrained_store(experiment, chosen.layer)
            if "untrained" in configured:
                parts["untrained"] = untrained_part(experiment, chosen.layer, store)
            if "untrained_sae" in configured:
                member = replace(chosen, untrained=True)
                representations.train_missing(experiment, store, [member])
                parts["untrained_sae"] = codes_part(
                    experiment, member, full=True, representation="untrained_sae", store=store
                )
        return {name: parts[name] for name in configured}


def _sae_sha256(experiment: StrictExperiment, member: GridMember) -> str:
    try:
        return read_trained_card(experiment.run.folder.saes / member.sae_id)["sha256"]
    except ArtifactError as error:
        raise ArtifactError(f"{member.sae_id} is not trained; run `otoscope train` first") from error
