"""The wav2vec 2.0 family: wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech-SAT, SEW, and MERT-v1 as HuBERT.

Strided convolutions turn samples into frames, a positional convolution lets each frame see its neighbours, then
blocks attend over the whole clip. Layer 0 is the first block's input, behind the positional convolution (and, in
post-norm models, its layer norm): transformers' `hidden_states[0]`. Layer i is the raw output of block i; pre-norm
models ("stable layer norm", the large ones) put a final norm behind the last block, which transformers applies to
`last_hidden_state` and otoscope leaves off. SEW (arXiv:2109.06870) averages every two frames before its blocks; what
it spreads back over all frames behind the last block is left off too.

Padding: "group" feature extractors normalise over all moments of a clip, data2vec's stacked positional convolutions
and a batch-normalised one carry padding into the sound, and WavLM's biased attention takes no boolean mask. All of
these get batches of equal length (huggingface/transformers#10117, #47739; pytorch/audio#3700). The rest are padded
with an attention mask, which is exact.

Where the frames of the wav2vec 2.0 family lie: strided convolutions, then a positional one over the frames.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from otoscope.encoders.base import (
    Encoded,
    Frames,
    Layer,
    Wave,
    as_waves,
    check_layers,
    convolved_length,
    frame_spans,
    receptive_field,
)
from otoscope.encoders.batching import Part, Runtime, encode_in_buckets
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.loading import load_extractor, load_weights
from otoscope.encoders.precision import Precision
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError


@dataclass(frozen=True)
class Geometry:
    """The convolutions between samples and frames."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    positional_frames: int

    @property
    def field_samples(self) -> int:
        """Samples under one frame before the positional convolution."""
        return receptive_field(self.kernels, self.strides)[0]

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return receptive_field(self.kernels, self.strides)[1]

    def count(self, samples: int) -> int:
        """Count the frames of a clip."""
        return convolved_length(samples, self.kernels, self.strides)


