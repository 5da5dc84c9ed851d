"""The Audio Spectrogram Transformer (arXiv:2104.01778): patches of a log-mel spectrogram, in time and frequency.

A clip is padded to the model's window (1024 mel frames, 10.24 s) as in training, and attention sees the padding;
patches whose centre lies after the end of the clip are masked. Patches are ordered by time step, within a time step
from low to high frequency, so that the valid patches of a clip come first (transformers orders by frequency first).
The CLS and distillation tokens represent the whole clip and are returned in `Encoded.tokens`.

Layers are raw block outputs; transformers' last hidden state is `layernorm` of the last of them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from otoscope.encoders.base import Frames, Layer, block_layers, frame_spans
from otoscope.encoders.batched import BatchedEncoder, Runtime, States
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.model_folder import load_config, load_extractor, load_weights, require_equal
from otoscope.encoders.resolve import ModelSource

IGNORED_KEYS = (r"^classifier\.",)
"""The head of ASTForAudioClassification."""

SPECIAL_TOKENS = 2
"""CLS and distillation, in this order, before the patches."""

MEL_HOP_SAMPLES, MEL_WINDOW_SAMPLES, MEL_LOWEST_HZ = 160, 400, 20.0
"""Fixed in transformers' ASTFeatureExtractor, which has no setting for them."""


def band_edges_hz(
    *, mels: int, lowest_hz: float, highest_hz: float, scale: str, bands: int, stride: int, covered: int
) -> Float[np.ndarray, "bands 2"]:
    """Return the lowest and highest frequency of each band: the feet of its outer mel triangles.

    A band covers `covered` of the `mels` filters and starts `stride` filters above the previous band; `scale` is a mel
    scale of transformers.
    """
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    low, high = (float(hertz_to_mel(hz, mel_scale=scale)) for hz in (lowest_hz, highest_hz))
    feet = np.asarray(mel_to_hertz(np.linspace(low, high, mels + 2), mel_scale=scale))
    first = np.arange(bands) * stride
    return np.stack([feet[first], feet[first + covered + 1]], axis=1)


def place_patches(layer: Layer, edges_hz: Float[np.ndarray, "bands 2"], time_steps: int) -> Frames:
    """Place patches in time and frequency, ordered by time step, then from low to high."""
    bands = len(edges_hz)
    spans = frame_spans(time_steps, rate_hz=layer.rate_hz, offset_s=layer.offset_s)
    low_hz, high_hz = np.tile(edges_hz, (time_steps, 1)).T
    return Frames(np.repeat(spans.start_s, bands), np.repeat(spans.end_s, bands), low_hz, high_hz)


