"""Audit of every metric of `results.parquet` on synthetic dictionaries whose true features are known.

    python benchmarks/audit.py           # about ten minutes of processor time; prints the table, last line is JSON
    python benchmarks/audit.py --write   # also stores the table in the package and in docs/methods.md
    python benchmarks/audit.py --quick   # a few dictionaries, to try the command

The world: sparse positive features, more than dimensions, whose directions are known. A factor is the strength of a
feature in a clip; a label raises features of its own. Dictionaries of many settings, seeds and training steps, and
corrupted true dictionaries, are scored as `otoscope evaluate` scores SAEs. Per metric:

- seeds: standard deviation over seeds, pooled over settings
- checkpoints: rank correlation with the training step, mean over runs; 1: each checkpoint improves
- truth: rank correlation over all dictionaries with the share of true features that have an atom of `RECOVERED` cosine
- difference: smallest difference of two dictionaries that the variation over seeds does not explain (two-sided, 5 %)

A further score is audited by adding a function to `SCORES`.
"""

import argparse
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr, t
from sklearn.decomposition import sparse_encode
from threadpoolctl import threadpool_limits

from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.config.strict import StrictSettings
from otoscope.explain import (
    DESCRIPTORS,
    AnnotatedFrames,
    FrameTable,
    choose_clips,
    concept_targets,
    describe_latents,
    diagonal_dominance,
    fit_readouts,
    flipped_by_ablation,
    gain_sums,
    match_codes,
    response_curve,
    score_cards,
    score_labels,
    score_shares,
    side_effect,
)
from otoscope.explain.annotated_labels import latent_units
from otoscope.explain.interventions import strongest_latents
from otoscope.explain.latent_choice import correlations
from otoscope.explain.splice import frame_cosine
from otoscope.explain.splice_scores import Probes
from otoscope.factors.annotations import AnnotatedInterval
from otoscope.metrics.audit import AUDIT_FILE, Audited, audited_metrics
from otoscope.metrics.reconstruction import ReconstructionMeter
from otoscope.metrics.record import Record
from otoscope.metrics.registry import METRICS, STRUCTURE
from otoscope.metrics.stability import CORRELATION, match_latents, mean_max_cosine
from otoscope.protocols.held_out import HeldOutSettings, measure_representation, reconstruction_records
from otoscope.protocols.mariotte2025.measure import ClipTargets, SplitFeatures, measure_factors
from otoscope.protocols.strict.regression import fit_ridge_scores, predicted_share_records
from otoscope.protocols.strict.structure import (
    CommonFactors,
    RepresentationScores,
    common_factors,
    factor_curve_records,
    label_curve_records,
    mean_r2_records,
    score_representation,
    structure_records,
)
from otoscope.protocols.strict.tasks import FactorTargets, Repetitions, available_tasks, evaluate_task, prepare_factors
from otoscope.resampling.nulls import random_dictionary
from otoscope.runs.inputs import Clips
from otoscope.sae.config import TrainConfig
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.train import begin, train_steps

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "methods.md"
RECOVERED = 0.9
"""Cosine from which a true feature counts as recovered."""

STRICT = StrictSettings(sizes=(1, 8), folds=4)
ABOUT = Record(metric="l0", value=0.0, split="test", representation="sae", layer=0)
STUDY = Mariotte2025Settings(
    completeness_normaliser="live", completeness_of_unpredicted="nan", disentanglement_average="sum"
)
OF_LAYERS = frozenset({
    "category_r2", "centre_layer", "earliest_layer", "layer_lead", "layer_lead_p", "layer_lead_of_blocks",
    "sparsity_limit", "sparsity_knee", "effective_rank", "factor_entropy", "choosing_folds",
})  # fmt: skip
"""Metrics of several layers or sparsities, or of the factors alone, which no single dictionary has."""


@dataclass(frozen=True)
class World:
    """Rows (frames, clip after clip) with their true directions, the clips with factors and labels, and the strengths
    of the features that are factors in each frame.
    """

    rows: np.ndarray
    clip: np.ndarray
    directions: np.ndarray
    clips: Clips
    strengths: np.ndarray

    @property
    def frames_of(self) -> dict[str, np.ndarray]:
        return {name: self.clips.split[self.clip] == name for name in ("train", "valid", "test")}

    @property
    def targets(self) -> FactorTargets:
        return prepare_factors(self.clips, dict.fromkeys(self.clips.factor_names, "feature"), near_duplicates=0.9)


