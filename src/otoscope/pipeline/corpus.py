"""Stage `corpus`: list, check and split the clips."""

import os
import re
import time
from contextlib import suppress
from pathlib import Path

import polars as pl

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint, write_table
from otoscope.config import RunConfig
from otoscope.corpus.audio import likely_unit
from otoscope.corpus.catalog import build_corpus, list_clips
from otoscope.corpus.checks import (
    TooManySetAside,
    class_support,
    describe_set_aside,
    make_clip_id,
    shared_recordings,
)
from otoscope.corpus.datasets.folder import FolderCorpus
from otoscope.corpus.datasets.manifest import ManifestCorpus
from otoscope.corpus.health import count_suspects, health_summary
from otoscope.corpus.listing import CorpusSpec, Listing
from otoscope.corpus.selection import SelectableCorpus
from otoscope.corpus.spelling import twin_notes
from otoscope.corpus.splits import one_split_reason
from otoscope.corpus.table import SPLITS, Corpus
from otoscope.errors import CorpusError, quote
from otoscope.explain.annotated_labels import MORE, frequent_labels
from otoscope.explain.annotation_tables import SKIPPED, choose_annotated
from otoscope.factors.annotation_folder import MAX_SHOWN, AnnotationFolder
from otoscope.factors.annotations import AnnotatedInterval, within_clip
from otoscope.formatting import count, first_few
from otoscope.report import evidence
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.inputs import probed_labels, unprobeable_reason
from otoscope.runs.progress import progress_counter


def set_aside(folder: RunFolder, *, extracted: bool) -> pl.DataFrame:
    """Return the clips set aside by listing and, if it has run, by extraction: columns `path, reason`."""
    listed = load_corpus(folder).set_aside
    if not extracted:
        return listed
    return pl.concat([listed, ActivationStore.open(folder.activations).set_aside.select("path", "reason")])


def corpus(run: Context) -> None:
    """List, decode and split the clips; write `corpus.parquet` and the table of clips set aside."""
    config, folder, progress = run.config, run.folder, run.progress
    annotations = None if config.corpus.annotations is None else AnnotationFolder(config.corpus.annotations)
    start_s = time.monotonic()
    with progress_counter(progress, "writing clips", "clips") as on_rendered:
        listing = list_clips(config.corpus, folder.sound, on_progress=on_rendered)
    if on_rendered.done:
        progress.message(f"  wrote {count(on_rendered.done, 'clip')} in {time.monotonic() - start_s:.1f} s")
    if annotations is None and (made := config.corpus.annotation_folder(folder.sound)) is not None:
        annotations = AnnotationFolder(made)
    inputs = fingerprint(
        config.corpus.model_dump(mode="json"),
        config.splits.model_dump(mode="json"),
        config.max_set_aside,
        run.fail_fast,
        _state_of_files(listing),
    )

    tables = [folder.corpus.with_name(f"{name}.parquet") for name in ("set_aside", "suspects")]

    def work() -> None:
        if annotations is not None:
            recordings = listing.clips["path"].unique().sort().to_list()
            annotations.check(recordings, config.corpus.tiers)  # before minutes of decoding
        with progress_counter(progress, "checking clips", "clips") as on_progress:
            try:
                built = build_corpus(
                    config.corpus,
                    config.splits,
                    cache=folder.sound,
                    fail_fast=run.fail_fast,
                    max_set_aside=config.max_set_aside,
                    on_progress=on_progress,
                    listing=listing,
                )
            except TooManySetAside as error:
                write_table(tables[0], error.set_aside)
                raise CorpusError(f"{error}. All of them and their reasons are listed in {tables[0]}") from error
        built.save(folder.corpus)

    outputs = [folder.corpus, folder.corpus.with_suffix(".json"), *tables]
    run_stage(folder, "corpus", inputs=inputs, outputs=outputs, work=work, progress=progress)
    table = load_corpus(folder)
    lines = _summary(run.config, listing, table)
    if annotations is not None:
        lines += _annotations(config, annotations, listing, table)
        listed = _listed_before_choice(config.corpus, listing, folder.sound)
        lines += annotations.notes(table.clips["path"].unique().sort().to_list(), left_out=listed)
    if suspects := count_suspects(table.suspects):
        lines.append(f"{suspects} listed in {tables[1]}; all are used")
    if not table.set_aside.is_empty():
        lines.append(f"{describe_set_aside(table.set_aside)}; all are listed in {tables[0]}")
    for text in lines:
        progress.message(f"  {text}")


