"""Run an encoder over a corpus, once, and leave a store."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from otoscope.activations.ahead import ahead, read_ahead
from otoscope.activations.commit import finish, is_current
from otoscope.activations.home import Home, home_of, read_card
from otoscope.activations.layout import MANIFEST, recipe, shard_card_path
from otoscope.activations.memory import kept
from otoscope.activations.pieces import Cutter, encode_pieces
from otoscope.activations.plan import Batch, Clip, Sharding, batches
from otoscope.activations.progress import Progress, Tally
from otoscope.activations.segments import Segments
from otoscope.activations.settle import Settled, begin, duration_of, missing_shards, settle
from otoscope.activations.shards import ShardWriter
from otoscope.activations.tensorfile import PRECISIONS
from otoscope.corpus.audio import load_clip
from otoscope.corpus.stream import StreamedClip
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import AudioError

STREAMED_S = 60.0
"""A clip longer than this, and than a window, is decoded while it is encoded: it is never whole in memory."""


class Decoded(NamedTuple):
    """One clip's sound at the encoder's rate, or the reason why there is none to encode."""

    clip: Clip
    wave: Float32[np.ndarray, " samples"] | StreamedClip
    reason: str | None


def extract(
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
) -> Iterator[Progress]:
    """Write the store of a corpus, a shard at a time, and yield after every batch.

    Run it again after a kill: whole shards are kept (their sizes are checked, with `verify` their checksums too) and
    the rest is written with the same bytes as in one go. A clip that cannot be used is set aside with the reason.
    Run it with a larger corpus, or another: the clips that are stored stay, only the others are encoded, and until
    they are the store is read as it was.

    Args:
        corpus: the clips.
        encoder: the model.
        folder: where the store goes, a folder or an address that fsspec knows (`s3://bucket/name`); it may hold the
            same store, begun or of another corpus.
        layers: which layers to keep.
        dtype: float32, float16 or bfloat16.
        pooled: keep the mean over each clip's valid frames.
        frames: keep every valid frame.
        segments: keep the mean over each segment's frames.
        batch_s: padded seconds of sound that go through the encoder at once; memory grows with it.
        sharding: how large shards may grow and how long clips are cut.
        strict: raise at the first unusable clip.
        verify: check the SHA-256 of shards that are already there.
        threads: threads that decode and resample ahead of the encoder.
        max_set_aside: share of the clips that may be unusable before the run stops.

    Raises:
        StaleArtifact: the folder holds a store of something else; the message says what differs.
        StorageFull: no room is left; what is whole stays, and the same call goes on later.
        CorpusError: too many clips are unusable, or with `strict` the first one is.
    """
    sharding = sharding or Sharding()
    card = recipe(
        encoder,
        layers=layers,
        dtype=dtype,
        pooled=pooled,
        frames=frames,
        segments=segments,
        batch_s=batch_s,
        sharding=sharding,
    )
    home = home_of(folder)
    with home.sole_writer():
        settled = settle(home, corpus, card, sharding, segments=segments, bytes_per_s=_bytes_per_s(card), verify=verify)
        begin(home, settled)
        cutter = Cutter(encoder, sharding.window_s, sharding.overlap_s)
        run = _Run(corpus, cutter, home, settled, segments, strict, threads)
        total_s = float(corpus.clips["duration_s"].sum())
        tally = Tally(corpus.clips.height, total_s, len(settled.kept) + len(settled.plan), max_set_aside)
        whole, missing = missing_shards(home, settled, verify=verify)
        _skip(tally, corpus, settled, whole, missing)
        yield tally.progress(shard=0, clips_new=tally.clips)
        current = is_current(home, settled.card["fingerprint"])
        if missing and current:
            home.remove(MANIFEST)
        if missing or not current:
            batches = [batch for shard in missing for batch in run.batches(shard, settled.plan[shard])]
            with kept():
                yield from run.write(batches, tally)
            written = {shard: read_card(home, shard_card_path(shard)) for shard in missing}
            finish(home, settled.card, settled.keys, {**settled.kept, **whole, **written})


def _bytes_per_s(card: dict[str, Any]) -> float:
    """Return the stored bytes a second of sound, over all layers; 0 where frames are not kept."""
    size = np.dtype(PRECISIONS[card["dtype"]].mapped).itemsize
    return sum(layer["width"] * layer["rate_hz"] * size for layer in card["layers"]) if card["frames"] else 0.0


def _skip(
    tally: Tally, corpus: Corpus, settled: Settled, whole: dict[int, dict[str, Any]], missing: Sequence[int]
) -> None:
    """Count the clips that are stored already."""
    to_do = [clip for shard in missing for clip in settled.plan[shard]]
    aside = sum(
        settled.keys.get(clip[0]) == clip[-1]
        for card in (*settled.kept.values(), *whole.values())
        for clip in card["set_aside"]
    )
    tally.skip(corpus.clips.height - len(to_do), tally.sound_total_s - duration_of(to_do), aside)


@dataclass(frozen=True)
class _Run:
    corpus: Corpus
    cutter: Cutter
    home: Home
    settled: Settled
    segments: Segments | None
    strict: bool
    threads: int

    @property
    def card(self) -> dict[str, Any]:
        return self.settled.card

    def batches(self, shard: int, clips: Sequence[Clip]) -> list[Batch]:
        return batches(
            shard,
            clips,
            batch_s=self.card["batch_s"],
            window_s=self.cutter.window / self.cutter.encoder.rate_hz,
            padded_s=self.cutter.padded_s,
        )

    def write(self, todo: Sequence[Batch], tally: Tally) -> Generator[Progress]:
        """Write shards from their batches while the next batches are decoded."""
        decoding = ahead(
            todo,
            self.decode,
            weigh=lambda batch: batch.sound_s,
            bound=4.0 * self.card["batch_s"],
            threads=self.threads,
        )
        with closing(decoding):
            for shard, parts in groupby(tally.through(decoding, "wait"), key=lambda part: part[0].shard):
                with self.writer(shard) as writer:
                    for batch, decoded in parts:
                        aside = self.store(writer, decoded, tally)
                        tally.add(len(batch.clips), batch.sound_s, len(aside))
                        if aside:
                            tally.check(aside[-1])
                        yield tally.progress(shard=shard, clips_new=len(batch.clips))
                    with tally.timed("write"):
                        writer.commit()

    def writer(self, shard: int) -> ShardWriter:
        return ShardWriter(
            self.home,
            shard,
            recipe=self.card,
            key=self.settled.key_of(shard),
            clip_keys=self.settled.keys,
            segments=self.segments,
        )

    def decode(self, batch: Batch) -> list[Decoded]:
        """Decode the clips of a batch; a clip that gives no usable sound leaves the reason in its place."""
        return [self.decode_clip(clip) for clip in batch.clips]

    def decode_clip(self, clip: Clip) -> Decoded:
        encoder = self.cutter.encoder
        try:
            row = self.corpus.clips.row(clip.row, named=True)
            if clip.duration_s > max(STREAMED_S, self.cutter.window / encoder.rate_hz):
                wave = StreamedClip(self.corpus.root, row, rate_hz=encoder.rate_hz, through=read_ahead)
            else:
                wave = load_clip(self.corpus.root, row, rate_hz=encoder.rate_hz)
        except AudioError as error:
            return Decoded(clip, np.empty(0, dtype=np.float32), str(error).removeprefix(f"{clip.path}: "))
        if len(wave) < encoder.min_samples:
            shortest = f"{encoder.name} needs {encoder.min_samples} for a frame"
            return Decoded(clip, wave, f"too short: {len(wave)} samples at {encoder.rate_hz} Hz; {shortest}")
        return Decoded(clip, wave, None)

    def store(self, writer: ShardWriter, batch: Sequence[Decoded], tally: Tally) -> list[str]:
        """Encode and store a batch; return why clips of it were set aside."""
        aside: dict[str, str] = {}

        def set_aside(clip: Clip, reason: str) -> None:
            aside[clip.clip_id] = f"{clip.path}: {reason}"
            if self.strict:
                raise AudioError(aside[clip.clip_id])
            writer.set_aside(clip.clip_id, clip.path, reason)

        for decoded in batch:
            if decoded.reason is not None:
                set_aside(decoded.clip, decoded.reason)
        usable = [decoded for decoded in batch if decoded.reason is None]
        waves = [decoded.wave for decoded in usable]
        layers = [layer["index"] for layer in self.card["layers"]]
        try:
            for piece in tally.through(
                encode_pieces(self.cutter, waves, layers, batch_s=self.card["batch_s"]), "encode"
            ):
                clip, wave, _ = usable[piece.clip]
                if clip.clip_id in aside:
                    continue
                with tally.timed("write"):
                    if reason := writer.add(clip.clip_id, piece):
                        set_aside(clip, reason)
                    elif piece.last:
                        writer.finish_clip(clip.clip_id, clip.path, sound_s=len(wave) / self.cutter.encoder.rate_hz)
        except AudioError as error:
            # a long clip, alone in its batch, of which a part that was decoded on the way is no sound
            if aside or not (len(waves) == 1 and isinstance(waves[0], StreamedClip)):
                raise
            set_aside(usable[0].clip, str(error).removeprefix(f"{usable[0].clip.path}: "))
        return list(aside.values())
