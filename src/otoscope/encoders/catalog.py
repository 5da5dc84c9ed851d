"""The families that can be loaded, a short list of well-known models, and `load_encoder`.

The same architecture before it learned anything: what its structure alone hears.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from otoscope.encoders.base import Encoder
from otoscope.encoders.batching import Runtime
from otoscope.encoders.families.whisper import ContextMode, load_whisper
from otoscope.encoders.loading import read_config
from otoscope.encoders.precision import Precision
from otoscope.encoders.resolve import Location, ModelSource, locate, resolve
from otoscope.encoders.starter import STARTER_ALIAS
from otoscope.errors import ConfigError, EncoderError, UnknownEncoder, suggest


def reinitialise(encoder: Encoder, *, seed: int) -> Encoder:
    """Return an encoder of the same configuration whose weights are drawn anew by `seed`.

    Every weight starts as the family starts before its training; front end, layers and frames stay
    as they are. A random stack of convolutions and attention still passes spectral statistics on, so
    a claim about what a model learned must beat it (Heap et al., arXiv 2501.17727). Raises
    `EncoderError` for an encoder that is not one of ours.
    """
    held: Any = encoder
    if not hasattr(held, "model"):
        raise EncoderError(f"{encoder.name} does not say what its model is, so it cannot be drawn anew")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: Any = type(held.model)(held.model.config)
    model = held.runtime.ready(fresh.to(dtype=torch.float32).eval())
    name, revision = f"{held.name} (untrained)", f"untrained-{seed}-{held.revision}"
    return replace(held, model=model, name=name, revision=revision)


Constructor = Callable[[ModelSource, ContextMode, Runtime], Encoder]


def _whisper(source: ModelSource, context: ContextMode, runtime: Runtime) -> Encoder:
    return load_whisper(source, context=context, runtime=runtime)


def _wav2vec2(family: str, source: ModelSource, context: ContextMode, runtime: Runtime) -> Encoder:
    from otoscope.encoders.families.wav2vec2 import load_wav2vec2

    del context  # these models encode only the sound there is, whichever is asked for
    return load_wav2vec2(source, runtime=runtime, family=family)


def _wav2vec2_bert(source: ModelSource, context: ContextMode, runtime: Runtime) -> Encoder:
    from otoscope.encoders.families.wav2vec2_bert import load_wav2vec2_bert

    del context
    return load_wav2vec2_bert(source, runtime=runtime)


def _encodec(source: ModelSource, context: ContextMode, runtime: Runtime) -> Encoder:
    from otoscope.encoders.families.encodec import load_encodec

    del context
    return load_encodec(source, runtime=runtime)


def _clap(source: ModelSource, context: ContextMode, runtime: Runtime) -> Encoder:
    from otoscope.encoders.families.clap import load_clap

    if context != "exact":
        raise EncoderError(f"{source.name} has no short context: CLAP is trained on its whole window; use 'exact'")
    return load_clap(source, runtime=runtime)


def _mert(source: ModelSource, context: ContextMode, runtime: Runtime) -> Encoder:
    from otoscope.encoders.families.mert import load_mert

    del context
    return load_mert(source, runtime=runtime)


def _ast(source: ModelSource, context: ContextMode, runtime: Runtime) -> Encoder:
    from otoscope.encoders.families.ast import load_ast

    if context != "exact":
        raise EncoderError(f"{source.name} has no short context: AST is trained on its whole window; use 'exact'")
    return load_ast(source, runtime=runtime)


FAMILIES: dict[str, Constructor] = {
    "wav2vec2": partial(_wav2vec2, "wav2vec2"),
    "hubert": partial(_wav2vec2, "hubert"),
    "wavlm": partial(_wav2vec2, "wavlm"),
    "data2vec-audio": partial(_wav2vec2, "data2vec-audio"),
    "unispeech-sat": partial(_wav2vec2, "unispeech-sat"),
    "sew": partial(_wav2vec2, "sew"),
    "sew-d": partial(_wav2vec2, "sew-d"),
    "wav2vec2-bert": _wav2vec2_bert,
    "encodec": _encodec,
    "clap": _clap,
    "mert_model": _mert,
    "whisper": _whisper,
    "audio-spectrogram-transformer": _ast,
}
"""What loads a checkpoint, by the `model_type` of its configuration."""


@dataclass(frozen=True)
class KnownModel:
    """Facts about a published checkpoint's encoder, from its configuration on the hub."""

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
"""Well-known identifiers, for `otoscope models` and for suggestions; any other of these families loads as well."""


def load_encoder(
    model: str | Path,
    *,
    revision: str | None = None,
    context: ContextMode = "exact",
    precision: Precision = "exact",
    threads: int | None = None,
    device: str = "cpu",
    together: bool | None = None,
    untrained: bool = False,
    seed: int = 0,
) -> Encoder:
    """Load a pretrained model as an `Encoder`: strictly, frozen, in eval mode, without remote code.

    `model` is a folder or a hub identifier (see `resolve`); `revision` pins a hub commit, or the digest of a
    folder's weights. `context="short"` lets Whisper encode only the sound there is instead of its 30 s window.
    `precision="exact"` computes in float32, as transformers does to 1e-5; `"fast"` rounds the operands of products to
    bfloat16 where this processor gains by it (see `encoders.precision`), which leaves every layer's cosine to exact
    above 0.999. `threads` sets PyTorch's CPU threads for the time of each pass: the same number gives the same bytes.
    `together` lets clips share a pass where padding cannot disturb them; by default they do on an accelerator and
    in fast precision; else each has its own, so that a clip's bytes do not depend on its neighbours.
    `untrained` gives the same architecture with fresh weights drawn by `seed` (see `reinitialise`).

    Raises `UnknownEncoder` (nothing of that name, or a family without an adapter), `WeightMismatch` (missing
    or unexpected keys), `EncoderError` (a configuration that the adapter does not cover), `MissingExtra`.
    """
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
    together = (device != "cpu" or precision == "fast") if together is None else together
    runtime = Runtime(device=device, threads=threads, together=together, precision=precision)
    encoder = FAMILIES[family](source, context, runtime)
    return reinitialise(encoder, seed=seed) if untrained else encoder


def resolves(model: str | Path) -> Location | None:
    """Say where a model would be found (folder, cache, wheel, or by asking the hub), without network; else None."""
    return locate(model)
