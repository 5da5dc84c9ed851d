"""Open pretrained audio encoders with sparse autoencoders (SAEs).

Sound becomes activations, activations become codes, and codes become statements with intervals and nulls:

- corpus: `build_corpus`, `corpus_from_dict`, `Corpus`, `Splits`, `load_audio`
- encoders: `load_encoder`, `Encoder`, `wrap_encoder` for any module, `capture` for any sub-module by name
- activations: `extract` (or `iter_extract`) writes an `ActivationStore`
- SAEs: `fit` and `Bank` train with the settings of a `TrainConfig` and return a `TrainResult`; `SparseAutoencoder`
  encodes and decodes (`from_pretrained`, `save_pretrained`); `SparseCoder` is the scikit-learn estimator; the
  sparsifiers are `TopK`, `BatchTopK`, `JumpReLU`, `Gated` and `ReLU`
- runs: `load_config`, `RunConfig` and `run` go from a YAML file to a report; `load_results` reads the numbers and
  `plot` draws them; `explain` describes and changes latents

>>> import otoscope
>>> sae = otoscope.SparseAutoencoder(width=16, latents=64, sparsifier=otoscope.TopK(4))
>>> sae.latents
64

Each sub-package has its own overview: `help(otoscope.sae)`, `help(otoscope.metrics)`, ... All errors derive from
`OtoscopeError` and are listed in `otoscope.errors`. The command line has the same stages: `otoscope --help`.
"""

from importlib.metadata import version

import lazy_loader

# Names are declared in __init__.pyi only, and imported on first access: torch takes seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]

__version__ = version("otoscope")
