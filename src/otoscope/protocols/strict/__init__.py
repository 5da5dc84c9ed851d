"""The protocol `strict`: one SAE compared in full with its layer and with baselines, on held-out groups.

- `run`: the order of steps (`plan`, `StrictRun`), and the choice of layer and sparsity on validation groups.
- `experiment`: `StrictExperiment`, the run, its clips and factors, and the measurement of one representation.
- `representations`: one part per representation (dense layers, codes, baselines).
- `tasks`: single-label, multi-label and continuous tasks, and robust factors.
- `regression`: ridge and LASSO scores of every factor.
- `structure`: compactness and separation over the factors that dense activations and codes both predict.
- `differences`: codes against layer and baselines, paired by clip or factor.
- `seeds`, `layers_and_limits`, `compare`: comparisons across seeds, layers, sparsities and representations.
- `results`: typed access to the result rows.

Start with `run`.
"""

NAME = "strict"

__all__ = ["NAME"]
