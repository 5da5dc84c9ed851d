"""Inputs of every protocol: activations, and the labels, groups, splits and factors of the clips."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int, Shaped

from otoscope.activations.plan import clip_keys, sound_id
from otoscope.activations.segments import Segments
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.config import ExtractSettings, RunConfig
from otoscope.corpus.table import SPLITS, Corpus, is_constant_within_groups
from otoscope.errors import ConfigError, StaleArtifact, quote
from otoscope.factors.table import FactorTable
from otoscope.formatting import count
from otoscope.metrics.predictions import PREDICTIONS
from otoscope.metrics.record import Record
from otoscope.metrics.robust_factors import without_sentinels
from otoscope.resampling.groups import fold_splits, labelled_splits
from otoscope.runs.context import Context
from otoscope.runs.folder import RunFolder, load_corpus


def probed_labels(corpus: Corpus, config: RunConfig) -> list[str]:
    """Return the labels to probe: those that the configuration names, by default all that can be probed.

    Raises `CorpusError` when a named label does not exist and `ConfigError` when it cannot be probed.
    """
    labels = config.evaluate.labels
    if labels is None:
        return probeable_labels(corpus.clips)
    for name in labels:
        if reason := unprobeable_reason(corpus.clips, corpus.label(name)):
            raise ConfigError(f"evaluate.labels: {name!r} cannot be probed: {reason}. Or remove it from the list")
    return list(labels)


def probeable_labels(clips: pl.DataFrame) -> list[str]:
    """Return the labels of a corpus's clips that can be probed on unseen groups."""
    columns = [column for column in clips.columns if column.startswith("label_")]
    return [one.removeprefix("label_") for one in columns if unprobeable_reason(clips, clips[one]) is None]


def default_covariates(clips: pl.DataFrame) -> list[str]:
    """Return the labels that are constant within groups and have two groups or more in two classes or more.

    >>> sexes, names = ["f", "f", "m", "m"], ["ann", "bea", "cy", "dan"]
    >>> default_covariates(pl.DataFrame({"group": names, "label_sex": sexes, "label_name": names}))
    ['sex']
    """
    found: list[str] = []
    for column in (name for name in clips.columns if name.startswith("label_")):
        groups = clips.drop_nulls(column).group_by(column).agg(pl.col("group").n_unique())["group"]
        label = column.removeprefix("label_")
        if (groups >= MIN_COVARIATE_GROUPS).sum() >= MIN_COVARIATE_CLASSES and is_constant_within_groups(clips, label):
            found.append(label)
    return found


MIN_COVARIATE_GROUPS, MIN_COVARIATE_CLASSES = 2, 2
"""Groups of a class, and such classes, that a covariate needs: a class of one group is that group."""


def unprobeable_reason(clips: pl.DataFrame, column: pl.Series) -> str | None:
    """Return the reason why a label of the clips cannot be probed on unseen groups, or None when it can."""
    if len(classes := column.drop_nulls().unique()) < 2:
        only = f"all its clips have the one class {classes[0]!r}" if len(classes) else "no clip has it"
        return f"{only}; a probe needs two classes, so add recordings of another"
    is_crossed = "fold" in clips.columns
    where = "in a fold of the cross-fit, " if is_crossed else ""
    named = "" if is_crossed else ", or choose the groups (splits.valid_groups, splits.test_groups)"
    remedy = f"; add recordings of each class by further groups{named}"
    splits = labelled_splits(reader_split(clips), column.is_not_null().to_numpy())
    reasons = (_unprobeable_in(column, pl.Series(split)) for _, split in splits)
    return next((where + reason + remedy for reason in reasons if reason), None)


def reader_split(clips: pl.DataFrame) -> Shaped[np.ndarray, "*folds clips"]:
    """Return the split of a corpus's clips for readers: the one split, or that of each fold of a cross-fit."""
    return fold_splits(clips["fold"].to_numpy()) if "fold" in clips.columns else clips["split"].to_numpy()


def _unprobeable_in(column: pl.Series, of: pl.Series) -> str | None:
    classes = {split: column.filter(of == split).drop_nulls().unique().sort() for split in SPLITS}
    if empty := [split for split, names in classes.items() if names.is_empty()]:
        return f"no clip of {' and '.join(empty)} has it"
    if len(classes["train"]) == 1:
        return f"all clips of train have the one class {classes['train'][0]!r}"
    for split in ("valid", "test"):
        if not set(classes["train"]) & set(classes[split]):
            return f"no class is in both train and {split}"
    return None


@dataclass(frozen=True)
class ProtocolRun:
    """Planned evaluation by one protocol: fingerprint of its inputs, computation, resulting tables.

    `predictions` are the classes that its probes predict, with the columns of `PREDICTIONS`.
    """

    inputs: str
    compute: Callable[[], None]
    table: Callable[[], pl.DataFrame]
    predictions: Callable[[], pl.DataFrame] = lambda: pl.DataFrame(schema=PREDICTIONS)