def build_world(seed: int = 0) -> World:
    """Return 20 groups of 24 clips of 24 frames: 128 features in 48 dimensions, about 6 active at once."""
    rng = np.random.default_rng(seed)
    groups, per_group, frames, features, width, known = 20, 24, 24, 128, 48, 20
    clips = groups * per_group
    group = np.repeat(np.arange(groups), per_group)
    directions = random_dictionary(features, width, seed=seed).astype(np.float64)
    # effects of the group and of the clip on how often each feature is active
    odds = 0.5 * rng.normal(size=(groups, features))[group] + rng.normal(size=(clips, features))
    odds -= rng.uniform(2.0, 5.0, features)
    kind = rng.integers(4, size=clips)
    odds[np.arange(clips), known + kind] += 3.0
    rate = 1 / (1 + np.exp(-odds))
    clip = np.repeat(np.arange(clips), frames)
    strength = (rng.random((len(clip), features)) < rate[clip]) * rng.gamma(2.0, 0.5, size=(len(clip), features))
    rows = strength @ directions + 0.1 * rng.normal(size=(len(clip), width))
    factors = strength[:, :known].reshape(clips, frames, known).mean(axis=1)
    names = tuple(f"feature {j}" for j in range(known))
    split = np.repeat(["train", "valid", "test"], np.array([12, 3, 5]) * per_group)
    labels = {"kind": np.array(["a", "b", "c", "d"])[kind]}
    given = Clips(
        split, np.array([f"g{g:02d}" for g in group]), labels, factors, names, {"sex": np.array(["f", "m"])[group % 2]}
    )
    return World(rows.astype(np.float32), clip, directions, given, strength[:, :known])


class Dictionary(NamedTuple):
    """A dictionary with its codes of all rows; `setting` names all seeds together, `step` is the share of training."""

    setting: str
    seed: int
    step: float
    atoms: np.ndarray
    codes: np.ndarray
    rebuilt: np.ndarray


SETTINGS: Mapping[str, dict[str, Any]] = {
    "default, k = 2": {"k": 2},
    "default, k = 4": {"k": 4},
    "default, k = 8": {"k": 8},
    "default, k = 16": {"k": 16},
    "default, k = 32": {"k": 32},
    "random start, k = 8": {"k": 8, "init": "tied"},
    "random start, k = 32": {"k": 32, "init": "tied"},
    "128 latents, k = 8": {"k": 8, "latents": 128},
    "short, k = 8": {"k": 8, "init": "tied", "epochs": 2.0},
    "frozen atoms, k = 8": {"k": 8, "init": "tied", "frozen_decoder": True},
}
"""Training settings, as changes of the default preset."""

CORRUPTED = (0.0, 0.3, 1.0)
"""Shares of true directions that random ones replace."""

CHECKPOINTS = (0.0, 1 / 64, 1 / 16, 1 / 4, 1.0)
FOLLOWED = ("default, k = 8", "random start, k = 8", "random start, k = 32")
"""Settings whose checkpoints are scored."""

LATENTS, EPOCHS = 256, 20.0


def train_dictionaries(world: World, setting: str, seed: int) -> Iterator[Dictionary]:
    """Yield the trained dictionary, and before it its checkpoints where the setting is followed."""
    changes = dict(SETTINGS[setting])
    k, latents = changes.pop("k"), changes.pop("latents", LATENTS)
    config = TrainConfig.preset("default", **{"epochs": EPOCHS, "patience": None, **changes})
    frames = world.frames_of
    run = begin(world.rows[frames["train"]], world.rows[frames["valid"]], config, latents=latents, k=k, seed=seed)
    due = [round(share * run.plan.steps) for share in CHECKPOINTS] if setting in FOLLOWED else [run.plan.steps]
    if 0 in due:
        yield snapshot(run.sae, world, setting, seed, 0.0)
    for record in train_steps(run):
        if record.step in due or run.done:
            yield snapshot(run.sae, world, setting, seed, record.step / run.plan.steps)


@torch.no_grad()
def snapshot(sae: SparseAutoencoder, world: World, setting: str, seed: int, step: float) -> Dictionary:
    """Return the present state as a dictionary."""
    training = sae.training
    sae.eval()
    codes, rebuilt = (x.numpy() for x in sae(torch.from_numpy(world.rows)))
    sae.train(training)
    return Dictionary(setting, seed, step, sae.decoder.detach().numpy().copy(), codes, rebuilt)


