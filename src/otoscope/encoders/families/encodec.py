"""EnCodec's encoder (arXiv:2210.13438) at its frame rate: what the codec knows before it quantises.

Strided convolutions bring samples to frames, an LSTM runs over them, a last convolution gives the embeddings that the
quantiser rounds. Earlier states have other rates and widths and are left out: layer 0 is the input of the LSTM, layer
1 its output, layer 2 that behind its non-linearity, layer 3 the embeddings.

Everything is causal: frame i hears sound up to the end of its own hop, and no padding behind it. Clips of equal length
alone share a pass, for where a clip ends it is padded by its own mirror image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray

from otoscope.encoders.base import Encoded, Frames, Layer, Wave, as_waves, check_layers, frame_spans, receptive_field
from otoscope.encoders.batching import Part, Runtime, encode_in_buckets
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.loading import load_extractor, load_weights
from otoscope.encoders.precision import Precision
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError

AT_FRAME_RATE = 3
"""The LSTM, its non-linearity and the last convolution: the modules behind the last stride."""

REQUIRED_SETTINGS: dict[str, Any] = {
    "audio_channels": 1,
    "normalize": False,
    "norm_type": "weight_norm",
    "use_causal_conv": True,
}
"""Settings of the 24 kHz model. The 48 kHz one takes stereo, in chunks of a second that it normalises."""


@dataclass(frozen=True, eq=False)
class EncodecEncoder:
    """One EnCodec encoder as an `Encoder`."""

    name: str
    revision: str
    rate_hz: int
    layers: tuple[Layer, ...]
    hop_samples: int
    runtime: Runtime
    model: Any = field(repr=False)
    extractor: Any = field(repr=False)

    @property
    def precision(self) -> Precision:
        """How exactly it computes."""
        return self.runtime.precision

    @property
    def window_s(self) -> float | None:
        """No bound."""
        return None

    @property
    def min_samples(self) -> int:
        """Just enough to hold the middle of the first hop."""
        return self.hop_samples // 2

    def frames(self, samples: int) -> Frames:
        """Place the frames whose middle lies within the clip."""
        layer = self.layers[0]
        return frame_spans(self._count(samples), rate_hz=layer.rate_hz, offset_s=layer.offset_s)

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths; see `Encoder.encode`."""
        check_layers(layers, self.layers, self.name)
        waves = as_waves(waves, name=self.name, rate_hz=self.rate_hz, min_samples=self.min_samples, window_s=None)
        blocks = self.model.encoder.layers[-AT_FRAME_RATE:]

        def run(arrays: list[NDArray[Any]]) -> Part:
            inputs = self.extractor(arrays, sampling_rate=self.rate_hz, return_tensors="pt")
            values = torch.as_tensor(inputs.input_values).to(self.runtime.device)
            states = capture_blocks(lambda: self.model.encoder(values), blocks, set(layers))
            return Part({layer: state.transpose(1, 2) for layer, state in states.items()}, {})

        return encode_in_buckets(
            waves, layers, runtime=self.runtime, bucket=lambda samples: samples, frames=self._count, run=run
        )

    def _count(self, samples: int) -> int:
        return (2 * samples + self.hop_samples) // (2 * self.hop_samples)


def load_encodec(source: ModelSource, *, runtime: Runtime) -> EncodecEncoder:
    """Load an EnCodec folder; raise `EncoderError` for settings that its encoder is not covered with."""
    from transformers import EncodecConfig, EncodecFeatureExtractor, EncodecModel

    config = EncodecConfig.from_pretrained(source.folder)
    for key, needed in REQUIRED_SETTINGS.items():
        if getattr(config, key) != needed:
            raise EncoderError(
                f"{source.name} has {key}: {getattr(config, key)}; EnCodec is covered with {key}: {needed}, as in "
                "facebook/encodec_24khz"
            )
    model = load_weights(EncodecModel, source.folder, config=config, attention="eager")
    extractor = load_extractor(EncodecFeatureExtractor, source.folder)
    hop, rate_hz = math.prod(config.upsampling_ratios), int(config.sampling_rate)
    if int(extractor.sampling_rate) != rate_hz:
        raise EncoderError(
            f"{source.name}: sampling_rate is {extractor.sampling_rate} in the preprocessor and {rate_hz} in the "
            "model; they must agree"
        )
    width = config.num_filters * 2 ** len(config.upsampling_ratios)
    layers = tuple(
        Layer(
            index=i,
            width=int(config.hidden_size if i == AT_FRAME_RATE else width),
            rate_hz=rate_hz / hop,
            receptive_field_s=_field_samples(config) / rate_hz,
            offset_s=hop / 2 / rate_hz,
            attends=i > 0,
        )
        for i in range(AT_FRAME_RATE + 1)
    )
    return EncodecEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=rate_hz,
        layers=layers,
        hop_samples=hop,
        runtime=runtime,
        model=runtime.ready(model),
        extractor=extractor,
    )


def _field_samples(config: Any) -> int:
    """Return the samples that a frame sees before the LSTM, all of them up to the end of its hop.

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
