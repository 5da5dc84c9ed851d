"""Extraction: encode a corpus once, in this process or on many workers, and write an activation store.

A worker that dies loses only its shard, which another worker writes again from the start. After a second death on the
same shard, each of its clips is encoded alone: a clip that kills two workers is excluded and reported.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from otoscope.activations.format import MANIFEST, Sharding, read_shard_card, require_store, store_spec
from otoscope.activations.manifest import (
    clear_marks,
    commit_store,
    damaged_shards,
    is_current,
    is_marked,
    tables_complete,
    verify_files,
)
from otoscope.activations.plan import (
    ExtractionPlan,
    PlannedClip,
    begin_store,
    missing_shards,
    plan_extraction,
    remove_partial_files,
)
from otoscope.activations.progress import ExtractionProgress, ProgressCounter, progress_bar
from otoscope.activations.segments import Segments
from otoscope.activations.storage import open_storage
from otoscope.activations.store import ActivationStore
from otoscope.activations.tensorfile import PRECISIONS
from otoscope.activations.worker import BatchDone, ProbeWorker, ShardTask, WorkerFactory
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import ArtifactError, AudioError, ExecutorError
from otoscope.executors.base import MAX_WORKER_DEATHS, Done, Executor, LocalExecutor, TaskProgress, WorkerLost
from otoscope.formatting import count

MAX_CLIP_DEATHS = 2
"""Deaths on a shard before its clips are tried one by one, and on a single clip before it is excluded."""


class ExtractOptions(TypedDict, total=False):
    """Keyword arguments that `extract` passes on to `iter_extract`, which documents them."""

    dtype: str
    pooled: bool
    frames: bool
    segments: Segments | None
    batch_s: float
    sharding: Sharding | None
    strict: bool
    verify: bool
    threads: int
    max_set_aside: float
    executor: Executor | None
    load: Callable[[], Encoder] | None


def extract(
    corpus: Corpus,
    encoder: Encoder,
    folder: Path | str,
    *,
    layers: Sequence[int],
    progress: bool | None = None,
    **options: Unpack[ExtractOptions],
) -> ActivationStore:
    """Encode the clips of a corpus, write the activation store and return it.

    An interrupted extraction resumes when called again; a finished one returns at once. All other options and the
    errors are those of `iter_extract`.

    Args:
        corpus: the clips.
        encoder: the model.
        folder: folder or fsspec address of the store (`s3://bucket/name`).
        layers: layers to store.
        progress: show a progress bar; None shows one in a terminal and in a notebook only.
        **options: dtype, pooled, frames, segments, batch_s, sharding, ...
    """
    with progress_bar(f"extracting {count(len(layers), 'layer')}", corpus.clips.height, show=progress) as advance:
        for step in iter_extract(corpus, encoder, folder, layers=layers, **options):
            advance(step)
    return ActivationStore.open(folder)


def iter_extract(
    corpus: Corpus,
    encoder: Encoder,
    folder: Path | str,
    *,
    layers: Sequence[int],
    dtype: str = "float32",
    pooled: bool = True,
    frames: bool = True,
    segments: Segments | None = None,
    batch_s: float = 30.0,
    sharding: Sharding | None = None,
    strict: bool = False,
    verify: bool = False,
    threads: int = 2,
    max_set_aside: float = 0.2,
    executor: Executor | None = None,
    load: Callable[[], Encoder] | None = None,
) -> Iterator[ExtractionProgress]:
    """Write the store of a corpus shard by shard; yield after every batch.

    After a kill, call it again: complete shards are reused (after a check of their sizes, with `verify` of their
    checksums) and the rest is written with the same bytes as in one run. Unusable clips are set aside with the
    reason. For a larger or different corpus, stored clips are reused and only the others are encoded; until then the
    store reads as before. Shards that `verify_store` marked as damaged are written again.

    Args:
        corpus: the clips.
        encoder: the model.
        folder: folder or fsspec address of the store (`s3://bucket/name`): new, empty, or with the same store,
            unfinished or of another corpus.
        layers: layers to store.
        dtype: float32, float16 or bfloat16.
        pooled: store the mean over each clip's valid frames.
        frames: store every valid frame.
        segments: store the mean over each segment's frames.
        batch_s: padded seconds of sound per call and simultaneous pass (on a CPU up to four); memory grows with it.
        sharding: limits of shards, and windows of long clips.
        strict: raise at the first unusable clip.
        verify: check the SHA-256 of stored shards.
        threads: threads that decode and resample ahead of the encoder.
        max_set_aside: fraction of clips that may be unusable before the run stops.
        executor: runs the workers; by default this process. Workers write shards, this process writes the manifest.
        load: loads the model in a worker; by default the encoder itself is pickled.

    Raises:
        ArtifactError: the folder is not empty and no store; nothing was written.
        StaleArtifact: the folder holds a store of another specification; the message lists the differences.
        StorageFull: the disk is full; complete shards stay, and the same call resumes.
        CorpusError: too many clips are unusable, or with `strict` the first one is.
        ExecutorError: workers died repeatedly, and on no single clip.
    """
    sharding = sharding or Sharding()
    spec = store_spec(
        encoder,
        layers=layers,
        dtype=dtype,
        pooled=pooled,
        frames=frames,
        segments=segments,
        batch_s=batch_s,
        sharding=sharding,
    )
    storage = open_storage(folder)
    require_store(storage)
    with storage.write_lock():
        if verify and storage.size(MANIFEST) is not None:
            with suppress(ArtifactError):  # if the manifest is unreadable, every shard is checked below
                verify_files(storage)
        marked, damaged = is_marked(storage), damaged_shards(storage)
        plan = plan_extraction(
            storage,
            corpus,
            spec,
            sharding,
            segments=segments,
            bytes_per_s=_bytes_per_s(spec),
            verify=verify,
            damaged=damaged,
        )
        begin_store(storage, plan)
        factory = WorkerFactory(
            root=corpus.root,
            clips=corpus.clips.select("path", "start_s", "duration_s", "^channel$"),
            load=LoadedEncoder(encoder) if load is None else load,
            storage=storage,
            spec=plan.card,
            segments=segments,
            strict=strict,
            threads=threads,
        )
        total_s = float(corpus.clips["duration_s"].sum())
        counter = ProgressCounter(corpus.clips.height, total_s, len(plan.reused) + len(plan.shards), max_set_aside)
        complete, missing = missing_shards(storage, plan, verify=verify, damaged=damaged)
        stored = {**plan.reused, **complete}
        _count_stored(counter, plan, stored, missing)
        yield counter.progress(shard=0, clips_new=counter.clips)
        current = is_current(storage, plan.card["fingerprint"])
        if missing and current:
            storage.remove(MANIFEST)
        if missing or not current or marked or not tables_complete(storage):
            executor = executor or LocalExecutor()
            yield from _write_shards(executor, factory, plan, missing, counter)
            if not executor.in_process:
                remove_partial_files(storage)  # of workers that died
            written = {shard: read_shard_card(storage, shard) for shard in missing}
            commit_store(storage, plan.card, plan.keys, {**stored, **written})
            clear_marks(storage)


@dataclass(frozen=True)
class LoadedEncoder:
    """A `load` function that returns an encoder which is loaded already."""

    encoder: Encoder

    def __call__(self) -> Encoder:
        """Return the encoder."""
        return self.encoder


def _bytes_per_s(spec: dict[str, Any]) -> float:
    """Return the stored bytes per second of sound, over all layers; 0 if frames are not stored."""
    size = np.dtype(PRECISIONS[spec["dtype"]].mapped).itemsize
    return sum(layer["width"] * layer["rate_hz"] * size for layer in spec["layers"]) if spec["frames"] else 0.0


def _count_stored(
    counter: ProgressCounter, plan: ExtractionPlan, stored: dict[int, dict[str, Any]], missing: Sequence[int]
) -> None:
    """Count the clips that are stored already."""
    new = [clip for shard in missing for clip in plan.shards[shard]]
    new_s = sum(clip.duration_s for clip in new)
    set_aside = sum(plan.keys.get(clip[0]) == clip[-1] for card in stored.values() for clip in card["set_aside"])
    counter.skip(counter.clips_total - len(new), counter.sound_total_s - new_s, set_aside)


def _write_shards(
    executor: Executor, factory: WorkerFactory, plan: ExtractionPlan, missing: Sequence[int], counter: ProgressCounter
) -> Generator[ExtractionProgress]:
    """Write shards on the workers of an executor; yield after every reported batch.

    Raises `ExecutorError` if workers die on a shard repeatedly but on none of its clips.
    """
    deaths: Counter[int] = Counter()
    excluded: dict[str, str] = {}
    remaining = list(missing)
    while remaining:
        tasks = [_shard_task(plan, shard, excluded) for shard in remaining]
        groups = [tasks] if executor.in_process else [[task] for task in tasks]
        lost: list[int] = []
        batches: dict[int, list[BatchDone]] = {}
        for event in executor.run(factory, groups, heartbeat=True):
            if isinstance(event, TaskProgress):
                batches.setdefault(event.task, []).append(event.value)
                yield _count_batch(counter, event.value)
            elif isinstance(event, Done):
                batches.pop(event.task, None)
            else:
                yield from _uncount_batches(counter, batches.pop(event.task, []))
                shards = [task.shard for task in groups[event.task]]
                lost += shards
                deaths.update(shards)
                _check_deaths(deaths, shards, event)
        for shard in lost:
            if deaths[shard] == MAX_CLIP_DEATHS:
                excluded |= find_fatal_clips(executor, factory, plan.shards[shard])
        remaining = lost


def _shard_task(plan: ExtractionPlan, shard: int, excluded: dict[str, str]) -> ShardTask:
    clips = plan.shards[shard]
    ids = [clip.clip_id for clip in clips]
    return ShardTask(
        shard,
        plan.shard_key(shard),
        clips,
        {clip_id: plan.keys[clip_id] for clip_id in ids},
        {clip_id: excluded[clip_id] for clip_id in ids if clip_id in excluded},
    )


def _count_batch(counter: ProgressCounter, batch: BatchDone) -> ExtractionProgress:
    counter.spent_s["encode"] += batch.encode_s
    counter.spent_s["wait"] += batch.wait_s
    counter.spent_s["write"] += batch.write_s
    counter.add(batch.clips, batch.sound_s, len(batch.set_aside))
    if batch.set_aside:
        counter.reasons |= dict.fromkeys(batch.set_aside)
        counter.check()
    return counter.progress(shard=batch.shard, clips_new=batch.clips)


def _uncount_batches(counter: ProgressCounter, batches: Sequence[BatchDone]) -> Iterator[ExtractionProgress]:
    """Subtract the batches of a lost shard, which will be written again."""
    for batch in batches:
        counter.add(-batch.clips, -batch.sound_s, -len(batch.set_aside))
        yield counter.progress(shard=batch.shard, clips_new=-batch.clips)


def _check_deaths(deaths: Counter[int], shards: Sequence[int], event: WorkerLost) -> None:
    worst = max(shards, key=lambda shard: deaths[shard])
    if deaths[worst] >= MAX_CLIP_DEATHS + MAX_WORKER_DEATHS:
        raise ExecutorError(
            f"{deaths[worst]} workers died on shard {worst}, but on none of its clips alone ({event.reason}); "
            "give workers more memory, or write smaller shards"
        )


def find_fatal_clips(executor: Executor, factory: WorkerFactory, clips: Sequence[PlannedClip]) -> dict[str, str]:
    """Return the clips that kill every worker, each with the reason to store; with `strict`, raise `AudioError`."""
    suspects = [(clip, "") for clip in clips]
    for _ in range(MAX_CLIP_DEATHS):
        events = executor.run(ProbeWorker(factory), [clip for clip, _ in suspects], heartbeat=True)
        suspects = [(suspects[e.task][0], "hung" if e.hung else "died") for e in events if isinstance(e, WorkerLost)]
    alone = MAX_CLIP_DEATHS
    reasons = {
        clip.clip_id: f"its worker {what} {2 * alone} times, {alone} of them while encoding this clip alone"
        for clip, what in suspects
    }
    if suspects and factory.strict:
        clip = suspects[0][0]
        raise AudioError(f"{clip.path}: {reasons[clip.clip_id]}")
    return reasons
