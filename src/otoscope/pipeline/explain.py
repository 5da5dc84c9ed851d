"""Stage `explain`: index the codes, choose latents, and write when they fire and their top-activating clips."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_table, remove_file, write_table
from otoscope.corpus.audio import load_clip
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, ConfigError
from otoscope.explain import (
    ActivatingClip,
    ActivationIndex,
    LatentChoice,
    Sound,
    SweepTables,
    TimedCodes,
    annotation_tables,
    card_tables,
    choose_class_latents,
    choose_clips,
    choose_latents,
    co_firing,
    describe_clips,
    example_table,
    firing_by_class,
    gather_frames,
    index_inputs,
    latent_families,
    match_indices,
    near_miss_table,
    number_of_clips,
    sweep_latents,
    top_activating_clips,
    write_activation_index,
    write_sound,
    write_top_clips,
)
from otoscope.explain.activation_index import remove_index
from otoscope.explain.matching import MATCHES, SUMMARY
from otoscope.factors.annotations import READERS, AnnotationFolder
from otoscope.factors.logmel import RATE_HZ
from otoscope.factors.table import FactorTable
from otoscope.pipeline.attribution import attribution_tables
from otoscope.pipeline.erasure import ErasureTables, erasure_tables
from otoscope.pipeline.interventions import ChangedLayer, InterventionTables, intervention_tables
from otoscope.pipeline.splice import lens_table, splice_table
from otoscope.protocols import strict
from otoscope.protocols.strict.compare import ReappearingLatents, read_reappearing_latents
from otoscope.report.results import REFERENCE_SPARSITY, Results
from otoscope.runs.cache import run_stage
from otoscope.runs.cards import is_current, write_card
from otoscope.runs.code_version import code_version
from otoscope.runs.context import Context
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.inputs import Clips, clip_arrays, open_activations
from otoscope.runs.progress import task
from otoscope.runs.training import GridMember, training_grid
from otoscope.sae.checkpoint import CARD
from otoscope.sae.model import load_sae


def explain(run: Context) -> None:
    """Index the codes of the dictionary shown, choose latents for the best-predicted factors, and explain these.

    Each step of `explain.only` writes its own files to `explain/` and is skipped while its inputs are the same. Files
    of steps that are not listed stay as long as they are current.
    """
    folder = run.folder
    stage = _prepare(run)
    steps = _steps(stage)
    wanted = [step for name, step in steps.items() if name in run.config.explain.only and step.possible]
    members = stage.grid if run.config.explain.dictionaries == "all" else [stage.member]

    def work() -> None:
        for member in members:
            stage.index_of(member)
        for path in stage.indices.iterdir():
            if path.name not in {member.sae_id for member in members}:
                remove_index(path)
        for step in steps.values():
            if not step.is_current(folder):
                step.clear()
        for step in wanted:
            step.ensure(folder)
        if silent := stage.silent_latents:
            names = ", ".join(map(str, silent[:10])) + (", ..." if len(silent) > 10 else "")
            run.progress.message(f"latents of explain.latents that never fire on this corpus: {names}")

    run_stage(
        folder,
        "explain",
        inputs=fingerprint([step.inputs for step in wanted], stage.inputs, [member.sae_id for member in members]),
        outputs=lambda: [
            *(path for step in wanted for path in (*step.files(), step.card(folder))),
            *(path for member in members for path in ActivationIndex.open(stage.indices / member.sae_id).files),
        ],
        work=work,
        progress=run.progress,
        code=["otoscope.explain"],
    )


def step_inputs(run: Context) -> dict[str, str]:
    """Return the fingerprint of the inputs of every step that is possible for the dictionary shown."""
    return {name: step.inputs for name, step in _steps(_prepare(run)).items()}


def _steps(stage: "_ExplainStage") -> dict[str, "_Step"]:
    """Return the steps that are possible for the dictionary; raise `ConfigError` for one on request that is not."""
    steps = {"firing": stage.firing_step(), "top_clips": stage.top_clips_step()}
    if stage.member.pooling == "encode_then_pool":
        steps["cards"] = stage.cards_step()
        if stage.member.layer < max(stage.store.layers):
            steps["splice"] = stage.splice_step()
            steps["interventions"] = stage.interventions_step()
            steps["erasure"] = stage.erasure_step()
        steps["lens"] = stage.lens_step()
        steps["attribution"] = stage.attribution_step()
        steps["sweeps"] = stage.sweeps_step()
        steps["annotations"] = stage.annotations_step()
    steps["matching"] = stage.matching_step()
    for name in stage.run.config.explain.only:
        if name not in steps and (reason := unavailable_reason(name, stage.member, stage.store.layers)):
            raise ConfigError(f"explain.only: {name} {reason}")
    return steps


ON_REQUEST = ("interventions", "erasure", "lens", "attribution", "sweeps")
"""Steps that run only if they are named, and that are refused where they are not possible."""


def unavailable_reason(step: str, member: GridMember, layers: Sequence[int]) -> str | None:
    """Return the reason why a step that runs on request is not possible for a dictionary, and what to do; else None.

    >>> pooled = GridMember(3, "pool_then_encode", "default", 64, 0.9, 0)
    >>> print(unavailable_reason("erasure", pooled, [3, 4]))  # doctest: +ELLIPSIS
    needs a dictionary of frames, and layer03-pooled-default-m64-k6-seed0 encodes pooled clips; add ...
    """
    if step not in ON_REQUEST:
        return None
    if member.pooling != "encode_then_pool":
        return (
            f"needs a dictionary of frames, and {member.sae_id} encodes pooled clips; add encode_then_pool to "
            "train.poolings"
        )
    if step in ("interventions", "erasure") and member.layer >= max(layers):
        return (
            f"reads a layer after the dictionary's, and layer {member.layer} is the last that was extracted; train an "
            "earlier layer, or extract a later one"
        )
    return None


@dataclass(frozen=True)
class _Step:
    """Files of `explain/` that are computed together, with a card of their own in `explain/steps/`."""

    name: str
    inputs: str
    outputs: Sequence[Path]
    compute: Callable[[], object]
    also: str = ""
    """Regular expression of the names of further files."""
    possible: bool = True
    """False if the configuration lacks what the step reads; its files are then outdated."""

    def files(self) -> list[Path]:
        """Return the outputs, and the further files that exist."""
        parent = self.outputs[0].parent
        further = {path for path in parent.glob("*") if self.also and re.fullmatch(self.also, path.name)}
        return [*self.outputs, *sorted(further - set(self.outputs))]

    def is_current(self, folder: RunFolder) -> bool:
        return is_current(self.card(folder), inputs=self.inputs, root=folder.root)

    def ensure(self, folder: RunFolder) -> None:
        if not self.is_current(folder):
            self.compute()
            write_card(self.card(folder), inputs=self.inputs, root=folder.root, outputs=self.files())

    def clear(self) -> None:
        """Remove outdated files."""
        for path in self.files():
            remove_file(path)

    def card(self, folder: RunFolder) -> Path:
        """Return the path of the step's card."""
        return folder.explain / "steps" / f"{self.name}.json"


