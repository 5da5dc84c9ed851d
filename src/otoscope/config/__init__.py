"""The whole run as one validated model, read from YAML."""

from otoscope.config.load import load_config as load_config
from otoscope.config.load import parse_config as parse_config
from otoscope.config.run import EvaluateSettings as EvaluateSettings
from otoscope.config.run import ExtractSettings as ExtractSettings
from otoscope.config.run import FactorSettings as FactorSettings
from otoscope.config.run import ProtocolName as ProtocolName
from otoscope.config.run import ReportSettings as ReportSettings
from otoscope.config.run import RunConfig as RunConfig
from otoscope.config.train import PAPER_SPARSITIES as PAPER_SPARSITIES
from otoscope.config.train import Pooling as Pooling
from otoscope.config.train import TrainSettings as TrainSettings