def corrupted_dictionary(world: World, share: float, seed: int, *, k: int = 8) -> Dictionary:
    """Return the true directions, a share of them random, with codes by orthogonal matching pursuit."""
    rng = np.random.default_rng(seed)
    atoms = random_dictionary(LATENTS, world.rows.shape[1], seed=1000 + seed).astype(np.float64)
    kept = rng.random(len(world.directions)) >= share
    atoms[: len(world.directions)][kept] = world.directions[kept]
    codes = sparse_encode(world.rows.astype(np.float64), atoms, algorithm="omp", n_nonzero_coefs=k)
    return Dictionary(
        f"true, {share:.0%} random", seed, 1.0, atoms, codes.astype(np.float32), (codes @ atoms).astype(np.float32)
    )


class Name(NamedTuple):
    """A metric, and the protocol (and size) that it comes from."""

    metric: str
    protocol: str


Scores = dict[Name, float]
Score = Callable[[Dictionary, World], Scores]


def held_out_scores(found: Dictionary, world: World) -> Scores:
    """Return the means over targets of all metrics of the protocol `held_out`."""
    meter = ReconstructionMeter(world.rows[world.frames_of["train"]].mean(axis=0))
    test = world.frames_of["test"]
    meter.update(world.rows[test], found.rebuilt[test], found.codes[test], world.clips.groups[world.clip[test]])
    units = clip_means(found.codes, world)
    about = replace(ABOUT, protocol="held_out")
    records = list(reconstruction_records(meter.result(), "test", about))
    records += measure_representation(units, world.clips, HeldOutSettings(), about).records
    return means(records)


def strict_scores(found: Dictionary, world: World) -> Scores:
    """Return the means over targets of all metrics of the protocol `strict` that one dictionary has."""
    units, targets, about = clip_means(found.codes, world), world.targets, replace(ABOUT, protocol="strict")
    measured, dense = score_representation(units, targets, STRICT), dense_scores(world)
    common = CommonFactors(common_factors(dense, [measured], min_r2=STRICT.min_r2), targets.names, 15.0)
    linear = fit_ridge_scores(units, targets, folds=STRICT.folds)
    every = np.ones(len(targets.names), dtype=bool)
    records = [
        *structure_records(measured, common, about),
        *predicted_share_records(measured.lasso, STRICT.min_r2, about, among=every),
        *mean_r2_records(linear, common._replace(mask=every), about),
        *factor_curve_records(measured, common._replace(mask=every), STRICT, about),
        *label_curve_records(units, targets, STRICT, about),
    ]
    clips, repeat = world.clips, Repetitions(folds=STRICT.folds)
    for task in available_tasks(
        clips.labels, clips.factors, clips.factor_names, split=clips.split, target=clips.factor_names[0]
    ):
        records += evaluate_task(
            task, units, split=clips.split, groups=clips.groups, repeat=repeat, about=about
        ).records
    return means(records)


def study_scores(found: Dictionary, world: World) -> Scores:
    """Return the figures of the founding study on factors."""
    units, clips = clip_means(found.codes, world), world.clips
    side = {name: clips.split == name for name in ("train", "valid", "test")}
    test = side["test"]
    known = ClipTargets(
        *({"kind": clips.labels["kind"][rows]} for rows in side.values()),
        clips.groups[test],
        clips.groups[test],
        clips.factors[test],
        clips.factor_names,
    )
    views = SplitFeatures(units[None, side["train"]], units[side["valid"]], units[test], units[test])
    return means(
        measure_factors(views, known, STUDY, replace(ABOUT, protocol="mariotte2025"), width=units.shape[1], dense=False)
    )