@dataclass(frozen=True)
class _ExplainStage:
    """Inputs of all steps; codes, chosen latents and indices are computed on first use."""

    run: Context
    store: ActivationStore
    results: pl.DataFrame
    corpus: Corpus
    compared: ReappearingLatents | None
    grid: list[GridMember]
    member: GridMember
    inputs: str

    @property
    def indices(self) -> Path:
        """Folder with one index per dictionary."""
        return self.run.folder.explain / "index"

    def index_of(self, member: GridMember) -> ActivationIndex:
        """Return the index of a dictionary, written if it is missing or outdated."""
        folder, sae = self.indices / member.sae_id, load_sae(self.run.folder.saes / member.sae_id).sae
        inputs = index_inputs(self.store, sae, member.layer, pooling=member.pooling)
        if (index := _open_index(folder)) is not None and index.card.get("inputs") == inputs:
            return index
        watch = self.run.progress
        with task(watch, "indexing codes", len(self.store.clip_ids), "clips"):
            return write_activation_index(
                folder, self.store, sae, member.layer, pooling=member.pooling, on_clip=lambda: watch.advance(1)
            )

    @cached_property
    def index(self) -> ActivationIndex:
        """Index of the dictionary shown."""
        return self.index_of(self.member)

    @cached_property
    def groups(self) -> list[str]:
        """Group of each clip."""
        return self.corpus.clips["group"].to_list()

    @cached_property
    def clips(self) -> Clips:
        """Splits, labels and factors of the clips."""
        return clip_arrays(self.corpus, FactorTable.load(self.run.folder.factors), self.run.config)

    @cached_property
    def chosen(self) -> list[LatentChoice]:
        """Latents of the gallery."""
        return _choose(self)

    @property
    def gallery_inputs(self) -> list[object]:
        """Settings that decide the latents of the gallery."""
        report = self.run.config.report
        return [report.factors, report.classes, self.run.config.evaluate.labels]

    @property
    def latents(self) -> list[int]:
        """Explained latents: those of the gallery, then those of the configuration."""
        listed = self.run.config.explain.latents
        if unknown := [latent for latent in listed if latent >= self.member.latents]:
            raise ConfigError(
                f"explain.latents: {unknown[0]} does not exist; {self.member.sae_id} has latents 0 to "
                f"{self.member.latents - 1}"
            )
        return list(dict.fromkeys([*(choice.latent for choice in self.chosen), *listed]))

    @property
    def silent_latents(self) -> list[int]:
        """Latents of the configuration that never fire: their tables are empty or undefined."""
        rows = self.index.statistics["rows"]
        return [latent for latent in self.run.config.explain.latents if latent < len(rows) and rows[latent] == 0]

    def firing_step(self) -> _Step:
        """Return the step that writes when latents fire."""
        folder, settings = self.run.folder.explain, self.run.config.explain
        names = ("firing.parquet", "co_firing.parquet", "examples.parquet")
        inputs = fingerprint(self.inputs, self.gallery_inputs, settings.latents, settings.examples)

        def compute() -> None:
            clips = self.corpus.clips
            classes = {"group": clips["group"], **{name: self.corpus.label(name) for name in self.corpus.labels}}
            by_class = [
                firing_by_class(self.index, column.fill_null("").to_numpy()).with_columns(by=pl.lit(name))
                for name, column in classes.items()
            ]
            write_table(folder / names[0], pl.concat(by_class))
            write_table(folder / names[1], co_firing(self.index, self.latents))
            times_of = cache(self.store.times_of) if self.index.has_frames else None
            examples = example_table(self.index, self.latents, self.groups, times_of=times_of, top=settings.examples)
            write_table(folder / names[2], examples)

        return _Step("firing", inputs, [folder / name for name in names], compute)

    def cards_step(self) -> _Step:
        """Return the step that writes cards, response curves and temporal profiles."""
        folder, settings = self.run.folder.explain, self.run.config.explain
        names = ("cards.parquet", "responses.parquet", "shares.parquet", "near_misses.parquet")
        inputs = fingerprint(self.inputs, self.gallery_inputs, settings.latents, settings.clips)
        return _Step("cards", inputs, [folder / name for name in names], lambda: _write_cards(self))

    def splice_step(self) -> _Step:
        """Return the step that measures what later layers hold if the reconstruction replaces the layer."""
        path = self.run.folder.explain / "splice.parquet"
        inputs = fingerprint(
            self.inputs, self.store.content_id(), self.run.config.explain.splice_clips, _code("splice")
        )
        return _Step("splice", inputs, [path], lambda: write_table(path, splice_table(self.run, self.member)))

    def attribution_step(self) -> _Step:
        """Return the step that attributes decisions to latents, and activations to parts of the sound."""
        folder, settings = self.run.folder.explain, self.run.config.explain
        names = ("decisions", "occlusion", "relevance", "masked", "attribution")
        inputs = fingerprint(self.inputs, self.gallery_inputs, settings.latents, _code("attribution"))

        def compute() -> None:
            *tables, sounds = attribution_tables(self.changed_layer, self.latents)
            for name, sound in sounds.items():
                write_sound(folder / name, sound)
            for name, table in zip(names, tables, strict=True):
                write_table(folder / f"{name}.parquet", table)

        paths = [folder / f"{name}.parquet" for name in names]
        return _Step("attribution", inputs, paths, compute, also=r"masked\d{5,}-0\.flac")

    def sweeps_step(self) -> _Step:
        """Return the step that sings clips in which one factor changes, and all of them."""
        folder, settings = self.run.folder.explain, self.run.config.explain
        inputs = fingerprint(self.inputs, self.gallery_inputs, settings.latents, settings.sweep_clips)
        paths = [folder / f"{name}.parquet" for name in SweepTables._fields]
        return _Step("sweeps", inputs, paths, lambda: _write_sweeps(self))

    def matching_step(self) -> _Step:
        """Return the step that matches the latents of the dictionary shown with those of all others of the run."""
        folder = self.run.folder
        wanted = self.run.config.explain.dictionaries == "all"
        others = [member for member in self.grid if wanted and member.sae_id != self.member.sae_id]
        cards = [(member.sae_id, digest(folder.saes / member.sae_id / CARD)) for member in others]
        paths = [folder.explain / f"{name}.parquet" for name in ("families", "matching", "matches")]
        inputs = fingerprint(self.inputs, self.store.content_id(), cards)
        return _Step("matching", inputs, paths, lambda: _write_matches(self, others))

    def lens_step(self) -> _Step:
        """Return the step that transcribes digit strings from each layer of Whisper."""
        path = self.run.folder.explain / "lens.parquet"
        inputs = fingerprint(self.inputs, self.store.content_id(), _code("splice"))
        return _Step("lens", inputs, [path], lambda: write_table(path, lens_table(self.run, self.member)))

    def interventions_step(self) -> _Step:
        """Return the step that changes latents and rival directions and reads out the last layer."""
        folder, settings = self.run.folder.explain, self.run.config.explain
        sizes = (settings.concepts, settings.intervention_clips)
        inputs = fingerprint(self.inputs, self.store.content_id(), sizes, _code("interventions"))

        def compute() -> None:
            for name, table in intervention_tables(self.changed_layer)._asdict().items():
                write_table(folder / f"{name}.parquet", table)

        paths = [folder / f"{name}.parquet" for name in InterventionTables._fields]
        return _Step("interventions", inputs, paths, compute)

    def erasure_step(self) -> _Step:
        """Return the step that erases each concept, and swaps it between clips."""
        folder, settings = self.run.folder.explain, self.run.config.explain
        sizes = (settings.concepts, settings.intervention_clips, settings.erasure_clips)
        inputs = fingerprint(self.inputs, self.store.content_id(), sizes, _code("erasure"))

        def compute() -> None:
            for name, table in erasure_tables(self.changed_layer)._asdict().items():
                write_table(folder / f"{name}.parquet", table)

        paths = [folder / f"{name}.parquet" for name in ErasureTables._fields]
        return _Step("erasure", inputs, paths, compute)

    @cached_property
    def changed_layer(self) -> ChangedLayer:
        """The layer of the dictionary shown, and the readouts of the last layer."""
        return ChangedLayer.of(self.run, self.member, self.index)

    def annotations_step(self) -> _Step:
        """Return the step that finds the latent of each annotated label."""
        folder, settings, root = self.run.folder.explain, self.run.config.explain, self.run.config.corpus.annotations
        found = sorted(root.rglob("*")) if root is not None else []
        files = [(str(path), digest(path)) for path in found if path.suffix.lower() in READERS and path.is_file()]
        names = ("annotated_labels.parquet", "annotated_examples.parquet")
        return _Step(
            "annotations",
            fingerprint(self.inputs, files, self.run.config.corpus.tiers, settings.clips),
            [folder / name for name in names],
            lambda: _write_annotated_labels(self),
            also=r"annotated\d+\.flac",
            possible=root is not None,
        )

    def top_clips_step(self) -> _Step:
        """Return the step that writes sound and pictures for the gallery."""
        folder = self.run.folder.explain
        inputs = fingerprint(self.inputs, self.gallery_inputs, self.run.config.report.clips)
        return _Step(
            "top_clips",
            inputs,
            [folder / "card.json", folder / "top_clips.parquet"],
            lambda: _write_top_clips(self),
            also=r"latent\d{5,}-\d+\.(flac|png)",
        )


