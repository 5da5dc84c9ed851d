"""What every encoder offers: layers with their frame geometry, and one batch call."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from otoscope.errors import EncoderError, UnknownLayer

Wave: TypeAlias = Float[Tensor, " _samples"] | Float[np.ndarray, " _samples"]
"""One clip, one channel: a tensor, or an array such as `load_audio` returns."""


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

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths through the model; padding never changes a valid frame.

        `waves` is a list of clips, each one channel of samples at `rate_hz`: tensors, or arrays as `load_audio`
        returns them. Raises `EncoderError` for anything else, `UnknownLayer` for a layer that is not there.
        """
        ...


def check_layers(wanted: Sequence[int] | int, layers: Sequence[Layer], name: str) -> None:
    """Raise `UnknownLayer` unless every wanted index exists."""
    known = [layer.index for layer in layers]
    if isinstance(wanted, int):
        raise UnknownLayer(f"layers is {wanted!r}; give a list, such as [{wanted}]")
    for index in wanted:
        if index not in known:
            raise UnknownLayer(f"{name} has no layer {index}; it has layers {known[0]} to {known[-1]}")


def as_waves(
    given: Sequence[Wave], *, name: str, rate_hz: int, min_samples: int, window_s: float | None
) -> list[Float[Tensor, " _samples"]]:
    """Return clips as tensors; raise `EncoderError` unless each is one channel of finite sound that a call can take."""
    if isinstance(given, (Tensor, np.ndarray)):
        alone = given.ndim == 1
        raise EncoderError(
            f"{name} was given one {_kind(given)} of shape {tuple(given.shape)}; give a list of clips, one channel "
            f"each: {'[wave]' if alone else 'list(waves) where its rows are clips, [wave.mean(0)] where channels'}"
        )
    if not given:
        raise EncoderError(f"{name} was given no clips to encode; pass at least one")
    return [
        _as_wave(wave, f"clip {position}", name=name, rate_hz=rate_hz, min_samples=min_samples, window_s=window_s)
        for position, wave in enumerate(given)
    ]


def _as_wave(
    given: object, clip: str, *, name: str, rate_hz: int, min_samples: int, window_s: float | None
) -> Float[Tensor, " _samples"]:
    if not isinstance(given, (Tensor, np.ndarray)):
        raise EncoderError(f"{clip} is a {type(given).__name__}; give a tensor or an array of samples, one channel")
    if given.ndim != 1:
        raise EncoderError(f"{clip} has shape {tuple(given.shape)}; {name} takes one channel, [samples]")
    wave = given if isinstance(given, Tensor) else _from_array(given, clip)
    if not wave.is_floating_point():
        raise EncoderError(f"{clip} holds {str(wave.dtype).removeprefix('torch.')} samples; give floats from -1 to 1")
    samples = wave.shape[0]
    if samples < min_samples:
        raise EncoderError(
            f"{clip} lasts {samples / rate_hz:.4f} s; the shortest that {name} can encode is "
            f"{min_samples / rate_hz:.4f} s ({min_samples} samples at {rate_hz} Hz)"
        )
    if window_s is not None and samples > round(window_s * rate_hz):
        raise EncoderError(
            f"{clip} lasts {samples / rate_hz:.2f} s; {name} takes at most {window_s:g} s a call: "
            "cut it into windows and encode each"
        )
    if not torch.isfinite(wave).all():
        raise EncoderError(f"{clip} holds NaN or infinite samples; repair or drop it")
    return wave


def _from_array(given: NDArray[Any], clip: str) -> Tensor:
    if not np.issubdtype(given.dtype, np.floating):
        raise EncoderError(f"{clip} holds {given.dtype} samples; give floats from -1 to 1")
    return torch.from_numpy(np.require(given, np.float32, ["C", "W"]))  # torch warns of what it may not write to


def _kind(given: object) -> str:
    return "tensor" if isinstance(given, Tensor) else "array"


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

    >>> convolved(16000, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    49
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        length = max((length - kernel) // stride + 1, 0)
    return length


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Return the receptive field and the hop of stacked convolutions, both in input samples.

    >>> convolved_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    (400, 320)
    """
    field, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return field, math.prod(strides)
