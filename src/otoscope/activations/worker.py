"""Workers that decode, encode and write shards, in this process or on another machine."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, repeat
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Float32

from otoscope.activations.plan import ClipBatch, PlannedClip, make_batches
from otoscope.activations.progress import END, EndOfItems, ProgressCounter
from otoscope.activations.segments import Segments
from otoscope.activations.shards import ShardWriter
from otoscope.activations.storage import Storage
from otoscope.activations.windows import EncodedWindow, Windower, encode_windows
from otoscope.corpus.audio import load_clip
from otoscope.corpus.streaming import StreamedClip
from otoscope.encoders.base import Encoder
from otoscope.encoders.batched import side_by_side
from otoscope.errors import AudioError
from otoscope.formatting import count

STREAMED_S = 60.0
"""Clips longer than this, and than a window, are decoded while they are encoded, never held in memory as a whole."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class DecodedClip(NamedTuple):
    """Sound of a clip at the encoder's rate, or the reason why it cannot be encoded."""

    clip: PlannedClip
    wave: Float32[np.ndarray, " samples"] | StreamedClip
    reason: str | None


class ShardTask(NamedTuple):
    """One shard to write: its clips with their keys, and the clips to exclude, each with the reason."""

    shard: int
    key: str
    clips: tuple[PlannedClip, ...]
    clip_keys: Mapping[str, str]
    excluded: Mapping[str, str]


class BatchDone(NamedTuple):
    """A finished batch: its clips, the reasons of clips set aside, and the time spent since the previous event.

    Within a clip of many windows, each window but the last gives an event without clips.
    """

    shard: int
    clips: int
    sound_s: float
    set_aside: tuple[str, ...]
    encode_s: float
    wait_s: float
    write_s: float


@dataclass(frozen=True)
class WorkerFactory:
    """Settings shared by all shards of a store; a call loads the model and returns a worker."""

    root: Path
    clips: pl.DataFrame
    load: Callable[[], Encoder]
    storage: Storage
    spec: Mapping[str, Any]
    segments: Segments | None
    strict: bool
    threads: int

    @property
    def layers(self) -> list[int]:
        """Indices of the layers to store."""
        return [layer["index"] for layer in self.spec["layers"]]

    def __call__(self) -> "ShardWorker":
        """Load the model and return a worker."""
        sharding = self.spec["sharding"]
        return ShardWorker(self, Windower(side_by_side(self.load()), sharding["window_s"], sharding["overlap_s"]))


@dataclass(frozen=True)
class ShardWorker:
    """A worker with its loaded model."""

    factory: WorkerFactory
    windower: Windower

    def __call__(self, tasks: Sequence[ShardTask]) -> Iterator[BatchDone]:
        """Write shards in order while threads decode the next batches; yield after every batch and window."""
        factory, windower, batch_s = self.factory, self.windower, self.batch_s
        task_of = {task.shard: task for task in tasks}
        excluded = {clip_id: reason for task in tasks for clip_id, reason in task.excluded.items()}
        counter = ProgressCounter(0, 0.0, 0, 1.0)
        window_s = windower.window / windower.encoder.rate_hz
        batches = [
            batch
            for task in tasks
            for batch in make_batches(
                task.shard, task.clips, batch_s=batch_s, window_s=window_s, padded_s=windower.padded_s
            )
        ]
        decoding = prefetch(
            batches,
            lambda batch: [self.decode(clip, excluded) for clip in batch.clips],
            weigh=lambda batch: batch.sound_s,
            bound=4.0 * batch_s,
            threads=factory.threads,
        )
        with closing(decoding):
            timed = counter.timed_items(decoding, "wait")
            for shard, group in groupby(timed, key=lambda item: item[0].shard):
                with self._writer(task_of[shard]) as writer:
                    for batch, clips in group:
                        yield from self._store(writer, batch, clips, counter)
                    with counter.timed("write"):
                        writer.commit()

    @property
    def batch_s(self) -> float:
        """Padded seconds of sound in one call: those of the settings, for each pass that runs at the same time."""
        return self.factory.spec["batch_s"] * self.windower.passes

    def _writer(self, task: ShardTask) -> ShardWriter:
        factory = self.factory
        return ShardWriter(
            factory.storage,
            task.shard,
            spec=factory.spec,
            key=task.key,
            clip_keys=task.clip_keys,
            segments=factory.segments,
        )

    def decode(self, clip: PlannedClip, excluded: Mapping[str, str]) -> DecodedClip:
        """Decode a clip; the result of an unusable clip holds the reason instead of sound."""
        encoder = self.windower.encoder
        empty = np.empty(0, dtype=np.float32)
        if clip.clip_id in excluded:
            return DecodedClip(clip, empty, excluded[clip.clip_id])
        try:
            row = self.factory.clips.row(clip.row, named=True)
            if clip.duration_s > max(STREAMED_S, self.windower.window / encoder.rate_hz):
                wave = StreamedClip(self.factory.root, row, rate_hz=encoder.rate_hz, wrap_blocks=prefetch_items)
            else:
                wave = load_clip(self.factory.root, row, rate_hz=encoder.rate_hz)
        except AudioError as error:
            return DecodedClip(clip, empty, _reason(error, clip))
        if len(wave) < encoder.min_samples:
            shortest = f"{encoder.name} needs {encoder.min_samples} for a frame"
            return DecodedClip(
                clip, wave, f"too short: {count(len(wave), 'sample')} at {encoder.rate_hz} Hz; {shortest}"
            )
        return DecodedClip(clip, wave, None)

    def _store(
        self, writer: ShardWriter, batch: ClipBatch, clips: Sequence[DecodedClip], counter: ProgressCounter
    ) -> Generator[BatchDone]:
        """Encode and store a batch; yield after every window and at the end."""
        reasons: dict[str, str] = {}

        def set_aside(clip: PlannedClip, reason: str) -> None:
            if self.factory.strict:
                raise AudioError(f"{clip.path}: {reason}")
            reasons[clip.clip_id] = f"{clip.path}: {reason}"
            writer.set_aside(clip.clip_id, clip.path, reason)

        usable = [decoded for decoded in clips if decoded.reason is None]
        for clip, reason in _unusable(clips):
            set_aside(clip, reason)
        encoded = encode_windows(self.windower, [d.wave for d in usable], self.factory.layers, batch_s=self.batch_s)
        try:
            for window in counter.timed_items(encoded, "encode"):
                decoded = usable[window.clip]
                if decoded.clip.clip_id not in reasons:
                    with counter.timed("write"):
                        if reason := self._store_window(writer, decoded, window):
                            set_aside(decoded.clip, reason)
                if not window.last:
                    yield _batch_done(batch.shard, 0, 0.0, (), counter)
        except AudioError as error:
            if reasons or not _is_streamed(usable):
                raise
            set_aside(usable[0].clip, _reason(error, usable[0].clip))
        yield _batch_done(batch.shard, len(batch.clips), batch.sound_s, tuple(reasons.values()), counter)

    def _store_window(self, writer: ShardWriter, decoded: DecodedClip, window: EncodedWindow) -> str | None:
        """Store a window; return the reason if its clip cannot be stored."""
        if reason := writer.add(decoded.clip.clip_id, window):
            return reason
        if window.last:
            sound_s = len(decoded.wave) / self.windower.encoder.rate_hz
            writer.finish_clip(decoded.clip.clip_id, decoded.clip.path, sound_s=sound_s)
        return None


