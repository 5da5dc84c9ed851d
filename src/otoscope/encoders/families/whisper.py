"""Whisper's encoder: log-mel frames every 10 ms, halved to 50 frames a second, absolute positions over 30 s.

The model was trained on 30 s windows, short clips padded with silence, and its attention sees that padding.
`context="exact"` does the same and masks the frames behind the clip's end. `context="short"` encodes only the
sound there is, with the positions cut to its length: much cheaper, and another function of the input.

Layers are raw block outputs. transformers' last hidden state is `layer_norm` of the last of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from otoscope.encoders.base import Encoded, Frames, Layer, Wave, as_waves, check_layers, frame_spans
from otoscope.encoders.batching import Part, Runtime, encode_in_buckets
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.loading import load_extractor, load_weights
from otoscope.encoders.precision import Precision
from otoscope.encoders.resolve import ModelSource

ContextMode = Literal["exact", "short"]

IGNORED_KEYS = (
    r"^(model\.)?decoder\.",  # the language model
    r"^proj_out\.",  # its output projection
    r"^(projector|classifier)\.",  # heads of WhisperForAudioClassification
    r"^layer_weights$",
)
"""Keys of a Whisper checkpoint that its encoder has no use for."""


@dataclass(frozen=True, eq=False)
class WhisperEncoder:
    """One Whisper encoder as an `Encoder`."""

    name: str
    revision: str
    rate_hz: int
    layers: tuple[Layer, ...]
    window_s: float | None
    min_samples: int
    hop_samples: int
    context: ContextMode
    runtime: Runtime
    model: Any = field(repr=False)
    extractor: Any = field(repr=False)

    @property
    def precision(self) -> Precision:
        """How exactly it computes."""
        return self.runtime.precision

    def frames(self, samples: int) -> Frames:
        """Place the frames whose centre lies within the clip: `ceil(samples / hop)` of them, the first at 0 s."""
        return frame_spans(self._count(samples), rate_hz=self.rate_hz / self.hop_samples, offset_s=0.0)

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths up to `window_s`; see `Encoder.encode`."""
        check_layers(layers, self.layers, self.name)
        waves = as_waves(
            waves, name=self.name, rate_hz=self.rate_hz, min_samples=self.min_samples, window_s=self.window_s
        )

        def run(arrays: list[NDArray[Any]]) -> Part:
            features = self._features(arrays)
            forward = self._short if self.context == "short" else self.model
            return Part(capture_blocks(lambda: forward(features), self.model.layers, set(layers)), {})

        return encode_in_buckets(
            waves,
            layers,
            runtime=self.runtime,
            bucket=self._count if self.context == "short" else lambda _: 0,
            frames=self._count,
            run=run,
        )

    def _count(self, samples: int) -> int:
        return math.ceil(samples / self.hop_samples)

    def _features(self, arrays: list[NDArray[Any]]) -> Float[Tensor, "clips mels moments"]:
        longest = max(array.shape[0] for array in arrays)
        length = self._count(longest) * self.hop_samples if self.context == "short" else None
        features = self.extractor(
            arrays, sampling_rate=self.rate_hz, max_length=length, return_tensors="pt"
        ).input_features
        return features.to(self.runtime.device)

    def _short(self, features: Float[Tensor, "clips mels moments"]) -> Tensor:
        """Do what the model's forward does, for fewer moments than it insists on."""
        state = nn.functional.gelu(self.model.conv1(features))
        state = nn.functional.gelu(self.model.conv2(state)).transpose(1, 2)
        state = state + self.model.embed_positions.weight[: state.shape[1]]
        for block in self.model.layers:
            state = block(state, None)
        return self.model.layer_norm(state)


def load_whisper(source: ModelSource, *, context: ContextMode, runtime: Runtime) -> WhisperEncoder:
    """Load the encoder of a Whisper folder; the decoder's weights are not read into the model."""
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper import modeling_whisper

    config = WhisperConfig.from_pretrained(source.folder)
    config.output_hidden_states = config.output_attentions = False
    model = load_weights(
        modeling_whisper.WhisperEncoder,
        source.folder,
        config=config,
        attention="sdpa",
        ignored=IGNORED_KEYS,
        rename={r"^(model\.)?encoder\.": ""},
    )
    extractor = load_extractor(WhisperFeatureExtractor, source.folder)

    rate_hz, mel_hop = int(extractor.sampling_rate), int(extractor.hop_length)
    hop = mel_hop * model.conv1.stride[0] * model.conv2.stride[0]
    # a frame of conv2 sees 3 outputs of conv1, hence 5 moments, each a window of n_fft samples
    seen = int(extractor.n_fft) + 4 * mel_hop
    layers = tuple(
        Layer(
            index=i,
            width=int(config.d_model),
            rate_hz=rate_hz / hop,
            receptive_field_s=seen / rate_hz,
            offset_s=0.0,
            attends=i > 0,
        )
        for i in range(int(config.encoder_layers) + 1)
    )
    return WhisperEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=rate_hz,
        layers=layers,
        window_s=config.max_source_positions * hop / rate_hz,
        min_samples=hop,
        hop_samples=hop,
        context=context,
        runtime=runtime,
        model=runtime.ready(model),
        extractor=extractor,
    )
