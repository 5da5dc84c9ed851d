"""Every metric that a table of results may hold, of one made-up encoder, by the functions that write such tables."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.config.strict import StrictSettings
from otoscope.metrics.record import Record
from otoscope.protocols import held_out
from otoscope.protocols.mariotte2025.measure import ClipTargets, SplitFeatures, measure_factors
from otoscope.protocols.strict.compare import choosing_records
from otoscope.protocols.strict.differences import (
    TaskScores,
    curve_differences,
    factor_difference,
    structure_differences,
    task_difference,
)
from otoscope.protocols.strict.layers_and_limits import Level, layer_records, limit_records
from otoscope.protocols.strict.regression import factor_records, fit_ridge_scores, predicted_share_records
from otoscope.protocols.strict.seeds import Dictionaries, compare_seeds
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
from otoscope.protocols.strict.tasks import (
    FactorTargets,
    Repetitions,
    available_tasks,
    effective_rank_records,
    evaluate_task,
    prepare_factors,
)
from otoscope.runs.inputs import Clips
from tests.support.reconstruction import measure_reconstruction

Key = tuple[str, ...]
"""Protocol, metric, target, split, layer and dimensions of a number."""

GROUPS = np.array([f"g{i:02d}" for i in np.repeat(np.arange(14), 12)])
SPLIT = np.repeat(["train", "valid", "test"], [96, 24, 48])
NAMES = ("pitch a", "pitch b", "pitch c", "formant a", "formant b", "formant c")
CATEGORIES = dict(zip(NAMES, ["pitch"] * 3 + ["formants"] * 3, strict=True))
STRICT = StrictSettings(sizes=(1, 2, 4), folds=3)
LEVELS = (0.5, 0.75, 0.9, 0.95)
ABOUT = Record(metric="l0", value=0.0, split="test", representation="sae", layer=2)
CORRECTED = Mariotte2025Settings(
    completeness_normaliser="live", completeness_of_unpredicted="nan", disentanglement_average="sum"
)
"""The switches that dead latents and unpredicted factors fall under."""


@dataclass(frozen=True)
class Encoded:
    """Codes of each layer, and of the last layer from a second seed, with the atoms that they weigh."""

    layers: tuple[np.ndarray, ...]
    again: np.ndarray
    atoms: np.ndarray
    atoms_again: np.ndarray

    def changed(self, order: np.ndarray, unit: np.ndarray, dead: int) -> "Encoded":
        """Return the same in another order and unit of latents, the same rows rebuilt, dead latents at the end."""

        def codes(given: np.ndarray) -> np.ndarray:
            return np.concatenate([given[:, order] * unit, np.zeros((len(given), dead))], axis=1)

        def atoms(given: np.ndarray) -> np.ndarray:
            return np.concatenate([given[order] / unit[:, None], np.zeros((dead, given.shape[1]))])

        return Encoded(tuple(map(codes, self.layers)), codes(self.again), atoms(self.atoms), atoms(self.atoms_again))


def made_up(seed: int) -> tuple[Encoded, Clips]:
    """Sparse codes of three layers, of which the later know more of six factors and two labels."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(168, 6))
    parts = np.maximum(np.concatenate([factors, -factors], axis=1), 0)
    layers = tuple(parts + np.maximum(noise * rng.normal(size=parts.shape), 0) for noise in (2.0, 1.0, 0.3))
    again = parts[:, rng.permutation(12)] + np.maximum(0.3 * rng.normal(size=parts.shape), 0)
    labels = {
        "high": np.where(factors[:, 0] + 0.3 * rng.normal(size=168) > 0, "yes", "no"),
        "shape": np.array(["round", "flat", "long"])[np.digitize(factors[:, 3], [-0.5, 0.5])],
    }
    atoms, others = rng.normal(size=(2, 12, 5))
    return Encoded(layers, again, atoms, others), Clips(
        SPLIT, GROUPS, labels, factors, NAMES, covariates={"shape": labels["shape"]}
    )


def every_metric(given: Encoded, clips: Clips) -> dict[Key, float]:
    """Return every number that the protocols write of these codes."""
    targets = prepare_factors(clips, CATEGORIES, near_duplicates=0.9)
    return _by_key(_records(given, clips, targets))


def study_figures(given: Encoded, clips: Clips, switches: Mariotte2025Settings) -> dict[Key, float]:
    """Return the study's figures on factors under some switches."""
    return _by_key(_study(given.layers[-1], clips, ABOUT, switches))


