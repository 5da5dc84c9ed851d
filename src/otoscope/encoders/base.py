"""Interface of every encoder: layers, frames, checked waves, and the geometry of convolutions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otoscope.errors import EncoderError, UnknownLayer

Wave: TypeAlias = Float[Tensor, " _samples"] | Float[np.ndarray, " _samples"]
"""One clip, one channel: a tensor, or an array such as `load_audio` returns."""


@dataclass(frozen=True)
class Layer:
    """Width and frame geometry of one layer.

    Frame i is centred at `offset_s + i / rate_hz`. `receptive_field_s` is the sound that it covers before any
    attention; `attends` is true where attention has mixed in the rest of the clip. If a model keeps several patches per
    time step, one per frequency band (AST), `rate_hz` counts time steps and `Encoder.frames` places every patch.
    """

    index: int
    width: int
    rate_hz: float
    receptive_field_s: float
    offset_s: float
    attends: bool


class Frames(NamedTuple):
    """Position of each frame of one clip: seconds, and hertz if the model separates frequencies."""

    start_s: Float[np.ndarray, " frames"]
    end_s: Float[np.ndarray, " frames"]
    low_hz: Float[np.ndarray, " frames"] | None = None
    high_hz: Float[np.ndarray, " frames"] | None = None


class Encoded(NamedTuple):
    """States of one batch: `[clips, frames, width]` per layer, the mask of valid frames, and special tokens.

    `tokens` holds states that represent the whole clip instead of a moment (AST's CLS and distillation tokens),
    `[clips, tokens, width]` per layer; it is empty for most families.
    """

    layers: Mapping[int, Float[Tensor, "clips frames width"]]
    mask: Bool[Tensor, "clips frames"]
    tokens: Mapping[int, Float[Tensor, "clips tokens width"]]


@runtime_checkable
class Encoder(Protocol):
    """A pretrained model, frozen and in eval mode.

    Layer 0 is the input of the first block, layer i the output of block i.
    """

    @property
    def name(self) -> str:
        """Identifier under which the model was requested."""
        ...

    @property
    def revision(self) -> str:
        """Identity of the weights: the Hub's commit, or a digest of the weight files."""
        ...

    @property
    def rate_hz(self) -> int:
        """Sample rate that `encode` expects."""
        ...

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, from 0."""
        ...

    @property
    def window_s(self) -> float | None:
        """Longest clip per call; None if the architecture sets no limit."""
        ...

    @property
    def min_samples(self) -> int:
        """Samples at `rate_hz` of the shortest clip that gives a frame; `encode` refuses anything shorter."""
        ...

    def frames(self, samples: int) -> Frames:
        """Place the valid frames of a clip with this number of samples at `rate_hz`."""
        ...

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Encode clips of any lengths; padding never changes a valid frame.

        `waves` is a list of clips, each one channel of samples at `rate_hz`: tensors, or arrays as returned by
        `load_audio`. Raises `EncoderError` for any other input, `UnknownLayer` for a layer that does not exist.
        """
        ...


MAX_PEAK = 32.0
"""Highest peak of a clip, 30 dB above full scale; integers that were not divided by their full scale exceed it."""


def check_layers(requested: Sequence[int] | int, layers: Sequence[Layer], name: str) -> None:
    """Raise `UnknownLayer` unless every requested index exists."""
    indices = [layer.index for layer in layers]
    if isinstance(requested, int):
        raise UnknownLayer(f"layers is {requested!r}; give a list, such as [{requested}]")
    for index in requested:
        if index not in indices:
            raise UnknownLayer(f"{name} has no layer {index}; it has layers {indices[0]} to {indices[-1]}")


def as_waves(
    waves: Sequence[Wave], *, name: str, rate_hz: int, min_samples: int, window_s: float | None
) -> list[Float[Tensor, " _samples"]]:
    """Return clips as tensors; raise `EncoderError` unless each is one channel of finite sound of allowed length."""
    if isinstance(waves, (Tensor, np.ndarray)):
        kind = "tensor" if isinstance(waves, Tensor) else "array"
        raise EncoderError(
            f"{name} got one {kind} of shape {tuple(waves.shape)}; give a list of clips, one channel each: "
            + ("[wave]" if waves.ndim == 1 else "list(waves) if its rows are clips, [wave.mean(0)] if channels")
        )
    if not waves:
        raise EncoderError(f"{name} got no clips to encode; pass at least one")
    tensors = [_as_tensor(wave, f"clip {i}", name) for i, wave in enumerate(waves)]
    for i, wave in enumerate(tensors):
        samples = wave.shape[0]
        if samples < min_samples:
            raise EncoderError(
                f"clip {i} lasts {samples / rate_hz:.4f} s; the shortest clip that {name} can encode is "
                f"{min_samples / rate_hz:.4f} s ({min_samples} samples at {rate_hz} Hz)"
            )
        if window_s is not None and samples > round(window_s * rate_hz):
            raise EncoderError(
                f"clip {i} lasts {samples / rate_hz:.2f} s; {name} takes at most {window_s:g} s per call: "
                "cut it into windows and encode each"
            )
        peak = float(wave.detach().abs().max())
        if not math.isfinite(peak):
            raise EncoderError(f"clip {i} holds NaN or infinite samples; repair or drop it")
        if peak > MAX_PEAK:
            raise EncoderError(
                f"clip {i} has a peak of {peak:g}; full scale is 1 (allowed: up to {MAX_PEAK:g}). Integers as floats"
                " are divided by their full scale, 32768 for 16 bits"
            )
    return tensors


def _as_tensor(wave: object, clip: str, name: str) -> Float[Tensor, " _samples"]:
    if not isinstance(wave, (Tensor, np.ndarray)):
        raise EncoderError(f"{clip} is a {type(wave).__name__}; give a tensor or an array of samples, one channel")
    if wave.ndim != 1:
        raise EncoderError(f"{clip} has shape {tuple(wave.shape)}; {name} takes one channel, [samples]")
    is_float = wave.is_floating_point() if isinstance(wave, Tensor) else np.issubdtype(wave.dtype, np.floating)
    if not is_float:
        dtype = str(wave.dtype).removeprefix("torch.")
        raise EncoderError(f"{clip} holds {dtype} samples; give floats from -1 to 1")
    if isinstance(wave, Tensor):
        return wave
    return torch.from_numpy(np.require(wave, np.float32, ["C", "W"]))  # torch warns about read-only arrays


def block_layers(
    blocks: int, *, width: int, rate_hz: float, receptive_field_s: float, offset_s: float, attends_from: int = 1
) -> tuple[Layer, ...]:
    """Return layers 0 to `blocks` with one geometry; layers from `attends_from` on see the whole clip."""
    return tuple(
        Layer(i, width, rate_hz, receptive_field_s, offset_s, attends=i >= attends_from) for i in range(blocks + 1)
    )


def frame_spans(frames: int, *, rate_hz: float, offset_s: float) -> Frames:
    """Tile time with frames centred at `offset_s + i / rate_hz`, each `1 / rate_hz` long.

    >>> frame_spans(2, rate_hz=50.0, offset_s=0.0125).start_s.round(4).tolist()
    [0.0025, 0.0225]
    """
    centre_s = offset_s + np.arange(frames) / rate_hz
    half_s = 0.5 / rate_hz
    return Frames(np.maximum(centre_s - half_s, 0.0), centre_s + half_s)


def convolved_length(length: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Count the outputs of unpadded convolutions: repeatedly `floor((n - kernel) / stride) + 1`, at least 0.

    >>> convolved_length(16000, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    49
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        length = max((length - kernel) // stride + 1, 0)
    return length


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Return the receptive field and the hop of stacked convolutions, both in input samples.

    >>> receptive_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    (400, 320)
    """
    field, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return field, math.prod(strides)
