"""The wav2vec 2.0 family: wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech-SAT, SEW, MERT-v1, wav2vec2-BERT.

Strided convolutions turn samples into frames, a positional convolution lets each frame see its neighbours, then
blocks attend over the whole clip. Layer 0 is the input of the first block, after the positional convolution (and, in
post-norm models, its layer norm): transformers' `hidden_states[0]`. Layer i is the raw output of block i. Pre-norm
models ("stable layer norm", the large ones) have a final norm after the last block, which transformers applies to
`last_hidden_state` and otoscope omits. SEW (arXiv:2109.06870) averages every two frames before its blocks; its
upsampling after the last block is omitted too.

Padding: "group" feature extractors normalise over all frames of a clip, data2vec's stacked positional convolutions
and a batch-normalised one carry padding into the sound, and WavLM's biased attention takes no boolean mask. All of
these get batches of equal length (huggingface/transformers#10117, #47739; pytorch/audio#3700). The others are padded
with an attention mask, which is exact.

MERT-v1 (arXiv:2306.00107) is HuBERT's architecture at 24 kHz; it is loaded as HuBERT, without its remote code.

wav2vec2-BERT (arXiv:2312.05187) is a Conformer over stacked pairs of log-mel frames, 50 frames per second. The
spectrogram is normalised per mel band over the frames of the clip, including an odd last one, which gives no frame of
its own. Blocks contain depthwise convolutions and relative positions, so only clips of equal length share a pass and no
padding needs a mask. Layer 0 is the projected spectrogram, layer i the output of block i.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from otoscope.encoders.base import Layer, block_layers, convolved_length, receptive_field
from otoscope.encoders.batched import BatchedEncoder, Runtime, States
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.model_folder import load_config, load_extractor, load_weights, read_config, require_equal
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError


@dataclass(frozen=True)
class Geometry:
    """Convolutions between samples and frames."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    positional_frames: int

    @property
    def field_samples(self) -> int:
        """Samples covered by one frame before the positional convolution."""
        return receptive_field(self.kernels, self.strides)[0]

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return receptive_field(self.kernels, self.strides)[1]

    def count_frames(self, samples: int) -> int:
        """Count the frames of a clip."""
        return convolved_length(samples, self.kernels, self.strides)


