"""What every protocol is given: the activations, and what is known of each clip.

Which labels of a corpus can be probed across groups, and why the others cannot.

What a protocol promises before it works.

Clips and their representations, as arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.config import RunConfig
from otoscope.corpus.table import SPLITS, Corpus
from otoscope.errors import ConfigError
from otoscope.factors.table import FactorTable
from otoscope.metrics.record import Record
from otoscope.runs.context import Context
from otoscope.runs.folder import load_corpus


def probed_labels(corpus: Corpus, config: RunConfig) -> list[str]:
    """Return the labels to probe: those that the configuration names, or all that can be.

    Raises `CorpusError` when a named label does not exist and `ConfigError` when it cannot be probed.
    """
    wanted = config.evaluate.labels
    if wanted is None:
        return [name for name in corpus.labels if unprobeable_reason(corpus, name) is None]
    for name in wanted:
        if reason := unprobeable_reason(corpus, name):
            raise ConfigError(
                f"evaluate.labels: {name!r} cannot be probed: {reason}; leave it out, or deal other splits"
            )
    return list(wanted)


def unprobeable_reason(corpus: Corpus, name: str) -> str | None:
    """Say why a label cannot be probed on unseen groups, or return None when it can."""
    column = corpus.label(name)
    classes = {side: column.filter(corpus.clips["split"] == side).drop_nulls().unique().sort() for side in SPLITS}
    if empty := [side for side, found in classes.items() if found.is_empty()]:
        return f"no clip of {' and '.join(empty)} has it"
    if len(classes["train"]) == 1:
        return f"all clips of train have the one class {classes['train'][0]!r}"
    if not set(classes["train"]) & set(classes["test"]):
        return "no class is in both train and test"
    return None


@dataclass(frozen=True)
class ProtocolRun:
    """Everything that a protocol's rows rest on, what brings them up to date, and the rows once they are."""

    inputs: str
    compute: Callable[[], None]
    table: Callable[[], pl.DataFrame]


@dataclass(frozen=True)
class Clips:
    """What is known of each clip, the same for every representation; all arrays share the clips' order."""

    split: Shaped[np.ndarray, " clips"]
    groups: Shaped[np.ndarray, " clips"]
    labels: dict[str, Shaped[np.ndarray, " clips"]]
    factors: Float[np.ndarray, "clips factors"]
    factor_names: tuple[str, ...]


class Features(NamedTuple):
    """One representation of clips: rows for probes, and rows in which a column is a latent or a unit."""

    probe: Float[np.ndarray, "clips statistics"]
    units: Float[np.ndarray, "clips units"]


@dataclass(frozen=True)
class EvaluationInputs:
    """The store, its clips, and their labels and factors, all in the store's order."""

    store: ActivationStore
    corpus: Corpus
    factors: FactorTable
    clips: Clips

    @property
    def fingerprint(self) -> str:
        """What every number rests on: activations, splits, labels and factors."""
        return fingerprint(self.store.content_id(), clips_fingerprint(self.clips))

    def record_template(self, layer: int, *, protocol: str, representation: str, pooling: str) -> Record:
        """Return what all records of one representation share."""
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


def load_inputs(run: Context) -> EvaluationInputs:
    """Read what the stages before wrote."""
    store = ActivationStore.open(run.folder.activations)
    corpus = load_corpus(run.folder).select(store.clip_ids)
    factors = FactorTable.load(run.folder.factors)
    return EvaluationInputs(store, corpus, factors, clip_arrays(corpus, factors, run.config))


def clip_arrays(corpus: Corpus, table: FactorTable, config: RunConfig) -> Clips:
    """Gather labels, groups, splits and factors of the clips, in their order.

    Raises what `probed_labels` raises.
    """
    factors = table.values(corpus.clips["clip_id"].to_list())
    return Clips(
        split=corpus.clips["split"].to_numpy(),
        groups=corpus.clips["group"].to_numpy(),
        labels={name: _label(corpus, name) for name in probed_labels(corpus, config)},
        factors=factors,
        factor_names=tuple(table.names),
    )


def _label(corpus: Corpus, name: str) -> Shaped[np.ndarray, " clips"]:
    """Return a label's class of each clip, empty where it is unknown."""
    return corpus.label(name).fill_null("").to_numpy()


def clips_fingerprint(clips: Clips) -> str:
    """Return the fingerprint of splits, groups, labels and factors."""
    known = {name: values.tolist() for name, values in clips.labels.items()}
    factors = [np.nan_to_num(clips.factors, nan=-1e300).tobytes().hex(), list(clips.factor_names)]
    return fingerprint(clips.split.tolist(), clips.groups.tolist(), known, factors)
