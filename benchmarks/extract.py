"""Extraction compared with the plain way, clip by clip in one interleaved run.

The plain way is the study's (arXiv 2509.24793): transformers, float32, batch size one, all hidden states, full depth
regardless of the requested layers. otoscope runs from the recordings to a store on disk. Each contender has its own
process, so that peak memory is measured separately; rounds alternate between them.

The limit is the number of multiply-adds for the requested layers at the rate of this machine's fastest large product in
any precision. The study follows end to end: its authors encode the recordings again in every epoch. The whole
benchmark takes about a quarter of an hour; `--models`, `--clips`, `--rounds` and `--study` change that.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from machine import describe_machine, machine_line

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".bench" / "extract"
RATE_HZ = 16000
CLIP_S = 5.0
"""The study's crop."""

SPARSITIES, EPOCHS, STUDY_CLIPS, STUDY_BATCH, LATENTS = (0.75, 0.80, 0.85, 0.90, 0.95, 0.99), 100, 64, 16, 2048


@dataclass(frozen=True)
class Model:
    name: str
    kind: str
    early: int


MODELS = [
    Model("starter", "", 1),
    Model("hubert-base", "Hubert", 3),
    Model("wavlm-base", "WavLM", 3),
    Model("ast-base", "AST", 3),
]
"""The starter model has its real weights; the others are of base size with random weights, which cost the same."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CASES = ("all layers, pooled", "one early layer", "all layers, frames")
PRECISIONS = ("exact", "fast")


def main() -> None:
    from otoscope.hardware import available_cores

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [model.name for model in MODELS]
    parser.add_argument("--models", nargs="*", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=4, help="in addition to one warm-up round")
    parser.add_argument("--clips", type=int, default=3, help="of five seconds each; three or more")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: on a machine that others use, with --threads 1"
    )
    parser.add_argument("--study", choices=[*names, "none"], default="starter", help="encoder of the study end to end")
    options = parser.parse_args()
    if options.clips < 3:
        parser.error(f"--clips is {options.clips}; a corpus needs three clips, one per split")
    os.environ.update(OMP_NUM_THREADS=str(options.threads), HF_HUB_OFFLINE="1")
    machine = describe_machine()
    print(machine_line(machine), file=sys.stderr)
    sound = CACHE / "sound"
    write_sound(sound, max(options.clips, STUDY_CLIPS))
    rows: list[dict[str, Any]] = []
    for model in (m for m in MODELS if m.name in options.models):
        rows += compare(model, sound, options)
    if options.study != "none":
        rows.append(study(next(m for m in MODELS if m.name == options.study), sound, options))
    print(json.dumps({"bench": "extract", "rows": [{**row, "machine": machine} for row in rows]}))


def write_sound(folder: Path, clips: int) -> None:
    """Write clips of five seconds: a buzz with varying pitch and loudness, in noise."""
    import numpy as np
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for clip in range(clips):
        path = folder / f"clip{clip:03d}.wav"
        if path.exists():
            continue
        draw = np.random.default_rng(clip)
        time_s = np.arange(round(CLIP_S * RATE_HZ)) / RATE_HZ
        pitch_hz = 110.0 * 2 ** (draw.uniform(0, 2) + 0.3 * np.sin(2 * np.pi * draw.uniform(0.2, 6.0) * time_s))
        phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
        wave = sum(np.sin(h * phase) / h for h in range(1, 9)) + 0.05 * draw.standard_normal(len(time_s))
        soundfile.write(path, (0.1 * wave).astype(np.float32), RATE_HZ, subtype="PCM_16")


def first_of(sound: Path, clips: int) -> Path:
    """Return a folder with only the first clips."""
    few = sound.with_name(f"sound-{clips}")
    few.mkdir(exist_ok=True)
    for path in sorted(sound.glob("*.wav"))[:clips]:
        if not (few / path.name).exists():
            (few / path.name).hardlink_to(path)
    return few


def folder_of(model: Model) -> Path:
    """Return the model's folder; write it on first use."""
    if not model.kind:
        from otoscope.encoders.starter import ensure_starter

        return ensure_starter()
    import torch
    import transformers

    folder = CACHE / "models" / model.name
    if not (folder / "preprocessor_config.json").exists():
        torch.manual_seed(0)
        config = getattr(transformers, f"{model.kind}Config")()
        getattr(transformers, f"{model.kind}Model")(config).save_pretrained(folder)
        extractor = "ASTFeatureExtractor" if model.kind == "AST" else "Wav2Vec2FeatureExtractor"
        getattr(transformers, extractor)().save_pretrained(folder)
    return folder


