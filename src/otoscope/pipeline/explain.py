"""Stage `explain`: choose latents and write the clips in which they fire most."""

import shutil
from collections.abc import Callable

import numpy as np
import polars as pl

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_table
from otoscope.config import RunConfig
from otoscope.corpus.audio import load_clip
from otoscope.corpus.table import Corpus
from otoscope.explain import (
    ActivatingClip,
    LatentChoice,
    Sound,
    TimedCodes,
    choose_latents,
    top_activating_clips,
    write_top_clips,
)
from otoscope.factors.table import FactorTable
from otoscope.protocols import strict
from otoscope.protocols.strict.compare import ReappearingLatents, read_reappearing_latents
from otoscope.report.results import REFERENCE_SPARSITY, Results
from otoscope.runs.cache import run_stage
from otoscope.runs.codes import code_features, encode_rows
from otoscope.runs.context import Context
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.inputs import clip_arrays, open_activations
from otoscope.runs.progress import ProgressReporter, task
from otoscope.runs.training import GridMember, training_grid
from otoscope.sae.checkpoint import CARD
from otoscope.sae.model import SparseAutoencoder, load_sae


def explain(run: Context) -> None:
    """Choose a latent for each of the best-predicted factors and write its top-activating clips to `explain/`."""
    config, folder, watch = run.config, run.folder, run.progress
    store = open_activations(folder, config)
    results = read_table(folder.results)
    compared = read_reappearing_latents(folder, results)
    member = choose_member(results, training_grid(config, store.layers), compared)
    shown = config.report.model_dump(mode="json", include={"factors", "clips"})
    corpus = load_corpus(folder).select(store.clip_ids)
    inputs = fingerprint(
        digest(folder.results),
        digest(folder.factors),
        corpus.fingerprint,
        shown,
        store.content_id(member.layer),
        digest(folder.saes / member.sae_id / CARD),
    )
    card = folder.explain / "card.json"

    def work() -> None:
        shutil.rmtree(folder.explain, ignore_errors=True)
        sae = load_sae(folder.saes / member.sae_id).sae
        with task(watch, "finding top clips", config.report.factors, "factors"):
            chosen = _choose(config, folder, store, corpus, sae, member, results, compared, watch)
            watch.advance(config.report.factors - len(chosen))  # fewer factors may have a latent
        table = FactorTable.load(folder.factors)
        column = {name: position for position, name in enumerate(table.names)}
        rate_hz = int(store.manifest["encoder"]["rate_hz"])
        rows = {row["clip_id"]: row for row in corpus.clips.iter_rows(named=True)}
        write_top_clips(
            folder.explain,
            chosen,
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
            factor_values=lambda factor, clip: float(table.values([clip])[0, column[factor]]),
        )

    run_stage(folder, "explain", inputs=inputs, outputs=[card], work=work, progress=watch, code=["otoscope.explain"])


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


def _choose(
    config: RunConfig,
    folder: RunFolder,
    store: ActivationStore,
    corpus: Corpus,
    sae: SparseAutoencoder,
    member: GridMember,
    results: pl.DataFrame,
    compared: ReappearingLatents | None,
    watch: ProgressReporter,
) -> list[tuple[LatentChoice, list[ActivatingClip]]]:
    clips = clip_arrays(corpus, FactorTable.load(folder.factors), config)
    if not clips.factor_names or not config.report.factors:
        return []
    codes = code_features(store, sae, member, store.clip_ids).units
    r2 = results.filter(
        (pl.col("sae_id") == member.sae_id) & (pl.col("metric") == "factor_r2") & (pl.col("split") == "valid")
    )
    if compared is not None:
        r2 = r2.filter(pl.col("protocol") == strict.NAME)
    score = dict(r2.select("target", "value").iter_rows())
    groups = clips.groups.tolist()
    chosen = choose_latents(
        codes,
        clips.factors,
        list(clips.factor_names),
        scores=[score.get(name, float("nan")) for name in clips.factor_names],
        train_mask=clips.split != "test",
        test_mask=clips.split == "test",
        groups=groups,
        top=config.report.factors,
        allowed=None if compared is None else compared.stable,
    )
    with_clips: list[tuple[LatentChoice, list[ActivatingClip]]] = []
    for choice in chosen:
        top_clips = top_activating_clips(
            choice.latent,
            codes[:, choice.latent],
            store.clip_ids,
            groups,
            codes_of=_codes_over_time(store, sae, member),
            top=config.report.clips,
        )
        with_clips.append((choice if compared is None else compared.with_seed_counts(choice), top_clips))
        watch.advance(1, note=choice.factor)
    return with_clips


def _codes_over_time(
    store: ActivationStore, sae: SparseAutoencoder, member: GridMember
) -> Callable[[str], TimedCodes] | None:
    if member.pooling != "encode_then_pool":
        return None

    def codes_of(clip_id: str) -> TimedCodes:
        frames = store.frames_of(member.layer, clip_id)
        batch = encode_rows(sae, frames, np.zeros(len(frames), dtype=np.int64))
        times = store.times_of(clip_id)
        return TimedCodes(batch.codes, times.start_s, times.end_s)

    return codes_of