def read_geometry(config: Any) -> Geometry:
    """Read the convolutions off a configuration.

    >>> from types import SimpleNamespace
    >>> base = {"conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}
    >>> read_geometry(SimpleNamespace(**base, num_conv_pos_embeddings=128)).positional_frames
    128
    >>> read_geometry(SimpleNamespace(**base, num_conv_pos_embeddings=5, conv_pos_kernel_size=19)).positional_frames
    91
    >>> sew = {"conv_kernel": (10, 3), "conv_stride": (5, 2), "squeeze_factor": 2}
    >>> read_geometry(SimpleNamespace(**sew, num_conv_pos_embeddings=31))
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


TRAINING_ONLY = r"(^|\.)masked_spec_embed$"
"""What stands for a masked frame in training; eval mode never reads it."""

IGNORED_KEYS = (
    TRAINING_ONLY,
    r"^(quantizer|project_q|project_hid|layer_norm_for_extract)\.",  # the contrastive task
    r"^(final_proj|label_embs_concat|label_embeddings_concat|speaker_proj)\b",  # what HuBERT and UniSpeech-SAT predict
    r"^lm_head\.",  # CTC
    r"^(projector|classifier|tdnn|objective)\.|^layer_weights$",  # classification and x-vectors
    r"^feature_extractor\.(weight|bias)$",  # the x-vector head's own, not the convolutions
)
"""Keys of a checkpoint that the bare encoder has no use for: task heads and parts used in training only."""

LENGTH_STEP = 1.25
"""Clips padded together differ in length by no more than this factor, so little is spent on padding."""


@dataclass(frozen=True)
class Architecture:
    """Names of a family's classes in transformers, and its attention.

    WavLM's gated relative position bias exists in its own attention alone ("eager"); the others use PyTorch's
    scaled dot product ("sdpa"), which agrees with eager attention to 1e-5 and repeats itself exactly.
    """

    config: str
    model: str
    attention: str = "sdpa"
    masks_exactly: bool = True
    blocks: str = "encoder.layers"


ARCHITECTURES = {
    "wav2vec2": Architecture("Wav2Vec2Config", "Wav2Vec2Model"),
    "hubert": Architecture("HubertConfig", "HubertModel"),
    "wavlm": Architecture("WavLMConfig", "WavLMModel", attention="eager", masks_exactly=False),
    "data2vec-audio": Architecture("Data2VecAudioConfig", "Data2VecAudioModel", masks_exactly=False),
    "unispeech-sat": Architecture("UniSpeechSatConfig", "UniSpeechSatModel"),
    "sew": Architecture("SEWConfig", "SEWModel", masks_exactly=False),
    "sew-d": Architecture(
        "SEWDConfig", "SEWDModel", attention="eager", masks_exactly=False, blocks="encoder.encoder.layer"
    ),
}


@dataclass(frozen=True, eq=False)
class Wav2Vec2Encoder:
    """One model of the wav2vec 2.0 family as an `Encoder`."""

    name: str
    revision: str
    rate_hz: int
    layers: tuple[Layer, ...]
    geometry: Geometry
    pads: bool
    runtime: Runtime
    blocks: str
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
        return self.geometry.field_samples

    def frames(self, samples: int) -> Frames:
        """Place a clip's frames: as many as the convolutions give, the first centred on its receptive field."""
        layer = self.layers[0]
        return frame_spans(self.geometry.count(samples), rate_hz=layer.rate_hz, offset_s=layer.offset_s)

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths; see `Encoder.encode`."""
        check_layers(layers, self.layers, self.name)
        waves = as_waves(waves, name=self.name, rate_hz=self.rate_hz, min_samples=self.min_samples, window_s=None)

        def run(arrays: list[NDArray[Any]]) -> Part:
            inputs = self.extractor(
                arrays,
                sampling_rate=self.rate_hz,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
            values = inputs.input_values.to(self.runtime.device)
            mask = inputs.attention_mask.to(self.runtime.device)
            # an all-true mask would take another kernel than the same clip alone
            mask = None if bool(mask.all()) else mask
            return Part(
                capture_blocks(
                    lambda: self.model(values, attention_mask=mask), self.model.get_submodule(self.blocks), set(layers)
                ),
                {},
            )

        return encode_in_buckets(
            waves, layers, runtime=self.runtime, bucket=self._bucket, frames=self.geometry.count, run=run
        )

    def _bucket(self, samples: int) -> Hashable:
        return int(math.log(samples, LENGTH_STEP)) if self.pads else samples


def load_wav2vec2(source: ModelSource, *, runtime: Runtime, family: str, config: Any = None) -> Wav2Vec2Encoder:
    """Load a folder of the family in its own architecture; `config` overrides the folder's (MERT)."""
    import transformers

    architecture = ARCHITECTURES[family]
    if config is None:
        config = getattr(transformers, architecture.config).from_pretrained(source.folder)
    config.output_hidden_states = config.output_attentions = False
    if getattr(config, "adapter_attn_dim", None) is not None:
        raise EncoderError(
            f"{source.name} has language adapters in its blocks (adapter_attn_dim={config.adapter_attn_dim}); "
            "which language it is to hear cannot be said: use the model it was adapted from"
        )
    model = load_weights(
        getattr(transformers, architecture.model),
        source.folder,
        config=config,
        attention=architecture.attention,
        optional=(TRAINING_ONLY,),
        ignored=IGNORED_KEYS,
    )
    extractor = load_extractor(transformers.Wav2Vec2FeatureExtractor, source.folder)
    geometry = read_geometry(config)
    rate_hz = int(extractor.sampling_rate)
    layers = wav2vec2_layers(
        geometry, rate_hz=rate_hz, width=int(config.hidden_size), blocks=int(config.num_hidden_layers)
    )
    return Wav2Vec2Encoder(
        name=source.name,
        revision=source.revision,
        rate_hz=rate_hz,
        layers=layers,
        geometry=geometry,
        pads=architecture.masks_exactly
        and config.feat_extract_norm == "layer"
        and not getattr(config, "conv_pos_batch_norm", False),
        runtime=runtime,
        blocks=architecture.blocks,
        model=runtime.ready(model),
        extractor=extractor,
    )