def _summary(config: RunConfig, listing: Listing, corpus: Corpus) -> list[str]:
    """Return splits, columns, warnings and suspects of a corpus, one line each."""
    probed = probed_labels(corpus, config)
    for name in config.evaluate.covariates or ():
        corpus.label(name)  # an unknown one is refused here, and not hours later
    has_factors = config.factors.measures(corpus_has=bool(corpus.factors))
    readers = evidence.reader_names(labels=bool(probed), factors=has_factors)
    lines = _splits(corpus, readers, per_fold=config.splits.per_fold)
    asked, folds = config.splits.cross or 0, evidence.count_folds(corpus.clips)
    if asked > folds:
        lines.append(f"splits.cross is {asked}: {folds} folds are used, one per group, for want of more groups")
    stated = listing.clips["split"].is_not_null().any()
    if readers and (reason := one_split_reason(corpus.clips, config.splits, stated=stated)):
        lines.append(f"{readers}: one split, no cross-fit over the few groups, because {reason}")
    lines += (_sound(corpus.clips), *_columns(listing, corpus), *listing.notes, *_shortened(listing, corpus))
    lines += filter(None, map(corpus.groups_per_class, probed))
    lines += _warnings(config.corpus, listing, corpus, probed, all_labels=config.evaluate.labels is None)
    return lines + health_summary(corpus.suspects, corpus.clips, lengths=not config.corpus.sets_length)


def _annotations(config: RunConfig, annotations: AnnotationFolder, listing: Listing, corpus: Corpus) -> list[str]:
    """Return the numbers of intervals and labels, and warnings about them; raise `CorpusError` for other units.

    The times are compared with the lengths of recordings that are one clip.
    """
    whole = set(listing.clips.filter(pl.col("duration_s").is_null() & (pl.col("start_s") == 0.0))["path"])
    of_recording: dict[str, int] = {}
    of_clip: dict[int, list[AnnotatedInterval]] = {}
    labels: set[tuple[str, str]] = set()
    late, far, example = 0, 0, ""
    found = annotations.of_clips(corpus.clips, config.corpus.tiers)
    for position, (row, intervals) in enumerate(zip(corpus.clips.iter_rows(named=True), found, strict=True)):
        inside, beyond = within_clip(intervals, start_s=row["start_s"], duration_s=row["duration_s"])
        if inside:
            of_clip[position] = inside
        recording = make_clip_id(row["path"], 0.0, None, row.get("channel"))
        if recording in of_recording:
            continue
        of_recording[recording] = len(intervals)
        labels |= {(one.tier, one.label) for one in intervals}
        if row["path"] in whole and beyond:
            late += beyond
            far += sum(one.end_s > FAR * row["duration_s"] for one in intervals)
            last = max(intervals, key=lambda one: one.end_s)
            unit = likely_unit(last.end_s, row["duration_s"], rate_hz=row["rate_hz"])
            example = example or (
                f"{quote(last.label)} of {row['path']} from {last.start_s:g} to {last.end_s:g} s in a recording of"
                f" {row['duration_s']:g} s" + (f"; are the times in {unit}?" if unit else "; give seconds")
            )
    total = sum(of_recording.values())
    if not total:
        annotations.check(corpus.clips["path"].unique().sort().to_list(), config.corpus.tiers)
    if 2 * far > total:
        raise CorpusError(
            f"{far:,} of {count(total, 'interval')} under {annotations.root} end long after the recording,"
            f" such as {example}"
        )
    tiers = sorted({tier for tier, _ in labels})
    missing = [path for path, number in of_recording.items() if not number]
    lines = [
        f"{len(of_recording) - len(missing):,} of {count(len(of_recording), 'recording')} annotated:"
        f" {count(total, 'interval')}, {count(len(labels), 'label')}, tiers: {first_few(tiers, MAX_SHOWN)}"
        + (f"; none for {first_few(sorted(missing), MAX_SHOWN)}" if missing else "")
    ]
    if late:
        lines.append(
            f"warning: intervals that end after their recordings: {late:,} of {total:,}; they are cut or left out"
        )
    lines += twin_notes("tiers", tiers) + twin_notes("annotations", sorted({label for _, label in labels}))
    chosen = choose_annotated(corpus, list(of_clip), clips=config.explain.clips)
    is_test = [corpus.clips["split"][i] == "test" for i in chosen]
    if "annotations" in config.explain.only and not frequent_labels([of_clip[i] for i in chosen], is_test):
        lines.append(f"warning: {SKIPPED}; {MORE}")
    return lines


FAR = 5
"""Length of a recording, times which an annotation ends long after it."""


def _listed_before_choice(spec: CorpusSpec, listing: Listing, cache: Path) -> list[str]:
    """Return the recordings, with those that `include`, `exclude`, `take` and `max_clips` leave out."""
    listed = listing.clips["path"].to_list()
    if isinstance(spec, SelectableCorpus):
        whole = spec.model_copy(update={"include": (), "exclude": (), "take": None, "max_clips": None})
        if whole != spec:
            with suppress(CorpusError):  # the pattern may not match names that are left out
                listed += whole.listing(cache).clips["path"].to_list()
    return listed


