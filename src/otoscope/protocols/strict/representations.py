"""Parts of the protocol, one per measured representation, and the models that they need.

The protocol trains SAEs beyond the grid of the run and extracts activations of an untrained encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from otoscope.activations.extract import iter_extract
from otoscope.activations.format import remove_store
from otoscope.activations.storage import LocalStorage
from otoscope.activations.store import ActivationStore
from otoscope.corpus.table import SPLITS
from otoscope.encoders.catalog import load_encoder
from otoscope.errors import ArtifactError, StaleArtifact
from otoscope.factors.logmel import logmel_table
from otoscope.hardware import find_device
from otoscope.metrics.baselines import FITTED, FROM_CODES
from otoscope.metrics.reconstruction import ReconstructionMeter
from otoscope.metrics.record import Record
from otoscope.metrics.representation import CODES, DENSE
from otoscope.protocols import held_out
from otoscope.protocols.strict.experiment import (
    FITTED_ROWS,
    StrictExperiment,
    Units,
    UnitsWithRecords,
    fitted_units,
)
from otoscope.runs.cache import CachedResult
from otoscope.runs.codes import mean_codes, train_mean
from otoscope.runs.progress import task
from otoscope.runs.training import GridMember, GridTraining, read_trained_card
from otoscope.sae.model import SparseAutoencoder, load_sae
from otoscope.sae.sparsifiers.base import k_from_sparsity
from otoscope.sae.train import begin
from otoscope.sae.validation import calibrate


def dense_part(experiment: StrictExperiment, layer: int, *, full: bool) -> CachedResult:
    """Return the part for the dense activations of a layer."""
    store = experiment.material.store
    return experiment.measurement(
        f"layer{layer:02d}-dense",
        experiment.record_template(DENSE, layer),
        DENSE,
        lambda: experiment.units_of_layer(layer, store.pooled) if full else store.pooled(layer),
        full=full,
    )


def codes_part(
    experiment: StrictExperiment,
    member: GridMember,
    *,
    full: bool,
    representation: str = CODES,
    store: ActivationStore | None = None,
) -> CachedResult:
    """Return the part for the codes of an SAE, with their reconstruction."""
    store = store or experiment.material.store
    about = replace(experiment.record_template(representation, member.layer), **member.columns())

    def units() -> UnitsWithRecords:
        clips, records = experiment.material.clips, list[Record]()
        mean = train_mean(store, member.layer, member.pooling, clips)
        meters = {split: ReconstructionMeter(mean) for split in SPLITS}
        sae = load_sae(experiment.run.folder.saes / member.sae_id).sae
        codes = mean_codes(store, sae, member, store.clip_ids, meters=meters, clips=clips)
        for split in ("valid", "test"):
            records += held_out.reconstruction_records(meters[split].result(), split, about)
        test = meters["test"]
        value = np.asarray([test.result().explained_variance.value])
        arrays = {"rebuilt.value": value, "rebuilt.without": test.explained_without_groups()}
        if experiment.fold_members(member):
            codes = experiment.units_of(member, lambda one: _codes(experiment, one, store))
        return UnitsWithRecords(codes, records, arrays)

    return experiment.measurement(member.sae_id, about, _trained(experiment, member), units, full=full)


def _codes(experiment: StrictExperiment, member: GridMember, store: ActivationStore) -> Units:
    sae = load_sae(experiment.run.folder.saes / member.sae_id).sae
    return mean_codes(store, sae, member, store.clip_ids)


def _trained(experiment: StrictExperiment, member: GridMember) -> list[str]:
    """Return the checksums of the weights of an SAE and of those of its folds."""
    saes = experiment.run.folder.saes
    return [read_trained_card(saes / one.sae_id)["sha256"] for one in (member, *experiment.fold_members(member))]


def baseline_part(experiment: StrictExperiment, name: str, member: GridMember) -> CachedResult:
    """Return the part for a baseline of an SAE: fitted on its training rows, or derived from its codes."""
    store, clips = experiment.material.store, experiment.material.clips
    columns = {"latents": member.latents, "k": member.k, "sparsity": member.sparsity, "seed": member.seed}
    about = replace(experiment.record_template(name, member.layer, pooling=member.pooling), **columns)

    def from_codes(one: GridMember, name: str) -> Units:
        return FROM_CODES[name](_codes(experiment, one, store), seed=one.seed, groups=clips.groups)

    makers: dict[str, Callable[[GridMember], Units]] = {
        **{n: lambda one, n=n: fitted_units(n, store, one, clips) for n in FITTED},
        **{n: partial(from_codes, name=n) for n in FROM_CODES},
    }
    folds = [one.sae_id for one in experiment.fold_members(member)]
    rests_on = _trained(experiment, member) if name in FROM_CODES else [FITTED_ROWS, member.sae_id, folds]
    part = f"layer{member.layer:02d}-m{member.latents}-k{member.k}-seed{member.seed}-{name}"
    units = partial(experiment.units_of, member, makers[name])
    return experiment.measurement(part, about, [name, rests_on], units, full=True)


def start_sae(experiment: StrictExperiment, member: GridMember) -> SparseAutoencoder:
    """Return an SAE before its first step, with its threshold calibrated on validation rows."""
    training = GridTraining(experiment.run, experiment.material.store, [])
    rows, valid_rows = training.rows(member.layer, member.pooling, member.fold)
    config = experiment.run.config.train.train_config(member.preset)
    run = begin(rows, valid_rows, config, latents=member.latents, k=member.k, seed=member.seed)
    calibrate(run.sae, valid_rows)
    return run.sae.eval().requires_grad_(False)


def start_part(experiment: StrictExperiment, member: GridMember) -> CachedResult:
    """Return the part for an SAE before its first step."""
    store, name = experiment.material.store, "start"
    columns = {"latents": member.latents, "k": member.k, "sparsity": member.sparsity, "seed": member.seed}
    about = replace(experiment.record_template(name, member.layer, pooling=member.pooling), **columns)

    def units(one: GridMember) -> Units:
        return mean_codes(store, start_sae(experiment, one), one, store.clip_ids)

    made = partial(experiment.units_of, member, units)
    return experiment.measurement(
        f"{member.sae_id}-start", about, [name, _trained(experiment, member)], made, full=True
    )


def untrained_part(experiment: StrictExperiment, layer: int, store: ActivationStore) -> CachedResult:
    """Return the part for the same layer of an untrained encoder."""
    name = "untrained"
    identity = [store.content_id(one) for one in sorted({layer, *experiment.fold_layers})]
    return experiment.measurement(
        f"layer{layer:02d}-{name}",
        experiment.record_template(name, layer),
        identity,
        lambda: experiment.units_of_layer(layer, store.pooled),
        full=True,
    )


def logmel_part(experiment: StrictExperiment, layer: int) -> CachedResult:
    """Return the part for log-mel statistics; their records carry the layer compared."""
    corpus = experiment.material.corpus

    def units() -> Units:
        return np.asarray(logmel_table(corpus), dtype=np.float32)

    return experiment.measurement(
        "logmel", experiment.record_template("logmel", layer), ["logmel", layer], units, full=True
    )


STUDY_PRESET = "mariotte2025"


def further_seeds(member: GridMember, seeds: Sequence[int], number: int) -> list[GridMember]:
    """Return the grid member with `number` seeds: those of the run first, then the next integers."""
    unique_seeds = list(dict.fromkeys([*seeds, *range(number + len(seeds))]))[: max(number, 1)]
    return [replace(member, seed=seed) for seed in unique_seeds]


def limit_members(experiment: StrictExperiment, member: GridMember) -> list[GridMember]:
    """Return the SAEs of a layer for the sparsity limits, per preset; the study's preset pools before encoding."""
    settings = experiment.settings
    found: list[GridMember] = []
    for preset in settings.limit_presets:
        pooling = "pool_then_encode" if preset == STUDY_PRESET else member.pooling
        for sparsity in settings.limit_sparsities:
            if int((1 - sparsity) * member.latents) >= 1:
                found.append(replace(member, preset=preset, pooling=pooling, sparsity=sparsity))
    return found


