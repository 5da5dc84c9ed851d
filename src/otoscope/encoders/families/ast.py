"""The Audio Spectrogram Transformer (arXiv:2104.01778): patches of a log-mel spectrogram, apart in time and frequency.

A clip is padded to the model's window (1024 mel frames, 10.24 s) as in training, and attention sees that padding:
patches whose centre lies behind the clip's end are masked. The patches of one moment follow each other from low to
high frequency, moment by moment, so that a clip's valid patches come first (transformers keeps frequency outermost).
The CLS and distillation tokens stand for the whole clip and are kept apart in `Encoded.tokens`.

Layers are raw block outputs; transformers' last hidden state is `layernorm` of the last of them.

Where patches of a mel spectrogram lie: bands of frequency, moment by moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from otoscope.encoders.base import Encoded, Frames, Layer, Wave, as_waves, check_layers, frame_spans
from otoscope.encoders.batching import Part, Runtime, encode_in_buckets
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.loading import load_extractor, load_weights
from otoscope.encoders.precision import Precision
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError


def band_edges_hz(
    *, mels: int, lowest_hz: float, highest_hz: float, scale: str, bands: int, stride: int, covered: int
) -> Float[np.ndarray, "bands 2"]:
    """Return the lowest and highest frequency under each band: the feet of its outer mel triangles.

    A band covers `covered` of the `mels` filters, each `stride` above the one before; `scale` is a
    mel scale of transformers.
    """
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    low, high = (float(hertz_to_mel(hz, mel_scale=scale)) for hz in (lowest_hz, highest_hz))
    feet = np.asarray(mel_to_hertz(np.linspace(low, high, mels + 2), mel_scale=scale))
    first = np.arange(bands) * stride
    return np.stack([feet[first], feet[first + covered + 1]], axis=1)


def place_patches(layer: Layer, edges_hz: Float[np.ndarray, "bands 2"], moments: int) -> Frames:
    """Place patches in time and frequency: moment by moment, low to high."""
    bands = len(edges_hz)
    spans = frame_spans(moments, rate_hz=layer.rate_hz, offset_s=layer.offset_s)
    low_hz, high_hz = np.tile(edges_hz, (moments, 1)).T
    return Frames(np.repeat(spans.start_s, bands), np.repeat(spans.end_s, bands), low_hz, high_hz)


IGNORED_KEYS = (r"^classifier\.",)
"""The head of ASTForAudioClassification."""

SPECIAL_TOKENS = 2
"""CLS and distillation, in that order, before the patches."""

MEL_HOP_SAMPLES, MEL_WINDOW_SAMPLES, MEL_LOWEST_HZ = 160, 400, 20.0
"""transformers' ASTFeatureExtractor fixes these and keeps no setting for them."""


