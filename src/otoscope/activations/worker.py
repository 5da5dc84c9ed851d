"""Shards from their clips: what a worker does, in this process or on another machine."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32

from otoscope.activations.prefetch import prefetch, read_ahead
from otoscope.activations.progress import ProgressCounter
from otoscope.activations.segments import Segments
from otoscope.activations.sharding import ClipBatch, PlannedClip, make_batches
from otoscope.activations.shards import ShardWriter
from otoscope.activations.storage.base import Storage
from otoscope.activations.windows import EncodedWindow, Windower, encode_windows
from otoscope.corpus.audio import load_clip
from otoscope.corpus.streaming import StreamedClip
from otoscope.encoders.base import Encoder
from otoscope.errors import AudioError

STREAMED_S = 60.0
"""A clip longer than this, and than a window, is decoded while it is encoded: it is never whole in memory."""


class Decoded(NamedTuple):
    """One clip's sound at the encoder's rate, or the reason why there is none to encode."""

    clip: PlannedClip
    wave: Float32[np.ndarray, " samples"] | StreamedClip
    reason: str | None


class ShardTask(NamedTuple):
    """One shard to be written: its clips with their keys, and those that must not be touched, each with the reason."""

    shard: int
    key: str
    clips: tuple[PlannedClip, ...]
    clip_keys: Mapping[str, str]
    excluded: Mapping[str, str]


class Step(NamedTuple):
    """A batch that is done with: what it held, why clips were set aside, and where the time since the last step went.

    On the way through a clip of many windows, each but the last is a step that is done with nothing yet.
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
    """All that shards have in common; calling it loads the model and gives the worker."""

    root: Path
    clips: pl.DataFrame
    load: Callable[[], Encoder]
    storage: Storage
    spec: Mapping[str, Any]
    segments: Segments | None
    strict: bool
    threads: int

    def __call__(self) -> "ShardWorker":
        """Begin a worker."""
        sharding = self.spec["sharding"]
        return ShardWorker(self, Windower(self.load(), sharding["window_s"], sharding["overlap_s"]))


