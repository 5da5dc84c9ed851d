"""Everything that stages and protocols share about one run.

- `folder`: `RunFolder`, the paths of `runs/NAME/`, its lock and its log
- `context`: `Context`, the configuration, folder, encoder, reporter and executor of a run
- `cache`: `run_stage`, `CachedResult` and `ensure`; work is skipped when inputs, code and files are unchanged
- `code_version`: hash of the code that a result depends on, without prose
- `training`: `GridMember`, `training_grid` and `GridTraining`, the SAEs of a configuration
- `inputs`: `EvaluationInputs` and `ProtocolRun`, the interface of protocols
- `codes`: SAE codes of whole clips
- `progress`: `ProgressReporter`, the interface of progress bars
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
