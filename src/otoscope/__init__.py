"""Open pretrained audio models with sparse autoencoders.

>>> import otoscope
>>> sae = otoscope.SparseAutoencoder(width=16, latents=64, sparsifier=otoscope.TopK(4))
>>> sae.latents
64
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otoscope.activations.extract import extract as extract
    from otoscope.activations.store import ActivationStore as ActivationStore
    from otoscope.config import load_config as load_config
    from otoscope.corpus.audio import load_audio as load_audio
    from otoscope.corpus.catalog import build_corpus as build_corpus
    from otoscope.corpus.catalog import parse_corpus as parse_corpus
    from otoscope.corpus.splits import Splits as Splits
    from otoscope.corpus.table import Corpus as Corpus
    from otoscope.encoders.catalog import load_encoder as load_encoder
    from otoscope.encoders.custom import own_encoder as own_encoder
    from otoscope.encoders.hooks import capture as capture
    from otoscope.errors import OtoscopeError as OtoscopeError
    from otoscope.metrics.results import load_results as load_results
    from otoscope.pipeline.run import run as run
    from otoscope.sae.checkpoint import load_sae as load_sae
    from otoscope.sae.checkpoint import save_sae as save_sae
    from otoscope.sae.config import TrainConfig as TrainConfig
    from otoscope.sae.config import recipe as recipe
    from otoscope.sae.data import ArrayRows as ArrayRows
    from otoscope.sae.fit import fit as fit
    from otoscope.sae.model import SparseAutoencoder as SparseAutoencoder
    from otoscope.sae.sparsifiers.base import TopK as TopK

_HOMES = {
    "ActivationStore": "activations.store",
    "ArrayRows": "sae.rows",
    "Corpus": "corpus.table",
    "OtoscopeError": "errors",
    "SparseAutoencoder": "sae.model",
    "Splits": "corpus.splits",
    "TopK": "sae.sparsifiers",
    "TrainConfig": "sae.presets",
    "build_corpus": "corpus.catalog",
    "capture": "encoders.points",
    "extract": "activations.extract",
    "fit": "sae.fit",
    "load_audio": "corpus.audio",
    "load_config": "config",
    "load_encoder": "encoders.catalog",
    "load_results": "metrics.results",
    "load_sae": "sae.checkpoint",
    "own_encoder": "encoders.own",
    "parse_corpus": "corpus.catalog",
    "recipe": "sae.presets",
    "run": "pipeline.run",
    "save_sae": "sae.checkpoint",
}
"""Public names and the modules they live in, imported when first asked for: torch takes seconds."""

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'otoscope' has no attribute {name!r}")
    return getattr(import_module(f"otoscope.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
