"""wav2vec2-BERT (arXiv:2312.05187): a Conformer over stacked pairs of log-mel frames, 50 a second.

The spectrogram of a clip is normalised by mel band over the clip's own frames, an odd last one included, which itself
gets no place. Blocks hold depthwise convolutions and relative positions: clips of equal length alone share a pass, so
that no padding is to be masked. Layer 0 is the projected spectrogram, layer i the output of block i.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from otoscope.encoders.base import Encoded, Frames, Layer, Wave, as_waves, check_layers, frame_spans
from otoscope.encoders.batching import Part, Runtime, encode_in_buckets
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.loading import load_extractor, load_weights
from otoscope.encoders.precision import Precision
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError

IGNORED_KEYS = (r"^lm_head\.", r"^(projector|classifier|tdnn|objective)\.|^layer_weights$", r"^feature_extractor\.")
"""CTC, classification and x-vector heads."""

OPTIONAL_KEYS = (r"(^|\.)masked_spec_embed$", r"^(adapter|intermediate_ffn)\.")
"""What eval mode does not read, and what lies behind the last block."""

MEL_HOP_SAMPLES, MEL_WINDOW_SAMPLES = 160, 400
"""transformers' SeamlessM4TFeatureExtractor fixes these and keeps no setting for them."""


@dataclass(frozen=True, eq=False)
class Wav2Vec2BertEncoder:
    """One wav2vec2-BERT as an `Encoder`."""

    name: str
    revision: str
    rate_hz: int
    layers: tuple[Layer, ...]
    stacked: int
    runtime: Runtime
    model: Any = field(repr=False)
    extractor: Any = field(repr=False)

    @property
    def precision(self) -> Precision:
        """How exactly it computes."""
        return self.runtime.precision

    @property
    def window_s(self) -> float | None:
        """No bound: positions are relative."""
        return None

    @property
    def min_samples(self) -> int:
        """The samples under one frame."""
        return (self.stacked - 1) * MEL_HOP_SAMPLES + MEL_WINDOW_SAMPLES

    def frames(self, samples: int) -> Frames:
        """Place a clip's frames, the first centred on the mel frames stacked in it."""
        layer = self.layers[0]
        return frame_spans(self._count(samples), rate_hz=layer.rate_hz, offset_s=layer.offset_s)

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths; see `Encoder.encode`."""
        check_layers(layers, self.layers, self.name)
        waves = as_waves(waves, name=self.name, rate_hz=self.rate_hz, min_samples=self.min_samples, window_s=None)

        def run(arrays: list[NDArray[Any]]) -> Part:
            features = self.extractor(arrays, sampling_rate=self.rate_hz, return_tensors="pt").input_features
            values = features[:, : self._count(arrays[0].shape[0])].to(self.runtime.device)
            return Part(capture_blocks(lambda: self.model(values), self.model.encoder.layers, set(layers)), {})

        return encode_in_buckets(waves, layers, runtime=self.runtime, bucket=self._count, frames=self._count, run=run)

    def _count(self, samples: int) -> int:
        return ((samples - MEL_WINDOW_SAMPLES) // MEL_HOP_SAMPLES + 1) // self.stacked


def load_wav2vec2_bert(source: ModelSource, *, runtime: Runtime) -> Wav2Vec2BertEncoder:
    """Load a wav2vec2-BERT folder; raise `EncoderError` if its preprocessor and its model disagree about the input."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    config = Wav2Vec2BertConfig.from_pretrained(source.folder)
    config.output_hidden_states = config.output_attentions = False
    extractor = load_extractor(SeamlessM4TFeatureExtractor, source.folder)
    stacked, mels = int(extractor.stride), int(extractor.num_mel_bins)
    if stacked * mels != config.feature_projection_input_dim:
        raise EncoderError(
            f"{source.name}: the preprocessor stacks {stacked} frames of {mels} mel bands, the model takes "
            f"{config.feature_projection_input_dim} values a frame; they must agree"
        )
    model = load_weights(
        Wav2Vec2BertModel, source.folder, config=config, attention="sdpa", optional=OPTIONAL_KEYS, ignored=IGNORED_KEYS
    )
    rate_hz = int(extractor.sampling_rate)
    seen = (stacked - 1) * MEL_HOP_SAMPLES + MEL_WINDOW_SAMPLES
    layers = tuple(
        Layer(
            index=i,
            width=int(config.hidden_size),
            rate_hz=rate_hz / (stacked * MEL_HOP_SAMPLES),
            receptive_field_s=seen / rate_hz,
            offset_s=seen / 2 / rate_hz,
            attends=i > 0,
        )
        for i in range(int(config.num_hidden_layers) + 1)
    )
    return Wav2Vec2BertEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=rate_hz,
        layers=layers,
        stacked=stacked,
        runtime=runtime,
        model=runtime.ready(model),
        extractor=extractor,
    )