@dataclass(frozen=True)
class ShardWorker:
    """A worker with its model."""

    about: WorkerFactory
    cutter: Windower

    def __call__(self, tasks: Sequence[ShardTask]) -> Iterator[Step]:
        """Write shards, in order, while the next batches are decoded; yield after every batch and every window."""
        batch_s = self.about.spec["batch_s"]
        of_shard = {task.shard: task for task in tasks}
        doomed = {clip_id: reason for task in tasks for clip_id, reason in task.excluded.items()}
        tally = ProgressCounter(0, 0.0, 0, 1.0)
        decoding = prefetch(
            [batch for task in tasks for batch in self._batches(task)],
            lambda batch: [self.decode(clip, doomed) for clip in batch.clips],
            weigh=lambda batch: batch.sound_s,
            bound=4.0 * batch_s,
            threads=self.about.threads,
        )
        with closing(decoding):
            for shard, parts in groupby(tally.through(decoding, "wait"), key=lambda part: part[0].shard):
                with self._writer(of_shard[shard]) as writer:
                    for batch, decoded in parts:
                        aside = yield from self._store(writer, shard, decoded, tally)
                        yield _step(batch.shard, len(batch.clips), batch.sound_s, aside, tally)
                    with tally.timed("write"):
                        writer.commit()

    def _batches(self, task: ShardTask) -> list[ClipBatch]:
        return make_batches(
            task.shard,
            task.clips,
            batch_s=self.about.spec["batch_s"],
            window_s=self.cutter.window / self.cutter.encoder.rate_hz,
            padded_s=self.cutter.padded_s,
        )

    def _writer(self, task: ShardTask) -> ShardWriter:
        about = self.about
        return ShardWriter(
            about.storage,
            task.shard,
            recipe=about.spec,
            key=task.key,
            clip_keys=task.clip_keys,
            segments=about.segments,
        )

    def decode(self, clip: PlannedClip, doomed: Mapping[str, str]) -> Decoded:
        """Decode a clip; one that gives no usable sound leaves the reason in its place."""
        encoder = self.cutter.encoder
        if clip.clip_id in doomed:
            return Decoded(clip, np.empty(0, dtype=np.float32), doomed[clip.clip_id])
        try:
            row = self.about.clips.row(clip.row, named=True)
            if clip.duration_s > max(STREAMED_S, self.cutter.window / encoder.rate_hz):
                wave = StreamedClip(self.about.root, row, rate_hz=encoder.rate_hz, wrap_blocks=read_ahead)
            else:
                wave = load_clip(self.about.root, row, rate_hz=encoder.rate_hz)
        except AudioError as error:
            return Decoded(clip, np.empty(0, dtype=np.float32), str(error).removeprefix(f"{clip.path}: "))
        if len(wave) < encoder.min_samples:
            shortest = f"{encoder.name} needs {encoder.min_samples} for a frame"
            return Decoded(clip, wave, f"too short: {len(wave)} samples at {encoder.rate_hz} Hz; {shortest}")
        return Decoded(clip, wave, None)

    def _store(
        self, writer: ShardWriter, shard: int, batch: Sequence[Decoded], tally: ProgressCounter
    ) -> Generator[Step, None, tuple[str, ...]]:
        """Encode and store a batch; return why clips of it were set aside."""
        aside: dict[str, str] = {}

        def set_aside(clip: PlannedClip, reason: str) -> None:
            aside[clip.clip_id] = f"{clip.path}: {reason}"
            self._refuse(writer, clip, reason)

        usable = [decoded for decoded in batch if decoded.reason is None]
        for clip, _, reason in batch:
            if reason is not None:
                set_aside(clip, reason)
        try:
            for piece in tally.through(self._pieces(usable), "encode"):
                decoded = usable[piece.clip]
                if decoded.clip.clip_id not in aside:
                    with tally.timed("write"):
                        if reason := self._keep(writer, decoded, piece):
                            set_aside(decoded.clip, reason)
                if not piece.last:
                    yield _step(shard, 0, 0.0, (), tally)
        except AudioError as error:
            # a long clip, alone in its batch, of which a part that was decoded on the way is no sound
            if aside or not _is_streamed(usable):
                raise
            set_aside(usable[0].clip, str(error).removeprefix(f"{usable[0].clip.path}: "))
        return tuple(aside.values())

    def _keep(self, writer: ShardWriter, decoded: Decoded, piece: EncodedWindow) -> str | None:
        """Store a piece; return why its clip cannot be stored, if it cannot."""
        if reason := writer.add(decoded.clip.clip_id, piece):
            return reason
        if piece.last:
            sound_s = len(decoded.wave) / self.cutter.encoder.rate_hz
            writer.finish_clip(decoded.clip.clip_id, decoded.clip.path, sound_s=sound_s)
        return None

    def _refuse(self, writer: ShardWriter, clip: PlannedClip, reason: str) -> None:
        if self.about.strict:
            raise AudioError(f"{clip.path}: {reason}")
        writer.set_aside(clip.clip_id, clip.path, reason)

    def _pieces(self, usable: Sequence[Decoded]) -> Iterator[EncodedWindow]:
        layers = [layer["index"] for layer in self.about.spec["layers"]]
        return encode_windows(self.cutter, [d.wave for d in usable], layers, batch_s=self.about.spec["batch_s"])


def _is_streamed(usable: Sequence[Decoded]) -> bool:
    return len(usable) == 1 and isinstance(usable[0].wave, StreamedClip)


def _step(shard: int, clips: int, sound_s: float, aside: tuple[str, ...], tally: ProgressCounter) -> Step:
    spent = dict(tally.spent_s)
    tally.spent_s.update({"encode": 0.0, "wait": 0.0, "write": 0.0})
    return Step(shard, clips, sound_s, aside, spent["encode"], spent["wait"], spent["write"])


@dataclass(frozen=True)
class ProbeWorker:
    """A worker that decodes and encodes clips one at a time and keeps nothing: it lives, or the clip is at fault.

    It yields after every window, to say that it lives.
    """

    about: WorkerFactory

    def __call__(self) -> Callable[[PlannedClip], Iterator[None]]:
        """Begin a worker."""
        work = self.about()
        layers = [layer["index"] for layer in self.about.spec["layers"]]

        def probe(clip: PlannedClip) -> Iterator[None]:
            decoded = work.decode(clip, {})
            if decoded.reason is None:
                for _ in encode_windows(work.cutter, [decoded.wave], layers, batch_s=self.about.spec["batch_s"]):
                    yield None

        return probe
