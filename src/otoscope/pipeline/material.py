"""What every protocol is given: the activations, and what is known of each clip."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.config import RunConfig
from otoscope.corpus.table import Corpus
from otoscope.factors.table import FactorTable
from otoscope.metrics.record import Record
from otoscope.pipeline.clips import Clips
from otoscope.pipeline.context import Context
from otoscope.pipeline.labels import probed_labels
from otoscope.pipeline.sound import load_corpus


@dataclass(frozen=True)
class Material:
    """The store, its clips, and their labels and factors, all in the store's order."""

    store: ActivationStore
    corpus: Corpus
    factors: FactorTable
    clips: Clips

    @property
    def identity(self) -> str:
        """What every number rests on: activations, splits, labels and factors."""
        return fingerprint(self.store.as_read(), identity_of(self.clips))

    def about(self, layer: int, *, protocol: str, representation: str, pooling: str) -> Record:
        """Return what all records of one representation share."""
        return Record(
            metric="l0",
            value=0.0,
            split="test",
            protocol=protocol,
            encoder=self.store.card["encoder"]["name"],
            layer=layer,
            representation=representation,
            pooling=pooling,
        )


def gather(run: Context) -> Material:
    """Read what the stages before wrote."""
    store = ActivationStore.open(run.folder.activations)
    corpus = load_corpus(run.folder).keep(store.clip_ids)
    factors = FactorTable.load(run.folder.factors)
    return Material(store, corpus, factors, known_of(corpus, factors, run.config))


def known_of(corpus: Corpus, table: FactorTable, config: RunConfig) -> Clips:
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


def identity_of(clips: Clips) -> str:
    """Return the fingerprint of splits, groups, labels and factors."""
    known = {name: values.tolist() for name, values in clips.labels.items()}
    factors = [np.nan_to_num(clips.factors, nan=-1e300).tobytes().hex(), list(clips.factor_names)]
    return fingerprint(clips.split.tolist(), clips.groups.tolist(), known, factors)
