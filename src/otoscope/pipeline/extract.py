"""Stage `extract`: encode the corpus into the activation store, in the run folder or at another address."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from otoscope.activations.extract import iter_extract
from otoscope.activations.format import CARD, MANIFEST, Sharding, foreign_files, remove_store
from otoscope.activations.maintain import is_known_damaged
from otoscope.activations.manifest import files_of, read_manifest
from otoscope.activations.progress import ExtractionProgress
from otoscope.activations.storage import REDIRECT, LocalStorage, open_storage, read_redirect, write_redirect
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint
from otoscope.config import ExtractSettings, RunConfig
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import ArtifactError, StaleArtifact, quote
from otoscope.formatting import count
from otoscope.hardware import find_device
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context, LazyEncoder, layers_to_extract
from otoscope.runs.folder import load_corpus
from otoscope.runs.inputs import holds_sound, read_segments, stored_corpus
from otoscope.runs.progress import task


def extract(run: Context) -> None:
    """Encode every clip that is not stored yet and write the activation store."""
    config, folder, watch = run.config, run.folder, run.progress
    settings = config.extract
    corpus = load_corpus(folder)
    encoder = run.encoder.release()
    layers = layers_to_extract(config, encoder)
    table = settings.segments
    inputs = fingerprint(
        corpus.fingerprint,
        encoder.name,
        encoder.revision,
        settings.model_dump(mode="json"),
        digest(table) if table is not None and table.is_file() else None,
        layers,
        run.fail_fast,
    )
    extraction = _Extraction(run, corpus, encoder, layers)

    def work() -> None:
        if (device := find_device(config.device)).type != "cpu":
            watch.message(f"  device: {device}")
        if is_known_damaged(folder.activations):
            watch.message("  the store is damaged and will be repaired; results that depend on it are computed again")
        last = extraction.write_to(settings.store) if settings.store else extraction.write_in_run(folder.activations)
        store = ActivationStore.open(folder.activations)
        watch.message(f"  {store.manifest['sound_s']:,.0f} s of sound, {store.frames:,} frames per layer")
        if last is not None and last.skipped_clips:
            new = last.clips - last.skipped_clips
            watch.message(
                f"  {count(last.skipped_clips, 'clip')} kept, {new:,} new ({last.sound_s - last.skipped_s:,.1f} s)"
            )
        if last is not None and last.clips > last.skipped_clips:
            folder.log(
                "extracted", times_real_time=round(last.times_real_time, 2), utilisation=round(last.utilisation, 3)
            )
            watch.message(f"  {last.time_summary()}")

    _end_swap(folder.activations)
    run_stage(
        folder,
        "extract",
        inputs=inputs,
        outputs=partial(_files, folder.activations),
        work=work,
        progress=watch,
        intact=lambda: _is_intact(folder.activations, corpus, settings),
    )
    aside = ActivationStore.open(folder.activations).set_aside
    if not aside.is_empty():
        first = aside.row(0, named=True)
        watch.message(f"  {count(aside.height, 'clip')} set aside, such as {first['path']} ({first['reason']})")


class _Extraction:
    """One extraction, with methods for its possible targets."""

    def __init__(self, run: Context, corpus: Corpus, encoder: Encoder, layers: Sequence[int]) -> None:
        self._run, self._corpus, self._encoder, self._layers = run, corpus, encoder, layers

    def write_in_run(self, folder: Path) -> ExtractionProgress | None:
        """Write to the run folder; a complete store with other settings is replaced once the new one is complete."""
        if read_redirect(folder) is not None:
            remove_store(LocalStorage(folder))
        try:
            return self._write(folder)
        except StaleArtifact as error:
            reason = str(error).removeprefix(f"{folder} holds other activations: ").split(";")[0]
        if not (folder / MANIFEST).is_file():
            self._run.progress.message(f"  the unfinished store has other settings ({reason}) and is replaced")
            remove_store(LocalStorage(folder))
            return self._write(folder)
        if others := foreign_files(LocalStorage(folder)):
            raise ArtifactError(
                f"{folder} holds a store with other settings ({reason}), which a new one would replace, and files that"
                f" otoscope did not write: {', '.join(map(quote, others[:3]))}; move them elsewhere, or choose another"
                " run folder with --out"
            )
        self._run.progress.message(
            f"  the existing store has other settings ({reason}) and is kept until the new one is complete"
        )
        new = _sibling(folder, "new")
        try:
            last = self._write(new)
        except StaleArtifact:  # begun with other settings, and never finished
            remove_store(LocalStorage(new))
            last = self._write(new)
        folder.rename(_sibling(folder, "old"))
        _end_swap(folder)
        return last

    def write_to(self, address: str) -> ExtractionProgress | None:
        """Write to another address, and redirect the run folder to it.

        Raises `ArtifactError` if another run completed a store of other clips there.
        """
        folder = self._run.folder.activations
        self._require_own(address, folder)
        last = self._write(address)
        if read_redirect(folder) is None:
            remove_store(LocalStorage(folder))
        write_redirect(folder, address)
        (folder / MANIFEST).write_bytes(open_storage(address).read(MANIFEST))
        return last

    def _require_own(self, address: str, folder: Path) -> None:
        """Raise `ArtifactError` for a complete store of other clips, unless it is this run's own."""
        try:
            manifest = read_manifest(open_storage(address))
        except ArtifactError:  # none, unfinished or damaged
            return
        if holds_sound(manifest, self._corpus, self._run.config.extract):
            return
        try:
            own = read_redirect(folder) == address and read_manifest(LocalStorage(folder)) == manifest
        except ArtifactError:
            own = False
        if not own:
            raise ArtifactError(
                f"{address} holds the activations of another run ({stored_corpus(manifest)}), and this run has "
                f"{count(self._corpus.clips.height, 'clip')}: a store belongs to one corpus; nothing was written: set "
                "extract.store to another address"
            )

    def _write(self, address: Path | str) -> ExtractionProgress | None:
        config, watch = self._run.config, self._run.progress
        settings = config.extract
        last: ExtractionProgress | None = None
        segments = read_segments(settings)
        for note in () if segments is None else segments.notes:
            watch.message(f"  {note}")
        with task(watch, f"extracting {count(len(self._layers), 'layer')}", self._corpus.clips.height, "clips"):
            for last in iter_extract(
                self._corpus,
                self._encoder,
                address,
                layers=self._layers,
                dtype=settings.dtype,
                frames=settings.frames,
                segments=segments,
                sharding=Sharding(window_s=settings.window_s, overlap_s=settings.overlap_s),
                strict=self._run.fail_fast,
                max_set_aside=config.max_set_aside,
                executor=self._run.executor,
                load=None if self._run.executor.in_process else partial(_load, config),
            ):
                watch.advance(last.clips_new, note=f"{last.times_real_time:.1f} x real time")
        listed = 0 if segments is None or segments.table is None else segments.table.height
        if lost := max(0, listed - (ActivationStore.open(address).segments.height if listed else 0)):
            watch.message(f"  warning: {count(lost, 'segment')} without any frame: too short, or of clips set aside")
        return last


