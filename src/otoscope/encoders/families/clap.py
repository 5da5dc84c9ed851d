"""CLAP's audio tower (HTS-AT, arXiv:2202.00874; CLAP, arXiv:2211.06687): the last stage of its Swin transformer.

Ten seconds of log-mel frames are stretched, folded into a square (quarters of the window above each other) and cut into
patches; each stage halves the square. Only the states of the last stage share one grid: layer 0 is its input, layer i
the output of its block i. The stages before it attend too, so every layer does.

A shorter clip is repeated until the window is full, as in training, and attention hears the repetitions: patches whose
centre lies behind the clip's first end are masked. The patches of one moment follow each other from low to high
frequency, moment by moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from otoscope.encoders.base import Encoded, Frames, Layer, Wave, as_waves, check_layers
from otoscope.encoders.batching import Part, Runtime, encode_in_buckets
from otoscope.encoders.families.ast import band_edges_hz, place_patches
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.loading import load_extractor, load_weights
from otoscope.encoders.precision import Precision
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError

IGNORED_KEYS = (r"^text_model\.", r"^(text|audio)_projection\.", r"^logit_scale_")
"""The text tower, and what brings both into one space."""


@dataclass(frozen=True)
class ClapGrid:
    """How the patches of the last stage lie in time and frequency."""

    rate_hz: int
    samples: int
    mel_hop: int
    mel_window: int
    mels: int
    lowest_hz: float
    highest_hz: float
    positions: int
    quarters: int
    columns: int
    bands: int

    @property
    def time_steps(self) -> int:
        """Patches of one band in a full window."""
        return self.quarters * self.columns

    @property
    def hop_samples(self) -> float:
        """Samples from one moment to the next: the spectrogram's first and last frame are stretched to the ends."""
        return self.positions / self.time_steps * (self.samples // self.mel_hop) / (self.positions - 1) * self.mel_hop

    @property
    def first_samples(self) -> float:
        """Samples before the centre of the first moment."""
        step = self.positions / self.time_steps
        return self.hop_samples * (step - 1) / 2 / step

    def count_time_steps(self, samples: int) -> int:
        """Count the moments whose centre lies before a clip's end."""
        return max(0, min(self.time_steps, int(np.ceil((samples - self.first_samples) / self.hop_samples))))

    def band_edges_hz(self) -> Float[np.ndarray, "bands 2"]:
        """Return the lowest and highest frequency under each band: the feet of its outer mel triangles."""
        each = self.mels // self.bands
        return band_edges_hz(
            mels=self.mels,
            lowest_hz=self.lowest_hz,
            highest_hz=self.highest_hz,
            scale="slaney",
            bands=self.bands,
            stride=each,
            covered=each,
        )


@dataclass(frozen=True, eq=False)
class ClapEncoder:
    """One CLAP audio tower as an `Encoder`; its frames are patches."""

    name: str
    revision: str
    rate_hz: int
    layers: tuple[Layer, ...]
    fold: ClapGrid
    runtime: Runtime
    model: Any = field(repr=False)
    extractor: Any = field(repr=False)

    @property
    def precision(self) -> Precision:
        """How exactly it computes."""
        return self.runtime.precision

    @property
    def window_s(self) -> float | None:
        """The window of the spectrogram."""
        return self.fold.samples / self.rate_hz

    @property
    def min_samples(self) -> int:
        """Half a moment: just enough to hold the middle of the first."""
        return int(self.fold.hop_samples / 2) + 1

    def frames(self, samples: int) -> Frames:
        """Place a clip's valid patches in time and frequency: moment by moment, low to high."""
        return place_patches(self.layers[0], self.fold.band_edges_hz(), self.fold.count_time_steps(samples))

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths up to `window_s`; see `Encoder.encode`."""
        check_layers(layers, self.layers, self.name)
        waves = as_waves(
            waves, name=self.name, rate_hz=self.rate_hz, min_samples=self.min_samples, window_s=self.window_s
        )
        blocks = self.model.audio_encoder.layers[-1].blocks

        def run(arrays: list[NDArray[Any]]) -> Part:
            features = self.extractor(arrays, sampling_rate=self.rate_hz, return_tensors="pt").input_features
            values = features.float().to(self.runtime.device)
            states = capture_blocks(lambda: self.model(values), blocks, set(layers))
            return Part({layer: self._by_moment(state) for layer, state in states.items()}, {})

        return encode_in_buckets(
            waves,
            layers,
            runtime=self.runtime,
            bucket=lambda _: 0,
            frames=lambda samples: self.fold.count_time_steps(samples) * self.fold.bands,
            run=run,
        )

    def _by_moment(self, patches: Float[Tensor, "clips patches width"]) -> Float[Tensor, "clips patches width"]:
        clips, count, width = patches.shape
        folded = patches.reshape(clips, self.fold.quarters, self.fold.bands, self.fold.columns, width)
        return folded.transpose(2, 3).reshape(clips, count, width)


def load_clap(source: ModelSource, *, runtime: Runtime) -> ClapEncoder:
    """Load the audio tower of a CLAP folder; raise `EncoderError` for one that fuses several views of a long clip."""
    from transformers import ClapAudioModel, ClapConfig, ClapFeatureExtractor

    config: Any = ClapConfig.from_pretrained(source.folder).audio_config
    config.output_hidden_states = config.output_attentions = False
    extractor = load_extractor(ClapFeatureExtractor, source.folder)
    if config.enable_fusion or extractor.truncation == "fusion":
        raise EncoderError(
            f"{source.name} fuses random crops of a long clip with a view of the whole; CLAP is covered without "
            "fusion, as in laion/clap-htsat-unfused"
        )
    model = load_weights(
        ClapAudioModel,
        source.folder,
        config=config,
        attention="eager",
        ignored=IGNORED_KEYS,
        rename={r"^audio_model\.": ""},
    )
    tower = model.audio_encoder
    rows, columns = tower.input_resolutions[-1]
    fold = ClapGrid(
        rate_hz=int(extractor.sampling_rate),
        samples=int(extractor.nb_max_samples),
        mel_hop=int(extractor.hop_length),
        mel_window=int(extractor.fft_window_size),
        mels=int(config.num_mel_bins),
        lowest_hz=float(extractor.frequency_min),
        highest_hz=float(extractor.frequency_max),
        positions=int(config.spec_size * tower.freq_ratio),
        quarters=int(tower.freq_ratio),
        columns=int(columns),
        bands=int(rows) // int(tower.freq_ratio),
    )
    layers = tuple(
        Layer(
            index=i,
            width=int(tower.num_features),
            rate_hz=fold.rate_hz / fold.hop_samples,
            receptive_field_s=(fold.hop_samples + fold.mel_window) / fold.rate_hz,
            offset_s=fold.first_samples / fold.rate_hz,
            attends=True,
        )
        for i in range(len(tower.layers[-1].blocks) + 1)
    )
    return ClapEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=fold.rate_hz,
        layers=layers,
        fold=fold,
        runtime=runtime,
        model=runtime.ready(model),
        extractor=extractor,
    )