def _splits(corpus: Corpus, readers: str, *, per_fold: bool) -> list[str]:
    """Return the clips and groups of each split, and of the folds of a cross-fit."""
    clips = corpus.clips
    parts = [(split, evidence.Evidence.of(clips.filter(split=split)).description) for split in SPLITS]
    shares = ", ".join(f"{split} {described}" for split, described in parts)
    held = {split: clips.filter(split=split)["group"].unique().sort().to_list() for split in SPLITS[1:]}
    named = "; ".join(f"{split} groups: {first_few(of, MAX_GROUPS_SHOWN)}" for split, of in held.items() if of)
    if "fold" not in clips.columns:
        return [shares, *filter(None, [named])]
    lines = [f"{'shared ' if per_fold else ''}dictionaries and explained variance: {shares}", *filter(None, [named])]
    return [*lines, f"{readers}: {evidence.cross_fit_line(clips, per_fold=per_fold)}"] if readers else lines


def _sound(clips: pl.DataFrame) -> str:
    """Return the sample rates, the channels unless all files are mono, and the lengths of the clips in one line."""
    facts = [_counted(clips["rate_hz"], "{:,} Hz")]
    if "channels" in clips.columns:
        channels = _counted(clips["channels"], "{} channels")
        facts.append(re.sub(r"\b[12] channels", lambda found: "mono" if found[0][0] == "1" else "stereo", channels))
    shortest, longest = (f"{length:.3g}" for length in clips["duration_s"].sort()[[0, -1]])
    lasting = f"{shortest} s" if shortest == longest else f"{shortest} to {longest} s"
    return f"sound: {', '.join(facts)}, clips of {lasting}"


def _counted(values: pl.Series, form: str) -> str:
    """Return the different values, the most frequent first, with their numbers if there are several."""
    rows = values.value_counts().sort("count", values.name, descending=[True, False]).rows()
    return first_few((form.format(value) + (f" ({of:,})" if len(rows) > 1 else "") for value, of in rows), 4)


CONFOUNDED_SHARE = 0.9
"""Share of the clips of each class at one rate from which the rate tells classes apart."""


def rates_by_class(clips: pl.DataFrame, label: str) -> str:
    """Return that the sample rate tells classes of a label apart; empty if it does not.

    >>> clips = pl.DataFrame({"rate_hz": [8000, 8000, 44100], "label_mood": ["sad", "sad", "happy"]})
    >>> rates_by_class(clips, "mood").partition(":")[0]
    'the sample rate differs between the classes of mood (happy 44,100 Hz, sad 8,000 Hz)'
    """
    known = clips.select("rate_hz", name=f"label_{label}").drop_nulls()
    of_class = known.group_by("name", "rate_hz").len().sort("name", "len", "rate_hz", descending=[False, True, False])
    shares = of_class.group_by("name", maintain_order=True).agg(
        pl.col("rate_hz").first(), share=pl.col("len").first() / pl.col("len").sum()
    )
    if shares["rate_hz"].n_unique() < 2 or not (shares["share"] >= CONFOUNDED_SHARE).all():
        return ""
    first = shares.unique("rate_hz", keep="first", maintain_order=True).head(3)
    shown = ", ".join(f"{name} {rate_hz:,} Hz" for name, rate_hz in first.select("name", "rate_hz").rows())
    return (
        f"the sample rate differs between the classes of {label} ({shown}): a probe can tell them apart by"
        " their bandwidth alone; add recordings of each class at each rate, or resample all to the lowest one"
    )


def _columns(listing: Listing, corpus: Corpus) -> list[str]:
    """Return the groups, labels and factors with their numbers of values, one line each."""
    clips = corpus.clips
    origin = f" ({listing.group_source})" if listing.group_source else ""
    lines = [f"groups: {count(clips['group'].n_unique(), corpus.group_noun)}{origin}"]
    for kind, names in (("label", corpus.labels), ("factor", corpus.factors)):
        shown: list[str] = []
        for name in names[:MAX_COLUMNS_SHOWN]:
            values = clips[f"{kind}_{name}"]
            facts = (
                [count(values.n_unique() - (values.null_count() > 0), "class", "classes")] if kind == "label" else []
            )
            facts += ["the same for all"] if kind == "factor" and values.drop_nulls().n_unique() == 1 else []
            facts += [f"{values.null_count():,} missing"] if values.null_count() else []
            shown.append(name + (f" ({', '.join(facts)})" if facts else ""))
        more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        lines.append(f"{kind}s: {', '.join(shown) or 'none in the corpus'}{more}")
    return lines


