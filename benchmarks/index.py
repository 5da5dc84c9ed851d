"""Activation index of a large dictionary: memory, and time beside reading the store and encoding it.

    python benchmarks/index.py            # 16,384 latents, 10,000 clips of a second; last line is JSON
    python benchmarks/index.py --clips 500
    python benchmarks/index.py --random-codes   # without the products of the dictionary

An encoder of random frames writes a store, and a TopK SAE with random atoms encodes it. The store is read, multiplied
with the weights (the bound), encoded and indexed, in this order; each pass opens it anew. Peak memory is that of the
process, with libraries and mapped files.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import soundfile
import torch

from otoscope.activations.extract import extract
from otoscope.activations.store import ActivationStore
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoded, Frames, Layer, Wave, frame_spans
from otoscope.explain import ActivationIndex, co_firing, firing_by_class, top_activations, write_activation_index
from otoscope.sae import SparseAutoencoder, TopK
from otoscope.sae.sparsifiers.base import ActiveLatents

RATE_HZ, FRAMES_HZ, CLIPS_PER_FILE = 8000, 50, 500
ROWS = 512
"""Rows of a product: as many as the index multiplies at once."""


@dataclass(frozen=True)
class RandomFrames:
    """Frames of random directions, drawn from the first samples of a clip."""

    width: int
    name: str = "random"
    revision: str = "0"
    rate_hz: int = RATE_HZ
    window_s: float | None = None
    min_samples: int = RATE_HZ // FRAMES_HZ

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (Layer(0, self.width, FRAMES_HZ, 1 / FRAMES_HZ, 0.5 / FRAMES_HZ, attends=False),)

    def frames(self, samples: int) -> Frames:
        return frame_spans(samples // self.min_samples, rate_hz=FRAMES_HZ, offset_s=0.5 / FRAMES_HZ)

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        counts = [len(wave) // self.min_samples for wave in waves]
        states = torch.zeros(len(waves), max(counts), self.width)
        for row, (wave, count) in enumerate(zip(waves, counts, strict=True)):
            seed = np.asarray(wave[:64]).astype(np.float32).view(np.uint32)
            states[row, :count] = torch.from_numpy(
                np.random.default_rng(seed).standard_normal((count, self.width), dtype=np.float32)
            )
        mask = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
        return Encoded(dict.fromkeys(layers, states), mask, {})


class RandomCodes(SparseAutoencoder):
    """An SAE whose codes are drawn at random, to time the index without the products of an encoder."""

    def encode_active(self, rows: torch.Tensor) -> ActiveLatents:
        share = self.latents // self.sparsifier.k
        latents = torch.randint(share, (len(rows), self.sparsifier.k)) + share * torch.arange(self.sparsifier.k)
        return ActiveLatents(torch.rand(latents.shape) + 0.1, latents)


def write_corpus(folder: Path, clips: int) -> Corpus:
    """Return clips of one second, `CLIPS_PER_FILE` in each file of noise."""
    folder.mkdir()
    files = -(-clips // CLIPS_PER_FILE)
    for number in range(files):
        noise = 0.05 * np.random.default_rng(number).standard_normal(CLIPS_PER_FILE * RATE_HZ)
        soundfile.write(folder / f"{number:03d}.wav", noise.astype(np.float32), RATE_HZ, subtype="PCM_16")
    number, second = np.divmod(np.arange(clips), CLIPS_PER_FILE)
    table = pl.DataFrame(
        {
            "clip_id": [f"{i:05d}" for i in range(clips)],
            "path": [f"{i:03d}.wav" for i in number],
            "start_s": second.astype(np.float64),
            "duration_s": np.ones(clips),
            "rate_hz": np.full(clips, RATE_HZ),
            "group": [f"g{i % 40:02d}" for i in range(clips)],
            "split": ["train"] * clips,
            "digest": [f"{i:05d}" for i in range(clips)],
        }
    )
    return Corpus("noise", folder, table, pl.DataFrame(schema={"path": pl.String, "reason": pl.String}))


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start_s = clock()
    work()
    return clock() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--random-codes", action="store_true", help="draw codes instead of computing them")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: on a shared machine, one thread")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    if options.clock == "cpu":
        torch.set_num_threads(1)
    kind = RandomCodes if options.random_codes else SparseAutoencoder
    sae = kind(options.width, options.latents, TopK(options.k), seed=0).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory(prefix="otoscope-index-") as name:
        root = Path(name)
        corpus = write_corpus(root / "sound", options.clips)
        extract(corpus, RandomFrames(options.width), root / "store", layers=[0], dtype="float16", progress=False)
        open_store = lambda: ActivationStore.open(root / "store")  # noqa: E731

        def read() -> None:
            for _, frames in open_store().iter_clips(0):
                frames.sum()

        def encode() -> None:
            for _, frames in open_store().iter_clips(0):
                sae.encode(torch.from_numpy(np.ascontiguousarray(frames)))

        def multiply() -> None:
            """Multiply all frames with the encoder's weights, `ROWS` at a time: the bound of an exact index."""
            weights, rows = sae.encoder.T.contiguous(), torch.randn(ROWS, sae.width)
            for _ in range(-(-options.clips * FRAMES_HZ // ROWS)):
                rows @ weights

        base_mb = peak_mb()
        seconds = {
            "read": timed(read, clock),
            "product": timed(multiply, clock),
            "encode": timed(encode, clock),
            "index": timed(lambda: write_activation_index(root / "index", open_store(), sae, 0), clock),
        }
        written_mb = peak_mb()
        index = ActivationIndex.open(root / "index")
        groups = corpus.clips["group"].to_list()
        queries = {
            "firing of a latent": timed(lambda: index.firing(options.latents // 2)),
            "top activations of 10 latents": timed(lambda: [top_activations(index, i, groups) for i in range(10)]),
            "mean codes of all clips": timed(index.clip_means),
            "firing by group": timed(lambda: firing_by_class(index, np.asarray(groups))),
            "co-firing of 10 latents": timed(lambda: co_firing(index, range(10))),
        }
        stored_mb = {
            part: sum(path.stat().st_size for path in (root / part).rglob("*") if path.is_file()) / 1e6
            for part in ("store", "index")
        }
        found = {
            "clips": options.clips, "latents": options.latents, "width": options.width, "k": options.k,
            "rows": index.rows, "entries": index.card["entries"],
            "seconds": {name: round(each, 2) for name, each in seconds.items()},
            "query_s": {name: round(each, 3) for name, each in queries.items()},
            "peak_mb": {"before": base_mb, "written": written_mb, "queried": peak_mb()},
            "stored_mb": {name: round(each) for name, each in stored_mb.items()},
        }  # fmt: skip
    for name, each in seconds.items():
        print(f"{name}: {each:.1f} s, {index.rows / each:,.0f} frames per second")
    print(json.dumps({"bench": "index", **found}))


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
