"""Steps of stage `explain`: the tables of each, and the fingerprint of the inputs that they are computed from."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from otoscope.artifacts import fingerprint, remove_file, write_table
from otoscope.errors import ConfigError
from otoscope.explain import (
    ActivatingClip,
    ActivationIndex,
    LatentChoice,
    Sound,
    SweepTables,
    annotation_tables,
    card_tables,
    choose_clips,
    co_firing,
    describe_clips,
    example_table,
    firing_by_class,
    gather_frames,
    latent_families,
    match_indices,
    near_miss_table,
    number_of_clips,
    sweep_latents,
    top_activating_clips,
    write_sound,
    write_top_clips,
)
from otoscope.explain.activation_index import CARD
from otoscope.explain.matching import MATCHES, SUMMARY
from otoscope.factors.annotation_folder import AnnotationFolder
from otoscope.factors.logmel import RATE_HZ
from otoscope.pipeline.attribution import attribution_tables
from otoscope.pipeline.changed_layer import ChangedLayer
from otoscope.pipeline.erasure import ErasureTables, erasure_tables
from otoscope.pipeline.explained_run import ExplainedRun, annotation_files
from otoscope.pipeline.interventions import InterventionTables, intervention_tables
from otoscope.pipeline.splice import lens_table, splice_table
from otoscope.runs.cards import is_current, write_card
from otoscope.runs.code_version import code_version
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import task
from otoscope.sae.model import load_sae


@dataclass(frozen=True)
class ExplainStep:
    """Tables of `explain/` that are computed together, with a card of their own in `explain/steps/`."""

    name: str
    inputs: str
    tables: Sequence[str]
    compute: Callable[[], Mapping[str, pl.DataFrame]]
    """Returns the tables by name; further files are written by the function itself."""
    folder: Path
    also: str = ""
    """Regular expression of the names of further files."""
    possible: bool = True
    """False if the configuration lacks what the step reads; its files are then outdated."""

    def files(self) -> list[Path]:
        """Return the tables, and the further files that exist."""
        further = {path for path in self.folder.glob("*") if self.also and re.fullmatch(self.also, path.name)}
        return [*(self.folder / f"{name}.parquet" for name in self.tables), *sorted(further)]

    def is_current(self, folder: RunFolder) -> bool:
        """Return whether the files of the step are those of its inputs."""
        return is_current(self.card(folder), inputs=self.inputs, root=folder.root)

    def ensure(self, folder: RunFolder) -> None:
        """Compute and write the tables unless they are current."""
        if not self.is_current(folder):
            for name, table in self.compute().items():
                write_table(self.folder / f"{name}.parquet", table)
            write_card(self.card(folder), inputs=self.inputs, root=folder.root, outputs=self.files())

    def clear(self) -> None:
        """Remove outdated files; the card of the gallery before its table, without which it would be damaged."""
        for path in reversed(self.files()):
            remove_file(path)

    def card(self, folder: RunFolder) -> Path:
        """Return the path of the step's card."""
        return folder.explain / "steps" / f"{self.name}.json"


def _code(step: str) -> str:
    """Return the version of the module that computes a step, and of those that it takes frames and readouts from."""
    return code_version("otoscope.pipeline.changed_layer", f"otoscope.pipeline.{step}")


def firing_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that writes when latents fire."""
    settings, corpus = stage.run.config.explain, stage.corpus

    def compute() -> dict[str, pl.DataFrame]:
        classes = {"group": corpus.clips["group"], **{name: corpus.label(name) for name in corpus.labels}}
        by_class = [
            firing_by_class(stage.index, column.fill_null("").to_numpy()).with_columns(by=pl.lit(name))
            for name, column in classes.items()
        ]
        times_of = stage.times_of if stage.index.has_frames else None
        return {
            "firing": pl.concat(by_class),
            "co_firing": co_firing(stage.index, stage.latents),
            "examples": example_table(
                stage.index, stage.latents, stage.groups, times_of=times_of, top=settings.examples
            ),
        }

    inputs = fingerprint(stage.inputs, stage.gallery_inputs, settings.latents, settings.examples)
    return ExplainStep("firing", inputs, ("firing", "co_firing", "examples"), compute, stage.run.folder.explain)


def cards_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that writes cards, response curves and temporal profiles."""
    settings, corpus, watch = stage.run.config.explain, stage.corpus, stage.run.progress

    def compute() -> dict[str, pl.DataFrame]:
        splits = corpus.clips["split"].to_list()
        chosen = choose_clips(splits, stage.groups, clips=settings.clips)
        with task(watch, "describing frames", len(chosen), "clips"):
            described = describe_clips(
                [stage.index.clip_ids[i] for i in chosen],
                wave_of=lambda clip: stage.sound(clip, RATE_HZ),
                frames_of=stage.times_of,
                on_clip=lambda: watch.advance(1),
            )
        labels = {name: corpus.label(name).fill_null("").to_list() for name in corpus.labels}
        clips = gather_frames(
            stage.index, chosen, described, splits=splits, groups=stage.groups, labels=labels, true=corpus.true_factors
        )
        with task(watch, "writing cards", len(stage.latents), "latents"):
            tables = card_tables(
                stage.index, stage.latents, clips, frames_of=stage.times_of, on_latent=lambda: watch.advance(1)
            )
        spectra = np.full((stage.index.rows, clips.frames.spectra.shape[1]), np.nan, dtype=np.float32)
        spectra[clips.rows] = clips.frames.spectra
        misses = near_miss_table(stage.index, stage.latents, stage.groups, spectra=spectra, times_of=stage.times_of)
        return {**tables._asdict(), "near_misses": misses}

    inputs = fingerprint(stage.inputs, stage.gallery_inputs, settings.latents, settings.clips)
    names = ("cards", "responses", "shares", "measurements", "near_misses")
    return ExplainStep("cards", inputs, names, compute, stage.run.folder.explain)