def card_scores(found: Dictionary, world: World) -> Scores:
    """Return the blind score of cards, mean over the latents that follow the first features best.

    Strengths of features stand for the acoustic descriptors of frames. Latents are chosen on the training clips.
    """
    clips, names = world.clips, list(DESCRIPTORS)
    train = clips.split == "train"
    related = correlations(clip_means(found.codes, world)[train].astype(np.float64), clips.factors[train, : len(names)])
    latents = np.unique(np.nan_to_num(related, nan=-1.0).argmax(axis=0))
    described = described_frames(world)
    clip, noise = world.clip[described], np.random.default_rng(0)
    strengths = world.strengths[described, : len(names)]
    frames = FrameTable(
        descriptors={name: strengths[:, i] + 0.1 * noise.normal(size=len(clip)) for i, name in enumerate(names)},
        spectra=np.zeros((len(clip), 1)),
        labels=dict[str, np.ndarray](),
        groups=clips.groups[clip],
        clips=clip,
    )
    test = clips.split[clip] == "test"
    activations = {latent: found.codes[described, latent] for latent in latents.tolist()}
    cards = describe_latents({latent: a[~test] for latent, a in activations.items()}, frames.take(~test))
    scores = score_cards(list(cards.values()), [activations[latent][test] for latent in cards], frames.take(test))
    aurocs = [score.auroc for score in scores]
    known = [auroc for auroc in aurocs if math.isfinite(auroc)]
    return {Name("card_auroc", "explain"): float(np.mean(known))} if known else {}


def annotation_scores(found: Dictionary, world: World) -> Scores:
    """Return the F1 of the latent that answers to each feature, mean over features; each active frame is annotated."""
    described = described_frames(world)
    clip = np.unique(world.clip[described], return_inverse=True)[1]
    frame = np.arange(len(clip)) % int((clip == 0).sum())
    intervals: list[list[AnnotatedInterval]] = [[] for _ in range(int(clip.max()) + 1)]
    for row, feature in zip(*np.nonzero(world.strengths[described] > 0.5), strict=True):
        start_s = float(frame[row])
        intervals[clip[row]].append(AnnotatedInterval("features", start_s, start_s + 1, f"feature {feature}"))
    test = world.clips.split[world.clip[described]] == "test"
    group = np.unique(world.clips.groups[world.clip[described]], return_inverse=True)[1]
    frames = AnnotatedFrames(clip, frame.astype(float), frame + 1.0, group, test, intervals)
    units = latent_units(csr_matrix(found.codes[described]), ~test)
    return {Name("annotation_f1", "explain"): float(np.nanmean(score_labels(frames, [units])["f1"].to_numpy()))}


def splice_scores(found: Dictionary, world: World) -> Scores:
    """Return the shares that a later layer recovers, in cosine and in a probe of the label."""
    clips, width = world.clips, world.rows.shape[1]
    train, test = world.frames_of["train"], world.frames_of["test"]
    mean = later_layer(world.rows[train]).mean(axis=0)
    ablated = np.broadcast_to(world.rows[train].mean(axis=0), world.rows.shape)
    states = {
        name: later_layer(rows)
        for name, rows in {"untouched": world.rows, "spliced": found.rebuilt, "ablated": ablated}.items()
    }
    pooled = {name: clip_means(each, world) for name, each in states.items()}
    of = {name: clips.split == name for name in ("train", "test")}
    classes, groups = clips.labels["kind"], clips.groups[of["test"]]
    probe = Probes.fit(pooled["untouched"][of["train"]], {"kind": classes[of["train"]]}).fitted["kind"]
    true = classes[of["test"]]
    right = {name: (probe.predict(each[of["test"]]) == true).astype(float) for name, each in pooled.items()}
    frames = {name: each[test].reshape(int(of["test"].sum()), -1, width) for name, each in states.items()}
    cosine = {
        name: np.array([frame_cosine(*both, mean) for both in zip(each, frames["untouched"], strict=True)])
        for name, each in frames.items()
    }
    return {
        Name(f"splice_{name}_share", "explain"): score_shares(
            each["spliced"], each["untouched"], each["ablated"], groups
        ).recovered
        for name, each in {"cosine": cosine, "probe": right}.items()
    }


