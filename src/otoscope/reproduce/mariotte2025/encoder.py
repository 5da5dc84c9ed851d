"""Input pipeline of the study: zero-padded 5 s crops, train mode, wrong sample rate for some layers of MERT."""

import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from otoscope.config.mariotte2025 import Switches
from otoscope.encoders.base import Encoded, Encoder, Frames, Layer, Wave
from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.families.ast import ASTEncoder, PatchGrid
from otoscope.encoders.families.wav2vec2 import IGNORED_KEYS, TRAINING_ONLY, Wav2Vec2Encoder
from otoscope.encoders.model_folder import load_weights, read_config
from otoscope.encoders.resolve import resolve

CROP_S = 5.0

WAVLM_ONLY = (r"\.attention\.(gru_rel_pos_|rel_attn_embed)",)
"""Keys of WavLM's gated relative position bias, which wav2vec 2.0 lacks."""


class AllPatches(PatchGrid):
    """Patch grid in which padding counts: every patch of the full window is valid."""

    def count_time_steps(self, samples: int) -> int:
        """Return the number of time steps of the full window for a clip of any length."""
        del samples
        return self.time_steps


@dataclass(frozen=True, eq=False)
class StudyEncoder:
    """Encoder with the input pipeline of the study; see `study_encoder`.

    Args:
        inner: the model.
        pad_s: shorter clips are padded with zeros to this length, and the padding counts as audio.
        rate_hz: sample rate of the audio; the model treats it as its own rate.
        stochastic: dropout, LayerDrop and time masks are active, seeded by the samples of each clip.
    """

    inner: Encoder
    pad_s: float
    rate_hz: int
    stochastic: bool

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.inner.name

    @property
    def revision(self) -> str:
        """Revision of the model and settings of the input pipeline."""
        settings = [f"padded to {self.pad_s:g} s"] if self.pad_s else []
        settings += (
            [f"{self.rate_hz} Hz treated as {self.inner.rate_hz} Hz"] if self.rate_hz != self.inner.rate_hz else []
        )
        settings += ["train mode"] if self.stochastic else []
        inner = self.inner
        settings += ["all patches"] if isinstance(inner, ASTEncoder) and isinstance(inner.grid, AllPatches) else []
        settings += ["as wav2vec 2.0"] if type(getattr(inner, "model", None)).__name__ == "Wav2Vec2Model" else []
        return ", ".join([inner.revision, *settings])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the model."""
        return self.inner.layers

    @property
    def window_s(self) -> float | None:
        """Window of the model."""
        return self.inner.window_s

    @property
    def min_samples(self) -> int:
        """Minimum length of a clip: one sample if clips are padded, else that of the model."""
        return 1 if self.pad_s else self.inner.min_samples

    def frames(self, samples: int) -> Frames:
        """Return the frame times of a clip, padding included."""
        return self.inner.frames(max(samples, self._padded_samples))

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Pad and encode clips; see `Encoder.encode`."""
        tensors = (torch.as_tensor(wave) for wave in waves)
        padded = [functional.pad(wave, (0, max(self._padded_samples - len(wave), 0))) for wave in tensors]
        if not self.stochastic:
            return self.inner.encode(padded, layers)
        return _concatenate([self._encode_in_train_mode(wave, layers) for wave in padded])

    @property
    def _padded_samples(self) -> int:
        return round(self.pad_s * self.rate_hz)

    def _encode_in_train_mode(self, wave: Float[Tensor, " samples"], layers: Sequence[int]) -> Encoded:
        # seeded by the samples: a clip gets the same noise in every run
        with train_mode(self.inner, seed=zlib.crc32(wave.numpy().tobytes())):
            return self.inner.encode([wave], layers)


def study_encoder(
    inner: Encoder, *, crop: bool, switches: Switches, stochastic: bool = False, rate_hz: int | None = None
) -> Encoder:
    """Return the model with the input pipeline of the study.

    `crop` is for 5 s clips (shorter ones are padded with zeros); whole files are padded by AST only, whose
    spectrogram has a fixed length. `stochastic` is for training clips.
    """
    padded = switches.padding == "counted"
    if padded and isinstance(inner, ASTEncoder):
        grid = AllPatches(**{f.name: getattr(inner.grid, f.name) for f in fields(PatchGrid)})
        inner = replace(inner, grid=grid)
    return StudyEncoder(
        inner,
        pad_s=min(CROP_S, inner.window_s or CROP_S) if crop and padded else 0.0,
        rate_hz=rate_hz or inner.rate_hz,
        stochastic=stochastic and switches.encoder_mode == "train",
    )


def load_study_encoder(checkpoint: str, switches: Switches, *, device: str = "cpu") -> Encoder:
    """Load a checkpoint in its own architecture; by default WavLM loads as wav2vec 2.0, as in the authors' code."""
    source = resolve(checkpoint)
    settings = read_config(source.folder)
    # Whisper is not a model of the study; as a stand-in it encodes the given audio without padding to 30 s
    context = "short" if settings["model_type"] == "whisper" else "exact"
    encoder = load_encoder(checkpoint, context=context, device=device)
    if switches.wavlm == "wavlm" or settings["model_type"] != "wavlm" or not isinstance(encoder, Wav2Vec2Encoder):
        return encoder
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config.from_dict({k: v for k, v in settings.items() if k not in ("model_type", "architectures")})
    config.output_hidden_states = config.output_attentions = False
    model = load_weights(
        Wav2Vec2Model,
        source.folder,
        config=config,
        attention="sdpa",
        optional=(TRAINING_ONLY,),
        ignored=(*IGNORED_KEYS, *WAVLM_ONLY),
    )
    return replace(encoder, model=encoder.runtime.prepare(model))


@contextmanager
def train_mode(encoder: Encoder, *, seed: int) -> Generator[None]:
    """Set a model to train mode with a seed, as in the authors' loop; restore eval mode afterwards.

    Dropout and SpecAugment's time masks are those of the model. A block that LayerDrop skips returns its input,
    as in transformers, so that its recorded output is defined.
    """
    model: Any = getattr(encoder, "model", None)
    if not isinstance(model, nn.Module):
        yield
        return
    config: Any = model.config
    share = float(getattr(config, "layerdrop", 0.0) or 0.0)
    blocks = getattr(getattr(model, "encoder", None), "layers", None)
    rng = np.random.default_rng(seed)
    hooks = [block.register_forward_hook(_layer_drop(share, rng), with_kwargs=True) for block in blocks or ()]
    legacy = np.random.get_state()  # noqa: NPY002  transformers draws time masks from it
    try:
        model.train()
        config.layerdrop = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(legacy)  # noqa: NPY002
        config.layerdrop = share
        model.eval()
        for hook in hooks:
            hook.remove()


def _layer_drop(share: float, rng: np.random.Generator) -> Callable[..., Any]:
    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if rng.random() >= share:
            return None
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return after


def _concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Concatenate clips that were encoded separately, padded with zeros to the longest."""
    longest = max(part.mask.shape[1] for part in parts)

    def padded(tensors: list[Tensor]) -> Tensor:
        return torch.cat([functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in tensors])

    mask = torch.cat([functional.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts])
    layers = {layer: padded([part.layers[layer] for part in parts]) for layer in parts[0].layers}
    tokens = {layer: torch.cat([part.tokens[layer] for part in parts]) for layer in parts[0].tokens}
    return Encoded(layers, mask, tokens)
