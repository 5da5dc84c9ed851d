"""What the protocol needs beyond the run's own grid: further dictionaries, and activations of an untrained encoder."""

import shutil
from collections.abc import Sequence
from dataclasses import replace

from otoscope.activations.extract import extract
from otoscope.activations.store import ActivationStore
from otoscope.encoders.catalog import load_encoder
from otoscope.errors import ArtifactError, StaleArtifact
from otoscope.pipeline.dictionaries import Training
from otoscope.pipeline.grid import Member
from otoscope.pipeline.strict.frame import Frame
from otoscope.pipeline.watch import task
from otoscope.sae.sparsifiers.base import k_from_sparsity

PAPERS_PRESET = "mariotte2025"


def further_seeds(member: Member, seeds: Sequence[int], number: int) -> list[Member]:
    """Return a dictionary with `number` seeds: those of the run first, then the next integers."""
    wanted = list(dict.fromkeys([*seeds, *range(number + len(seeds))]))[: max(number, 1)]
    return [replace(member, seed=seed) for seed in wanted]


def limit_members(frame: Frame, member: Member) -> list[Member]:
    """Return dictionaries of a layer from dense to sparse, in the paper's recipe (pooled first) and in others."""
    settings = frame.settings
    found: list[Member] = []
    for preset in settings.limit_presets:
        pooling = "pool_then_encode" if preset == PAPERS_PRESET else member.pooling
        for sparsity in settings.limit_sparsities:
            if int((1 - sparsity) * member.latents) >= 1:
                found.append(replace(member, preset=preset, pooling=pooling, sparsity=sparsity))
    return found


def train(frame: Frame, store: ActivationStore, wanted: Sequence[Member]) -> None:
    """Train what is missing of some dictionaries."""
    for member in wanted:
        k_from_sparsity(member.latents, member.sparsity)
    Training(frame.run, store, wanted).bring()


def untrained_store(frame: Frame, layer: int) -> ActivationStore:
    """Run the encoder with fresh weights over every clip, once, and keep one layer."""
    config, folder, watch = frame.run.config, frame.run.folder, frame.run.watch
    home = folder.root / "untrained"
    context = "short" if frame.settings.untrained_context == "short" else config.extract.context
    encoder = load_encoder(
        config.model, revision=config.revision, device=config.device, context=context, untrained=True
    )
    corpus = frame.material.corpus

    def write() -> None:
        with task(watch, "extracting from the untrained encoder", corpus.clips.height, "clips"):
            for progress in extract(corpus, encoder, home, layers=[layer], dtype=config.extract.dtype):
                watch.advance(progress.clips_new, note=f"{progress.times_real_time:.1f} x real time")

    try:
        write()
    except StaleArtifact:
        shutil.rmtree(home)
        write()
    try:
        store = ActivationStore.open(home)
        store.check_sizes()
    except ArtifactError:
        shutil.rmtree(home)
        write()
        store = ActivationStore.open(home)
    return store