def splice_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that measures what later layers hold if the reconstruction replaces the layer."""
    others = [
        member
        for member in (stage.grid if stage.run.config.explain.dictionaries == "all" else [])
        if member != stage.member and replace(member, sparsity=stage.member.sparsity) == stage.member
    ]
    inputs = fingerprint(stage.splice_inputs, stage.cards_of(others), _code("splice"))
    members = [stage.member, *others]
    return ExplainStep(
        "splice",
        inputs,
        ("splice",),
        lambda: {"splice": splice_table(stage.changed_layer, members)},
        stage.run.folder.explain,
    )


def lens_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that transcribes spoken words from each layer of Whisper."""
    inputs = fingerprint(stage.splice_inputs, _code("splice"))
    return ExplainStep(
        "lens", inputs, ("lens",), lambda: {"lens": lens_table(stage.changed_layer)}, stage.run.folder.explain
    )


def attribution_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that attributes decisions to latents, and activations to parts of the sound."""
    folder, settings = stage.run.folder.explain, stage.run.config.explain
    names = ("decisions", "occlusion", "relevance", "masked", "attribution")

    def compute() -> dict[str, pl.DataFrame]:
        *tables, sounds = attribution_tables(stage.changed_layer, stage.latents)
        for name, sound in sounds.items():
            write_sound(folder / name, sound)
        return dict(zip(names, tables, strict=True))

    inputs = fingerprint(stage.inputs, stage.gallery_inputs, settings.latents, _code("attribution"))
    return ExplainStep("attribution", inputs, names, compute, folder, also=r"masked\d{5,}-0\.flac")


def interventions_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that changes latents and rival directions and reads out the last layer."""
    return _readout_step(stage, "interventions", InterventionTables._fields, intervention_tables)


def erasure_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that erases each concept, and swaps it between clips."""
    clips = stage.run.config.explain.erasure_clips
    return _readout_step(stage, "erasure", ErasureTables._fields, erasure_tables, clips)


def _readout_step(
    stage: ExplainedRun,
    name: str,
    tables: tuple[str, ...],
    measure: Callable[[ChangedLayer], InterventionTables | ErasureTables],
    *sizes: int,
) -> ExplainStep:
    """Return a step that changes the layer and reads out concepts from the last one; `sizes` are its own settings."""
    settings = stage.run.config.explain
    shared = (settings.concepts, settings.intervention_clips, *sizes)
    inputs = fingerprint(stage.inputs, stage.store.content_id(), shared, _code(name))
    return ExplainStep(name, inputs, tables, lambda: measure(stage.changed_layer)._asdict(), stage.run.folder.explain)


def sweeps_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that sings clips in which one factor changes, and all of them."""
    run, settings = stage.run, stage.run.config.explain

    def compute() -> dict[str, pl.DataFrame]:
        clips = number_of_clips(crossed_clips=settings.sweep_clips)
        with task(run.progress, "sweeping voices", clips, "clips"):
            return sweep_latents(
                run.encoder.load(),
                load_sae(run.folder.saes / stage.member.sae_id).sae,
                stage.member.layer,
                stage.latents,
                crossed_clips=settings.sweep_clips,
                on_clip=lambda: run.progress.advance(1),
            )._asdict()

    inputs = fingerprint(stage.inputs, stage.gallery_inputs, settings.latents, settings.sweep_clips)
    return ExplainStep("sweeps", inputs, SweepTables._fields, compute, run.folder.explain)


