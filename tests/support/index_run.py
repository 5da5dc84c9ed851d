"""Write an activation index in a process of its own: measure its memory, then end it by kill -9.

Run as a module: `python -m tests.support.index_run FOLDER` prints the growth of the peak memory in KiB, then kills
itself.
"""

import os
import resource
import signal
import sys
from pathlib import Path

import torch

from otoscope.activations.extract import extract
from otoscope.activations.store import ActivationStore
from otoscope.explain.index_writer import write_activation_index
from otoscope.sae import SparseAutoencoder, TopK
from tests.support.activations import Toy, write_corpus

SMALL = {"part_entries": 100, "block_entries": 100}
LENGTHS_S = (0.3, 0.9, 0.1, 0.5, 0.7, 0.2)


def sae_of(latents: int = 40, k: int = 5, width: int = 6) -> SparseAutoencoder:
    sae = SparseAutoencoder(width, latents, TopK(k), seed=3)
    sae.set_scaling(torch.full((width,), 0.1), torch.tensor(0.5))
    return sae.eval().requires_grad_(False)


def store_of(folder: Path) -> ActivationStore:
    return extract(write_corpus(folder / "sound", LENGTHS_S), Toy(), folder / "store", layers=[1], progress=False)


def memory_growth(folder: Path) -> int:
    """Return by how many KiB the peak memory grows for 4,096 latents and 64 s of sound, in small parts and blocks."""
    corpus = write_corpus(folder / "sound", [4.0] * 16)
    store = extract(corpus, Toy(width=32), folder / "store", layers=[1], progress=False)
    sae = sae_of(latents=4096, k=200, width=32)
    write_activation_index(folder / "warm", store_of(folder / "warm"), sae_of(), 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_activation_index(folder / "index", store, sae, 1, part_entries=1 << 16, block_entries=1 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def write_until_killed(folder: Path, *, clips: int) -> None:
    """Write the small index and kill this process after some clips."""
    seen: list[int] = []

    def on_clip() -> None:
        seen.append(1)
        if len(seen) == clips:
            os.kill(os.getpid(), signal.SIGKILL)

    store = ActivationStore.open(folder / "store")
    write_activation_index(folder / "killed", store, sae_of(), 1, on_clip=on_clip, **SMALL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    sys.stdout.write(f"{memory_growth(root / 'memory')}\n")
    sys.stdout.flush()
    write_until_killed(root, clips=4)
