"""EnCodec's encoder (arXiv:2210.13438) at its frame rate: the states before quantisation.

Strided convolutions turn samples into frames, an LSTM runs over them, and a last convolution gives the embeddings that
the quantiser rounds. Earlier states have other rates and widths and are omitted: layer 0 is the input of the LSTM,
layer 1 its output, layer 2 the output of its non-linearity, layer 3 the embeddings.

The model is causal: frame i covers sound up to the end of its own hop, and no padding after it. Only clips of equal
length share a pass, because the end of a clip is padded by reflection.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray

from otoscope.encoders.base import block_layers, receptive_field
from otoscope.encoders.batched import BatchedEncoder, Runtime, States
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.model_folder import load_config, load_extractor, load_weights, require_equal
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError

AT_FRAME_RATE = 3
"""Modules after the last stride: the LSTM, its non-linearity and the last convolution."""

REQUIRED_SETTINGS: dict[str, Any] = {
    "audio_channels": 1,
    "normalize": False,
    "norm_type": "weight_norm",
    "use_causal_conv": True,
}
"""Settings of the 24 kHz model. The 48 kHz model takes stereo, in normalised chunks of one second."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class EncodecEncoder(BatchedEncoder):
    """An EnCodec encoder; a frame is valid if the middle of its hop lies within the clip."""

    hop_samples: int

    def count_frames(self, samples: int) -> int:
        """Count the hops whose middle lies within the clip."""
        return (2 * samples + self.hop_samples) // (2 * self.hop_samples)

    def state_positions(self, samples: int) -> Int[np.ndarray, " frames"]:
        """Raise `EncoderError`: the second axis of a convolution's output is its width."""
        del samples
        raise EncoderError(f"{self.name} is convolutional, its states cannot be replaced frame by frame")

    def forward(self, waves: list[NDArray[Any]], layers: Sequence[int]) -> States:
        """Run the convolutions and the modules at the frame rate."""
        inputs = self.extractor(waves, sampling_rate=self.rate_hz, return_tensors="pt")
        values = torch.as_tensor(inputs.input_values).to(self.runtime.device)
        blocks = self.model.encoder.layers[-AT_FRAME_RATE:]
        states = capture_blocks(lambda: self.model.encoder(values), blocks, set(layers))
        return States({layer: state.transpose(1, 2) for layer, state in states.items()})


def load_encodec(source: ModelSource, runtime: Runtime) -> EncodecEncoder:
    """Load an EnCodec folder; raise `EncoderError` for unsupported settings."""
    from transformers import EncodecConfig, EncodecFeatureExtractor, EncodecModel

    config = load_config(EncodecConfig, source.folder)
    for key, required in REQUIRED_SETTINGS.items():
        if getattr(config, key) != required:
            raise EncoderError(
                f"{source.name} has {key}: {getattr(config, key)}; EnCodec is supported with {key}: {required}, as in "
                "facebook/encodec_24khz"
            )
    model = load_weights(EncodecModel, source.folder, config=config, attention="eager")
    extractor = load_extractor(EncodecFeatureExtractor, source.folder)
    hop, rate_hz = math.prod(config.upsampling_ratios), int(config.sampling_rate)
    require_equal(source.name, "the sample rate", int(extractor.sampling_rate), rate_hz)
    *inner, last = block_layers(
        AT_FRAME_RATE,
        width=int(config.num_filters * 2 ** len(config.upsampling_ratios)),
        rate_hz=rate_hz / hop,
        receptive_field_s=_field_samples(config) / rate_hz,
        offset_s=hop / 2 / rate_hz,
    )
    return EncodecEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=rate_hz,
        layers=(*inner, replace(last, width=int(config.hidden_size))),
        min_samples=hop // 2,  # just enough to hold the middle of the first hop
        hop_samples=hop,
        runtime=runtime,
        model=runtime.prepare(model),
        extractor=extractor,
    )


def _field_samples(config: Any) -> int:
    """Return the samples that a frame covers before the LSTM; the last of them is the end of its hop.

    >>> from types import SimpleNamespace
    >>> _field_samples(SimpleNamespace(kernel_size=7, upsampling_ratios=[2], num_residual_layers=1,
    ...                                residual_kernel_size=3, dilation_growth_rate=2))
    12
    """
    kernels, strides = [config.kernel_size], [1]
    for ratio in reversed(config.upsampling_ratios):
        for layer in range(config.num_residual_layers):
            kernels.append((config.residual_kernel_size - 1) * config.dilation_growth_rate**layer + 1)
            strides.append(1)
        kernels.append(2 * ratio)
        strides.append(ratio)
    return receptive_field(kernels, strides)[0]