def _unusable(clips: Sequence[DecodedClip]) -> list[tuple[PlannedClip, str]]:
    return [(decoded.clip, decoded.reason) for decoded in clips if decoded.reason is not None]


def _is_streamed(clips: Sequence[DecodedClip]) -> bool:
    """Return whether the clips are one long clip, decoded while it is encoded."""
    return len(clips) == 1 and isinstance(clips[0].wave, StreamedClip)


def _reason(error: AudioError, clip: PlannedClip) -> str:
    return str(error).removeprefix(f"{clip.path}: ")


def _batch_done(
    shard: int, clips: int, sound_s: float, set_aside: tuple[str, ...], counter: ProgressCounter
) -> BatchDone:
    spent = dict(counter.spent_s)
    counter.spent_s.update({"encode": 0.0, "wait": 0.0, "write": 0.0})
    return BatchDone(shard, clips, sound_s, set_aside, spent["encode"], spent["wait"], spent["write"])


@dataclass(frozen=True)
class ProbeWorker:
    """Factory of workers that encode single clips and discard the result, to find clips that kill a worker.

    They yield after every window, so that hung workers can be detected.
    """

    factory: WorkerFactory

    def __call__(self) -> Callable[[PlannedClip], Iterator[None]]:
        """Load the model and return a worker."""
        worker = self.factory()

        def probe(clip: PlannedClip) -> Iterator[None]:
            decoded = worker.decode(clip, {})
            if decoded.reason is None:
                for _ in encode_windows(worker.windower, [decoded.wave], self.factory.layers, batch_s=worker.batch_s):
                    yield None

        return probe


def prefetch(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    *,
    weigh: Callable[[Task], float],
    bound: float,
    threads: int,
) -> Generator[tuple[Task, Result]]:
    """Yield each task with its result, in order, while threads work on the next tasks.

    Pending results weigh at most `bound` together, unless a single one weighs more. An exception of `work` is raised
    at its task's turn; closing the generator early cancels the tasks that have not started.

    >>> list(prefetch([3, 1], lambda n: n * n, weigh=float, bound=4.0, threads=2))
    [(3, 9), (1, 1)]
    """
    pending: deque[tuple[Task, float, Future[Result]]] = deque()
    load = 0.0
    pool = ThreadPoolExecutor(threads, thread_name_prefix="otoscope-prefetch")
    try:
        for task in tasks:
            weight = weigh(task)
            while pending and load + weight > bound:
                first, first_weight, future = pending.popleft()
                load -= first_weight
                yield first, future.result()
            pending.append((task, weight, pool.submit(work, task)))
            load += weight
        while pending:
            first, _, future = pending.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prefetch_items(items: Iterator[Result]) -> Generator[Result]:
    """Yield the items of an iterator while a thread fetches at most two more.

    >>> list(prefetch_items(iter("abc")))
    ['a', 'b', 'c']
    """
    fetching = prefetch(repeat(None), lambda _: next(items, END), weigh=lambda _: 1.0, bound=2.0, threads=1)
    with closing(fetching):
        for _, item in fetching:
            if isinstance(item, EndOfItems):
                return
            yield item