def matching_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that writes families of latents, and the partners of every latent in other dictionaries."""
    wanted, watch = stage.run.config.explain.dictionaries == "all", stage.run.progress
    others = [member for member in stage.grid if wanted and member.sae_id != stage.member.sae_id]
    elsewhere = _indices_of(stage.run.config.explain.match_run)

    def compute() -> dict[str, pl.DataFrame]:
        families = latent_families(stage.index).table()
        indices = {member.sae_id: stage.index_of(member) for member in others} | elsewhere
        matches = {name: match_indices(stage.index, index) for name, index in indices.items()}
        if not matches and len(stage.grid) > 1:
            watch.message(
                "matching: set explain.dictionaries to all, to match latents with the run's other dictionaries"
            )
        summaries = [{"other": other, **found.summary()} for other, found in matches.items()]
        for one in summaries:
            watch.message(
                f"matching {one['other']}: {one['reappearing']:,} of {one['latents']:,} latents have a partner beyond "
                f"chance (5 % or fewer would); mean correlation {one['correlation']:.2f}, null {one['null']:.2f}"
            )
        tables = [found.table().select(pl.lit(other).alias("other"), *MATCHES) for other, found in matches.items()]
        empty = pl.DataFrame(schema={"other": pl.String(), **MATCHES})
        return {
            "families": families,
            "matching": pl.DataFrame(summaries, schema={"other": pl.String(), **SUMMARY}),
            "matches": pl.concat([empty, *tables]),
        }

    inputs = fingerprint(
        stage.inputs,
        stage.store.content_id(),
        stage.cards_of(others),
        [(name, index.card["inputs"]) for name, index in elsewhere.items()],
    )
    return ExplainStep("matching", inputs, ("families", "matching", "matches"), compute, stage.run.folder.explain)


def _indices_of(run: Path | None) -> dict[str, ActivationIndex]:
    """Return the indices of another run, named by it and the dictionary; raise `ConfigError` if it has none."""
    if run is None:
        return {}
    folders = sorted(path.parent for path in (run / "explain" / "index").glob(f"*/{CARD}"))
    if not folders:
        raise ConfigError(f"explain.match_run: {run} has no index of codes; name a run folder after `otoscope explain`")
    return {f"{run.name}/{folder.name}": ActivationIndex.open(folder) for folder in folders}


def annotations_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that finds the latent of each annotated label, with sounds."""
    run, settings, folder = stage.run, stage.run.config.explain, stage.run.folder.explain
    root, tiers = run.config.corpus.annotation_folder(run.folder.sound), run.config.corpus.tiers

    def compute() -> dict[str, pl.DataFrame]:
        if root is None:
            raise ConfigError("corpus.annotations is missing; name the folder of the annotations")
        with task(run.progress, "scoring annotated labels", 1, "table"):
            tables = annotation_tables(
                stage.corpus,
                stage.index,
                stage.store,
                stage.member.layer,
                AnnotationFolder(root),
                tiers=tiers,
                clips=settings.clips,
            )
            run.progress.advance(1)
        for note in tables.notes:
            run.progress.message(note)
        for name, sound in tables.sounds.items():
            write_sound(folder / name, sound)
        return {
            "annotated_examples": tables.examples,
            "annotated_labels": tables.labels,
            "annotated_unscored": tables.unscored,
        }

    inputs = fingerprint(stage.inputs, annotation_files(root), tiers, settings.clips)
    names = ("annotated_labels", "annotated_examples", "annotated_unscored")
    return ExplainStep(
        "annotations", inputs, names, compute, folder, also=r"annotated\d+\.flac", possible=root is not None
    )


def top_clips_step(stage: ExplainedRun) -> ExplainStep:
    """Return the step that writes sound and pictures for the gallery."""
    inputs = fingerprint(stage.inputs, stage.gallery_inputs, stage.run.config.report.clips)
    return ExplainStep(
        "top_clips",
        inputs,
        ("top_clips",),
        lambda: _write_top_clips(stage),
        stage.run.folder.explain,
        also=r"card\.json|latent\d{5,}-\d+\.(flac|png)",
    )


def _write_top_clips(stage: ExplainedRun) -> dict[str, pl.DataFrame]:
    """Write the top-activating clips of the chosen latents."""
    config, folder, watch, corpus = stage.run.config, stage.run.folder, stage.run.progress, stage.corpus
    position = {clip_id: row for row, clip_id in enumerate(stage.store.clip_ids)}
    column = {name: place for place, name in enumerate(stage.clips.factor_names)}
    rate_hz = int(stage.store.manifest["encoder"]["rate_hz"])
    means = stage.index.clip_means() if stage.chosen else np.empty((0, 0))
    with_clips: list[tuple[LatentChoice, list[ActivatingClip]]] = []
    with task(watch, "finding top clips", len(stage.chosen), "latents"):
        for choice in stage.chosen:
            strength = means[:, choice.latent]
            top_clips = top_activating_clips(
                choice.latent,
                strength,
                stage.store.clip_ids,
                stage.groups,
                codes_of=stage.codes_over_time if stage.index.has_frames else None,
                top=config.report.clips,
            )
            seeds = stage.compared
            with_clips.append((choice if seeds is None else seeds.with_seed_counts(choice), top_clips))
            watch.advance(1, note=choice.factor)
    member = stage.member
    write_top_clips(
        folder.explain,
        with_clips,
        sound_of=lambda clip: Sound(stage.sound(clip, rate_hz), rate_hz),
        card={
            "sae_id": member.sae_id,
            "layer": member.layer,
            "pooling": member.pooling,
            "sparsity": member.sparsity,
            "k": member.k,
            "latents": member.latents,
        },
        splits=dict(corpus.clips.select("clip_id", "split").iter_rows()),
        factor_values=lambda factor, clip: float(stage.clips.factors[position[clip], column[factor]]),
    )
    return {}  # written with their card