def _by_key(records: Iterator[Record]) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for record in records:
        key = (record.protocol, record.metric, record.target, record.split, str(record.layer), str(record.dimensions))
        assert key not in found, key
        found[key] = record.value
    return found


def _records(given: Encoded, clips: Clips, targets: FactorTargets) -> Iterator[Record]:
    codes = given.layers[-1]
    about = replace(ABOUT, protocol="held_out")
    brief = held_out.HeldOutSettings()
    yield from held_out.measure_representation(codes, clips, brief, about).records
    rows = codes @ given.atoms + 1.0
    rebuilt = rows + 0.1 * np.sin(np.arange(rows.size)).reshape(rows.shape)
    quality = measure_reconstruction(rows, rebuilt, codes, clips.groups, mean_train=rows.mean(axis=0))
    yield from held_out.reconstruction_records(quality, "test", about)
    yield from _strict(given, targets, replace(about, protocol="strict"))
    yield from _study(codes, clips, replace(about, protocol="mariotte2025"), CORRECTED)


def _strict(given: Encoded, targets: FactorTargets, about: Record) -> Iterator[Record]:
    codes = given.layers[-1]
    read = {i: fit_ridge_scores(layer, targets, folds=3) for i, layer in enumerate(given.layers)}
    found: RepresentationScores = score_representation(codes, targets, STRICT)
    common = CommonFactors(common_factors(found, [found], min_r2=0.1), targets.names, 5.0)
    yield from effective_rank_records(targets, about)
    yield from factor_records(found.lasso, targets, about)
    yield from predicted_share_records(found.lasso, 0.1, about, among=np.ones(len(targets.names), dtype=bool))
    yield from structure_records(found, common, about)
    yield from mean_r2_records(read[2], common, about)
    yield from factor_curve_records(found, common, STRICT, about)
    yield from label_curve_records(codes, targets, STRICT, about)
    yield from layer_records(read, targets, about)
    yield from choosing_records([2, 1, 2], lambda layer: replace(about, layer=layer))
    yield from _limited(codes, targets, common, about)
    repeat = Repetitions(folds=3)
    clips = targets.clips
    for task in available_tasks(clips.labels, clips.factors, clips.factor_names, split=clips.split, target="pitch a"):
        answer, other = (
            evaluate_task(task, units, split=clips.split, groups=clips.groups, repeat=repeat, about=about)
            for units in (codes, given.layers[1])
        )
        yield from answer.records
        scores = [TaskScores(one.sums, one.shares) for one in (answer, other)]
        yield task_difference(task, scores[:1], scores[1], about)
    compared = score_representation(given.layers[1], targets, STRICT)
    yield from factor_difference([read[2].squares], read[1].squares, common, about)
    yield from structure_differences([found], compared, common, about)
    yield from curve_differences([found], compared, common, STRICT.sizes, about)
    seeds = compare_seeds(
        Dictionaries([given.atoms, given.atoms_again], [codes, given.again]), groups=clips.groups, about=about
    )
    yield from seeds.records


def _limited(codes: np.ndarray, targets: FactorTargets, common: CommonFactors, about: Record) -> Iterator[Record]:
    """Codes cut to their largest values, relative to each latent's own largest, stand for sparser dictionaries."""
    height = codes / np.maximum(codes.max(axis=0), 1e-12)
    levels: dict[float, Level] = {}
    for level in LEVELS:
        kept = np.where(height >= level / 2, codes, 0)
        linear = fit_ridge_scores(kept, targets, folds=3)
        (mean,) = [r.value for r in mean_r2_records(linear, common, about)] or [np.nan]
        levels[level] = Level(mean, np.full(3, mean))
    yield from limit_records(levels, kind="factors", target="cut", about=about)


def _study(codes: np.ndarray, clips: Clips, about: Record, switches: Mariotte2025Settings) -> Iterator[Record]:
    """The study's figures on factors; its probe, which sees the unit of latents, is left out."""
    test = clips.split == "test"
    sides = {name: clips.labels["high"][clips.split == name] for name in ("train", "valid", "test")}
    known = ClipTargets(
        *({"high": side} for side in sides.values()),
        clips.groups[test],
        clips.groups[test],
        clips.factors[test],
        clips.factor_names,
    )
    views = SplitFeatures(codes[None, clips.split == "train"], codes[clips.split == "valid"], codes[test], codes[test])
    yield from measure_factors(views, known, switches, about, width=5, dense=True)
