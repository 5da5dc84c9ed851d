"""Families that can be loaded, well-known models, and `load_encoder`."""

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from otoscope.encoders.base import Encoder
from otoscope.encoders.batched import BatchedEncoder, ContextMode, Runtime
from otoscope.encoders.model_folder import read_config
from otoscope.encoders.precision import Precision, available_precision
from otoscope.encoders.resolve import ModelSource, resolve
from otoscope.encoders.starter import STARTER_ALIAS
from otoscope.errors import ConfigError, EncoderError, UnknownEncoder, suggest
from otoscope.hardware import find_device

CPU_SHARED_S = 1.0
"""Seconds of sound that share a pass on a CPU. Products of few rows are slow, and long passes outgrow the caches.

Shared passes of HuBERT took 0.95 times as long for clips of 0.5 s, 1.07 to 1.19 times for clips of 1.5 and 5 s (Zen 4).
"""

Loader = Callable[[ModelSource, Runtime], BatchedEncoder]

FAMILIES: dict[str, str] = {
    "wav2vec2": "otoscope.encoders.families.wav2vec2:load_wav2vec2",
    "hubert": "otoscope.encoders.families.wav2vec2:load_wav2vec2",
    "wavlm": "otoscope.encoders.families.wav2vec2:load_wav2vec2",
    "data2vec-audio": "otoscope.encoders.families.wav2vec2:load_wav2vec2",
    "unispeech-sat": "otoscope.encoders.families.wav2vec2:load_wav2vec2",
    "sew": "otoscope.encoders.families.wav2vec2:load_wav2vec2",
    "sew-d": "otoscope.encoders.families.wav2vec2:load_wav2vec2",
    "mert_model": "otoscope.encoders.families.wav2vec2:load_mert",
    "wav2vec2-bert": "otoscope.encoders.families.wav2vec2:load_wav2vec2_bert",
    "whisper": "otoscope.encoders.families.whisper:load_whisper",
    "audio-spectrogram-transformer": "otoscope.encoders.families.ast:load_ast",
    "clap": "otoscope.encoders.families.clap:load_clap",
    "encodec": "otoscope.encoders.families.encodec:load_encodec",
}
"""Loader (`Loader`) of each family, by the `model_type` of its configuration; imported when needed."""


@dataclass(frozen=True)
class KnownModel:
    """Facts about a published checkpoint's encoder, from its configuration on the Hub."""

    family: str
    rate_hz: int
    blocks: int
    width: int
    frame_rate_hz: float = 50.0


MODELS: dict[str, KnownModel] = {
    "openai/whisper-tiny.en": KnownModel("whisper", 16000, 4, 384),
    "openai/whisper-tiny": KnownModel("whisper", 16000, 4, 384),
    "openai/whisper-base": KnownModel("whisper", 16000, 6, 512),
    "openai/whisper-small": KnownModel("whisper", 16000, 12, 768),
    "openai/whisper-large-v3": KnownModel("whisper", 16000, 32, 1280),
    "facebook/wav2vec2-base": KnownModel("wav2vec2", 16000, 12, 768),
    "facebook/wav2vec2-large-lv60": KnownModel("wav2vec2", 16000, 24, 1024),
    "facebook/hubert-base-ls960": KnownModel("hubert", 16000, 12, 768),
    "facebook/hubert-large-ll60k": KnownModel("hubert", 16000, 24, 1024),
    "microsoft/wavlm-base-plus": KnownModel("wavlm", 16000, 12, 768),
    "microsoft/wavlm-large": KnownModel("wavlm", 16000, 24, 1024),
    "facebook/data2vec-audio-base": KnownModel("data2vec-audio", 16000, 12, 768),
    "microsoft/unispeech-sat-base-plus": KnownModel("unispeech-sat", 16000, 12, 768),
    "facebook/w2v-bert-2.0": KnownModel("wav2vec2-bert", 16000, 24, 1024),
    "asapp/sew-tiny-100k": KnownModel("sew", 16000, 12, 512, 25.0),
    "asapp/sew-d-tiny-100k": KnownModel("sew-d", 16000, 12, 384, 25.0),
    "facebook/encodec_24khz": KnownModel("encodec", 24000, 3, 512, 75.0),
    "laion/clap-htsat-unfused": KnownModel("clap", 48000, 2, 768, 3.2),
    "m-a-p/MERT-v1-95M": KnownModel("mert_model", 24000, 12, 768, 75.0),
    "MIT/ast-finetuned-audioset-10-10-0.4593": KnownModel("audio-spectrogram-transformer", 16000, 12, 768, 10.0),
}
"""Well-known identifiers, for `otoscope models` and for suggestions; other models of these families load as well."""


@runtime_checkable
class HasCard(Protocol):
    """An SAE: its card names the encoder whose states it was trained on."""

    @property
    def card(self) -> Mapping[str, Any]:
        """Metadata of the SAE."""
        ...


class TrainedOn(NamedTuple):
    """Encoder of an SAE's training; None for what its card does not say."""

    name: str
    revision: str | None = None
    context: ContextMode | None = None
    precision: Precision | None = None

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> "TrainedOn":
        """Read the encoder from an SAE's card; raise `ConfigError` if it names none."""
        entry = card.get("encoder")
        stored: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {"name": entry}
        texts: dict[str, Any] = {key: value for key in cls._fields if isinstance(value := stored.get(key), str)}
        if "name" not in texts:
            raise ConfigError(
                "the card of this SAE names no encoder; name the model that gave its rows: load_encoder(MODEL)"
            )
        return cls(**texts)

    def warn_of_differences(self, encoder: Encoder) -> None:
        """Warn if an encoder differs from the one of the training."""
        expected = {key: value for key, value in self._asdict().items() if value is not None and key != "name"}
        runtime = getattr(encoder, "runtime", None)
        actual = {key: getattr(encoder, key, getattr(runtime, key, None)) for key in expected}
        if differing := [key for key in expected if actual[key] not in (None, expected[key])]:
            phrases = "; ".join(f"{key} {actual[key]}, trained on {expected[key]}" for key in differing)
            warnings.warn(
                f"{encoder.name}: other codes than in this SAE's training are likely: {phrases}", stacklevel=3
            )


