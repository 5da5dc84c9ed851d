"""A small encoder with known maths, and corpora of noise for it to hear.

Run as a module it extracts in child processes of its own: see `tests/activations/test_faults.py`.
"""

import ctypes
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from otoscope.encoders.base import Encoded, Frames, Layer, Wave, as_waves, check_layers, frame_spans
from otoscope.errors import OtoscopeError

RATE_HZ = 8000
HOP = 80
FIELD = 200
LOUD = 0.95
"""A sample above this makes the toy give NaN; one below its negative makes it give a million."""


@dataclass(frozen=True)
class Toy:
    """Frames are fixed projections of overlapping stretches of sound; layer i is `tanh` of them times i + 1.

    No frame depends on sound outside its own stretch, so a clip encoded in windows must equal the whole clip.
    """

    width: int = 6
    depth: int = 3
    window_s: float | None = None
    bands: int = 1
    special: int = 0
    delay_s: float = 0.0
    name: str = "toy"
    revision: str = "1"
    rate_hz: int = RATE_HZ
    min_samples: int = FIELD

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(
            Layer(i, self.width, RATE_HZ / HOP, FIELD / RATE_HZ, 0.5 * FIELD / RATE_HZ, False)
            for i in range(self.depth)
        )

    def frames(self, samples: int) -> Frames:
        spans = frame_spans(self._steps(samples), rate_hz=RATE_HZ / HOP, offset_s=0.5 * FIELD / RATE_HZ)
        if self.bands == 1:
            return spans
        edges = np.linspace(0.0, RATE_HZ / 2, self.bands + 1)
        steps = len(spans.end_s)
        return Frames(
            np.tile(spans.start_s, self.bands),
            np.tile(spans.end_s, self.bands),
            np.repeat(edges[:-1], steps),
            np.repeat(edges[1:], steps),
        )

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        check_layers(layers, self.layers, self.name)
        waves = as_waves(waves, name=self.name, rate_hz=RATE_HZ, min_samples=FIELD, window_s=self.window_s)
        time.sleep(self.delay_s)
        counts = [self._steps(len(wave)) * self.bands for wave in waves]
        states = {i: torch.zeros(len(waves), max(counts), self.width) for i in layers}
        for row, wave in enumerate(waves):
            projected = torch.cat([wave.unfold(0, FIELD, HOP) @ self._basis(band) for band in range(self.bands)])
            if wave.max() > LOUD:
                projected[-1, 0] = torch.nan
            for i in layers:
                states[i][row, : counts[row]] = torch.tanh(projected * (i + 1))
                if wave.min() < -LOUD:
                    states[i][row, 0, 0] = 1e6
        mask = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
        tokens = {
            i: torch.stack([wave[: self.width].repeat(self.special, 1) for wave in waves]) * (i + 1) for i in layers
        }
        return Encoded(states, mask, tokens if self.special else {})

    def _steps(self, samples: int) -> int:
        return max((samples - FIELD) // HOP + 1, 0)

    def _basis(self, band: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(band)
        return torch.randn(FIELD, self.width, generator=generator) / FIELD**0.5


def noise(seed: int, seconds: float) -> np.ndarray:
    """Noise well below `LOUD`, as 16-bit files can hold it."""
    steps = np.random.default_rng(seed).integers(-16000, 16000, size=round(seconds * RATE_HZ))
    return (steps / 32768).astype(np.float32)


def write_corpus(root: Path, lengths_s: Sequence[float]):
    """Write WAV files of noise and return them as a corpus, one group a clip."""
    from otoscope.corpus.audio import write_audio

    root.mkdir(parents=True, exist_ok=True)
    for i, seconds in enumerate(lengths_s):
        write_audio(root / f"clip{i:03d}.wav", noise(i, seconds), RATE_HZ)
    return corpus_of(root)


def corpus_of(root: Path):
    """Return the corpus of the WAV files in a folder; files need not be sound."""
    import polars as pl
    import soundfile

    from otoscope.artifacts import digest
    from otoscope.corpus.table import Corpus

    def seconds(path: Path) -> float:
        try:
            return soundfile.info(path).duration
        except soundfile.SoundFileError:
            return 1.0

    paths = sorted(root.glob("*.wav"))
    clips = pl.DataFrame(
        {
            "clip_id": [path.name for path in paths],
            "path": [path.name for path in paths],
            "start_s": [0.0] * len(paths),
            "duration_s": [seconds(path) for path in paths],
            "rate_hz": [RATE_HZ] * len(paths),
            "group": [path.name for path in paths],
            "split": ["train"] * len(paths),
            "digest": [digest(path) for path in paths],
        }
    )
    return Corpus("noise", root, clips, pl.DataFrame(schema={"path": pl.String, "reason": pl.String}))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a store except its lock, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _tell(outcome: str) -> None:
    sys.stdout.write(outcome + "\n")


def in_child(work: Callable[[], None], *, kill_after_s: float | None = None) -> tuple[int, int]:
    """Run work in a forked process, kill it if asked; return its exit status and its peak memory in KiB."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except OtoscopeError as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)
        finally:
            # an error that is not ours ends here too, and never runs the parent's code
            os._exit(2 if sys.exc_info()[0] else 0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_maxrss


def run(root: Path, folder: Path, **toy: float) -> None:
    """Extract all layers of a corpus with small shards."""
    from otoscope.activations.extract import extract
    from otoscope.activations.format import Sharding

    encoder = Toy(**toy)  # type: ignore[arg-type]
    sharding = Sharding(shard_clips=6, window_s=1.0)
    extract(corpus_of(root), encoder, folder, layers=[0, 1, 2], batch_s=2.0, sharding=sharding)


def kill_again_and_again(root: Path, folder: Path, *, kills: int) -> None:
    """Kill an extraction at random moments, again and again, and print what happened.

    Each kill falls within a run: when one ends by itself, because earlier ones got far, its store is moved aside
    (`whole0`, `whole1`, ...) and the next begins from nothing. The last run is let finish.
    """
    start_s = time.perf_counter()
    in_child(lambda: run(root, folder / "unbroken", delay_s=0.005))
    whole_s = time.perf_counter() - start_s
    rng = random.Random(7)
    killed = whole = 0
    while killed < kills:
        status, _ = in_child(
            lambda: run(root, folder / "broken", delay_s=0.005), kill_after_s=rng.uniform(0.05, 0.6) * whole_s
        )
        if os.WIFSIGNALED(status):
            killed += 1
        else:
            (folder / "broken").rename(folder / f"whole{whole}")
            whole += 1
    status, _ = in_child(lambda: run(root, folder / "broken", delay_s=0.005))
    _tell(json.dumps({"killed": killed, "whole": whole, "status": status}))


def fill_the_disk(root: Path, folder: Path, *, room: int) -> None:
    """Extract with a largest file size in place of a full disk, then again without; print what happened."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        run(root, folder / "filled")

    full, _ = in_child(bounded)
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.part"))
    status, _ = in_child(lambda: run(root, folder / "filled"))
    in_child(lambda: run(root, folder / "unbroken"))
    _tell(json.dumps({"full": full, "left": left, "status": status}))


def no_huge_pages() -> None:
    """Keep this process and its children from rounding their memory up to huge pages (Linux, prctl 41)."""
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)


def measure_memory(roots: Sequence[Path], folder: Path, *, width: int) -> None:
    """Print the peak memory, in KiB, of extracting each corpus: the least of three processes of its own.

    Allocators and huge pages add up to 100 MB by chance; what a store truly keeps in memory is in all three.
    """
    no_huge_pages()

    def work(root: Path, store: Path) -> None:
        from otoscope.activations.extract import extract

        extract(corpus_of(root), Toy(width=width), store, layers=[0, 1, 2], batch_s=8.0, progress=False)

    peaks = [[in_child(partial(work, root, folder / root.name / str(i)))[1] for i in range(3)] for root in roots]
    _tell(json.dumps([min(three) for three in peaks]))


if __name__ == "__main__":
    # everything heavy is imported before the first fork, and no thread is started before it
    import otoscope.activations.extract  # noqa: F401

    torch.set_num_threads(1)
    task, *arguments = sys.argv[1:]
    if task == "kill":
        kill_again_and_again(Path(arguments[0]), Path(arguments[1]), kills=int(arguments[2]))
    elif task == "fill":
        fill_the_disk(Path(arguments[0]), Path(arguments[1]), room=int(arguments[2]))
    elif task == "memory":
        measure_memory([Path(argument) for argument in arguments[:-2]], Path(arguments[-2]), width=int(arguments[-1]))
    else:
        raise SystemExit(f"unknown task {task}")