def _code(step: str) -> str:
    """Return the version of the module that computes a step, and of those that it takes frames and readouts from."""
    return code_version(*(f"otoscope.pipeline.{name}" for name in dict.fromkeys((step, "interventions", "splice"))))


def _open_index(folder: Path) -> ActivationIndex | None:
    """Return an index with all of its files; None if it was never finished or files are gone."""
    try:
        index = ActivationIndex.open(folder)
        return index if all(path.is_file() for path in index.files) else None
    except ArtifactError:
        return None


def _prepare(run: Context) -> _ExplainStage:
    folder = run.folder
    store = open_activations(folder, run.config)
    results = read_table(folder.results)
    compared = read_reappearing_latents(folder, results)
    grid = training_grid(run.config, store.layers)
    member = choose_member(results, grid, compared)
    corpus = load_corpus(folder).select(store.clip_ids)
    inputs = fingerprint(
        digest(folder.results),
        digest(folder.factors),
        corpus.fingerprint,
        store.content_id(member.layer),
        digest(folder.saes / member.sae_id / CARD),
        code_version("otoscope.explain"),
    )
    return _ExplainStage(run, store, results, corpus, compared, grid, member, inputs)


def _write_cards(stage: _ExplainStage) -> None:
    """Describe frames, then write cards, responses, shares and near misses of the explained latents."""
    folder, corpus, index, watch = stage.run.folder.explain, stage.corpus, stage.index, stage.run.progress
    splits = corpus.clips["split"].to_list()
    chosen = choose_clips(splits, stage.groups, clips=stage.run.config.explain.clips)
    rows = {row["clip_id"]: row for row in corpus.clips.iter_rows(named=True)}
    times_of = cache(stage.store.times_of)
    with task(watch, "describing frames", len(chosen), "clips"):
        described = describe_clips(
            [index.clip_ids[i] for i in chosen],
            wave_of=lambda clip: load_clip(corpus.root, rows[clip], rate_hz=RATE_HZ),
            frames_of=times_of,
            on_clip=lambda: watch.advance(1),
        )
    labels = {name: corpus.label(name).fill_null("").to_list() for name in corpus.labels}
    clips = gather_frames(index, chosen, described, splits=splits, groups=stage.groups, labels=labels)
    with task(watch, "writing cards", len(stage.latents), "latents"):
        tables = card_tables(index, stage.latents, clips, frames_of=times_of, on_latent=lambda: watch.advance(1))
    spectra = np.full((index.rows, clips.frames.spectra.shape[1]), np.nan, dtype=np.float32)
    spectra[clips.rows] = clips.frames.spectra
    for name, table in tables._asdict().items():
        write_table(folder / f"{name}.parquet", table)
    misses = near_miss_table(index, stage.latents, stage.groups, spectra=spectra, times_of=times_of)
    write_table(folder / "near_misses.parquet", misses)