def intervention_scores(found: Dictionary, world: World) -> Scores:
    """Return the effect of adding the atom that follows a feature best, less its side effects, mean over features.

    Atoms have half of the mean norm of centred frames; readouts of the features read the later layer.
    """
    clips, known = world.clips, len(DESCRIPTORS)
    split = {name: clips.split == name for name in ("train", "valid", "test")}
    targets = concept_targets({}, clips.factors[:, :known], clips.factor_names[:known], train=split["train"])
    pooled = clip_means(later_layer(world.rows), world)
    readouts = fit_readouts(pooled, targets, train=split["train"], valid=split["valid"])
    rows, units = world.rows[world.frames_of["test"]].astype(np.float64), clip_means(found.codes, world)
    norm = 0.5 * float(np.linalg.norm(rows - rows.mean(axis=0), axis=1).mean())
    before = readouts(pooled[split["test"]])
    effects: list[float] = []
    for own in range(len(targets.concepts)):
        chosen = strongest_latents(units[~split["test"]], targets.values[~split["test"], own], top=1)
        if not len(chosen):
            continue
        atom = found.atoms[chosen[0]].astype(np.float64)
        states = later_layer(rows + norm * atom / max(float(np.linalg.norm(atom)), 1e-9))
        after = readouts(states.reshape(len(before), -1, states.shape[1]).mean(axis=1))
        change = (after - before).mean(axis=0)
        effects.append(float(change[own]) - side_effect(change, own, targets.entangled))
    return {Name("intervention_lead", "explain"): float(np.mean(effects))} if effects else {}


def erasure_scores(found: Dictionary, world: World) -> Scores:
    """Return how much more erasing the latent of a feature costs its own readout than those of others."""
    clips, known = world.clips, len(DESCRIPTORS)
    split = {name: clips.split == name for name in ("train", "valid", "test")}
    targets = concept_targets({}, clips.factors[:, :known], clips.factor_names[:known], train=split["train"])
    pooled = clip_means(later_layer(world.rows), world)
    readouts = fit_readouts(pooled, targets, train=split["train"], valid=split["valid"])
    test, units = world.frames_of["test"], clip_means(found.codes, world)
    rows, codes = world.rows[test].astype(np.float64), found.codes[test].astype(np.float64)
    outputs, erased = [readouts(pooled[split["test"]])], list[int]()
    for own in range(len(targets.concepts)):
        for latent in strongest_latents(units[~split["test"]], targets.values[~split["test"], own], top=1):
            states = later_layer(rows - codes[:, [latent]] * found.atoms[[latent]])
            outputs.append(readouts(states.reshape(len(outputs[0]), -1, states.shape[1]).mean(axis=1)))
            erased.append(own)
    if not erased:
        return {}
    concepts = np.arange(len(targets.concepts))
    sums = gain_sums(np.stack(outputs), targets.values[split["test"]], concepts, clips.groups[split["test"]])
    dominance = diagonal_dominance(sums, np.array(erased), ~targets.entangled[erased])
    return {Name("erasure_dominance", "explain"): dominance.dominance}


def attribution_scores(found: Dictionary, world: World) -> Scores:
    """Return the share of decisions of a probe that the first latent flips, less that of random ones."""
    clips, units = world.clips, clip_means(found.codes, world).astype(np.float64)
    rebuilt, atoms = clip_means(found.rebuilt, world), found.atoms.astype(np.float64)
    train, test = (clips.split == name for name in ("train", "test"))
    offset = (rebuilt - units @ atoms).mean(axis=0)
    scaler, model = Probes.fit(rebuilt[train], {"kind": clips.labels["kind"][train]}).fitted["kind"]
    weights = (model.coef_ / scaler.scale_).T
    bias = model.intercept_ - scaler.mean_ @ weights
    flipped, others = flipped_by_ablation(units[test], atoms, offset, weights, bias, removed=1)
    return {Name("ablation_flip_lead", "explain"): float(np.nanmean(flipped - others))}


def response_scores(found: Dictionary, world: World) -> Scores:
    """Return the variance of latents that the strength of their feature explains in frames of unseen groups."""
    clips, described = world.clips, described_frames(world)
    train = clips.split == "train"
    frames = described & world.frames_of["test"]
    clip, units = world.clip[frames], clip_means(found.codes, world)
    shares: list[float] = []
    for feature in range(len(DESCRIPTORS)):
        for latent in strongest_latents(units[train], clips.factors[train, feature], top=1):
            noisy = world.strengths[frames, feature] + 0.1 * np.random.default_rng(feature).normal(size=len(clip))
            activations = found.codes[frames, latent]
            curve = response_curve(activations, noisy, groups=clips.groups[clip], clips=clip, rotations=1)
            if curve is not None and math.isfinite(curve.r2):
                shares.append(curve.r2)
    return {Name("response_r2", "explain"): float(np.mean(shares))} if shares else {}


