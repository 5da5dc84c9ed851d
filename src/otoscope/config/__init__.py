"""Configuration: every setting of a run, validated.

- `load_config`: read a YAML file, with overrides (`key.sub=VALUE`) and environment variables (`${NAME:-default}`)
- `RunConfig`: the whole configuration; its sections are `FactorSettings`, `ExtractSettings`, `TrainSettings`,
  `EvaluateSettings` (with `StrictSettings` and `Mariotte2025Settings`) and `ReportSettings`
- `otoscope.config.yaml_text`: the mapping of a configuration before validation, without PyTorch
- `otoscope.config.mariotte2025`: the switches of the study's reproduction
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
