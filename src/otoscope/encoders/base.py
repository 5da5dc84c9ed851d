"""What every encoder offers: layers with their frame geometry, and one batch call."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otoscope.errors import EncoderError, UnknownLayer


@dataclass(frozen=True)
class Layer:
    """One layer's width and frame geometry.

    Frame i is centred at `offset_s + i / rate_hz` and sees `receptive_field_s` of sound around
    its centre before any attention; `attends` says whether attention has since mixed in the rest
    of the clip. Where a model keeps several patches a moment apart by frequency (AST), `rate_hz`
    counts moments, and `Encoder.frames` says where each patch lies.
    """

    index: int
    width: int
    rate_hz: float
    receptive_field_s: float
    offset_s: float
    attends: bool


class Frames(NamedTuple):
    """Where each frame of one clip lies: seconds, and hertz where the model keeps frequency apart."""

    start_s: Float[np.ndarray, " frames"]
    end_s: Float[np.ndarray, " frames"]
    low_hz: Float[np.ndarray, " frames"] | None = None
    high_hz: Float[np.ndarray, " frames"] | None = None


class Encoded(NamedTuple):
    """What one batch gave: per layer `[clips, frames, width]`, the mask of valid frames, and special tokens.

    `tokens` holds what stands for the whole clip rather than for a moment of it (AST's CLS and
    distillation tokens), per layer `[clips, tokens, width]`; it is empty for most families.
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
        """Identifier the model was asked for."""
        ...

    @property
    def revision(self) -> str:
        """Identity of the weights: the hub's commit, or a digest of the weight file."""
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
        """Longest sound that one call takes; None where the architecture sets no bound."""
        ...

    @property
    def min_samples(self) -> int:
        """Shortest clip that gives a frame, in samples at `rate_hz`; `encode` refuses anything shorter."""
        ...

    def frames(self, samples: int) -> Frames:
        """Place the valid frames of a clip of that many samples at `rate_hz`."""
        ...

    def encode(self, waves: Sequence[Float[Tensor, " _samples"]], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths through the model; padding never changes a valid frame."""
        ...


def check_layers(wanted: Sequence[int], layers: Sequence[Layer], name: str) -> None:
    """Raise `UnknownLayer` unless every wanted index exists."""
    known = [layer.index for layer in layers]
    for index in wanted:
        if index not in known:
            raise UnknownLayer(f"{name} has no layer {index}; it has layers {known[0]} to {known[-1]}")


def check_waves(
    waves: Sequence[Float[Tensor, " _samples"]], *, name: str, rate_hz: int, min_samples: int, window_s: float | None
) -> None:
    """Raise `EncoderError` unless every wave is one channel of finite sound that one call can take."""
    if not waves:
        raise EncoderError(f"{name} was given no clips to encode; pass at least one")
    for position, wave in enumerate(waves):
        if wave.ndim != 1:
            raise EncoderError(f"clip {position} has shape {tuple(wave.shape)}; {name} takes one channel, [samples]")
        samples = wave.shape[0]
        if samples < min_samples:
            raise EncoderError(
                f"clip {position} lasts {samples / rate_hz:.4f} s; the shortest that {name} can encode is "
                f"{min_samples / rate_hz:.4f} s ({min_samples} samples at {rate_hz} Hz)"
            )
        if window_s is not None and samples > round(window_s * rate_hz):
            raise EncoderError(
                f"clip {position} lasts {samples / rate_hz:.2f} s; {name} takes at most {window_s:g} s a call: "
                "cut it into windows and encode each"
            )
        if not torch.isfinite(wave).all():
            raise EncoderError(f"clip {position} holds NaN or infinite samples; repair or drop it")


def frame_spans(frames: int, *, rate_hz: float, offset_s: float) -> Frames:
    """Tile time with frames centred at `offset_s + i / rate_hz`, each `1 / rate_hz` long.

    >>> frame_spans(2, rate_hz=50.0, offset_s=0.0125).start_s.round(4).tolist()
    [0.0025, 0.0225]
    """
    centre_s = offset_s + np.arange(frames) / rate_hz
    half_s = 0.5 / rate_hz
    return Frames(np.maximum(centre_s - half_s, 0.0), centre_s + half_s)


def convolved(length: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Count the outputs of unpadded convolutions: repeatedly `floor((n - kernel) / stride) + 1`, at least 0.

    >>> convolved(16000, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    49
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        length = max((length - kernel) // stride + 1, 0)
    return length


def convolved_field(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Return the receptive field and the hop of stacked convolutions, both in input samples.

    >>> convolved_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    (400, 320)
    """
    field, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return field, math.prod(strides)
