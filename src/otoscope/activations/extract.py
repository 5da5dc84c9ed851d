"""Run an encoder over a corpus, once, and leave a store."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from otoscope.activations.damage import clear_marks, is_marked, spoiled_shards, verify_files
from otoscope.activations.dispatch import write_shards
from otoscope.activations.format import MANIFEST, shard_card_path, store_spec
from otoscope.activations.manifest import commit_store, has_tables, is_current
from otoscope.activations.plan import ExtractionPlan, begin, clear, duration_of, missing_shards, plan_extraction
from otoscope.activations.progress import ExtractionProgress, ProgressCounter, progress_bar
from otoscope.activations.segments import Segments
from otoscope.activations.sharding import Sharding
from otoscope.activations.storage.base import open_storage, read_card
from otoscope.activations.store import ActivationStore
from otoscope.activations.tensorfile import PRECISIONS
from otoscope.activations.worker import WorkerFactory
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import ArtifactError
from otoscope.executors.base import Executor
from otoscope.executors.local import LocalExecutor
from otoscope.formatting import count


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
    """Write the store of a corpus, a shard at a time, and yield after every batch.

    Run it again after a kill: whole shards are kept (their sizes are checked, with `verify` their checksums too) and
    the rest is written with the same bytes as in one go. A clip that cannot be used is set aside with the reason.
    Run it with a larger corpus, or another: the clips that are stored stay, only the others are encoded, and until
    they are the store is read as it was. What `otoscope.activations.maintain.verify` found damaged is written anew.

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
        executor: who encodes; this process when left out. Workers write their own shards, this process the manifest.
        load: how a worker loads the model; when left out it is sent the encoder itself.

    Raises:
        StaleArtifact: the folder holds a store of something else; the message says what differs.
        StorageFull: no room is left; what is whole stays, and the same call goes on later.
        CorpusError: too many clips are unusable, or with `strict` the first one is.
        ExecutorError: workers died again and again, and no clip was found that they die of.
    """
    sharding = sharding or Sharding()
    card = store_spec(
        encoder,
        layers=layers,
        dtype=dtype,
        pooled=pooled,
        frames=frames,
        segments=segments,
        batch_s=batch_s,
        sharding=sharding,
    )
    home = open_storage(folder)
    with home.write_lock():
        if verify and home.size(MANIFEST) is not None:
            with suppress(ArtifactError):  # of a store that cannot be read as a whole every shard is looked at below
                verify_files(home)
        damaged, spoiled = is_marked(home), spoiled_shards(home)
        settled = plan_extraction(
            home,
            corpus,
            card,
            sharding,
            segments=segments,
            bytes_per_s=_bytes_per_s(card),
            verify=verify,
            spoiled=spoiled,
        )
        begin(home, settled)
        about = WorkerFactory(
            root=corpus.root,
            clips=corpus.clips.select("path", "start_s", "duration_s"),
            load=Given(encoder) if load is None else load,
            storage=home,
            spec=settled.card,
            segments=segments,
            strict=strict,
            threads=threads,
        )
        total_s = float(corpus.clips["duration_s"].sum())
        tally = ProgressCounter(corpus.clips.height, total_s, len(settled.kept) + len(settled.plan), max_set_aside)
        whole, missing = missing_shards(home, settled, verify=verify, spoiled=spoiled)
        _skip(tally, corpus, settled, whole, missing)
        yield tally.progress(shard=0, clips_new=tally.clips)
        current = is_current(home, settled.card["fingerprint"])
        if missing and current:
            home.remove(MANIFEST)
        if missing or not current or damaged or not has_tables(home):
            executor = executor or LocalExecutor()
            yield from write_shards(executor, about, settled, missing, tally)
            if not executor.in_process:
                clear(home)  # what workers that died left
            written = {shard: read_card(home, shard_card_path(shard)) for shard in missing}
            commit_store(home, settled.card, settled.keys, {**settled.kept, **whole, **written})
            clear_marks(home)


@dataclass(frozen=True)
class Given:
    """A model that is there already."""

    encoder: Encoder

    def __call__(self) -> Encoder:
        """Return it."""
        return self.encoder


def _bytes_per_s(card: dict[str, Any]) -> float:
    """Return the stored bytes a second of sound, over all layers; 0 where frames are not kept."""
    size = np.dtype(PRECISIONS[card["dtype"]].mapped).itemsize
    return sum(layer["width"] * layer["rate_hz"] * size for layer in card["layers"]) if card["frames"] else 0.0


def _skip(
    tally: ProgressCounter,
    corpus: Corpus,
    settled: ExtractionPlan,
    whole: dict[int, dict[str, Any]],
    missing: Sequence[int],
) -> None:
    """Count the clips that are stored already."""
    to_do = [clip for shard in missing for clip in settled.plan[shard]]
    aside = sum(
        settled.keys.get(clip[0]) == clip[-1]
        for card in (*settled.kept.values(), *whole.values())
        for clip in card["set_aside"]
    )
    tally.skip(corpus.clips.height - len(to_do), tally.sound_total_s - duration_of(to_do), aside)