# -- contenders, each in its own process ---------------------------------------------------------------------------


def plain_way(model: Model, sound: Path, clips: int, threads: int) -> Callable[[str], None]:
    """Read, preprocess and run the whole model on one clip at a time; keep all hidden states."""
    import soundfile
    import torch
    import transformers

    torch.set_num_threads(threads)
    folder = folder_of(model)
    encoder, extractor = plain_model(folder, transformers), transformers.AutoFeatureExtractor.from_pretrained(folder)

    def run(case: str) -> None:
        kept: list[Any] = []
        for path in sorted(sound.glob("*.wav"))[:clips]:
            wave, rate_hz = soundfile.read(path, dtype="float32")
            inputs = extractor(wave, sampling_rate=rate_hz, return_tensors="pt")
            with torch.no_grad():
                states = encoder(next(iter(inputs.values())), output_hidden_states=True).hidden_states
            stacked = torch.stack(states)
            kept.append(stacked if case == "all layers, frames" else stacked.mean(2))

    return run


def plain_model(folder: Path, transformers: Any, **settings: Any) -> Any:
    whole = transformers.AutoModel.from_pretrained(folder, dtype="float32", **settings).eval()
    return whole.get_encoder() if hasattr(whole, "decoder") else whole


def otoscopes(precision: str) -> Callable[[Model, Path, int, int], Callable[[str], None]]:
    """Extract the same recordings to a store on disk."""

    def make(model: Model, sound: Path, clips: int, threads: int) -> Callable[[str], None]:
        import torch

        from otoscope import Splits, build_corpus, corpus_from_dict, extract, load_encoder

        torch.set_num_threads(threads)
        listing = corpus_from_dict({"kind": "folder", "root": str(first_of(sound, clips))})
        corpus = build_corpus(listing, Splits(), cache=CACHE)
        settings: Any = {"precision": precision}
        encoder = load_encoder(folder_of(model), threads=threads, **settings)
        every = [layer.index for layer in encoder.layers]
        store = CACHE / f"store-{os.getpid()}"

        def run(case: str) -> None:
            shutil.rmtree(store, ignore_errors=True)
            early = case == "one early layer"
            layers = [model.early] if early else every
            extract(corpus, encoder, store, layers=layers, frames=case == "all layers, frames", progress=False)
            shutil.rmtree(store)

        return run

    return make


MAKERS = {"plain": plain_way, "exact": otoscopes("exact"), "fast": otoscopes("fast")}


def work(name: str, model: Model, sound: Path, options: argparse.Namespace, pipe: Connection) -> None:
    """Run the cases requested by the parent; return seconds and peak memory in MB."""
    import warnings

    warnings.filterwarnings("ignore")
    run, clock = MAKERS[name](model, sound, options.clips, options.threads), CLOCKS[options.clock]
    pipe.send("ready")
    while (case := pipe.recv()) is not None:
        start = clock()
        with PeakMemory() as memory:
            run(case)
        pipe.send((clock() - start, memory.peak_mb))


class PeakMemory:
    """Largest resident set during a block: Linux counts it, elsewhere it is sampled every 5 ms."""

    counters = Path("/proc/self/clear_refs")
    peak_mb = 0.0

    def __enter__(self) -> "PeakMemory":
        self.over = threading.Event()
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        if self.counters.exists():
            self.counters.write_text("5")
        else:
            self.sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.counters.exists():
            status = Path("/proc/self/status").read_text()
            self.peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
        else:
            self.over.set()
            self.sampler.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self.over.wait(0.005):
            self.peak_mb = max(self.peak_mb, process.memory_info().rss / 2**20)


