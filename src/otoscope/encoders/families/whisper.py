"""Whisper's encoder (arXiv:2212.04356): log-mel frames every 10 ms, halved to 50 frames per second.

The model was trained on 30 s windows, short clips padded with silence; its positions are absolute and its attention
sees the padding. `context="exact"` does the same and masks the frames after the end of the clip. `context="short"`
encodes the clip alone, with positions cut to its length: much cheaper, but a different function of the input.

Layers are raw block outputs. transformers' last hidden state is `layer_norm` of the last of them.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from otoscope.encoders.base import block_layers
from otoscope.encoders.batched import BatchedEncoder, Runtime, States
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.model_folder import load_config, load_extractor, load_weights, require_equal
from otoscope.encoders.resolve import ModelSource

IGNORED_KEYS = (
    r"^(model\.)?decoder\.",  # the language model
    r"^proj_out\.",  # its output projection
    r"^(projector|classifier)\.",  # heads of WhisperForAudioClassification
    r"^layer_weights$",
)
"""Keys of a Whisper checkpoint that its encoder does not use."""

PREPROCESSOR_SETTINGS = ("feature_size", "hop_length", "n_fft", "chunk_length")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class WhisperEncoder(BatchedEncoder):
    """A Whisper encoder: one frame per `hop_samples`, the first centred at 0 s."""

    hop_samples: int

    def count_frames(self, samples: int) -> int:
        """Count the frames whose centre lies within the clip: `ceil(samples / hop)`."""
        return math.ceil(samples / self.hop_samples)

    def bucket(self, samples: int) -> Hashable:
        """Pad all clips to the window, or share a pass between clips with the same number of frames."""
        return self.count_frames(samples) if self.runtime.context == "short" else 0

    def forward(self, waves: list[NDArray[Any]], layers: Sequence[int]) -> States:
        """Run the blocks over log-mel spectrograms."""
        short = self.runtime.context == "short"
        longest = max(wave.shape[0] for wave in waves)
        length = self.count_frames(longest) * self.hop_samples if short else None
        inputs = self.extractor(waves, sampling_rate=self.rate_hz, max_length=length, return_tensors="pt")
        features = inputs.input_features.to(self.runtime.device)
        run = self._short if short else self.model
        return States(capture_blocks(lambda: run(features), self.model.layers, set(layers)))

    def _short(self, features: Float[Tensor, "clips mels mel_frames"]) -> Tensor:
        """Do the same as the model's forward, for fewer mel frames than it accepts."""
        state = nn.functional.gelu(self.model.conv1(features))
        state = nn.functional.gelu(self.model.conv2(state)).transpose(1, 2)
        state = state + self.model.embed_positions.weight[: state.shape[1]]
        for block in self.model.layers:
            state = block(state, None)
        return self.model.layer_norm(state)


def load_whisper(source: ModelSource, runtime: Runtime) -> WhisperEncoder:
    """Load the encoder of a Whisper folder; the decoder's weights are not read into the model."""
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper import modeling_whisper

    config = load_config(WhisperConfig, source.folder)
    extractor = load_extractor(WhisperFeatureExtractor, source.folder, required=PREPROCESSOR_SETTINGS)
    require_equal(source.name, "the number of mel bands", int(extractor.feature_size), int(config.num_mel_bins))
    model = load_weights(
        modeling_whisper.WhisperEncoder,
        source.folder,
        config=config,
        attention="sdpa",
        ignored=IGNORED_KEYS,
        rename={r"^(model\.)?encoder\.": ""},
    )

    rate_hz, mel_hop = int(extractor.sampling_rate), int(extractor.hop_length)
    hop = mel_hop * model.conv1.stride[0] * model.conv2.stride[0]
    require_equal(source.name, "the window", extractor.n_samples, config.max_source_positions * hop)
    # a frame of conv2 covers 3 outputs of conv1, hence 5 mel frames, each a window of n_fft samples
    field = int(extractor.n_fft) + 4 * mel_hop
    layers = block_layers(
        int(config.encoder_layers),
        width=int(config.d_model),
        rate_hz=rate_hz / hop,
        receptive_field_s=field / rate_hz,
        offset_s=0.0,
    )
    return WhisperEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=rate_hz,
        layers=layers,
        window_s=config.max_source_positions * hop / rate_hz,
        min_samples=hop,
        hop_samples=hop,
        runtime=runtime,
        model=runtime.prepare(model),
        extractor=extractor,
    )
