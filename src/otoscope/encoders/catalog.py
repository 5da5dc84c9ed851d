"""The families that can be loaded, a short list of well-known models, and `load_encoder`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from otoscope.encoders.base import Encoder
from otoscope.encoders.batches import Runtime
from otoscope.encoders.checkpoint import read_config
from otoscope.encoders.resolve import Place, Source, place_of, resolve
from otoscope.encoders.whisper import Context
from otoscope.errors import ConfigError, UnknownEncoder, suggest

Constructor = Callable[[Source, Context, Runtime], Encoder]


def _whisper(source: Source, context: Context, runtime: Runtime) -> Encoder:
    from otoscope.encoders.whisper import load_whisper

    return load_whisper(source, context=context, runtime=runtime)


FAMILIES: dict[str, Constructor] = {
    "whisper": _whisper,
}
"""What loads a checkpoint, by the `model_type` of its configuration."""


@dataclass(frozen=True)
class KnownModel:
    """Facts about a published checkpoint: blocks and width are those of the encoder."""

    family: str
    rate_hz: int
    blocks: int
    width: int
    frame_rate_hz: float


MODELS: dict[str, KnownModel] = {
    "openai/whisper-tiny.en": KnownModel("whisper", 16000, 4, 384, 50.0),
}


def load_encoder(
    model: str | Path,
    *,
    revision: str | None = None,
    context: Context = "exact",
    threads: int | None = None,
    device: str = "cpu",
) -> Encoder:
    """Load a pretrained model as an `Encoder`: strictly, frozen, in eval mode and float32, without remote code.

    `model` is a folder or a hub identifier (see `resolve`); `revision` pins a hub commit, or the digest of a
    folder's weights. `context="short"` lets Whisper encode only the sound there is instead of its 30 s window.
    `threads` sets PyTorch's CPU threads for the time of each pass: the same number gives the same bytes.

    Raises `UnknownEncoder` (nothing of that name, or a family without an adapter), `WeightMismatch` (missing
    or unexpected keys), `EncoderError` (a configuration that the adapter does not cover), `MissingExtra`.
    """
    if context not in ("exact", "short"):
        raise ConfigError(f"context is {context!r}; allowed: exact, short")
    source = resolve(model, revision=revision, known=tuple(MODELS))
    family = read_config(source.folder)["model_type"]
    if family not in FAMILIES:
        raise UnknownEncoder(
            f"{source.name} is of family {family!r}, which has no adapter; {suggest(family, FAMILIES)}"
        )
    return FAMILIES[family](source, context, Runtime(device=device, threads=threads))


def resolves(model: str | Path) -> Place | None:
    """Say where a model would be found (folder, cache, wheel, or by asking the hub), without network; None if nowhere."""
    return place_of(model)
