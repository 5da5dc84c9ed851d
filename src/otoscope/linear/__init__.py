"""Linear models for many targets on grouped rows: LASSO, ridge and logistic regression.

Start with `fit_factors`, which predicts factors on held-out groups.

- LASSO: `fit_factors` with `LassoSettings` chooses a penalty per factor and reports held-out R2 (`FactorFits`);
  `lasso_weights` fits one penalty in sample
- ridge: `fit_ridge` with `RidgeSettings` (`RidgeFits`); `fit_group_ridge` chooses its penalty by leaving groups out
  (`GroupRidge`)
- logistic: `fit_logistic` solves many problems on the same rows, in the coordinates of `rotate`
- below these: `Gramian` (Gram matrices of subsets of rows) and the LASSO solvers `batched_lasso`, `lasso_path` and
  `sparse_descent`
"""

from otoscope.linear.gram import Gramian
from otoscope.linear.lasso import FactorFits, fit_factors, lasso_weights
from otoscope.linear.lasso_tuning import LassoSettings
from otoscope.linear.logistic import fit_logistic, rotate
from otoscope.linear.ridge import GroupRidge, RidgeFits, RidgeSettings, fit_group_ridge, fit_ridge

__all__ = [
    "FactorFits",
    "Gramian",
    "GroupRidge",
    "LassoSettings",
    "RidgeFits",
    "RidgeSettings",
    "fit_factors",
    "fit_group_ridge",
    "fit_logistic",
    "fit_ridge",
    "lasso_weights",
    "rotate",
]
