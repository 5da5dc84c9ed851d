"""Configuration: every setting of a run, validated.

- `load_config`: read a YAML file, with overrides (`key.sub=VALUE`) and environment variables (`${NAME:-default}`)
- `RunConfig`: the whole configuration; its sections are `FactorSettings`, `ExtractSettings`, `TrainSettings`,
  `EvaluateSettings` (with `StrictSettings` and `Mariotte2025Settings`) and `ReportSettings`
- `otoscope.config.mariotte2025`: the switches of the study's reproduction
"""

from otoscope.config.load import load_config as load_config
from otoscope.config.load import parse_config as parse_config
from otoscope.config.mariotte2025 import PAPER_SPARSITIES as PAPER_SPARSITIES
from otoscope.config.mariotte2025 import Mariotte2025Settings as Mariotte2025Settings
from otoscope.config.run import EvaluateSettings as EvaluateSettings
from otoscope.config.run import ExtractSettings as ExtractSettings
from otoscope.config.run import FactorSettings as FactorSettings
from otoscope.config.run import ProtocolName as ProtocolName
from otoscope.config.run import ReportSettings as ReportSettings
from otoscope.config.run import RunConfig as RunConfig
from otoscope.config.strict import StrictSettings as StrictSettings
from otoscope.config.train import Pooling as Pooling
from otoscope.config.train import TrainSettings as TrainSettings