def _write_sweeps(stage: _ExplainStage) -> None:
    """Sing the clips of the sweeps; write causal response curves and shares of variance of the explained latents."""
    run, encoder = stage.run, stage.run.encoder.load()
    sae = load_sae(run.folder.saes / stage.member.sae_id).sae
    crossed_clips = run.config.explain.sweep_clips
    with task(run.progress, "sweeping voices", number_of_clips(crossed_clips=crossed_clips), "clips"):
        tables = sweep_latents(
            encoder,
            sae,
            stage.member.layer,
            stage.latents,
            crossed_clips=crossed_clips,
            on_clip=lambda: run.progress.advance(1),
        )
    for name, table in tables._asdict().items():
        write_table(run.folder.explain / f"{name}.parquet", table)


def _write_matches(stage: _ExplainStage, others: Sequence[GridMember]) -> None:
    """Write families of latents that fire together, and the partners of every latent in other dictionaries."""
    folder, watch = stage.run.folder.explain, stage.run.progress
    write_table(folder / "families.parquet", latent_families(stage.index).table())
    matches = {member.sae_id: match_indices(stage.index, stage.index_of(member)) for member in others}
    if not matches and len(stage.grid) > 1:
        watch.message("matching: set explain.dictionaries to all, to match latents with the run's other dictionaries")
    summaries = [{"other": other, **found.summary()} for other, found in matches.items()]
    for one in summaries:
        watch.message(
            f"matching {one['other']}: {one['reappearing']:,} of {one['latents']:,} latents have a partner beyond "
            f"chance (5 % or fewer would); mean correlation {one['correlation']:.2f}, "
            f"null {one['null']:.2f}"
        )
    write_table(folder / "matching.parquet", pl.DataFrame(summaries, schema={"other": pl.String(), **SUMMARY}))
    tables = [found.table().select(pl.lit(other).alias("other"), *MATCHES) for other, found in matches.items()]
    empty = pl.DataFrame(schema={"other": pl.String(), **MATCHES})
    write_table(folder / "matches.parquet", pl.concat([empty, *tables]))


