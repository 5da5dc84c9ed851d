"""From a configuration to a report: one module per stage, named after its command.

Start with `run.run`, which updates a run folder up to a stage, and `stages.STAGES`, the list of stages with
their inputs and artifacts: `corpus`, `factors`, `extract`, `train`, `evaluate`, `explain`, `report`. Each runs
again only when its inputs or its code changed.
"""

from otoscope.pipeline.stages import STAGES as STAGES
from otoscope.pipeline.stages import Stage as Stage
from otoscope.pipeline.stages import stages_until as stages_until
