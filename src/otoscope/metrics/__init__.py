"""Metrics: numbers from arrays, without audio or files.

Start with `METRICS`, the registry: name, unit, direction, bounds and description of every metric.

- `registry`: all metrics; `representation`: all representations (dense, SAE codes, baselines)
- `record`: `Record`, one row of a results table; `results`: `load_results` and `ResultsTable`
- `reconstruction`: explained variance, L0, dead latents
- `probes`: linear probes of labels; `sparse_regression`: probes and regressions from k dimensions
- `dci`, `latent_metrics`, `mutual_information`, `structure`: compactness, modularity and explicitness
  over factors
- `stability`: latents that reappear in SAEs of other seeds
- `emergence`: layers in which categories of factors appear; `sparsity_limit`: highest sparsity without loss
- `robust_factors`: rank-transformed factors without near duplicates
- `audit`: how far each metric follows the truth on synthetic dictionaries, and its smallest difference beyond seeds
- `baselines`: PCA, ICA, NMF, k-means, random codes
"""

from otoscope.metrics.record import SCHEMA as SCHEMA
from otoscope.metrics.record import Record as Record
from otoscope.metrics.record import to_table as to_table
from otoscope.metrics.registry import METRICS as METRICS
from otoscope.metrics.registry import Metric as Metric
from otoscope.metrics.registry import find_metric as find_metric
from otoscope.metrics.representation import REPRESENTATIONS as REPRESENTATIONS
from otoscope.metrics.representation import Representation as Representation
from otoscope.metrics.results import ResultsTable as ResultsTable
from otoscope.metrics.results import load_results as load_results