def _write_annotated_labels(stage: _ExplainStage) -> None:
    """Score the latents on the labels of the annotations, and write sounds of the labels found."""
    run, folder = stage.run, stage.run.folder.explain
    with task(run.progress, "scoring annotated labels", 1, "table"):
        tables = annotation_tables(
            stage.corpus,
            stage.index,
            stage.store,
            stage.member.layer,
            AnnotationFolder(run.config.corpus.annotations),
            tiers=run.config.corpus.tiers,
            clips=run.config.explain.clips,
        )
        run.progress.advance(1)
    for note in tables.notes:
        run.progress.message(note)
    for name, sound in tables.sounds.items():
        write_sound(folder / name, sound)
    write_table(folder / "annotated_examples.parquet", tables.examples)
    write_table(folder / "annotated_labels.parquet", tables.labels)


def _write_top_clips(stage: _ExplainStage) -> None:
    """Write the top-activating clips of the chosen latents."""
    config, folder, watch, corpus = stage.run.config, stage.run.folder, stage.run.progress, stage.corpus
    position = {clip_id: row for row, clip_id in enumerate(stage.store.clip_ids)}
    column = {name: place for place, name in enumerate(stage.clips.factor_names)}
    rate_hz = int(stage.store.manifest["encoder"]["rate_hz"])
    rows = {row["clip_id"]: row for row in corpus.clips.iter_rows(named=True)}
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
                codes_of=_codes_over_time(stage) if stage.index.has_frames else None,
                top=config.report.clips,
            )
            seeds = stage.compared
            with_clips.append((choice if seeds is None else seeds.with_seed_counts(choice), top_clips))
            watch.advance(1, note=choice.factor)
    member = stage.member
    write_top_clips(
        folder.explain,
        with_clips,
        sound_of=lambda clip: Sound(load_clip(corpus.root, rows[clip], rate_hz=rate_hz), rate_hz),
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


def choose_member(
    results: pl.DataFrame, grid: list[GridMember], compared: ReappearingLatents | None = None
) -> GridMember:
    """Choose the dictionary that the gallery shows, by validation groups.

    The dictionary that the strict protocol compared in full comes first, because the seed stability of its latents is
    known. Otherwise it is the dictionary of the report's charts: same preset, seed, width and layer, at the sparsity
    nearest to 90 %. Frame-level dictionaries are preferred because their activations have a time course.
    """
    if compared is not None and (same := [member for member in grid if member.sae_id == compared.sae_id]):
        return same[0]
    charts = Results(results)
    return min(
        grid,
        key=lambda m: (
            m.pooling != "encode_then_pool",
            m.preset != charts.preset,
            m.seed != charts.seed,
            m.latents != charts.latents,
            abs(m.sparsity - REFERENCE_SPARSITY),
            m.sparsity,
            m.layer != charts.codes_layer.layer,
            m.layer,
        ),
    )


def _choose(stage: _ExplainStage) -> list[LatentChoice]:
    """Return the latents of classes, then those of the best-predicted factors; each latent once."""
    config, compared = stage.run.config, stage.compared
    clips, means = stage.clips, stage.index.clip_means()
    masks: dict[str, Any] = {"train_mask": clips.split != "test", "test_mask": clips.split == "test"}
    masks |= {"groups": stage.groups, "allowed": None if compared is None else compared.stable}
    classes = choose_class_latents(means, clips.labels, top=config.report.classes, **masks)
    r2 = stage.results.filter(
        (pl.col("sae_id") == stage.member.sae_id) & (pl.col("metric") == "factor_r2") & (pl.col("split") == "valid")
    )
    if compared is not None:
        r2 = r2.filter(pl.col("protocol") == strict.NAME)
    score = dict(r2.select("target", "value").iter_rows())
    factors = choose_latents(
        means,
        clips.factors,
        list(clips.factor_names),
        scores=[score.get(name, float("nan")) for name in clips.factor_names],
        top=config.report.factors,
        **masks,
    )
    chosen = {choice.latent: choice for choice in classes}
    for choice in factors:
        first = chosen.get(choice.latent)
        also = () if first is None else (*first.also, choice.factor, *choice.also)
        chosen[choice.latent] = choice if first is None else replace(first, also=also)
    return list(chosen.values())


def _codes_over_time(stage: _ExplainStage) -> Callable[[str], TimedCodes]:
    def codes_of(clip_id: str) -> TimedCodes:
        times = stage.store.times_of(clip_id)
        return TimedCodes(stage.index.codes_of(clip_id), times.start_s, times.end_s)

    return codes_of
