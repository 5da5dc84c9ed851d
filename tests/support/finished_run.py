"""A plausible run folder, made from a seed: what the report reads, with nothing behind it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from otoscope.artifacts import environment, write_json, write_table
from otoscope.corpus.table import Corpus
from otoscope.explain import ActivatingClip, LatentChoice, Sound, write_top_clips
from otoscope.metrics.predictions import PREDICTIONS
from otoscope.metrics.record import Record, to_table

ENCODER = "openai/whisper-tiny.en"
SPARSITIES = (0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
LATENTS = 2048
SIZES = {"pitch": 10, "formants": 18, "voice quality": 10, "mfcc": 16, "spectral": 17, "rhythm": 5, "loudness": 12}
CLASSES = ("belt", "trill", "vibrato")
RATE_HZ = 16000


def make_run(
    folder: Path,
    *,
    layers: Sequence[int] = (0, 1, 2, 3, 4),
    sae_layers: Sequence[int] = (1, 3),
    labels: Sequence[str] = ("technique",),
    sizes: dict[str, int] | None = None,
    poolings: Sequence[str] = ("encode_then_pool", "pool_then_encode"),
    gallery: bool = True,
    seed: int = 7,
) -> Path:
    """Write a whole run folder; leave parts out by empty sequences."""
    rng = np.random.default_rng(seed)
    sizes = SIZES if sizes is None else sizes
    factors = [(f"{c} factor {i + 1}", c) for c, n in sizes.items() for i in range(n)]
    records = [r for label in labels for r in _probes(rng, label, layers, sae_layers, poolings)]
    records += _reconstruction(rng, sae_layers)
    records += [r for name, c in factors for r in _factor(rng, name, c, layers, sae_layers)]
    write_table(folder / "results.parquet", to_table(records))
    _corpus(folder, rng)
    write_table(folder / "predictions.parquet", made_predictions(labels, layers, sae_layers))
    if factors:
        listed = [{"name": n, "source": "eGeMAPSv02", "category": c} for n, c in factors]
        write_json(folder / "factors.json", {"factors": listed, "fingerprint": "5d1ac5a97cb4f0de"})
    _settings(folder, layers, sae_layers)
    if gallery and factors and sae_layers:
        _top_clips(folder / "explain", rng, [n for n, _ in factors[:: max(len(factors) // 5, 1)]][:5])
    return folder


def made_predictions(
    labels: Sequence[str], layers: Sequence[int], sae_layers: Sequence[int], clips: int = 60
) -> pl.DataFrame:
    """Return predictions of three classes in clips of four groups: the dense probe is wrong in singer0 alone."""
    probes: list[tuple[int, str, dict[str, object]]] = [(layer, "dense", {"sae_id": ""}) for layer in layers]
    for layer in sae_layers:
        probes += [(layer, "sae", _sae(layer, at, "encode_then_pool")) for at in SPARSITIES]
    rows: list[dict[str, object]] = []
    for label in labels:
        for layer, representation, place in probes:
            for i in range(clips):
                true, singer = CLASSES[i % 3], i % 4
                wrong = singer == 0 or (representation == "sae" and true == "trill")
                shared = {"protocol": "default", "representation": representation, "layer": layer, "label": label}
                columns = {name: place.get(name) for name in ("sae_id", "sparsity", "seed")}
                clip = {"clip_id": f"clip{i:03d}.wav", "group": f"singer{singer}", "fold": 0, "true_class": true}
                rows.append({**shared, **columns, **clip, "predicted_class": "belt" if wrong else true})
    return pl.DataFrame(rows, schema=PREDICTIONS)


def _record(**given: object) -> Record:
    return Record(encoder=ENCODER, split="test", n=480, groups=6, **given)  # type: ignore[arg-type]


def _sae(layer: int, sparsity: float, pooling: str) -> dict[str, object]:
    k = int((1 - sparsity) * LATENTS)
    name = f"layer{layer}-topk-{k}"
    return {
        "representation": "sae",
        "layer": layer,
        "sae_id": name,
        "pooling": pooling,
        "latents": LATENTS,
        "k": k,
        "sparsity": sparsity,
        "seed": 0,
    }


def _interval(rng: np.random.Generator, value: float) -> dict[str, float]:
    return {"low": value - rng.uniform(0.02, 0.06), "high": min(value + rng.uniform(0.02, 0.05), 1.0)}


def _probes(
    rng: np.random.Generator, label: str, layers: Sequence[int], sae_layers: Sequence[int], poolings: Sequence[str]
) -> list[Record]:
    made: list[Record] = []
    dense = {layer: 0.62 + 0.3 * np.exp(-((layer - 2.6) ** 2) / 6) + rng.normal(0, 0.01) for layer in layers}
    for metric, shift in (("probe_accuracy", 0.0), ("probe_balanced_accuracy", -0.01), ("probe_macro_f1", -0.02)):
        null = {"null_mean": 0.1, "null_high": 0.135}
        for layer in layers:
            value = dense[layer] + shift
            place = {"representation": "dense", "layer": layer, "pooling": "mean"}
            made.append(_record(metric=metric, target=label, value=value, **place, **_interval(rng, value), **null))
            if metric == "probe_balanced_accuracy":
                made.append(
                    Record(encoder=ENCODER, metric=metric, target=label, value=value + 0.01, split="valid", **place)
                )
        for layer in sae_layers:
            for at in SPARSITIES:
                for pooling in poolings:
                    lost = 0.02 + 0.5 * max(at - 0.9, 0) + 0.05 * (pooling == "pool_then_encode")
                    value = dense.get(layer, 0.8) + shift - lost + rng.normal(0, 0.006)
                    place = _sae(layer, at, pooling)
                    made.append(
                        _record(metric=metric, target=label, value=value, **place, **_interval(rng, value), **null)
                    )
    return made


def _reconstruction(rng: np.random.Generator, sae_layers: Sequence[int]) -> list[Record]:
    made: list[Record] = []
    for layer in sae_layers:
        for at in SPARSITIES:
            value = 0.995 - 0.04 * layer - 1.2 * (at - 0.74) ** 2 + rng.normal(0, 0.002)
            place = _sae(layer, at, "")
            made.append(_record(metric="explained_variance", value=value, **place, **_interval(rng, value)))
            made.append(_record(metric="l0", value=float(int((1 - at) * LATENTS)), **place))
            made.append(_record(metric="dead_fraction", value=rng.uniform(0, 0.2), **place))
            made.append(_record(metric="mse", value=(1 - value) * 3.1, **place))
    return made


def _factor(
    rng: np.random.Generator, name: str, category: str, layers: Sequence[int], sae_layers: Sequence[int]
) -> list[Record]:
    made: list[Record] = []
    base = {"pitch": 0.75, "formants": 0.55, "loudness": 0.7, "rhythm": 0.15}.get(category, 0.45) + rng.normal(0, 0.18)
    depth = {"pitch": -0.04, "formants": 0.05}.get(category, 0.0)
    for layer in layers:
        r2 = min(base + depth * layer + rng.normal(0, 0.03), 0.98)
        places = [({"representation": "dense", "layer": layer, "pooling": "mean"}, r2, rng.uniform(20, 60))]
        for at in SPARSITIES if layer in sae_layers else ():
            codes_r2 = r2 - 0.03 - 1.2 * max(at - 0.9, 0) + rng.normal(0, 0.02)
            size = rng.uniform(6, 30) * (1 - at) ** 0.25 * 1.4
            places.append((_sae(layer, at, "encode_then_pool"), codes_r2, size))
        for place, value, size in places:
            null = {"null_mean": 0.01, "null_high": 0.05 + rng.uniform(0, 0.03)}
            made.append(_record(metric="factor_r2", target=name, value=value, **place, **_interval(rng, value), **null))
            known = size if value > 0.05 else float("nan")
            made.append(_record(metric="effective_latents", target=name, value=known, **place))
            made.append(_record(metric="completeness", target=name, value=1 - np.log(known) / np.log(LATENTS), **place))
    return made


def _corpus(folder: Path, rng: np.random.Generator) -> None:
    clips = 120
    splits = np.array(["train"] * 72 + ["valid"] * 24 + ["test"] * 24)
    groups = [f"{s}-singer{i % 4}" for i, s in enumerate(splits)]
    ids = [f"{g}/clip{i:03d}.wav" for i, g in enumerate(groups)]
    table = pl.DataFrame(
        {
            "clip_id": ids,
            "path": ids,
            "start_s": [0.0] * clips,
            "duration_s": rng.uniform(1, 8, clips),
            "rate_hz": [RATE_HZ] * clips,
            "group": groups,
            "split": splits,
            "digest": ["0" * 64] * clips,
        }
    ).sort("clip_id")
    aside = pl.DataFrame({"path": ["bad/silent.wav", "bad/<b>.wav"], "reason": ["holds no sound", "cannot be decoded"]})
    corpus = Corpus("made corpus", Path("sound"), table, aside, licence="CC0", citation="made for a test")
    corpus.save(folder / "corpus.parquet")


def _settings(folder: Path, layers: Sequence[int], sae_layers: Sequence[int]) -> None:
    config = {"name": "made", "model": ENCODER, "corpus": {"kind": "synth"}, "extract": {"layers": list(layers)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for layer in sae_layers:
        for at in SPARSITIES:
            place = _sae(layer, at, "")
            card = {
                "preset": "default",
                "layer": layer,
                "seed": 0,
                "encoder": {"name": ENCODER, "revision": "a4b1c2"},
                "model": {"width": 384, "latents": LATENTS, "sparsifier": {"kind": "topk", "k": place["k"]}},
                "versions": environment(),
            }
            write_json(folder / "saes" / str(place["sae_id"]) / "card.json", card)


def _top_clips(folder: Path, rng: np.random.Generator, factors: Sequence[str]) -> None:
    chosen: list[tuple[LatentChoice, list[ActivatingClip]]] = []
    for rank, factor in enumerate(factors):
        latent = 100 + 37 * rank
        choice = LatentChoice(
            factor=factor,
            score=0.9 - 0.05 * rank,
            latent=latent,
            train_r=0.82,
            test_r=0.71 - 0.1 * rank,
            null_high=0.2,
            p_value=0.01,
            overall_r=0.75,
            within=True,
            test_clips=24,
            test_groups=4,
            firing=0.4,
            also=("pitch factor 2", "pitch factor 3") if rank == 0 else (),
        )
        chosen.append((choice, [_moment(rng, latent, i) for i in range(3)]))
    write_top_clips(
        folder,
        chosen,
        sound_of=lambda clip_id: Sound(made_sound(clip_id), RATE_HZ),
        card={"layer": 3, "sae_id": "layer3-topk-204", "sparsity": 0.9},
        splits={f"test-singer{i}/clip{i:03d}.wav": "test" for i in range(3)},
        factor_values=lambda _factor, clip_id: float(len(clip_id)),
    )


def _moment(rng: np.random.Generator, latent: int, rank: int) -> ActivatingClip:
    frames = 200
    start_s = np.arange(frames) * 0.02
    activation = np.maximum(np.convolve(rng.normal(0, 1, frames), np.hanning(15), "same"), 0)
    return ActivatingClip(
        latent=latent,
        rank=rank,
        clip_id=f"test-singer{rank}/clip{rank:03d}.wav",
        group=f"test-singer{rank}",
        strength=float(activation.max()),
        activation=activation,
        start_s=start_s,
        end_s=start_s + 0.02,
        peak_s=float(start_s[activation.argmax()] + 0.01),
    )


def made_sound(clip_id: str) -> np.ndarray:
    """Four seconds of a harmonic tone with vibrato, its pitch told by the clip's name."""
    time_s = np.arange(4 * RATE_HZ) / RATE_HZ
    f0_hz = 120 + 40 * (sum(map(ord, clip_id)) % 7)
    phase = 2 * np.pi * (f0_hz * time_s - 2 * np.cos(2 * np.pi * 5.5 * time_s) / 5.5)
    tone = sum(np.sin(h * phase) / h for h in range(1, 20))
    return (0.2 * tone * np.minimum(1, 8 * time_s)).astype(np.float32)
