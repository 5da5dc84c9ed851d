"""Stages that touch sound: the corpus and its factors."""

import os
import time
from pathlib import Path

import polars as pl

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint
from otoscope.corpus.catalog import build_corpus
from otoscope.corpus.checks import class_support, shared_recordings
from otoscope.corpus.datasets.folder import FolderCorpus
from otoscope.corpus.datasets.manifest import ManifestCorpus
from otoscope.corpus.listing import CorpusSpec, Listing
from otoscope.corpus.table import SPLITS, Corpus
from otoscope.factors.egemaps import measure_ahead
from otoscope.factors.table import build_factors, factors_identity
from otoscope.formatting import count
from otoscope.report import evidence
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.inputs import probed_labels, unprobeable_reason
from otoscope.runs.progress import progress_counter


def set_aside(folder: RunFolder, *, extracted: bool) -> pl.DataFrame:
    """Return the clips that listing, and where it was brought up to date extraction, set aside: `path, reason`."""
    listed = load_corpus(folder).set_aside
    if not extracted:
        return listed
    return pl.concat([listed, ActivationStore.open(folder.activations).set_aside.select("path", "reason")])


def corpus(run: Context) -> None:
    """List, decode once, split; write `corpus.parquet` and the table of clips set aside."""
    config, folder, watch = run.config, run.folder, run.progress
    start_s = time.monotonic()
    with progress_counter(watch, "singing", "clips") as on_sung:
        listing = config.corpus.listing(folder.sound, on_progress=on_sung)
    if on_sung.done:
        watch.message(f"  sang {count(on_sung.done, 'clip')} in {time.monotonic() - start_s:.1f} s")
    inputs = fingerprint(
        config.corpus.model_dump(mode="json"),
        config.splits.model_dump(mode="json"),
        config.max_set_aside,
        run.fail_fast,
        _state_of_files(listing),
    )

    def work() -> None:
        with progress_counter(watch, "checking clips", "clips") as on_progress:
            built = build_corpus(
                config.corpus,
                config.splits,
                cache=folder.sound,
                fail_fast=run.fail_fast,
                max_set_aside=config.max_set_aside,
                on_progress=on_progress,
            )
        built.save(folder.corpus)

    outputs = [folder.corpus, folder.corpus.with_suffix(".json"), folder.corpus.with_name("set_aside.parquet")]
    run_stage(folder, "corpus", inputs=inputs, outputs=outputs, work=work, progress=watch)
    found = load_corpus(folder)
    sides = found.clips.group_by("split").agg(pl.col("group").n_unique().alias("groups"), pl.len().alias("clips"))
    shares = {
        split: f"{count(clips, 'clip')} of {count(groups, 'group')}" for split, groups, clips in sides.iter_rows()
    }
    watch.message("  " + ", ".join(f"{split} {shares[split]}" for split in SPLITS))
    probed = probed_labels(found, config)
    for text in _warnings(config.corpus, found, probed, all_wanted=config.evaluate.labels is None):
        watch.message(f"  {text}")
    if not found.set_aside.is_empty():
        watch.message(f"  {count(found.set_aside.height, 'file')} set aside; reasons in {outputs[-1]}")


def _warnings(spec: CorpusSpec, found: Corpus, probed: list[str], *, all_wanted: bool) -> list[str]:
    """Say what makes results on this corpus doubtful, though nothing stops the run."""
    left_out = [name for name in found.labels if name not in probed] if all_wanted else []
    told = [f"warning: {name} is not probed: {unprobeable_reason(found, name)}" for name in left_out]
    if thin_split := evidence.warning(evidence.evidence_of_clips(found.clips)):
        told.append(thin_split)
    if found.clips["group"].n_unique() == found.clips.height:
        told.append(_alone(spec, found))
    if not found.labels and isinstance(spec, FolderCorpus) and spec.class_from != "none":
        told.append(f"no label: files lie directly in {spec.root}, sub-folders would be labels")
    thin = class_support(found.clips).filter(~pl.col("usable") & pl.col("label").is_in(probed))
    for label, classes in (
        thin.group_by("label", maintain_order=True).agg("class", "reason").select("label", "class").iter_rows()
    ):
        some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        told.append(
            f"warning: not in both train and test: {count(len(classes), 'class', 'classes')} of {label} ({some})"
        )
    leaks = shared_recordings(found.clips).filter("leaks")
    if not leaks.is_empty():
        first = ", ".join(leaks["clip_ids"][0].to_list()[:3])
        recordings = count(leaks.height, "recording")
        told.append(f"warning: {recordings} in more than one split under different groups, such as {first}")
    return told


def _alone(spec: CorpusSpec, found: Corpus) -> str:
    """Say that every clip is a group of its own, and ask who is who only where that was not said."""
    every = "warning: every clip is a group of its own"
    unsaid = ""
    if isinstance(spec, FolderCorpus) and spec.group_pattern is None and spec.group_from is None:
        unsaid = "say who is who with group_pattern or group_from"
    elif (
        isinstance(spec, ManifestCorpus) and spec.group is None and (found.clips["group"] == found.clips["path"]).all()
    ):
        unsaid = "say who is who in a column `group`, or name the column with `group`"
    if unsaid:
        return f"{every}, so one speaker or singer may lie on both sides of the split; {unsaid}"
    return f"{every}, as the corpus is told to have them: right where no speaker or singer has two clips"


def factors(run: Context) -> None:
    """Measure or collect the factors of every clip; write `factors.parquet`."""
    config, folder, watch = run.config, run.folder, run.progress
    found = load_corpus(folder)
    settings = config.factors
    table_digest = digest(settings.table) if settings.table is not None and settings.table.is_file() else None
    inputs = fingerprint(found.fingerprint, settings.model_dump(mode="json"), table_digest, factors_identity())

    def work() -> None:
        cache = folder.root / "cache" / "egemaps"
        with progress_counter(watch, "measuring factors", "clips") as on_progress:
            if settings.egemaps and not run.executor.in_process:
                measure_ahead(found.clips, found.root, cache=cache, executor=run.executor, on_progress=on_progress)
            table = build_factors(
                found,
                egemaps=settings.egemaps,
                truth=settings.truth,
                table=settings.table,
                cache=cache,
                on_progress=on_progress,
            )
        table.save(folder.factors)

    outputs = [folder.factors, folder.factors.with_suffix(".json")]
    run_stage(folder, "factors", inputs=inputs, outputs=outputs, work=work, progress=watch)


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