def _shortened(listing: Listing, corpus: Corpus) -> list[str]:
    """Return the number of segments that end a few milliseconds after their recording, and were shortened."""
    stated = listing.clips.filter(pl.col("duration_s").is_not_null())
    ends = stated.select(
        pl.struct("path", "start_s", "duration_s")
        .map_elements(lambda clip: make_clip_id(**clip), return_dtype=pl.String())
        .alias("clip_id"),
        stated_s="duration_s",
    )
    if ends.is_empty():
        return []
    clips = corpus.clips.with_columns(pl.col("clip_id").str.replace(r"#channel\d+$", ""))
    both = clips.join(ends.unique("clip_id"), on="clip_id").select(late_s=pl.col("stated_s") - pl.col("duration_s"))
    late = both.filter(pl.col("late_s") > LATE_S)["late_s"]
    if late.is_empty():
        return []
    longest = float(late.to_numpy().max())
    return [f"{count(len(late), 'segment')} ended up to {longest * 1000:.0f} ms after the recording and were shortened"]


MAX_GROUPS_SHOWN = 8
"""Groups of a split named in the terminal."""

MAX_COLUMNS_SHOWN = 8
"""Labels, and factors, named in the terminal."""

LATE_S = 0.0005
"""Difference of a stated and a real duration that is more than rounding to a sample."""


def _warnings(spec: CorpusSpec, listing: Listing, corpus: Corpus, probed: list[str], *, all_labels: bool) -> list[str]:
    """Return warnings about results on this corpus."""
    excluded = [name for name in corpus.labels if name not in probed] if all_labels else []
    reasons = {name: unprobeable_reason(corpus.clips, corpus.label(name)) for name in excluded}
    warnings = [f"warning: {name} is not probed: {reason}" for name, reason in reasons.items()]
    if thin_split := evidence.warning(evidence.evidence_of_clips(corpus.clips, labels=bool(probed))):
        warnings.append(thin_split)
    if corpus.clips["group"].n_unique() == corpus.clips.height:
        warnings.append(_singleton_groups(spec, listing.group_source))
    if not corpus.labels and isinstance(spec, FolderCorpus) and spec.class_source != "none":
        warnings.append(f"no labels: all files are directly in {spec.root}; sub-folders would become labels")
    is_crossed = "fold" in corpus.clips.columns
    enough = "three folds, so in three groups or more" if is_crossed else "train and in test"
    choice = "" if is_crossed else ", or choose the groups (splits.test_groups)"
    thin = class_support(corpus.clips).filter(~pl.col("usable") & pl.col("label").is_in(probed))
    for label, classes in (
        thin.group_by("label", maintain_order=True).agg("class", "reason").select("label", "class").iter_rows()
    ):
        names = first_few(classes, 5)
        warnings.append(
            f"warning: {evidence.classes_of(label, len(classes))} cannot be scored ({names}): a class needs clips in"
            f" {enough}; add recordings by further groups{choice}"
        )
    for label in probed:
        unscored = thin.filter(label=label)["class"].to_list()
        is_counted = bool(corpus.groups_per_class(label))  # in a line above
        if text := evidence.thin_classes(
            corpus.clips, label, noun=corpus.group_noun, unscored=unscored, counts=not is_counted
        ):
            warnings.append(f"warning: {text}")
    warnings += [f"warning: {text}" for text in evidence.coinciding_classes(corpus.clips, probed)]
    warnings += [f"warning: {text}" for label in probed if (text := rates_by_class(corpus.clips, label))]
    leaks = shared_recordings(corpus.clips).filter("leaks")
    if not leaks.is_empty():
        first = ", ".join(leaks["clip_ids"][0].to_list()[:3])
        recordings = count(leaks.height, "recording")
        parts = "fold or split" if "fold" in corpus.clips.columns else "split"
        warnings.append(f"warning: {recordings} in more than one {parts} under different groups, such as {first}")
    return warnings


def _singleton_groups(spec: CorpusSpec, source: str) -> str:
    """Return the warning that every clip is its own group, with a hint if groups were not configured."""
    warning, hint = "warning: every clip is its own group", ""
    if isinstance(spec, FolderCorpus) and source == "each file":
        hint = "name speakers or singers with `group` in `pattern`, with group_pattern, or with group_from"
    elif isinstance(spec, ManifestCorpus) and source == "each file":
        hint = "name speakers or singers in a column `group`, or give another column with `group`"
    if hint:
        return f"{warning}, so one speaker or singer may be in several splits; {hint}"
    return f"{warning}, as configured; this is correct only if no speaker or singer has two clips"


def _state_of_files(listing: Listing) -> str:
    """Return a fingerprint of sizes and times of the files: an unchanged corpus is not decoded again."""
    paths = listing.clips["path"].unique().sort().to_list()
    states = [(path, stat.st_size, stat.st_mtime_ns) for path in paths if (stat := _stat(listing.root / path))]
    return fingerprint(str(listing.root), listing.clips.columns, listing.clips.rows(), states)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
