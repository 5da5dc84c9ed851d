"""The protocol `held_out`: probes, factor regressions and reconstruction of each dense layer and each SAE.

Models are fitted on train groups, selected on validation groups and reported on test groups, once or in each fold of a
cross-fit, so that every group is a test group once. Scores have an interval over groups and a null. Reconstruction is
always that of the one split that the shared SAEs were trained on; codes may be those of an SAE per fold.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Shaped

from otoscope.artifacts import fingerprint
from otoscope.config import Pooling
from otoscope.corpus.splits import Splits
from otoscope.corpus.table import SPLITS
from otoscope.factors.egemaps import SOURCE
from otoscope.factors.logmel import logmel_table
from otoscope.formatting import count
from otoscope.linear.gram import varies_in_training
from otoscope.linear.lasso import FactorFits, fit_factors
from otoscope.metrics.dci import completeness, disentanglement
from otoscope.metrics.probes import Probe, fit_probe
from otoscope.metrics.reconstruction import ComponentsMeter, Reconstruction, ReconstructionMeter
from otoscope.metrics.record import Record
from otoscope.resampling.exchange import within_r2
from otoscope.resampling.groups import in_split, number_groups
from otoscope.resampling.intervals import Score
from otoscope.runs.cache import Arrays, CachedResult, ComputedResult, ensure, read_records
from otoscope.runs.code_version import MEASUREMENT_CODE, code_version
from otoscope.runs.codes import as_of_folds, mean_codes, stack_folds, train_mean
from otoscope.runs.context import Context
from otoscope.runs.folder import RunFolder
from otoscope.runs.inputs import Clips, EvaluationInputs, ProtocolRun
from otoscope.runs.predictions import class_numbers, predicted_key, read_predictions
from otoscope.runs.progress import ProgressReporter
from otoscope.runs.training import GridMember, fold_members, read_trained_card, training_grid
from otoscope.sae.model import load_sae

NAME = "held_out"


@dataclass(frozen=True)
class HeldOutSettings:
    """Settings of the evaluation; see the section `evaluate` of the configuration."""

    completeness_min_r2: float = 0.05
    seed: int = 0


def measure_representation(
    units: Float[np.ndarray, "*folds clips units"], clips: Clips, settings: HeldOutSettings, about: Record
) -> ComputedResult:
    """Return all records of one representation, and the classes that its probes predict.

    `units` has one column per latent or dimension, for all folds or for each; `about` holds the columns that the
    records share (layer, SAE, ...).
    """
    probed = _measure_labels(units, clips, settings, about)
    of_factors = _factor_records(units, clips, settings, about) if clips.factor_names else ()
    return ComputedResult([*probed.records, *of_factors], probed.arrays)


def _measure_labels(
    features: Float[np.ndarray, "*folds clips statistics"], clips: Clips, settings: HeldOutSettings, about: Record
) -> ComputedResult:
    records, arrays = list[Record](), Arrays()
    varies = varies_in_training(features, clips.reader_split)
    for label, values in clips.labels.items():
        shared = replace(about, target=label)
        if not varies:
            records += _empty_probe_records(shared)
            continue
        probe = fit_probe(features, values, groups=clips.groups, split=clips.reader_split, seed=settings.seed)
        records += _probe_records(probe, values, clips, shared)
        arrays[predicted_key(label)] = class_numbers(probe.predicted, values)
    return ComputedResult(records, arrays)


def reconstruction_records(measured: Reconstruction, split: str, about: Record) -> Iterator[Record]:
    """Yield reconstruction quality and firing statistics of one SAE on one split."""
    shared = replace(about, split=split, n=measured.rows, groups=measured.groups)
    for metric in ("explained_variance", "mse", "cosine", "l0"):
        score = getattr(measured, metric)
        yield shared.with_score(metric, score)
    yield replace(shared, metric="dead_fraction", value=measured.dead_fraction)
    yield replace(shared, metric="always_on_fraction", value=measured.always_on_fraction)


def _probe_records(
    probe: Probe, values: Shaped[np.ndarray, " clips"], clips: Clips, shared: Record
) -> Iterator[Record]:
    shared = replace(shared, reader=probe.reader)
    on_test = replace(shared, n=probe.n, groups=probe.groups)
    for metric, score in (
        ("probe_accuracy", probe.accuracy),
        ("probe_balanced_accuracy", probe.balanced_accuracy),
        ("probe_macro_f1", probe.macro_f1),
    ):
        yield on_test.with_score(metric, score, split="test")
    chosen_by = probe.valid_balanced_accuracy
    n, groups = _count_clips_and_groups(clips, "valid", values != "")
    yield replace(shared, metric="probe_balanced_accuracy", split="valid", value=chosen_by, n=n, groups=groups)


def _count_clips_and_groups(clips: Clips, split: str, known: Bool[np.ndarray, " clips"]) -> tuple[int, int]:
    """Return the number of clips of a split with a known value, and of their groups."""
    chosen = in_split(clips.reader_split, split) & known
    return int(chosen.sum()), len(np.unique(clips.groups[chosen]))


def _empty_probe_records(shared: Record) -> Iterator[Record]:
    """Yield the records of a probe without values, for a representation that is constant on the training rows."""
    for metric in ("probe_accuracy", "probe_balanced_accuracy", "probe_macro_f1"):
        yield replace(shared, metric=metric, split="test", value=math.nan)
    yield replace(shared, metric="probe_balanced_accuracy", split="valid", value=math.nan)


def _factor_records(
    units: Float[np.ndarray, "*folds clips units"], clips: Clips, settings: HeldOutSettings, about: Record
) -> Iterator[Record]:
    fits = fit_factors(
        units,
        clips.factors,
        groups=clips.groups,
        split=clips.reader_split,
        seed=settings.seed,
    )
    predicted = predicted_factors(fits, settings.completeness_min_r2)
    importance = np.abs(fits.weights)
    spread = completeness(importance, live=fits.live, predicted=predicted)
    for j, name in enumerate(clips.factor_names):
        shared = replace(about, target=name, n=int(fits.n[j]), groups=int(fits.groups[j]))
        yield shared.with_score("factor_r2", fits.score(j), split="test")
        yield shared.with_score("factor_r2_within", fits.within_score(j), split="test")
        if clips.covariates:
            given = shared.with_score("factor_r2_given", _score_given_covariates(fits, clips, j), split="test")
            yield given.widened(clips.folds)
        n, groups = _count_clips_and_groups(clips, "valid", ~np.isnan(clips.factors[:, j]))
        yield replace(shared, metric="factor_r2", split="valid", value=float(fits.valid_r2[j]), n=n, groups=groups)
        yield replace(shared, metric="completeness", split="test", value=float(spread.completeness[j]))
        yield replace(shared, metric="effective_latents", split="test", value=float(spread.effective_latents[j]))
    average = disentanglement(importance, predicted=predicted).value
    test_groups = len(np.unique(clips.groups[in_split(clips.reader_split, "test")]))
    yield replace(
        about, metric="disentanglement", split="test", value=average, n=int(predicted.sum()), groups=test_groups
    )


def _score_given_covariates(fits: FactorFits, clips: Clips, j: int) -> Score:
    """Return R2 of one factor between clips that share the class of every covariate."""
    tested = ~np.isnan(fits.predicted[:, j])
    if not tested.any():
        return Score(math.nan)
    classes = np.stack([number_groups(values[tested])[0] for values in clips.covariates.values()])
    strata = np.unique(classes, axis=1, return_inverse=True)
    truth, predicted = clips.factors[tested, j, None], fits.predicted[tested, j, None]
    return Score(
        *(float(x[0]) for x in within_r2(truth, predicted, clips.groups[tested], strata=strata[1].reshape(-1)))
    )


def predicted_factors(fits: FactorFits, min_r2: float) -> Shaped[np.ndarray, " factors"]:
    """Return the mask of predicted factors: held-out R2 above a threshold and above the null of the family."""
    return (fits.r2 > min_r2) & (fits.r2 > fits.null_high)


CODE = (*MEASUREMENT_CODE, "otoscope.protocols.held_out")
"""Modules that the numbers depend on."""

SETTINGS = {"completeness_min_r2"}


def plan(run: Context, material: EvaluationInputs) -> ProtocolRun:
    """Plan one part per dense layer and one per SAE, and the baselines of labels that no model takes part in."""
    config, folder, watch = run.config, run.folder, run.progress
    options = config.evaluate.model_dump(mode="json", include=SETTINGS)
    identity = material.fingerprint, options, config.splits.dictionaries
    settings, shared = HeldOutSettings(**options), fingerprint(code_version(*CODE), *identity)

    mean_of = _TrainMeans(material)
    layers = material.store.layers
    members = [(one, fold_members(one, config.splits, material.clips.folds)) for one in training_grid(config, layers)]
    parts = [
        *parts_without_model(material, settings, shared, watch),
        *(_dense_part(material, layer, settings, shared, config.splits) for layer in layers),
        *(_sae_part(material, folder, member, folds, settings, shared, mean_of) for member, folds in members),
        *_components_parts(material, [member for member, _ in members], shared, mean_of),
    ]

    def compute() -> None:
        title = f"evaluating {count(len(parts), 'representation')}"
        ensure(folder.parts, parts, watch, title=title, unit="representations", executor=run.executor)

    inputs = fingerprint([(part.name, part.inputs) for part in parts])
    return ProtocolRun(
        inputs,
        compute,
        lambda: read_records(folder.parts, parts),
        lambda: read_predictions(folder.parts, parts, material),
    )


class _TrainMeans:
    """Mean of the training rows of each layer, computed once per process."""

    def __init__(self, material: EvaluationInputs) -> None:
        self._material = material
        self._known: dict[tuple[int, Pooling], Float[np.ndarray, " width"]] = {}

    def __call__(self, layer: int, pooling: Pooling) -> Float[np.ndarray, " width"]:
        if (layer, pooling) not in self._known:
            self._known[layer, pooling] = train_mean(self._material.store, layer, pooling, self._material.clips)
        return self._known[layer, pooling]


def _dense_part(
    material: EvaluationInputs, layer: int, settings: HeldOutSettings, shared: str, splits: Splits
) -> CachedResult:
    def compute() -> ComputedResult:
        pooled = as_of_folds(material.store.pooled(layer), material.clips.folds, own=splits.per_fold)
        about = material.record_template(layer, protocol=NAME, representation="dense", pooling="mean")
        return measure_representation(pooled, material.clips, settings, about)

    return CachedResult(f"layer{layer:02d}-dense", fingerprint(shared, "dense", layer), compute)


def _components_parts(
    material: EvaluationInputs,
    members: Sequence[GridMember],
    shared: str,
    mean_of: Callable[[int, Pooling], Float[np.ndarray, " width"]],
) -> Iterator[CachedResult]:
    """Yield the parts with the variance that as many principal components as active latents explain."""
    store, split_of = material.store, dict(zip(material.store.clip_ids, material.clips.split, strict=True))
    group_of = dict(zip(store.clip_ids, material.clips.groups, strict=True))

    def batches(layer: int, pooling: Pooling, split: str) -> Iterator[tuple[Float[np.ndarray, "rows width"], str]]:
        clips = [clip for clip in store.clip_ids if split_of[clip] == split]
        if pooling == "pool_then_encode":
            pooled = store.pooled(layer, clips).astype(np.float64)
            yield from zip(pooled[:, None], (str(group_of[clip]) for clip in clips), strict=True)
        else:
            yield from ((own.astype(np.float64), str(group_of[clip])) for clip, own in store.iter_clips(layer, clips))

    def compute(layer: int, pooling: Pooling, budgets: Sequence[tuple[int, float]]) -> ComputedResult:
        mean = mean_of(layer, pooling)
        gram = sum((rows - mean).T @ (rows - mean) for rows, _ in batches(layer, pooling, "train"))
        meter = ComponentsMeter(mean, np.asarray(gram))
        for rows, group in batches(layer, pooling, "test"):
            meter.update(rows, np.full(len(rows), group))
        about = material.record_template(layer, protocol=NAME, representation="pca", pooling=pooling)
        about = replace(about, n=meter.rows, groups=meter.groups)
        return ComputedResult(
            [
                replace(about, k=k, sparsity=sparsity).with_score("explained_variance", meter.explained(k))
                for k, sparsity in budgets
            ]
        )

    for of in dict.fromkeys(replace(member, preset="", latents=0, sparsity=0.0, seed=0) for member in members):
        budgets = sorted({(m.k, m.sparsity) for m in members if (m.layer, m.pooling) == (of.layer, of.pooling)})
        name = f"layer{of.layer:02d}-pca-{of.pooling}"
        yield CachedResult(name, fingerprint(shared, name, budgets), partial(compute, of.layer, of.pooling, budgets))


def parts_without_model(
    material: EvaluationInputs, settings: HeldOutSettings, shared: str, watch: ProgressReporter
) -> Iterator[CachedResult]:
    """Yield the parts that probe each label from eGeMAPS and from log-mel statistics.

    Their records carry the first layer. A descriptor that is unknown in a clip has the mean of the other clips.
    """
    if not material.clips.labels:
        return
    clips, layer = material.clips, min(material.store.layers)

    def part(name: str, features: Callable[[], Float[np.ndarray, "clips statistics"]]) -> CachedResult:
        about = material.record_template(layer, protocol=NAME, representation=name, pooling="mean")

        def compute() -> ComputedResult:
            return _measure_labels(features(), clips, settings, about)

        return CachedResult(name, fingerprint(shared, name, layer), compute)

    measured = [i for i, card in enumerate(material.factors.cards) if card.source == SOURCE]
    known = clips.factors[:, measured]
    known = known[:, ~np.isnan(known).all(axis=0)]
    if known.shape[1]:
        yield part("egemaps", lambda: np.where(np.isnan(known), np.nanmean(known, axis=0), known))
    corpus = material.corpus
    if all((corpus.root / path).is_file() for path in corpus.clips["path"].unique()):
        yield part("logmel", lambda: logmel_table(corpus))
    else:
        watch.message(f"  log-mel statistics are left out: recordings are missing under {corpus.root}")


def _sae_part(
    material: EvaluationInputs,
    folder: RunFolder,
    member: GridMember,
    folds: Sequence[GridMember],
    settings: HeldOutSettings,
    shared: str,
    mean_of: Callable[[int, Pooling], Float[np.ndarray, " width"]],
) -> CachedResult:
    """Return the part of an SAE: its reconstruction, and scores of its codes or of those of its folds."""
    store, clips = material.store, material.clips

    def codes_of(
        one: GridMember, meters: dict[str, ReconstructionMeter] | None = None
    ) -> Float[np.ndarray, "clips latents"]:
        sae = load_sae(folder.saes / one.sae_id).sae
        return mean_codes(store, sae, one, store.clip_ids, meters=meters, clips=clips)

    def compute() -> ComputedResult:
        meters = {split: ReconstructionMeter(mean_of(member.layer, member.pooling)) for split in SPLITS}
        codes = codes_of(member, meters)
        if folds:
            codes = stack_folds([codes_of(one) for one in folds])
        shared_by_all = material.record_template(
            member.layer, protocol=NAME, representation="sae", pooling=member.pooling
        )
        about = replace(shared_by_all, **member.columns())
        records: list[Record] = []
        for split, meter in meters.items():
            records += reconstruction_records(meter.result(), split, about)
        measured = measure_representation(codes, clips, settings, about)
        return ComputedResult([*records, *measured.records], measured.arrays)

    trained = [read_trained_card(folder.saes / one.sae_id)["sha256"] for one in (member, *folds)]
    return CachedResult(member.sae_id, fingerprint(shared, trained), compute)