class Contender:
    """Process that runs one contender's cases on request."""

    def __init__(self, name: str, model: Model, sound: Path, options: argparse.Namespace) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=work, args=(name, model, sound, options, theirs))
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def measure(self, case: str) -> tuple[float, float]:
        self.pipe.send(case)
        return self.pipe.recv()

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


def compare(model: Model, sound: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    contenders = {name: Contender(name, model, sound, options) for name in MAKERS}
    measured: dict[tuple[str, str], list[tuple[float, float]]] = {}
    peaks: list[float] = []
    for turn in range(options.rounds + 1):
        for case in CASES:
            for name, contender in contenders.items():
                if name == "plain" and case == "one early layer":
                    continue  # it knows no depth but the whole
                result = contender.measure(case)
                if turn:  # the first round warms up
                    measured.setdefault((name, case), []).append(result)
        peaks.append(peak(options.threads, CLOCKS[options.clock]))
    for contender in contenders.values():
        contender.end()
    needed = multiplications(model)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        for precision in PRECISIONS:
            limit_s = options.clips * needed[case == "one early layer"] / max(peaks)
            rows.append(row(model, case, precision, measured, limit_s, options.clips))
    return rows


def row(
    model: Model,
    case: str,
    precision: str,
    measured: dict[tuple[str, str], list[tuple[float, float]]],
    limit_s: float,
    clips: int,
) -> dict[str, Any]:
    plain = measured["plain", "all layers, pooled" if case == "one early layer" else case]
    own = measured[precision, case]
    plain_s, own_s = (statistics.median(seconds for seconds, _ in values) for values in (plain, own))
    found = {
        "case": f"{model.name}: {case}",
        "precision": precision,
        "ratio": round(plain_s / own_s, 2),
        "times_real_time": round(clips * CLIP_S / own_s, 1),
        "limit_share": round(limit_s / own_s, 3),
        "peak_rss_mb": round(max(mb for _, mb in own)),
        "plain_times_real_time": round(clips * CLIP_S / plain_s, 1),
        "limit_ratio": round(plain_s / limit_s, 2),
        "plain_peak_rss_mb": round(max(mb for _, mb in plain)),
    }
    print(json.dumps(found), file=sys.stderr)
    return found


def peak(threads: int, clock: Callable[[], float]) -> float:
    """Return multiply-adds per second of the best of ten large products, in the fastest form and precision here."""
    import torch
    from torch import nn

    from otoscope.encoders.product_speed import PackedLinear, packs

    torch.set_num_threads(threads)
    rows, plain = torch.randn(1536, 768), nn.Linear(768, 3072)
    layers: list[tuple[nn.Module, torch.Tensor]] = [(plain, rows)]
    for dtype in (torch.float32, torch.bfloat16):
        if packs(dtype):
            layers.append((PackedLinear(plain, dtype=dtype, packed=True), rows.to(dtype)))
    seconds: list[float] = []
    with torch.inference_mode():
        for turn in range(12):
            for layer, given in layers:
                start = clock()
                layer(given)
                if turn > 1:
                    seconds.append(clock() - start)
    return 1536 * 3072 * 768 / min(seconds)


def multiplications(model: Model) -> dict[bool, float]:
    """Count the multiply-adds of a clip for the full depth and for the early layer of the plain model."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    from otoscope.encoders.hooks import capture_blocks

    folder = folder_of(model)
    encoder = plain_model(folder, transformers, attn_implementation="eager")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    wave = torch.zeros(round(CLIP_S * RATE_HZ)).numpy()
    values = next(iter(extractor(wave, sampling_rate=RATE_HZ, return_tensors="pt").values()))
    blocks = encoder.encoder.layers if hasattr(encoder, "encoder") else encoder.layers
    found: dict[bool, float] = {}
    for early in (False, True):
        deepest = model.early if early else len(blocks)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            capture_blocks(lambda: encoder(values), blocks, {deepest})
        found[early] = counter.get_total_flops() / 2
    return found


# -- the study end to end --------------------------------------------------------------------------------------------


def study(model: Model, sound: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Six sparsities on two layers, 100 epochs, 64 clips: two epochs of the authors' way, scaled, and otoscope."""
    early, late = model.early, model.early + 1
    clock = CLOCKS[options.clock]
    epoch_s = authors_epoch_s(model, sound, (early, late), options.threads, clock)
    theirs_s = epoch_s * EPOCHS * len(SPARSITIES)
    start = clock()
    own_study(model, sound, (early, late))
    ours_s = clock() - start
    row = {
        "case": f"{model.name}: the study, extract and train",
        "precision": "fast",
        "ratio": round(theirs_s / ours_s, 1),
        "authors_s": round(theirs_s),
        "authors_epoch_s": round(epoch_s, 2),
        "scaled_from_epochs": 2,
        "otoscope_s": round(ours_s, 1),
    }
    print(json.dumps(row), file=sys.stderr)
    return row


def authors_epoch_s(
    model: Model, sound: Path, layers: tuple[int, int], threads: int, clock: Callable[[], float]
) -> float:
    """Time two epochs of one sparsity: encode each batch of 16 at full depth, pool, one Adam step of both SAEs."""
    import soundfile
    import torch
    import transformers
    from torch import nn

    torch.set_num_threads(threads)
    folder = folder_of(model)
    encoder, extractor = plain_model(folder, transformers), transformers.AutoFeatureExtractor.from_pretrained(folder)
    width, k = encoder.config.hidden_size, int((1 - SPARSITIES[0]) * LATENTS)
    saes = nn.ModuleList(
        nn.ModuleList([nn.Linear(width, LATENTS), nn.Linear(LATENTS, width, bias=False)]) for _ in layers
    )
    optimiser = torch.optim.Adam(saes.parameters(), lr=1e-3)
    paths = sorted(sound.glob("*.wav"))[:STUDY_CLIPS]
    start = clock()
    for _ in range(2):
        for first in range(0, len(paths), STUDY_BATCH):
            waves = [soundfile.read(path, dtype="float32")[0] for path in paths[first : first + STUDY_BATCH]]
            inputs = extractor(waves, sampling_rate=RATE_HZ, return_tensors="pt")
            with torch.no_grad():
                states = encoder(next(iter(inputs.values())), output_hidden_states=True).hidden_states
            loss = torch.zeros(())
            for layer, sae in zip(layers, saes, strict=True):
                rows = states[layer].mean(1)
                up, down = list(sae.children())
                codes = up(rows).relu()
                values, places = codes.topk(k, dim=-1)
                sparse = torch.zeros_like(codes).scatter(-1, places, values)
                loss = loss + nn.functional.mse_loss(down(sparse), rows)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (clock() - start) / 2


def own_study(model: Model, sound: Path, layers: tuple[int, int]) -> None:
    """Run `otoscope train`, which extracts first, with the same preset and one bank per SAE."""
    from otoscope.config import parse_config
    from otoscope.pipeline.run import run
    from otoscope.runs.folder import RunFolder

    config = parse_config(
        {
            "name": "study",
            "model": str(folder_of(model)),
            "corpus": {"kind": "folder", "root": str(first_of(sound, STUDY_CLIPS))},
            "extract": {"layers": list(layers), "precision": "fast"},
            "train": {
                "preset": "mariotte2025",
                "latents": LATENTS,
                "sparsities": list(SPARSITIES),
                "poolings": ["pool_then_encode"],
            },
        }
    )
    home = CACHE / "study"
    shutil.rmtree(home, ignore_errors=True)
    run(config, RunFolder(home), until="train")


if __name__ == "__main__":
    main()