def read_geometry(config: Any) -> Geometry:
    """Return the convolutions that a configuration describes.

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
    # data2vec stacks `num_conv_pos_embeddings` convolutions; the others have one with that number of taps
    positional = config.num_conv_pos_embeddings * (kernel - 1) + 1 if kernel else config.num_conv_pos_embeddings
    kernels, strides = tuple(config.conv_kernel), tuple(config.conv_stride)
    if wrong := [size for size in (*kernels, *strides) if not isinstance(size, int) or size < 1]:
        raise EncoderError(f"conv_kernel and conv_stride of its config.json hold {wrong[0]!r}; allowed: 1 and more")
    if (squeeze := getattr(config, "squeeze_factor", 1)) > 1:
        kernels, strides = (*kernels, squeeze), (*strides, squeeze)
        positional = math.ceil((positional - 1) / squeeze) + 1
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
    field, hop = geometry.field_samples, geometry.hop_samples
    return block_layers(
        blocks,
        width=width,
        rate_hz=rate_hz / hop,
        receptive_field_s=(field + (geometry.positional_frames - 1) * hop) / rate_hz,
        offset_s=field / 2 / rate_hz,
    )


TRAINING_ONLY = r"(^|\.)masked_spec_embed$"
"""Replaces masked frames in training; eval mode never reads it."""

IGNORED_KEYS = (
    TRAINING_ONLY,
    r"^(quantizer|project_q|project_hid|layer_norm_for_extract)\.",  # the contrastive task
    r"^(final_proj|label_embs_concat|label_embeddings_concat|speaker_proj)\b",  # targets of HuBERT and UniSpeech-SAT
    r"^lm_head\.",  # CTC
    r"^(projector|classifier|tdnn|objective)\.|^layer_weights$",  # classification and x-vectors
    r"^feature_extractor\.(weight|bias)$",  # the x-vector head's own, not the convolutions
)
"""Keys of a checkpoint that the bare encoder does not use: task heads and parts used in training only."""

LENGTH_STEP = 1.25
"""Largest length ratio of clips that are padded together, so that little time is spent on padding."""


@dataclass(frozen=True)
class Architecture:
    """Class names of a family in transformers, and its attention.

    WavLM's gated relative position bias exists in its own attention only ("eager"); the others use PyTorch's scaled
    dot product ("sdpa"), which agrees with eager attention to 1e-5 and is deterministic.
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


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Wav2Vec2Encoder(BatchedEncoder):
    """A model of the wav2vec 2.0 family; `pads` is true if masked padding is exact, `blocks` names its block list."""

    geometry: Geometry
    pads: bool
    blocks: str

    def count_frames(self, samples: int) -> int:
        """Count the frames that the convolutions give."""
        return self.geometry.count_frames(samples)

    def bucket(self, samples: int) -> Hashable:
        """Share a pass between clips of similar length if masked padding is exact, else of equal length."""
        return int(math.log(samples, LENGTH_STEP)) if self.pads else samples

    def forward(self, waves: list[NDArray[Any]], layers: Sequence[int]) -> States:
        """Run the blocks over clips that are padded with an attention mask."""
        inputs = self.extractor(
            waves, sampling_rate=self.rate_hz, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        values = inputs.input_values.to(self.runtime.device)
        mask = inputs.attention_mask.to(self.runtime.device)
        # an all-true mask would select another kernel than the same clip alone
        mask = None if bool(mask.all()) else mask
        blocks = self.model.get_submodule(self.blocks)
        return States(capture_blocks(lambda: self.model(values, attention_mask=mask), blocks, set(layers)))


def load_wav2vec2(
    source: ModelSource, runtime: Runtime, *, family: str | None = None, config: Any = None
) -> Wav2Vec2Encoder:
    """Load a folder in its native architecture; `family` and `config` override the folder's own (MERT)."""
    import transformers

    architecture = ARCHITECTURES[family or read_config(source.folder)["model_type"]]
    if config is None:
        config = load_config(getattr(transformers, architecture.config), source.folder)
    if getattr(config, "adapter_attn_dim", None) is not None:
        raise EncoderError(
            f"{source.name} has language adapters in its blocks (adapter_attn_dim={config.adapter_attn_dim}), and "
            "otoscope has no setting for the language; use the model that it was adapted from"
        )
    model = load_weights(
        getattr(transformers, architecture.model),
        source.folder,
        config=config,
        attention=architecture.attention,
        optional=(TRAINING_ONLY,),
        ignored=IGNORED_KEYS,
    )
    extractor = load_extractor(transformers.Wav2Vec2FeatureExtractor, source.folder, required=("do_normalize",))
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
        min_samples=geometry.field_samples,
        geometry=geometry,
        pads=architecture.masks_exactly
        and config.feat_extract_norm == "layer"
        and not getattr(config, "conv_pos_batch_norm", False),
        runtime=runtime,
        blocks=architecture.blocks,
        model=runtime.prepare(model),
        extractor=extractor,
    )


MERT_SETTINGS: dict[str, Any] = {
    "feature_extractor_cqt": False,
    "deepnorm": False,
    "attention_relax": -1.0,
    "feat_proj_layer_norm": True,
}
"""Settings of MERT with which every operation is HuBERT's."""

MERT_ONLY_KEYS = (
    "model_type",
    "auto_map",
    "architectures",
    "feature_extractor_cqt",
    "cqt_bins",
    "deepnorm",
    "attention_relax",
)
"""Keys of MERT's configuration that HuBERT's lacks or must not inherit."""


def hubert_settings(mert: dict[str, Any], *, name: str) -> dict[str, Any]:
    """Return a MERT configuration as HuBERT's; raise `EncoderError` if a setting makes it a different model.

    >>> hubert_settings({**MERT_SETTINGS, "hidden_size": 768, "model_type": "mert_model"}, name="mert")
    {'feat_proj_layer_norm': True, 'hidden_size': 768}
    """
    for key, required in MERT_SETTINGS.items():
        value = mert.get(key, "absent")
        if value != required:
            raise EncoderError(
                f"{name} has {key}: {value}; MERT is HuBERT's architecture only with {key}: {required}. "
                "Use MERT-v1-95M; other versions need their own code, which otoscope does not run"
            )
    return {key: value for key, value in mert.items() if key not in MERT_ONLY_KEYS}


