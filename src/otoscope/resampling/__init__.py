"""Resampling by group: jackknife intervals, folds, splits and null models.

Start with `jackknife_sums` for an interval and `group_folds` for cross-validation.

- intervals: `jackknife_sums` of any statistic of sums per group (`group_sums`), `recall_interval` of accuracies;
  results are `Interval` and `Score`
- differences: `paired_difference` of two representations measured on the same groups, `paired_error` of answers to the
  same clips
- splits: `group_folds` keeps groups whole, `split_rows` selects the rows of a split, `missing_patterns` groups targets
  with values on the same rows
- nulls: `permuted_order` and `permute_rows` permute rows, `random_sparse_codes` preserves L0, `random_dictionary` draws
  directions
"""

from otoscope.resampling.groups import group_folds, group_sums, missing_patterns, split_rows
from otoscope.resampling.intervals import Interval, Score, jackknife_sums, recall_interval
from otoscope.resampling.nulls import permute_rows, permuted_order, random_dictionary, random_sparse_codes
from otoscope.resampling.paired import paired_difference, paired_error

__all__ = [
    "Interval",
    "Score",
    "group_folds",
    "group_sums",
    "jackknife_sums",
    "missing_patterns",
    "paired_difference",
    "paired_error",
    "permute_rows",
    "permuted_order",
    "random_dictionary",
    "random_sparse_codes",
    "recall_interval",
    "split_rows",
]
