"""Where the frames of the wav2vec 2.0 family lie: strided convolutions, then a positional one over the frames."""

import math
from dataclasses import dataclass
from typing import Any

from otoscope.encoders.base import Layer, convolved, convolved_field


@dataclass(frozen=True)
class Geometry:
    """The convolutions between samples and frames."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    positional_frames: int

    @property
    def field_samples(self) -> int:
        """Samples under one frame before the positional convolution."""
        return convolved_field(self.kernels, self.strides)[0]

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return convolved_field(self.kernels, self.strides)[1]

    def count(self, samples: int) -> int:
        """Count the frames of a clip."""
        return convolved(samples, self.kernels, self.strides)


def geometry_of(config: Any) -> Geometry:
    """Read the convolutions off a configuration.

    >>> from types import SimpleNamespace
    >>> base = {"conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}
    >>> geometry_of(SimpleNamespace(**base, num_conv_pos_embeddings=128)).positional_frames
    128
    >>> geometry_of(SimpleNamespace(**base, num_conv_pos_embeddings=5, conv_pos_kernel_size=19)).positional_frames
    91
    >>> sew = {"conv_kernel": (10, 3), "conv_stride": (5, 2), "squeeze_factor": 2}
    >>> geometry_of(SimpleNamespace(**sew, num_conv_pos_embeddings=31))
    Geometry(kernels=(10, 3, 2), strides=(5, 2, 2), positional_frames=16)
    """
    kernel = getattr(config, "conv_pos_kernel_size", None)
    # data2vec stacks `num_conv_pos_embeddings` convolutions where the others have one of that many taps
    positional = config.num_conv_pos_embeddings * (kernel - 1) + 1 if kernel else config.num_conv_pos_embeddings
    kernels, strides = tuple(config.conv_kernel), tuple(config.conv_stride)
    if (squeeze := getattr(config, "squeeze_factor", 1)) > 1:
        kernels, strides, positional = (
            (*kernels, squeeze),
            (*strides, squeeze),
            math.ceil((positional - 1) / squeeze) + 1,
        )
    return Geometry(kernels, strides, int(positional))


def wav2vec2_layers(geometry: Geometry, *, rate_hz: int, width: int, blocks: int) -> tuple[Layer, ...]:
    """Describe layers 0 to `blocks`.

    Frame i of the convolutions covers samples `[i hop, i hop + field)`, so it is centred at
    `(i hop + field / 2) / rate`. The positional convolution adds `positional_frames - 1` hops to the field.

    >>> layer = wav2vec2_layers(Geometry((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), 128),
    ...                         rate_hz=16000, width=768, blocks=12)[0]
    >>> layer.rate_hz, layer.offset_s, layer.receptive_field_s
    (50.0, 0.0125, 2.565)
    """
    seen, hop = geometry.field_samples, geometry.hop_samples
    return tuple(
        Layer(
            index=i,
            width=width,
            rate_hz=rate_hz / hop,
            receptive_field_s=(seen + (geometry.positional_frames - 1) * hop) / rate_hz,
            offset_s=seen / 2 / rate_hz,
            attends=i > 0,
        )
        for i in range(blocks + 1)
    )
