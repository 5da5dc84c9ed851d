"""The parts of the protocol: one for every representation that is measured."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import read_json
from otoscope.corpus.table import SPLITS
from otoscope.factors.logmel import logmel_table
from otoscope.metrics.baselines import FITTED, OF_CODES
from otoscope.metrics.reconstruction import ReconstructionMeter
from otoscope.metrics.record import Record
from otoscope.pipeline.codes import code_features, train_mean
from otoscope.pipeline.grid import Member
from otoscope.pipeline.parts import Part
from otoscope.pipeline.strict.frame import Brought, Frame
from otoscope.pipeline.strict.units import FITTED_ROWS, Units, fitted_units, made_of_codes
from otoscope.protocols import held_out
from otoscope.protocols.strict.names import CODES, DENSE
from otoscope.sae.checkpoint import CARD, load_sae


def dense_part(frame: Frame, layer: int, *, full: bool) -> Part:
    """A layer as it is."""
    store = frame.material.store
    return frame.part(
        f"layer{layer:02d}-dense", frame.about(DENSE, layer), DENSE, lambda: store.pooled(layer), full=full
    )


def codes_part(
    frame: Frame,
    member: Member,
    *,
    full: bool,
    representation: str = CODES,
    store: ActivationStore | None = None,
) -> Part:
    """The codes of a dictionary, and what they rebuild."""
    store = store or frame.material.store
    home = frame.run.folder.saes / member.sae_id
    about = replace(frame.about(representation, member.layer), **member.columns())

    def units() -> Brought:
        clips, records = frame.material.clips, list[Record]()
        mean = train_mean(store, member.layer, member.pooling, clips)
        meters = {split: ReconstructionMeter(mean) for split in SPLITS}
        made = code_features(store, load_sae(home).sae, member, store.clip_ids, meters=meters, clips=clips)
        for split in ("valid", "test"):
            records += held_out.rebuilt(meters[split].result(resamples=frame.resamples), split, about)
        test = meters["test"]
        value = np.asarray([test.result(resamples=frame.resamples).explained_variance.value])
        arrays = {"rebuilt.value": value, "rebuilt.draws": test.draws(resamples=frame.resamples)}
        return Brought(made.units, records, arrays)

    return frame.part(member.sae_id, about, read_json(home / CARD)["sha256"], units, full=full)


def baseline_part(frame: Frame, name: str, member: Member) -> Part:
    """A baseline beside a dictionary: fitted on its training rows, or made of its codes."""
    store, clips = frame.material.store, frame.material.clips
    home = frame.run.folder.saes / member.sae_id
    known = {"latents": member.latents, "k": member.k, "sparsity": member.sparsity, "seed": member.seed}
    about = replace(frame.about(name, member.layer, pooling=member.pooling), **known)

    def codes() -> Units:
        return code_features(store, load_sae(home).sae, member, store.clip_ids).units

    makers: dict[str, Callable[[], Units]] = {
        **{n: lambda n=n: fitted_units(n, store, member, clips) for n in FITTED},
        **{n: lambda n=n: made_of_codes(n, codes, seed=member.seed) for n in OF_CODES},
    }
    rests_on = read_json(home / CARD)["sha256"] if name in OF_CODES else [FITTED_ROWS, member.sae_id]
    part = f"layer{member.layer:02d}-m{member.latents}-k{member.k}-seed{member.seed}-{name}"
    return frame.part(part, about, [name, rests_on], makers[name], full=True)


def untrained_part(frame: Frame, layer: int, store: ActivationStore) -> Part:
    """The same layer of an encoder that learned nothing."""
    name = "untrained"
    identity = store.as_read(layer)
    return frame.part(
        f"layer{layer:02d}-{name}", frame.about(name, layer), identity, lambda: store.pooled(layer), full=True
    )


def logmel_part(frame: Frame, layer: int) -> Part:
    """Statistics of the spectrum; they have no layer, and stand beside the one compared."""
    corpus = frame.material.corpus

    def units() -> Units:
        return np.asarray(logmel_table(corpus), dtype=np.float32)

    return frame.part("logmel", frame.about("logmel", layer), ["logmel", layer], units, full=True)