def later_layer(rows: np.ndarray) -> np.ndarray:
    """Return the output of a fixed random network of one hidden layer, which stands for the later layers."""
    rng, width = np.random.default_rng(0), rows.shape[1]
    first, second = (rng.normal(size=(width, width)) / width**0.5 for _ in range(2))
    return np.maximum(rows.astype(np.float64) @ first, 0.0) @ second


def described_frames(world: World) -> np.ndarray:
    """Return the mask of the frames of `CARD_CLIPS` clips, half of test groups."""
    chosen = choose_clips(world.clips.split.tolist(), world.clips.groups.tolist(), clips=CARD_CLIPS)
    return np.isin(world.clip, chosen)


CARD_CLIPS = 120
"""Clips whose frames are described for cards and annotated."""

OF_EXPLAIN = frozenset({
    "card_auroc", "annotation_f1", "splice_cosine_share", "splice_probe_share", "intervention_lead",
    "erasure_dominance", "ablation_flip_lead", "response_r2", "matched_share",
})  # fmt: skip
"""Scores of explanations, which are no metrics of `results.parquet`."""

SCORES: Sequence[Score] = (
    held_out_scores,
    strict_scores,
    study_scores,
    card_scores,
    annotation_scores,
    splice_scores,
    intervention_scores,
    erasure_scores,
    attribution_scores,
    response_scores,
)
"""Functions from a dictionary to scores by name; one that is no metric of the registry is listed with its own name."""

_DENSE: dict[int, RepresentationScores] = {}


def dense_scores(world: World) -> RepresentationScores:
    """Return the scores of the layer itself, computed once per process."""
    if id(world) not in _DENSE:
        _DENSE[id(world)] = score_representation(clip_means(world.rows, world), world.targets, STRICT)
    return _DENSE[id(world)]


def clip_means(rows: np.ndarray, world: World) -> np.ndarray:
    """Return the mean over the frames of each clip."""
    return rows.reshape(len(world.clips.split), -1, rows.shape[1]).mean(axis=1)


def means(records: Iterable[Record]) -> Scores:
    """Return the mean test value of each metric over its targets.

    The protocol `strict` writes some metrics per factor and over all common factors; the latter counts.
    """
    values: dict[Name, list[float]] = defaultdict(list)
    for record in records:
        per_factor = record.protocol == "strict" and record.metric in STRUCTURE and record.target
        if record.split == "test" and not per_factor and not math.isnan(record.value):
            size = f", {record.dimensions} dimensions" if record.dimensions else ""
            values[Name(record.metric, f"{record.protocol}{size}")].append(record.value)
    return {name: float(np.mean(found)) for name, found in values.items()}


class Measured(NamedTuple):
    """Scores of one dictionary, and its share of recovered features."""

    setting: str
    seed: int
    step: float
    recovered: float
    scores: Scores


def measure(found: Dictionary, world: World) -> Measured:
    """Score one dictionary."""
    scores = {name: value for score in SCORES for name, value in score(found, world).items()}
    return Measured(found.setting, found.seed, found.step, recovered_share(found.atoms, world.directions), scores)


def recovered_share(atoms: np.ndarray, directions: np.ndarray) -> float:
    """Return the share of true directions with an atom of at least `RECOVERED` cosine."""
    unit = atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)
    return float(((directions @ unit.T).max(axis=1) >= RECOVERED).mean())


def run_setting(setting: str, seeds: int) -> list[Measured]:
    """Train and score all seeds of a setting, with agreement between seeds among the scores."""
    with threadpool_limits(1):
        torch.set_num_threads(1)
        world = build_world()
        if setting in SETTINGS:
            found = [one for seed in range(seeds) for one in train_dictionaries(world, setting, seed)]
        else:
            found = [corrupted_dictionary(world, float(setting), seed) for seed in range(seeds)]
        measured = [measure(one, world) for one in found]
        return [with_stability(one, found, world, own) for own, one in zip(found, measured, strict=True)]


def with_stability(measured: Measured, found: Sequence[Dictionary], world: World, own: Dictionary) -> Measured:
    """Add the agreement with the next seed of the same setting and step."""
    others = [one for one in found if one.step == own.step and one.seed != own.seed]
    if not others:
        return measured
    other = next((one for one in others if one.seed > own.seed), others[0])
    codes = [clip_means(one.codes, world) for one in (own, other)]
    found_again = match_latents(*codes).correlation
    stable = {
        Name("mean_max_cosine", "strict"): mean_max_cosine(own.atoms, other.atoms),
        Name("matched_correlation", "strict"): float(np.nanmean(found_again)),
        Name("reappearing_share", "strict"): float(np.nanmean(found_again >= CORRELATION)),
        Name("matched_share", "explain"): match_codes(*codes).share,
    }
    return measured._replace(scores={**measured.scores, **stable})