@dataclass(frozen=True)
class PatchGrid:
    """Tiling of a mel spectrogram by patches."""

    rate_hz: int
    mels: int
    mel_frames: int
    patch: int
    mel_stride: int
    frame_stride: int

    @property
    def bands(self) -> int:
        """Patches per time step."""
        return (self.mels - self.patch) // self.mel_stride + 1

    @property
    def time_steps(self) -> int:
        """Patches per band in a full window."""
        return (self.mel_frames - self.patch) // self.frame_stride + 1

    @property
    def field_samples(self) -> int:
        """Samples covered by one patch."""
        return (self.patch - 1) * MEL_HOP_SAMPLES + MEL_WINDOW_SAMPLES

    @property
    def hop_samples(self) -> int:
        """Samples from one time step to the next."""
        return self.frame_stride * MEL_HOP_SAMPLES

    def count_time_steps(self, samples: int) -> int:
        """Count the time steps whose centre, `t hop + field / 2`, lies before the end of the clip."""
        after_first = samples - self.field_samples // 2
        return max(0, min(self.time_steps, -(-after_first // self.hop_samples)))

    def band_edges_hz(self) -> Float[np.ndarray, "bands 2"]:
        """Return the lowest and highest frequency of each band; see `band_edges_hz`."""
        return band_edges_hz(
            mels=self.mels,
            lowest_hz=MEL_LOWEST_HZ,
            highest_hz=self.rate_hz // 2,
            scale="kaldi",
            bands=self.bands,
            stride=self.mel_stride,
            covered=self.patch,
        )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ASTEncoder(BatchedEncoder):
    """An Audio Spectrogram Transformer; its frames are patches."""

    grid: PatchGrid

    def count_frames(self, samples: int) -> int:
        """Count the valid patches of a clip."""
        return self.grid.count_time_steps(samples) * self.grid.bands

    def bucket(self, samples: int) -> Hashable:
        """Share passes between all clips: each is padded to the window."""
        del samples
        return 0

    def frames(self, samples: int) -> Frames:
        """Place the valid patches of a clip in time and frequency."""
        return place_patches(self.layers[0], self.grid.band_edges_hz(), self.grid.count_time_steps(samples))

    def state_positions(self, samples: int) -> Int[np.ndarray, " frames"]:
        """Return the position of each valid patch: the model orders patches by band, after the special tokens."""
        step, band = np.divmod(np.arange(self.count_frames(samples)), self.grid.bands)
        return SPECIAL_TOKENS + band * self.grid.time_steps + step

    def forward(self, waves: list[NDArray[Any]], layers: Sequence[int]) -> States:
        """Run the blocks over spectrograms of the whole window; separate special tokens from patches."""
        features = self.extractor(waves, sampling_rate=self.rate_hz, return_tensors="pt").input_values
        values = features.to(self.runtime.device)
        states = capture_blocks(lambda: self.model(values), self.model.layers, set(layers))
        return States(
            {layer: self._order_by_time(state[:, SPECIAL_TOKENS:]) for layer, state in states.items()},
            {layer: state[:, :SPECIAL_TOKENS] for layer, state in states.items()},
        )

    def _order_by_time(self, patches: Float[Tensor, "clips patches width"]) -> Float[Tensor, "clips patches width"]:
        clips, count, width = patches.shape
        by_band = patches.reshape(clips, self.grid.bands, self.grid.time_steps, width)
        return by_band.transpose(1, 2).reshape(clips, count, width)


def load_ast(source: ModelSource, runtime: Runtime) -> ASTEncoder:
    """Load an AST folder; raise `EncoderError` if preprocessor and model disagree about the spectrogram."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    runtime.require_full_context(source.name)
    config = load_config(ASTConfig, source.folder)
    extractor = load_extractor(
        ASTFeatureExtractor, source.folder, required=("do_normalize", "mean", "std", "max_length", "num_mel_bins")
    )
    for key in ("max_length", "num_mel_bins"):
        require_equal(source.name, key, getattr(extractor, key), getattr(config, key))
    model = load_weights(ASTModel, source.folder, config=config, attention="sdpa", ignored=IGNORED_KEYS)
    patches = model.embeddings.patch_embeddings.projection
    grid = PatchGrid(
        rate_hz=int(extractor.sampling_rate),
        mels=int(config.num_mel_bins),
        mel_frames=int(config.max_length),
        patch=patches.kernel_size[0],
        mel_stride=patches.stride[0],
        frame_stride=patches.stride[1],
    )
    layers = block_layers(
        len(model.layers),
        width=int(config.hidden_size),
        rate_hz=grid.rate_hz / grid.hop_samples,
        receptive_field_s=grid.field_samples / grid.rate_hz,
        offset_s=grid.field_samples / 2 / grid.rate_hz,
    )
    return ASTEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=grid.rate_hz,
        layers=layers,
        window_s=grid.mel_frames * MEL_HOP_SAMPLES / grid.rate_hz,
        min_samples=grid.field_samples // 2 + 1,  # just enough to hold the centre of the first patch
        grid=grid,
        runtime=runtime,
        model=runtime.prepare(model),
        extractor=extractor,
    )