@dataclass(frozen=True)
class Clips:
    """Splits, groups, labels and factors of the clips; all arrays have the same order.

    `fold` is the fold in which each clip is tested, if readers are cross-fitted.
    """

    split: Shaped[np.ndarray, " clips"]
    groups: Shaped[np.ndarray, " clips"]
    labels: dict[str, Shaped[np.ndarray, " clips"]]
    factors: Float[np.ndarray, "clips factors"]
    factor_names: tuple[str, ...]
    covariates: dict[str, Shaped[np.ndarray, " clips"]] = field(default_factory=dict[str, Any])
    fold: Int[np.ndarray, " clips"] | None = None

    @property
    def reader_split(self) -> Shaped[np.ndarray, "*folds clips"]:
        """Split of the clips for readers: the one split, or that of each fold of a cross-fit."""
        return self.split if self.fold is None else fold_splits(self.fold)

    @property
    def folds(self) -> int:
        """Number of folds in which readers are fitted; 1 for the one split."""
        return len(np.atleast_2d(self.reader_split))

    def split_in(self, fold: int | None) -> Shaped[np.ndarray, " clips"]:
        """Split of the clips in a fold of the cross-fit; None: the one split."""
        return self.split if fold is None else np.atleast_2d(self.reader_split)[fold]


@dataclass(frozen=True)
class EvaluationInputs:
    """Activation store, corpus, factors and clip arrays, all in the order of the store."""

    store: ActivationStore
    corpus: Corpus
    factors: FactorTable
    clips: Clips

    @property
    def fingerprint(self) -> str:
        """Fingerprint of activations, splits, labels and factors."""
        return fingerprint(self.store.content_id(), clips_fingerprint(self.clips))

    def record_template(self, layer: int, *, protocol: str, representation: str, pooling: str) -> Record:
        """Return a record with the fields that all records of one representation share."""
        return Record(
            metric="l0",
            value=0.0,
            split="test",
            protocol=protocol,
            encoder=self.store.manifest["encoder"]["name"],
            layer=layer,
            representation=representation,
            pooling=pooling,
        )


def read_segments(settings: ExtractSettings) -> Segments | None:
    """Return the segments of a configuration, None if it has none."""
    if settings.segments is not None:
        return Segments.read(settings.segments)
    return None if settings.segment_s is None else Segments(every_s=settings.segment_s)


def open_activations(folder: RunFolder, config: RunConfig) -> ActivationStore:
    """Open the store of a run; raise `StaleArtifact` unless it holds the clips of the run's corpus and no others.

    A store at another address (`extract.store`) may have been written by another run since.
    """
    store, corpus = ActivationStore.open(folder.activations), load_corpus(folder)
    if not holds_sound(store.manifest, corpus, config.extract):
        raise StaleArtifact(
            f"{store.folder} holds other clips than this run's corpus of {count(corpus.clips.height, 'clip')}: "
            f"{stored_corpus(store.manifest)}; run `otoscope extract` with this configuration"
        )
    return store


def holds_sound(manifest: Mapping[str, Any], corpus: Corpus, settings: ExtractSettings) -> bool:
    """Return whether a store was written from the sound (and segments) of these clips, and of no others."""
    return manifest["corpus"]["sound"] == sound_id(clip_keys(corpus, read_segments(settings)))


def stored_corpus(manifest: Mapping[str, Any]) -> str:
    """Describe the corpus of a store, for messages."""
    return f"{count(manifest['corpus']['clips'], 'clip')} of the corpus {quote(manifest['corpus']['name'])}"


def load_inputs(run: Context) -> EvaluationInputs:
    """Load the artifacts that protocols read."""
    store = open_activations(run.folder, run.config)
    corpus = load_corpus(run.folder).select(store.clip_ids)
    factors = FactorTable.load(run.folder.factors)
    return EvaluationInputs(store, corpus, factors, clip_arrays(corpus, factors, run.config))


def clip_arrays(corpus: Corpus, table: FactorTable, config: RunConfig) -> Clips:
    """Return labels, groups, splits and factors as arrays in the order of the corpus.

    Factors that openSMILE cannot measure in a clip without voice are missing (`without_sentinels`). Only the study's
    method reads its values as they are, from the table.

    Raises what `probed_labels` raises, and `CorpusError` for a covariate that the corpus does not have.
    """
    asked = config.evaluate.covariates
    covariates = default_covariates(corpus.clips) if asked is None else asked
    factors = without_sentinels(table.values(corpus.clips["clip_id"].to_list()), table.names)
    return Clips(
        split=corpus.clips["split"].to_numpy(),
        groups=corpus.clips["group"].to_numpy(),
        labels={name: _label(corpus, name) for name in probed_labels(corpus, config)},
        factors=factors,
        factor_names=tuple(table.names),
        covariates={name: _label(corpus, name) for name in covariates},
        fold=corpus.clips["fold"].to_numpy() if "fold" in corpus.clips.columns else None,
    )


def _label(corpus: Corpus, name: str) -> Shaped[np.ndarray, " clips"]:
    """Return the class of each clip, empty where unknown."""
    return corpus.label(name).fill_null("").to_numpy()


def clips_fingerprint(clips: Clips) -> str:
    """Return the fingerprint of splits, groups, labels and factors."""
    labels = {name: values.tolist() for name, values in [*clips.labels.items(), *clips.covariates.items()]}
    factors = [np.nan_to_num(clips.factors, nan=-1e300).tobytes().hex(), list(clips.factor_names)]
    return fingerprint(clips.split.tolist(), clips.reader_split.tolist(), clips.groups.tolist(), labels, factors)