def _load(config: RunConfig) -> Encoder:
    """Load the model of a run in a worker."""
    return LazyEncoder(config).release()


def _sibling(folder: Path, word: str) -> Path:
    return folder.with_name(f"{folder.name}.{word}")


def _end_swap(folder: Path) -> None:
    """Finish a swap of stores that a kill interrupted between its two renames."""
    if not folder.exists() and (_sibling(folder, "new") / MANIFEST).is_file():
        _sibling(folder, "new").rename(folder)
    if (folder / MANIFEST).is_file():
        remove_store(LocalStorage(_sibling(folder, "old")))


def _files(folder: Path) -> dict[Path, str | None]:
    """Return the files of the store in a run folder with their digests, or the two that refer to another address."""
    if read_redirect(folder) is not None:
        return {folder / name: None for name in (REDIRECT, MANIFEST)}
    files = files_of(ActivationStore.open(folder).manifest)
    return {folder / name: None for name in (MANIFEST, CARD)} | {folder / n: f["sha256"] for n, f in files.items()}


def _is_intact(folder: Path, corpus: Corpus, settings: ExtractSettings) -> bool:
    """Return whether the store holds this corpus, every file has its full size, and none is marked as damaged."""
    try:
        if is_known_damaged(folder):
            return False
        store = ActivationStore.open(folder)
        store.check_sizes()
        return holds_sound(store.manifest, corpus, settings)
    except ArtifactError:
        return False