def train_missing(experiment: StrictExperiment, store: ActivationStore, members: Sequence[GridMember]) -> None:
    """Train the SAEs that are missing, and those of their folds."""
    for member in members:
        k_from_sparsity(member.latents, member.sparsity)
    with_folds = [one for member in members for one in (member, *experiment.fold_members(member))]
    GridTraining(experiment.run, store, with_folds).ensure()


def untrained_store(experiment: StrictExperiment, layer: int) -> ActivationStore:
    """Return activations of the layer (of each fold) of the untrained encoder, extracted once per run."""
    layers = sorted({layer, *experiment.fold_layers})
    config, folder, watch = experiment.run.config, experiment.run.folder, experiment.run.progress
    directory = folder.root / "untrained"
    context = "short" if experiment.settings.untrained_context == "short" else config.extract.context
    encoder = load_encoder(
        config.model, revision=config.revision, device=str(find_device(config.device)), context=context, untrained=True
    )
    corpus = experiment.material.corpus

    def write() -> None:
        with task(watch, "extracting from the untrained encoder", corpus.clips.height, "clips"):
            for progress in iter_extract(corpus, encoder, directory, layers=layers, dtype=config.extract.dtype):
                watch.advance(progress.clips_new, note=f"{progress.times_real_time:.1f} x real time")

    try:
        write()
    except StaleArtifact:
        remove_store(LocalStorage(directory))
        write()
    try:
        store = ActivationStore.open(directory)
        store.check_sizes()
    except ArtifactError:
        remove_store(LocalStorage(directory))
        write()
        store = ActivationStore.open(directory)
    return store
