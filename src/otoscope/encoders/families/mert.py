"""MERT-v1 (arXiv:2306.00107): HuBERT's architecture at 24 kHz, loaded as HuBERT and without its remote code."""

from typing import Any

from otoscope.encoders.batching import Runtime
from otoscope.encoders.families.wav2vec2 import Wav2Vec2Encoder, load_wav2vec2
from otoscope.encoders.loading import read_config
from otoscope.encoders.resolve import ModelSource
from otoscope.errors import EncoderError

REQUIRED_SETTINGS: dict[str, Any] = {
    "feature_extractor_cqt": False,
    "deepnorm": False,
    "attention_relax": -1.0,
    "feat_proj_layer_norm": True,
}
"""Settings of MERT under which every operation is HuBERT's."""

MERT_ONLY_KEYS = (
    "model_type",
    "auto_map",
    "architectures",
    "feature_extractor_cqt",
    "cqt_bins",
    "deepnorm",
    "attention_relax",
)
"""Keys of MERT's configuration that HuBERT's does not have, or must not inherit."""


def hubert_settings(mert: dict[str, Any], *, name: str) -> dict[str, Any]:
    """Return a MERT configuration as HuBERT's; raise `EncoderError` naming the first flag that makes it another model.

    >>> hubert_settings({**HUBERT_WHILE, "hidden_size": 768, "model_type": "mert_model"}, name="mert")
    {'feat_proj_layer_norm': True, 'hidden_size': 768}
    """
    for flag, needed in REQUIRED_SETTINGS.items():
        found = mert.get(flag, "absent")
        if found != needed:
            raise EncoderError(
                f"{name} has {flag}: {found}; MERT is HuBERT's architecture only with {flag}: {needed}. "
                "MERT-v1-95M has; others need code of their own, which otoscope does not run"
            )
    return {key: value for key, value in mert.items() if key not in MERT_ONLY_KEYS}


def load_mert(source: ModelSource, *, runtime: Runtime) -> Wav2Vec2Encoder:
    """Load a MERT-v1 folder as HuBERT after checking that it is HuBERT."""
    from transformers import HubertConfig

    settings = hubert_settings(read_config(source.folder), name=source.name)
    return load_wav2vec2(source, runtime=runtime, family="hubert", config=HubertConfig.from_dict(settings))