@dataclass(frozen=True)
class PatchGrid:
    """How patches tile a mel spectrogram."""

    rate_hz: int
    mels: int
    mel_frames: int
    patch: int
    mel_stride: int
    frame_stride: int

    @property
    def bands(self) -> int:
        """Patches of one moment."""
        return (self.mels - self.patch) // self.mel_stride + 1

    @property
    def time_steps(self) -> int:
        """Patches of one band in a full window."""
        return (self.mel_frames - self.patch) // self.frame_stride + 1

    @property
    def field_samples(self) -> int:
        """Samples under one patch."""
        return (self.patch - 1) * MEL_HOP_SAMPLES + MEL_WINDOW_SAMPLES

    @property
    def hop_samples(self) -> int:
        """Samples from one moment to the next."""
        return self.frame_stride * MEL_HOP_SAMPLES

    def count_time_steps(self, samples: int) -> int:
        """Count the moments whose centre, `t hop + field / 2`, lies before a clip's end."""
        behind = samples - self.field_samples // 2
        return max(0, min(self.time_steps, -(-behind // self.hop_samples)))

    def band_edges_hz(self) -> Float[np.ndarray, "bands 2"]:
        """Return the lowest and highest frequency under each band: the feet of its outer mel triangles."""
        return band_edges_hz(
            mels=self.mels,
            lowest_hz=MEL_LOWEST_HZ,
            highest_hz=self.rate_hz // 2,
            scale="kaldi",
            bands=self.bands,
            stride=self.mel_stride,
            covered=self.patch,
        )


@dataclass(frozen=True, eq=False)
class ASTEncoder:
    """One Audio Spectrogram Transformer as an `Encoder`; its frames are patches."""

    name: str
    revision: str
    rate_hz: int
    layers: tuple[Layer, ...]
    grid: PatchGrid
    runtime: Runtime
    model: Any = field(repr=False)
    extractor: Any = field(repr=False)

    @property
    def precision(self) -> Precision:
        """How exactly it computes."""
        return self.runtime.precision

    @property
    def window_s(self) -> float | None:
        """The spectrogram that the positions cover."""
        return self.grid.mel_frames * MEL_HOP_SAMPLES / self.rate_hz

    @property
    def min_samples(self) -> int:
        """Just enough to hold the centre of the first patch."""
        return self.grid.field_samples // 2 + 1

    def frames(self, samples: int) -> Frames:
        """Place a clip's valid patches in time and frequency: moment by moment, low to high."""
        return place_patches(self.layers[0], self.grid.band_edges_hz(), self.grid.count_time_steps(samples))

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths up to `window_s`; see `Encoder.encode`."""
        check_layers(layers, self.layers, self.name)
        waves = as_waves(
            waves, name=self.name, rate_hz=self.rate_hz, min_samples=self.min_samples, window_s=self.window_s
        )

        def run(arrays: list[NDArray[Any]]) -> Part:
            features = self.extractor(arrays, sampling_rate=self.rate_hz, return_tensors="pt").input_values
            values = features.to(self.runtime.device)
            states = capture_blocks(lambda: self.model(values), self.model.layers, set(layers))
            return Part(
                {layer: self._by_moment(state[:, SPECIAL_TOKENS:]) for layer, state in states.items()},
                {layer: state[:, :SPECIAL_TOKENS] for layer, state in states.items()},
            )

        return encode_in_buckets(
            waves,
            layers,
            runtime=self.runtime,
            bucket=lambda _: 0,
            frames=lambda samples: self.grid.count_time_steps(samples) * self.grid.bands,
            run=run,
        )

    def _by_moment(self, patches: Float[Tensor, "clips patches width"]) -> Float[Tensor, "clips patches width"]:
        clips, count, width = patches.shape
        by_band = patches.reshape(clips, self.grid.bands, self.grid.time_steps, width)
        return by_band.transpose(1, 2).reshape(clips, count, width)


def load_ast(source: ModelSource, *, runtime: Runtime) -> ASTEncoder:
    """Load an AST folder; raise `EncoderError` if its preprocessor and its model disagree about the spectrogram."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    config = ASTConfig.from_pretrained(source.folder)
    config.output_hidden_states = config.output_attentions = False
    extractor = load_extractor(ASTFeatureExtractor, source.folder)
    for key in ("max_length", "num_mel_bins"):
        if getattr(extractor, key) != getattr(config, key):
            raise EncoderError(
                f"{source.name}: {key} is {getattr(extractor, key)} in the preprocessor and "
                f"{getattr(config, key)} in the model; they must agree"
            )
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
    layers = tuple(
        Layer(
            index=i,
            width=int(config.hidden_size),
            rate_hz=grid.rate_hz / grid.hop_samples,
            receptive_field_s=grid.field_samples / grid.rate_hz,
            offset_s=grid.field_samples / 2 / grid.rate_hz,
            attends=i > 0,
        )
        for i in range(len(model.layers) + 1)
    )
    return ASTEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=grid.rate_hz,
        layers=layers,
        grid=grid,
        runtime=runtime,
        model=runtime.ready(model),
        extractor=extractor,
    )
