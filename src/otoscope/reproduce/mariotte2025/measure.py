"""What the study measures of one model: a probe of every layer, then all of the layers and codes that it opened."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from otoscope.artifacts import digest, fingerprint, read_table, write_table
from otoscope.metrics.record import to_table
from otoscope.protocols.mariotte2025 import NAME
from otoscope.protocols.mariotte2025.measure import Views, judge_factors, judge_probes, judge_reconstruction
from otoscope.reproduce.mariotte2025.stores import FORMAT, Job, Reader
from otoscope.reproduce.mariotte2025.training import Dictionary
from otoscope.runs.cache import run_stage
from otoscope.runs.codes import encode_rows
from otoscope.runs.progress import task
from otoscope.sae.checkpoint import CARD
from otoscope.sae.model import SparseAutoencoder, load_sae
from otoscope.sae.resources import one_thread
from otoscope.sae.sparsifiers.base import k_from_sparsity
from otoscope.sae.sparsifiers.topk import TopK

PROBES = "probes.parquet"

MISLABELLED = "HuBERT", 0.99, 0.75
"""Model, sparsity of the dictionary, and sparsity under which its first layer's probe was run (PAPER 1.3, 12)."""

MOST_AT_ONCE = 4
"""Representations judged at once; each may take half a gigabyte."""


def probe_layers(job: Job, reader: Reader) -> tuple[int, ...]:
    """Probe every layer, and return the layers to open: the published pair, or one chosen by these probes."""
    table = job.folder.root / PROBES
    probing = job.settings.model_dump(mode="json", include={"probe_epochs", "seed"})
    inputs = fingerprint(FORMAT, reader.identity, probing)

    def work() -> None:
        made: list[pl.DataFrame] = []
        with task(job.watch, f"{job.model.name}: probing layers", len(reader.layers), "layers"), one_thread():
            for layer in reader.layers:
                about = job.about(layer, "dense")
                made.append(to_table(judge_probes(reader.probed(layer), reader.known, job.settings, about)))
                job.watch.advance(1)
        write_table(table, pl.concat(made))

    run_stage(job.folder, "probe", inputs=inputs, outputs=[table], work=work, progress=job.watch)
    if job.settings.layers == "published":
        return job.model.layers
    found = read_table(table).filter(pl.col("split") == job.settings.layers)
    return job.model.chosen(dict(found.select("layer", "value").iter_rows()))


def judge_grid(job: Job, reader: Reader, layers: Sequence[int], grid: Sequence[Dictionary]) -> None:
    """Judge the opened layers and every dictionary; write `results.parquet`, the layers' probes first."""
    probes = job.folder.root / PROBES
    cards = [digest(job.folder.saes / d.sae_id / CARD) for d in grid]
    settings = job.settings.model_dump(mode="json")
    inputs = fingerprint(FORMAT, digest(probes), cards, reader.identity, reader.factors.fingerprint, settings)

    def work() -> None:
        jobs = [partial(_judge_dense, job, reader, layer) for layer in layers]
        jobs += [partial(_judge_codes, job, reader, d, first=d.layer == layers[0]) for d in grid]
        made = [read_table(probes)]
        with task(job.watch, f"{job.model.name}: judging", len(jobs), "representations"):
            for table in _side_by_side(jobs):
                made.append(table)
                job.watch.advance(1)
        write_table(job.folder.results, pl.concat(made))

    run_stage(job.folder, "evaluate", inputs=inputs, outputs=[job.folder.results], work=work, progress=job.watch)


def _judge_dense(job: Job, reader: Reader, layer: int) -> pl.DataFrame:
    about, views = job.about(layer, "dense"), reader.views(layer)
    return to_table(judge_factors(views, reader.known, job.settings, about, width=views.test.shape[1], dense=True))


def _judge_codes(job: Job, reader: Reader, d: Dictionary, *, first: bool) -> pl.DataFrame:
    settings, known = job.settings, reader.known
    sae = load_sae(job.folder.saes / d.sae_id).sae
    dense = reader.views(d.layer)
    about = replace(
        job.about(d.layer, "sae"),
        sae_id=d.sae_id,
        preset=NAME,
        latents=settings.latents,
        k=d.k,
        sparsity=d.sparsity,
        seed=settings.seed,
    )
    test = encode_rows(sae, dense.test, np.arange(len(dense.test)))
    mean = dense.train.reshape(-1, dense.train.shape[2]).mean(axis=0, dtype=np.float64)
    made = list(judge_reconstruction(test.rows, test.rebuilt, test.codes, mean, about))
    codes = _encoded(sae, dense)
    made += judge_factors(codes, known, settings, about, width=dense.test.shape[1], dense=False)
    model, sparsity, label = MISLABELLED
    if settings.hubert_99 == "mislabelled" and (job.model.name, d.sparsity, first) == (model, sparsity, True):
        k = k_from_sparsity(settings.latents, label)
        sae.sparsifier = TopK(k)
        codes = _encoded(sae, dense)
        about = replace(about, sparsity=label, k=k, sae_id=f"{d.sae_id}-read-at-k{k}")
    return to_table([*made, *judge_probes(codes, known, settings, about)])


def _encoded(sae: SparseAutoencoder, dense: Views) -> Views:
    """Return the codes of every view."""

    def codes(rows: Float[np.ndarray, "*rows width"]) -> Float[np.ndarray, "*rows latents"]:
        flat = rows.reshape(-1, rows.shape[-1])
        return encode_rows(sae, flat, np.arange(len(flat))).codes.reshape(*rows.shape[:-1], -1)

    return Views(*(codes(part) for part in dense))


def _side_by_side(jobs: Sequence[Callable[[], pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Do jobs side by side, each on one thread, and yield what they give in their order."""
    workers = min(len(os.sched_getaffinity(0)), MOST_AT_ONCE)
    with threadpool_limits(1, user_api="blas"), one_thread(), ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(job) for job in jobs]
        try:
            for future in waiting:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
