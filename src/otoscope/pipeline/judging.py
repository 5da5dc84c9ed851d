"""The evaluation stage: one part a representation, joined into `results.parquet`."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped
from threadpoolctl import threadpool_limits

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_json, read_table, write_json, write_table
from otoscope.config import Pooling, RunConfig
from otoscope.corpus.table import SPLITS, Corpus
from otoscope.errors import ArtifactError
from otoscope.evaluate.reconstruction import ReconstructionMeter
from otoscope.evaluate.record import Record, to_table
from otoscope.factors.table import FactorTable
from otoscope.pipeline.codes import ClipCodes, encode_frames, encode_rows, pool
from otoscope.pipeline.context import Context
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.grid import Member, members
from otoscope.pipeline.labels import probed_labels
from otoscope.pipeline.sound import load_corpus
from otoscope.pipeline.stage import run_stage
from otoscope.pipeline.watch import task
from otoscope.protocols import held_out
from otoscope.protocols.held_out import Clips, Features, Settings
from otoscope.report.words import count
from otoscope.sae.checkpoint import load_sae
from otoscope.sae.model import SparseAutoencoder

MOST_AT_ONCE = 4
"""Representations judged at once; each may take half a gigabyte."""

FORMAT = 1
"""Raised when the same inputs would give other numbers, so that old parts are not taken for new ones."""


@dataclass(frozen=True)
class Part:
    """The results of one representation: what they rest on, and how they are made."""

    name: str
    inputs: str
    make: Callable[[], list[Record]]


def evaluate_all(run: Context) -> None:
    """Judge every dense layer and every dictionary; write `parts/` and `results.parquet`."""
    config, folder, watch = run.config, run.folder, run.watch
    store = ActivationStore.open(folder.activations)
    corpus = load_corpus(folder).keep(store.clip_ids)
    table = FactorTable.load(folder.factors)
    clips = known_of(corpus, table, config)
    settings = Settings(
        permutations=config.evaluate.permutations,
        resamples=config.evaluate.resamples,
        completeness_min_r2=config.evaluate.completeness_min_r2,
    )
    shared = fingerprint(FORMAT, store.fingerprint, _identity(clips), config.evaluate.model_dump(mode="json"))

    @cache
    def mean_of(layer: int, pooling: Pooling) -> Float[np.ndarray, " width"]:
        return train_mean(store, layer, pooling, clips)

    grid = members(config, store.layers)
    parts = [
        *(_dense_part(store, layer, clips, settings, shared) for layer in store.layers),
        *(_sae_part(store, folder, member, clips, settings, shared, mean_of) for member in grid),
    ]

    def work() -> None:
        missing = [part for part in parts if not _is_whole(folder.parts, part)]
        with task(watch, f"evaluating {count(len(missing), 'representation')}", len(missing), "representations"):
            for part, made in zip(missing, _made(missing), strict=True):
                table = folder.parts / f"{part.name}.parquet"
                write_table(table, made)
                write_json(table.with_suffix(".json"), {"inputs": part.inputs, "sha256": digest(table)})
                watch.advance(1, note=part.name)
        write_table(folder.results, pl.concat([read_table(folder.parts / f"{part.name}.parquet") for part in parts]))

    inputs = fingerprint([(part.name, part.inputs) for part in parts])
    run_stage(folder, "evaluate", inputs=inputs, outputs=[folder.results], work=work, watch=watch)


def _made(parts: Sequence[Part]) -> Iterator[pl.DataFrame]:
    """Make parts side by side, in order, each with one thread for linear algebra.

    A part is many small problems: threads inside a product would only wait for each other, and one
    thread gives the same bytes on any number of cores.
    """
    workers = min(len(os.sched_getaffinity(0)), MOST_AT_ONCE)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(_table_of, part) for part in parts]
        try:
            for future in waiting:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _table_of(part: Part) -> pl.DataFrame:
    return to_table(part.make())


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


def _dense_part(store: ActivationStore, layer: int, clips: Clips, settings: Settings, shared: str) -> Part:
    def make() -> list[Record]:
        pooled = store.pooled(layer)
        about = _about(store, layer, representation="dense", pooling="mean")
        return list(held_out.judge(Features(pooled, pooled), clips, settings, about))

    return Part(f"layer{layer:02d}-dense", fingerprint(shared, "dense", layer), make)


def _sae_part(
    store: ActivationStore,
    folder: RunFolder,
    member: Member,
    clips: Clips,
    settings: Settings,
    shared: str,
    mean_of: Callable[[int, Pooling], Float[np.ndarray, " width"]],
) -> Part:
    home = folder.saes / member.sae_id

    def make() -> list[Record]:
        sae = load_sae(home).sae
        meters = {split: ReconstructionMeter(mean_of(member.layer, member.pooling)) for split in SPLITS}
        features = code_features(store, sae, member, store.clip_ids, meters=meters, clips=clips)
        about = replace(
            _about(store, member.layer, representation="sae", pooling=member.pooling),
            sae_id=member.sae_id,
            latents=member.latents,
            k=member.k,
            sparsity=member.sparsity,
            seed=member.seed,
        )
        records: list[Record] = []
        for split, meter in meters.items():
            records += held_out.rebuilt(meter.result(resamples=settings.resamples), split, about)
        return [*records, *held_out.judge(features, clips, settings, about)]

    return Part(member.sae_id, fingerprint(shared, read_json(home / "card.json")["sha256"]), make)


def code_features(
    store: ActivationStore,
    sae: SparseAutoencoder,
    member: Member,
    clip_ids: Sequence[str],
    *,
    meters: dict[str, ReconstructionMeter] | None = None,
    clips: Clips | None = None,
) -> Features:
    """Return the codes of clips, and measure reconstruction on the way where meters are given."""
    if member.pooling == "pool_then_encode":
        batches = [encode_rows(sae, store.pooled(member.layer, clip_ids), np.arange(len(clip_ids)))]
    else:
        batches = encode_frames(store, sae, member.layer, clip_ids)
    pooled: list[ClipCodes] = []
    for batch in batches:
        pooled.append(pool(batch))
        for split, meter in (meters or {}).items():
            if clips is not None and (chosen := clips.split[batch.clip] == split).any():
                groups = clips.groups[batch.clip[chosen]]
                meter.update(batch.rows[chosen], batch.rebuilt[chosen], batch.codes[chosen], groups)
    codes = ClipCodes(*(np.concatenate(parts) for parts in zip(*pooled, strict=True)))
    return Features(codes.mean if member.pooling == "pool_then_encode" else codes.joined(), codes.mean)


def train_mean(store: ActivationStore, layer: int, pooling: Pooling, clips: Clips) -> Float[np.ndarray, " width"]:
    """Return the mean of the training rows: what explained variance is measured against."""
    train = [clip for clip, split in zip(store.clip_ids, clips.split, strict=True) if split == "train"]
    if pooling == "pool_then_encode":
        return store.pooled(layer, train).mean(axis=0, dtype=np.float64)
    total, frames = np.zeros(store.width(layer)), 0
    for _, rows in store.iter_clips(layer, train):
        total += rows.sum(axis=0, dtype=np.float64)
        frames += len(rows)
    return total / frames


def _about(store: ActivationStore, layer: int, *, representation: str, pooling: str) -> Record:
    return Record(
        metric="l0",
        value=0.0,
        split="test",
        protocol=held_out.NAME,
        encoder=store.card["encoder"]["name"],
        layer=layer,
        representation=representation,
        pooling=pooling,
    )


def _identity(clips: Clips) -> str:
    known = {name: values.tolist() for name, values in clips.labels.items()}
    factors = [np.nan_to_num(clips.factors, nan=-1e300).tobytes().hex(), list(clips.factor_names)]
    return fingerprint(clips.split.tolist(), clips.groups.tolist(), known, factors)


def _is_whole(folder: Path, part: Part) -> bool:
    table = folder / f"{part.name}.parquet"
    try:
        card = read_json(table.with_suffix(".json"))
    except ArtifactError:
        return False
    # a run that was killed between the two files leaves a table that its card does not describe
    return card.get("inputs") == part.inputs and table.is_file() and digest(table) == card.get("sha256")
