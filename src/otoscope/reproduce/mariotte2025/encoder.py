"""How the study lets its models hear: crops of 5 s, zeros and all, in train mode, at times at the wrong rate."""

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
from otoscope.encoders.loading import load_weights, read_config
from otoscope.encoders.resolve import resolve

CROP_S = 5.0

WAVLM_ONLY = (r"\.attention\.(gru_rel_pos_|rel_attn_embed)",)
"""WavLM's gated relative position bias, which wav2vec 2.0 has no place for."""


class AllPatches(PatchGrid):
    """A grid whose padding counts: every patch of the full window is valid."""

    def count_time_steps(self, samples: int) -> int:
        """Count the moments of the full window, however short the clip."""
        del samples
        return self.time_steps


@dataclass(frozen=True, eq=False)
class Heard:
    """An encoder that hears as the study's does; see `heard`.

    Args:
        inner: the model.
        pad_s: clips shorter than this are filled up with zeros, and what comes of these counts.
        rate_hz: the rate of the sound that is played to the model, as if it were its own.
        noisy: dropout, LayerDrop and time masks are on, drawn anew for each clip from its samples.
    """

    inner: Encoder
    pad_s: float
    rate_hz: int
    noisy: bool

    @property
    def name(self) -> str:
        """The model's name."""
        return self.inner.name

    @property
    def revision(self) -> str:
        """The model's revision, and how it is made to hear."""
        heard = [f"padded to {self.pad_s:g} s"] if self.pad_s else []
        heard += [f"{self.rate_hz} Hz played as {self.inner.rate_hz} Hz"] if self.rate_hz != self.inner.rate_hz else []
        heard += ["train mode"] if self.noisy else []
        inner = self.inner
        heard += ["all patches"] if isinstance(inner, ASTEncoder) and isinstance(inner.grid, AllPatches) else []
        heard += ["as wav2vec 2.0"] if type(getattr(inner, "model", None)).__name__ == "Wav2Vec2Model" else []
        return ", ".join([inner.revision, *heard])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers."""
        return self.inner.layers

    @property
    def window_s(self) -> float | None:
        """The model's window."""
        return self.inner.window_s

    @property
    def min_samples(self) -> int:
        """One sample where clips are filled up, else as the model needs."""
        return 1 if self.pad_s else self.inner.min_samples

    def frames(self, samples: int) -> Frames:
        """Place a clip's frames, those of its padding included."""
        return self.inner.frames(max(samples, self._least))

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Fill up and encode clips; see `Encoder.encode`."""
        tensors = (torch.as_tensor(wave) for wave in waves)
        filled = [functional.pad(wave, (0, max(self._least - len(wave), 0))) for wave in tensors]
        if not self.noisy:
            return self.inner.encode(filled, layers)
        return _joined([self._disturbed(wave, layers) for wave in filled])

    @property
    def _least(self) -> int:
        return round(self.pad_s * self.rate_hz)

    def _disturbed(self, wave: Float[Tensor, " samples"], layers: Sequence[int]) -> Encoded:
        # the same clip is disturbed alike in every run
        with train_mode(self.inner, seed=zlib.crc32(wave.numpy().tobytes())):
            return self.inner.encode([wave], layers)


def heard(
    inner: Encoder, *, crop: bool, switches: Switches, noisy: bool = False, rate_hz: int | None = None
) -> Encoder:
    """Return the model as the study's code plays sound to it.

    `crop` is for clips of 5 s (zeros fill up shorter ones); whole files are filled up by AST alone, whose
    spectrogram has one length. `noisy` is for clips that something is trained on.
    """
    counted = switches.padding == "counted"
    if counted and isinstance(inner, ASTEncoder):
        grid = AllPatches(**{f.name: getattr(inner.grid, f.name) for f in fields(PatchGrid)})
        inner = replace(inner, grid=grid)
    return Heard(
        inner,
        pad_s=min(CROP_S, inner.window_s or CROP_S) if crop and counted else 0.0,
        rate_hz=rate_hz or inner.rate_hz,
        noisy=noisy and switches.encoder_mode == "train",
    )


def load_model(checkpoint: str, switches: Switches, *, device: str = "cpu") -> Encoder:
    """Load a checkpoint: in its own architecture, but WavLM in wav2vec 2.0's as the authors did, unless switched."""
    source = resolve(checkpoint)
    settings = read_config(source.folder)
    # Whisper is none of the study's models: in the place of one it hears the sound that it is given, not 30 s
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
    """Put a model into train mode as the authors' loop does, reproducibly; leave it in eval mode.

    Dropout and SpecAugment's time masks are the model's own. A block that LayerDrop leaves out hands on what it
    was given: the same as in transformers, but seen by whoever reads the block's output.
    """
    model: Any = getattr(encoder, "model", None)
    if not isinstance(model, nn.Module):
        yield
        return
    config: Any = model.config
    share = float(getattr(config, "layerdrop", 0.0) or 0.0)
    blocks = getattr(getattr(model, "encoder", None), "layers", None)
    dice = np.random.default_rng(seed)
    hooks = [block.register_forward_hook(_dropped(share, dice), with_kwargs=True) for block in blocks or ()]
    legacy = np.random.get_state()  # noqa: NPY002  transformers draws its time masks from it
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


def _dropped(share: float, dice: np.random.Generator) -> Callable[..., Any]:
    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if dice.random() >= share:
            return None
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    return after


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """Set clips that were encoded alone side by side, filled up with zeros to the longest."""
    longest = max(part.mask.shape[1] for part in parts)

    def filled(tensors: list[Tensor]) -> Tensor:
        return torch.cat([functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in tensors])

    mask = torch.cat([functional.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts])
    layers = {layer: filled([part.layers[layer] for part in parts]) for layer in parts[0].layers}
    tokens = {layer: torch.cat([part.tokens[layer] for part in parts]) for layer in parts[0].tokens}
    return Encoded(layers, mask, tokens)
