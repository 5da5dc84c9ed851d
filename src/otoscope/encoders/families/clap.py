"""CLAP's audio tower (HTS-AT, arXiv:2202.00874; CLAP, arXiv:2211.06687): the last stage of its Swin transformer.

Ten seconds of log-mel frames are stretched, folded into a square (quarters of the window above each other) and cut
into patches; every stage halves the square. Only the states of the last stage share one grid: layer 0 is its input,
layer i the output of its block i. The earlier stages attend too, so every layer does.

A shorter clip is repeated until the window is full, as in training, and attention sees the repetitions; patches whose
centre lies after the first end of the clip are masked. Patches are ordered by time step, then from low to high
frequency.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from otoscope.encoders.base import Frames, block_layers
from otoscope.encoders.batched import BatchedEncoder, Runtime, States
from otoscope.encoders.families.ast import band_edges_hz, place_patches
from otoscope.encoders.hooks import capture_blocks
from otoscope.encoders.model_folder import load_config, load_extractor, load_weights, require_equal
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError

IGNORED_KEYS = (r"^text_model\.", r"^(text|audio)_projection\.", r"^logit_scale_")
"""The text tower and the projections into the shared space."""

PREPROCESSOR_SETTINGS = (
    "feature_size",
    "hop_length",
    "fft_window_size",
    "frequency_min",
    "frequency_max",
    "truncation",
)


@dataclass(frozen=True)
class ClapGrid:
    """Position of the last stage's patches in time and frequency."""

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
        """Patches per band in a full window."""
        return self.quarters * self.columns

    @property
    def hop_samples(self) -> float:
        """Samples from one time step to the next: first and last spectrogram frame are stretched to the ends."""
        return self.positions / self.time_steps * (self.samples // self.mel_hop) / (self.positions - 1) * self.mel_hop

    @property
    def first_samples(self) -> float:
        """Samples before the centre of the first time step."""
        step = self.positions / self.time_steps
        return self.hop_samples * (step - 1) / 2 / step

    def count_time_steps(self, samples: int) -> int:
        """Count the time steps whose centre lies before the end of the clip."""
        return max(0, min(self.time_steps, int(np.ceil((samples - self.first_samples) / self.hop_samples))))

    def band_edges_hz(self) -> Float[np.ndarray, "bands 2"]:
        """Return the lowest and highest frequency of each band: the feet of its outer mel triangles."""
        mels_per_band = self.mels // self.bands
        return band_edges_hz(
            mels=self.mels,
            lowest_hz=self.lowest_hz,
            highest_hz=self.highest_hz,
            scale="slaney",
            bands=self.bands,
            stride=mels_per_band,
            covered=mels_per_band,
        )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ClapEncoder(BatchedEncoder):
    """A CLAP audio tower; its frames are patches."""

    grid: ClapGrid

    def count_frames(self, samples: int) -> int:
        """Count the valid patches of a clip."""
        return self.grid.count_time_steps(samples) * self.grid.bands

    def bucket(self, samples: int) -> Hashable:
        """Share passes between all clips: each fills the window."""
        del samples
        return 0

    def frames(self, samples: int) -> Frames:
        """Place the valid patches of a clip in time and frequency."""
        return place_patches(self.layers[0], self.grid.band_edges_hz(), self.grid.count_time_steps(samples))

    def state_positions(self, samples: int) -> Int[np.ndarray, " frames"]:
        """Return the position of each valid patch: the tower orders patches by quarter of the window, then by band."""
        step, band = np.divmod(np.arange(self.count_frames(samples)), self.grid.bands)
        quarter, column = np.divmod(step, self.grid.columns)
        return (quarter * self.grid.bands + band) * self.grid.columns + column

    def forward(self, waves: list[NDArray[Any]], layers: Sequence[int]) -> States:
        """Run the tower over spectrograms of the whole window."""
        features = self.extractor(waves, sampling_rate=self.rate_hz, return_tensors="pt").input_features
        values = features.float().to(self.runtime.device)
        blocks = self.model.audio_encoder.layers[-1].blocks
        states = capture_blocks(lambda: self.model(values), blocks, set(layers))
        return States({layer: self._order_by_time(state) for layer, state in states.items()})

    def _order_by_time(self, patches: Float[Tensor, "clips patches width"]) -> Float[Tensor, "clips patches width"]:
        clips, count, width = patches.shape
        folded = patches.reshape(clips, self.grid.quarters, self.grid.bands, self.grid.columns, width)
        return folded.transpose(2, 3).reshape(clips, count, width)


def load_clap(source: ModelSource, runtime: Runtime) -> ClapEncoder:
    """Load the audio tower of a CLAP folder; raise `EncoderError` if it fuses several views of a long clip."""
    from transformers import ClapAudioModel, ClapConfig, ClapFeatureExtractor

    runtime.require_full_context(source.name)
    config: Any = load_config(ClapConfig, source.folder).audio_config
    config.output_hidden_states = config.output_attentions = False
    extractor = load_extractor(ClapFeatureExtractor, source.folder, required=PREPROCESSOR_SETTINGS)
    require_equal(source.name, "the number of mel bands", int(extractor.feature_size), int(config.num_mel_bins))
    if config.enable_fusion or extractor.truncation == "fusion":
        raise EncoderError(
            f"{source.name} fuses random crops of a long clip with a view of the whole; CLAP is supported without "
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
    grid = ClapGrid(
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
    layers = block_layers(
        len(tower.layers[-1].blocks),
        width=int(tower.num_features),
        rate_hz=grid.rate_hz / grid.hop_samples,
        receptive_field_s=(grid.hop_samples + grid.mel_window) / grid.rate_hz,
        offset_s=grid.first_samples / grid.rate_hz,
        attends_from=0,
    )
    return ClapEncoder(
        name=source.name,
        revision=source.revision,
        rate_hz=grid.rate_hz,
        layers=layers,
        window_s=grid.samples / grid.rate_hz,
        min_samples=int(grid.hop_samples / 2) + 1,  # just enough to hold the middle of the first time step
        grid=grid,
        runtime=runtime,
        model=runtime.prepare(model),
        extractor=extractor,
    )