def audit(measured: Sequence[Measured]) -> list[Audited]:
    """Return one row per metric, the ones that follow the truth first."""
    final = [one for one in measured if one.step == 1.0]
    names = list(dict.fromkeys(name for one in measured for name in one.scores))
    rows = [_audit_one(name, measured, final) for name in names]
    return sorted(rows, key=lambda row: -row.truth if math.isfinite(row.truth) else 2.0)


def _audit_one(name: Name, measured: Sequence[Measured], final: Sequence[Measured]) -> Audited:
    metric = METRICS.get(name.metric)
    sign = -1.0 if metric is not None and metric.higher_is_better is False else 1.0
    by_setting: dict[str, list[float]] = defaultdict(list)
    runs: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for one in measured:
        value = one.scores.get(name, math.nan)
        if one.step == 1.0 and math.isfinite(value) and one.setting in SETTINGS:
            by_setting[one.setting].append(value)
        if one.setting in FOLLOWED and math.isfinite(value):
            runs[one.setting, one.seed].append((one.step, value))
    several = [np.asarray(values) for values in by_setting.values() if len(values) > 1]
    degrees = sum(len(values) - 1 for values in several)
    seeds = (
        math.sqrt(sum(values.var(ddof=1) * (len(values) - 1) for values in several) / degrees) if degrees else math.nan
    )
    known = [(one.recovered, one.scores[name]) for one in final if math.isfinite(one.scores.get(name, math.nan))]
    return Audited(
        metric=name.metric,
        protocol=name.protocol,
        seeds=seeds,
        checkpoints=sign * float(np.mean([_rank_correlation(run) for run in runs.values()])) if runs else math.nan,
        truth=sign * _rank_correlation(known),
        difference=float(t.ppf(0.975, degrees)) * math.sqrt(2) * seeds if degrees else math.nan,
        dictionaries=len(known),
    )


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation; 0 where either side is constant."""
    one, other = np.asarray(pairs).T if len(pairs) > 2 else (np.zeros(1), np.zeros(1))
    return float(spearmanr(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else 0.0


def to_markdown(rows: Sequence[Audited]) -> str:
    """Return the table of docs/methods.md."""
    lines = ["| metric | protocol | truth | checkpoints | seeds | smallest difference |", "|---|---|---|---|---|---|"]
    for row in rows:
        numbers = (f"{row.truth:.2f}", f"{row.checkpoints:.2f}", f"{row.seeds:.2g}", f"{row.difference:.2g}")
        cells = (f"`{row.metric}`", row.protocol, *(number.replace("-", "−") for number in numbers))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


BEGIN, END = "<!-- audit -->", "<!-- end of audit -->"


def write(rows: Sequence[Audited]) -> None:
    """Store the table in the package and between two marks in the documentation."""
    AUDIT_FILE.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n", encoding="utf-8")
    audited_metrics.cache_clear()
    page = DOCS.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}\n{to_markdown(audited_metrics())}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="store the table in the package and in docs/methods.md")
    parser.add_argument("--quick", action="store_true", help="two settings of two seeds")
    parser.add_argument("--seeds", type=int, default=4, help="seeds per setting")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    settings = [*SETTINGS, *(str(share) for share in CORRUPTED)]
    seeds = options.seeds
    if options.quick:
        settings, seeds = ["default, k = 8", "1.0"], 2
    began = time.perf_counter()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(run_setting, settings, [seeds] * len(settings)))
    measured = [one for part in parts for one in part]
    for one in measured:
        if one.step == 1.0 and one.seed == 0:
            print(f"{one.setting}: {one.recovered:.0%} of the features recovered")
    rows = audit(measured)
    print(to_markdown(rows))
    print(f"not audited, no property of one dictionary: {', '.join(sorted(OF_LAYERS))}")
    if options.write:
        write(rows)
    print(
        json.dumps(
            {"bench": "audit", "seconds": round(time.perf_counter() - began), "rows": [row.to_json() for row in rows]}
        )
    )


if __name__ == "__main__":
    main()
