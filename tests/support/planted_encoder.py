"""An encoder without a nonlinearity whose frames are written in the wave, and clips that carry planted concepts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from otoscope.encoders.base import block_layers
from otoscope.encoders.batched import BatchedEncoder, Runtime, States
from otoscope.encoders.hooks import capture_blocks
from otoscope.sae import SparseAutoencoder, TopK

WIDTH = 12
RATE_HZ = 1200
"""100 frames per second."""


class LinearEncoder(BatchedEncoder):
    """Each `WIDTH` samples are a frame of layer 0; every block rotates it."""

    def count_frames(self, samples: int) -> int:
        return samples // WIDTH

    def forward(self, waves: list[NDArray[np.float32]], layers: Sequence[int]) -> States:
        frames = min(map(len, waves)) // WIDTH
        rows = torch.from_numpy(np.stack([wave[: frames * WIDTH] for wave in waves])).reshape(len(waves), frames, WIDTH)
        return States(capture_blocks(lambda: self.model(rows), list(self.model), set(layers)))


def linear_encoder(blocks: int = 2) -> LinearEncoder:
    rng = np.random.default_rng(7)
    stack = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(blocks)))
    with torch.no_grad():
        for block in stack:
            rotation, _ = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))
            block.weight.copy_(torch.from_numpy(rotation))  # type: ignore[union-attr]
    layers = block_layers(
        blocks, width=WIDTH, rate_hz=RATE_HZ / WIDTH, receptive_field_s=WIDTH / RATE_HZ, offset_s=0.005
    )
    return LinearEncoder(
        name="linear", revision="0", rate_hz=RATE_HZ, layers=layers, min_samples=WIDTH, runtime=Runtime(),
        model=stack, extractor=None,
    )  # fmt: skip


def axis_sae(**card: Any) -> SparseAutoencoder:
    """Latent i is the positive part of dimension i, latent `WIDTH` + i the negative part."""
    sae = SparseAutoencoder(WIDTH, 2 * WIDTH, TopK(WIDTH))
    with torch.no_grad():
        both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
        sae.encoder.copy_(both)
        sae.decoder.copy_(both)
    sae.card = card
    return sae.eval().requires_grad_(False)


class PlantedClips(NamedTuple):
    """Waves, and for each clip its group and the classes of two labels, `x` on dimension 0 and `y` on dimension 1."""

    waves: list[NDArray[np.float32]]
    groups: NDArray[Any]
    labels: dict[str, NDArray[Any]]


def planted_clips(*, groups: int = 6, repeats: int = 2, frames: int = 20, seed: int = 0) -> PlantedClips:
    rng = np.random.default_rng(seed)
    waves, names, labels = [], [], {"x": [], "y": []}
    for group in range(groups):
        own = rng.normal(0, 0.1, WIDTH)
        own[:2] = 0
        for x in "ab":
            for y in "cd":
                for _ in range(repeats):
                    rows = rng.normal(0, 0.1, (frames, WIDTH)) + own
                    rows[:, 0] += 1.0 if x == "a" else 0.0
                    rows[:, 1] += 1.0 if y == "c" else 0.0
                    waves.append(rows.reshape(-1).astype(np.float32))
                    names.append(f"g{group}")
                    labels["x"].append(x)
                    labels["y"].append(y)
    return PlantedClips(waves, np.array(names), {name: np.array(values) for name, values in labels.items()})
