"""Every metric that a table of results may hold, of one made-up encoder, by the functions that write such tables."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.config.strict import StrictSettings
from otoscope.metrics.record import Record
from otoscope.protocols import held_out
from otoscope.protocols.mariotte2025.measure import Known, Views, judge_factors
from otoscope.protocols.strict.layers_and_limits import Level, layers_of, limits_of
from otoscope.protocols.strict.regression import factor_records, predicted_share, read_linearly
from otoscope.protocols.strict.seeds import repeated
from otoscope.protocols.strict.structure import (
    Common,
    Measured,
    common_factors,
    factor_curve,
    label_curves,
    mean_r2,
    measure,
    structure,
)
from otoscope.protocols.strict.tasks import Asked, Repetitions, ask, ask_of, counted, tasks_of
from otoscope.runs.inputs import Clips, Features
from tests.support.reconstruction import measure_reconstruction

Key = tuple[str, ...]
"""Protocol, metric, target, split, layer and dimensions of a number."""

GROUPS = np.array([f"g{i:02d}" for i in np.repeat(np.arange(14), 12)])
SPLIT = np.repeat(["train", "valid", "test"], [96, 24, 48])
NAMES = ("pitch a", "pitch b", "pitch c", "formant a", "formant b", "formant c")
CATEGORIES = dict(zip(NAMES, ["pitch"] * 3 + ["formants"] * 3, strict=True))
STRICT = StrictSettings(permutations=2, sizes=(1, 2, 4), folds=3)
LEVELS = (0.5, 0.75, 0.9, 0.95)
RESAMPLES = 20
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
    return Encoded(layers, again, atoms, others), Clips(SPLIT, GROUPS, labels, factors, NAMES)


def every_metric(given: Encoded, clips: Clips) -> dict[Key, float]:
    """Return every number that the protocols write of these codes."""
    asked = ask_of(clips, CATEGORIES, near_duplicates=0.9)
    return _by_key(_records(given, clips, asked))


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


def _records(given: Encoded, clips: Clips, asked: Asked) -> Iterator[Record]:
    codes = given.layers[-1]
    about = replace(ABOUT, protocol="held_out")
    brief = held_out.HeldOutSettings(permutations=2, resamples=RESAMPLES)
    yield from held_out.measure(Features(codes, codes), clips, brief, about)
    rows = codes @ given.atoms + 1.0
    rebuilt = rows + 0.1 * np.sin(np.arange(rows.size)).reshape(rows.shape)
    quality = measure_reconstruction(rows, rebuilt, codes, clips.groups, mean_train=rows.mean(axis=0))
    yield from held_out.rebuilt(quality, "test", about)
    yield from _strict(given, asked, replace(about, protocol="strict"))
    yield from _study(codes, clips, replace(about, protocol="mariotte2025"), CORRECTED)


def _strict(given: Encoded, asked: Asked, about: Record) -> Iterator[Record]:
    codes = given.layers[-1]
    read = {i: read_linearly(layer, asked, folds=3, permutations=2) for i, layer in enumerate(given.layers)}
    found: Measured = measure(codes, asked, STRICT, resamples=RESAMPLES)
    common = Common(common_factors(found, [found], min_r2=0.1), asked.names, 5.0)
    yield from counted(asked, about)
    yield from factor_records(found.reading, asked, about)
    yield from predicted_share(found.reading, 0.1, about, among=np.ones(len(asked.names), dtype=bool))
    yield from structure(found, common, about)
    yield from mean_r2(read[2], common, about, resamples=RESAMPLES)
    yield from factor_curve(found, common, STRICT, about)
    yield from label_curves(codes, asked, STRICT, about, resamples=RESAMPLES)
    yield from layers_of(read, asked, about, resamples=RESAMPLES)
    yield from _limited(codes, asked, common, about)
    repeat = Repetitions(permutations=2, resamples=RESAMPLES, folds=3)
    clips = asked.clips
    for task in tasks_of(clips.labels, clips.factors, clips.factor_names, split=clips.split, target="pitch a"):
        yield from ask(task, codes, split=clips.split, groups=clips.groups, repeat=repeat, about=about).records
    seeds = repeated([given.atoms, given.atoms_again], [codes, given.again], groups=clips.groups, about=about)
    yield from seeds.records


def _limited(codes: np.ndarray, asked: Asked, common: Common, about: Record) -> Iterator[Record]:
    """Codes cut to their largest values, relative to each latent's own largest, stand for sparser dictionaries."""
    height = codes / np.maximum(codes.max(axis=0), 1e-12)
    levels: dict[float, Level] = {}
    for level in LEVELS:
        kept = np.where(height >= level / 2, codes, 0)
        linear = read_linearly(kept, asked, folds=3, permutations=1)
        (mean,) = [r.value for r in mean_r2(linear, common, about, resamples=2)] or [np.nan]
        levels[level] = Level(mean, np.full(RESAMPLES, mean))
    yield from limits_of(levels, kind="factors", target="cut", about=about)


def _study(codes: np.ndarray, clips: Clips, about: Record, switches: Mariotte2025Settings) -> Iterator[Record]:
    """The study's figures on factors; its probe, which sees the unit of latents, is left out."""
    test = clips.split == "test"
    sides = {name: clips.labels["high"][clips.split == name] for name in ("train", "valid", "test")}
    known = Known(
        *({"high": side} for side in sides.values()),
        clips.groups[test],
        clips.groups[test],
        clips.factors[test],
        clips.factor_names,
    )
    views = Views(codes[None, clips.split == "train"], codes[clips.split == "valid"], codes[test], codes[test])
    yield from judge_factors(views, known, switches, about, width=5, dense=True)
