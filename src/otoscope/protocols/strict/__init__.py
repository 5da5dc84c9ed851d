"""How the question should be asked: every number held out, beside its nulls, at the price of its size.

Factors are made robust first (`factors`), read by penalised regressions whose penalty is chosen on
groups left out (`reading`); layer and sparsity are chosen the same way (`choose`). Only factors that
dense activations and codes both predict enter measures of structure (`structure`), the same for every
representation. Three kinds of task share one code path (`tasks`).
"""

NAME = "strict"

__all__ = ["NAME"]
