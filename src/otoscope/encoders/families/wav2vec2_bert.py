"""wav2vec2-BERT (arXiv:2312.05187): a Conformer over stacked pairs of log-mel frames, 50 frames per second.

The spectrogram is normalised per mel band over the frames of the clip, including an odd last one, which gives no
frame of its own. Blocks contain depthwise convolutions and relative positions, so only clips of equal length share a
pass and no padding needs a mask. Layer 0 is the projected spectrogram, layer i the output of block i.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from otoscope.encoders.base import BatchedEncoder, Runtime, States, block_layers
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.model_folder import load_config, load_extractor, load_weights
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError

IGNORED_KEYS = (r"^lm_head\.", r"^(projector|classifier|tdnn|objective)\.|^layer_weights$", r"^feature_extractor\.")
"""CTC, classification and x-vector heads."""

OPTIONAL_KEYS = (r"(^|\.)masked_spec_embed$", r"^(adapter|intermediate_ffn)\.")
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
        Wav2Vec2BertModel, source.folder, config=config, attention="sdpa", optional=OPTIONAL_KEYS, ignored=IGNORED_KEYS
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