def load_mert(source: ModelSource, runtime: Runtime) -> Wav2Vec2Encoder:
    """Load a MERT-v1 folder as HuBERT after checking that its settings are HuBERT's."""
    from transformers import HubertConfig

    mert = read_config(source.folder)
    config = HubertConfig.from_dict(hubert_settings(mert, name=source.name))
    encoder = load_wav2vec2(source, runtime, family="hubert", config=config)
    require_equal(source.name, "the sample rate", encoder.rate_hz, mert.get("sample_rate", encoder.rate_hz))
    return encoder


BERT_IGNORED_KEYS = (
    r"^lm_head\.",
    r"^(projector|classifier|tdnn|objective)\.|^layer_weights$",
    r"^feature_extractor\.",
)
"""CTC, classification and x-vector heads."""

BERT_OPTIONAL_KEYS = (r"(^|\.)masked_spec_embed$", r"^(adapter|intermediate_ffn)\.")
"""Weights that eval mode does not read, or that follow the last block."""

MEL_HOP_SAMPLES, MEL_WINDOW_SAMPLES = 160, 400
"""Fixed in transformers' SeamlessM4TFeatureExtractor, which has no setting for them."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Wav2Vec2BertEncoder(BatchedEncoder):
    """A wav2vec2-BERT; every frame covers `stacked` mel frames."""

    stacked: int

    def count_frames(self, samples: int) -> int:
        """Count the complete stacks of mel frames."""
        return ((samples - MEL_WINDOW_SAMPLES) // MEL_HOP_SAMPLES + 1) // self.stacked

    def bucket(self, samples: int) -> Hashable:
        """Share a pass between clips with the same number of frames."""
        return self.count_frames(samples)

    def forward(self, waves: list[NDArray[Any]], layers: Sequence[int]) -> States:
        """Run the Conformer blocks over stacked mel frames."""
        features = self.extractor(waves, sampling_rate=self.rate_hz, return_tensors="pt").input_features
        values = features[:, : self.count_frames(waves[0].shape[0])].to(self.runtime.device)
        return States(capture_blocks(lambda: self.model(values), self.model.encoder.layers, set(layers)))


def load_wav2vec2_bert(source: ModelSource, runtime: Runtime) -> Wav2Vec2BertEncoder:
    """Load a wav2vec2-BERT folder; raise `EncoderError` if preprocessor and model disagree about the input."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    config = load_config(Wav2Vec2BertConfig, source.folder)
    extractor = load_extractor(SeamlessM4TFeatureExtractor, source.folder, required=("stride", "num_mel_bins"))
    stacked, mels = int(extractor.stride), int(extractor.num_mel_bins)
    if stacked * mels != config.feature_projection_input_dim:
        raise EncoderError(
            f"{source.name}: the preprocessor stacks {stacked} frames of {mels} mel bands, the model takes "
            f"{config.feature_projection_input_dim} values per frame; they must agree"
        )
    model = load_weights(
        Wav2Vec2BertModel,
        source.folder,
        config=config,
        attention="sdpa",
        optional=BERT_OPTIONAL_KEYS,
        ignored=BERT_IGNORED_KEYS,
    )
    rate_hz = int(extractor.sampling_rate)
    field = (stacked - 1) * MEL_HOP_SAMPLES + MEL_WINDOW_SAMPLES
    layers = block_layers(
        int(config.num_hidden_layers),
        width=int(config.hidden_size),
        rate_hz=rate_hz / (stacked * MEL_HOP_SAMPLES),
        receptive_field_s=field / rate_hz,
        offset_s=field / 2 / rate_hz,
    )
    return Wav2Vec2BertEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=rate_hz,
        layers=layers,
        min_samples=field,
        stacked=stacked,
        runtime=runtime,
        model=runtime.prepare(model),
        extractor=extractor,
    )