def load_encoder(
    model: str | Path | None = None,
    *,
    for_: HasCard | None = None,
    revision: str | None = None,
    context: ContextMode | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    device: str = "cpu",
    together: bool | None = None,
    untrained: bool = False,
    seed: int = 0,
) -> Encoder:
    """Load a pretrained model as an `Encoder`: strictly, frozen, in eval mode, without remote code.

    Args:
        model: a folder or a Hub identifier (see `resolve`).
        for_: an SAE. Model, revision, context and precision are by default those of its training; a warning names what
            differs.
        revision: a Hub commit, or the digest of a folder's weights.
        context: "short" lets Whisper encode only the clip instead of its 30 s window; by default "exact".
        precision: "exact" (the default) computes in float32 and agrees with transformers to 1e-5. "fast" rounds the
            operands of products to bfloat16 if a product measured at load is faster so on this device, and else is
            exact; the cosine to exact states stays above 0.999 in every layer.
        threads: PyTorch's CPU threads during each pass; the same number gives the same bytes.
        device: auto, cpu, cuda, cuda:1, mps
        together: lets clips share a pass where padding cannot disturb them. By default they do on an accelerator, and
            in fast precision on a CPU up to a second of sound per pass; otherwise each clip has its own pass, so that
            its bytes do not depend on its neighbours.
        untrained: keeps the architecture and draws new weights from `seed` (see `reinitialise`).
        seed: seed of untrained weights.

    Raises `UnknownEncoder` (no such model, or an unsupported family), `WeightMismatch` (missing or unexpected keys),
    `EncoderError` (an unsupported configuration), `MissingExtra`.
    """
    trained_on = None if for_ is None else TrainedOn.of(for_.card)
    if trained_on is not None:
        if model is None:
            model, untrained, seed, trained_revision = _drawn_weights(trained_on, untrained=untrained, seed=seed)
            revision = trained_revision if revision is None else revision
        context = trained_on.context if context is None else context
        precision = trained_on.precision if precision is None else precision
    if model is None:
        raise ConfigError("name a model, or give the SAE that was trained on it: load_encoder(for_=sae)")
    context, precision = context or "exact", precision or "exact"
    if context not in ("exact", "short"):
        raise ConfigError(f"context is {context!r}; allowed: exact, short")
    if precision not in ("exact", "fast"):
        raise ConfigError(f"precision is {precision!r}; allowed: exact, fast")
    source = resolve(model, revision=revision, known=(STARTER_ALIAS, *MODELS))
    family = read_config(source.folder)["model_type"]
    if family not in FAMILIES:
        raise UnknownEncoder(
            f"{source.name} is of family {family!r}, which has no adapter; {suggest(family, FAMILIES)}"
        )
    device = str(find_device(device))
    precision = available_precision(precision, family=family, device=device)
    shared_s = math.inf if device != "cpu" else CPU_SHARED_S if precision == "fast" else 0.0
    if together is not None:
        shared_s = math.inf if together else 0.0
    runtime = Runtime(device=device, threads=threads, shared_s=shared_s, precision=precision, context=context)
    load: Loader = resolve_name(FAMILIES[family])
    encoder = load(source, runtime)
    encoder = reinitialise(encoder, seed=seed) if untrained else encoder
    if trained_on is not None:
        trained_on.warn_of_differences(encoder)
    return encoder


def _drawn_weights(trained_on: TrainedOn, *, untrained: bool, seed: int) -> tuple[str, bool, int, str | None]:
    """Return model, `untrained`, seed and revision of an SAE's training, from the name that `reinitialise` gives."""
    drawn = re.fullmatch(r"untrained-(\d+)-(.*)", trained_on.revision or "")
    if drawn is None:
        return trained_on.name, untrained, seed, trained_on.revision
    return trained_on.name.removesuffix(UNTRAINED), True, int(drawn[1]), drawn[2] or None


UNTRAINED = " (untrained)"
"""End of the name of an encoder with newly drawn weights."""


def reinitialise(encoder: Encoder, *, seed: int) -> Encoder:
    """Return an encoder with the same configuration and newly drawn weights.

    Weights are drawn as the family initialises them before training; front end, layers and frames are unchanged. A
    random stack of convolutions and attention still passes spectral statistics on, so a claim about learned features
    must beat it (Heap et al., arXiv 2501.17727). Raises `EncoderError` unless `load_encoder` made the encoder.
    """
    config: Any = getattr(encoder.model, "config", None) if isinstance(encoder, BatchedEncoder) else None
    if not isinstance(encoder, BatchedEncoder) or config is None:
        raise EncoderError(f"{encoder.name} has no model configuration, so its weights cannot be drawn again")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = type(encoder.model)(config)
    model = encoder.runtime.prepare(model.to(dtype=torch.float32).eval())
    name, revision = f"{encoder.name}{UNTRAINED}", f"untrained-{seed}-{encoder.revision}"
    return replace(encoder, model=model, name=name, revision=revision)
