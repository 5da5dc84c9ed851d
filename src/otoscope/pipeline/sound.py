"""Stages that touch sound: the corpus, its factors, and what the layers hold while it plays."""

import os
from pathlib import Path

import polars as pl

from otoscope.activations.extract import extract as extract_activations
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_table
from otoscope.config import RunConfig
from otoscope.corpus.audit import class_support, shared_recordings
from otoscope.corpus.catalog import build_corpus
from otoscope.corpus.listing import Listing
from otoscope.corpus.table import Corpus
from otoscope.encoders.catalog import load_encoder
from otoscope.factors.table import build_factors, factors_identity
from otoscope.pipeline.context import Context
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.stage import run_stage
from otoscope.pipeline.watch import task


def load_corpus(folder: RunFolder) -> Corpus:
    """Return the corpus that the first stage wrote."""
    return Corpus.load(folder.corpus)


def set_aside(folder: RunFolder) -> pl.DataFrame:
    """Return every clip that some stage set aside: `path, reason`."""
    found = [load_corpus(folder).set_aside]
    if (path := folder.activations / "set_aside.parquet").is_file():
        found.append(read_table(path).select("path", "reason"))
    return pl.concat(found).unique(maintain_order=True)


def corpus(run: Context) -> None:
    """List, decode once, split; write `corpus.parquet` and the table of clips set aside."""
    config, folder, watch = run.config, run.folder, run.watch
    listing = config.corpus.listing(folder.sound)
    inputs = fingerprint(
        config.corpus.model_dump(mode="json"),
        config.splits.model_dump(mode="json"),
        config.max_set_aside,
        run.strict,
        _state_of_files(listing),
    )

    def work() -> None:
        with task(watch, "checking clips", listing.clips.height, "clips"):
            done = 0

            def on_progress(now: int, _total: int) -> None:
                nonlocal done
                watch.advance(now - done)
                done = now

            built = build_corpus(
                config.corpus,
                config.splits,
                cache=folder.sound,
                strict=run.strict,
                max_set_aside=config.max_set_aside,
                on_progress=on_progress,
            )
        built.save(folder.corpus)

    outputs = [folder.corpus, folder.corpus.with_suffix(".json"), folder.corpus.with_name("set_aside.parquet")]
    run_stage(folder, "corpus", inputs=inputs, outputs=outputs, work=work, watch=watch)
    found = load_corpus(folder)
    sides = found.clips.group_by("split").agg(pl.col("group").n_unique().alias("groups"), pl.len().alias("clips"))
    shares = {split: f"{clips:,} clips of {groups} groups" for split, groups, clips in sides.iter_rows()}
    watch.say("  " + ", ".join(f"{split} {shares[split]}" for split in ("train", "valid", "test")))
    for text in _warnings(found):
        watch.say(f"  {text}")
    if not found.set_aside.is_empty():
        watch.say(f"  {found.set_aside.height} clips set aside; reasons in {outputs[-1]}")


def _warnings(found: Corpus) -> list[str]:
    """Say what makes results on this corpus doubtful, though nothing stops the run."""
    told: list[str] = []
    thin = class_support(found.clips).filter(~pl.col("usable"))
    for label, classes in (
        thin.group_by("label", maintain_order=True).agg("class", "reason").select("label", "class").iter_rows()
    ):
        some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        told.append(f"warning: {len(classes)} classes of {label} are not in both train and test: {some}")
    leaks = shared_recordings(found.clips).filter("leaks")
    if not leaks.is_empty():
        first = ", ".join(leaks["clip_ids"][0].to_list()[:3])
        told.append(f"warning: {leaks.height} recordings lie in more than one split under different groups: {first}")
    return told


def factors(run: Context) -> None:
    """Measure or collect the factors of every clip; write `factors.parquet`."""
    config, folder, watch = run.config, run.folder, run.watch
    found = load_corpus(folder)
    settings = config.factors
    table_digest = digest(settings.table) if settings.table is not None and settings.table.is_file() else None
    inputs = fingerprint(found.fingerprint, settings.model_dump(mode="json"), table_digest, factors_identity())

    def work() -> None:
        total = found.clips.height if settings.egemaps else 0
        with task(watch, "measuring factors", total, "clips"):
            table = build_factors(
                found,
                egemaps=settings.egemaps,
                truth=settings.truth,
                table=settings.table,
                cache=folder.root / "cache" / "egemaps",
                on_progress=lambda _done, _total: watch.advance(1),
            )
        table.save(folder.factors)

    outputs = [folder.factors, folder.factors.with_suffix(".json")]
    run_stage(folder, "factors", inputs=inputs, outputs=outputs, work=work, watch=watch)


def extract(run: Context) -> None:
    """Run the encoder over every clip once; write the activation store."""
    config, folder, watch = run.config, run.folder, run.watch
    found = load_corpus(folder)
    manifest = folder.activations / "manifest.json"
    encoder = load_encoder(config.model, revision=config.revision, context=config.extract.context)
    layers = wanted_layers(config, [layer.index for layer in encoder.layers])
    inputs = fingerprint(
        found.fingerprint, encoder.name, encoder.revision, config.extract.model_dump(mode="json"), layers, run.strict
    )

    def work() -> None:
        sound_s = float(found.clips["duration_s"].sum())
        with task(watch, f"extracting {len(layers)} layers", found.clips.height, "clips"):
            for progress in extract_activations(
                found, encoder, folder.activations, layers=layers, dtype=config.extract.dtype, strict=run.strict
            ):
                watch.advance(progress.clips_new, note=f"{progress.times_real_time:.1f} x real time")
        watch.say(f"  {sound_s:,.0f} s of sound, {ActivationStore.open(folder.activations).frames:,} frames a layer")

    run_stage(folder, "extract", inputs=inputs, outputs=[manifest], work=work, watch=watch)


def wanted_layers(config: RunConfig, known: list[int]) -> list[int]:
    """Return the layers to extract, in order."""
    return known if config.extract.layers == "all" else sorted(set(config.extract.layers))


def _state_of_files(listing: Listing) -> str:
    """Identity of the files as the file system shows them, so that an unchanged corpus is not decoded again."""
    paths = listing.clips["path"].unique().sort().to_list()
    states = [(path, stat.st_size, stat.st_mtime_ns) for path in paths if (stat := _stat(listing.root / path))]
    return fingerprint(str(listing.root), listing.clips.columns, listing.clips.rows(), states)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
