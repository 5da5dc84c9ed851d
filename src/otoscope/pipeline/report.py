"""The last two stages: moments at which chosen latents fire, and the page."""

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
    LatentChoice,
    Moment,
    Sound,
    TimedCodes,
    choose_latents,
    strongest_moments,
    write_moments,
)
from otoscope.factors.table import FactorTable
from otoscope.metrics.record import completed
from otoscope.protocols import strict
from otoscope.protocols.strict.compare import Reappearing, reappearing
from otoscope.report.page import write_report
from otoscope.report.results import REFERENCE_SPARSITY, Results
from otoscope.runs.cache import run_stage
from otoscope.runs.codes import code_features, encode_rows
from otoscope.runs.context import Context
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.inputs import clip_arrays
from otoscope.runs.progress import ProgressReporter, task
from otoscope.runs.training import GridMember, training_grid
from otoscope.sae.checkpoint import CARD, load_sae
from otoscope.sae.model import SparseAutoencoder

PAGE = 3
"""Raised when the same artifacts would give another page, so that an old one is not taken for it."""


def explain(run: Context) -> None:
    """Choose a latent for each of the best-predicted factors and write its strongest clips to `moments/`."""
    config, folder, watch = run.config, run.folder, run.progress
    store = ActivationStore.open(folder.activations)
    results = read_table(folder.results)
    compared = reappearing(folder, results)
    member = choose_member(results, training_grid(config, store.layers), compared)
    shown = config.report.model_dump(mode="json", include={"factors", "clips"})
    corpus = load_corpus(folder).select(store.clip_ids)
    inputs = fingerprint(
        digest(folder.results),
        digest(folder.factors),
        corpus.fingerprint,
        shown,
        store.as_read(member.layer),
        digest(folder.saes / member.sae_id / CARD),
    )
    card = folder.moments / "card.json"

    def work() -> None:
        shutil.rmtree(folder.moments, ignore_errors=True)
        sae = load_sae(folder.saes / member.sae_id).sae
        with task(watch, "finding moments", config.report.factors, "factors"):
            chosen = _choose(config, folder, store, corpus, sae, member, results, compared, watch)
        table = FactorTable.load(folder.factors)
        column = {name: position for position, name in enumerate(table.names)}
        rate_hz = int(store.card["encoder"]["rate_hz"])
        rows = {row["clip_id"]: row for row in corpus.clips.iter_rows(named=True)}
        write_moments(
            folder.moments,
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

    run_stage(folder, "explain", inputs=inputs, outputs=[card], work=work, progress=watch)


def report(run: Context) -> None:
    """Write the page and its figures; reads artifacts, computes nothing."""
    folder, watch = run.folder, run.progress
    cards = sorted(folder.saes / name / CARD for name in read_table(folder.results)["sae_id"].unique() if name)
    read = [
        folder.config,
        folder.corpus,
        folder.corpus.with_suffix(".json"),
        folder.corpus.with_name("set_aside.parquet"),
        folder.factors.with_suffix(".json"),
        folder.activations / "manifest.json",
        folder.results,
        folder.moments / "card.json",
        *cards,
    ]
    inputs = fingerprint(PAGE, [digest(path) for path in read])
    run_stage(
        folder, "report", inputs=inputs, outputs=[folder.report], work=lambda: write_report(folder.root), progress=watch
    )


def choose_member(results: pl.DataFrame, grid: list[GridMember], compared: Reappearing | None = None) -> GridMember:
    """Choose the dictionary that the gallery shows, by validation groups.

    Where the strict protocol compared one in full, it is that one: of its latents it is known which
    come back from other seeds.
    Otherwise it is the one that stands for all in the report's charts: of their recipe, seed, width and layer, at
    the sparsity nearest to 90 %. Only frame-level ones come first even where the charts show others, for they know
    when they fire.
    """
    if compared is not None and (same := [member for member in grid if member.sae_id == compared.sae_id]):
        return same[0]
    charts = Results(completed(results))
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
    compared: Reappearing | None,
    watch: ProgressReporter,
) -> list[tuple[LatentChoice, list[Moment]]]:
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
        allowed=None if compared is None else compared.allowed,
    )
    found: list[tuple[LatentChoice, list[Moment]]] = []
    for choice in chosen:
        moments = strongest_moments(
            choice.latent,
            codes[:, choice.latent],
            store.clip_ids,
            groups,
            codes_of=_codes_over_time(store, sae, member),
            top=config.report.clips,
        )
        found.append((choice if compared is None else compared.told(choice), moments))
        watch.advance(1, note=choice.factor)
    return found


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
